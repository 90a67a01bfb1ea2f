"""What a worker is told to decide with."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.core.resources import Pool, ProcessSpec, ProcessStatus, Put, Resource, Server, Snapshot, Want, WantPool
from skyriver.decide.kinds import STREAM, WORKER

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
