"""What a feature set may say: each rule that it breaks is told with the feature and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn, assert_never

from skyriver.core.errors import InvalidInput
from skyriver.core.expr import (
    MOST_EVENTS,
    MOST_SPAN_US,
    Aggregate,
    Binary,
    Calendar,
    Column,
    Constant,
    Lookup,
    Node,
    Same,
    Unary,
    numbers,
    render,
    walk,
)
from skyriver.core.spec import (
    GRID_LIMIT,
    OF_TEXTS,
    FeatureSetSpec,
    FieldSpec,
    LabelSpec,
    ReferenceSpec,
    StreamSpec,
    TableSpec,
)

GRID_BITS = 62
"""Grid values are whole numbers of at most 2^62: a field |x| < 2^22 has the grid 2^-40."""
DEFAULT_SHIFT = GRID_BITS - (GRID_LIMIT.bit_length() - 1)
MAX_NODES, MAX_AGGREGATES, MAX_KEYS, MAX_EDGES = 2_000, 400, 16, 64
"""Different parts of a feature set, aggregates, key columns and ends of windows: a kernel at all of these limits takes
numba about a minute; far beyond them its recursion ends."""
MAX_DEPTH = 64
MAX_LABELS = 256
"""A record names its label, or its reference, in one byte."""
PANES = 60
"""A window that is counted in panes has so many (of a minute where it is an hour long)."""
OF_LABELS = ("count", "sum", "mean", "std")
"""Aggregates of labels. A label comes late and may be taken back: a sum can follow, a minimum could not without all
the values it passed over, and a window's last subject is mostly one that nobody has judged yet."""
SUMMED = ("sum", "mean", "std", "decayed_mean")


def refuse(message: str, code: str = "BAD_FEATURE", next_action: str = "") -> NoReturn:
    raise InvalidInput(message, code=code, next_action=next_action)


def check_set(features: FeatureSetSpec, source: StreamSpec | TableSpec) -> None:
    """Raises InvalidInput for the first rule that a feature of `source` breaks."""
    fields = {f.name: f for f in source.fields}
    of_stream = isinstance(source, StreamSpec)
    labels = {label.name: label for label in source.labels} if isinstance(source, StreamSpec) else {}
    if not features.features:
        refuse(f"The feature set {features.name!r} is empty.", next_action="Give it a feature, or remove it.")
    for feature in features.features:
        if _depth(feature.expr) > MAX_DEPTH:
            refuse(
                f"Feature {feature.name} is nested more than {MAX_DEPTH} deep.",
                "TOO_LARGE",
                next_action="Write it with fewer parts inside each other.",
            )
    nodes = {node for feature in features.features for node in walk(feature.expr)}
    check_limit(features, len(nodes), MAX_NODES, "different parts")
    if len(labels) > MAX_LABELS:
        refuse(f"{source.name} has more than {MAX_LABELS} labels.", "TOO_LARGE", next_action="Declare fewer of them.")
    references = {r.name: r for r in source.references} if isinstance(source, StreamSpec) else {}
    if len(references) > MAX_LABELS:
        refuse(
            f"{source.name} has more than {MAX_LABELS} references.", "TOO_LARGE", next_action="Declare fewer of them."
        )
    for feature in features.features:
        as_number = set(numbers(feature.expr))
        for node in walk(feature.expr):
            if isinstance(node, Lookup):
                _check_lookup(node, fields, references, f"Feature {feature.name}: {render(node)}")
            else:
                if not (isinstance(node, Column) and node not in as_number):
                    _check_node(node, fields, labels, of_stream, f"Feature {feature.name}")


def check_limit(features: FeatureSetSpec, count: int, limit: int, what: str) -> None:
    if count > limit:
        refuse(
            f"The feature set {features.name!r} has {count} {what}, at most {limit} are compiled.",
            "TOO_LARGE",
            "Take out features that the model does not need.",
        )


def _depth(root: Node) -> int:
    deepest, waiting = 0, [(root, 1)]
    while waiting:  # not recursive: a specification may come from outside, as deep as it likes
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        match node:
            case Binary(left=left, right=right):
                waiting += [(left, depth + 1), (right, depth + 1)]
            case Unary(of=inner) | Calendar(of=inner):
                waiting.append((inner, depth + 1))
    return deepest


def _check_lookup(
    node: Lookup, fields: Mapping[str, FieldSpec], references: Mapping[str, ReferenceSpec], where: str
) -> None:
    reference = references.get(node.reference)
    if reference is None:
        known = ", ".join(references) or "none"
        refuse(f"{where}: there is no reference {node.reference!r}.", "UNKNOWN_REFERENCE", f"There is {known}.")
    column = next((f for f in reference.fields if f.name == node.column), None)
    if column is None:
        known = ", ".join(f.name for f in reference.fields)
        refuse(f"{where}: {node.column!r} is not a field of {node.reference}.", "UNKNOWN_FIELD", f"There is {known}.")
    if column.type == "text":
        refuse(f"{where} uses the text {node.column} as a number.", next_action="Look up a field that is a number.")
    by, key = _key(node, fields, where), reference.field(reference.id)
    if by.type != key.type:
        refuse(
            f"{where}: {node.by} is of type {by.type}, and the id {key.name} of {node.reference} of type {key.type}.",
            next_action="Give both the same type, or look it up by another field.",
        )


def _key(node: Aggregate | Lookup, fields: Mapping[str, FieldSpec], where: str) -> FieldSpec:
    """The field that it is by."""
    by = fields.get(node.by)
    if by is None:
        refuse(f"{where}: by={node.by!r} is not a field.", "UNKNOWN_FIELD", f"There is {', '.join(fields)}.")
    if by.type not in ("int", "text"):
        refuse(
            f"{where}: by={node.by!r} must be an int or text field.",
            next_action="Group by another field, or declare it as an int or a text.",
        )
    if may_be_missing(by):
        refuse(f"{where}: the key {node.by!r} may be missing.", "BAD_FEATURE", "Give the field a fill value.")
    return by


def _check_node(
    node: Node, fields: Mapping[str, FieldSpec], labels: Mapping[str, LabelSpec], of_stream: bool, where: str
) -> None:
    match node:
        case Column(name=name):
            if name not in fields:
                refuse(f"{where}: {name!r} is not a field.", "UNKNOWN_FIELD", f"There is {', '.join(fields)}.")
            if fields[name].type == "text":
                refuse(f"{where} uses the text {name} as a number.", next_action=OF_TEXTS)
        case Same(column=name):
            if name not in fields or fields[name].type != "text":
                refuse(f"{where}: {name!r} is not a text field.", "UNKNOWN_FIELD", f"There is {', '.join(fields)}.")
        case Constant(value=value):
            if not math.isfinite(value):
                refuse(f"{where}: the constant {value} is not a finite number.", next_action="Write a finite number.")
        case Calendar(of=Column(name=name)):
            if name in fields and fields[name].type != "time":
                refuse(f"{where}: {name} is not a time field.", next_action="Name a field of the type time.")
        case Aggregate():
            if not of_stream:
                refuse(
                    f"{where}: {render(node)} needs a stream; a table has no order of time.",
                    next_action="Compute it over a stream, or leave it out.",
                )
            _check_aggregate(node, fields, labels, f"{where}: {render(node)}")
        case Binary() | Unary() | Lookup():
            pass
        case _:
            assert_never(node)


def _check_aggregate(
    node: Aggregate, fields: Mapping[str, FieldSpec], labels: Mapping[str, LabelSpec], where: str
) -> None:
    _key(node, fields, where)
    if node.delay_us + node.over_us > MOST_SPAN_US:
        refuse(
            f"{where}: the window is longer than a hundred years.",
            "BAD_DURATION",
            next_action="Give it a shorter window.",
        )
    if node.column and node.label:
        refuse(f"{where}: it aggregates a field and a label at once.", next_action="Make a feature of each.")
    _check_options(node, where)
    if node.label:
        _check_label(node, labels, where)
        return
    if node.delay_us:
        refuse(f"{where}: only labels have a delay.", next_action="Leave the delay out.")
    if (node.kind in ("count", "since")) == bool(node.column):
        refuse(
            f"{where}: a count and a since have no field, all others have one.",
            next_action="Leave the field out of a count or since, and name one for all others.",
        )
    if node.column:
        _check_column(node, fields, where)


def _check_label(node: Aggregate, labels: Mapping[str, LabelSpec], where: str) -> None:
    label = labels.get(node.label)
    if label is None:
        refuse(
            f"{where}: {node.label!r} is not a label of the stream.",
            "UNKNOWN_FIELD",
            next_action=f"There is {', '.join(labels) or 'none'}.",
        )
    if label.delay_us != node.delay_us:
        refuse(f"{where}: its delay is not the label's.", "LABEL_LEAK", "Pass the label from app.labels itself.")
    if node.kind not in OF_LABELS:
        refuse(
            f"{where}: of a label there is no {node.kind}, for labels come late and change.",
            next_action=f"Of labels there are {', '.join(OF_LABELS)}.",
        )


def _check_column(node: Aggregate, fields: Mapping[str, FieldSpec], where: str) -> None:
    field = fields.get(node.column)
    if field is None:
        refuse(f"{where}: {node.column!r} is not a field.", "UNKNOWN_FIELD", f"There is {', '.join(fields)}.")
    if node.kind == "distinct":
        if field.type not in ("int", "text"):
            refuse(
                f"{where}: {node.column!r} must be an int or text field to count its different values.",
                next_action="Count another field, or declare this one as an int or a text.",
            )
        return
    if field.type not in ("int", "float", "bool"):
        refuse(f"{where}: {node.column!r} is not a number.", next_action="Name a field of the type int, float or bool.")
    if node.kind in SUMMED:
        _check_range(field, where)


def _check_options(node: Aggregate, where: str) -> None:
    extreme = node.kind in ("minimum", "maximum")
    if node.approximate and not extreme:
        refuse(f"{where}: only a minimum or maximum can be approximate.", next_action="Leave approximate out.")
    if bool(node.max_events) != (node.kind == "distinct" or (extreme and not node.approximate)):
        refuse(
            f"{where}: max_events bounds distinct counts, and minima and maxima that are not approximate.",
            next_action="Give max_events with these, and leave it out of all others.",
        )
    if node.max_events > MOST_EVENTS:
        refuse(f"{where}: max_events is at most {MOST_EVENTS}.", "TOO_LARGE", "Use approximate=True, or fewer events.")
    if bool(node.half_life_us) != (node.kind == "decayed_mean"):
        refuse(
            f"{where}: a decayed mean has a half-life, and it alone.",
            next_action="Give a decayed mean its half-life, and leave it out of all others.",
        )
    if node.kind == "decayed_mean" and node.half_life_us < pane_us(node):
        refuse(
            f"{where}: its half-life is shorter than a sixtieth of the window, the pane that ages are counted in.",
            "BAD_DURATION",
            "Give it a shorter window: after ten half-lives a value weighs a thousandth.",
        )


def pane_us(node: Aggregate) -> int:
    """The pane that `node` counts ages in, microseconds; 1 where it is exact."""
    return -(-node.over_us // PANES) if node.approximate or node.kind == "decayed_mean" else 1


def may_be_missing(field: FieldSpec) -> bool:
    return field.nullable and field.fill is None


def _bounds(field: FieldSpec) -> list[float]:
    declared = [b for b in (field.ge, field.gt, field.le, field.lt) if b is not None]
    return declared + [float(v) for v in field.one_of if not isinstance(v, str)]


def grid_shift(field: FieldSpec) -> int:
    """40, or less where the declared range goes beyond 2^22: 62 - ceil(log2(max))."""
    largest = max((abs(b) for b in _bounds(field)), default=0.0)
    if largest <= GRID_LIMIT:
        return DEFAULT_SHIFT
    mantissa, exponent = math.frexp(largest)  # largest = mantissa * 2^exponent, 0.5 <= mantissa < 1
    return GRID_BITS - (exponent - 1 if mantissa == 0.5 else exponent)


def _check_range(field: FieldSpec, where: str) -> None:
    if not all(math.isfinite(b) for b in _bounds(field)) or grid_shift(field) < 0:
        refuse(
            f"{where}: the declared range of {field.name!r} goes beyond 2^{GRID_BITS}, it cannot be summed exactly.",
            "RANGE_TOO_WIDE",
            f"Declare narrower bounds for {field.name!r}, or a scale that makes its numbers smaller.",
        )
    if isinstance(field.fill, int | float) and abs(field.fill) > math.ldexp(1.0, GRID_BITS - grid_shift(field)):
        refuse(
            f"{where}: {field.name!r} is filled with {field.fill:g}, which is outside of what is summed.",
            "RANGE_TOO_WIDE",
            f"Declare bounds of {field.name!r} that the fill value lies in.",
        )
