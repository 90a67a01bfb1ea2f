"""What a feature set needs of its source, worked out once: columns, keys, windows, the layout of rows and state.

Theory of operation. All windows run over effective time, which never goes back, so one cursor per *edge* serves
all keys: the cursor of edge E stands at the first event with a time above T - E. A window of length w over events
with the delay d (of a label) is entered at edge d and left at edge d + w; with no delay an event enters by itself.
Each event leaves one *side row* of whole numbers (time, offset, slots of its keys, summed values on the grid,
checksum), and a cursor that passes a row adds it to, or takes it from, the state of the row's keys. Sums are
exact, so a window's value depends on its content alone (DESIGN 6.2).

A *slot* is the place of a key in the state table of its key column. It stays that key's while any side row of the
key is still to be passed by a cursor; therefore rows hold slots, and cursors need no lookup.

What a sum cannot tell (smallest, largest, how many different, weighted by age) is read off a *trail*: a list of
nodes of one key in the order of time, which its own events keep short (see `Trail`). A trail needs no cursor but the
last one of its key, which takes it away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skyriver.core.expr import Column, walk
from skyriver.core.names import digest
from skyriver.core.spec import AppSpec, FeatureSetSpec, FieldSpec, ReferenceSpec, StreamSpec, TableSpec
from skyriver.features.checks import (
    MAX_AGGREGATES,
    MAX_EDGES,
    MAX_KEYS,
    SUMMED,
    check_limit,
    check_set,
    grid_shift,
    may_be_missing,
    refuse,
)
from skyriver.features.references import ReferenceTable, reference_tables
from skyriver.features.tables import KeyTable, LabelColumn, Places, TextColumn, Trail, ValueColumn, key_table

KERNEL_VERSION = 1
"""Part of the digest: raise it with any change of what the kernel computes of the same features. Models are bound to
the digest, so a change of how rows and state are laid out raises the formats of `side` and `state` instead: then
the features are built anew from the log, and the models go on."""

EVER = 2**61
"""Longer than any log: some 73,000 years, microseconds."""

# Places in a side row, before the slots.
ROW_TIME, ROW_OFFSET, ROW_SLOTS = 0, 1, 2


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
    """Numbers that expressions or sums read, float64, missing NaN: int, float and bool fields, then what is asked of
    texts."""
    times: tuple[str, ...]
    """Time fields that expressions read, int64 microseconds, missing INT64_MIN."""
    codes: tuple[str, ...]
    """Int and text fields whose different values are counted, as keys (`skyriver.data.keys`), missing INT64_MIN."""
    keys: tuple[KeyTable, ...]
    values: tuple[ValueColumn, ...]
    labels: tuple[LabelColumn, ...]
    edges: tuple[int, ...]
    """Ascending, above 0: one cursor each."""
    references: tuple[ReferenceTable, ...] = ()
    texts: tuple[TextColumn, ...] = ()
    """The columns that are of texts."""
    looked_up_by: tuple[str, ...] = ()
    """Fields of the event that a reference is looked up by, and that no key table has."""

    @property
    def number_fields(self) -> tuple[str, ...]:
        """The columns that are fields."""
        return self.columns[: len(self.columns) - len(self.texts)]

    @property
    def names(self) -> tuple[str, ...]:
        return self.spec.names

    @property
    def key_fields(self) -> tuple[str, ...]:
        return tuple(k.field for k in self.keys)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """What the kernel is given as keys: those of the key tables are the first."""
        return (*self.key_fields, *self.looked_up_by)

    @property
    def limits(self) -> dict[str, float]:
        """Of the summed fields: the border refuses what is larger in absolute value (DESIGN 6.2)."""
        return {v.field: v.limit for v in self.values}

    @property
    def reach(self) -> int:
        """How far back from an event its features look, microseconds. A row of a reference is current for as long as
        no other one comes: EVER."""
        return EVER if self.references else max(self.edges, default=0)

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
    def trails(self) -> tuple[Trail, ...]:
        return tuple(t for k in self.keys for t in k.trails)

    @property
    def key_bytes(self) -> dict[str, tuple[int, int]]:
        """Memory of one key of each key column: at least, and at most with trails as long as they can get. A key
        without an event for the longest window of its column takes none."""
        return {k.field: (k.least_bytes, k.most_bytes) for k in self.keys}

    @property
    def row_bytes(self) -> int:
        """Disk that an event takes for as long as a window needs it; a label record takes 32 bytes more."""
        return 8 * (self.row_width + len(self.labels))


def plan_features(features: FeatureSetSpec, source: StreamSpec | TableSpec) -> FeaturePlan:
    """The plan of `features` over `source`. Raises InvalidInput naming the feature and the rule it breaks."""
    check_set(features, source)
    fields = {f.name: f for f in source.fields}
    labels = source.labels if isinstance(source, StreamSpec) else ()
    of_stream = isinstance(source, StreamSpec)
    aggregates = features.aggregates()
    numbers = (a.column for a in aggregates if a.column and a.kind != "distinct")
    read = dict.fromkeys((*features.columns(), *numbers))
    texts = (
        *(TextColumn(name, None) for name in _asked_texts(features, fields)),
        *(TextColumn(same.column, same.text) for same in features.same()),
    )
    plain = (name for name in read if fields[name].type not in ("time", "text"))
    columns = (*plain, *(text.name for text in texts))
    codes = tuple(dict.fromkeys(a.column for a in aggregates if a.kind == "distinct"))
    summed = dict.fromkeys(a.column for a in aggregates if a.column and a.kind in SUMMED)
    values = tuple(
        ValueColumn(name, columns.index(name), grid_shift(fields[name]), may_be_missing(fields[name]))
        for name in summed
    )
    used = {a.label for a in aggregates if a.label}
    label_columns = tuple(
        LabelColumn(label.name, index, label.delay_us) for index, label in enumerate(labels) if label.name in used
    )
    places = Places(columns, codes, values, label_columns)
    keys = tuple(key_table(by, aggregates, places) for by in dict.fromkeys(a.by for a in aggregates))
    edges = {edge for k in keys for w in k.windows for edge in (w.delay_us, w.edge)} | {k.last_edge for k in keys}
    ends = tuple(sorted(edges - {0}))
    for count, limit, what in (
        (len(aggregates), MAX_AGGREGATES, "aggregates"),
        (len(keys), MAX_KEYS, "key columns"),
        (len(ends), MAX_EDGES, "ends of windows (over, delay, delay + over)"),
    ):
        check_limit(features, count, limit, f"different {what}")
    key_fields = tuple(k.field for k in keys)
    looked_up_by = tuple(dict.fromkeys(n.by for n in features.lookups() if n.by not in key_fields))
    check_limit(features, len(keys) + len(looked_up_by), MAX_KEYS, "different key columns")
    references = source.references if isinstance(source, StreamSpec) else ()
    return FeaturePlan(
        digest=_digest(features, of_stream, fields, values, label_columns, references),
        spec=features,
        of_stream=of_stream,
        id=source.id,
        columns=columns,
        times=tuple(name for name in read if fields[name].type == "time"),
        codes=codes,
        keys=keys,
        values=values,
        labels=label_columns,
        edges=ends,
        references=reference_tables(features, references),
        texts=texts,
        looked_up_by=looked_up_by,
    )


def _asked_texts(features: FeatureSetSpec, fields: Mapping[str, FieldSpec]) -> tuple[str, ...]:
    """Text fields of which features ask whether they are missing."""
    found = (n.name for f in features.features for n in walk(f.expr) if isinstance(n, Column))
    return tuple(dict.fromkeys(name for name in found if fields[name].type == "text"))


def check_features(app: AppSpec) -> None:
    """Raises InvalidInput for the first feature set of `app` that cannot be planned."""
    sources = {s.name for s in app.streams} | {t.name for t in app.tables}
    for features in app.feature_sets:
        if features.source not in sources:
            refuse(
                f"Feature set {features.name}: there is no stream or table {features.source!r}.",
                "UNKNOWN_SOURCE",
                next_action=f"There is {', '.join(sorted(sources)) or 'none'}.",
            )
        plan_features(features, app.source(features.source))


def _digest(
    features: FeatureSetSpec,
    of_stream: bool,
    fields: Mapping[str, FieldSpec],
    values: tuple[ValueColumn, ...],
    labels: tuple[LabelColumn, ...],
    references: tuple[ReferenceSpec, ...],
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
    if lookups := features.lookups():
        used_by = {n.by: fields[n.by].type for n in lookups}
        named = dict.fromkeys(n.reference for n in lookups)
        content["references"] = [
            [r.name, index, r.id, r.time, [[f.name, f.type] for f in r.fields]]
            for index, r in enumerate(references)
            if r.name in named
        ]
        content["looked_up_by"] = used_by
    return digest(content)
