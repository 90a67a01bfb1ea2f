"""From looks at a cloud to incidents: what is told, once, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.resources import Delete, ProcessStatus, Resource, Snapshot
from skyriver.observe.healing import AT_MOST
from skyriver.observe.sight import Machine, Problem, Sight
from skyriver.observe.system import KEPT, MOST_EVENTS, SystemWatch
from skyriver.observe.tracks import LOOK_S

GB = 10**9
START = 1_800_000_000_000_000
HISTOGRAM = [[4_000, 0]]


def version(number: int) -> Resource:
    return Resource("default", "version", f"risk:{number}", spec={"model": "risk"}, state="APPROVED")


@dataclass
class Cloud:
    """A service with two replicas, and what is wrong with it."""

    machine: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    errors: int = 0
    """Of a hundred requests in each look."""
    slow: int = 0
    rejected: int = 0
    requests: int = 100

    def __post_init__(self) -> None:
        self.watch = SystemWatch()
        self.seconds, self.wall = 1_000.0, START
        self.rows: dict[tuple[str, str, str], Resource] = {}
        self.processes: dict[str, ProcessStatus] = {}
        self.counted = {"requests": 0, "errors": 0, "slow": 0, "rejected": 0}
        self.revision = 0
        self.remedies: list[tuple[str, str]] = []
        for tenant in ("default", "other"):
            service = {"serve": sr.Service(replicas=2, latency="50ms").to_json()}
            ready = {"ready": {"1": 2}}
            self.put(Resource(tenant, "app", "shop", state="DEPLOYED"))
            self.put(Resource(tenant, "service", "risk", service, ready, "READY", parent="app/shop"))
            model = {"aliases": {"champion": 1}}
            self.put(Resource(tenant, "model", "risk", status=model, parent="app/shop"))
            for number in (1, 2):
                name = f"risk-1-{number}"
                self.put(Resource(tenant, "replica", name, {"version": 1}, state="READY", parent="service/risk"))
                self.put(replace(version(number), tenant=tenant))
                process = ProcessStatus(f"{tenant}.replica.{name}", True, pid=10 + number, socket="s", rss_mb=100.0)
                self.processes[process.name] = process

    def put(self, row: Resource) -> None:
        self.revision += 1
        known = self.rows.get(row.key)
        made = known.created_at if known is not None else self.wall
        self.rows[row.key] = replace(row, revision=self.revision, created_at=made, updated_at=self.wall)

    def change(self, kind: str, name: str, tenant: str = "default", **to: Any) -> None:
        self.put(replace(self.rows[tenant, kind, name], **to))

    def look(self, seconds: float = LOOK_S) -> None:
        for _ in range(round(seconds / LOOK_S)):
            self.seconds += LOOK_S
            self.wall += int(LOOK_S * 1e6)
            self.counted["requests"] += self.requests
            self.counted["errors"] += self.errors
            self.counted["slow"] += self.slow
            self.counted["rejected"] += self.rejected
            counted = self.counted
            latency = [[4_000, counted["requests"] - counted["slow"]], [90_000, counted["slow"]]]
            report = {
                "ready": True,
                "requests": counted["requests"],
                "errors": counted["errors"],
                "refused": counted["rejected"],
                "counted": {"latency_us": latency},
            }
            first = "default.replica.risk-1-1"
            self.processes[first] = replace(self.processes[first], report=report)
            self._look()

    def _look(self) -> None:
        snapshot = Snapshot(dict(self.rows), dict(self.processes), {}, self.wall)
        outcome = self.watch.look(Sight(self.seconds, snapshot, Machine(**self.machine), self.problems))
        for change in outcome.changes:
            if isinstance(change, Delete):
                del self.rows[change.tenant, change.kind, change.name]
                continue
            known = self.rows.get(change.resource.key)
            assert change.expected == (known.revision if known is not None else 0)
            self.put(change.resource)
        self.remedies += [(remedy.what, remedy.subject) for remedy in outcome.remedies]

    def incidents(self, tenant: str = "default") -> list[Resource]:
        return [row for key, row in sorted(self.rows.items()) if key[:2] == (tenant, "incident")]

    @property
    def incident(self) -> Resource:
        [one] = self.incidents()
        return one

    @property
    def told(self) -> list[str]:
        return [event["event"] for event in self.incident.status["events"]]


@pytest.fixture
def cloud() -> Cloud:
    """After ten quiet minutes."""
    made = Cloud()
    made.look(600)
    assert made.incidents() == []
    return made


def test_one_incident_from_its_beginning_to_its_end(cloud: Cloud) -> None:
    cloud.errors = 30
    cloud.look(30)
    opened = cloud.incident
    assert (opened.state, opened.reason, opened.status["severity"], cloud.told) == (
        "OPEN",
        "FAILS",
        "critical",
        ["opened"],
    )
    assert opened.message.startswith("Version 1 of risk failed on ")
    assert "skyriver explain risk" in opened.next_action
    assert "rollback" not in opened.next_action, "there is none before"
    kinds = [(c["subject"], c["kind"]) for c in opened.status["conditions"]]
    assert kinds == [("default:version/risk:1", "fails"), ("default:service/risk", "errors")]
    before = cloud.incident.revision
    cloud.look(30)
    assert cloud.incident.revision == before, "numbers alone are not written each time"
    cloud.errors = 0
    cloud.look(600)
    assert (cloud.incident.state, cloud.told) == ("RESOLVED", ["opened", "resolved"])
    assert cloud.incident.message.startswith("It is over.")


def test_what_comes_back_soon_is_the_same_and_is_told_a_few_times_at_most(cloud: Cloud) -> None:
    for _ in range(2 * MOST_EVENTS):
        cloud.machine = {"disk_problem": "Read-only file system"}
        cloud.look(10)
        cloud.machine = {}
        cloud.look(120)
    assert cloud.incident.status["times"] == 2 * MOST_EVENTS
    assert cloud.told == ["opened", "resolved", "again", "resolved", "again", "resolved", "again", "resolved"]
    cloud.look(1200)
    cloud.machine = {"disk_problem": "Read-only file system"}
    cloud.look()
    assert len(cloud.incidents()) == 2, "much later it is another one"


def test_what_mends_itself_at_once_wakes_nobody(cloud: Cloud) -> None:
    cloud.change("service", "risk", state="DEGRADED", reason="REPLICAS_MISSING", message="1 of 2 serve.")
    cloud.look(5)
    cloud.change("service", "risk", state="READY", reason="", message="")
    cloud.look(120)
    assert cloud.incidents() == []


def test_a_service_that_the_machine_does_not_do_for_is_told_after_some_minutes(cloud: Cloud) -> None:
    pool = {"asked": 4, "granted": 1, "scarce": "cores", "price": 0.1, "higher_priority": 1}
    cloud.put(Resource("default", "scaling", "risk", {"replicas": 1}, {"pool": pool}, state="ACTIVE"))
    cloud.look(120)
    assert cloud.incidents() == []
    cloud.look(90)
    assert (cloud.incident.status["severity"], cloud.told) == ("warning", ["opened"])
    assert cloud.incident.message.startswith("The machine's cores do not do for all: risk has 1 of 4 replicas")
    cloud.put(replace(cloud.rows["default", "scaling", "risk"], status={"pool": {**pool, "granted": 4}}))
    cloud.look(600)
    assert cloud.incident.state == "RESOLVED"


SCALED = {"serve": sr.Service(replicas=(1, 2), latency="50ms").to_json()}


@pytest.mark.parametrize(
    ("status", "because", "action"),
    [
        (
            {"pool": {"asked": 4, "granted": 1, "scarce": "cores"}},
            "The machine's cores do not do for all: risk has 1 of 4 replicas that it needs.",
            "Declare a higher priority or a smaller model for risk, or add cores.",
        ),
        (
            {"wish": 5},
            "5 replicas are wanted for risk, and at most 2 are declared.",
            "Declare replicas=(1, 5) for risk, a longer latency=, or a smaller model.",
        ),
    ],
    ids=["pool", "most"],
)
def test_what_keeps_a_service_from_its_replicas_is_why_its_answers_are_late(
    cloud: Cloud, status: dict[str, Any], because: str, action: str
) -> None:
    cloud.change("service", "risk", spec=SCALED)
    cloud.look(3_600)  # its declaration is no cause any more
    cloud.put(Resource("default", "scaling", "risk", {"replicas": 2}, status, state="ACTIVE"))
    cloud.look(900)  # however long it is so; the pool alone is told after some minutes
    cloud.slow = 50
    cloud.look(60)
    late = next(row for row in cloud.incidents() if "late" in {c["kind"] for c in row.status["conditions"]})
    assert late.status["causes"][0]["told"] == because
    assert [cause["told"] for cause in late.status["causes"]].count(because) == 1
    assert late.next_action.startswith(action)
    cloud.put(replace(cloud.rows["default", "scaling", "risk"], status={}))
    cloud.look(60)
    late = next(row for row in cloud.incidents() if row.name == late.name)
    assert because not in [cause["told"] for cause in late.status["causes"] if cause["kind"] in ("pool", "most")]


def test_replicas_that_all_have_too_much_to_do_are_not_what_is_wrong(cloud: Cloud) -> None:
    """Both are slow by turns, and told of first."""
    cloud.change("service", "risk", spec=SCALED)
    cloud.put(Resource("default", "scaling", "risk", {"replicas": 2}, {"wish": 5}, state="ACTIVE"))
    cloud.slow, cloud.machine = 50, {"weights": {f"default.replica.risk-1-{n}": 5 for n in (1, 2)}}
    cloud.look(120)
    causes = [cause for row in cloud.incidents() for cause in row.status["causes"]]
    assert "5 replicas are wanted for risk, and at most 2 are declared." in [cause["told"] for cause in causes]
    assert any("Declare replicas=(1, 5) for risk" in row.next_action for row in cloud.incidents())
    assert cloud.incidents()[0].status["root"].startswith("default:replica/risk-1-")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, True),
        ({"row": 90.0}, False),
        ({"state": "RETIRED"}, False),
        ({"serves": 3}, False),  # an older one
        ({"champion": 7}, False),  # compared with another one
        ({"champion_metrics": {}}, False),  # nobody knows how good it is
        ({"passed": False}, False),
        ({"settled": "bad"}, False),  # rolled back
        ({"against": ""}, False),
    ],
    ids=str,
)
def test_where_the_machine_does_not_do_for_all_a_cheaper_version_is_named_that_is_no_worse(
    cloud: Cloud, wrong: dict[str, Any], named: bool
) -> None:
    known = {"row": 40.0, "serves": 1, "champion": 1, "champion_metrics": {"auc": 0.9}, "passed": True, **wrong}
    pool = {"asked": 4, "granted": 1, "scarce": "cores", "price": 0.1, "higher_priority": 1}
    cloud.put(Resource("default", "scaling", "risk", {"replicas": 1}, {"pool": pool}, state="ACTIVE"))
    service = cloud.rows["default", "service", "risk"]
    cloud.put(replace(service, spec={**service.spec, "versions": {str(known["serves"]): {"weight": 100}}}))
    model = cloud.rows["default", "model", "risk"]
    gate = {"against": known.get("against", "champion")}
    cloud.put(replace(model, spec={**model.spec, "model": {"gate": gate}}))
    for number in (1, 3):
        cloud.put(replace(version(number), spec={"model": "risk", "speed": {"row": 100.0}}))
    compared = {what: known[what] for what in ("champion", "champion_metrics")}
    cloud.put(
        replace(
            version(2),
            spec={"model": "risk", "speed": {"row": known["row"]}, **compared},
            status={"gate": {"passed": known["passed"]}, "settled": known.get("settled", "good")},
            state=known.get("state", "APPROVED"),
        )
    )
    cloud.look(210)
    assert ("`skyriver model alias risk champion 2`" in cloud.incident.next_action) == named


def test_what_a_service_is_named_is_told_as_it_is(cloud: Cloud) -> None:
    service, replica = (
        cloud.rows["default", kind, name] for kind, name in (("service", "risk"), ("replica", "risk-1-1"))
    )
    cloud.put(replace(service, name="declared"))
    cloud.put(replace(replica, name="declared-1-1", parent="service/declared"))
    process = ProcessStatus("default.replica.declared-1-1", True, pid=9, socket="s", rss_mb=9_000.0)
    cloud.processes[process.name] = process
    cloud.look(300)
    assert cloud.incident.message.startswith("The replica declared-1-1 holds 9,000 MB of 512 that are expected at most")


def test_a_service_that_is_not_scaled_for_want_of_measurements_is_told_after_a_minute(cloud: Cloud) -> None:
    why = "It stays at 2 replicas. risk-1-1 tells requests=nan, which cannot be."
    cloud.put(
        Resource("default", "scaling", "risk", {"replicas": 2}, state="HOLDING", reason="NO_MEASUREMENTS", message=why)
    )
    cloud.look(45)
    assert cloud.incidents() == []
    cloud.look(30)
    assert cloud.incident.status["severity"] == "warning"
    assert cloud.incident.message == f"risk is not scaled. {why}"
    cloud.put(replace(cloud.rows["default", "scaling", "risk"], state="ACTIVE", reason="", message=""))
    cloud.look(600)
    assert cloud.incident.state == "RESOLVED"


@pytest.mark.parametrize(("siblings", "after_s"), [(True, 60), (False, 300)], ids=["beside others", "the first ones"])
def test_a_start_that_never_becomes_ready_is_told_with_how_long_others_took(
    cloud: Cloud, siblings: bool, after_s: int
) -> None:
    for number in () if siblings else (1, 2):
        cloud.change("replica", f"risk-1-{number}", state="DRAINING")
    cloud.put(
        Resource(
            "default", "replica", "risk-1-3", {"version": 1}, state="STARTING", parent="service/risk", since=cloud.wall
        )
    )
    name = "default.replica.risk-1-3"
    cloud.processes[name] = ProcessStatus(name, siblings, pid=13, report={})
    cloud.look(after_s)
    assert cloud.incidents() == []
    cloud.look(10)
    assert cloud.incident.status["severity"] == "warning"
    assert cloud.incident.message.startswith(f"The replica risk-1-3 is starting for {after_s // 60} min")
    assert ("its siblings took" in cloud.incident.message) == siblings
    assert "skyriver logs risk-1-3" in cloud.incident.next_action
    assert ("it has no process" in cloud.incident.message) != siblings
    cloud.change("replica", "risk-1-3", state="READY")
    cloud.look(600)
    assert cloud.incident.state == "RESOLVED"


def test_it_got_worse_is_told_and_it_never_gets_better_by_half(cloud: Cloud) -> None:
    cloud.change("service", "risk", state="DEGRADED", message="1 of 2 serve.", status={"ready": {"1": 1}})
    cloud.look(20)
    assert (cloud.incident.status["severity"], cloud.told) == ("warning", ["opened"])
    cloud.change("service", "risk", status={"ready": {"1": 0}})
    cloud.look(10)
    assert (cloud.incident.status["severity"], cloud.told) == ("critical", ["opened", "worse"])
    cloud.change("service", "risk", status={"ready": {"1": 1}})
    cloud.look(10)
    assert (cloud.incident.status["severity"], cloud.told) == ("critical", ["opened", "worse"])


def test_a_version_that_fails_is_rolled_back_if_one_was_before(cloud: Cloud) -> None:
    for number in (1, 2):
        cloud.change("replica", f"risk-1-{number}", spec={"version": 2})
    cloud.errors = 30
    cloud.look(30)
    assert cloud.incident.message.startswith("Version 2 of risk failed on ")
    assert "`skyriver rollback risk` lets the one before serve again" in cloud.incident.next_action


@pytest.mark.parametrize("before", [None, 2], ids=["the first", "with one before"])
def test_the_cause_is_what_changed_before(cloud: Cloud, before: int | None) -> None:
    status = {} if before is None else {"from": before}
    rollout = Resource("default", "rollout", "risk-1", {"model": "risk", "to": 1}, status=status, state="PROMOTING")
    cloud.put(rollout)
    cloud.look(5)
    cloud.errors = 30
    cloud.look(30)
    [cause, *_] = cloud.incident.status["causes"]
    assert (cause["subject"], cause["kind"]) == ("default:rollout/risk-1", "rollout")
    assert "Likely because: The rollout risk-1 of version 1 went to PROMOTING" in cloud.incident.message
    assert ("rollout abort risk-1" in cloud.incident.next_action) == (before is not None)
    assert "skyriver rollback" not in cloud.incident.next_action


def test_one_root_is_one_incident_and_replicas_stand_for_each_other(cloud: Cloud) -> None:
    for number in (1, 2):
        cloud.change("replica", f"risk-1-{number}", state="FAILED", reason="CRASH_LOOP", message="It ended 5 times.")
    cloud.change("service", "risk", state="DEGRADED", message="0 of 2 serve.", status={"ready": {"1": 0}})
    cloud.look(60)
    subjects = {c["subject"] for c in cloud.incident.status["conditions"]}
    assert subjects == {"default:replica/risk-1-1", "default:replica/risk-1-2", "default:service/risk"}
    assert cloud.incident.status["root"] == "default:replica/risk-1-1"


def test_deaths_that_nobody_saw_are_counted(cloud: Cloud) -> None:
    name = "default.replica.risk-1-2"
    for pid in range(20, 24):
        cloud.processes[name] = replace(cloud.processes[name], pid=pid)
        cloud.change("replica", "risk-1-2", status={"last_end": "It exited with status 3."})
        cloud.look(5)
    assert "ended 3 times within ten minutes" in cloud.incident.message or "ended 4 times" in cloud.incident.message
    assert "The last time: It exited with status 3." in cloud.incident.message
    assert cloud.incident.status["causes"][0]["kind"] == "death"


def test_a_tenant_sees_its_own_and_what_of_the_cloud_makes_it_ill(cloud: Cloud) -> None:
    cloud.put(Resource("other", "stream", "orders", state="READY", parent="app/shop"))
    cloud.put(Resource("other", "worker", "orders-0", state="READY", parent="stream/orders"))
    cloud.look(10)
    cloud.change("worker", "orders-0", "other", state="LOST", reason="PROCESS_DIED", message="It ended.")
    cloud.look(30)
    [theirs] = cloud.incidents("other")
    assert theirs.status["root"] == "other:worker/orders-0"
    assert cloud.incidents() == []
    cloud.machine = {"disk_used": 99 * GB, "disk_total": 100 * GB}
    cloud.look(10)
    assert cloud.incident.status["root"] == "cloud:disk"
    assert [c["subject"] for c in cloud.incident.status["conditions"]] == ["cloud:disk"], "nothing of theirs"
    [theirs] = cloud.incidents("other")
    assert theirs.status["root"] == "cloud:disk", "it is known by now"


def test_another_control_plane_goes_on_with_what_is_open(cloud: Cloud) -> None:
    cloud.machine = {"disk_problem": "Read-only file system"}
    cloud.look(10)
    cloud.watch = SystemWatch(cloud.watch.remember())
    cloud.look(60)
    assert (cloud.incident.state, cloud.told) == ("OPEN", ["opened"])
    cloud.machine = {}
    cloud.watch = SystemWatch()
    cloud.look(50)
    assert cloud.incident.state == "OPEN", "it was seen a minute ago"
    cloud.look(15)
    assert cloud.incident.state == "RESOLVED"


def test_another_control_plane_does_not_call_what_it_has_not_learnt_yet_over(cloud: Cloud) -> None:
    cloud.errors = 30
    cloud.change("replica", "risk-1-2", state="LOST", message="It ended.")
    cloud.look(30)
    for _ in range(3):
        cloud.watch = SystemWatch()
        cloud.look(120)
    assert (cloud.incident.state, cloud.told) == ("OPEN", ["opened"])


@pytest.mark.parametrize(("bad", "share"), [(20, 0.98), (100, 0.95), (100, 0.9)])
def test_what_goes_on_as_badly_is_not_over(cloud: Cloud, bad: int, share: float) -> None:
    cloud.change("service", "risk", spec={"serve": sr.Service(replicas=2, share=share).to_json()})
    cloud.errors = bad
    cloud.look(4 * 3600)
    assert (cloud.incident.state, cloud.told) == ("OPEN", ["opened"])
    cloud.errors = 0
    cloud.look(240)
    assert cloud.incident.state == "RESOLVED"


def test_a_row_that_cannot_be_understood_blinds_nobody(cloud: Cloud) -> None:
    cloud.change("service", "risk", "other", spec={"serve": {"replicas": "many"}})
    cloud.machine = {"disk_problem": "Read-only file system"}
    cloud.look(10)
    assert cloud.incident.status["root"] == "cloud:disk"
    assert "cannot be watched" in cloud.incidents("other")[0].message


def test_what_is_gone_is_not_wrong(cloud: Cloud) -> None:
    cloud.change("replica", "risk-1-2", state="FAILED", message="It ended 5 times.")
    cloud.look(10)
    del cloud.rows["default", "replica", "risk-1-2"]
    cloud.look(5)
    assert cloud.incident.state == "RESOLVED"


def test_incidents_that_are_over_are_forgotten_in_the_end(cloud: Cloud) -> None:
    for number in range(1, KEPT + 10):
        status = {"root": "r", "conditions": [], "causes": [], "healed": [], "events": [], "severity": "warning"}
        cloud.put(Resource("default", "incident", f"incident-{number}", status=status, state="RESOLVED"))
    cloud.machine = {"disk_problem": "Read-only file system"}
    cloud.look(10)
    assert len(cloud.incidents()) == KEPT + 1
    assert cloud.rows["default", "incident", f"incident-{KEPT + 10}"].state == "OPEN", "numbers are not used again"


# What it does about it


def test_a_process_that_hangs_is_restarted_a_few_times(cloud: Cloud) -> None:
    cloud.machine = {"unanswered": frozenset({"default.replica.risk-1-2"})}
    cloud.look(15)
    assert cloud.remedies == []
    cloud.look(15)
    assert cloud.remedies == [("restart", "default:replica/risk-1-2")]
    cloud.look(40)
    assert len(cloud.remedies) == 1, "it needs its time"
    cloud.look(1800)
    assert len(cloud.remedies) == AT_MOST
    assert [h["what"] for h in cloud.incident.status["healed"]] == ["restart"] * AT_MOST


def test_replicas_that_leak_are_replaced_one_at_a_time_and_others_are_not(cloud: Cloud) -> None:
    names = [f"default.replica.risk-1-{number}" for number in (1, 2)]
    for held in range(120, 490, 10):
        for name in names:
            cloud.processes[name] = replace(cloud.processes[name], rss_mb=float(held))
        cloud.look(30)
    assert cloud.remedies == [("replace", "default:replica/risk-1-1")]
    alone = Cloud()
    del alone.rows["default", "replica", "risk-1-2"]
    for held in range(120, 490, 10):
        alone.processes[names[0]] = replace(alone.processes[names[0]], rss_mb=float(held))
        alone.look(30)
    assert alone.remedies == [], "nobody would serve meanwhile"
    warm = Cloud()
    for held in (120.0, *[470.0] * 40):
        warm.processes[names[0]] = replace(warm.processes[names[0]], rss_mb=held)
        warm.look(30)
    assert (warm.remedies, warm.incident.reason) == ([], "MEMORY"), "it holds what it needs, and no more"
    small = Cloud()
    small.processes = {name: replace(status, rss_mb=480.0) for name, status in small.processes.items()}
    small.look(300)
    assert small.remedies == []
    assert small.incident.reason == "MEMORY", "it was declared too small: another one would be as large"


def test_a_model_that_is_large_from_the_first_is_none_where_nobody_declared_its_memory(cloud: Cloud) -> None:
    cloud.processes = {name: replace(status, rss_mb=700.0) for name, status in cloud.processes.items()}
    began = {"sizing": {"1": {"start_mb": 640, "memory_mb": 880}}}
    cloud.change("service", "risk", status={**cloud.rows["default", "service", "risk"].status, **began})
    cloud.change("service", "risk", "other", status={**cloud.rows["other", "service", "risk"].status, **began})
    cloud.look(300)
    assert not [row for row in cloud.rows.values() if row.kind == "incident"]
    name = "default.replica.risk-1-1"
    cloud.processes[name] = replace(cloud.processes[name], rss_mb=1_200.0)
    cloud.look(300)
    assert cloud.incident.reason == "MEMORY"
    assert "1,200 MB of 1,280 that are expected at most where none is declared" in cloud.incident.message


@pytest.mark.parametrize(
    ("cause", "errors", "done"),
    [
        pytest.param("release", 30, True, id="a-new-version"),
        pytest.param("release", 4, False, id="it-is-not-bad-enough"),
        pytest.param("rollback", 30, False, id="it-was-taken-back-already"),
    ],
)
def test_a_new_champion_that_fails_is_taken_back_once(cloud: Cloud, cause: str, errors: int, *, done: bool) -> None:
    spec = {"model": "risk", "to": 1, "cause": cause}
    cloud.put(Resource("default", "rollout", "risk-1", spec, {"from": 2}, state="DONE", since=cloud.wall))
    cloud.look(5)
    cloud.errors = errors
    cloud.look(240)
    assert cloud.remedies == ([("roll back", "default:service/risk")] if done else [])
    assert cloud.incidents(), "and it is told"


def test_a_version_that_mends_something_is_not_taken_back_for_what_it_mends(cloud: Cloud) -> None:
    """The one before it failed until a moment ago."""
    cloud.errors = 30
    cloud.look(120)
    for number in (1, 2):
        cloud.change("replica", f"risk-1-{number}", spec={"version": 2})
    cloud.change("model", "risk", status={"aliases": {"champion": 2}})
    spec = {"model": "risk", "to": 2, "cause": "release"}
    cloud.put(Resource("default", "rollout", "risk-1", spec, {"from": 1}, state="DONE", since=cloud.wall))
    cloud.errors = 0
    cloud.look(300)
    assert cloud.remedies == []
    assert cloud.incident.state == "RESOLVED"


def test_nothing_is_restarted_for_a_machine_that_stalls(cloud: Cloud) -> None:
    names = frozenset(f"{tenant}.replica.risk-1-{n}" for tenant in ("default", "other") for n in (1, 2))
    cloud.machine = {"unanswered": names, "memory_used": 99, "memory_total": 100}
    cloud.look(300)
    assert cloud.remedies == []


def test_of_several_that_hang_one_is_restarted_at_a_time(cloud: Cloud) -> None:
    cloud.machine = {"unanswered": frozenset(f"default.replica.risk-1-{n}" for n in (1, 2))}
    cloud.look(60)
    assert len(cloud.remedies) == 1


@pytest.mark.parametrize("weight", [0, 1])
def test_a_replica_that_the_gateway_leaves_out_is_told_and_replaced(cloud: Cloud, weight: int) -> None:
    cloud.machine = {"weights": {"default.replica.risk-1-2": weight}}
    cloud.look(120)
    assert cloud.incident.reason == "SLOW"
    assert cloud.remedies[0] == ("replace", "default:replica/risk-1-2")


def test_no_tenant_reads_of_another(cloud: Cloud) -> None:
    cloud.put(Resource("hospital", "tenant", "hospital", {"rate": "5/s"}))
    cloud.put(Resource("hospital", "token", "alice"))
    cloud.look(5)
    cloud.put(Resource("hospital", "tenant", "hospital", {"rate": "9/s"}))
    del cloud.rows["hospital", "token", "alice"]
    cloud.put(Resource("hospital", "job", "merger-train-7", {"kind": "train"}, state="RUNNING"))
    cloud.problems = {"gateway": Problem("TOO_MANY_POOLS", "No room for hospital/secret.", "See hospital.")}
    cloud.change("replica", "risk-1-1", "other", state="FAILED", message="It ended.")
    cloud.change("service", "risk", "other", state="DEGRADED", message="1 of 2.", status={"ready": {"1": 0}})
    cloud.look(30)
    told = repr(cloud.incidents("other"))
    assert "cloud:gateway" in told
    for name in ("hospital", "alice", "merger", "secret"):
        assert name not in told
    assert "hospital" in repr(cloud.incidents()), "who runs the cloud reads it"


# Signs


@pytest.mark.parametrize(
    ("measured", "root", "severity"),
    [
        ({"disk_used": 91 * GB, "disk_total": 100 * GB}, "cloud:disk space", "warning"),
        ({"disk_used": 98 * GB, "disk_total": 100 * GB}, "cloud:disk", "critical"),
        ({"disk_write_s": 2.0}, "cloud:disk", "critical"),
        ({"memory_used": 97, "memory_total": 100}, "cloud:memory", "critical"),
        ({"certificate_until": START + 5 * 86_400_000_000}, "cloud:gateway", "warning"),
        ({"ends": {"control": [START + 600_000_000 + n for n in range(3)]}}, "cloud:control plane", "critical"),
        ({"certificate_until": START - 5}, "cloud:gateway", "critical"),
        ({"gateway_problem": Problem("GATEWAY_AWAY", "It does not answer.", "Look.")}, "cloud:gateway", "critical"),
    ],
    ids=["space", "full", "slow", "memory", "ends", "restarts", "ended", "away"],
)
def test_signs_of_the_machine(cloud: Cloud, measured: dict[str, Any], root: str, severity: str) -> None:
    cloud.machine = measured
    cloud.look(30)
    assert (cloud.incident.status["root"], cloud.incident.status["severity"]) == (root, severity)
    assert cloud.incident.next_action


@pytest.mark.parametrize(("slow", "kind"), [(30, "late"), (0, None)])
def test_an_objective_of_latency(cloud: Cloud, slow: int, kind: str | None) -> None:
    cloud.slow = slow
    cloud.look(30)
    kinds = {c["kind"] for row in cloud.incidents() for c in row.status["conditions"]}
    assert kinds == ({kind, "slow"} if kind else set())


def test_what_was_late_is_no_alarm_any_more_once_nobody_asks(cloud: Cloud) -> None:
    cloud.slow = 50
    cloud.look(600)

    def late() -> dict[str, Any]:
        told = [c for row in cloud.incidents() for c in row.status["conditions"] if c["kind"] == "late"]
        return dict(told[0])

    assert (late()["severity"], "nobody asks now" in late()["told"]) == ("critical", False)
    cloud.requests = cloud.slow = 0
    cloud.look(90)
    assert (late()["severity"], late()["told"][-18:]) == ("warning", "; nobody asks now.")


def test_requests_that_reach_no_replica(cloud: Cloud) -> None:
    cloud.machine = {"failed": {("default", "model/risk"): 60}}
    cloud.look(20)
    assert cloud.incident.reason == "UNSERVED"


def test_a_problem_of_the_control_loop(cloud: Cloud) -> None:
    cloud.problems = {"pass": Problem("STORE_AWAY", "The database does not answer.", "Start it.")}
    cloud.look(20)
    assert (cloud.incident.status["root"], cloud.incident.next_action) == ("cloud:control plane", "Start it.")


def test_an_hour_with_ten_times_as_much_is_unusual_only_once_weeks_are_known() -> None:
    cloud = Cloud()
    season = {str(hour): [72_000.0] * 3 for hour in range(168)}
    cloud.watch = SystemWatch({"default:service/risk": season})
    cloud.look(7200)
    assert cloud.incidents() == []
    cloud.requests = 1_000
    cloud.look(7200)
    assert any("otherwise about 72,000 do" in row.message for row in cloud.incidents())
    assert SystemWatch(cloud.watch.remember()).remember().keys() >= {"default:service/risk"}


def test_what_a_rollout_that_was_taken_back_says_is_told_for_ten_minutes(cloud: Cloud) -> None:
    spec = {"model": "risk", "to": 2, "cause": "release"}
    about = {"state": "ROLLED_BACK", "reason": "BREACH", "message": "Errors rose to 4%.", "since": cloud.wall}
    cloud.put(Resource("default", "rollout", "risk-1", spec, **about))  # type: ignore[arg-type]
    cloud.look(10)
    assert "The rollout risk-1 is ROLLED_BACK. BREACH: Errors rose to 4%." in cloud.incident.message
    cloud.look(900)
    assert cloud.incident.state == "RESOLVED"


def test_a_budget_of_a_stream_that_is_spent_soon(cloud: Cloud) -> None:
    cloud.put(Resource("default", "stream", "orders", state="READY", parent="app/shop"))
    cloud.put(Resource("default", "worker", "orders-0", state="READY", parent="stream/orders"))

    def look(spent: int) -> None:
        own = {
            "decision": "block",
            "most": 1_000,
            "per": "1d",
            "overflow": "review",
            "by": "",
            "spent": spent,
            "keys": None,
        }
        report = {"ready": True, "budgets": [own, {**own, "by": "customer", "spent": None, "keys": 7}]}
        name = "default.worker.orders-0"
        cloud.processes[name] = ProcessStatus(name, True, pid=9, socket="w", report=report)
        cloud.look(30)

    for spent in range(0, 500, 25):
        look(spent)
    assert cloud.incidents() == []
    for spent in range(500, 700, 25):
        look(spent)
    assert "The budget of 1,000 block in 1d of orders is spent in " in cloud.incident.message
    look(1_000)
    look(1_000)
    assert cloud.incident.status["conditions"][0]["told"].endswith("is spent.")


def test_a_budget_of_money_that_is_near_and_then_spent_is_one_incident_that_ends_with_it(cloud: Cloud) -> None:
    budget = Resource("default", "budget", "app-shop", state="NEAR", message="80% is spent.", next_action="Look.")
    cloud.put(budget)
    cloud.look(10)
    assert (cloud.incident.status["severity"], cloud.incident.message) == ("warning", "80% is spent.")
    cloud.look(300)
    cloud.put(replace(budget, state="SPENT", message="All is spent."))
    cloud.look(300)
    assert "All is spent." in cloud.incident.message
    assert cloud.incidents("other") == []
    cloud.put(replace(budget, state="WITHIN", message="10% is spent."))
    cloud.look(120)
    assert cloud.incident.state == "RESOLVED"


@pytest.mark.parametrize(
    ("shed", "late_since", "told"),
    [
        (0.3, 0, "orders is overloaded: events that cannot be decided within 50ms get its fallback."),
        (
            None,
            1,
            "orders decides events later than within 50ms: their features, their rules and the log with its disk",
        ),
    ],
    ids=["sheds", "answers late"],
)
def test_a_stream_that_is_late_for_long_is_an_incident_and_a_burst_is_none(
    cloud: Cloud, shed: float | None, late_since: int, told: str
) -> None:
    cloud.put(Resource("default", "stream", "orders", state="READY", parent="app/shop"))
    cloud.put(Resource("default", "worker", "orders-0", state="READY", parent="stream/orders"))

    def look(seconds: float, shed: float | None, late_since: int) -> None:
        pace = {"step": "shedding" if shed else "full", "latency_us": 50_000, "shed": shed, "late_since": late_since}
        pace["late_by"] = "recording"
        report = {"ready": True, "pace": pace}
        name = "default.worker.orders-0"
        cloud.processes[name] = ProcessStatus(name, True, pid=5, socket="s", report=report)
        cloud.look(seconds)

    look(20, shed, late_since)
    look(120, None, 0)
    assert cloud.incidents() == []
    look(60, shed, late_since)
    assert told in cloud.incident.message


def test_a_planned_restart_of_a_worker_is_no_incident_unless_it_takes_too_long(cloud: Cloud) -> None:
    cloud.put(Resource("default", "stream", "orders", state="READY", parent="app/shop"))
    cloud.put(Resource("default", "worker", "orders-0", state="READY", parent="stream/orders"))
    cloud.look(30)
    cloud.change("worker", "orders-0", state="STARTING", reason="DEPLOYED", message="It is new.", since=cloud.wall)
    cloud.look(45)
    assert cloud.incidents() == []
    cloud.look(60)
    assert "orders-0 is STARTING. DEPLOYED: It is new." in cloud.incident.message
    cloud.change("worker", "orders-0", state="READY", reason="", message="")
    cloud.look(120)
    cloud.change("worker", "orders-0", state="LOST", reason="PROCESS_DIED", message="It died.", since=cloud.wall)
    cloud.look(30)
    assert any("PROCESS_DIED" in incident.message for incident in cloud.incidents())


@pytest.mark.parametrize(
    ("pace", "because"),
    [
        (
            {"step": "shedding", "shed": 0.3},
            "orders is overloaded: events that cannot be decided within 50ms get its fallback.",
        ),
        (
            {"step": "cheaper", "shed": None},
            "orders is scored by its cheaper version, for more comes than the released one can score.",
        ),
    ],
    ids=["sheds", "cheaper"],
)
def test_a_stream_that_sheds_decides_otherwise_for_that(cloud: Cloud, pace: dict[str, Any], because: str) -> None:
    cloud.put(Resource("default", "stream", "orders", state="READY", parent="app/shop"))
    cloud.put(Resource("default", "worker", "orders-0", state="READY", parent="stream/orders"))
    decided, name = {"approve": 0, "review": 0}, "default.worker.orders-0"
    for step in range(900):
        decided["review" if step >= 780 else "approve"] += 100
        told = pace if step >= 780 else {"step": "full", "shed": None}
        report = {"ready": True, "events": 100 * step, "by_decision": dict(decided)}
        report["pace"] = {"latency_us": 50_000, "late_since": 0, **told}
        cloud.processes[name] = ProcessStatus(name, True, pid=5, socket="s", report=report)
        cloud.look()
    otherwise = next(
        row for row in cloud.incidents() if "decides otherwise" in {c["kind"] for c in row.status["conditions"]}
    )
    assert because in [cause["told"] for cause in otherwise.status["causes"]]
    assert "`skyriver stream get orders`" in otherwise.next_action
