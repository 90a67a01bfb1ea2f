from __future__ import annotations

import math
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import AppSpec, CapacitySpec
from skyriver.decide.rules.costs import DecisionCost, costs_of
from skyriver.decide.rules.ruleset import rules_of
from skyriver.decide.streams.checking import check_decisions
from skyriver.decide.streams.live import lasting

GOOD = {
    "approve": sr.Cost(positive="amount"),
    "block": sr.Cost(negative=25),
    "review": sr.Cost(4, positive="0.1 * amount + mean"),
}


def declare(costs: Any) -> AppSpec:
    app = sr.App("risk")

    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float | None
        channel: str | None

    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    paid = app.labels("paid", of=payments, delay="1d")
    behaviour = app.features("behaviour", payments, {"mean": sr.mean("amount", by="customer", over="1d")})

    @app.train(behaviour, label=paid)
    def fit(data: sr.TrainingData) -> Any: ...

    rules = {"block": "score >= 0.9", "review": "score >= 0.5"}
    app.decide(payments, app.model("fraud", fit), rules, otherwise="approve", costs=costs)
    return app.spec


def compiled(spec: AppSpec) -> dict[str, DecisionCost]:
    decide, stream, features = spec.decides[0], spec.streams[0], spec.feature_sets[0]
    assert decide.costs is not None
    return costs_of(decide.costs, rules_of(decide, stream, features), stream, features)


def test_what_an_event_costs() -> None:
    spec = declare(sr.Costs(GOOD, capacity={"review": "200/1d"}, unit="EUR"))
    check_decisions(spec)
    found = compiled(spec)
    values, features = (1, 0, 7, 50.0, "web"), (3.0,)
    assert found["approve"].of(True, features, values) == 50.0
    assert found["approve"].of(False, features, values) == 0.0
    assert found["block"].of(True, features, values) == 0.0
    assert found["block"].of(False, features, values) == 25.0
    assert found["review"].of(True, features, values) == 4 + 5 + 3
    assert found["review"].of(False, features, values) == 4
    missing = (1, 0, 7, None, "web")
    assert found["approve"].of(True, features, missing) is None
    assert found["approve"].of(False, features, missing) == 0.0
    assert found["review"].of(True, (math.nan,), values) is None
    assert spec.decides[0].costs is not None
    assert spec.decides[0].costs.capacity == (CapacitySpec(decision="review", most=200, per_us=86_400_000_000),)


def test_costs_are_told_in_json_and_change_nothing_without_them() -> None:
    spec = declare(sr.Costs(GOOD, capacity={"review": "200/1d"}, unit="EUR"))
    assert AppSpec.model_validate(spec.to_json()) == spec
    bare = declare(None)
    assert "costs" not in bare.to_json()["decides"][0]
    assert lasting(bare.to_json()["decides"][0]) == lasting(spec.to_json()["decides"][0]), "no new worker"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"approve": None}, "'approve' has no cost"),
        ({"aprove": sr.Cost()}, "nothing decides 'aprove'; did you mean 'approve'?"),
        (
            {"block": sr.Cost("amont")},
            "each= of 'block': `amont`: column 1: unknown name 'amont'; did you mean 'amount'?",
        ),
        (
            {"block": sr.Cost(positive="2 * channel")},
            "positive= of 'block': `2 * channel`: column 5: '*' needs a number",
        ),
        ({"block": sr.Cost(negative="amount > 3")}, "negative= of 'block': `amount > 3`: column 1: this is a truth"),
        ({"block": sr.Cost("score * 10")}, "unknown name 'score'"),
        ({"block": sr.Cost("at")}, "'at' is a time"),
        ({"block": sr.Cost("")}, "the rule ends"),
    ],
)
def test_costs_that_cannot_be_computed_are_refused_at_deploy(changed: dict[str, Any], message: str) -> None:
    given = {decision: cost for decision, cost in {**GOOD, **changed}.items() if cost is not None}
    with pytest.raises(InvalidInput) as caught:
        check_decisions(declare(sr.Costs(given)))
    assert (caught.value.code, caught.value.where) == ("BAD_COST", "costs of the decisions of payments")
    assert message in caught.value.message
    assert caught.value.next_action


def test_all_mistakes_of_costs_are_told_together() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_decisions(declare(sr.Costs({"block": sr.Cost("x"), "stop": sr.Cost()}, capacity={"call": "5/1d"})))
    assert [d["message"].partition(":")[0] for d in caught.value.details] == [
        "nothing decides 'stop'",
        "nothing decides 'call'",
        "'review' has no cost",
        "'approve' has no cost",
        "each= of 'block'",
    ]


@pytest.mark.parametrize("costs", [{"approve": 3}, sr.Costs({"approve": 3}), sr.Costs([1])])  # type: ignore[dict-item, arg-type]
def test_what_are_no_costs_is_refused_where_it_is_written(costs: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare(costs)
    assert caught.value.code == "BAD_COST"


@pytest.mark.parametrize("amount", [math.inf, math.nan, True, None, [1]])
def test_what_is_no_amount_is_refused(amount: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare(sr.Costs({**GOOD, "block": sr.Cost(amount)}))
    assert caught.value.code == "BAD_COST"


@pytest.mark.parametrize("capacity", ["200", "0/1d", "-1/1d", "200/1m", "x/1d", "1.5/1d", "200/day", 200])
def test_what_is_no_capacity_is_refused(capacity: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare(sr.Costs(GOOD, capacity={"review": capacity}))
    assert caught.value.code == "BAD_CAPACITY"
    assert "200/1d" in caught.value.next_action
