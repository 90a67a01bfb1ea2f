"""What a version must reach before it may serve, as it is declared: gates, and the parts of the test rows that they
look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from skyriver.core import spec as specs
from skyriver.core.errors import SkyriverError
from skyriver.core.events import refuse
from skyriver.core.expr import (
    Aggregate,
    Binary,
    Column,
    Constant,
    Expression,
    Lookup,
    Unary,
    as_expression,
    reached,
    render,
    walk,
)
from skyriver.core.misread import made
from skyriver.core.names import check_field
from skyriver.core.terms import check_feature
from skyriver.core.units import parse_bytes, parse_duration

MOST_SLICES: Final = 20
"""Of a model, as they are declared; each may be of many values."""
_A_SLICE: Final = 'Write sr.Slice("night", orders.at.hour() <= 6), or sr.Slice(by="country").'


@dataclass(frozen=True)
class Gate:
    """What a version must reach before it may be released: `Gate(average_precision=">= 0.6")`.

    `against="champion"`: nor may it be worse, by more than `tolerance`, than the version that serves, on the same test
    rows and on each slice of them. `each_slice` are rules that hold on each slice of the model, `slices` those of named
    ones: `slices={"night": {"auc": ">= 0.8"}}`. `latency`: the most that 99 of 100 rows may take, each scored alone;
    `size`: of the model's file. `beats_baseline=True`: nor may it be worse, by more than `tolerance`, than the best of
    a constant, a linear model and LightGBM with its defaults, fitted on the same rows. `max_gap`: so much better it may
    be on the training rows than on the test rows, in average precision or `auc`. `same_features=False`: features that a
    stream recorded are not compared.
    """

    spec: specs.GateSpec

    def __init__(
        self,
        *,
        against: str = "",
        tolerance: float = 0.0,
        each_slice: Mapping[str, str] | None = None,
        slices: Mapping[str, Mapping[str, str]] | None = None,
        latency: str = "",
        size: str = "",
        beats_baseline: bool = False,
        max_gap: float | None = None,
        same_features: bool = True,
        **rules: str,
    ) -> None:
        if against not in ("", "champion"):
            refuse(f"against={against!r} is not known.", "BAD_GATE", 'Use against="champion" or leave it out.')
        action = 'Write each_slice={"auc": ">= 0.8"}, or slices={"night": {"auc": ">= 0.8"}}.'
        named = {"": each_slice or {}, **(slices if isinstance(slices, Mapping) else {})}
        if not isinstance(slices, Mapping | None) or not all(isinstance(each, Mapping) for each in named.values()):
            refuse("The rules of slices are not understood.", "BAD_GATE", action)
        given = {
            "rules": tuple(_rule(metric, rule) for metric, rule in rules.items()),
            "against": against,
            "tolerance": tolerance,
            "slices": tuple(
                specs.SliceRule(slice=name, **_rule(metric, rule).to_json())
                for name, each in named.items()
                for metric, rule in each.items()
            ),
            "latency_us": parse_duration(latency, "a latency") if latency else 0,
            "size_bytes": parse_bytes(size) if size else 0,
            "beats_baseline": beats_baseline,
            "max_gap": max_gap,
            "same_features": same_features,
        }
        action = 'Write sr.Gate(average_precision=">= 0.6", against="champion", tolerance=0.01).'
        object.__setattr__(self, "spec", made(specs.GateSpec, "sr.Gate", "BAD_GATE", action, given))


def _rule(metric: str, rule: object) -> specs.GateRule:
    op, _, number = rule.strip().partition(" ") if isinstance(rule, str) else ("", "", "")
    try:
        if op not in (">=", "<=", ">", "<"):
            raise ValueError(op)
        return specs.GateRule(metric=metric, op=op, value=float(number))  # type: ignore[arg-type]
    except ValueError:
        refuse(f"The gate {metric}={rule!r} is not understood.", "BAD_GATE", 'Write e.g. ">= 0.6".')


@dataclass(frozen=True)
class Slice:
    """A part of the test rows that is measured on its own: `Slice("night", orders.at.hour() <= 6)`, where a condition
    over fields of the event, or over features of the model, is true; or `Slice(by="country", most=10)`, a part for each
    of the most frequent values and one for all others.

    Rules of a gate hold on it. With fewer than `least` test rows, or `least_positives` among them, they do not, and it
    is named as not judged; without these, a slice on which a metric cannot be computed fails.
    """

    name: str
    when: Expression | None
    given: Mapping[str, Any]

    def __init__(
        self,
        name: str = "",
        when: object = None,
        *,
        by: str | Expression = "",
        most: int = specs.VALUES,
        least: int = 0,
        least_positives: int = 0,
    ) -> None:
        field = by.node.name if isinstance(by, Expression) and isinstance(by.node, Column) else by
        if not isinstance(field, str) or not isinstance(name, str) or (when is None) == (not field):
            refuse("A slice is by a condition or by a field.", "BAD_SLICE", _A_SLICE)
        given = {"by": field, "most": most, "least": least, "least_positives": least_positives}
        object.__setattr__(self, "name", check_field(name or field, "a slice"))
        object.__setattr__(self, "when", as_expression(when) if when is not None else None)
        object.__setattr__(self, "given", given)


def slices_of(
    given: Sequence[Slice],
    source: specs.StreamSpec | specs.TableSpec | None,
    features: Sequence[specs.FeatureSpec],
    model: str,
) -> tuple[specs.SliceSpec, ...]:
    """`source` and `features`: what the model learns from; None for a ready file."""
    if not isinstance(given, Sequence) or not all(isinstance(each, Slice) for each in given):
        refuse(f"slices={given!r:.80} are no slices.", "BAD_SLICE", _A_SLICE)
    if not given:
        return ()
    if source is None:
        refuse(
            f"The model {model!r} is a ready file: there are no test rows to take slices of.",
            "BAD_SLICE",
            "Leave slices= out.",
        )
    if len(given) > MOST_SLICES:
        refuse(f"The model {model!r} has {len(given)} slices.", "BAD_SLICE", f"Declare at most {MOST_SLICES}.")
    names = [each.name for each in given]
    if twice := [name for name in names if names.count(name) > 1]:
        refuse(f"There are two slices {twice[0]!r}.", "DUPLICATE_NAME", "Give one of them another name.")
    return tuple(_slice_of(each, source, features) for each in given)


def _slice_of(
    given: Slice, source: specs.StreamSpec | specs.TableSpec, features: Sequence[specs.FeatureSpec]
) -> specs.SliceSpec:
    fields = {field.name: field.type for field in source.fields}
    if given.when is None:
        by = given.given["by"]
        if by not in fields:
            near = get_close_matches(by, fields, n=1)
            meant = f": did you mean {near[0]}?" if near else "."
            refuse(
                f"The slice {given.name}: {by!r} is no field of {source.name}{meant}",
                "UNKNOWN_FIELD",
                f"It has {', '.join(fields)}.",
            )
        if by == source.id or fields[by] not in ("int", "text", "bool"):
            refuse(
                f"The slice {given.name}: {by!r} has too many values to take parts of.",
                "BAD_SLICE",
                f"Name a field of type int, text or bool, or write a condition, as in"
                f' sr.Slice("large", {source.name}.{by} >= 100).',
            )
    else:
        _check_condition(given.name, given.when, source, features)
    body = {"name": given.name, "when": given.when.node if given.when is not None else None, **given.given}
    return made(specs.SliceSpec, f"slice {given.name!r}", "BAD_SLICE", _A_SLICE, body)


def _check_condition(
    name: str,
    when: Expression,
    source: specs.StreamSpec | specs.TableSpec,
    features: Sequence[specs.FeatureSpec],
) -> None:
    if when.source not in ("", source.name):
        refuse(
            f"The slice {name} uses {when.source}, and the model learns from {source.name}.",
            "BAD_SLICE",
            f"Read fields of {source.name}.",
        )
    known = {feature.expr for feature in features}
    looks = [node for node in reached(when.node, known) if isinstance(node, Aggregate | Lookup)]
    if looks:
        refuse(
            f"The slice {name} looks at other events or rows by {render(looks[0])}, which is no feature of the model.",
            "BAD_SLICE",
            "Make it a feature of the model, or write a condition over fields of the event.",
        )
    if all(isinstance(node, Constant | Binary | Unary) for node in walk(when.node)):
        refuse(f"The slice {name} reads no field of {source.name}.", "BAD_SLICE", _A_SLICE)
    try:
        check_feature(name, when, source)
    except SkyriverError as error:
        message = error.message.replace(f"Feature {name}", f"The slice {name}", 1)
        refuse(message, error.code, error.next_action)


def check_gate(gate: specs.GateSpec, measured: Sequence[str], slices: Sequence[specs.SliceSpec]) -> None:
    """`measured`: the metrics there are; those of slices are fewer."""
    for rule in gate.rules:
        _check_metric("", rule.metric, [*measured])
    known = [each.name for each in slices]
    for each in gate.slices:
        if not slices:
            refuse(
                "The gate has rules for slices, and the model has none.",
                "BAD_GATE",
                f"Give it slices=[...]. {_A_SLICE}",
            )
        if each.slice and each.slice not in known:
            near = get_close_matches(each.slice, known, n=1)
            refuse(
                f"The gate's slice {each.slice!r} is not declared{f': did you mean {near[0]}?' if near else '.'}",
                "BAD_GATE",
                f"The model's slices are {', '.join(known)}.",
            )
        _check_metric("on slices ", each.metric, specs.SLICED)


def check_gate_of_file(gate: specs.GateSpec, model: str) -> None:
    """Of a model that comes as a ready file, of which there are no rows."""
    asked = {"latency": gate.latency_us, "slices": gate.slices, "baseline": gate.beats_baseline}
    asked |= {"gap": gate.max_gap is not None}
    if wanted := [what for what, given in asked.items() if given]:
        refuse(
            f"The model {model!r} is a ready file: there are no rows to measure its {wanted[0]} on.",
            "BAD_GATE",
            "Leave it out of the gate; size= can be asked of a file.",
        )


def _check_metric(where: str, metric: str, measured: Sequence[str]) -> None:
    if metric in measured:
        return
    near = get_close_matches(metric, measured, n=1)
    own = "" if where else "; metrics of your own are named in metrics="
    refuse(
        f"The gate's metric {metric!r} is not measured{f' {where.strip()}' if where else ''}"
        f"{f': did you mean {near[0]}?' if near else '.'}",
        "BAD_GATE",
        f"There are {', '.join(measured)}{own}.",
    )
