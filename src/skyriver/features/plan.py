"""What a feature set needs of its source, worked out once: columns, keys, windows, the layout of rows and state.

Theory of operation. All windows run over effective time, which never goes back, so one cursor per *edge* serves
all keys: the cursor of edge E stands at the first event with a time above T - E. A window of length w over events
with the delay d (of a label) is entered at edge d and left at edge d + w; with no delay an event enters by itself.
Each event leaves one *side row* of whole numbers (time, offset, slots of its keys, summed values on the grid,
checksum), and a cursor that passes a row adds it to, or takes it from, the state of the row's keys. Sums are
exact, so a window's value depends on its content alone (DESIGN 6.2).

A *slot* is the place of a key in the state table of its key column. It stays that key's while any side row of the
key is still to be passed by a cursor; therefore rows hold slots, and cursors need no lookup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, assert_never

from skyriver.core.errors import InvalidInput
from skyriver.core.expr import Aggregate, Binary, Calendar, Column, Constant, Node, Unary, render, walk
from skyriver.core.names import digest
from skyriver.core.spec import GRID_LIMIT, AppSpec, FeatureSetSpec, FieldSpec, LabelSpec, StreamSpec, TableSpec

KERNEL_VERSION = 1
"""Part of the digest: raise it with any change of what the kernel computes or how rows and state are laid out."""

GRID_BITS = 62
"""Grid values are whole numbers of at most 2^62: a field |x| < 2^22 has the grid 2^-40."""
DEFAULT_SHIFT = GRID_BITS - (GRID_LIMIT.bit_length() - 1)
MAX_NODES, MAX_AGGREGATES, MAX_KEYS, MAX_EDGES = 2_000, 400, 16, 64
"""Different parts of a feature set, aggregates, key columns and ends of windows: a kernel at all of these limits takes
numba about a minute; far beyond them its recursion ends."""
MAX_DEPTH = 64
MAX_LABELS = 256
"""A record names its label in one byte."""
MAX_SPAN_US = 100 * 366 * 86_400 * 1_000_000
"""A window with its delay is at most about a hundred years, so that T - edge stays far inside 64 bits."""

# Places in a side row, before the slots.
ROW_TIME, ROW_OFFSET, ROW_SLOTS = 0, 1, 2
# Places in a state row, before the windows.
STATE_KEY, STATE_REFERENCES, STATE_WINDOWS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """A summed field: x is held as round(x * 2^shift). `column` is its place among `FeaturePlan.columns`."""

    field: str
    column: int
    shift: int
    nullable: bool

    @property
    def limit(self) -> float:
        """The largest absolute value that fits the grid; a larger one is refused at the border."""
        return math.ldexp(1.0, GRID_BITS - self.shift)


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A label that is aggregated. `index` is its place in the stream's labels; its grid is 2^-40."""

    name: str
    index: int
    delay_us: int


@dataclass(frozen=True, slots=True)
class Sum:
    """A running sum in a state row: its high and low words at `at` and `at + 1`. `which` is the place of the value
    or label; `seen`, if not -1, the place of the count of values that were not missing."""

    of_label: bool
    which: int
    at: int
    seen: int


@dataclass(frozen=True, slots=True)
class Window:
    """The events of one key with times in (T - delay - over, T - delay]. `count` is the place of their number."""

    over_us: int
    delay_us: int
    count: int
    sums: tuple[Sum, ...]

    @property
    def edge(self) -> int:
        return self.delay_us + self.over_us

    @property
    def shape(self) -> tuple[tuple[bool, int, bool], ...]:
        """What is summed; windows of one shape have the same places behind `count`."""
        return tuple((s.of_label, s.which, s.seen >= 0) for s in self.sums)

    def find(self, of_label: bool, which: int) -> Sum:
        return next(s for s in self.sums if s.of_label == of_label and s.which == which)


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The state by one key column: rows of `stride` words (key, references, windows...)."""

    field: str
    windows: tuple[Window, ...]
    stride: int

    @property
    def last_edge(self) -> int:
        return max(w.edge for w in self.windows)

    def find(self, over_us: int, delay_us: int) -> Window:
        return next(w for w in self.windows if (w.over_us, w.delay_us) == (over_us, delay_us))


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """See `plan_features`. Everything is a tuple in a fixed order: places are positions in these tuples."""

    digest: str
    spec: FeatureSetSpec
    of_stream: bool
    """False: a table, whose features are expressions of its row alone."""
    id: str
    """The field that labels name their subjects by."""
    columns: tuple[str, ...]
    """Numbers (int, float, bool fields) that expressions or sums read, float64, missing NaN."""
    times: tuple[str, ...]
    """Time fields that expressions read, int64 microseconds, missing INT64_MIN."""
    keys: tuple[KeyTable, ...]
    values: tuple[ValueColumn, ...]
    labels: tuple[LabelColumn, ...]
    edges: tuple[int, ...]
    """Ascending, above 0: one cursor each."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.spec.names

    @property
    def key_fields(self) -> tuple[str, ...]:
        return tuple(k.field for k in self.keys)

    @property
    def limits(self) -> dict[str, float]:
        """Of the summed fields: the border refuses what is larger in absolute value (DESIGN 6.2)."""
        return {v.field: v.limit for v in self.values}

    @property
    def row_values(self) -> int:
        """Place of the first value in a side row; two slots share a word."""
        return ROW_SLOTS + (len(self.keys) + 1) // 2

    @property
    def row_check(self) -> int:
        return self.row_values + len(self.values)

    @property
    def row_width(self) -> int:
        """Words of 8 bytes that an event takes in the side log."""
        return self.row_check + 1

    @property
    def row_bytes(self) -> int:
        """Disk that an event takes for as long as a window needs it; a label record takes 32 bytes more."""
        return 8 * (self.row_width + len(self.labels))


def plan_features(features: FeatureSetSpec, source: StreamSpec | TableSpec) -> FeaturePlan:
    """The plan of `features` over `source`. Raises InvalidInput naming the feature and the rule it breaks."""
    fields = {f.name: f for f in source.fields}
    labels = {label.name: label for label in source.labels} if isinstance(source, StreamSpec) else {}
    of_stream = isinstance(source, StreamSpec)
    _check_size(features)
    for feature in features.features:
        for node in walk(feature.expr):
            _check_node(node, fields, labels, of_stream, f"Feature {feature.name}")
    aggregates = features.aggregates()
    read = dict.fromkeys((*features.columns(), *(a.column for a in aggregates if a.column)))
    columns = tuple(name for name in read if fields[name].type != "time")
    summed = dict.fromkeys(a.column for a in aggregates if a.column)
    values = tuple(
        ValueColumn(name, columns.index(name), _grid_shift(fields[name]), _may_be_missing(fields[name]))
        for name in summed
    )
    used = {a.label for a in aggregates if a.label}
    if len(labels) > MAX_LABELS:
        _refuse(f"{source.name} has more than {MAX_LABELS} labels.", "TOO_LARGE")
    label_columns = tuple(
        LabelColumn(label.name, index, label.delay_us)
        for index, label in enumerate(labels.values())
        if label.name in used
    )
    keys = tuple(_key_table(by, aggregates, values, label_columns) for by in dict.fromkeys(a.by for a in aggregates))
    edges = {edge for k in keys for w in k.windows for edge in (w.delay_us, w.edge)}
    ends = tuple(sorted(edges - {0}))
    for count, limit, what in (
        (len(aggregates), MAX_AGGREGATES, "aggregates"),
        (len(keys), MAX_KEYS, "key columns"),
        (len(ends), MAX_EDGES, "ends of windows (over, delay, delay + over)"),
    ):
        _check_limit(features, count, limit, f"different {what}")
    return FeaturePlan(
        digest=_digest(features, of_stream, fields, values, label_columns),
        spec=features,
        of_stream=of_stream,
        id=source.id,
        columns=columns,
        times=tuple(name for name in read if fields[name].type == "time"),
        keys=keys,
        values=values,
        labels=label_columns,
        edges=ends,
    )


def check_features(app: AppSpec) -> None:
    """Raises InvalidInput for the first feature set of `app` that cannot be planned."""
    sources = {s.name for s in app.streams} | {t.name for t in app.tables}
    for features in app.feature_sets:
        if features.source not in sources:
            _refuse(f"Feature set {features.name}: there is no stream or table {features.source!r}.", "UNKNOWN_SOURCE")
        plan_features(features, app.source(features.source))


def _refuse(message: str, code: str = "BAD_FEATURE", next_action: str = "") -> NoReturn:
    raise InvalidInput(message, code=code, next_action=next_action)


def _check_size(features: FeatureSetSpec) -> None:
    if not features.features:
        _refuse(f"The feature set {features.name!r} is empty.")
    for feature in features.features:
        if _depth(feature.expr) > MAX_DEPTH:
            _refuse(f"Feature {feature.name} is nested more than {MAX_DEPTH} deep.", "TOO_LARGE")
    nodes = {node for feature in features.features for node in walk(feature.expr)}
    _check_limit(features, len(nodes), MAX_NODES, "different parts")


def _check_limit(features: FeatureSetSpec, count: int, limit: int, what: str) -> None:
    if count > limit:
        _refuse(
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


def _check_node(
    node: Node, fields: Mapping[str, FieldSpec], labels: Mapping[str, LabelSpec], of_stream: bool, where: str
) -> None:
    match node:
        case Column(name=name):
            if name not in fields:
                _refuse(f"{where}: {name!r} is not a field.", "UNKNOWN_FIELD", f"There is {', '.join(fields)}.")
            if fields[name].type == "text":
                _refuse(f"{where} uses the text {name} as a number.")
        case Constant(value=value):
            if not math.isfinite(value):
                _refuse(f"{where}: the constant {value} is not a finite number.")
        case Calendar(of=Column(name=name)):
            if name in fields and fields[name].type != "time":
                _refuse(f"{where}: {name} is not a time field.")
        case Aggregate():
            if not of_stream:
                _refuse(f"{where}: {render(node)} needs a stream; a table has no order of time.")
            _check_aggregate(node, fields, labels, f"{where}: {render(node)}")
        case Binary() | Unary():
            pass
        case _:
            assert_never(node)


def _check_aggregate(
    node: Aggregate, fields: Mapping[str, FieldSpec], labels: Mapping[str, LabelSpec], where: str
) -> None:
    by = fields.get(node.by)
    if by is None:
        _refuse(f"{where}: by={node.by!r} is not a field.", "UNKNOWN_FIELD", f"There is {', '.join(fields)}.")
    if by.type not in ("int", "text"):
        _refuse(f"{where}: by={node.by!r} must be an int or text field.")
    if _may_be_missing(by):
        _refuse(f"{where}: the key {node.by!r} may be missing.", "BAD_FEATURE", "Give the field a fill value.")
    if node.delay_us + node.over_us > MAX_SPAN_US:
        _refuse(f"{where}: the window is longer than a hundred years.", "BAD_DURATION")
    if node.column and node.label:
        _refuse(f"{where}: it aggregates a field and a label at once.")
    if node.label:
        label = labels.get(node.label)
        if label is None:
            _refuse(f"{where}: {node.label!r} is not a label of the stream.", "UNKNOWN_FIELD")
        if label.delay_us != node.delay_us:
            _refuse(f"{where}: its delay is not the label's.", "LABEL_LEAK", "Pass the label from app.labels itself.")
        return
    if node.delay_us:
        _refuse(f"{where}: only labels have a delay.")
    if (node.kind == "count") == bool(node.column):
        _refuse(f"{where}: a count has no field, a sum and a mean have one.")
    if node.column:
        field = fields.get(node.column)
        if field is None:
            _refuse(f"{where}: {node.column!r} is not a field.", "UNKNOWN_FIELD", f"There is {', '.join(fields)}.")
        if field.type not in ("int", "float", "bool"):
            _refuse(f"{where}: {node.column!r} is not a number.")
        _check_range(field, where)


def _may_be_missing(field: FieldSpec) -> bool:
    return field.nullable and field.fill is None


def _bounds(field: FieldSpec) -> list[float]:
    declared = [b for b in (field.ge, field.gt, field.le, field.lt) if b is not None]
    return declared + [float(v) for v in field.one_of if not isinstance(v, str)]


def _grid_shift(field: FieldSpec) -> int:
    """40, or less where the declared range goes beyond 2^22: 62 - ceil(log2(max))."""
    largest = max((abs(b) for b in _bounds(field)), default=0.0)
    if largest <= GRID_LIMIT:
        return DEFAULT_SHIFT
    mantissa, exponent = math.frexp(largest)  # largest = mantissa * 2^exponent, 0.5 <= mantissa < 1
    return GRID_BITS - (exponent - 1 if mantissa == 0.5 else exponent)


def _check_range(field: FieldSpec, where: str) -> None:
    if not all(math.isfinite(b) for b in _bounds(field)) or _grid_shift(field) < 0:
        _refuse(
            f"{where}: the declared range of {field.name!r} goes beyond 2^{GRID_BITS}, it cannot be summed exactly.",
            "RANGE_TOO_WIDE",
            f"Declare narrower bounds for {field.name!r}, or a scale that makes its numbers smaller.",
        )
    if isinstance(field.fill, int | float) and abs(field.fill) > math.ldexp(1.0, GRID_BITS - _grid_shift(field)):
        _refuse(
            f"{where}: {field.name!r} is filled with {field.fill:g}, which is outside of what is summed.",
            "RANGE_TOO_WIDE",
            f"Declare bounds of {field.name!r} that the fill value lies in.",
        )


def _key_table(
    by: str, aggregates: tuple[Aggregate, ...], values: tuple[ValueColumn, ...], labels: tuple[LabelColumn, ...]
) -> KeyTable:
    """Aggregates with the same key, window and delay share a window, those with the same column too a sum."""
    value_places = {v.field: place for place, v in enumerate(values)}
    label_places = {label.name: place for place, label in enumerate(labels)}
    found: dict[tuple[int, int], list[Aggregate]] = {}
    for aggregate in aggregates:
        if aggregate.by == by:
            found.setdefault((aggregate.delay_us, aggregate.over_us), []).append(aggregate)
    # Windows that sum the same stand side by side: the kernel has one piece of code for them.
    summed = {span: {(a.column, a.label) for a in same if a.kind != "count"} for span, same in found.items()}
    at = STATE_WINDOWS
    windows: list[Window] = []
    for delay_us, over_us in sorted(found, key=lambda span: (span[0], sorted(summed[span]), span[1])):
        count = at
        at += 1
        sums: list[Sum] = []
        for column, label in sorted(summed[delay_us, over_us]):
            which = label_places[label] if label else value_places[column]
            seen = at + 2 if column and values[which].nullable else -1
            sums.append(Sum(bool(label), which, at, seen))
            at += 2 if seen < 0 else 3
        windows.append(Window(over_us, delay_us, count, tuple(sums)))
    return KeyTable(by, tuple(windows), at)


def _digest(
    features: FeatureSetSpec,
    of_stream: bool,
    fields: Mapping[str, FieldSpec],
    values: tuple[ValueColumn, ...],
    labels: tuple[LabelColumn, ...],
) -> str:
    """The same digest means the same numbers from the same events: names, expressions, grids, labels, kernel."""
    used = dict.fromkeys((*features.columns(), *(name for a in features.aggregates() for name in (a.column, a.by))))
    grids = {v.field: [v.shift, v.nullable] for v in values}
    content: dict[str, Any] = {
        "kernel": KERNEL_VERSION,
        "stream": of_stream,
        "features": [[f.name, f.expr.model_dump(mode="json")] for f in features.features],
        "fields": {name: [fields[name].type, grids.get(name)] for name in used if name},
        "labels": [[label.name, label.index, label.delay_us] for label in labels],
    }
    return digest(content)
