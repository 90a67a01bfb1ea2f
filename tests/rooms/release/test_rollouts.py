"""A rollout and the streams that decide with its model: what fits, and what is waited for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import Conflict
from skyriver.core.resources import Put, Resource, Snapshot
from skyriver.features.plan import plan_features
from skyriver.release.operations import plan_rollback
from skyriver.release.rollouts import PROMOTE_LIMIT_US, ROLLOUT


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    amount: float


def declare(over: str) -> Any:
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="0us")
    features = app.features("behaviour", payments, {"mean": sr.mean("amount", by="customer", over=over)})

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    app.decide(payments, app.model("fraud", fit), {"block": "score >= 0.9"}, otherwise="approve")
    return app.spec


NOW, BEFORE = declare("1d"), declare("7d")


def trained_on(app: Any, *, with_spec: bool = True) -> dict[str, Any]:
    features = app.feature_sets[0]
    digest = plan_features(features, app.streams[0]).digest
    return {"set": features.name, "digest": digest, "spec": features.to_json() if with_spec else None}


def snapshot(trained: dict[str, Any], now: int = 0, **status: Any) -> tuple[Snapshot, Resource]:
    """A stream that computes the features of NOW, and a rollout of a version that was trained on `trained`."""
    spec = {"stream": NOW.streams[0].to_json(), "features": NOW.feature_sets[0].to_json(), "decide": {"model": "fraud"}}
    versions = {"1": {"weight": 0}, "2": {"weight": 100}}
    rollout_spec = {"model": "fraud", "to": 2, "strategy": "instant", "cause": "release"}
    rows = [
        Resource("t", "stream", "payments", spec=spec, status=status, state="READY"),
        Resource("t", "model", "fraud", spec={"model": NOW.models[0].to_json()}, state="DECLARED"),
        Resource("t", "version", "fraud:2", spec={"features": trained}, state="APPROVED"),
        Resource(
            "t",
            "service",
            "fraud",
            spec={"versions": versions, "serve": {"replicas": 1}},
            status={"ready": {"2": 1}, "routed": "2"},
        ),
        Resource("t", "rollout", "fraud-1", spec=rollout_spec, status={"from": 1}, state="PENDING"),
    ]
    return Snapshot({r.key: r for r in rows}, {}, {}, now), rows[-1]


def step(found: Snapshot, rollout: Resource) -> Resource | None:
    puts = [a.resource for a in ROLLOUT.step(found, rollout) if isinstance(a, Put) and a.resource.kind == "rollout"]
    return puts[0] if puts else None


@pytest.mark.parametrize(
    ("features", "fits"),
    [
        (trained_on(NOW), True),
        (trained_on(NOW, with_spec=False), True),
        (trained_on(BEFORE), True),  # its worker builds them
        (trained_on(BEFORE, with_spec=False), False),
        ({"set": "behaviour", "digest": "0" * 64, "spec": NOW.feature_sets[0].to_json() | {"name": "other"}}, False),
    ],
)
def test_a_version_of_features_that_no_stream_can_compute_is_refused(features: dict[str, Any], fits: bool) -> None:
    found, rollout = snapshot(features)
    after = step(found, rollout)
    assert after is not None
    assert after.state == ("PROMOTING" if fits else "ABORTED")
    if not fits:
        assert after.reason == "MODEL_OF_OTHER_FEATURES"
        assert "payments neither computes nor can build" in after.message
        assert "skyriver run fraud" in after.next_action
        rows = {key: row for key, row in found.resources.items() if row.kind != "rollout"}
        with pytest.raises(Conflict, match="neither computes nor can build") as caught:
            plan_rollback(Snapshot(rows, {}, {}, 0), "t", "fraud", {"version": 2}, {})
        assert caught.value.code == "MODEL_OF_OTHER_FEATURES"


@pytest.mark.parametrize(
    ("state", "since", "breached"),
    [("building", 0, False), ("joining", 0, False), ("ready", 0, True), ("ready", 10 * PROMOTE_LIMIT_US - 1, False)],
)
def test_no_time_counts_while_a_stream_builds_what_the_version_reads(state: str, since: int, breached: bool) -> None:
    features = trained_on(BEFORE)
    changing = {"digest": features["digest"], "state": state, "since": since}
    found, rollout = snapshot(features, 10 * PROMOTE_LIMIT_US, features=changing, model_version=1)
    promoting = Resource("t", "rollout", "fraud-1", spec=rollout.spec, status=rollout.status, state="PROMOTING")
    after = step(found, promoting)
    assert (after is not None and after.reason == "TIMED_OUT") == breached


@pytest.mark.parametrize("building", [True, False])
def test_a_version_whose_features_are_being_built_has_no_share_beside_the_one_before(building: bool) -> None:
    features = trained_on(BEFORE if building else NOW)
    changing = {"digest": features["digest"], "state": "building", "since": 0} if building else None
    found, rollout = snapshot(features, features=changing, model_version=1)
    canary = {"strategy": "canary", "canary": sr.Canary([10, 100]).spec.to_json()}
    by_steps = replace(rollout, spec={**rollout.spec, **canary})
    model = replace(found.resources["t", "model", "fraud"], status={"aliases": {"champion": 1}})
    rows = {**found.resources, model.key: model, by_steps.key: by_steps}
    after = step(Snapshot(rows, {}, {}, 0), by_steps)
    assert after is not None
    assert after.state == ("PROMOTING" if building else "CANARY")
