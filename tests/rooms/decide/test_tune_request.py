from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import AppSpec, CapacitySpec
from skyriver.core.units import DAY
from skyriver.decide.rules.ruleset import rules_of
from skyriver.decide.streams.tune_request import TuneRequest

COSTS = sr.Costs(
    {"approve": sr.Cost(positive="amount"), "block": sr.Cost(negative=25), "review": sr.Cost(4)},
    capacity={"review": "200/1d"},
    unit="EUR",
)


def declare(costs: sr.Costs | None = COSTS, **more: Any) -> AppSpec:
    app = sr.App("risk")

    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float

    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    app.stream("visits", Payment, id="payment", time="at", key="customer")
    bad = app.labels("bad", of=payments, delay="1d")

    @app.train(app.features("behaviour", payments, {"amount": payments.amount}), label=bad)
    def fit(data: sr.TrainingData) -> Any: ...

    rules = [sr.Rule("review", "score >= 0.5"), sr.Rule("block", "score >= 0.9", name="certain")]
    app.decide(payments, app.model("fraud", fit), rules, otherwise="approve", costs=costs, **more)
    return app.spec


def test_what_is_declared_is_asked_unless_something_else_is_given() -> None:
    asked = TuneRequest.of(declare(), "payments", {})
    assert (asked.hold_out_us, asked.rules, asked.seed) == (0, (), 0)
    assert asked.costs == declare().decides[0].costs
    given = {
        "costs": ["block.negative=2 * amount", "review = 5", "approve.each=1"],
        "reviews": ["50/1d", "block=10/2h"],
        "hold_out": "30d",
        "rules": ["certain"],
        "seed": 7,
    }
    other = TuneRequest.of(declare(), "payments", given)
    costs = {own.decision: (own.each, own.positive, own.negative) for own in other.costs.of}
    assert costs == {"approve": ("1", "amount", "0"), "block": ("0", "0", "2 * amount"), "review": ("5", "0", "0")}
    assert other.costs.capacity == (
        CapacitySpec(decision="review", most=50, per_us=DAY),
        CapacitySpec(decision="block", most=10, per_us=DAY // 12),
    )
    assert (other.hold_out_us, other.rules, other.seed, other.costs.unit) == (30 * DAY, ("certain",), 7, "EUR")


def test_costs_may_be_given_where_none_are_declared() -> None:
    given = {"costs": ["approve.positive=amount", "block=25", "review=4"]}
    assert len(TuneRequest.of(declare(None), "payments", given).costs.of) == 3
    with pytest.raises(InvalidInput) as caught:
        TuneRequest.of(declare(None), "payments", {"costs": ["approve.positive=amount", "block=25"]})
    assert "'review' has no cost" in caught.value.message
    assert "--cost review=0" in caught.value.next_action


def test_rules_are_named_in_the_order_in_which_they_are_asked() -> None:
    """By strictness it is another one than the one they are declared in."""
    spec = declare(combine=sr.Strictest("block", "review"))
    rules = rules_of(spec.decides[0], spec.streams[0], spec.feature_sets[0])
    assert TuneRequest.of(spec, "payments", {"rules": ["certain"]}).places(rules) == {0}
    assert TuneRequest.of(spec, "payments", {}).places(rules) == {0, 1}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"cost": []}, "BAD_PARAMETER"),
        ({"costs": "block=1"}, "BAD_PARAMETER"),
        ({"costs": [1]}, "BAD_PARAMETER"),
        ({"costs": ["block"]}, "BAD_COST"),
        ({"costs": ["block.never=1"]}, "BAD_COST"),
        ({"costs": ["stop=1"]}, "BAD_COST"),
        ({"costs": ["block=amount >"]}, "BAD_COST"),
        ({"costs": ["block="]}, "BAD_COST"),
        ({"reviews": ["0/1d"]}, "BAD_CAPACITY"),
        ({"reviews": ["stop=5/1d"]}, "BAD_COST"),
        ({"hold_out": 5}, "BAD_PARAMETER"),
        ({"hold_out": "1d"}, "BAD_PARAMETER"),
        ({"hold_out": "soon"}, "BAD_DURATION"),
        ({"rules": ["block"]}, "UNKNOWN_NAME"),
        ({"seed": -1}, "BAD_PARAMETER"),
        ({"seed": True}, "BAD_PARAMETER"),
        ({"seed": "x"}, "BAD_PARAMETER"),
    ],
)
def test_what_cannot_be_asked_is_refused(params: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        TuneRequest.of(declare(), "payments", params)
    assert caught.value.code == code


def test_reviews_of_no_decision_name_those_that_there_are() -> None:
    app = declare()
    decide = app.decides[0]
    rules = (decide.rules[0].model_copy(update={"decision": "inspect"}), decide.rules[1])
    other = app.model_copy(update={"decides": (decide.model_copy(update={"rules": rules}),)})
    for text in ("abc", "200/1d"):
        with pytest.raises(InvalidInput) as caught:
            TuneRequest.of(other, "payments", {"reviews": [text]})
        assert caught.value.code == "BAD_CAPACITY"
        assert "'review'" not in caught.value.message
        assert "DECISION=200/1d, of approve, block, inspect" in caught.value.next_action
    with pytest.raises(InvalidInput) as caught:
        TuneRequest.of(app, "payments", {"reviews": ["abc"]})
    assert "how many 'review' there may be" in caught.value.message


@pytest.mark.parametrize(
    ("stream", "costs", "code"), [("visits", COSTS, "NO_DECISIONS"), ("payments", None, "NO_COSTS")]
)
def test_what_there_is_to_tune(stream: str, costs: sr.Costs | None, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        TuneRequest.of(declare(costs), stream, {})
    assert caught.value.code == code
    assert caught.value.next_action
