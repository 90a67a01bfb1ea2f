"""The rows a model is trained from and judged by: versions of tables, and the features computed from them.

Whoever names the same versions gets the same bits, so later steps compute rows again instead of handing them on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import InvalidInput, NotFound, disk_error
from skyriver.core.spec import FeatureSetSpec, ModelSpec, StreamSpec, TableSpec, TrainSpec
from skyriver.data.border_frame import schema_of
from skyriver.data.keys import keys_of_column
from skyriver.data.operations import reference_table
from skyriver.data.tables import TableVersion
from skyriver.features.backfill import backfill_parts
from skyriver.features.plan import FeaturePlan, plan_features
from skyriver.release.manifest import SourceRef
from skyriver.train.split import Rows
from skyriver.wiring.work.job import Job


@dataclass(frozen=True, slots=True)
class History:
    """A source at a version; `labels` is the version of a stream's labels, None where there are none; `references` are
    those of its references' tables."""

    source: StreamSpec | TableSpec
    table: TableVersion
    labels: TableVersion | None
    references: Mapping[str, TableVersion] = field(default_factory=dict)

    @property
    def ref(self) -> SourceRef:
        return SourceRef(
            name=self.source.name,
            table_version=self.table.version,
            labels_version=self.labels.version if self.labels is not None else None,
            rows=self.table.rows,
            reference_versions={name: version.version for name, version in self.references.items()},
        )


def newest_history(job: Job, source: StreamSpec | TableSpec) -> History:
    """As the tables are now. Raises InvalidInput (NO_DATA) when nothing was loaded."""
    tables = DeltaTables(job.home.tables)
    try:
        table = tables.latest(job.table(source.name))
    except NotFound as error:
        raise InvalidInput(
            f"{source.name} holds no rows yet.",
            code="NO_DATA",
            next_action=f"`skyriver table load {source.name} FILE` loads some.",
        ) from error
    labels = None
    if isinstance(source, StreamSpec):
        try:
            labels = tables.latest(job.table(f"{source.name}.labels"))
        except NotFound as error:
            raise InvalidInput(
                f"{source.name} has no labels yet: nothing is known to learn from.",
                code="NO_LABELS",
                next_action=f"Load a file that has a column named like the label ({_names(source)}), or send labels.",
            ) from error
    return History(source, table, labels, _newest_references(job, tables, source))


def _newest_references(job: Job, tables: DeltaTables, source: StreamSpec | TableSpec) -> dict[str, TableVersion]:
    """After the events' own: what stands before these is in them, and more does no harm."""
    found = {}
    for reference in source.references if isinstance(source, StreamSpec) else ():
        try:
            found[reference.name] = tables.latest(job.table(reference_table(source.name, reference.name)))
        except NotFound:  # nothing was materialised since it was declared, so no row of it stands before an event
            continue
    return found


def _names(stream: StreamSpec) -> str:
    return ", ".join(label.name for label in stream.labels)


def history_at(job: Job, source: StreamSpec | TableSpec, ref: SourceRef) -> History:
    """The history that a version was trained on."""
    tables = DeltaTables(job.home.tables)
    labels = None
    if ref.labels_version is not None:
        labels = tables.describe(job.table(f"{source.name}.labels"), ref.labels_version)
    references = {
        name: tables.describe(job.table(reference_table(source.name, name)), version)
        for name, version in ref.reference_versions.items()
    }
    return History(source, tables.describe(job.table(source.name), ref.table_version), labels, references)


def delay_of(spec: TrainSpec, source: StreamSpec | TableSpec) -> int | None:
    """The label's delay in microseconds; None for a table."""
    if isinstance(source, TableSpec):
        return None
    return next(label.delay_us for label in source.labels if label.name == spec.label)


def rows_of(job: Job, model: ModelSpec, history: History, features: FeatureSetSpec | None = None) -> Rows:
    """Features, labels, times and the keys that the model's metrics need, of all events that were not late; `features`
    are those that the model is trained on unless given.

    The history may be larger than the memory: it is read piece by piece, in the columns that are needed, and the
    features are a file that the rows' `x` maps. What is held of an event is its id, time and keys.
    Raises Unavailable (DISK_FULL).
    """
    assert model.train is not None
    source, tables = history.source, DeltaTables(job.home.tables)
    labels = _labels(job, tables, history)
    plan = plan_features(features or job.app.feature_set(model.train.features), source)
    gathered = _Gathered(source, model.train, tuple(m.by for m in model.metrics), labels is not None)
    pieces = tables.scan(job.table(source.name), history.table.version, gathered.columns(plan))
    parts = backfill_parts(
        plan,
        job.home.kernels,
        gathered.passing(pieces),
        labels,
        references=_references(job, tables, history, plan),
        progress=job.progress,
        total=history.table.rows,
    )
    times: list[NDArray[np.int64]] = []
    try:
        with tempfile.TemporaryFile(dir=job.work_dir) as file:  # it is gone with the last array that maps it
            for part in parts:
                times.append(part.effective)
                file.write(part.features.tobytes())
            file.flush()
            time = np.concatenate(times)
            x = _mapped(file, (len(time), len(plan.names)))
    except OSError as error:
        raise disk_error(error, "The features of the history cannot be kept", str(job.work_dir)) from error
    ids = gathered.ids
    return Rows(
        names=plan.names,
        x=x,
        y=gathered.truth(labels),
        time=time,
        ids=ids,
        keys=gathered.keys,
        weights=gathered.weights,
    )


def fields_of(job: Job, history: History, names: Sequence[str], first: int, last: int) -> pl.DataFrame:
    """Fields, and `_offset`, of the events from row `first` to `last` of `rows_of`."""
    tables = DeltaTables(job.home.tables)
    known = {**schema_of(history.source.fields), "_offset": pl.Int64()}
    schema = {name: kind for name, kind in known.items() if name in names}
    found, seen = [pl.DataFrame(schema=schema)], 0
    if not names:
        return found[0]
    for frame in tables.scan(job.table(history.source.name), history.table.version, [*schema, "_late"]):
        kept = frame.filter(~pl.col("_late")).select(list(schema))
        start = max(0, first - seen)
        found.append(kept[start : max(start, last - seen)])
        seen += len(kept)
    return pl.concat(found)


def _mapped(file: IO[bytes], shape: tuple[int, int]) -> NDArray[np.float32]:
    if 0 in shape:
        return np.empty(shape, np.float32)
    return np.memmap(file, np.float32, "r", shape=shape).view(np.ndarray)


class _Gathered:
    """What is wanted of each event beside its features, gathered while its frame goes by."""

    def __init__(self, source: StreamSpec | TableSpec, spec: TrainSpec, by: tuple[str, ...], has_labels: bool) -> None:
        self._source, self._spec = source, spec
        self._by = tuple(dict.fromkeys((*by, *(name for name in (spec.time, spec.group) if name))))
        self._labelled = isinstance(source, TableSpec) or not has_labels
        """The label is a column of the events' own."""
        self._parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in (source.id, *self._by)}
        self._labels: list[NDArray[np.float32]] = []
        self._weights: list[NDArray[np.float32]] = []

    def columns(self, plan: FeaturePlan) -> list[str]:
        """Those of the table that are read."""
        own = ("_offset", "_effective", "_late") if isinstance(self._source, StreamSpec) else ()
        label = (self._spec.label,) if self._labelled else ()
        read = (*plan.number_fields, *(text.field for text in plan.texts), *plan.times, *plan.key_columns, *plan.codes)
        return list(dict.fromkeys((self._source.id, *read, *self._by, *label, *self._weight, *own)))

    def passing(self, frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for frame in frames:
            kept = frame.filter(~pl.col("_late")) if isinstance(self._source, StreamSpec) else frame
            for name, parts in self._parts.items():
                parts.append(keys_of_column(kept[name]))
            if self._labelled:
                column = kept[self._spec.label].cast(pl.Float32).fill_null(float("nan"))
                self._labels.append(column.to_numpy())
            for weight in self._weight:
                self._weights.append(kept[weight].cast(pl.Float32).to_numpy())
            yield frame

    @property
    def _weight(self) -> tuple[str, ...]:
        return (self._spec.weight,) if self._spec.weight else ()

    @property
    def weights(self) -> NDArray[np.float32] | None:
        return np.concatenate([np.empty(0, np.float32), *self._weights]) if self._weight else None

    @property
    def ids(self) -> NDArray[np.int64]:
        return self.keys_of(self._source.id)

    @property
    def keys(self) -> dict[str, NDArray[np.int64]]:
        return {name: self.keys_of(name) for name in self._by}

    def keys_of(self, name: str) -> NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *self._parts[name]])

    def truth(self, labels: pl.DataFrame | None) -> NDArray[np.float32]:
        """The label of each row, NaN where none is known; of several for one subject the last one in the log counts."""
        if self._labelled or labels is None:
            return np.concatenate([np.empty(0, np.float32), *self._labels])
        known = labels.filter(pl.col("label") == self._spec.label).sort("_offset").unique("subject", keep="last")
        subjects = keys_of_column(known["subject"])
        values = known["value"].cast(pl.Float32).to_numpy()
        ids = self.ids
        truth = np.full(len(ids), np.nan, np.float32)
        if len(subjects):
            order = np.argsort(subjects)
            at = np.minimum(np.searchsorted(subjects[order], ids), len(subjects) - 1)
            found = subjects[order][at] == ids
            truth[found] = values[order][at[found]]
        return truth


def _references(job: Job, tables: DeltaTables, history: History, plan: FeaturePlan) -> dict[str, pl.DataFrame]:
    """The rows of those that are looked up, in the columns that are needed."""
    frames = {}
    for place, table in enumerate(plan.references):
        source = history.source
        assert isinstance(source, StreamSpec)
        spec, version = source.references[table.index], history.references.get(table.name)
        columns = list(dict.fromkeys(("_offset", table.id, table.time, *plan.references[place].fields)))
        schema = {**schema_of(spec.fields), "_offset": pl.Int64()}
        parts = [pl.DataFrame(schema={name: schema[name] for name in columns})]
        if version is not None:
            name = job.table(reference_table(source.name, table.name))
            parts += tables.scan(name, version.version, columns)
        frames[table.name] = pl.concat(parts)
    return frames


def _labels(job: Job, tables: DeltaTables, history: History) -> pl.DataFrame | None:
    if history.labels is None:
        return None
    return pl.concat(list(tables.scan(job.table(f"{history.source.name}.labels"), history.labels.version)))
