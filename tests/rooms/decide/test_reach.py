from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from skyriver.core.expr import Aggregate, Binary, Calendar, Column, Constant, Same, Unary
from skyriver.core.spec import FeatureSetSpec, FeatureSpec, FieldSpec, StreamSpec
from skyriver.decide.rules.reach import never_fire
from skyriver.decide.rules.ruleset import compile_rules

STREAM = StreamSpec(
    name="payments",
    fields=(
        FieldSpec(name="payment", type="int"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="amount", type="float", nullable=True, ge=0, lt=100),
        FieldSpec(name="count", type="int", nullable=True),
        FieldSpec(name="tier", type="text", one_of=("gold", "silver"), nullable=True),
        FieldSpec(name="channel", type="text", nullable=True),
        FieldSpec(name="online", type="bool", nullable=True),
        FieldSpec(name="home", type="bool"),
    ),
    id="payment",
    time="at",
    key="payment",
)
FEATURES = FeatureSetSpec(
    name="behaviour", source="payments", features=(FeatureSpec(name="mean", expr=Constant(value=1.0)),)
)
COMPUTED = FeatureSetSpec(
    name="computed",
    source="payments",
    features=(
        FeatureSpec(
            name="night",
            expr=Binary(kind="<", left=Calendar(part="hour", of=Column(name="at")), right=Constant(value=6)),
        ),
        FeatureSpec(name="hour", expr=Calendar(part="hour", of=Column(name="at"))),
        FeatureSpec(name="weekday", expr=Calendar(part="weekday", of=Column(name="at"))),
        FeatureSpec(name="many", expr=Aggregate(kind="count", by="payment", over_us=1)),
        FeatureSpec(name="web", expr=Same(column="channel", text="web")),
        FeatureSpec(name="unknown", expr=Unary(kind="is_missing", of=Column(name="amount"))),
    ),
)


def told(*whens: str, without_score: bool = False) -> dict[str, str]:
    texts = [(f"d{n}", when) for n, when in enumerate(whens)]
    rules = compile_rules(texts, "ok", "ok", STREAM, FEATURES, without_score=without_score)
    return dict(never_fire(rules, STREAM))


@pytest.mark.parametrize(
    "when",
    [
        "score > 0.9 and score < 0.5",
        "probability > 1",
        "probability < 0 or probability is missing and probability > 0",
        "score > 0.5 and score <= 0.5",
        "score == 0.5 and score != 0.5",
        "not (score > 0.5 or score <= 0.5)",
        "amount > 100",
        "amount >= 100",
        "amount < 0",
        "0 > amount",
        "amount is missing and amount > 1",
        "home is missing",
        "score is missing",
        "online and not online",
        "online == true and online == false",
        'tier == "bronze"',
        'tier != "gold" and tier != "silver"',
        'channel == "web" and channel == "app"',
        'channel == "web" and channel != "web"',
        "amount + count > 3 and not amount + count > 3",
        "false",
        "1 > 2",
        "1 > 2 or 3 * 4 < 5",
        "not (1 < 2)",
        "1 == 1 and false",
        "amount > 50 * 4",
        "0 - 1 > amount",
        "amount / 0 > 3",
        "not (amount / 0 > 3)",
        "amount / (2 - 2) + count is not missing",
        "amount / 0 > 3 or amount / 0 <= 3",
        "home and home is missing or amount > 200",
    ],
)
def test_what_contradicts_itself_or_the_declaration_never_fires(when: str) -> None:
    assert told(when) == {"d0": f"nothing can be as it demands: `{when}`"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("score >= 0.5", "score >= 0.9"),
        ("probability >= 0.5", "probability >= 0.9"),
        ("score >= 0.5", "score >= 0.5"),
        ("score >= 0.5", "score > 0.5 and amount > 3"),
        ("score >= 0.5 or online", "score >= 0.9 or online and home"),
        ("amount >= 0 or amount is missing", "score > 0.9 and amount >= 0"),
        ("amount is not missing", "amount > 3"),
        ("true", "score > 0.5"),
        ('tier == "gold" or tier == "silver"', 'tier == "gold"'),
        ('tier != "gold"', 'tier == "silver"'),
        ("score != 0.5", "score > 0.5"),
        ("amount / count > 2", "amount / count > 2 and online"),
        ("not online", "online == false and home"),
        ("mean > 3", "mean > 3.5"),
    ],
)
def test_what_a_rule_before_takes_whole_never_fires(first: str, second: str) -> None:
    assert told(first, second) == {"d1": "what it demands is decided before it, by 'd0'"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("score >= 0.9", "score >= 0.5"),
        ("probability >= 0", "score >= 0.5"),
        ("probability >= 0", "probability is missing"),
        ("score > 0.5", "score >= 0.5"),
        ("score >= 0.5", "score >= 0.9 or online"),
        ("amount >= 0", "score > 0.5"),
        ("amount > 3", "amount is not missing"),
        ("mean > 3", "mean > 3 or mean is missing"),
        ('channel != "web"', 'channel != "app"'),
        ("score != 0.5", "score >= 0.5"),
        ("home", "not home"),
        ("count > 1", "count < 2"),
    ],
)
def test_what_can_fire_is_not_told(first: str, second: str) -> None:
    assert told(first, second) == {}


@pytest.mark.parametrize(
    "when",
    ["night == 2", "night > 1", "night < 0", "hour == 24", "weekday > 6", "many < 0", "web == 2", "unknown == -1"],
)
def test_what_a_feature_never_is_never_fires(when: str) -> None:
    rules = compile_rules([("d0", when), ("d1", _turned(when))], "ok", "ok", STREAM, COMPUTED)
    assert dict(never_fire(rules, STREAM, COMPUTED)) == {"d0": f"nothing can be as it demands: `{when}`"}


def _turned(when: str) -> str:
    """The same of what the feature can be."""
    return f"{when.split()[0]} >= 0 and {when.split()[0]} <= 1"


@pytest.mark.parametrize("when", ["1 < 2", "amount / 0 is missing", "not (1 > 2)", "amount > 50 * 1", "night == 1"])
def test_what_is_always_so_is_not_told_and_takes_what_comes_after(when: str) -> None:
    rules = compile_rules([("d0", when), ("d1", f"{when} and online")], "ok", "ok", STREAM, COMPUTED)
    assert dict(never_fire(rules, STREAM, COMPUTED)) == {"d1": "what it demands is decided before it, by 'd0'"}


def test_rules_before_take_it_together() -> None:
    whens = ("score > 0.5 and online", "score > 0.5 and not online", "score > 0.6 and (online or not online)")
    assert told(*whens) == {"d2": "what it demands is decided before it, by 'd0' and 'd1'"}


def test_a_rule_that_decides_without_a_score_too_is_reached_there() -> None:
    rules = ("score >= 0 or amount > 3", "amount > 5")
    assert told(*rules) == {"d1": "what it demands is decided before it, by 'd0'"}
    assert told(*rules, without_score=True) == {}
    assert told("amount > 3", "amount > 5", without_score=True) == {
        "d1": "what it demands is decided before it, by 'd0'"
    }


def test_a_rule_of_too_many_clauses_is_left_alone() -> None:
    wide = " and ".join(f"(score > {n} or amount > {n})" for n in range(20))
    assert told(wide, "score > 100") == {}
    assert told("score > 0", wide) == {}


_numbers = st.sampled_from(["0", "1", "2", "2.5", "99", "100"])
_atoms = (
    st.tuples(
        st.sampled_from(["score", "amount", "count", "mean"]),
        st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
        _numbers,
    ).map(" ".join)
    | st.tuples(_numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.sampled_from(["score", "mean"])).map(
        " ".join
    )
    | st.tuples(
        st.sampled_from(["amount", "online", "tier", "home", "mean"]), st.sampled_from(["is missing", "is not missing"])
    ).map(" ".join)
    | st.tuples(
        st.sampled_from(["tier", "channel"]),
        st.sampled_from(["==", "!="]),
        st.sampled_from(['"gold"', '"silver"', '"x"']),
    ).map(" ".join)
    | st.sampled_from(
        [
            "online",
            "home",
            "true",
            "false",
            "online == false",
            "amount + count > 2",
            "amount < mean",
            "1 > 2",
            "amount / 0 > 1",
        ]
    )
    | st.sampled_from(
        ["amount / (count - count) is missing", "2 * 3 > amount", "(1 < 2) == online", "amount / 0 is missing"]
    )
)
_conditions = st.recursive(
    _atoms,
    lambda inner: (
        st.builds(lambda a, op, b: f"({a} {op} {b})", inner, st.sampled_from(["and", "or"]), inner)
        | inner.map(lambda a: f"not ({a})")
    ),
    max_leaves=5,
)
_values = st.sampled_from([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 99.0])
_events = st.lists(
    st.tuples(
        st.none() | st.sampled_from([-1.0, 0.0, 1.0, 1.5, 2.0, 2.5, 99.0, 100.0, 200.0]),
        st.none() | _values,
        st.none() | st.sampled_from([-1, 0, 1, 2, 3, 99, 100]),
        st.none() | st.sampled_from(["gold", "silver"]),
        st.none() | st.sampled_from(["gold", "x", "y"]),
        st.none() | st.booleans(),
        st.booleans(),
        st.just(math.nan) | st.sampled_from([-5.0, 0.0, 1.0, 2.0, 2.5, 3.0, 100.0]),
    ),
    min_size=20,
    max_size=40,
)


@settings(max_examples=300)
@given(whens=st.lists(_conditions, min_size=2, max_size=4), events=_events, without=st.booleans())
def test_a_rule_that_is_told_decides_no_event(whens: list[str], events: list[tuple[Any, ...]], without: bool) -> None:
    texts = [(f"d{n}", when) for n, when in enumerate(whens)]
    rules = compile_rules(texts, "ok", "ok", STREAM, FEATURES, without_score=without)
    silent = {name for name, _ in never_fire(rules, STREAM)}
    event(f"{len(silent)} told")
    for score, amount, count, tier, channel, online, home, mean in events:
        values = [7, 0, amount, count, tier, channel, online, home]
        place = rules.decide_without([mean], values) if score is None else rules.decide(score, [mean], values)
        assert rules.ends[place][1] not in silent
