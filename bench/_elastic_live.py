"""A service whose load changes, in a real cloud: its gateway, its replicas, its own decisions; beside it the same
requests in a simulation that is told how long things take there (`_elastic_replay.py`).

The work of a replica is a wait of SERVICE_S (`_elastic_waiting.py`). Load steps and an hour at SPEED times its speed
follow each other in one open loop; then a sleeping service is woken, again and again.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
import onnx.parser
from _document import ROOT, Document
from _elastic_replay import (
    HOUR_S,
    SPEED,
    Lived,
    Measured,
    arrivals_of_steps,
    arrivals_of_trace,
    replay_requests,
    replica_seconds,
)
from _elastic_waiting import SERVICE_S
from _elastic_world import Floats, Trace
from _processes import SKYRIVER, Failed, clean_environment, cloud_home, free_port, processes_of, run, workplace
from _serving_models import Case, Models
from _serving_scenes import FULL, QUICK, sending_at, wakes
from _serving_systems import System, product

from skyriver.control.loop import PASS_SECONDS
from skyriver.control.schedule.scaling import Rules
from skyriver.observe.demand import QUICK_S

NAME = "waits"
CASE = Case(NAME, 1)
LATENCY_S, SHARE, MOST, HOLD_S = 3.0, 0.99, 12, 5.0
"""The latency is one that can be kept: a look each second, and a start of one or two, are minutes at SPEED."""
APP = f"""\
import skyriver as sr

app = sr.App("bench")
app.model("{NAME}", onnx="{NAME}.onnx", serve=sr.Service(
    replicas=(1, {MOST}), latency="{LATENCY_S:g}s", share={SHARE}, hold="{HOLD_S:g}s", cpus=0.1))
"""
"""Who waits needs few cores: of as many as there are replicas the pool would grant no more than the machine has."""
TICK_S = QUICK_S
"""Services that hold for so short are looked at so often."""
REPORT_S = 0.5
"""A replica tells what it did so often, and a pass of the control plane reads it."""
LEVELS, STEP_S = (1.0, 4.0, 2.0, 6.0, 1.0), 8.0
MEAN_REPLICAS = 3.0
"""Work of an hour."""
LOOK_S = 0.2
WAKES = 20
LEAST_RATIO = 0.85
MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
waits (float[1, 3] features) => (float[1, 1] score) <float[3, 1] weight = {0.1, 0.2, 0.3}>
{ score = MatMul(features, weight) }
"""
BODY = json.dumps({"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    begin: float
    end: float


@dataclass(slots=True)
class _Row:
    """A replica, by the wall's clock."""

    asked: float
    ready: float = 0.0
    drained: float = 0.0
    seen: float = 0.0
    gone: float = float("inf")


@dataclass
class Watch:
    """Looks at the rows of all replicas, every LOOK_S."""

    system: System
    rows: dict[tuple[str, int], _Row] = field(default_factory=dict)
    scaling: dict[str, Any] = field(default_factory=dict)
    failed: int = 0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except (OSError, http.client.HTTPException, Failed, ValueError):
                self.failed += 1

    def look(self) -> None:
        found, now = self._get("replicas")["items"], time.time()
        for item in found:
            row = self.rows.setdefault((item["name"], item["created_at"]), _Row(item["created_at"] / 1e6))
            row.seen = now
            if item["state"] == "READY" and not row.ready:
                row.ready = item["since"] / 1e6
            if item["state"] == "DRAINING":
                row.drained = item["since"] / 1e6
        for row in self.rows.values():
            if row.seen < now and row.gone > now:
                row.gone = (row.seen + now) / 2
        with suppress(Failed):
            self.scaling = self._get(f"scalings/{NAME}")

    def _get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.system.port, timeout=10)
        try:
            headers = {"authorization": f"Bearer {self.system.token}"}
            connection.request("GET", f"/api/v1/tenants/default/{path}", headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise Failed(f"{path} answers {answer.status}: {text[:200]!r}")
        return json.loads(text)

    def lived(self, began: float) -> list[Lived]:
        """`began`: by the wall's clock, from which seconds count."""
        return [Lived(row.asked - began, row.gone - began) for row in self.rows.values()]

    def measured(self, began: float) -> Measured:
        """`began`: as in `lived`."""
        rows = sorted(self.rows.values(), key=lambda row: row.asked)
        starts = [row.ready - row.asked for row in rows if row.ready]
        ends = [row.gone - row.drained for row in rows if row.drained and row.gone < float("inf")]
        told = self.scaling["status"]["measured"]
        return Measured(  # of itself a report is half its period old on average, and so is the pass that read it
            service_s=told["work_s"],
            starts_s=tuple(starts),
            end_s=max(0.0, median(ends) - SERVICE_S / 2) if ends else 0.0,
            tick_s=TICK_S,
            phase_s=(self.scaling["status"]["at"] / 1e6 - began) % TICK_S,
            told_s=(REPORT_S + PASS_SECONDS) / 2,
        )


@contextmanager
def waiting_cloud() -> Iterator[tuple[Path, System]]:
    """A service NAME, with its first replica and its first decision."""
    with cloud_home() as home:
        app, before = home.parent / "app", home.parent / "before"
        app.mkdir()
        before.mkdir()
        shutil.copy(Path(__file__).with_name("_elastic_waiting.py"), before / "sitecustomize.py")
        (app / f"{NAME}.onnx").write_bytes(onnx.parser.parse_model(MODEL).SerializeToString())
        (app / "app.py").write_text(APP)
        environment = clean_environment(PYTHONPATH=os.pathsep.join((str(before), str(ROOT / "src"))))
        command = [SKYRIVER, "--home", str(home), "up", "--port", str(free_port()), "--json"]
        told = run(command, timeout=120, env=environment).check().json()
        product(home, "deploy", str(app / "app.py"), "-y")
        system = System(
            "skyriver", "", int(str(told["url"]).rpartition(":")[2]), lambda: processes_of(home), token=told["token"]
        )
        yield home, system


def _until_decided(watch: Watch, seconds: float = 60.0) -> None:
    """And one request takes as long as it should."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, http.client.HTTPException):
            begun = time.perf_counter()
            status, _ = watch.system.ask(CASE, BODY)
            took = time.perf_counter() - begun
            if status == 200 and watch.scaling:
                if took < SERVICE_S:
                    raise Failed(f"a replica answers within {took:.3f} s: it does not wait")
                time.sleep(5 * TICK_S)  # of which nothing is asked
                return
        time.sleep(0.2)
    raise Failed(f"nobody decided on the replicas within {seconds:.0f} s")


def schedule(trace: Trace, last_s: int, seed: int = 1) -> tuple[Floats, list[Part]]:
    """When requests are due: load steps, then the last seconds of the trace."""
    rng = np.random.default_rng([seed, 3])
    begin = len(LEVELS) * STEP_S
    steps = arrivals_of_steps(rng, LEVELS, STEP_S, SERVICE_S)
    replayed = begin + arrivals_of_trace(rng, trace, MEAN_REPLICAS, SERVICE_S, last_s)
    end = begin + min(last_s, trace.seconds) / SPEED
    parts = [Part("steps", 0.0, begin), Part(f"{trace.name}, {SPEED:g} times as fast", begin, end)]
    return np.concatenate((steps, replayed)), parts


def measure(document: Document, quick: bool, trace: Trace) -> None:
    """Replays the last hour of the trace; half of it where it is to be quick."""
    lost = _elastic(document, *schedule(trace, HOUR_S // 2 if quick else HOUR_S))
    with workplace() as folder:
        scenes = replace(QUICK if quick else FULL, wakes=6 if quick else WAKES)
        woken = wakes(Models.write(folder / "models"), scenes, "replicas=(0, 2)")
    woken.tell(document)
    document.measured("live_lost_requests", lost + woken.lost, note=f"{lost} under load, {woken.lost} at wakes")


def _elastic(document: Document, arrivals: Floats, parts: Sequence[Part]) -> int:
    """How many requests were lost."""
    with waiting_cloud() as (home, system), Watch(system) as watch:
        _until_decided(watch)
        with sending_at(home.parent, system, CASE, BODY, arrivals) as sent:
            sent.wait(parts[-1].end + 120)
        watch.look()
    began = time.time() - time.perf_counter() + sent.found["began"]
    lived, measured = watch.lived(began), watch.measured(began)
    first = sum(each.asked < 0 < each.gone for each in lived)
    rules = Rules(share=SHARE, latency_s=LATENCY_S, least=1, most=MOST, hold_s=HOLD_S)
    simulated = replay_requests(arrivals.tolist(), parts[-1].end, rules, measured, first)
    times = {name: np.round(value, 3).tolist() for name, value in asdict(measured).items()}
    times |= {"looks_failed": watch.failed, "load_average": round(os.getloadavg()[0], 1)}
    document.row("skyriver", "live: what things take, which the simulation is told", **times)
    order = np.argsort(sent.found["due"], kind="stable")
    due, latency, status = (np.array(sent.found[name])[order] for name in ("due", "latency", "status"))
    found = Run(due, np.where(status == 200, latency, np.inf), lived)
    _compare(document, parts, found, Run(arrivals, simulated.latency, simulated.lived))
    return sent.failed()


@dataclass(frozen=True, slots=True)
class Run:
    """Live or simulated."""

    due: Floats
    latency: Floats
    """Infinite: never answered."""
    lived: Sequence[Lived]

    def attained(self, part: Part) -> float:
        return float((self.latency[(self.due >= part.begin) & (self.due < part.end)] <= LATENCY_S).mean())

    def cost(self, part: Part) -> float:
        return replica_seconds(self.lived, part.begin, part.end)

    def most(self, part: Part) -> int:
        begins = [part.begin, *(each.asked for each in self.lived if part.begin <= each.asked < part.end)]
        return max(sum(each.asked <= moment < each.gone for each in self.lived) for moment in begins)


def _compare(document: Document, parts: Sequence[Part], live: Run, simulated: Run) -> None:
    for part in parts:
        document.row(
            "skyriver",
            f"live: {part.name}",
            requests=int(((live.due >= part.begin) & (live.due < part.end)).sum()),
            attained=round(live.attained(part), 4),
            attained_simulated=round(simulated.attained(part), 4),
            replica_seconds=round(live.cost(part), 1),
            replica_seconds_simulated=round(simulated.cost(part), 1),
            most_replicas=live.most(part),
            most_replicas_simulated=simulated.most(part),
        )
    ratios = [live.cost(part) / simulated.cost(part) for part in parts]
    whole = Part("whole", parts[0].begin, parts[-1].end)
    ratio = live.cost(whole) / simulated.cost(whole)
    broken = f"less than {LEAST_RATIO} of it" if ratio < LEAST_RATIO else ""
    note = "; ".join(f"{part.name}: {each:.3f}" for part, each in zip(parts, ratios, strict=True))
    document.measured("live_to_simulated_cost", round(ratio, 4), broken=broken, note=note)
    differences = [abs(live.attained(part) - simulated.attained(part)) for part in parts]
    document.measured("live_attainment_difference", round(max(differences), 4), note="of the part that differs most")
