from __future__ import annotations

import math
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.core.errors import InvalidInput
from skyriver.core.expr import Binary, Column, Constant
from skyriver.core.spec import (
    AppSpec,
    DecideSpec,
    DecisionRule,
    FeatureSetSpec,
    FeatureSpec,
    FieldSpec,
    ModelSpec,
    StreamSpec,
    TrainSpec,
)
from skyriver.data.columns import Columns
from skyriver.decide.rules.columns import Rows, compiled, first_that_fires
from skyriver.decide.rules.ruleset import RuleSet, check_declared, compile_rules
from skyriver.decide.streams.checking import check_decisions

STREAM = StreamSpec(
    name="payments",
    fields=(
        FieldSpec(name="payment", type="int"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="customer", type="int"),
        FieldSpec(name="amount", type="float", nullable=True),
        FieldSpec(name="channel", type="text", nullable=True),
        FieldSpec(name="online", type="bool", nullable=True),
    ),
    id="payment",
    time="at",
    key="customer",
)
FEATURES = FeatureSetSpec(
    name="behaviour",
    source="payments",
    features=(
        FeatureSpec(name="amount", expr=Column(name="amount")),
        FeatureSpec(name="mean", expr=Constant(value=1.0)),
        FeatureSpec(name="customer", expr=Binary(kind="+", left=Column(name="customer"), right=Constant(value=1))),
    ),
)
VALUES = [7, 1_000_000, 3, 120.0, "web", True]
GONE = [7, 1_000_000, 3, None, None, None]


def rules(*whens: str) -> RuleSet:
    named = [(f"d{i}", w) for i, w in enumerate(whens)]
    return compile_rules(named, "approve", "review", STREAM, FEATURES)


def fires(
    when: str, score: float = 0.7, values: list[object] = VALUES, features: tuple[float, ...] = (120, 60, 4)
) -> bool:
    return rules(when).decide(score, features, values) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "when",
    [
        "score >= 0.7",
        "score > .5 and amount > 100",
        "score < 0.1 or amount >= 120",
        "not score >= 0.9",
        "amount / mean == 2",
        "amount - mean * 2 == 0",
        "-amount < -119.5",
        "2 * (amount + 1) == 242",
        'channel == "web"',
        "channel != 'shop'",
        r'channel != "a \"b\" \\"',
        'channel < "x"',
        "online",
        "online == true and not (online == false)",
        "amount is not missing",
        "payment == 7",
        "1 <= payment and payment <= 7e0",
        "true and not false or score > 2",
        "  ( ( score>0.5 ) )  ",
        "--amount == 120",
        "amount/0 is missing",
    ],
)
def test_a_rule_that_holds_fires(when: str) -> None:
    assert fires(when)


@pytest.mark.parametrize(
    "when",
    [
        "amount > 100",
        "not amount > 100",
        "not (amount > 100 and score > 0)",
        "amount == amount",
        "amount != 1",
        "amount * 2 > 1 or channel == 'web'",
        "online",
        "not online",
        "online == false",
        "mean > 0",
        "not mean > 0",
        "-amount < 1",
        "amount is not missing",
        "(amount > 100) is not missing",
    ],
)
def test_a_rule_on_something_missing_is_false(when: str) -> None:
    assert not fires(when, values=GONE, features=(math.nan, math.nan, 4))


@pytest.mark.parametrize(
    "when",
    [
        "amount is missing",
        "mean is missing",
        "amount > 100 or score > 0.5",
        "amount is missing or amount > 100",
        "not (amount > 100 and score > 0.9)",
        "(amount > 100) is missing",
        "amount + 1 is missing",
    ],
)
def test_what_does_not_hang_on_the_missing_still_fires(when: str) -> None:
    assert fires(when, values=GONE, features=(math.nan, math.nan, 4))


def test_the_first_rule_that_fires_decides() -> None:
    compiled = rules("score >= 0.9", "score >= 0.5")
    assert [compiled.decide(s, (), VALUES) for s in (0.95, 0.9, 0.5, 0.49)] == [0, 0, 1, 2]
    assert compiled.ends == (("d0", "d0"), ("d1", "d1"), ("approve", ""), ("review", ""))
    assert not compiled.needs_features
    assert rules("score > 1 or mean > 3").needs_features


def test_a_field_is_read_unrounded() -> None:
    assert fires("amount == 16777217.0", values=[1, 1, 1, 16777217.0, "", True], features=(16777216.0, 0, 0))


@pytest.mark.parametrize(
    ("when", "column", "text"),
    [
        ("score >= scor", 10, "unknown name 'scor'; did you mean 'score'?"),
        ("0.5 < \tscor", 8, "unknown name 'scor'; did you mean 'score'?"),
        ("score", 1, "this is a number, not a condition"),
        ("", 1, "the rule ends where a name"),
        ("score >=", 9, "the rule ends where a name"),
        ("score > 0.5 and", 16, "the rule ends"),
        ("score > 0.5 amount > 3", 13, "'amount' is not expected here"),
        ("0 < score < 1", 11, "comparisons cannot be chained"),
        ("score = 1", 7, "'=' is not understood here"),
        ("score > 1 & amount > 1", 11, "'&' is not understood here"),
        ("(score > 1", 11, "the ( of column 1 is not closed"),
        ("score > 1)", 10, "')' is not expected here"),
        ("channel == 'web", 12, "this text has no closing '"),
        ("channel == 3", 9, "a text cannot be compared with a number"),
        ("amount > '100'", 8, "a number cannot be compared with a text"),
        ("channel + 1 > 2", 1, "'+' needs a number here, this is a text"),
        ("1 + channel > 2", 5, "'+' needs a number here, this is a text"),
        ("amount and score > 1", 1, "'and' needs a truth here, this is a number"),
        ("score > 1 or amount", 14, "'or' needs a truth here, this is a number"),
        ("not amount", 5, "'not' needs a truth here"),
        ("online > true", 8, "truths have no order"),
        ("amount is gone", 11, "`missing` is expected after `is`"),
        ("3 is missing", 1, "a constant is never missing"),
        ("at > 3", 1, "'at' is a time"),
        ("score > 0.5 and customer > 3", 17, "both a field and a different feature"),
        ("score > and", 9, "'and' stands where a name"),
        ("(" * 41 + "online" + ")" * 41, 42, "nested at most 40 deep"),
        ("not " * 41 + "online", 165, "nested at most 40 deep"),
        ("-" * 50 + "1 > 0", 42, "nested at most 40 deep"),
        ("score > " + " " * 2000 + "1", 2001, "at most 2000 characters"),
    ],
)
def test_a_mistake_is_named_with_its_column(when: str, column: int, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        rules(when)
    assert caught.value.code == "BAD_RULE"
    assert caught.value.message.startswith(f"column {column}: ")
    assert text in caught.value.message
    assert caught.value.where == "rule 'd0' of payments"


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(InvalidInput, match="2 rules cannot be read") as caught:
        rules("scor > 1", "score > 1", "amount >")
    assert [d["where"] for d in caught.value.details] == ["rule 'd0' of payments", "rule 'd2' of payments"]


def application(when: str) -> AppSpec:
    return AppSpec(
        name="risk",
        streams=(STREAM,),
        feature_sets=(FEATURES,),
        models=(ModelSpec(name="fraud", train=TrainSpec(function="fit", features="behaviour", label="fraud")),),
        decides=(
            DecideSpec(
                stream="payments",
                model="fraud",
                rules=(DecisionRule(decision="block", when=when),),
                otherwise="approve",
                fallback="approve",
            ),
        ),
    )


def test_an_application_with_a_bad_rule_is_refused() -> None:
    check_decisions(application("score > 0.5 and mean > 3"))
    with pytest.raises(InvalidInput, match=r"column 1: unknown name 'scor'; did you mean 'score'\?"):
        check_decisions(application("scor > 0.5"))


def test_rules_with_names_may_share_a_decision() -> None:
    texts = [("block", "score >= 0.9", "certain"), ("review", "score >= 0.5"), ("block", "amount > 100", "large")]
    compiled = compile_rules(texts, "approve", "hold", STREAM, FEATURES, without_score=True)
    assert compiled.ends == (
        ("block", "certain"), ("review", "review"), ("block", "large"), ("approve", ""), ("hold", ""),
    )  # fmt: skip
    assert [compiled.decide(score, (), VALUES) for score in (0.9, 0.5, 0.1)] == [0, 1, 2]
    assert compiled.decide_without((), VALUES) == 2
    assert compiled.decide_without((), GONE) == 4
    unnamed = compile_rules([text[:2] for text in texts], "approve", "hold", STREAM, FEATURES, without_score=True)
    assert unnamed.digest != compiled.digest
    with pytest.raises(InvalidInput, match="unknown name") as caught:
        compile_rules([("block", "scor > 1", "certain")], "approve", "hold", STREAM, FEATURES)
    assert caught.value.where == "rule 'certain' of payments"


def test_the_digest_is_of_all_that_decides() -> None:
    def of(when: str, otherwise: str) -> str:
        return compile_rules([("d", when)], otherwise, "x", STREAM, None).digest

    assert of("score > 1", "a") == of("score > 1", "a")
    assert len({of("score > 1", "a"), of("score > 2", "a"), of("score > 1", "b")}) == 3


@given(st.text(alphabet=string.ascii_letters + string.digits + " .()<>=!+-*/'\"\\_&", max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    mistake = None
    try:
        rules(text)
    except InvalidInput as error:
        mistake = error
    assert mistake is None or (mistake.code == "BAD_RULE" and mistake.message.startswith("column "))


@given(
    st.recursive(
        st.sampled_from(["amount > 1", "online", "channel is missing", "score > 0.5", "mean / 0 > 1"]),
        lambda inner: (
            st.builds(lambda a, op, b: f"({a} {op} {b})", inner, st.sampled_from(["and", "or"]), inner)
            | inner.map(lambda a: f"not {a}")
        ),
        max_leaves=12,
    ),
    st.sampled_from([VALUES, GONE]),
)
def test_a_rule_and_its_negation_never_both_fire(when: str, values: list[object]) -> None:
    assert not (fires(when, values=values) and fires(f"not ({when})", values=values))


NUMBERS = ("score", "probability", "amount", "payment", "mean", "1.5", "0", "9007199254740992", "2")
TEXTS = ("channel", '"web"', '"a"', '""')
TRUTHS = ("online", "true", "false")


def sums() -> st.SearchStrategy[str]:
    name = st.sampled_from(NUMBERS)
    return st.recursive(
        name,
        lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        max_leaves=3,
    )


def conditions() -> st.SearchStrategy[str]:
    comparisons = st.tuples(sums(), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), sums())
    texts = st.tuples(st.sampled_from(TEXTS), st.sampled_from(["==", "!=", "<", ">="]), st.sampled_from(TEXTS))
    truths = st.tuples(st.sampled_from(TRUTHS), st.sampled_from(["==", "!="]), st.sampled_from(TRUTHS))
    asked = st.tuples(
        st.sampled_from(["amount", "channel", "online", "mean", "score", "probability", "(amount / payment)"]),
        st.sampled_from(["is missing", "is not missing"]),
    )
    leaf = st.one_of(st.sampled_from(TRUTHS), *(s.map(" ".join) for s in (comparisons, texts, truths, asked)))
    joined = lambda inner: st.one_of(  # noqa: E731
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda text: f"not ({text})"),
    )
    return st.recursive(leaf, joined, max_leaves=5)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 1.5, 2.0]),  # score
        st.sampled_from([math.nan, 0.0, 1.5, math.inf, -math.inf]),  # mean, a feature
        st.sampled_from([0, 2, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1]),  # payment
        st.sampled_from([None, 0.0, 1.5, 1e308, -2.0]),  # amount
        st.sampled_from([None, "", "a", "web"]),
        st.sampled_from([None, True, False]),
        st.sampled_from([None, 0.0, 0.5]),  # probability
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(conditions(), min_size=1, max_size=3), EVENTS)
def test_many_events_are_decided_as_each_alone(whens: list[str], events: list[tuple[Any, ...]]) -> None:
    decided = rules(*whens)
    rows = [[payment, 0, 1, amount, channel, online] for _, _, payment, amount, channel, online, _ in events]
    features = np.array([[0.0, mean, 0.0] for _, mean, *_ in events], np.float32)
    scores = np.array([score for score, *_ in events], np.float64)
    alone = [
        decided.decide(float(score), vector, row, event[-1])
        for score, vector, row, event in zip(scores, features.tolist(), rows, events, strict=True)
    ]
    assert alone == [
        next(
            (n for n, (_, fires) in enumerate(decided.rules) if fires(float(score), vector, row, event[-1]) is True),
            len(whens),
        )
        for score, vector, row, event in zip(scores, features.tolist(), rows, events, strict=True)
    ], "its closures say the same"
    probabilities = np.array([math.nan if said is None else said for *_, said in events], np.float32)
    columns = Columns.of_rows(STREAM.fields, rows)
    given = Rows(scores, features, columns, probabilities)
    assert decided.decide_columns(given).tolist() == alone
    assert first_that_fires(compiled(decided.trees), given).tolist() == alone, "few are decided one by one, many so"


def test_a_model_without_probabilities_says_none() -> None:
    decided = rules("probability >= 0", "probability is missing")
    assert decided.decide(0.5, (), VALUES) == 1  # type: ignore[arg-type]
    rows = Rows(np.array([0.5]), None, Columns.of_rows(STREAM.fields, [VALUES]))  # type: ignore[list-item]
    assert decided.decide_columns(rows).tolist() == [1]


def test_what_reads_the_probability_does_not_decide_without_a_score() -> None:
    texts = [("a", "not probability > 0.5"), ("b", "amount > 100 or probability > 0.5"), ("c", "amount > 100")]
    decided = compile_rules(texts, "approve", "review", STREAM, FEATURES, without_score=True)
    assert decided.without_score == (2,)


def test_a_field_that_is_called_probability_keeps_its_meaning() -> None:
    own = FieldSpec(name="probability", type="int")
    stream = STREAM.model_copy(update={"fields": (*STREAM.fields, own)})
    decided = compile_rules([("d", "probability > 5")], "approve", "review", stream, None)
    assert decided.decide(0.9, (), [*VALUES, 7], 0.5) == 0  # type: ignore[list-item]


def nested() -> str:
    when = "amount > 100"
    for _ in range(18):
        when = f"({when}) is missing or online"
    return when


@pytest.mark.parametrize(
    "when",
    [
        nested(),
        "+".join(["amount"] * 195) + " > 20000",
        "/".join(["mean"] * 195) + " < 1",
        "(" * 39 + "online" + ")" * 39,
    ],
)
def test_a_rule_that_would_be_too_long_as_source_is_run_by_its_closure(when: str) -> None:
    decided = rules(when, "score > 0")
    for values in (VALUES, GONE):
        expected = 0 if decided.rules[0][1](0.5, (120, 60, 4), values, None) is True else 1  # type: ignore[arg-type]
        assert decided.decide(0.5, (120, 60, 4), values) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", ["+", "/"])
def test_a_calculation_of_too_many_parts_is_refused(sign: str) -> None:
    with pytest.raises(InvalidInput, match="column 1: a rule is computed in at most 200 steps"):
        rules(sign.join(["1"] * 900) + " > score")


@pytest.mark.parametrize("sign", ["+", "/"])
def test_one_that_was_declared_before_there_was_a_bound_goes_on(sign: str) -> None:
    when = sign.join(["1"] * 350) + " > score"
    decided = rules(when, "score > 0")
    given = Rows(np.full(3, 0.5), None, Columns.of_rows(STREAM.fields, [VALUES] * 3), None)
    assert decided.decide(0.5, (120, 60, 4), VALUES) == 0  # type: ignore[arg-type]
    assert first_that_fires(compiled(decided.trees), given).tolist() == [0, 0, 0]
    with pytest.raises(InvalidInput, match="column 1: a rule is computed in at most 200 steps"):
        check_declared(decided, STREAM)
