"""What a replica is told of where its features are read."""

from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.resources import ProcessStatus, Resource, Snapshot, Want
from skyriver.core.spec import AppSpec
from skyriver.features.plan import plan_features
from skyriver.serve.kinds import REPLICA, SERVICE
from skyriver.wiring.deploy import plan_deploy


class Order(sr.Event):
    order: int
    at: sr.Time
    customer: int
    shop: str
    amount: float


def declare(**policy: Any) -> AppSpec:
    app = sr.App("shop")
    orders = app.stream("orders", Order, id="order", time="at", key="customer")
    returned = app.labels("returned", of=orders, delay="2d")
    features = {
        "large": orders.amount > 100,
        "orders_7d": sr.count(by="customer", over="7d"),
        "of_shop": sr.mean("amount", by="shop", over="7d"),
    }
    habits = app.features("habits", orders, features)

    @app.train(habits, label=returned)
    def fit(data: object) -> object:
        return data

    model = app.model("returns", fit, serve=sr.Service(features=sr.FromStream(orders, **policy)))
    app.decide(orders, model, {"call": "score > 0.5"}, otherwise="ship")
    return app.spec


SPEC = declare(max_age="90s")
DIGEST = plan_features(SPEC.feature_set("habits"), SPEC.stream("orders")).digest
TRAINED_ON = {"set": "habits", "digest": DIGEST, "names": [], "spec": SPEC.feature_set("habits").to_json()}


def live_of(
    processes: dict[str, ProcessStatus], *, features: dict[str, Any] | None = TRAINED_ON, stream: bool = True
) -> Any:
    """What the replica of tenant `mine` is told, where tenant `theirs` has all the same."""
    rows: list[Resource] = []
    for tenant in ("mine", "theirs"):
        service = Resource(
            tenant,
            "service",
            "returns",
            spec={"serve": SPEC.model("returns").serve.to_json(), "versions": {"1": {"weight": 100}}},
            state="READY",
        )
        orders = Resource(tenant, "stream", "orders", spec={"stream": SPEC.stream("orders").to_json()}, state="READY")
        rows += [
            service,
            Resource(tenant, "version", "returns:1", spec={"version": 1, "features": features}, state="APPROVED"),
            Resource(tenant, "replica", "returns-1-1", spec={"version": 1}, state="READY", parent=service.ref),
        ]
        if stream:
            rows += [orders, Resource(tenant, "worker", "orders-0", state="READY", parent=orders.ref)]
    snapshot = Snapshot({r.key: r for r in rows}, processes, {}, 0)
    replica = snapshot.find("mine", "replica", "returns-1-1")
    assert replica is not None
    live = next(a.process.live for a in REPLICA.step(snapshot, replica) if isinstance(a, Want))
    return {name: told for name, told in live.items() if name != "proof"}


THEIRS = ProcessStatus("theirs.worker.orders-0", alive=True, socket="/run/theirs.sock")
MINE = ProcessStatus("mine.worker.orders-0", alive=True, socket="/run/mine.sock")


def test_it_is_told_of_its_own_tenant_s_worker() -> None:
    told = live_of({THEIRS.name: THEIRS, MINE.name: MINE})["from_stream"]
    assert told["socket"] == "/run/mine.sock"
    assert (told["stream"], told["features"]) == ("orders", DIGEST)
    assert (told["keys"], told["reads"]) == (["customer", "shop"], ["amount"])
    assert (told["on_unknown"], told["on_old"], told["max_age_us"]) == ("answer", "refuse", 90_000_000)
    assert told["fallback"] is None
    assert [field["name"] for field in told["fields"]] == ["order", "at", "customer", "shop", "amount"]


def test_while_its_own_worker_was_not_started_it_is_told_of_none() -> None:
    assert live_of({THEIRS.name: THEIRS})["from_stream"]["socket"] == ""


@pytest.mark.parametrize("options", [{"features": None}, {"features": {**TRAINED_ON, "spec": None}}, {"stream": False}])
def test_a_version_whose_features_are_not_known_is_not_asked_by_key(options: dict[str, Any]) -> None:
    assert live_of({MINE.name: MINE}, **options) == {}


@pytest.mark.parametrize(("state", "waits"), [("READY", []), ("DEGRADED", ["stream/orders"])])
def test_a_service_waits_for_a_stream_that_it_cannot_read(state: str, waits: list[str]) -> None:
    spec = {"serve": SPEC.model("returns").serve.to_json(), "versions": {"1": {"weight": 100}}}
    service = Resource("mine", "service", "returns", spec=spec, state="READY")
    stream = Resource("mine", "stream", "orders", spec={}, state=state)
    snapshot = Snapshot({r.key: r for r in (service, stream)}, {}, {}, 0)
    assert [*SERVICE.waits(snapshot, service)] == waits


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({}, "unknown: answered as new; away: refused"),
        (
            {"on_unknown": "refuse", "max_age": "5m", "on_old": "fallback", "fallback": 0.02},
            "unknown: refused; older than 5m or away: answered 0.02",
        ),
    ],
)
def test_a_plan_says_how_a_service_is_asked(policy: dict[str, Any], told: str) -> None:
    plan = plan_deploy(Snapshot({}, {}, {}, 0), "t", declare(**policy), {}, files={}, prune=False)
    (line,) = [line for line in plan.lines if line.kind == "service"]
    assert line.detail == f"asked by customer, shop with features from orders; {told}"
