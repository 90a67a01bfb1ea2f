"""What a worker is told to decide with."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.core.errors import InvalidInput
from skyriver.core.names import digest
from skyriver.core.resources import (
    Delete,
    Pool,
    ProcessSpec,
    ProcessStatus,
    Put,
    Resource,
    Server,
    Snapshot,
    Want,
    WantPool,
)
from skyriver.decide.streams.dispatcher_kind import DISPATCHER
from skyriver.decide.streams.kinds import STREAM, WORKER
from skyriver.decide.streams.live import check_cheaper, lasting, live_settings
from skyriver.decide.streams.now import stream_now

DECIDE = {"model": "fraud", "rules": [{"decision": "block", "when": "score > 0.9"}], "otherwise": "", "fallback": ""}


@pytest.mark.parametrize(
    ("features", "digest"),
    [({"set": "behaviour", "digest": "d" * 64, "names": ["a"], "spec": {"name": "behaviour"}}, "d" * 64), (None, "")],
)
def test_the_model_comes_with_its_features(features: dict[str, Any] | None, digest: str) -> None:
    stream = Resource("t", "stream", "payments", spec={"stream": {}, "decide": DECIDE})
    worker = Resource("t", "worker", "payments-0", state="STARTING", parent=stream.ref)
    service = Resource("t", "service", "fraud", spec={"versions": {"1": {"weight": 100, "replicas": 1}}})
    version = Resource("t", "version", "fraud:1", spec={"artifact": "a" * 64, "features": features})
    resources = {r.key: r for r in (stream, worker, service, version)}
    wanted = next(a for a in WORKER.step(Snapshot(resources, {}, {}, 0), worker) if isinstance(a, Want))
    assert wanted.process.live is not None
    assert wanted.process.live["model"] == {
        "name": "fraud",
        "version": 1,
        "artifact": "a" * 64,
        "features_digest": digest,
        "features": features and features["spec"],
    }


@pytest.mark.parametrize("state", ["STARTING", "READY", "LOST"])
def test_a_worker_that_is_ready_stays_in_the_gateway_whatever_its_row_says_yet(state: str) -> None:
    spec = {"stream": {}, "decide": DECIDE}
    stream = Resource("t", "stream", "payments", spec=spec, state="READY", parent="app/risk")
    worker = Resource("t", "worker", "payments-0", state=state, parent=stream.ref)
    process = ProcessStatus(worker.process, alive=True, socket="/s", report={"ready": True})
    snapshot = Snapshot({r.key: r for r in (stream, worker)}, {process.name: process}, {}, 0)
    pools = [a.pool for a in STREAM.step(snapshot, stream) if isinstance(a, WantPool)]
    assert pools == [Pool("t", "payments", (Server(process.name, "/s"),))]


def test_a_changed_rule_reaches_the_worker_that_runs() -> None:
    def process(when: str) -> ProcessSpec:
        decide = {**DECIDE, "rules": [{"decision": "block", "when": when}]}
        stream = Resource("t", "stream", "payments", spec={"stream": {}, "decide": decide})
        worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)
        snapshot = Snapshot({r.key: r for r in (stream, worker)}, {}, {}, 0)
        return next(a.process for a in WORKER.step(snapshot, worker) if isinstance(a, Want))

    before, after = process("score > 0.9"), process("score > 0.8")
    assert before.config == after.config, "another configuration is another process"
    assert (before.live["rules"], after.live["rules"]) == ([["block", "score > 0.9"]], [["block", "score > 0.8"]])


def test_changed_limits_of_the_log_reach_the_worker_that_runs() -> None:
    def process(**kept: int) -> ProcessSpec:
        stream = Resource("t", "stream", "payments", spec={"stream": {"name": "payments", **kept}, "decide": None})
        worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)
        snapshot = Snapshot({r.key: r for r in (stream, worker)}, {}, {}, 0)
        return next(a.process for a in WORKER.step(snapshot, worker) if isinstance(a, Want))

    before, after = process(retention_us=0, local_bytes=1), process(retention_us=5, retention_bytes=6, local_bytes=7)
    assert before.config == after.config, "another configuration is another process"
    assert before.live["keep"] == {"retention_us": 0, "local_bytes": 1}
    assert after.live["keep"] == {"retention_us": 5, "retention_bytes": 6, "local_bytes": 7}


@pytest.mark.parametrize("state", ["STARTING", "READY", "DEGRADED"])
def test_a_stream_whose_broker_is_away_is_ready_and_says_so(state: str) -> None:
    stream = Resource("t", "stream", "payments", spec={"stream": {}, "decide": None}, state="READY", parent="app/risk")
    worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)
    source = {
        "name": "nats://h a",
        "state": state,
        "reason": "BROKER_AWAY",
        "message": "It is away.",
        "next_action": "Look.",
    }
    process = ProcessStatus(worker.process, alive=True, socket="/s", report={"ready": True, "source": source})
    snapshot = Snapshot({r.key: r for r in (stream, worker)}, {process.name: process}, {}, 0)
    after = next((a.resource for a in STREAM.step(snapshot, stream) if isinstance(a, Put)), stream)
    assert after.state == "READY"
    if state == "DEGRADED":
        assert (after.reason, after.next_action) == ("BROKER_AWAY", "Look.")
        assert "nats://h a: It is away." in after.message
    else:
        assert after.reason == ""


def test_all_that_is_wrong_with_a_stream_is_told() -> None:
    """Its features change, its broker is away, its tier too: none hides the others."""
    fields = [{"name": "payment", "type": "int"}, {"name": "at", "type": "time"}]
    spec = {
        "stream": {"name": "payments", "id": "payment", "key": "payment", "time": "at", "fields": fields},
        "decide": DECIDE,
    }
    stream = Resource("t", "stream", "payments", spec=spec, state="READY", parent="app/risk")
    worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)
    service = Resource("t", "service", "fraud", spec={"versions": {"1": {"weight": 100}}})
    version = Resource("t", "version", "fraud:1", spec=VERSION)
    away = {"reason": "BROKER_AWAY", "message": "The broker is away.", "next_action": "Look."}
    change = {"digest": "d", "state": "building", "offset": 1, "end": 2, "memory_mb": 1, "disk_mb": 1}
    report = {
        "ready": True,
        "model": {"version": 1},
        "source": {"name": "nats://h a", "state": "DEGRADED", **away},
        "features": change,
        "reason": "OBJECTS_UNREACHABLE",
        "message": "The tier is away.",
        "next_action": "Mend it.",
    }
    process = ProcessStatus(worker.process, alive=True, socket="/s", report=report)
    rows = {r.key: r for r in (stream, worker, service, version)}
    snapshot = Snapshot(rows, {process.name: process}, {}, 0)
    after = next(a.resource for a in STREAM.step(snapshot, stream) if isinstance(a, Put))
    assert after.reason == "BROKER_AWAY"
    assert "The broker is away." in after.message
    assert "are built from its history, 50% of it" in after.message
    now = stream_now(snapshot, after)
    for words in ("The broker is away.", "50% of it", "The tier is away."):
        assert now["message"].count(words) == 1
    assert now["next_action"].endswith("Mend it.")
    assert now["reason"] == "BROKER_AWAY"
    assert stream_now(snapshot, stream)["reason"] == "OBJECTS_UNREACHABLE"


def test_an_objective_reaches_the_worker_that_runs() -> None:
    def process(**objective: Any) -> ProcessSpec:
        stream = Resource("t", "stream", "payments", spec={"stream": {}, "decide": {**DECIDE, **objective}})
        worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)
        snapshot = Snapshot({r.key: r for r in (stream, worker)}, {}, {}, 0)
        return next(a.process for a in WORKER.step(snapshot, worker) if isinstance(a, Want))

    before, after = process(), process(latency_us=50_000, share=0.999)
    assert before.config == after.config, "another configuration is another process"
    assert "objective" not in before.live
    assert after.live["objective"] == {"latency_us": 50_000, "share": 0.999}
    assert process(latency_us=5_000).live["objective"] == {"latency_us": 5_000, "share": 0.99}


def test_the_version_with_the_alias_of_the_cheaper_one_reaches_the_worker() -> None:
    def found(*rows: Resource) -> dict[str, Any]:
        decide = {**DECIDE, "latency_us": 50_000, "cheaper": "small"}
        stream = Resource("t", "stream", "payments", spec={"stream": {}, "decide": decide})
        versions = [Resource("t", "version", f"fraud:{n}", spec=VERSION) for n in range(1, 80)]
        return live_settings(Snapshot({r.key: r for r in (stream, *versions, *rows)}, {}, {}, 0), stream)

    assert "cheaper" not in found()
    assert "cheaper" not in found(Resource("t", "model", "fraud", status={"aliases": {"champion": 3}}))
    model = Resource("t", "model", "fraud", status={"aliases": {"small": 2}})
    assert found(model)["cheaper"] == {
        "name": "fraud",
        "version": 2,
        "artifact": "a" * 64,
        "features_digest": "",
        "features": None,
    }


def test_an_alias_that_no_version_has_is_refused_once_there_are_versions() -> None:
    stream = SimpleNamespace(stream="payments", model="fraud", cheaper="small")
    app: Any = SimpleNamespace(decides=(stream, SimpleNamespace(stream="orders", model="fraud", cheaper="")))

    def check(*rows: Resource) -> list[tuple[str, str]]:
        return check_cheaper(Snapshot({r.key: r for r in rows}, {}, {}, 0), "t", app)

    versions = [Resource("t", "version", f"fraud:{n}", spec=VERSION) for n in (1, 12)]
    model = Resource("t", "model", "fraud", status={"aliases": {"champion": 12}})
    [(name, why)] = check()
    assert (name, "`skyriver model alias fraud small VERSION`" in why) == ("payments", True), "before it is trained"
    with pytest.raises(InvalidInput, match="'small' is no alias of a version of fraud; there are champion") as no:
        check(*versions, model)
    assert (no.value.code, no.value.where) == ("NO_CHEAPER", "stream/payments")
    assert "`skyriver model alias fraud small VERSION`" in no.value.next_action, "none of them may serve"
    approved = [replace(v, state="APPROVED") for v in versions]
    rejected = Resource("t", "version", "fraud:13", spec=VERSION, state="REJECTED")
    service = Resource("t", "service", "fraud", spec={"versions": {"12": {"weight": 100}}})
    with pytest.raises(InvalidInput) as no:
        check(*approved, rejected, model, service)
    assert "`skyriver model alias fraud small 1`" in no.value.next_action, "neither what serves nor what must not"
    assert check(*versions, replace(model, status={"aliases": {"small": 1}})) == []
    assert check(*versions, replace(model, status={"aliases": {"small": 1, "champion": 12}})) == []
    [(name, why)] = check(*versions, replace(model, status={"aliases": {"small": 12, "champion": 12}}))
    assert (name, why.partition(";")[0]) == (
        "payments",
        "'small' is version 12 of fraud, which is the released one: nothing is cheaper",
    )


def test_a_stream_that_sheds_is_ready_and_says_so_without_numbers_that_change() -> None:
    spec = {"stream": {}, "decide": {**DECIDE, "fallback": "review"}}
    stream = Resource("t", "stream", "payments", spec=spec, state="READY", parent="app/risk")
    worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)
    service = Resource("t", "service", "fraud", spec={"versions": {"1": {"weight": 100}}})
    version = Resource("t", "version", "fraud:1", spec=VERSION)

    def after(stream: Resource, cheaper: int = 0, **pace: Any) -> Resource:
        told = {"step": "shedding", "since": 3_600_000_000, "latency_us": 50_000, "why": "9 events/s come", **pace}
        report = {"ready": True, "model": {"version": 1}, "pace": told}
        report |= {"cheaper": {"name": "fraud", "version": cheaper}} if cheaper else {}
        process = ProcessStatus(worker.process, alive=True, socket="/s", report=report)
        rows = {r.key: r for r in (stream, worker, service, version)}
        found = STREAM.step(Snapshot(rows, {process.name: process}, {}, 0), stream)
        return next((a.resource for a in found if isinstance(a, Put) and a.resource.kind == "stream"), stream)

    shedding = after(stream, shed=0.5)
    assert (shedding.state, shedding.reason) == ("READY", "SHEDDING")
    assert "Since 1970-01-01 01:00:00 UTC events that cannot be decided within 50ms get the fallback 'review'" in (
        shedding.message
    )
    assert "Then 9 events/s come." in shedding.message
    assert shedding.next_action
    assert after(shedding, shed=0.4, shed_events=7) is shedding
    named = replace(stream, spec={**spec, "decide": {**spec["decide"], "cheaper": "small"}})
    assert "`skyriver model alias` gives it" in after(named).next_action
    assert "with the reason SHED. Version 4, 'small', scores the others." in after(named, 4).message
    cheaper = after(named, 4, step="cheaper")
    assert (cheaper.state, cheaper.reason) == ("READY", "CHEAPER_VERSION")
    assert "UTC version 4, 'small', scores in place of the released one. Then 9 events/s" in cheaper.message
    wide = after(named, step="threads", threads={"most": 2})
    assert (wide.state, wide.reason) == ("READY", "MORE_THREADS")
    assert "UTC every event is scored in up to 2 threads. Then 9 events/s come." in wide.message
    assert wide.next_action
    for step in ("cheaper", "shedding"):  # what it names is declared no more, and its worker uses it still
        told = after(stream, 4, step=step)
        assert "ersion 4, no longer declared, scores" in told.message
    told_late: dict[str, Any] = {"step": "full", "late_since": 3_600_000_000, "late_by": "answering"}
    late = after(stream, **told_late, busy={"scoring": 0.2})
    assert (late.state, late.reason) == ("READY", "ANSWERS_LATE")
    assert "Since 1970-01-01 01:00:00 UTC events are decided later than within 50ms" in late.message
    assert "without ?wait=decision" in late.next_action
    assert after(late, **told_late, busy={"scoring": 0.3}) is late
    for by, cause in (("recording", "the log with its disk"), ("labels", "labels, references"), ("", "not their scor")):
        other = after(late, **{**told_late, "late_by": by})
        assert cause in other.message
        assert "reading and answering" not in other.message
        assert "clients" not in other.next_action
    kept = replace(stream, spec={"stream": {}})
    assert "SHED" not in after(kept).reason
    back = after(shedding, step="full")
    assert (back.state, back.reason, back.message) == ("READY", "", "")


VERSION = {"artifact": "a" * 64, "features": None}


def live(versions: dict[str, Any], **decide: Any) -> dict[str, Any]:
    stream = Resource("t", "stream", "payments", spec={"stream": {}, "decide": {**DECIDE, **decide}})
    service = Resource("t", "service", "fraud", spec={"versions": versions})
    rows = [stream, service, *(Resource("t", "version", f"fraud:{n}", spec=VERSION) for n in (1, 2, 3))]
    return live_settings(Snapshot({r.key: r for r in rows}, {}, {}, 0), stream)


@pytest.mark.parametrize(
    ("versions", "model", "canary"),
    [
        ({"1": {"weight": 100}}, 1, None),
        ({"1": {"weight": 0}}, None, None),
        ({"1": {"weight": 100}, "2": {"weight": 0}}, 1, None),
        ({"1": {"weight": 0}, "2": {"weight": 100}}, 2, None),
        ({"1": {"weight": 90}, "2": {"weight": 10}}, 1, (2, 10.0)),
        ({"1": {"weight": 40}, "2": {"weight": 60}}, 1, (2, 60.0)),  # its keys stay its own
        ({"1": {"weight": 1}, "2": {"weight": 2}}, 1, (2, 66.67)),
        ({"1": {"weight": 5}, "2": {"weight": 45}, "3": {"weight": 50}}, 2, (3, 52.63)),
    ],
)
def test_weights_become_arms(versions: dict[str, Any], model: int | None, canary: tuple[int, float] | None) -> None:
    found = live(versions)
    assert (found["model"] or {}).get("version") == model
    assert (found["canary"] and (found["canary"]["version"], found["canary"]["percent"])) == canary
    assert found["shadow"] is None


def test_a_version_may_be_a_shadow_without_weight() -> None:
    found = live({"1": {"weight": 100}, "2": {"weight": 0, "shadow": True}})
    assert (found["model"]["version"], found["canary"], found["shadow"]["version"]) == (1, None, 2)


def test_what_explains_decisions_reaches_a_worker_without_a_restart() -> None:
    found = live({"1": {"weight": 100}}, reasons={"amount": "more than before"})["explain"]
    assert found == {"artifacts": dict.fromkeys("123", "a" * 64), "texts": {"amount": "more than before"}}
    assert lasting({**DECIDE, "reasons": {"amount": "more than before"}}) == lasting(DECIDE)


def test_a_worker_is_told_how_the_files_that_it_may_load_are_signed() -> None:
    told = live({"1": {"weight": 100}})["signed"]["a" * 64]
    assert {name: told[name] for name in ("tenant", "artifact")} == {
        "tenant": "t",
        "artifact": "a" * 64,
    }
    assert len(told["manifest"]) == 64


def test_a_changed_deadline_needs_no_new_worker() -> None:
    found = live({}, deadline_us=5_000, fallback_by=["rules"])
    assert (found["deadline_us"], found["fallback_by"]) == (5_000, ["rules"])
    assert lasting({**DECIDE, "deadline_us": 5_000, "fallback_by": ["rules"]}) == lasting(
        {**DECIDE, "deadline_us": 0, "fallback_by": []}
    )


def test_a_changed_fallback_or_objective_needs_no_new_worker() -> None:
    found = live({}, fallback="review", latency_us=50_000, cheaper="small", cpus=2)
    assert found["objective"] == {"latency_us": 50_000, "share": 0.99, "cpus": 2}
    assert (found["fallback"], found["objective"]["latency_us"]) == ("review", 50_000)
    changed = {**DECIDE, "fallback": "review", "latency_us": 50_000, "share": 0.9, "cheaper": "small", "cpus": 2}
    assert lasting(changed) == lasting(DECIDE)


def test_a_worker_that_is_started_again_for_a_deployment_says_so_and_what_it_decides_with() -> None:
    was = Resource("t", "stream", "payments", spec={"stream": {"linger_us": 0}, "decide": DECIDE}, parent="app/risk")
    stream = replace(was, state="READY", generation=2, spec={**was.spec, "stream": {"linger_us": 2_000}})
    worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)

    def stepped(stream: Resource, worker: Resource, process: ProcessStatus) -> tuple[Resource, Resource]:
        snapshot = Snapshot({r.key: r for r in (stream, worker)}, {process.name: process}, {}, 0)
        puts = [a.resource for a in (*WORKER.step(snapshot, worker), *STREAM.step(snapshot, stream)) if type(a) is Put]
        rows = {row.kind: row for row in puts}
        return rows.get("stream", stream), rows.get("worker", worker)

    def config_of(stream: Resource) -> str:
        wanted = WORKER.step(Snapshot({stream.key: stream}, {}, {}, 0), worker)
        return digest(next(dict(a.process.config) for a in wanted if isinstance(a, Want)))

    told = {"ready": True, "generation": 2}  # the live settings reach it before it ends
    old = ProcessStatus(worker.process, True, socket="/s", config_digest=config_of(was), report=told)
    stream, worker = stepped(stream, worker, old)
    assert (worker.state, worker.reason) == ("STARTING", "DEPLOYED")
    assert "generation" not in stream.status
    stream, worker = stepped(stream, worker, replace(old, alive=False, exit_code=0))
    assert (worker.state, worker.reason) == ("STARTING", "DEPLOYED"), "it did not die, it was ended"
    new = replace(old, config_digest=config_of(stream), report={"ready": False})
    stream, worker = stepped(stream, worker, new)
    assert (worker.state, worker.reason, stream.state) == ("STARTING", "DEPLOYED", "STARTING")
    stream, worker = stepped(stream, worker, replace(new, report={"ready": True, "generation": 1}))
    assert (worker.state, "generation" in stream.status) == ("READY", False)
    stream, worker = stepped(stream, worker, replace(new, report=told))
    assert (worker.reason, stream.state, stream.status["generation"]) == ("", "READY", 2)
    stream, worker = stepped(stream, worker, replace(new, alive=False, exit_code=-9))
    assert (worker.state, worker.reason) == ("LOST", "PROCESS_DIED")


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (
            {"state": "building", "digest": "d", "offset": 41, "end": 100, "memory_mb": 258, "disk_mb": 21.5},
            "FEATURES_BUILD",
        ),
        (
            {"state": "compiling", "digest": "d", "offset": 0, "end": 100, "memory_mb": 258, "disk_mb": 22},
            "FEATURES_BUILD",
        ),
        ({"state": "ready", "digest": "d", "offset": 100, "end": 100, "memory_mb": 1, "disk_mb": 22}, "FEATURES_READY"),
        (
            {"state": "waiting", "digest": "d", "offset": 100, "end": 100, "memory_mb": 1, "disk_mb": 22}
            | {"whole_from": 1_700_000_000_000_000},
            "FEATURES_WAIT",
        ),
    ],
)
def test_features_that_change_are_told_with_what_they_cost(report: dict[str, Any], reason: str) -> None:
    def step(status: dict[str, Any], now: int) -> Resource:
        spec = {"stream": {}, "decide": DECIDE}
        stream = Resource("t", "stream", "payments", spec=spec, status=status, state="READY", parent="app/risk")
        worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)
        service = Resource("t", "service", "fraud", spec={"versions": {"1": {"weight": 100}}})
        version = Resource("t", "version", "fraud:1", spec=VERSION)
        told = {"ready": True, "model": {"version": 1}, "features": report}
        process = ProcessStatus(worker.process, alive=True, socket="/s", report=told)
        rows = {r.key: r for r in (stream, worker, service, version)}
        puts = STREAM.step(Snapshot(rows, {process.name: process}, {}, now), stream)
        return next(a.resource for a in puts if isinstance(a, Put))

    after = step({}, 7)
    assert (after.state, after.reason, after.status["features"]["since"]) == ("READY", reason, 7)
    assert "MB of memory and 30 MB of disk" in after.message
    assert "skyriver run fraud" in after.next_action
    if reason == "FEATURES_BUILD":
        assert ("are compiled" if report["state"] == "compiling" else "41%") in after.message
    if reason == "FEATURES_WAIT":
        assert "from 2023-11-14 22:13 UTC on" in after.message
        assert "another name" in after.next_action
    report["offset"] = report["end"] = 99 if reason == "FEATURES_BUILD" else 101
    assert step(after.status, 8).status["features"]["since"] == 7


# The dispatcher


SINK = {"to": "bank", "on": ["block"]}


def dispatching(
    *, sinks: bool = True, began: bool = False, offset: int | None = None, opened: int | None = 0
) -> tuple[Resource, Snapshot]:
    decide = {**DECIDE, **({"sinks": [SINK]} if sinks else {})}
    spec = {"stream": {"retention_us": 1}, "decide": decide}
    stream = Resource("t", "stream", "payments", spec=spec, status={"began": began}, state="READY", parent="app/risk")
    worker = Resource("t", "worker", "payments-0", state="READY", parent=stream.ref)
    told = {"offset": offset, "opened": opened}
    report = {"ready": True, **{name: value for name, value in told.items() if value is not None}}
    process = ProcessStatus(worker.process, alive=True, socket="/s", report=report)
    return stream, Snapshot({r.key: r for r in (stream, worker)}, {process.name: process}, {}, 0)


def made(stream: Resource, snapshot: Snapshot) -> list[Resource]:
    return [a.resource for a in STREAM.step(snapshot, stream) if isinstance(a, Put) and a.resource.kind == "dispatcher"]


def test_a_stream_that_acts_on_decisions_gets_a_dispatcher() -> None:
    [dispatcher] = made(*dispatching())
    assert (dispatcher.name, dispatcher.parent, dispatcher.spec) == ("payments", "stream/payments", {"begin": 0})
    assert made(*dispatching(sinks=False)) == []
    assert made(*dispatching(began=True)) == [], "where its log ends is not known yet"
    [late] = made(*dispatching(began=True, offset=500))
    assert late.spec == {"begin": 500}, "what was decided before is not acted on"


def test_a_stream_that_is_declared_again_over_its_old_log_acts_on_nothing_old() -> None:
    assert made(*dispatching(opened=None)) == [], "whether its log is new is not known yet"
    [again] = made(*dispatching(opened=500, offset=520))
    assert again.spec == {"begin": 500}
    [new] = made(*dispatching(opened=0, offset=520))
    assert new.spec == {"begin": 0}, "though it has decided by now"
    [before] = made(*dispatching(opened=None, offset=1))
    assert before.spec == {"begin": 1}, "its worker is of an earlier release"


def test_where_a_new_stream_begins_is_noted_before_that_it_began() -> None:
    stream, snapshot = dispatching(opened=0, offset=520)
    puts = [a.resource for a in STREAM.step(snapshot, stream) if isinstance(a, Put)]
    kinds = [put.kind for put in puts if put.kind == "dispatcher" or put.status.get("began")]
    assert kinds == ["dispatcher", "stream"]


def test_the_dispatcher_goes_when_nothing_is_declared_and_its_sinks_come_live() -> None:
    stream, snapshot = dispatching()
    [dispatcher] = made(stream, snapshot)
    snapshot = Snapshot({**snapshot.resources, dispatcher.key: dispatcher}, snapshot.processes, {}, 0)
    wanted = next(a.process for a in DISPATCHER.step(snapshot, dispatcher) if isinstance(a, Want))
    assert (wanted.module, wanted.live) == ("dispatcher", {"sinks": [SINK], "began": False})
    assert "sinks" not in (lasting(stream.spec["decide"]) or {}), "changed sinks need no new worker"
    bare, without = dispatching(sinks=False)
    without = Snapshot({**without.resources, dispatcher.key: dispatcher}, without.processes, {}, 0)
    assert [type(a) for a in DISPATCHER.step(without, dispatcher)] == [Delete]
    assert bare.spec["decide"] == {k: v for k, v in stream.spec["decide"].items() if k != "sinks"}


def test_the_log_waits_for_the_dispatcher() -> None:
    stream, snapshot = dispatching()
    assert "dispatched" not in live_settings(snapshot, stream)
    [dispatcher] = made(stream, snapshot)
    process = ProcessStatus(dispatcher.process, alive=True, report={"ready": True, "offset": 10_000})
    rows = {**snapshot.resources, dispatcher.key: dispatcher}
    processes = {**snapshot.processes, process.name: process}
    assert live_settings(Snapshot(rows, processes, {}, 0), stream)["dispatched"] == 8_192, "in coarse steps"
    assert live_settings(Snapshot(rows, snapshot.processes, {}, 0), stream)["dispatched"] == 0, "it is away"


def test_a_dispatcher_that_is_ready_tells_what_does_not_go_on() -> None:
    stream, snapshot = dispatching()
    [dispatcher] = made(stream, snapshot)
    report: dict[str, Any] = {"ready": True, "reason": "SINK_AWAY", "message": "It is away.", "next_action": "Look."}
    state = dispatcher
    for alive, told, expected in ((True, report, "READY"), (False, {}, "LOST"), (True, {}, "STARTING")):
        process = ProcessStatus(dispatcher.process, alive=alive, report=told)
        now = Snapshot({stream.key: stream, state.key: state}, {process.name: process}, {}, 0)
        state = next(a.resource for a in DISPATCHER.step(now, state) if isinstance(a, Put))
        assert state.state == expected
        assert state.reason == (told.get("reason") or "PROCESS_DIED")
    assert state.status["began"]
