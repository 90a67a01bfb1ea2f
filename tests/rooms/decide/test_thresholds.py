from __future__ import annotations

import pytest

from skyriver.decide.rules.language import parse
from skyriver.decide.rules.tree import Name
from skyriver.decide.tuning.thresholds import rewritten, thresholds_of, with_thresholds

NAMES = {
    "score": Name("score", "number", "score"),
    "amount": Name("amount", "number", "field", 0),
    "online": Name("online", "truth", "field", 1),
}


@pytest.mark.parametrize(
    ("text", "values", "changed"),
    [
        ("score >= 0.9", [0.9], "score >= 0.25"),
        ("0.9 <= score", [0.9], "0.25 <= score"),
        ("amount > 100 and score>.9", [0.9], "amount > 100 and score>0.25"),
        ("not (score < - 0.5)", [-0.5], "not (score < 0.25)"),
        ("score * amount >= (40)", [40.0], "score * amount >= (0.25)"),
        ("online == (score > 1e-3)", [0.001], "online == (score > 0.25)"),
        ("(score > 0.5) is missing or amount > 3", [0.5], "(score > 0.25) is missing or amount > 3"),
        ("score == 0.5 or amount > 3 or score > amount", [], "score == 0.5 or amount > 3 or score > amount"),
        ("score > 0.5 or score > 0.5 and amount > 2", [0.5, 0.5], "score > 0.25 or score > 1.25 and amount > 2"),
    ],
)
def test_the_numbers_that_the_score_is_compared_with(text: str, values: list[float], changed: str) -> None:
    tree = parse(text, NAMES)
    found = thresholds_of([tree])
    assert [own.value for own in found] == values
    others = [0.25 + n for n in range(len(found))]
    again = rewritten(text, [own.span for own in found], others)
    assert again == changed
    assert [own.value for own in thresholds_of([parse(again, NAMES)])] == others
    assert thresholds_of(with_thresholds([tree], others)) == tuple(
        type(own)(own.rule, own.signal, own.op, value, (0, 0)) for own, value in zip(found, others, strict=True)
    )


def test_thresholds_of_several_rules_are_in_order() -> None:
    rules = [parse(text, NAMES) for text in ("score >= 0.9", "amount > 5", "score > 0.5 and score < 0.7")]
    assert [(own.rule, own.op, own.value) for own in thresholds_of(rules)] == [
        (0, ">=", 0.9),
        (2, ">", 0.5),
        (2, "<", 0.7),
    ]
    replaced = with_thresholds(rules, [True, 0.1, False])
    assert replaced[0] == parse("true", NAMES)
    assert replaced[2] == parse("score > 0.1 and false", NAMES)


@pytest.mark.parametrize("value", [0.1234, 1e-05, 123456.0, 1234567.0, 0.30000000000000004])
def test_a_number_is_spelled_so_that_it_means_the_same(value: float) -> None:
    assert thresholds_of([parse(rewritten("score > 1", [(8, 9)], [value]), NAMES)])[0].value == value
