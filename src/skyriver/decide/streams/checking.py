"""What is looked at in the decisions of an application before anything of it is deployed: its rules and costs are
compiled, and the rules run on the examples that it gives."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from skyriver.core.errors import InvalidInput
from skyriver.core.references import check_list_name
from skyriver.core.spec import AppSpec, CostsSpec, DecideSpec, DecisionExample, FeatureSetSpec, FieldSpec, StreamSpec
from skyriver.data.border import compile_check, compile_rule
from skyriver.data.border_values import Refused
from skyriver.decide.log.lists import RULE_TYPES, Lists, lists_of
from skyriver.decide.rules.closures import Operand
from skyriver.decide.rules.costs import costs_of
from skyriver.decide.rules.language import no_name
from skyriver.decide.rules.reach import never_fire
from skyriver.decide.rules.ruleset import (
    RuleSet,
    check_declared,
    check_tree,
    names_of_counters,
    rule_names,
    rules_of,
    second_opinions,
    shown,
    together,
)
from skyriver.decide.rules.tree import Name, Type

_FLOAT32 = struct.Struct("<f")


def check_decisions(app: AppSpec) -> list[tuple[str, str]]:
    """(rule and its stream, why it never fires) of those that surely never do: a warning.

    Raises InvalidInput for rules that cannot be run (BAD_RULE), then for costs that cannot be computed (BAD_COST), then
    for examples that say nothing (BAD_EXAMPLE) or something else than the rules (EXAMPLE_FAILED); all mistakes
    together."""
    mistakes: list[InvalidInput] = []
    compiled: list[tuple[DecideSpec, RuleSet, StreamSpec, FeatureSetSpec | None]] = []
    for decide in app.decides:
        train = app.model(decide.model).train
        stream, features = app.stream(decide.stream), app.feature_set(train.features) if train is not None else None
        try:
            for _, own in lists_of(stream):
                check_list_name(own.name, stream, features.names if features is not None else ())
            rules = rules_of(decide, stream, features)
            check_declared(rules, stream)
            compiled.append((decide, rules, stream, features))
            second_opinions(decide, stream, features)
            if train is not None:
                _check_answers(decide, train.label)
        except InvalidInput as error:
            mistakes.append(error)
    if mistakes:
        raise together(mistakes)
    for decide, rules, stream, features in compiled:
        if decide.costs is not None:
            _check_costs(decide.costs, rules, stream, features)
    for declared in compiled:
        _check_examples(*declared)
    return [
        (f"{name} of {stream.name}", f"never fires: {why}")
        for _, rules, stream, features in compiled
        for name, why in never_fire(rules, stream, features)
    ]


def undecided_answers(app: AppSpec) -> list[tuple[str, str]]:
    """(review and its stream, which of its answers nothing decides): a warning, for the word is hardly meant so."""
    return [
        (
            f"{review.decision} of {decide.stream}",
            f"may be answered {', '.join(map(repr, other))}, which nothing decides; decided are"
            f" {', '.join(sorted(decide.words))}",
        )
        for decide in app.decides
        for review in decide.reviews
        if (other := [word for word in review.answers if word not in decide.words])
    ]


def _check_costs(costs: CostsSpec, rules: RuleSet, stream: StreamSpec, features: FeatureSetSpec | None) -> None:
    for decision, own in costs_of(costs, rules, stream, features).items():
        for tree in own.trees:
            try:
                check_tree(tree)
            except InvalidInput as error:
                raise InvalidInput(
                    f"{error.message}, in the cost of {decision!r}",
                    code="BAD_COST",
                    where=f"costs of the decisions of {stream.name}",
                    next_action=error.next_action,
                ) from error


def _check_answers(decide: DecideSpec, label: str) -> None:
    """What people answer becomes the label that the model is trained on, which is 0 or 1."""
    for review in decide.reviews:
        wrong = [word for word, value in review.answers.items() if value not in (0, 1)]
        if review.label == label and wrong:
            raise InvalidInput(
                f"The answer {wrong[0]!r} sends {review.answers[wrong[0]]:g} as the label {label},"
                f" and {decide.model} is trained on 0 and 1.",
                code="BAD_REVIEW",
                where=f"review of {review.decision} of {decide.stream}",
                next_action=f"Give {wrong[0]!r} 0 or 1, or let it send another label.",
            )


def _check_examples(decide: DecideSpec, rules: RuleSet, stream: StreamSpec, features: FeatureSetSpec | None) -> None:
    names = rule_names(stream, features) | names_of_counters(rules.counters)
    mistakes: list[InvalidInput] = []
    for number, example in enumerate(decide.examples, 1):
        where = f"example {number} of the decisions of {stream.name}"
        try:
            lists = _lists_of(example, stream)
            _check(example, rules, names, lists, stream, len(features.features) if features is not None else 0)
        except InvalidInput as error:
            told = InvalidInput(error.message, code=error.code, where=where, next_action=error.next_action)
            mistakes.append(told)
    if mistakes:
        raise together(mistakes, "examples do not hold")


def _lists_of(example: DecisionExample, stream: StreamSpec) -> Lists:
    """With the rows that it gives, which count at any time."""
    lists = Lists(stream)
    for index, spec in lists_of(stream):
        known = [own for own in spec.fields if own.name not in (spec.time, spec.until)]
        names: dict[str, Name | str] = {own.name: Name(own.name, RULE_TYPES[own.type], "field") for own in known}
        for given in example.lists.get(spec.name, ()):
            for name, value in given.items():
                if value is not None:
                    _check_type(_name(name, names), value)
            if given.get(spec.id) is None:
                raise InvalidInput(
                    f"a row of {spec.name} has no {spec.id}",
                    code="BAD_EXAMPLE",
                    next_action=f'Write {spec.name}=[{{"{spec.id}": ...}}].',
                )
            lists.learn(index, [0 if own.name == spec.time else given.get(own.name) for own in spec.fields], 0)
    return lists


def _check(
    example: DecisionExample,
    rules: RuleSet,
    names: Mapping[str, Name | str],
    lists: Lists,
    stream: StreamSpec,
    width: int,
) -> None:
    known = dict.fromkeys(decision for decision, _ in rules.ends)
    if example.decision not in known:
        raise InvalidInput(
            f"nothing decides {example.decision!r}",
            code="BAD_EXAMPLE",
            next_action=f"The decisions are {', '.join(known)}.",
        )
    score: float | None = None
    probability: float | None = None
    vector = [math.nan] * width
    values: list[Operand] = [None] * len(stream.fields)
    counts: list[Operand] = [0] * len(rules.counters)
    for given, value in example.given.items():
        name = _name(given, names)
        if value is None:
            continue
        _check_type(name, value)
        match name.place:
            case "score":
                score = _rounded(value)
            case "probability":
                probability = _rounded(value)
            case "feature":
                vector[name.index] = _rounded(value)
            case "field":
                _check_field(stream.fields[name.index], value)
                values[name.index] = value
            case "counter":
                counts[name.index] = value
            case _:
                raise InvalidInput(
                    f"{given!r} is what a list says, and is given by its rows",
                    code="BAD_EXAMPLE",
                    next_action=f"Write {given.partition('.')[0]}=[...], and the event's field that is looked up.",
                )
    values = [*lists.beside(rules.lookups, [values], [0])[0], *counts]
    place = rules.decide_without(vector, values) if score is None else rules.decide(score, vector, values, probability)
    decided, rule = rules.ends[place]
    if decided == example.decision:
        return
    if place < len(rules.rules):
        why = f"the rule {rule!r} fires: {shown(rules.texts[place][1])}"
    else:
        why = "no rule fires" if score is not None else "there is no score, so the fallback decides"
    raise InvalidInput(
        f"{_told(example)} is decided {decided!r} ({why}), where {example.decision!r} is expected",
        code="EXAMPLE_FAILED",
        next_action="Correct the rules, or the example, and deploy again.",
    )


def _name(given: str, names: Mapping[str, Name | str]) -> Name:
    found = names.get(given)
    if isinstance(found, Name):
        return found
    why, action = no_name(given, names)
    raise InvalidInput(why, code="BAD_EXAMPLE", next_action=action or "Leave it out of the example.")


def _check_type(name: Name, value: bool | int | float | str) -> None:
    if isinstance(value, bool):
        given: Type = "truth"
    else:
        given = "text" if isinstance(value, str) else "number"
    if given != name.type:
        raise InvalidInput(
            f"{name.name}={value!r:.80} is a {given}, and {name.name} is a {name.type}",
            code="BAD_EXAMPLE",
            next_action="Give it as it comes with an event.",
        )


def _check_field(field: FieldSpec, value: bool | int | float | str) -> None:
    """That an event with it would be taken: it is given as it is once it was taken, so nothing is scaled."""
    given = int(value) if field.type == "int" and isinstance(value, float) and value.is_integer() else value
    try:
        compile_check(compile_rule(field.model_copy(update={"scale": 1.0}), summed=False))(given)
    except Refused as refused:
        raise InvalidInput(
            f"no event has {field.name}={value!r:.80}: {refused.rejection.message}".removesuffix("."),
            code="BAD_EXAMPLE",
            next_action=f"Give a value that {field.name} may have by its declaration, or declare it otherwise.",
        ) from None


def _rounded(value: bool | int | float | str) -> float:
    """As a stream has it: scores and features are float32."""
    try:
        rounded: float = _FLOAT32.unpack(_FLOAT32.pack(float(value)))[0]
    except OverflowError:
        return math.copysign(math.inf, float(value))
    return rounded


def _told(example: DecisionExample) -> str:
    given = {**example.given, **{name: [*map(dict, rows)] for name, rows in example.lists.items()}}
    text = ", ".join(f"{name}={value!r:.80}" for name, value in given.items())
    return text if text else "an event of which nothing is known"
