"""The terms of a declaration, and what is refused of them: limits of a stream, schedules, features."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, get_args

from skyriver.core import spec as specs
from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.events import Source, refuse
from skyriver.core.expr import (
    MOST_SPAN_US,
    Aggregate,
    Column,
    Expression,
    Label,
    Lookup,
    Same,
    as_expression,
    numbers,
    render,
    walk,
)
from skyriver.core.misread import a_mapping
from skyriver.core.names import canonical_json, check_field
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
            refuse(
                f"{name} is {size / 1e6:g} MB: at least {LEAST_LOG / 1e6:g} MB.",
                "BAD_STREAM",
                f'Give it {LEAST_LOG / 1e6:g} MB or more, as in "1GB".',
            )
    return kept_us, kept_bytes, local


def check_json(value: object, what: str) -> None:
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        refuse(
            f"{what} cannot be told as JSON: {error}.",
            "BAD_JOB",
            "Give numbers, texts, truths, None, and lists and mappings of these.",
        )


def as_cron(schedule: object) -> str:
    return f"Write sr.Cron({json.dumps(schedule)})." if isinstance(schedule, str) else 'Write sr.Cron("0 3 * * *").'


def check_takes_one(function: Callable[..., Any], what: str, code: str, parameters: str, action: str) -> None:
    """That it can be called with one value alone: `what`."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function that is not of Python does not say
        return
    try:
        signature.bind(None)
    except TypeError:
        refuse(
            f"{function.__name__} cannot be called with {what} alone.",
            code,
            f"Write `def {function.__name__}{parameters}`; {action}.",
        )


def keep_function(functions: MutableMapping[str, Callable[..., Any]], function: Callable[..., Any]) -> None:
    """By its name, by which a process that carries out a job finds it again: of two of one name one would be called in
    place of the other."""
    name = function.__qualname__
    if functions.setdefault(name, function) is not function:
        refuse(
            f"There is another function {name} already.",
            "DUPLICATE_NAME",
            "Give one of them another name; those that a function makes are told apart by their __qualname__, which it"
            " may set.",
        )


def job_of(function: object, jobs: Iterable[specs.JobSpec]) -> str:
    """The name of the job that a function is."""
    qualified = getattr(function, "__qualname__", "")
    found = next((known.name for known in jobs if known.function == qualified), None)
    if found is None:
        refuse(f"{function!r} is not a job.", "BAD_JOB", "Decorate it with @app.job(...), above this one.")
    return found


def check_one_of(name: str, train: object, onnx: str, *, registered: bool) -> None:
    if (train is not None) + bool(onnx) + registered != 1:
        refuse(
            f"The model {name!r} needs a training function, onnx= or registered=True, one of the three.",
            "BAD_MODEL",
            f'Write app.model("{name}", fit), app.model("{name}", onnx="model.onnx"), or app.model("{name}",'
            " registered=True) if its versions come from outside.",
        )


def check_zone(zone: str) -> str:
    if zone != "UTC":
        refuse(f"zone={zone!r} is not supported yet.", "BAD_STREAM", "Calendar features are computed in UTC.")
    return zone


def check_calibrate(value: object) -> specs.Calibrate | None:
    known = (*get_args(specs.Calibrate), None)
    if value not in known:
        refuse(
            f"calibrate={value!r} is not known.",
            "BAD_MODEL",
            f"There are {', '.join(map(repr, known))}.",
        )
    return value  # type: ignore[return-value]


MOST_TOLD = {"description": 2_000, "contact": 200, "licence": 200}
"""Characters."""


def about_model(**given: str) -> dict[str, str]:
    for name, value in given.items():
        if not isinstance(value, str) or len(value) > MOST_TOLD[name]:
            refuse(
                f"{name}={value!r:.80} is no text of at most {MOST_TOLD[name]:,} characters.",
                "BAD_MODEL",
                "Say it in a few sentences.",
            )
    return {name: inspect.cleandoc(value).strip() for name, value in given.items()}


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


def source_of(given: object) -> specs.StreamSpec | specs.TableSpec:
    if not isinstance(given, Source):
        refuse(f"{given!r:.80} is no stream or table.", "BAD_FEATURE", "Give what app.stream or app.table returned.")
    return given._spec


def stream_of(given: object, streams: Mapping[str, specs.StreamSpec], code: str, next_action: str) -> specs.StreamSpec:
    """One of these `streams`. `next_action`: of who gives something else that is declared."""
    if not isinstance(given, Source):
        refuse(f"{given!r:.80} is no stream.", code, "Give what app.stream returned.")
    found = streams.get(given._spec.name)
    if found is None:
        refuse(f"{given._spec.name} is not a stream.", code, next_action)
    return found


def features_of(
    name: str, features: object, source: specs.StreamSpec | specs.TableSpec
) -> tuple[specs.FeatureSpec, ...]:
    action = 'Write {"amount": orders.amount, "mean_7d": sr.mean("amount", by="customer", over="7d")}.'
    if not a_mapping(features, "features", "BAD_FEATURE", action):
        refuse(f"The feature set {name!r} is empty.", "BAD_FEATURE", action)
    parsed = []
    for feature, value in features.items():  # type: ignore[attr-defined]  # it is a mapping
        check_field(feature, "a feature")
        try:
            expression = as_expression(value)
        except SkyriverError as error:
            refuse(f"Feature {feature}: {error.message}", error.code, error.next_action)
        if expression.source not in ("", source.name):
            refuse(
                f"Feature {feature} uses {expression.source}, but {name!r} is computed from {source.name}.",
                "BAD_FEATURE",
                f"Read fields of {source.name}, or declare a feature set of {expression.source}.",
            )
        check_feature(feature, expression, source)
        parsed.append(specs.FeatureSpec(name=feature, expr=expression.node))
    return tuple(parsed)


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
                    refuse(
                        f"Feature {feature}: {name} is no text, and {text!r} is one.",
                        "BAD_FEATURE",
                        f"Compare {name} with a number, or with a truth.",
                    )
                if field.one_of and text not in field.one_of:
                    refuse(
                        f"Feature {feature}: {name} is never {text!r}.",
                        "BAD_FEATURE",
                        f"It is one of {', '.join(map(repr, field.one_of))}.",
                    )
            case Aggregate() if isinstance(source, specs.TableSpec):
                refuse(
                    f"Feature {feature}: {render(node)} needs a stream, {source.name} is a table.",
                    "BAD_FEATURE",
                    "Compute it in the file that is loaded, or declare a stream.",
                )
            case Aggregate(by=by) | Lookup(by=by) if by not in types_of:
                refuse(
                    f"Feature {feature}: by={by!r} is not a field of {source.name}.",
                    "UNKNOWN_FIELD",
                    f"It has {', '.join(types_of)}.",
                )
            case Aggregate(by=by) | Lookup(by=by) if types_of[by] not in ("int", "text"):
                refuse(
                    f"Feature {feature}: by={by!r} must be an int or text field.", "BAD_FEATURE", "Name another field."
                )
            case Aggregate(over_us=over_us, delay_us=delay_us) if over_us + delay_us > MOST_SPAN_US:
                refuse(
                    f"Feature {feature}: {render(node)}: the window is longer than 100 years.",
                    "BAD_DURATION",
                    "Give a shorter one.",
                )
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
                    refuse(
                        f"Feature {feature} uses the text {name}.{column} as a number.",
                        "BAD_FEATURE",
                        "Look up a number or a truth.",
                    )
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
                    refuse(
                        f"Feature {feature}: {column!r} is not a number.",
                        "BAD_FEATURE",
                        "Name a field of type int, float or bool; of others there is sr.distinct.",
                    )
                if label and not any(known.name == label for known in source.labels):  # type: ignore[union-attr]
                    refuse(
                        f"Feature {feature}: {label!r} is not a label of {source.name}.",
                        "UNKNOWN_FIELD",
                        "Give what app.labels returned.",
                    )
        if isinstance(node, Aggregate | Lookup) and missing[node.by]:
            refuse(
                f"Feature {feature}: the key {node.by!r} may be missing.",
                "BAD_FEATURE",
                f"Give the field a fill value, as in `{node.by}: ... = sr.field(fill=...)`.",
            )


def new_label(name: str, stream: specs.StreamSpec, delay_us: int) -> specs.LabelSpec:
    if any(f.name == name for f in stream.fields):
        refuse(
            f"The label {name!r} is also a field of {stream.name}: it would leak into the features.",
            "LABEL_LEAK",
            f"Remove the field {name!r} from the event; labels are loaded and sent as labels.",
        )
    if any(known.name == name for known in stream.labels):
        refuse(f"{stream.name} has a label {name!r} already.", "DUPLICATE_NAME", "Give one of them another name.")
    return specs.LabelSpec(name=name, delay_us=delay_us)


def label_of(label: object, of: specs.StreamSpec | specs.TableSpec) -> str:
    """The name of a label of a stream, or of a table's column that is one."""
    if isinstance(label, Label):
        if label.of != of.name:
            refuse(
                f"The label {label.name} is of {label.of}, the features are of {of.name}.",
                "BAD_LABEL",
                f"Give a label of {of.name}, or train on features of {label.of}.",
            )
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


def check_stretches(count: object, of: specs.StreamSpec | specs.TableSpec) -> int:
    """Of a prequential validation."""
    if isinstance(count, bool) or not isinstance(count, int) or (count and not 2 <= count <= specs.MOST_STRETCHES):
        refuse(
            f"prequential={count!r:.80} is no number of stretches.",
            "BAD_SPLIT",
            f"Give from 2 to {specs.MOST_STRETCHES}, or leave it out.",
        )
    if count and not isinstance(of, specs.StreamSpec):
        refuse(
            f"{of.name} is a table: its rows have no time to go through.",
            "BAD_SPLIT",
            "Leave prequential= out, or train on a stream.",
        )
    return count


def spread(workers: object, exact: object, gpus: object, *, called_again: bool) -> dict[str, Any]:
    """How many processes do a training, as TrainSpec has it. `called_again`: for other parameters or rows."""
    most = specs.MOST_WORKERS
    if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= most:
        refuse(
            f"workers={workers!r} is no number from 1 to {most}.", "BAD_TRAINING", "Write workers=2, or leave it out."
        )
    if not isinstance(exact, bool):
        refuse(f"exact={exact!r} is neither True nor False.", "BAD_TRAINING", "Write exact=True, or leave it out.")
    if exact and not workers:
        refuse(
            "exact=True is of a training on workers, and none are declared.",
            "BAD_TRAINING",
            "Add workers=1, and write the function with ctx; or leave exact out.",
        )
    if isinstance(gpus, bool) or gpus not in (0, 1):
        refuse(
            f"gpus={gpus!r}: each worker of a training has one GPU, or none.",
            "BAD_TRAINING",
            "Write gpus=1, and as many workers= as there are GPUs to be used.",
        )
    if gpus and not workers:
        refuse(
            "gpus=1 is of each worker of a training, and none are declared.",
            "BAD_TRAINING",
            "Add workers=1, and write the function with ctx: its model and batches belong on ctx.device.",
        )
    if workers and called_again:
        refuse(
            "A training on workers is called once, and search= and prequential= call it again and again.",
            "BAD_TRAINING",
            "Leave them out, or leave workers= out for as long as parameters are searched.",
        )
    return {k: v for k, v in (("workers", workers), ("exact", exact), ("gpus", gpus)) if v}
