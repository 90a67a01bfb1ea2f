from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import AppSpec, DecideSpec, DecisionExample, DecisionRule, ReviewSpec
from skyriver.decide.streams.checking import check_decisions

RULES = {
    "block": "score >= 0.9",
    "call": "score >= 0.5 and (amount > 1000 or amount is missing)",
    "hold": "channel == 'x'",
}


def declare(*examples: tuple[str, dict[str, Any]], rules: Any = RULES, **more: Any) -> AppSpec:
    app = sr.App("risk")

    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float | None
        channel: str | None
        online: bool | None

    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    paid = app.labels("paid", of=payments, delay="1d")
    behaviour = app.features("behaviour", payments, {"mean": sr.mean("amount", by="customer", over="1d")})

    @app.train(behaviour, label=paid)
    def fit(data: sr.TrainingData) -> Any: ...

    decisions = app.decide(payments, app.model("fraud", fit), rules, otherwise="approve", **more)
    for decision, values in examples:
        assert decisions.example(decision, **values) is decisions
    return app.spec


def refused(*examples: tuple[str, dict[str, Any]], **more: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        check_decisions(declare(*examples, **more))
    return caught.value


def test_examples_that_the_rules_decide_so_are_taken() -> None:
    spec = declare(
        ("block", {"score": 0.95}),
        ("call", {"score": 0.5, "amount": None}),
        ("call", {"score": 0.5}),
        ("call", {"score": 0.6, "amount": 1_001}),
        ("approve", {"score": 0.6, "amount": 1_000.0, "online": True}),
        ("hold", {"score": 0.1, "channel": "x", "mean": 3}),
        ("review", {"amount": 3.0}),
        ("review", {}),
        fallback="review",
    )
    check_decisions(spec)
    assert AppSpec.model_validate(spec.to_json()) == spec
    assert AppSpec.model_validate_json(spec.model_dump_json()).decides[0].examples == spec.decides[0].examples


def test_without_a_score_the_rules_that_read_none_decide_where_that_is_declared() -> None:
    check_decisions(declare(("hold", {"channel": "x"}), ("review", {}), fallback="review", fallback_by=("rules",)))
    error = refused(("hold", {"channel": "x"}), fallback="review")
    assert error.message == (
        "channel='x' is decided 'review' (there is no score, so the fallback decides), where 'hold' is expected"
    )


def test_an_example_that_is_decided_otherwise_is_refused() -> None:
    error = refused(("block", {"score": 0.95}), ("approve", {"score": 0.7, "amount": 2_000}))
    assert (error.code, error.where) == ("EXAMPLE_FAILED", "example 2 of the decisions of payments")
    assert error.message == (
        "score=0.7, amount=2000 is decided 'call' (the rule 'call' fires:"
        " `score >= 0.5 and (amount > 1000 or amount is missing)`), where 'approve' is expected"
    )
    assert "Correct the rules, or the example" in error.next_action
    assert "(no rule fires)" in refused(("hold", {"score": 0.1})).message
    assert refused(("block", {})).message.startswith("an event of which nothing is known is decided 'approve'")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (("stop", {"score": 1.0}), "nothing decides 'stop'"),
        (("block", {"scor": 1.0}), "unknown name 'scor'; did you mean 'score'?"),
        (("block", {"at": 3}), "'at' is a time; rules know numbers, texts and truths"),
        (("block", {"score": "high"}), "score='high' is a text, and score is a number"),
        (("block", {"score": True}), "score=True is a truth, and score is a number"),
        (("block", {"online": 1}), "online=1 is a number, and online is a truth"),
        (("block", {"channel": 5}), "channel=5 is a number, and channel is a text"),
    ],
)
def test_an_example_that_says_nothing_is_refused(example: tuple[str, dict[str, Any]], message: str) -> None:
    error = refused(example)
    assert error.code == "BAD_EXAMPLE"
    assert error.message.startswith(message)
    assert error.next_action


def test_an_example_that_no_event_can_be_is_refused() -> None:
    """Given is what a field has once it was taken: bounds hold of that, whatever its scale is."""
    app = sr.App("plant")

    class Reading(sr.Event):
        reading: int
        at: sr.Time
        machine: int = sr.field(ge=1, le=9)
        temp: float | None = sr.field(gt=-50, le=400, scale=0.1)
        mode: str = sr.field(one_of=("run", "idle"))

    app.stream("readings", Reading, id="reading", time="at", key="machine")
    app.model("wear", onnx="wear.onnx")

    def check(**given: Any) -> None:
        decide = DecideSpec(
            stream="readings",
            model="wear",
            rules=(DecisionRule(decision="inspect", when="score > 0.5"),),
            otherwise="go",
            fallback="go",
            examples=(DecisionExample(decision="inspect", given={"score": 0.9, **given}),),
        )
        check_decisions(app.spec.model_copy(update={"decides": (decide,)}))

    check(temp=400, machine=9, mode="idle")
    check(temp=None, machine=9.0)
    for values, told in (
        ({"temp": 1e9}, "no event has temp=1000000000.0: temp is 1000000000.0: it must be"),
        ({"temp": -50}, "no event has temp=-50"),
        ({"machine": 0}, "no event has machine=0"),
        ({"machine": 1.5}, "no event has machine=1.5"),
        ({"mode": "walk"}, "no event has mode='walk': mode is 'walk': it must be one of 'idle', 'run'"),
    ):
        with pytest.raises(InvalidInput) as caught:
            check(**values)
        assert caught.value.code == "BAD_EXAMPLE"
        assert caught.value.message.startswith(told)
        assert caught.value.next_action


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", [1], object()])
def test_what_is_no_value_is_refused_where_it_is_written(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare(("block", {"score": value}))
    assert caught.value.code == "BAD_EXAMPLE"


def test_all_mistakes_are_told_together_and_rules_first() -> None:
    error = refused(("block", {"score": 0.1}), ("stop", {}), ("approve", {"score": 0.1}))
    assert error.message.startswith("2 examples do not hold:\n  - example 1 of the decisions of payments: score=0.1 is")
    assert error.message.count("score=0.1 is decided") == 1
    assert [(d["where"][:9], d["code"]) for d in error.details] == [
        ("example 1", "EXAMPLE_FAILED"),
        ("example 2", "BAD_EXAMPLE"),
    ]
    assert refused(("stop", {}), rules={"block": "scor > 1"}).code == "BAD_RULE"


@given(limit=st.floats(0, 1, width=32), score=st.floats(0, 1))
def test_scores_and_features_are_those_of_a_stream_which_are_float32(limit: float, score: float) -> None:
    import numpy as np

    rules = {"block": f"score >= {limit!r} and mean >= {limit!r}"}
    wanted = "block" if float(np.float32(score)) >= limit else "approve"
    check_decisions(declare((wanted, {"score": score, "mean": score}), rules=rules))


def test_rules_are_told_by_their_names() -> None:
    rules = [sr.Rule("block", "score >= 0.9", name="certain"), sr.Rule("block", "amount > 5", name="large")]
    check_decisions(declare(("block", {"score": 0.95}), ("block", {"score": 0.1, "amount": 6}), rules=rules))
    error = refused(("approve", {"score": 0.1, "amount": 6}), rules=rules)
    assert "(the rule 'large' fires: `amount > 5`)" in error.message


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([sr.Rule("block", "score > 1"), sr.Rule("block", "amount > 1")], "2 rules of payments are called 'block'."),
        ([sr.Rule("block", "score > 1", name="a"), sr.Rule("hold", "amount > 1", name="a")], "2 rules of payments are"),
        ([("block", "score > 1")], "('block', 'score > 1') is no rule."),
    ],
)
def test_rules_that_are_none_are_refused(rules: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare(rules=rules)
    assert message in caught.value.message


def test_a_division_by_zero_is_refused_with_its_column() -> None:
    error = refused(rules={"block": "score > 0.5 and amount / (2 - 2) > 3"})
    assert (error.code, error.where) == ("BAD_RULE", "rule 'block' of payments")
    assert error.message == "column 27: this divides by zero, which is missing for every event"
    assert "Divide by something else" in error.next_action
    assert refused(rules={"block": "amount / 0 > 3"}).message.startswith("column 10: ")
    costs = sr.Costs({"block": sr.Cost("amount / 0"), "approve": sr.Cost()})
    error = refused(rules={"block": "score > 0.5"}, costs=costs)
    assert (error.code, error.where) == ("BAD_COST", "costs of the decisions of payments")


def test_a_list_called_as_a_feature_of_its_rules_is_refused() -> None:
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    paid = app.labels("paid", of=payments, delay="1d")
    behaviour = app.features("behaviour", payments, {"denied": sr.count(by="customer", over="1d")})
    app.list("denied", of=payments, id="customer")

    @app.train(behaviour, label=paid)
    def fit(data: sr.TrainingData) -> Any: ...

    app.decide(payments, app.model("fraud", fit), {"block": "denied > 1"}, otherwise="approve")
    with pytest.raises(InvalidInput) as caught:
        check_decisions(app.spec)
    assert (caught.value.code, caught.value.where) == ("BAD_REFERENCE", "list denied of payments")
    assert "a feature that its rules read" in caught.value.message


def test_examples_change_nothing_that_decides() -> None:
    bare, told = declare(), declare(("block", {"score": 1.0}))
    assert "examples" not in bare.to_json()["decides"][0]
    assert bare.digest() != told.digest()


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    amount: float | None


class Limit(sr.Event):
    customer: int
    amount: float | None
    word: str | None


def with_lists(*examples: tuple[str, dict[str, Any]], rules: Any) -> AppSpec:
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="1d")
    app.list("denied", of=payments, id="customer")
    app.list("limits", Limit, of=payments, id="customer")
    features = app.features("behaviour", payments, {"amount": payments.amount})

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    decisions = app.decide(payments, app.model("fraud", fit), rules, otherwise="approve")
    for decision, values in examples:
        decisions.example(decision, **values)
    return app.spec


LISTED = {"block": "customer in denied", "ask": "amount > limits.amount"}


def test_examples_give_the_rows_of_lists() -> None:
    spec = with_lists(
        ("block", {"score": 0.1, "customer": 1, "denied": [2, 1]}),
        ("approve", {"score": 0.1, "customer": 1, "denied": [2]}),
        ("approve", {"score": 0.1, "denied": [2]}),
        ("ask", {"score": 0.1, "customer": 1, "amount": 9.0, "limits": [{"customer": 1, "amount": 8}, 2]}),
        ("approve", {"score": 0.1, "customer": 2, "amount": 9.0, "limits": [{"customer": 1, "amount": 8}, 2]}),
        rules=LISTED,
    )
    assert check_decisions(spec) == []
    assert AppSpec.model_validate_json(spec.model_dump_json()).decides[0].examples == spec.decides[0].examples


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"denied": [{"note": "x"}]}, "a row of denied has no customer"),
        ({"limits": [{"customer": 1, "amout": 5}]}, "unknown name 'amout'; did you mean 'amount'?"),
        ({"limits": [{"customer": 1, "amount": "5"}]}, "amount='5' is a text, and amount is a number"),
        ({"limits": [{"customer": 1, "until": 5}]}, "unknown name 'until'"),
        ({"denied": ["x"]}, "customer='x' is a text, and customer is a number"),
        ({"limits.amount": 5}, "'limits.amount' is what a list says, and is given by its rows"),
        ({"denied": 5}, "'denied' is a list: ask whether something is on it"),
    ],
)
def test_rows_of_lists_that_say_nothing_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_decisions(with_lists(("block", {"score": 0.1, "customer": 1, **given}), rules=LISTED))
    assert caught.value.code == "BAD_EXAMPLE"
    assert words in caught.value.message


def test_an_example_with_lists_that_fails_tells_them() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_decisions(with_lists(("ask", {"score": 0.1, "customer": 1, "denied": [1]}), rules=LISTED))
    assert "score=0.1, customer=1, denied=[{'customer': 1}] is decided 'block'" in caught.value.message


def test_an_answer_of_people_is_a_label_that_the_model_can_be_trained_on() -> None:
    def with_answers(answers: dict[str, float]) -> AppSpec:
        spec = declare(rules={"block": "score >= 0.9", "look": "score >= 0.5"})
        times = {"within_us": 10**9, "lease_us": 10**8}
        review = ReviewSpec(decision="look", label="paid", answers=answers, **times)
        return spec.model_copy(update={"decides": (spec.decides[0].model_copy(update={"reviews": (review,)}),)})

    check_decisions(with_answers({"block": 1, "approve": 0}))
    with pytest.raises(InvalidInput, match="'approve' sends 7 as the label paid") as caught:
        check_decisions(with_answers({"block": 1, "approve": 7}))
    assert caught.value.code == "BAD_REVIEW"
    assert caught.value.next_action


def test_rows_of_a_list_that_nobody_declares() -> None:
    with pytest.raises(InvalidInput, match="there is no list 'denied'") as caught:
        declare(("block", {"denied": [17]}))
    assert caught.value.next_action == "app.list declares one."
