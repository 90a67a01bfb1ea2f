"""What a busy dispatcher costs the decisions of its stream: the same scheduled sending with it and without, in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _document import Document
from _full_event import write_templates
from _payments import Payment
from _processes import Failed, workplace
from _stream_worker import StreamWorker, running, sender
from dispatcher_process import DispatcherProcess
from worker_process import model_bytes

import skyriver as sr
from skyriver.core.spec import AppSpec

URL = "/streams/payments/events?wait=decision"
RATE = 500.0
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
DRAINED_S = 120.0


def declare() -> AppSpec:
    """Amounts are even between 0 and 300, so that half of all events are delivered."""
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer", disorder="1m")
    frauds = app.labels("fraud", of=payments, delay="7d")
    features = app.features("behaviour", payments, {"amount": payments.amount})

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    decisions = app.decide(payments, app.model("fraud", fit), {"block": "score >= 1.5"}, otherwise="approve")
    decisions.sink("bank", on="block")
    return app.spec


class Beside:
    """A worker that decides, and a dispatcher which runs only in its turns."""

    def __init__(self, worker: StreamWorker, dispatcher: DispatcherProcess, templates: Path) -> None:
        self._worker = worker
        self._dispatcher = dispatcher
        self._templates = templates

    def turn(self, seconds: float, *, dispatching: bool) -> dict[str, Any]:
        """What the sender found. A dispatcher that runs has delivered everything of before."""
        os.kill(self._dispatcher.processes[-1].pid, signal.SIGCONT)
        self.drain()
        if not dispatching:
            os.kill(self._dispatcher.processes[-1].pid, signal.SIGSTOP)
        options = ("--rate", str(RATE), "--seconds", str(seconds))
        found = sender("schedule", self._worker.socket, str(self._templates), *options, timeout=seconds + 120)
        if found["answered"] < found["events"] or found["undecided"]:
            raise Failed(f"{found['answered']} of {found['events']} answered: {found['wrong']}")
        return found

    def done(self) -> int:
        return sum(sink["done"] for sink in self._dispatcher.report().get("sinks", ()))

    def drain(self) -> None:
        deadline = time.monotonic() + DRAINED_S
        while time.monotonic() < deadline:
            report, offset = self._dispatcher.report(), self._worker.report()["offset"]
            if report["offset"] == offset and not any(sink["waiting"] for sink in report["sinks"]):
                return
            time.sleep(0.1)
        raise Failed("the deliveries do not end")


@contextmanager
def at_work(folder: Path, receiver: str) -> Iterator[Beside]:
    app = declare()
    templates = folder / "templates.json"
    write_templates(templates, URL, ["}"], 10_000)
    with running(folder / "w", folder / "kernels", app, model_bytes(1)) as worker:
        sinks = worker.directory / "sinks" / "t"
        sinks.mkdir(mode=0o700, parents=True)
        file = sinks / "bank.toml"
        file.touch(mode=0o600)
        file.write_text(f'url = "{receiver}"\nsecrets = ["{SECRET}"]\n')
        dispatcher = DispatcherProcess(worker, {"sinks": [sink.to_json() for sink in app.decides[0].sinks]})
        try:
            dispatcher.start()
            yield Beside(worker, dispatcher, templates)
        finally:
            dispatcher.close()


def measure_beside(document: Document, receiver: subprocess.Popen[str], turns: int, seconds: float) -> None:
    """So many turns of each kind, in turn. The ratio is of the least p99 of each: what else the machine does makes all
    others longer."""
    assert receiver.stdout is not None
    address = f"http://127.0.0.1:{int(receiver.stdout.readline())}/"
    p99: dict[bool, list[float]] = {False: [], True: []}
    p50: dict[bool, list[float]] = {False: [], True: []}
    with workplace() as folder, at_work(folder, address) as beside:
        beside.turn(seconds, dispatching=True)  # to warm up
        for _ in range(turns):
            for dispatching in (False, True):
                found = beside.turn(seconds, dispatching=dispatching)
                p99[dispatching].append(found["latency_ms"]["p99"])
                p50[dispatching].append(found["latency_ms"]["p50"])
        beside.drain()
        done = beside.done()
    came, different = map(int, receiver.communicate("end\n", timeout=60)[0].split())
    for dispatching, case in ((False, "decisions, no dispatcher at work"), (True, "decisions, a dispatcher at work")):
        document.row(
            "skyriver",
            case,
            events_per_second=RATE,
            p50_ms=sorted(p50[dispatching]),
            p99_ms=sorted(p99[dispatching]),
            delivered=different,
        )
    ratio = min(p99[True]) / min(p99[False])
    broken = "" if done == came == different else f"{done} are done, {came} came, of which {different} differ"
    document.measured("p99_ratio_beside_dispatcher", round(ratio, 2), broken=broken)
