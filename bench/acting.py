"""Acting on decisions: how fast deliveries are queued and handed to a receiver, what one costs, and that the memory
does not grow with what waits.

    python bench/acting.py [--deliveries N] [--waiting N] [--turns N] [--part NAME ...]

--part: only that (waiting, sending, beside). `beside` has a stream's worker decide, with a dispatcher at work and with
one that is stopped, in turn: what it adds to the time from an event's scheduled sending to its durable decision.

The receiver is a process of its own on this machine that answers at once, so what is measured is the dispatcher: taking
decisions into its file (with a sync for each thousand), and sending them, signed, over kept connections, with the
receivers' answers written to the file again. CPU is of the process that does it, all its threads. Prints one JSON
document. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from _beside import measure_beside
from _document import Document, Goal

from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.adapters.webhook.sink import WebhookSink
from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting.deliveries import Deliveries
from skyriver.decide.acting.dispatching import Dispatch
from skyriver.decide.acting.sending import Senders
from skyriver.decide.acting.sinks import Place
from skyriver.decide.log.following import Decided, Step
from skyriver.decide.log.records import DecisionRecord
from skyriver.wiring.process import SystemClock

GOALS = (
    Goal("delivered_per_second", ">=", 1_000, "deliveries/s"),
    Goal("cpu_us_per_delivery", "<=", 250, "us"),
    Goal("cpu_us_to_queue", "<=", 100, "us"),
    Goal("rss_growth_mb_with_waiting", "<=", 50, "MB"),
    Goal("lost_or_twice", "<=", 0, "deliveries"),
    Goal("p99_ratio_beside_dispatcher", "<=", 2, ""),
)
BATCH = 1_000
CASES = (("8 at once", 8, ""), ("32 at once", 32, ""), ("in order of 1,000 keys", 32, "customer"))
TIMEOUT_S = 300.0
TURN_S = 10.0
FIELDS = (
    FieldSpec(name="order", type="int"),
    FieldSpec(name="at", type="time"),
    FieldSpec(name="customer", type="int"),
    FieldSpec(name="channel", type="text"),
    FieldSpec(name="amount", type="float"),
)
STREAM = StreamSpec(name="orders", fields=FIELDS, id="order", time="at", key="customer")
RECEIVER = """
import asyncio, sys

seen = []

class Receiver(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.data[:end]
            at = head.index(b"content-length: ") + 16
            stop = end + 4 + int(head[at:].split(b"\\r\\n")[0])
            if len(self.data) < stop:
                return
            self.data = self.data[stop:]
            at = head.index(b"webhook-id: ") + 12
            seen.append(head[at:].split(b"\\r\\n")[0])
            self.transport.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiver, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    print(len(seen), len(set(seen)), flush=True)

asyncio.run(main())
"""


class Queue:
    """A dispatcher's deliveries in a file, and the receiver that they are for."""

    def __init__(self, folder: Path, *, parallel: int, ordered: str = "") -> None:
        self.clock = SystemClock()
        self.database = SqliteFile(folder / "state.sqlite")
        self.part = Deliveries(STREAM, "t")
        self.dispatch = Dispatch(self.database, [self.part])
        sink = {"to": "bank", "on": ["block"], "parallel": parallel, "ordered": ordered}
        self.dispatch.declare({"sinks": [sink]})
        self.dispatch.open(0)

    def fill(self, first: int, count: int) -> None:
        for start in range(first, first + count, BATCH):
            steps = [self._decided(n) for n in range(start, min(first + count, start + BATCH))]
            self.dispatch.take(Step(steps, start + BATCH), self.clock.wall())

    def _decided(self, number: int) -> Decided:
        now = self.clock.wall()
        record = DecisionRecord(
            number, number, Status.DECIDED, "block", 0.9, b"", "m", 1, "r" * 64, "f" * 64, Reason.NONE, now, 7
        )
        values = {"order": number, "at": now, "customer": number % 1_000, "channel": "web", "amount": 12.5}
        return Decided(record, values, number + 1)

    async def send(self, port: int, count: int) -> float:
        """Seconds until so many are done."""
        thread, loop = ThreadPoolExecutor(1), asyncio.get_running_loop()

        def transact(work: Any) -> Any:
            return loop.run_in_executor(thread, partial(self.dispatch.transact, work))

        place = Place(f"http://127.0.0.1:{port}/", secrets=(b"k" * 32,))
        sink = WebhookSink(place, self.clock.wall)
        senders = Senders(self.part, transact, lambda name: sink, self.clock)
        begun = time.perf_counter()
        running = asyncio.create_task(senders.run())
        while (await transact(self.part.told))[0]["done"] < count:
            if time.perf_counter() - begun > TIMEOUT_S:
                raise TimeoutError("the deliveries do not end")
            await asyncio.sleep(0.05)
        seconds = time.perf_counter() - begun
        running.cancel()
        await senders.end(1.0)
        return seconds


def start_receiver() -> subprocess.Popen[str]:
    """It prints its port; told to end, how many came and how many of them were different."""
    return subprocess.Popen([sys.executable, "-c", RECEIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def beside(document: Document, turns: int, seconds: float) -> None:
    receiver = start_receiver()
    try:
        measure_beside(document, receiver, turns, seconds)
    finally:
        receiver.kill()
        receiver.wait()


def rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def sending(document: Document, count: int) -> None:
    lost_or_twice = 0
    for case, parallel, ordered in (
        ("8 at once", 8, ""),
        ("32 at once", 32, ""),
        ("in order of 1,000 keys", 32, "customer"),
    ):
        receiver = start_receiver()
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            queue = Queue(Path(folder), parallel=parallel, ordered=ordered)
            cpu = time.process_time()
            queue.fill(0, count)
            queued = (time.process_time() - cpu) / count * 1e6
            cpu = time.process_time()
            seconds = uvloop.run(queue.send(port, count))
            sent = (time.process_time() - cpu) / count * 1e6
            queue.database.close()
        came, different = map(int, receiver.communicate("end\n", timeout=60)[0].split())
        lost_or_twice += abs(count - different) + came - different
        document.row(
            "skyriver",
            case,
            deliveries=count,
            per_second=round(count / seconds),
            cpu_us=round(sent, 1),
            queued_cpu_us=round(queued, 1),
            came=came,
            different=different,
        )
        if case == "32 at once":
            document.measured("delivered_per_second", round(count / seconds))
            document.measured("cpu_us_per_delivery", round(sent, 1))
            document.measured("cpu_us_to_queue", round(queued, 1))
    document.measured("lost_or_twice", lost_or_twice)


def waiting(document: Document, count: int) -> None:
    """In a process that has queued some already, for its own sake."""
    with tempfile.TemporaryDirectory() as folder:
        queue = Queue(Path(folder), parallel=8)
        queue.fill(0, 5 * BATCH)
        before = rss_mb()
        queue.fill(5 * BATCH, count)
        grown = rss_mb() - before
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        begun = time.perf_counter()
        queue.dispatch.tick(queue.clock.wall())
        tick = time.perf_counter() - begun
        document.row(
            "skyriver",
            f"{count:,} wait",
            rss_growth_mb=round(grown, 1),
            disk_bytes_each=round(size / (count + 5 * BATCH)),
            tick_ms=round(1e3 * tick, 1),
        )
        document.measured("rss_growth_mb_with_waiting", round(grown, 1))
        queue.database.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deliveries", type=int, default=20_000)
    parser.add_argument("--waiting", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--part", action="append", choices=("waiting", "sending", "beside"))
    options = parser.parse_args()
    document = Document("acting", GOALS)
    parts = {
        "waiting": (["rss_growth_mb_with_waiting"], partial(waiting, document, options.waiting)),
        "sending": (
            ["delivered_per_second", "cpu_us_per_delivery", "cpu_us_to_queue", "lost_or_twice"],
            partial(sending, document, options.deliveries),
        ),
        "beside": (["p99_ratio_beside_dispatcher"], partial(beside, document, options.turns, TURN_S)),
    }
    for name, (goals, work) in parts.items():
        if not options.part or name in options.part:
            document.part(goals, work)
        else:
            for goal in goals:
                document.missed(goal, "left out", wanted=False)
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
