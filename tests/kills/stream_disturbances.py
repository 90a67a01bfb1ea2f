"""What a machine does to a stream's worker: a full disk, a clock that is set, a process that stands still. Each gives
what was found; the stream goes on by itself, and what it acknowledged is there, decided once, and computed alike."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from worker_process import DEADLINE, Worker, payment

from kills.stream_examination import Findings, compare_answers
from kills.stream_log import read_log
from kills.stream_producer import decided
from skyriver.adapters.segments.log import SegmentReader

HOUR, DAY = 3_600, 86_400
SECOND_US = 1_000_000
CLOCK = '''\
"""The clock as an administrator sets it: the file beside this one says by how many seconds."""
import pathlib
import time

_file = pathlib.Path(__file__).with_name("offset")
_time_ns = time.time_ns


def _shifted():
    try:
        return _time_ns() + int(_file.read_text() or 0) * 1_000_000_000
    except (OSError, ValueError):
        return _time_ns()


time.time_ns = _shifted
time.time = lambda: _shifted() / 1e9
'''


class Sender(threading.Thread):
    """Sends small batches of new events, each until it is answered; keeps the answers, and how it was refused."""

    def __init__(self, worker: Worker, number: int) -> None:
        super().__init__(daemon=True)
        self.lines: list[dict[str, Any]] = []
        self.answered = 0
        self.refused: Counter[str] = Counter()
        """By "status code"; with " without Retry-After" where it did not say when to come again."""
        self.problem = ""
        self._worker = worker
        self._number = number
        self._stopping = threading.Event()

    def run(self) -> None:
        luck = random.Random(self._number)
        following = self._number * 1_000_000
        try:
            while not self._stopping.is_set():
                count = luck.randrange(1, 40)
                batch = [
                    payment(following + n, customer=luck.randrange(20), amount=float(luck.randrange(200)))
                    for n in range(count)
                ]
                following += count
                self._deliver(batch)
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"

    def _deliver(self, batch: Sequence[Mapping[str, Any]]) -> None:
        deadline = time.monotonic() + 2 * DEADLINE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException), self._worker.connection() as connection:
                while time.monotonic() < deadline:
                    status, answer = connection.send_events(batch)
                    if status == 200:
                        self.lines.append({"decisions": [decided(d) for d in answer["decisions"]]})
                        self.answered += len(batch)
                        return
                    self.refused[f"{status} {answer.get('code')}{_without_retry(connection)}"] += 1
                    time.sleep(0.02)
            time.sleep(0.02)
        raise AssertionError("not delivered")

    def end(self) -> None:
        self._stopping.set()
        self.join(3 * DEADLINE)
        if self.is_alive():
            self.problem = "it hangs"


def _without_retry(connection: Any) -> str:
    return "" if connection.answered_with.get("Retry-After") else " without Retry-After"


@contextlib.contextmanager
def senders_at_work(worker: Worker, found: Findings, count: int = 3) -> Iterator[list[Sender]]:
    """Ends with the examination of the worker's log."""
    senders = [Sender(worker, number) for number in range(1, count + 1)]
    for sender in senders:
        sender.start()
    try:
        yield senders
    finally:
        for sender in senders:
            sender.end()
            if sender.problem:
                found.told.append(f"a sender: {sender.problem}")
    examine_worker(worker, [line for sender in senders for line in sender.lines], found)


def examine_worker(worker: Worker, lines: Sequence[Mapping[str, Any]], found: Findings) -> None:
    """Ends the worker; then all that was answered must be in its log as it was answered."""
    code = worker.stop()
    if code:
        found.told.append(f"the worker ended with {code}")
    log = read_log(worker.log_directory, worker.stream)
    found.told += log.problems
    compare_answers(log, lines, found)
    report = worker.verify(SegmentReader(worker.log_directory))
    found.replay += report.different
    found.checked["compared_with_replay"] = report.compared
    if report.different or report.compared == 0:
        found.told.append(f"replay: {report}"[:300])


def wait_until(held: Any, what: str, seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not held():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


# A full disk


def full_disk(worker: Worker, disk: Path, *, rounds: int = 1) -> Findings:
    """`worker` works on `disk`, a small one of its own, which becomes full and is so for a while, `rounds` times."""
    found = Findings()
    process = worker.start()
    with senders_at_work(worker, found) as senders:
        for _ in range(rounds):
            before = sum(s.answered for s in senders)
            wait_until(lambda b=before: sum(s.answered for s in senders) > b + 300, "events are taken")
            refused = sum(s.refused["503 DISK_FULL"] for s in senders)
            filler = disk / "filler"
            try:
                fill(filler)
                wait_until(
                    lambda r=refused: sum(s.refused["503 DISK_FULL"] for s in senders) > r + 50,
                    "a full disk is told",
                )
            finally:
                filler.unlink()
            before = sum(s.answered for s in senders)
            wait_until(lambda b=before: sum(s.answered for s in senders) > b + 300, "it goes on by itself")
        if process.poll() is not None:
            found.told.append("the worker ended with the disk")
    refusals = sum((s.refused for s in senders), Counter())
    found.checked.update({f"refused: {code}": count for code, count in refusals.items()})
    allowed = {"503 DISK_FULL", "503 RECOVERING"}
    found.told += [f"refused with {code}" for code in refusals if code not in allowed]
    return found


def fill(path: Path) -> None:
    """All the room that its disk has."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    if not path.stat().st_size:
        raise OSError(errno.ENOSPC, "it was full before")


# A clock that is set


class ClockTrial:
    """A worker whose clock is set: back a day, with a restart meanwhile, forward an hour too far, and right again."""

    def __init__(self, worker: Worker, clock: Path) -> None:
        """`clock`: the folder of CLOCK, which the worker's Python begins with."""
        self._worker = worker
        self._offset = clock / "offset"
        self._lines: list[dict[str, Any]] = []
        self._number = 0
        self._first: list[dict[str, Any]] = []
        self.found = Findings()

    def run(self) -> Findings:
        worker, found = self._worker, self.found
        ahead = worker.stream.ahead_us
        worker.start()
        self._first = self._events(20)
        self._send("at first", self._first, "decided")
        self._set(-DAY, "-86400.0 s")
        self._send("after a day back", self._events(20), "decided")
        self._is_known("after a day back")
        self._is_refused("an hour ahead after a day back", self._events(1, HOUR))
        worker.kill()
        worker.start()
        time_now = worker.report()["effective_time"]
        self._is_known("after a restart a day back")
        self._send("up to `ahead` after T", self._events(1, at=time_now + ahead // 2), "decided")
        self._is_refused("beyond `ahead` after T", self._events(1, at=time_now + 10 * ahead))
        self._set(HOUR, "+90000.0 s")
        reached = self._now() + 50 * 60 * SECOND_US
        self._send("fifty minutes ahead, an hour forward", self._events(10, at=reached), "decided")
        self._send("of the right time, an hour forward", self._events(5), "late")
        self._is_known("an hour forward")
        self._set(0, "-3600.0 s")
        self._send("of the right time, at the right time", self._events(5), "late")
        self._is_refused("fifty minutes ahead at the right time", self._events(1, at=reached + SECOND_US))
        worker.kill()
        worker.start()
        self._send("just after T, after a restart", self._events(10, at=reached + SECOND_US), "decided")
        if worker.report()["effective_time"] < reached:
            found.told.append("time went back")
        self._is_known("at the end")
        examine_worker(worker, self._lines, found)
        return found

    def _now(self) -> int:
        return time.time_ns() // 1_000

    def _events(self, count: int, ahead_seconds: int = 0, *, at: int | None = None) -> list[dict[str, Any]]:
        when = (self._now() if at is None else at) + ahead_seconds * SECOND_US
        self._number += count
        numbers = range(self._number - count, self._number)
        return [payment(n, customer=n % 3, amount=float(n % 90), at=when) for n in numbers]

    def _set(self, seconds: int, told: str) -> None:
        new = self._offset.with_name("offset.new")
        new.write_text(str(seconds))
        new.replace(self._offset)
        with self._worker.connection() as connection:  # any look at the clock finds the step

            def says() -> bool:
                connection.send_events(self._first)
                return f"set by {told}" in str(self._worker.report().get("message"))

            wait_until(says, f"the step of {told} is told: {self._worker.report()}")

    def _ask(self, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        with self._worker.connection() as connection:
            return connection.send_events(events)[1]

    def _send(self, what: str, events: Sequence[Mapping[str, Any]], status: str) -> None:
        answer = self._ask(events)
        decisions = answer.get("decisions") or ()
        if [d["status"] for d in decisions] != [status] * len(events):
            self.found.told.append(f"{what}: {str(answer)[:300]}")
        self._lines.append({"decisions": [decided(d) for d in decisions]})

    def _is_known(self, what: str) -> None:
        answer = self._ask(self._first)
        self._lines.append({"decisions": [decided(d) for d in answer["decisions"]]})
        if answer["duplicates"] != len(self._first):
            self.found.decided_twice.append(f"{what}: {str(answer)[:300]}")

    def _is_refused(self, what: str, events: Sequence[Mapping[str, Any]]) -> None:
        answer = self._ask(events)
        refused = answer.get("rejected") or answer.get("errors") or ()
        if [r["reason"] for r in refused] != ["AHEAD_OF_CLOCK"] * len(events):
            self.found.told.append(f"{what}: {str(answer)[:300]}")


# A process that stands still


def stopped(worker: Worker, seconds: float, *, taken_over: bool) -> Findings:
    """In full run it is stopped for so long; then another process takes over, or it goes on itself."""
    found = Findings()
    first = worker.start()
    with senders_at_work(worker, found) as senders:

        def more(count: int, what: str) -> None:
            before = sum(s.answered for s in senders)
            wait_until(lambda: sum(s.answered for s in senders) > before + count, what, 2 * DEADLINE)

        more(300, "events are taken")
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(seconds)  # not a wait for anything: it is the case
        if taken_over:
            worker.start()
            with contextlib.suppress(ProcessLookupError):
                os.kill(first.pid, signal.SIGCONT)
            if first.wait(DEADLINE) != -signal.SIGKILL:
                found.told.append(f"the stopped worker ended with {first.returncode}")
        else:
            os.kill(first.pid, signal.SIGCONT)
        more(300, "it goes on")
        epoch = worker.report()["epoch"]
        if epoch != 1 + taken_over:
            found.told.append(f"the log is in epoch {epoch}")
    return found
