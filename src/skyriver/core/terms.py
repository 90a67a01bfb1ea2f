"""The terms of a declaration, and what is refused of them: limits of a stream, gates, schedules, features."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from skyriver.core import spec as specs
from skyriver.core.errors import InvalidInput
from skyriver.core.events import check_role, refuse
from skyriver.core.expr import MOST_SPAN_US, Aggregate, Column, Expression, Label, Lookup, Same, numbers, render, walk
from skyriver.core.names import canonical_json, check_field, check_name
from skyriver.core.units import format_duration, parse_duration, parse_memory

MOST_DISORDER_US = parse_duration("31d")
"""An event that is late by no more counts as if it had come now: it stands in the windows of today."""


def disorder_of(text: str) -> int:
    found = parse_duration(text, "a disorder")
    if found > MOST_DISORDER_US:
        refuse(
            f"disorder={text!r} is more than {format_duration(MOST_DISORDER_US)}: an event that is late by no more"
            " counts as if it had happened now, in all windows.",
            "BAD_STREAM",
            "Declare how late events usually are, in seconds or hours; older ones are loaded as history,"
            " `skyriver table load`.",
        )
    return found


LEAST_LOG = 16_000_000
"""Bytes. A log is given up, and leaves the disk, in segments of an eighth of its limit; smaller ones cost too much."""


def linger_of(linger: str) -> int:
    found = parse_duration(linger, "a time to linger")
    if found > specs.MOST_LINGER:
        refuse(f"linger={linger!r} is too long.", "BAD_STREAM", "An event waits for others 10 ms at most.")
    return found


def log_limits(
    retention: str | None, retention_bytes: str | None, local_bytes: str, dedupe_us: int
) -> tuple[int, int, int]:
    """How long, up to which size, and up to which size on the local disk a stream keeps its log."""
    kept_us = parse_duration(retention, "a retention") if retention is not None else 0
    if retention is not None and kept_us < max(1, dedupe_us):
        refuse(
            f"retention={retention!r} is shorter than dedupe={format_duration(dedupe_us)!r}: an event that comes again"
            " within that time is answered with its first decision, which the log must have.",
            "BAD_STREAM",
            "Declare a longer retention, or a shorter dedupe.",
        )
    kept_bytes = parse_memory(retention_bytes, "a size of a log") * 1_000_000 if retention_bytes is not None else 0
    local = parse_memory(local_bytes, "a size of a log") * 1_000_000
    for name, size in (("local_bytes", local), ("retention_bytes", kept_bytes if retention_bytes else LEAST_LOG)):
        if size < LEAST_LOG:
            refuse(f"{name} is {size / 1e6:g} MB: at least {LEAST_LOG / 1e6:g} MB.", "BAD_STREAM")
    return kept_us, kept_bytes, local


def check_json(value: object, what: str) -> None:
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        refuse(f"{what} cannot be told as JSON: {error}.", "BAD_JOB")


def as_cron(schedule: object) -> str:
    return f"Write sr.Cron({json.dumps(schedule)})." if isinstance(schedule, str) else 'Write sr.Cron("0 3 * * *").'


def check_takes_job(function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function that is not of Python does not say
        return
    try:
        signature.bind(None)
    except TypeError:
        refuse(
            f"{function.__name__} cannot be called with a job alone.",
            "BAD_JOB",
            f"Write `def {function.__name__}(job: sr.Job)`; parameters come in job.params.",
        )


def check_zone(zone: str) -> str:
    if zone != "UTC":
        refuse(f"zone={zone!r} is not supported yet.", "BAD_STREAM", "Calendar features are computed in UTC.")
    return zone


@dataclass(frozen=True)
class Rule:
    """A rule of `App.decide` with a name, by which records tell that it fired: `Rule("block", "score >= 0.9",
    name="certain")`. Several rules may have one decision."""

    decision: str
    when: str
    name: str = ""


def rules_of(given: Mapping[str, str] | Sequence[Rule]) -> tuple[specs.DecisionRule, ...]:
    """{decision: when}, or rules."""
    rules = [Rule(*pair) for pair in given.items()] if isinstance(given, Mapping) else list(given)
    for rule in rules:
        if not isinstance(rule, Rule) or not isinstance(rule.when, str):
            refuse(f"{rule!r:.80} is no rule.", "BAD_DECISION", 'Write sr.Rule("block", "score >= 0.9").')
        check_name(rule.decision, "a decision")
        if rule.name:
            check_name(rule.name, "a rule")
    return tuple(specs.DecisionRule(decision=r.decision, when=r.when, name=r.name) for r in rules)


@dataclass(frozen=True)
class Gate:
    """What a version must reach before it may be released: `Gate(average_precision=">= 0.6")`."""

    spec: specs.GateSpec

    def __init__(self, *, against: str = "", tolerance: float = 0.0, **rules: str) -> None:
        if against not in ("", "champion"):
            refuse(f"against={against!r} is not known.", "BAD_GATE", 'Use against="champion" or leave it out.')
        parsed = []
        for metric, rule in rules.items():
            op, _, number = rule.strip().partition(" ") if isinstance(rule, str) else ("", "", "")
            try:
                if op not in (">=", "<=", ">", "<"):
                    raise ValueError(op)
                parsed.append(specs.GateRule(metric=metric, op=op, value=float(number)))  # type: ignore[arg-type]
            except ValueError:
                refuse(f"The gate {metric}={rule!r} is not understood.", "BAD_GATE", 'Write e.g. ">= 0.6".')
        gate = specs.GateSpec(rules=tuple(parsed), against=against, tolerance=tolerance)  # type: ignore[arg-type]
        object.__setattr__(self, "spec", gate)


def reasons_of(reasons: Mapping[str, str], features: Sequence[specs.FeatureSpec]) -> dict[str, str]:
    known = [feature.name for feature in features]
    for name, text in reasons.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            guess = f": did you mean {near[0]}?" if near else "."
            refuse(
                f"reasons= names {name!r}, which is no feature of the model{guess}",
                "BAD_DECISION",
                f"There are {', '.join(known)}." if known else "",
            )
        if not isinstance(text, str) or not 1 <= len(text) <= 200:
            refuse(f"What reasons= says of {name} is no text of 1 to 200 characters.", "BAD_DECISION", "Shorten it.")
    return dict(reasons)


def check_calibrate(value: object) -> specs.Calibrate | None:
    known = (*get_args(specs.Calibrate), None)
    if value not in known:
        refuse(
            f"calibrate={value!r} is not known.",
            "BAD_MODEL",
            f"There are {', '.join(map(repr, known))}.",
        )
    return value  # type: ignore[return-value]


def review_of(
    decision: str,
    label: str,
    answers: Mapping[str, float],
    *,
    within: int,
    lease: int,
    second_opinion: object,
    expires: int,
    unanswered: str,
    most_waiting: int,
    keep: int,
) -> specs.ReviewSpec:
    """Times in microseconds; `second_opinion` is a rule, a share, or None."""
    check_name(decision, "a decision")
    numbers = isinstance(answers, Mapping) and all(type(value) in (int, float, bool) for value in answers.values())
    if not numbers:
        refuse(
            f"answers={answers!r:.80} gives no values of a label.", "BAD_REVIEW", 'Write {"block": 1, "approve": 0}.'
        )
    share = float(second_opinion) if isinstance(second_opinion, int | float) else 0.0
    if not isinstance(second_opinion, str | int | float | None) or not 0 <= share <= 1 or second_opinion == "":
        refuse(
            f"second_opinion={second_opinion!r:.80} is neither a rule nor a share.",
            "BAD_REVIEW",
            'Write a rule, as in "amount > 5000", or a share from 0 to 1.',
        )
    try:
        return specs.ReviewSpec(
            decision=decision,
            label=label,
            answers={word: float(value) for word, value in answers.items()},
            within_us=within,
            lease_us=lease,
            second_when=second_opinion if isinstance(second_opinion, str) else "",
            second_share=share,
            expires_us=expires,
            unanswered=unanswered,
            most_waiting=most_waiting,
            keep_us=keep,
        )
    except ValidationError as error:
        found = error.errors()[0]
        refuse(f"{'.'.join(map(str, found['loc']))}={found['input']!r:.80}: {found['msg']}.", "BAD_REVIEW")


def check_gate(gate: specs.GateSpec, measured: Sequence[str]) -> None:
    for rule in gate.rules:
        if rule.metric not in measured:
            near = get_close_matches(rule.metric, measured, n=1)
            refuse(
                f"The gate's metric {rule.metric!r} is not measured{f': did you mean {near[0]}?' if near else '.'}",
                "BAD_GATE",
                f"There are {', '.join(measured)}; metrics of your own are named in metrics=.",
            )


@dataclass(frozen=True)
class Cron:
    """When a job runs by itself: `Cron("0 3 * * *", zone="Europe/Berlin", missed="once")`."""

    spec: specs.CronSpec

    def __init__(self, expression: str, *, zone: str = "UTC", missed: str = "once", overlap: bool = False) -> None:
        if missed not in ("skip", "once", "all"):
            refuse(f"missed={missed!r} is not known.", "BAD_SCHEDULE", 'Write "skip", "once" or "all".')
        cron = specs.CronSpec(expression=expression, zone=zone, missed=missed, overlap=overlap)  # type: ignore[arg-type]
        object.__setattr__(self, "spec", cron)


def precision_at(k: int, *, by: str, per: str = "1d") -> specs.MetricSpec:
    """Precision among the `k` keys with the highest score in each `per`; keys known as positive before are left out."""
    return specs.MetricSpec(name=f"precision_at_{k}", k=k, by=by, per_us=parse_duration(per, "a period"))


def list_of(
    name: str,
    stream: specs.StreamSpec,
    fields: tuple[specs.FieldSpec, ...] | None,
    id: str,
    time: str,
    until: str,
    by: str,
) -> specs.ReferenceSpec:
    """A list of the stream; `fields` None: the id alone, with a note."""
    of_stream = {own.name: own for own in stream.fields}
    if fields is None:
        if id not in of_stream:
            refuse(f"{stream.name} has no field {id!r}.", "UNKNOWN_FIELD", f"It has {', '.join(of_stream)}.")
        note = specs.FieldSpec(name=check_field("note", "a field"), type="text", nullable=True)
        fields = (specs.FieldSpec(name=id, type=of_stream[id].type), note)
    declared = {own.name: own for own in fields}
    for role, given in (("time", time), ("until", until)):
        if given not in declared:
            fields = (
                *fields,
                specs.FieldSpec(name=check_field(given, "a field"), type="time", nullable=role == "until"),
            )
        elif role == "until" and (declared[given].type != "time" or not declared[given].nullable):
            refuse(f"{given!r} cannot be the until: it must be of type time, and may be missing.", "BAD_FIELD")
    check_role(fields, id, "id", ("int", "text"))
    check_role(fields, time, "time", ("time",))
    kind = next(own.type for own in fields if own.name == id)
    by = by or id
    if by not in of_stream or of_stream[by].type != kind:
        fits = [own.name for own in stream.fields if own.type == kind]
        refuse(
            f"The list {name!r} cannot be looked up by {by!r}: {stream.name} has no such field of type {kind}.",
            "BAD_REFERENCE",
            f"Name one with by=: {', '.join(fits)}." if fits else f"It has no field of type {kind}.",
        )
    return specs.ReferenceSpec(name=name, fields=fields, id=id, time=time, until=until, by=by)


def is_plain(value: object) -> bool:
    """Whether a rule can be given it."""
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def check_feature(feature: str, expression: Expression, source: specs.StreamSpec | specs.TableSpec) -> None:
    types_of = {f.name: f.type for f in source.fields}
    as_number = set(numbers(expression.node))
    missing = {f.name: f.nullable and f.fill is None for f in source.fields}
    for node in walk(expression.node):
        match node:
            case Column(name=name) if types_of[name] == "text" and node in as_number:
                refuse(f"Feature {feature} uses the text {name} as a number.", "BAD_FEATURE", specs.OF_TEXTS)
            case Same(column=name, text=text):
                field = next(f for f in source.fields if f.name == name)
                if field.type != "text":
                    refuse(f"Feature {feature}: {name} is no text, and {text!r} is one.", "BAD_FEATURE")
                if field.one_of and text not in field.one_of:
                    refuse(
                        f"Feature {feature}: {name} is never {text!r}.",
                        "BAD_FEATURE",
                        f"It is one of {', '.join(map(repr, field.one_of))}.",
                    )
            case Aggregate() if isinstance(source, specs.TableSpec):
                refuse(f"Feature {feature}: {render(node)} needs a stream, {source.name} is a table.", "BAD_FEATURE")
            case Aggregate(by=by) | Lookup(by=by) if by not in types_of:
                refuse(
                    f"Feature {feature}: by={by!r} is not a field of {source.name}.",
                    "UNKNOWN_FIELD",
                    f"It has {', '.join(types_of)}.",
                )
            case Aggregate(by=by) | Lookup(by=by) if types_of[by] not in ("int", "text"):
                refuse(f"Feature {feature}: by={by!r} must be an int or text field.", "BAD_FEATURE")
            case Aggregate(over_us=over_us, delay_us=delay_us) if over_us + delay_us > MOST_SPAN_US:
                refuse(f"Feature {feature}: {render(node)}: the window is longer than 100 years.", "BAD_DURATION")
            case Lookup(reference=name, column=column, by=by):
                reference = next(r for r in source.references if r.name == name)  # type: ignore[union-attr]
                if reference.field(reference.id).type != types_of[by]:
                    refuse(
                        f"Feature {feature}: {render(node)}: {name} is looked up by {reference.id}, of type"
                        f" {reference.field(reference.id).type}, and {by} is of type {types_of[by]}.",
                        "BAD_FEATURE",
                        f"Give both the same type, or look it up by another field of {source.name}.",
                    )
                if reference.field(column).type == "text":
                    refuse(f"Feature {feature} uses the text {name}.{column} as a number.", "BAD_FEATURE")
            case Aggregate(kind=kind, column=column, label=label):
                if column and column not in types_of:
                    known_labels = getattr(source, "labels", ())
                    if any(known.name == column for known in known_labels):
                        refuse(
                            f"Feature {feature} takes the label {column!r} by name: without its delay it leaks.",
                            "LABEL_LEAK",
                            f"Pass the label itself, as returned by app.labels({column!r}, ...).",
                        )
                    refuse(
                        f"Feature {feature}: {column!r} is not a field of {source.name}.",
                        "UNKNOWN_FIELD",
                        f"It has {', '.join(types_of)}.",
                    )
                if column and kind == "distinct" and types_of[column] not in ("int", "text"):
                    refuse(
                        f"Feature {feature}: the different values of {column!r} cannot be counted.",
                        "BAD_FEATURE",
                        "They can of int and text fields.",
                    )
                if column and kind != "distinct" and types_of[column] not in ("int", "float", "bool"):
                    refuse(f"Feature {feature}: {column!r} is not a number.", "BAD_FEATURE")
                if label and not any(known.name == label for known in source.labels):  # type: ignore[union-attr]
                    refuse(f"Feature {feature}: {label!r} is not a label of {source.name}.", "UNKNOWN_FIELD")
        if isinstance(node, Aggregate | Lookup) and missing[node.by]:
            refuse(
                f"Feature {feature}: the key {node.by!r} may be missing.",
                "BAD_FEATURE",
                f"Give the field a fill value, as in `{node.by}: ... = sr.field(fill=...)`.",
            )


def label_of(label: object, of: specs.StreamSpec | specs.TableSpec) -> str:
    """The name of a label of a stream, or of a table's column that is one."""
    if isinstance(label, Label):
        if label.of != of.name:
            refuse(f"The label {label.name} is of {label.of}, the features are of {of.name}.", "BAD_LABEL")
        return label.name
    if isinstance(label, Expression) and isinstance(label.node, Column) and label.source == of.name:
        if isinstance(of, specs.StreamSpec):
            refuse(f"{label.node.name} is a field of the stream {of.name}.", "BAD_LABEL", "Declare it with app.labels.")
        return label.node.name
    if isinstance(of, specs.TableSpec):
        wanted = f"Give a column, as in {of.name}.{of.fields[-1].name}."
    elif labels := [known.name for known in of.labels]:
        several = "s" if len(labels) > 1 else ""
        wanted = f"{of.name} has the label{several} {', '.join(labels)}: give what app.labels returned."
    else:
        wanted = f'Give what app.labels("...", of={of.name}, delay="...") returned.'
    raise InvalidInput(
        f"label={label!r} is neither a label nor a column of {of.name}.", code="BAD_LABEL", next_action=wanted
    )


def check_leak(features: specs.FeatureSetSpec, label: str) -> None:
    for feature in features.features:
        if any(isinstance(node, Column) and node.name == label for node in walk(feature.expr)):
            refuse(
                f"Feature {feature.name} = {render(feature.expr)} reads the label {label!r}: it leaks.",
                "LABEL_LEAK",
                f"Take {label!r} out of the feature {feature.name!r}.",
            )


def held_out(test: object, of: specs.StreamSpec | specs.TableSpec) -> dict[str, Any]:
    """What is held out of the training, as TrainSpec has it."""
    if isinstance(of, specs.StreamSpec):
        if not isinstance(test, str | None):
            refuse(f"test={test!r} is not a stretch of time.", "BAD_SPLIT", 'A stream is split by time: test="7d".')
        return {"test_us": parse_duration(test or "7d", "a stretch of time")}
    if not isinstance(test, float | None) or (test is not None and not 0 < test < 1):
        refuse(f"test={test!r} is not a share between 0 and 1.", "BAD_SPLIT", "For a table write test=0.3.")
    return {"test_share": test or 0.3}
