"""Decision rules: compiled to closures, and for events one by one to a function (`decide.rules.source`).

A rule on something missing is false unless it asks `is missing` (DESIGN 6.3). So that this holds under `not` too,
a condition on something missing is neither true nor false (None, Kleene's logic): `not amount > 100` does not fire
either; `amount is missing or amount > 100` does. In the end only true fires.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skyriver.core.errors import InvalidInput
from skyriver.core.expr import Column
from skyriver.core.names import digest
from skyriver.core.spec import BudgetSpec, CounterSpec, DecideSpec, FeatureSetSpec, FieldSpec, StreamSpec
from skyriver.decide.log.lists import RULE_TYPES, lists_of, lookups_of, member_name
from skyriver.decide.rules.closures import Evaluate, Values, compile_tree, compiled_rule
from skyriver.decide.rules.constants import division_by_zero
from skyriver.decide.rules.language import parse
from skyriver.decide.rules.source import First, compile_first
from skyriver.decide.rules.tree import Name, Tree, check_steps, fixed_in, names_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skyriver.decide.rules.columns import Rows

RuleText = tuple[str, ...]
"""(decision, when) or (decision, when, name), as it is written."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order in which they are asked; the first that fires decides, else `otherwise`."""

    rules: tuple[tuple[str, Evaluate], ...]
    otherwise: str
    fallback: str
    """The decision where there is no score to decide by."""
    texts: tuple[RuleText, ...]
    """Each as it was written."""
    digest: str
    needs_features: bool
    """False lets the caller pass () as the features."""
    trees: tuple[Tree, ...]
    """The rules once more, for many events at once."""
    without_score: tuple[int, ...] = ()
    """Places of the rules that do not read the score, where these decide before the fallback."""
    lookups: tuple[int, ...] = ()
    """What rules read of lists (places in `lists.lookups_of`): these must stand behind an event's values."""
    budgets: tuple[BudgetSpec, ...] = ()
    counters: tuple[CounterSpec, ...] = ()
    """In the order in which they stand at the end of an event's values."""
    combine: tuple[str, ...] = ()
    """Decisions, the strictest first: the rules are asked in this order. (): as they were declared."""
    counting: tuple[int, ...] = ()
    """Places of the rules that read counters. What an event is decided depends on those before it then."""
    ends: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)
    """(decision, name of the rule that fired) of each rule in order, then of `otherwise` and of the fallback, where
    none did. All that decides here gives a place in it."""
    first: First = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fired = tuple((text[0], name_of(text)) for text in self.texts)
        object.__setattr__(self, "ends", (*fired, (self.otherwise, ""), (self.fallback, "")))
        both = [(tree, evaluate) for tree, (_, evaluate) in zip(self.trees, self.rules, strict=True)]
        object.__setattr__(self, "first", compile_first(both))

    @property
    def words(self) -> tuple[str, ...]:
        """All that can be decided."""
        return tuple(dict.fromkeys((*(end[0] for end in self.ends), *(own.overflow for own in self.budgets))))

    def decide_columns(self, rows: Rows) -> NDArray[np.int64]:
        """As `decide` for each of many events, by the rules that read no counter (see `decide.decision.walking`)."""
        if not self.counting:
            from skyriver.decide.rules.columns import one_by_one  # numpy: not who only checks

            if (few := one_by_one(self.first, rows)) is not None:
                return few
        return self._first(range(len(self.rules)), len(self.rules), rows)

    def _first(self, of: Sequence[int], other: int, rows: Rows) -> NDArray[np.int64]:
        from skyriver.decide.rules.columns import at_places, compiled, first_that_fires  # numpy: not who only checks

        places = tuple(place for place in of if place not in self.counting)
        found = first_that_fires(compiled(tuple(self.trees[place] for place in places)), rows)
        return at_places((*places, other), found)

    def decide_without(self, features: Sequence[float], values: Values) -> int:
        """Where there is no score: the rules that read none, as declared, else the fallback."""
        for place in self.without_score:
            if self.rules[place][1](math.nan, features, values, None) is True:
                return place
        return len(self.rules) + 1

    def decide_columns_without(self, rows: Rows) -> NDArray[np.int64]:
        """As `decide_without` for each of many events, by the rules that read no counter."""
        return self._first(self.without_score, len(self.rules) + 1, rows)

    def decide(self, score: float, features: Sequence[float], values: Values, probability: float | None = None) -> int:
        """The place in `ends` of what an event with a score gets; `probability` where the model says one."""
        return self.first(score, features, values, probability)


def compile_rules(
    rules: Sequence[RuleText],
    otherwise: str,
    fallback: str,
    stream: StreamSpec,
    features: FeatureSetSpec | None,
    *,
    without_score: bool = False,
    budgets: Sequence[BudgetSpec] = (),
    counters: Sequence[CounterSpec] = (),
    combine: Sequence[str] = (),
) -> RuleSet:
    """`without_score`: rules that do not read the score decide where there is none; `combine`: see DecideSpec.

    Raises InvalidInput: BAD_RULE that lists all mistakes, each with its column; BAD_COUNTER, BAD_DECISION."""
    names = rule_names(stream, features)
    known = next((own.name for own in counters if own.name in names), None)
    if known is not None:
        raise InvalidInput(
            f"The counter {known!r} of {stream.name} is called as something else that rules may name.",
            code="BAD_COUNTER",
            next_action="Give it another name.",
        )
    names |= names_of_counters(counters)
    rules = _strictest_first(rules, combine, stream)
    compiled: list[tuple[str, Evaluate]] = []
    trees: list[Tree] = []
    mistakes: list[InvalidInput] = []
    needs_features = False
    scoreless: list[int] = []
    counting: list[int] = []
    for place, text in enumerate(rules):
        decision, when = text[:2]
        try:
            tree = parse(when, names)
            compiled.append((decision, compiled_rule(tree)))
        except InvalidInput as error:
            mistakes.append(_mistake(text, stream, error))
            continue
        trees.append(tree)
        needs_features = needs_features or _reads(tree, "feature")
        if without_score and not (_reads(tree, "score") or _reads(tree, "probability")):
            scoreless.append(place)
        if _reads(tree, "counter"):
            counting.append(place)
    if mistakes:
        raise together(mistakes, _UNREADABLE)
    identity: dict[str, object] = {"rules": [list(r) for r in rules], "otherwise": otherwise, "fallback": fallback}
    if without_score:
        identity["without_score"] = True
    for what, more in (("budgets", budgets), ("counters", counters)):
        if more:
            identity[what] = [own.to_json() for own in more]
    if combine:
        identity["combine"] = list(combine)
    return RuleSet(
        tuple(compiled),
        otherwise,
        fallback,
        tuple(rules),
        digest(identity),
        needs_features,
        tuple(trees),
        tuple(scoreless),
        _lookups_in(trees, len(stream.fields)),
        tuple(budgets),
        tuple(counters),
        tuple(combine),
        tuple(counting),
    )


def names_of_counters(counters: Sequence[CounterSpec]) -> dict[str, Name]:
    return {own.name: Name(own.name, "number", "counter", at - len(counters)) for at, own in enumerate(counters)}


def _strictest_first(rules: Sequence[RuleText], combine: Sequence[str], stream: StreamSpec) -> Sequence[RuleText]:
    """The strictest decision of the rules that fire, and the first of its rules, is what the first that fires decides
    once the rules of stricter decisions are asked before the others."""
    if not combine:
        return rules
    other = next((text[0] for text in rules if text[0] not in combine), None)
    if other is not None:
        raise InvalidInput(
            f"A rule of {stream.name} decides {other!r}, and how strict that is is not said.",
            code="BAD_DECISION",
            next_action=f"Name it in sr.Strictest, which has {', '.join(combine)}.",
        )
    return sorted(rules, key=lambda text: combine.index(text[0]))


def compile_number(text: str, names: Mapping[str, Name | str]) -> tuple[Tree, Evaluate]:
    """What a number costs or weighs that is computed of an event. Raises InvalidInput (BAD_RULE) with the column."""
    tree = parse(text, names, "number")
    check_steps(tree)
    return tree, compile_tree(tree)


def check_declared(rules: RuleSet, stream: StreamSpec) -> None:
    """Whether each of them may be declared today; those of before are compiled all the same. Raises InvalidInput
    (BAD_RULE) that lists all mistakes."""
    mistakes: list[InvalidInput] = []
    for text, tree in zip(rules.texts, rules.trees, strict=True):
        try:
            check_tree(tree)
        except InvalidInput as error:
            mistakes.append(_mistake(text, stream, error))
    if mistakes:
        raise together(mistakes, _UNREADABLE)


def check_tree(tree: Tree) -> None:
    """A rule or a number that is declared today. Raises InvalidInput (BAD_RULE) with the column."""
    check_steps(tree)
    if (division := division_by_zero(tree)) is not None:
        column = min((own.span[0] for own in fixed_in(division) if own.span[1]), default=0) + 1
        raise InvalidInput(
            f"column {column}: this divides by zero, which is missing for every event",
            code="BAD_RULE",
            next_action="Divide by something else than zero.",
        )


def _mistake(text: RuleText, stream: StreamSpec, error: InvalidInput) -> InvalidInput:
    action = f"{error.next_action} Correct {shown(text[1])} and deploy again.".strip()
    where = f"rule {name_of(text)!r} of {stream.name}"
    return InvalidInput(error.message, code=error.code, where=where, next_action=action)


def name_of(text: RuleText) -> str:
    """Of a rule: its own, else that of its decision."""
    return text[2] if len(text) > 2 else text[0]


def shown(when: str) -> str:
    """A rule as it is told to people."""
    return f"`{when}`" if len(when) <= 200 else f"`{when[:200]}...`"


def rules_of(decide: DecideSpec, stream: StreamSpec, features: FeatureSetSpec | None) -> RuleSet:
    return compile_rules(
        texts_of(decide),
        decide.otherwise,
        decide.fallback,
        stream,
        features,
        without_score="rules" in decide.fallback_by,
        budgets=decide.budgets,
        counters=decide.counters,
        combine=decide.combine,
    )


def bounds_of(decide: DecideSpec) -> dict[str, Any]:
    """What is declared beside the rules, as live settings and CONTROL records have it."""
    return {
        "budgets": tuple(own.to_json() for own in decide.budgets),
        "counters": tuple(own.to_json() for own in decide.counters),
        "combine": decide.combine,
    }


def second_opinions(decide: DecideSpec, stream: StreamSpec, features: FeatureSetSpec | None) -> dict[str, RuleSet]:
    """By the decision that is reviewed: the rule, at place 0, that asks for two people. Raises InvalidInput (BAD_RULE)
    that lists all mistakes."""
    asked = [(r.decision, r.second_when, f"second opinion on {r.decision}") for r in decide.reviews if r.second_when]
    if len(asked) > 1:
        compile_rules(asked, "", "", stream, features)
    found = {text[0]: compile_rules((text,), "", "", stream, features) for text in asked}
    for decision, when, name in asked:
        check_declared(found[decision], stream)
        if found[decision].lookups:  # a dispatcher does not hold them
            raise InvalidInput(
                "a second opinion cannot be asked for by a list",
                code="BAD_RULE",
                where=f"rule {name!r} of {stream.name}",
                next_action=f"Let a rule of the decisions read it. Correct {shown(when)} and deploy again.",
            )
    return found


def texts_of(decide: DecideSpec) -> tuple[RuleText, ...]:
    return tuple((r.decision, r.when, r.name) if r.name else (r.decision, r.when) for r in decide.rules)


def names_of(stream: StreamSpec, features: FeatureSetSpec | None) -> dict[str, Name | str]:
    """What a rule may name: the score, its probability, the event's fields, the features. A text says why a name may
    not be used.

    Where a feature is just the field of its name, the name means the field (not rounded to float32).
    """
    names: dict[str, Name | str] = {}
    for index, own in enumerate(stream.fields):
        names[own.name] = _name_of_field(own, index)
    for index, feature in enumerate(features.features if features is not None else ()):
        if feature.name not in names:
            names[feature.name] = Name(feature.name, "number", "feature", index)
        elif feature.expr != Column(name=feature.name):
            names[feature.name] = f"{feature.name!r} is both a field and a different feature: rename the feature"
    names["score"] = Name("score", "number", "score")
    # A field or feature that is called so keeps its meaning: it may be older than the probability.
    names.setdefault("probability", Name("probability", "number", "probability"))
    return names


def rule_names(stream: StreamSpec, features: FeatureSetSpec | None) -> dict[str, Name | str]:
    """`names_of`, and what rules may ask of lists, as in `customer in denied` and `limits.amount`."""
    of_lists = _names_of_lists(stream)
    for index, lookup in enumerate(lookups_of(stream), len(stream.fields)):
        of_lists[lookup.name] = Name(lookup.name, lookup.of_rules, "list", index)
    names = names_of(stream, features)
    for name, meaning in of_lists.items():
        names.setdefault(name, meaning)  # a field or a feature keeps its own
    return names


def _names_of_lists(stream: StreamSpec) -> dict[str, Name | str]:
    """Why a name of a list may not be used as it is written; what may be is put in its place."""
    names: dict[str, Name | str] = {}
    for _, each in lists_of(stream):
        kind = each.field(each.id).type
        names[each.name] = f"{each.name!r} is a list: ask whether something is on it, as in `{each.by} in {each.name}`"
        for own in stream.fields:
            why = f"{each.name!r} is a list of {kind}s, and {own.name!r} is a {own.type}"
            names[member_name(own.name, each.name)] = why
        for own in each.fields:
            if own.name != each.id:
                why = f"{own.name!r} of {each.name!r} is a {own.type}; rules read numbers, texts and truths of lists"
                names[f"{each.name}.{own.name}"] = why
    return names


def _lookups_in(trees: Sequence[Tree], width: int) -> tuple[int, ...]:
    places = {name.index - width for tree in trees for name in names_in(tree) if name.place == "list"}
    return tuple(sorted(places))


def _name_of_field(own: FieldSpec, index: int) -> Name | str:
    if own.type not in RULE_TYPES:
        return f"{own.name!r} is a {own.type}; rules know numbers, texts and truths: make a feature of it"
    return Name(own.name, RULE_TYPES[own.type], "field", index)


def together(mistakes: Sequence[InvalidInput], what: str = "things cannot be taken") -> InvalidInput:
    """One error for one mistake or many, each of which it lists once."""
    if len(mistakes) == 1:
        return mistakes[0]
    details = tuple(
        d for m in mistakes for d in (m.details or ({"where": m.where, "code": m.code, "message": m.message},))
    )
    lines = "".join(f"\n  - {d['where']}: {d['message']}" for d in details)
    return InvalidInput(
        f"{len(details)} {what}:{lines}",
        code=mistakes[0].code,
        next_action=mistakes[0].next_action,
        details=details,
    )


_UNREADABLE = "rules cannot be read"


def _reads(tree: Tree, what: str) -> bool:
    return any(name.place == what for name in names_in(tree))
