"""The control plane as a machine that is pushed about: whatever happens in whichever order, some things never do.

- no row moves but along an arrow of its kind's table;
- a settled cloud has an empty plan: nothing is written, started, ended or routed in the next pass;
- a control plane that was followed by another one writes nothing, and what it did to processes and routes before it
  knew is put right by one pass of the other;
- what is wanted runs, and what is not wanted does not, after every pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import skyriver as sr
from skyriver.adapters.memory.store import MemoryStore
from skyriver.control.cancelling import plan_cancel
from skyriver.control.loop import ControlLoop
from skyriver.control.running import plan_run
from skyriver.control.schedules import plan_pause, plan_resume
from skyriver.core.errors import SkyriverError, Unavailable
from skyriver.core.jobs import ENDED
from skyriver.core.resources import (
    AuditEntry,
    Change,
    Delete,
    Put,
    Resource,
    RouteTable,
    Want,
    WantPool,
    WantRoute,
    reconcile,
)
from skyriver.core.spec import AppSpec
from skyriver.decide.streams.operations import plan_verify
from skyriver.release.operations import plan_rollback, plan_train
from skyriver.wiring.deploy import plan_deploy
from skyriver.wiring.kinds import KINDS
from skyriver.wiring.simulation import Simulation

TENANT = "t"
DAY_US = 86_400_000_000


def risk(replicas: int, floor: float) -> AppSpec:
    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float

    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="7d")
    features = app.features("behaviour", payments, {"amount": payments.amount})

    @app.train(features, label=frauds, test="7d")
    def fit(data: sr.TrainingData) -> Any: ...

    gate = sr.Gate(average_precision=f">= {floor}")
    model = app.model("fraud", fit, gate=gate, serve=sr.Service(replicas=replicas))
    app.decide(payments, model, {"block": "score >= 0.9"}, otherwise="approve")

    @app.job(retries=replicas, priority=replicas)
    def extract(job: sr.Job) -> None: ...

    @app.job(needs=[extract], array=3)
    def count(job: sr.Job) -> None: ...

    @app.job(needs=[count], schedule=sr.Cron("*/2 * * * *", missed="all" if replicas > 1 else "once"))
    def report(job: sr.Job) -> None: ...

    return app.spec


SPECS = [risk(1, 0.5), risk(2, 0.5), risk(1, 0.9)]


class WatchedStore(MemoryStore):
    """Examines each commit: who wrote, and whether every row moved along an arrow."""

    def __init__(self) -> None:
        super().__init__()
        self.newest = 0
        self.away = False

    def acquire(self, holder: str) -> int:
        self.newest = super().acquire(holder)
        return self.newest

    def commit(
        self, changes: Sequence[Change], *, audit: Sequence[AuditEntry], fence: int, actor: str, now: int
    ) -> list[Resource]:
        if self.away:
            raise Unavailable("The disk is full.", code="DISK_FULL")
        before = dict(self._rows)  # rows are never changed in place
        written = super().commit(changes, audit=audit, fence=fence, actor=actor, now=now)
        assert fence == self.newest, "a stale fence wrote"
        for row in written:
            was, kind = before.get(row.key), KINDS.get(row.kind)
            if kind is not None and was is not None and was.state != row.state:
                assert (was.state, row.state) in kind.moves, f"{row.ref} went from {was.state} to {row.state}"
            if kind is not None and was is not None:
                assert was.state not in kind.final or was.state == row.state, f"{row.ref} left {was.state}"
        return written


class ControlPlane(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = WatchedStore()
        self.cloud = Simulation(store=self.store)
        self.stale: list[ControlLoop] = []

    def ask(self, plan: Any, target: str, params: dict[str, Any]) -> None:
        """What the API does with an action; what is refused changes nothing."""
        with suppress(SkyriverError):
            resources = plan(self.cloud.loop.snapshot(), TENANT, target, params, {})
            self.commit([Put(r, r.revision) for r in resources])

    def change(self, plan: Any, target: str) -> None:
        self.ask(plan, target, {})

    def commit(self, changes: Sequence[Put | Delete]) -> None:
        self.store.commit(changes, audit=(), fence=self.cloud.fence, actor="user", now=self.cloud.clock.wall())

    # What users do

    @initialize()
    def first(self) -> None:
        self.deploy(0)

    @rule(number=st.integers(0, len(SPECS) - 1))
    def deploy(self, number: int) -> None:
        spec = SPECS[number]
        code = {"bundle": "0" * 64, "main": "app.py"}
        self.commit(plan_deploy(self.cloud.loop.snapshot(), TENANT, spec, code, files={}, prune=False).changes)

    @rule()
    def train(self) -> None:
        self.ask(plan_train, "fraud", {})

    @rule(version=st.integers(0, 3))
    def roll_back(self, version: int) -> None:
        self.ask(plan_rollback, "fraud", {"version": version} if version else {})

    @rule()
    def verify(self) -> None:
        self.ask(plan_verify, "payments", {})

    @rule(name=st.sampled_from(("extract", "count", "report")))
    def run_a_job(self, name: str) -> None:
        self.ask(plan_run, name, {})

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        names = [r.name for kind in ("operation", "job") for r in self.store.rows(TENANT, kind) if r.state not in ENDED]
        if names:
            self.change(plan_cancel, data.draw(st.sampled_from(sorted(names))))

    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:
        self.change(plan_pause if paused else plan_resume, "report")

    # What processes do

    def running(self, kind: str) -> list[str]:
        return sorted(n for n, p in self.cloud.compute.running.items() if p.alive and n.split(".")[1] == kind)

    def succeed(self, name: str, metric: float) -> None:
        job = self.store.get(TENANT, "job", name.split(".", 2)[2])
        self.cloud.compute.report(name, outcome="succeeded", outputs=outputs(job, metric))

    @rule(steps=st.integers(1, 4), metric=st.sampled_from((0.4, 0.6, 0.95)))
    def jobs_succeed(self, steps: int, metric: float) -> None:
        """All that run, and then those that waited for them: a training is four steps from its version."""
        for _ in range(steps):
            for name in self.running("job"):
                self.succeed(name, metric)
            self.cloud.settle(200)

    @rule(metric=st.sampled_from((0.6, 0.95)))
    def a_training_goes_well(self, metric: float) -> None:
        self.train()
        self.cloud.settle(200)
        for _ in range(3):
            self.jobs_succeed(2, metric)
            self.all_get_ready()

    @rule(data=st.data(), how=st.sampled_from(("fails", "killed", "exits", "junk")))
    def job_ends_badly(self, data: st.DataObject, how: str) -> None:
        jobs = self.running("job")
        if not jobs:
            return
        name, compute = data.draw(st.sampled_from(jobs)), self.cloud.compute
        match how:
            case "fails":
                compute.report(name, outcome="failed", reason="USER_ERROR", message="no", next_action="")
            case "killed":
                compute.kill(name)
            case "exits":
                compute.kill(name, 1)
            case "junk":
                compute.report(name, outcome="succeeded", outputs={"resources": [{"kind": 7}], "tables": "none"})

    @rule(data=st.data())
    def job_tells_progress(self, data: st.DataObject) -> None:
        if jobs := self.running("job"):
            done = data.draw(st.integers(0, 3))
            self.cloud.compute.report(
                data.draw(st.sampled_from(jobs)), progress={"stage": "fit", "done": done, "total": 3}
            )

    @rule()
    def all_get_ready(self) -> None:
        compute = self.cloud.compute
        for name in self.running("replica"):
            compute.report(name, ready=True)
        for name in self.running("worker"):
            compute.report(name, ready=True, model=compute.specs[name].live["model"])

    @rule(data=st.data())
    def one_fails(self, data: st.DataObject) -> None:
        if replicas := self.running("replica"):
            self.cloud.compute.report(
                data.draw(st.sampled_from(replicas)), failed=True, reason="BAD_MODEL", message="no"
            )

    @rule(data=st.data())
    def one_dies(self, data: st.DataObject) -> None:
        if names := [n for n, p in self.cloud.compute.running.items() if p.alive]:
            self.cloud.compute.kill(data.draw(st.sampled_from(sorted(names))))

    # What the world does

    @rule(seconds=st.sampled_from((1, 30, 130)))
    def time_goes_by(self, seconds: int) -> None:
        for _ in range(3):
            self.cloud.clock.advance(seconds * 1_000_000 // 3)
            with suppress(SkyriverError):
                self.cloud.loop.run_pass()

    @rule(by=st.sampled_from((-DAY_US, 365 * DAY_US, 3_600_000_000)))
    def clock_is_set(self, by: int) -> None:
        self.cloud.clock.set(by)

    @rule()
    def the_store_is_away_for_a_pass(self) -> None:
        self.store.away = True
        with suppress(SkyriverError):
            self.cloud.loop.run_pass()
        self.store.away = False

    @rule()
    def another_control_plane_begins(self) -> None:
        self.stale = [*self.stale[-2:], self.cloud.loop]
        self.cloud.start_control()

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def a_stale_control_plane_goes_on(self, data: st.DataObject) -> None:
        """It was stopped in the middle of anything, and does not know that another one has taken over."""
        loop, revision = data.draw(st.sampled_from(self.stale)), self.store.revision()
        with suppress(SkyriverError):
            loop.run_pass()
        assert self.store.revision() == revision

    @rule()
    def routes_are_lost(self) -> None:
        """A stale control plane's last socket command, or an administrator's hand."""
        self.cloud.gateway.applied = RouteTable()

    def teardown(self) -> None:
        for row in self.store.rows(TENANT):
            if row.kind in ("rollout", "version", "operation", "job"):
                event(f"{row.kind} {row.state}")

    # What never happens

    @invariant()
    def it_settles_and_then_nothing_is_to_be_done(self) -> None:
        cloud = self.cloud
        cloud.settle(200)
        snapshot = cloud.loop.snapshot()
        plan = reconcile(snapshot, KINDS, skip=frozenset(snapshot.aside))
        assert not plan.writes
        wanted = {w.process.name for ws in plan.wants.values() for w in ws if isinstance(w, Want)}
        kept = {snapshot.rows[key].process for key in snapshot.aside if key in snapshot.rows}
        alive = {name for name, p in cloud.compute.running.items() if p.alive}
        assert alive - kept <= wanted
        restarted = {n for n in wanted - alive if not cloud.compute.specs[n].once}
        assert not restarted, "wanted, and it does not run"
        routes = sorted(w.route.name for ws in plan.wants.values() for w in ws if isinstance(w, WantRoute))
        pools = {w.pool.name: w.pool.servers for ws in plan.wants.values() for w in ws if isinstance(w, WantPool)}
        assert sorted(r.name for r in cloud.gateway.applied.routes) == routes
        assert {p.name: p.servers for p in cloud.gateway.applied.pools} == pools
        starts, revision = list(cloud.compute.starts), self.store.revision()
        applied, applications = cloud.gateway.applied, cloud.gateway.applications
        assert not cloud.loop.run_pass()
        assert (cloud.compute.starts, self.store.revision()) == (starts, revision)
        assert (cloud.gateway.applied, cloud.gateway.applications) == (applied, applications)

    @invariant()
    def a_service_sends_requests_only_to_what_serves(self) -> None:
        ready = {r.process for r in self.store.rows(TENANT, "replica") if r.state in ("READY", "DRAINING")}
        workers = {w.process for w in self.store.rows(TENANT, "worker") if w.state == "READY"}
        routed = {s.name for pool in self.cloud.gateway.applied.pools for s in pool.servers}
        assert routed <= ready | workers


def outputs(job: Resource, metric: float) -> dict[str, Any]:
    """What a good job of its kind gives."""
    if job.spec["kind"] != "compress":
        return {"tables": {"payments": {"version": 1, "offset": 10}}} if job.spec["kind"] == "materialise" else {}
    spec = {"model": "fraud", "artifact": "a" * 64, "metrics": {"average_precision": metric}}
    return {"resources": [{"kind": "version", "name": "fraud", "state": "CANDIDATE", "spec": spec}]}


TestControlPlane = ControlPlane.TestCase
TestControlPlane.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
