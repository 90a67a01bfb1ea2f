"""A cloud in simulated time that is watched: the product's own control loop, kinds and watching, with played processes.

One application: a model `risk` with three replicas behind the gateway, a stream `orders` that decides with it, a
dispatcher with one sink, a broker as the source. Traffic has the shape of a day and of a week. How the other rows go is
played, for what is examined is the watching of them.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import skyriver as sr
from skyriver.core.jobs import new_operation
from skyriver.core.resources import ProcessStatus, Put, Resource
from skyriver.core.units import DAY
from skyriver.observe.sight import Machine, Problem, Sight
from skyriver.observe.system import Outcome, SystemWatch
from skyriver.observe.tracks import LOOK_S
from skyriver.observe.watching import new_watch
from skyriver.release.rollouts import new_rollout
from skyriver.serve.metrics import Histogram
from skyriver.wiring.simulation import Simulation

TENANT = "default"
WORKER = f"{TENANT}.worker.orders-0"
DISPATCHER = f"{TENANT}.dispatcher.orders"
GB = 10**9


@dataclass
class Answers:
    """What a replica counts."""

    requests: int = 0
    errors: int = 0
    overloaded: int = 0
    latency: Histogram = field(default_factory=Histogram)
    rss_mb: float = 150.0

    def report(self) -> dict[str, Any]:
        counts = {"requests": self.requests, "errors": self.errors, "overloaded": self.overloaded}
        return {"ready": True, **counts, "counted": {"latency_us": self.latency.told()}}


@dataclass
class Trouble:
    """What is wrong now; a fault changes some of it."""

    errors: float = 0.001
    slower: float = 1.0
    overloaded: float = 0.0
    load: float = 1.0
    events: float = 1.0
    dead: float = 0.001
    late: float = 0.001
    fallbacks: float = 0.0
    reason: str = "MODEL_FAILED"
    blocked: float = 0.03
    waiting: int = 0
    decides_slower: float = 1.0
    gateway_failed: int = 0
    source: tuple[str, str] | None = None
    says: tuple[str, str] | None = None
    sink_failures: int = 0
    missed: int = 0
    list_ids: int = 5_000
    checkpoint_stands: bool = False
    leak_mb: dict[str, float] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    down: set[str] = field(default_factory=set)
    """Processes that end as soon as they are started."""
    dies: set[str] = field(default_factory=set)
    """Processes that end with every look, and come back."""
    machine: dict[str, Any] = field(default_factory=dict)
    disk_grows: float = 0.0
    problems: dict[str, Problem] = field(default_factory=dict)
    pass_age_s: float = 0.0
    signing: Problem | None = None
    ends: dict[str, list[int]] = field(default_factory=lambda: {"gateway": [], "control": []})
    parts: list[dict[str, Any]] = field(default_factory=list)


class World(Simulation):
    """`look` after `look`, LOOK_S apart."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.trouble = Trouble()
        self.answers: dict[str, Answers] = {}
        self.disk = 200.0 * GB
        self.memory = 8.0 * GB
        self.events = self.dead = self.fallen = self.late = self.checkpoint = 0
        self.checkpoint_at = 0
        self.by_decision = {"approve": 0, "block": 0}
        self.by_reason: dict[str, int] = {}
        self.clock.advance(20_000 * DAY)
        self._declare()
        self.watch = SystemWatch()
        self.outcomes: list[Outcome] = []
        self._until_ready()

    # One look.

    def look(self) -> Outcome:
        """LOOK_S of traffic, a pass of the control loop, a look of the watching, and its rows."""
        self.clock.advance(int(LOOK_S * 1e6))
        self._play()
        self._pass()
        outcome = self.watch.look(self._sight())
        if outcome.changes:
            self.store.commit(outcome.changes, audit=(), fence=self.fence, actor="system", now=self.clock.wall())
        return outcome

    def looks(self, seconds: float) -> None:
        for _ in range(math.ceil(seconds / LOOK_S)):
            self.look()

    @property
    def incidents(self) -> list[Resource]:
        return sorted(self.store.rows(TENANT, "incident"), key=lambda row: int(row.name.rpartition("-")[2]))

    def write(self, row: Resource) -> None:
        """As somebody did it."""
        known = self.store.rows(row.tenant, row.kind)
        expected = next((each.revision for each in known if each.name == row.name), 0)
        self.store.commit([Put(row, expected)], audit=(), fence=self.fence, actor="ana", now=self.clock.wall())

    def change(self, kind: str, name: str, **to: Any) -> None:
        row = self.store.get(TENANT, kind, name)
        self.write(replace(row, **{"since": self.clock.wall(), **to}))

    def replicas(self) -> list[str]:
        """Their processes."""
        return [r.process for r in self.store.rows(TENANT, "replica") if r.state not in ("DRAINING", "STOPPED")]

    def deploy(self, **spec: Any) -> None:
        app = self.store.get(TENANT, "app", "shop")
        self.write(replace(app, spec={**app.spec, **spec}, generation=app.generation + 1))

    def release(self) -> None:
        """The next version takes over at once."""
        number = max(int(v.spec["version"]) for v in self.store.rows(TENANT, "version")) + 1
        self.write(_version(number))
        self._pass()
        for _ in range(20):
            self.clock.advance(100_000)
            self._make_ready()
            self._pass()
            if all(r.state in ("DONE", "ABORTED") for r in self.store.rows(TENANT, "rollout")):
                return

    def job(self, name: str, kind: str = "train", state: str = "RUNNING") -> None:
        self.write(Resource(TENANT, "job", name, spec={"kind": kind}, state=state, since=self.clock.wall()))

    # How it is made.

    def _declare(self) -> None:
        now = self.clock.wall() - DAY
        aliases = {"aliases": {"champion": 1}, "history": [{"version": 1, "at": now, "cause": "release"}]}
        serve = sr.Service(replicas=3, latency="50ms").to_json()
        service = {"model": "risk", "serve": serve, "versions": {"1": {"weight": 100}}}
        stream = {
            "stream": {"name": "orders"},
            "decide": {"model": "risk", "rules": [], "fallback": "approve", "otherwise": "approve"},
        }
        rows = [
            Resource(TENANT, "app", "shop", spec={"spec": {}}, state="DEPLOYED"),
            Resource(
                TENANT,
                "model",
                "risk",
                spec={"model": {"name": "risk", "onnx": "risk.onnx"}},
                state="DECLARED",
                status=aliases,
                parent="app/shop",
            ),
            _version(1, settled="good"),
            Resource(TENANT, "service", "risk", spec=service, state="PENDING", parent="app/shop"),
            Resource(TENANT, "stream", "orders", spec=stream, state="READY", parent="app/shop"),
            Resource(TENANT, "worker", "orders-0", spec={"partition": 0}, state="READY", parent="stream/orders"),
            Resource(TENANT, "dispatcher", "orders", state="READY", parent="stream/orders"),
            Resource(TENANT, "activator", "activator", state="READY"),
            Resource(TENANT, "schedule", "nightly", spec={}, state="PAUSED", parent="app/shop"),
            Resource(TENANT, "environment", "e1", spec={}, state="READY"),
            replace(new_watch(TENANT, "shop", "risk", sr.Retrain(on="drift").spec.to_json()), state="PAUSED"),
        ]
        # Only what serves and takes over is stepped by its kind; how the other rows go is played.
        for kind in (
            "stream",
            "worker",
            "dispatcher",
            "activator",
            "schedule",
            "environment",
            "watch",
            "job",
            "operation",
        ):
            self.kinds.pop(kind)
        self.start_control()
        changes = [Put(replace(row, created_at=now, since=now), 0) for row in rows]
        self.store.commit(changes, audit=(), fence=self.fence, actor="ana", now=now)

    def _until_ready(self) -> None:
        for _ in range(20):
            self.clock.advance(100_000)
            self._make_ready()
            self._pass()

    def _make_ready(self) -> None:
        for name, status in self.compute.running.items():
            if status.alive and not status.report.get("ready") and name not in self.trouble.down:
                self.answers[name] = Answers()
                self.compute.report(name, **self.answers[name].report())

    def _pass(self) -> None:
        for _ in range(10):
            more = self.loop.run_pass()
            self._stream_follows()
            if not more:
                return

    def _stream_follows(self) -> None:
        """Its worker decides with the version that gets the requests."""
        versions = self.store.get(TENANT, "service", "risk").spec["versions"]
        number = next((int(v) for v, told in versions.items() if told["weight"] == 100), 0)
        stream = self.store.get(TENANT, "stream", "orders")
        if number and stream.status.get("model_version") != number:
            changed = replace(stream, status={**stream.status, "model_version": number})
            self.store.commit(
                [Put(changed, stream.revision)], audit=(), fence=self.fence, actor="reconcile", now=self.clock.wall()
            )

    # How it goes.

    def _play(self) -> None:
        for name in [*self.trouble.dies, *self.trouble.down]:
            if name in self.compute.running and self.compute.running[name].alive:
                self.compute.kill(name)
        self._make_ready()
        self._requests()
        self._events()
        self.disk += self.trouble.disk_grows * LOOK_S + self.rng.gauss(0, 0.02 * GB)
        self.memory += self.rng.gauss(0, 0.01 * GB) - 0.01 * (self.memory - 8 * GB)

    @property
    def daytime(self) -> float:
        """Of the traffic, from 0.2 at night to 1, and less at weekends."""
        days = self.clock.wall() / DAY
        day = 0.6 + 0.4 * math.sin(2 * math.pi * (days % 1 - 0.3))
        return day * (0.7 if int(days) % 7 in (2, 3) else 1.0)

    def _requests(self) -> None:
        trouble, there = self.trouble, [n for n in self.replicas() if n in self.answers and self._up(n)]
        for name in there:
            answers = self.answers[name]
            count = self.numbers.poisson(40 * LOOK_S / 3 * self.daytime * trouble.load)
            refused = int(self.numbers.binomial(count, trouble.overloaded))
            answers.requests += count
            answers.overloaded += refused
            answers.errors += int(self.numbers.binomial(count - refused, trouble.errors))
            slower = trouble.slower * (20.0 if name in trouble.weights else 1.0)
            for took in self.numbers.lognormal(math.log(4_000 * slower), 0.4, count - refused):
                answers.latency.add(int(took))
            answers.rss_mb += trouble.leak_mb.get(name, 0.0) * LOOK_S + self.rng.gauss(0, 0.3)
            self.compute.report(name, **answers.report())
            self.compute.running[name] = replace(self.compute.running[name], rss_mb=max(80.0, answers.rss_mb))

    def _up(self, name: str) -> bool:
        status = self.compute.running.get(name)
        return status is not None and status.alive and name not in self.trouble.silent

    def _events(self) -> None:
        trouble = self.trouble
        count = int(self.numbers.poisson(100 * LOOK_S * self.daytime * trouble.events))
        if WORKER in trouble.silent or WORKER in trouble.down or (trouble.source and not trouble.events):
            count = 0
        dead = int(self.numbers.binomial(count, trouble.dead))
        good = count - dead
        fallen, late = (int(self.numbers.binomial(good, share)) for share in (trouble.fallbacks, trouble.late))
        blocked = int(self.numbers.binomial(good, trouble.blocked))
        self.events += good
        self.dead += dead
        self.by_reason["LATE"] = self.by_reason.get("LATE", 0) + late
        if fallen:
            self.by_reason[trouble.reason] = self.by_reason.get(trouble.reason, 0) + fallen
        self.by_decision["block"] += blocked
        self.by_decision["approve"] += good - blocked
        if not trouble.checkpoint_stands and self.clock.wall() - self.checkpoint_at > 60_000_000:
            self.checkpoint, self.checkpoint_at = self.events, self.clock.wall()

    def _processes(self) -> dict[str, ProcessStatus]:
        """Of the rows that are played here."""
        trouble, rate = self.trouble, 100 * self.daytime * self.trouble.events
        p99 = int(3_000 * trouble.decides_slower * self.rng.lognormvariate(0, 0.2))
        reason, message = trouble.says or ("", "")
        state, why = trouble.source or ("READY", "")
        worker = {
            "ready": True,
            "offset": self.events,
            "events": self.events,
            "dead": self.dead,
            "by_reason": dict(self.by_reason),
            "by_decision": dict(self.by_decision),
            "waiting_rows": trouble.waiting,
            "events_per_second": rate,
            "decision_us": {"p50": p99 // 2, "p99": p99, "p999": 2 * p99},
            "checkpoint_offset": self.checkpoint,
            "checkpoint_at": self.checkpoint_at,
            "lists": [{"name": "denied", "ids": trouble.list_ids, "changed_at": 0}],
            "reason": reason,
            "message": message,
            "source": {
                "name": "kafka/orders",
                "state": state,
                "reason": "AWAY" if why else "",
                "message": why,
                "next_action": "Look at the broker.",
                "lag": 0,
            },
        }
        sink = {"sink": "bank", "failures": trouble.sink_failures, "last_error": "it did not answer within 10 s"}
        dispatcher = {"ready": True, "missed": trouble.missed, "sinks": [sink], "reason": "", "message": ""}
        return {
            WORKER: ProcessStatus(WORKER, True, pid=7, socket="w", report=worker, rss_mb=400.0),
            DISPATCHER: ProcessStatus(DISPATCHER, True, pid=8, socket="d", report=dispatcher, rss_mb=90.0),
        }

    def _sight(self) -> Sight:
        trouble, snapshot = self.trouble, self.loop.snapshot()
        health = self.loop.health()
        failed = {(TENANT, "model/risk"): trouble.gateway_failed} if trouble.gateway_failed else {}
        measured: dict[str, Any] = {
            "disk_used": int(self.disk),
            "disk_total": 500 * GB,
            "disk_write_s": 0.004 * self.rng.lognormvariate(0, 0.5),
            "memory_used": int(self.memory),
            "memory_total": 32 * GB,
            "ends": {part: tuple(ends) for part, ends in trouble.ends.items()},
            "parts": trouble.parts,
            "weights": dict(trouble.weights),
            "unanswered": frozenset(trouble.silent),
            "failed": failed,
        }
        return Sight(
            seconds=self.clock.monotonic() / 1e6,
            snapshot=replace(snapshot, processes={**snapshot.processes, **self._processes()}),
            machine=Machine(**{**measured, **trouble.machine}),
            problems=trouble.problems,
            pass_age_s=trouble.pass_age_s,
            clock_step_us=health.clock_step_us,
            clock_step_at=health.clock_step_at,
            signing=trouble.signing,
        )


def _version(number: int, **status: Any) -> Resource:
    spec = {"model": "risk", "version": number, "artifact": "a" * 64}
    return Resource(TENANT, "version", f"risk:{number}", spec=spec, state="APPROVED", status=status)


def failed_operation(name: str, parent: str, now: int, snapshot: Any) -> Resource:
    made = new_operation(snapshot, TENANT, name, action="run", target="nightly", jobs=[], parent=parent)
    return replace(made, state="FAILED", reason="NO_SUCH_FILE", message="The file is not there.", created_at=now)


__all__ = ["TENANT", "WORKER", "World", "failed_operation", "new_rollout"]
