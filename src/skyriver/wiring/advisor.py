"""Who asks for advice gets it from processes that replay histories, one at a time; answers are kept for a while.

A process replays services for a short turn and ends: then another tenant's have theirs. What nobody asks after any more
is dropped. A service whose replay fails, or that ends the process, is named in the answer beside the others; where that
is all of the answer, it is an error.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from skyriver.control.pricing import Pricing
from skyriver.core.clock import Clock
from skyriver.core.contract_advice import Advice, NoAdvice
from skyriver.core.errors import QuotaExceeded, Unavailable
from skyriver.core.names import digest
from skyriver.core.processes import how_it_ended
from skyriver.core.resources import Snapshot
from skyriver.core.units import SECOND
from skyriver.observe.demand import p99_s
from skyriver.observe.metering import app_of
from skyriver.serve.sizing import memory_of
from skyriver.wiring.home import Home

MINUTE: Final = 60 * SECOND
KEPT_US: Final = 10 * MINUTE
"""An answer, from when it was there, while prices and declarations stay as they were."""
MOST_US: Final = 10 * MINUTE
"""For a process: of a turn, or of one service that takes longer than a turn."""
ANSWERS, WAITING = 8, 4
"""At most of a tenant."""
SILENT_US: Final = 5 * SECOND
"""After which a question that waits may make room for another one of the same tenant."""
GONE_US: Final = 30 * SECOND
"""After which nobody asks after it any more."""
LOOK_S: Final = 5.0

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Run:
    """Of a tenant's question."""

    digest: str
    asked_at: int
    question: Mapping[str, Any]
    polled_at: int = 0
    process: subprocess.Popen[bytes] | None = None
    began: int = 0
    items: list[Any] = field(default_factory=list)
    """In the order of the services: those that are done."""
    ended_at: int = 0
    failed: str = ""
    """Why none of its services can be replayed."""

    @property
    def problems(self) -> list[NoAdvice]:
        return [item["problem"] for item in self.items if "problem" in item]

    @property
    def is_over(self) -> bool:
        return bool(self.failed) or len(self.items) == len(self.question["services"])

    @property
    def waits(self) -> bool:
        return not self.is_over and self.process is None


class ChildAdvisor:
    """`environment`: of the processes. `stop` ends it."""

    def __init__(self, home: Home, pricing: Pricing, clock: Clock, environment: Mapping[str, str]) -> None:
        self._home, self._pricing, self._clock, self._environment = home, pricing, clock, environment
        self._folder = home.run / "advice"
        self._lock = threading.RLock()
        self._runs: dict[_Key, _Run] = {}
        self._turns: dict[str, int] = {}
        """By tenant: the number of the last turn that it had."""
        self._watching, self._stopping = False, threading.Event()
        shutil.rmtree(self._folder, ignore_errors=True)  # of a control plane that was killed

    def advise(
        self, snapshot: Snapshot, tenant: str, service: str, declared: Mapping[str, Any] | None = None
    ) -> Advice:
        prices, now = self._pricing.now(), self._clock.monotonic()
        rows = [row for row in snapshot.all(tenant, "service") if service in ("", row.name)]
        services = [
            {"name": row.name, "app": app_of(snapshot.find(tenant, "model", row.name)), "serve": row.spec["serve"]}
            for row in sorted(rows, key=lambda row: row.name)
            if row.spec.get("versions")
        ]
        question = {
            "home": str(self._home.root),
            "tenant": tenant,
            "prices": prices.to_json(),
            "services": services,
            "declared": declared,
        }
        known = digest(question)
        key = tenant, service, digest(declared) if declared is not None else ""
        with self._lock:
            run = self._runs.get(key)
            stale = run is not None and run.is_over and (run.digest != known or now - run.ended_at > KEPT_US)
            if run is None or stale:
                self._make_room(tenant, now)
                known_now = {row.name: {"p99_s": p99_s(snapshot, row), "memory_mb": memory_of(row)} for row in rows}
                for one in services:
                    one |= known_now[one["name"]]
                run = self._runs[key] = _Run(known, now, {**question, "now": snapshot.now / SECOND}, ended_at=now)
            run.polled_at = now
            self._go_on(now)
            if run.is_over and (run.failed or run.problems):  # the next question tries again
                self._runs.pop(key, None)
            if run.failed:
                raise Unavailable(
                    f"No advice could be computed: {run.failed}",
                    code="NO_ADVICE",
                    next_action="Ask again; the log of the control plane has the rest.",
                )
            if run.is_over and run.problems and len(run.problems) == len(run.items):
                raise _none_at_all(run.problems)
            return self._told(run)

    def look(self) -> bool:
        """What nobody asks after is dropped, and what has ended is followed by the next; whether any is under way."""
        with self._lock:
            self._go_on(self._clock.monotonic())
            return any(not run.is_over for run in self._runs.values())

    def stop(self) -> None:
        self._stopping.set()
        with self._lock:
            for run in self._runs.values():
                if run.process is not None:
                    _end(run.process)
            self._runs.clear()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _make_room(self, tenant: str, now: int) -> None:
        """For one more question of a tenant. Raises QuotaExceeded."""
        waiting = [(run.polled_at, key) for key, run in self._runs.items() if key[0] == tenant and run.waits]
        if len(waiting) < WAITING:
            return
        polled_at, silent = min(waiting)
        if now - polled_at < SILENT_US:
            raise QuotaExceeded(
                f"{WAITING} questions for advice of this tenant wait already.",
                code="TOO_MANY_QUESTIONS",
                next_action="Ask again once one of them is answered.",
            )
        del self._runs[silent]

    def _told(self, run: _Run) -> Advice:
        of, done = len(run.question["services"]), float(len(run.items))
        if run.process is not None:
            done += float(self._read(run).get("done", 0.0)) * (of - len(run.items))
        prices = run.question["prices"]
        state: Any = "DONE" if run.is_over else "REPLAYING" if run.process is not None or run.items else "WAITING"
        return {
            "state": state,
            "done": done / of if of else 1.0,
            "items": [item for item in run.items if "problem" not in item] if run.is_over else (),
            "failed": run.problems if run.is_over else (),
            "currency": prices["currency"],
            "as_of": prices["as_of"],
            "source": prices["source"],
        }

    def _go_on(self, now: int) -> None:
        """What has ended is read, what nobody asks after is dropped, and who had no turn for longest has the next."""
        for run in self._runs.values():
            if run.process is not None:
                self._follow(run, now)
        self._drop(now)
        if any(run.process is not None for run in self._runs.values()):
            return
        tenants = {key[0] for key in self._runs}
        self._turns = {tenant: turn for tenant, turn in self._turns.items() if tenant in tenants}
        waiting = [
            (self._turns.get(key[0], 0), run.asked_at, key) for key, run in self._runs.items() if not run.is_over
        ]
        if waiting:
            _, _, key = min(waiting)
            self._turns[key[0]] = max(self._turns.values(), default=0) + 1
            self._begin(self._runs[key], now)

    def _follow(self, run: _Run, now: int) -> None:
        """Of a run with a process."""
        assert run.process is not None
        ended = run.process.poll()
        if ended is None and now - run.began <= MOST_US:
            return
        answer = self._read(run)
        _end(run.process)
        run.process, run.ended_at = None, now
        if "items" not in answer:  # it did not even begin
            run.failed = "its process did not begin." if ended is None else f"its process ended with {ended}."
        else:
            run.items += answer["items"]
            if ended is None:
                _blame(run, f"Its replay took longer than {MOST_US // MINUTE} minutes, and was ended.")
            elif ended or not answer["items"]:
                _blame(run, f"While it was replayed its process ended. {how_it_ended(ended)}")
        self._forget(run)

    def _begin(self, run: _Run, now: int) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            asked, answer = self._paths(run)
            answer.unlink(missing_ok=True)
            asked.write_text(json.dumps({**run.question, "services": run.question["services"][len(run.items) :]}))
            command = [sys.executable, "-m", "skyriver.wiring.advising", str(asked), str(answer)]
            # It ends when its standard input does: with us, however that is.
            run.process = subprocess.Popen(command, env=dict(self._environment), stdin=subprocess.PIPE)
            run.began = now
        except OSError as error:
            run.failed, run.ended_at = f"{error.strerror}.", now
            return
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._watch, name="advice", daemon=True).start()

    def _watch(self) -> None:
        """While anything is under way: who asked may be gone, and then nobody else looks."""
        while not self._stopping.wait(LOOK_S):
            with self._lock:
                if not self.look():
                    self._watching = False
                    return

    def _read(self, run: _Run) -> Mapping[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            told: dict[str, Any] = json.loads(self._paths(run)[1].read_bytes())
            return told
        return {}

    def _paths(self, run: _Run) -> tuple[Path, Path]:
        name = run.digest[:24]
        return self._folder / f"{name}.question", self._folder / f"{name}.answer"

    def _forget(self, run: _Run) -> None:
        for path in self._paths(run):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _drop(self, now: int) -> None:
        """What nobody asks after, old answers, and of too many the oldest."""
        answers: dict[str, list[tuple[int, _Key]]] = {}
        for key, run in list(self._runs.items()):
            if run.is_over:
                answers.setdefault(key[0], []).append((run.ended_at, key))
            elif now - run.polled_at > GONE_US:
                if run.process is not None:
                    _end(run.process)
                    self._forget(run)
                del self._runs[key]
        for of in answers.values():
            over = len(of) - ANSWERS
            for n, (ended_at, key) in enumerate(sorted(of)):
                if n < over or now - ended_at > KEPT_US:
                    del self._runs[key]


def _blame(run: _Run, message: str) -> None:
    """The service that its process was at; those behind it are replayed by another one."""
    if run.is_over:
        return
    service = run.question["services"][len(run.items)]
    told: NoAdvice = {
        "name": service["name"],
        "app": service["app"],
        "code": "REPLAY_FAILED",
        "message": message,
        "next_action": "Ask again when the machine has less to do; `skyriver logs control` has the rest.",
    }
    run.items.append({"name": service["name"], "problem": told})


def _none_at_all(problems: Sequence[NoAdvice]) -> Unavailable:
    first, others = problems[0], len(problems) - 1
    more = f" Nor is there any on {others} others." if others else ""
    return Unavailable(
        f"No advice on {first['name']}: {first['message']}{more}",
        code="NO_ADVICE",
        next_action=first["next_action"],
        details=tuple({"name": one["name"], "message": one["message"]} for one in problems),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Also of one that has ended: its standard input is closed."""
    if process.stdin is not None:
        process.stdin.close()
    process.kill()
    process.wait()
