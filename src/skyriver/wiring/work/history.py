"""The rows a model is trained from and judged by: versions of tables, and the features computed from them.

Whoever names the same versions gets the same bits, so later steps compute rows again instead of handing them on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import InvalidInput, NotFound
from skyriver.core.spec import FeatureSetSpec, ModelSpec, StreamSpec, TableSpec, TrainSpec
from skyriver.data.keys import keys_of_column
from skyriver.data.tables import TableVersion
from skyriver.features.backfill import backfill
from skyriver.features.plan import plan_features
from skyriver.train.split import Rows
from skyriver.wiring.work.job import Job


@dataclass(frozen=True, slots=True)
class History:
    """A source at a version; `labels` is the version of a stream's labels, None where there are none."""

    source: StreamSpec | TableSpec
    table: TableVersion
    labels: TableVersion | None


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
    return History(source, table, labels)


def _names(stream: StreamSpec) -> str:
    return ", ".join(label.name for label in stream.labels)


def history_at(job: Job, source: StreamSpec | TableSpec, version: int, labels_version: int | None) -> History:
    tables = DeltaTables(job.home.tables)
    labels = None if labels_version is None else tables.describe(job.table(f"{source.name}.labels"), labels_version)
    return History(source, tables.describe(job.table(source.name), version), labels)


def delay_of(spec: TrainSpec, source: StreamSpec | TableSpec) -> int | None:
    """The label's delay in microseconds; None for a table."""
    if isinstance(source, TableSpec):
        return None
    return next(label.delay_us for label in source.labels if label.name == spec.label)


def rows_of(job: Job, model: ModelSpec, history: History, features: FeatureSetSpec | None = None) -> Rows:
    """Features, labels, times and the keys that the model's metrics need, of all events that were not late; `features`
    are those that the model is trained on unless given."""
    assert model.train is not None
    source, tables = history.source, DeltaTables(job.home.tables)
    name = job.table(source.name)
    frames = list(tables.scan(name, history.table.version))
    labels = _labels(job, tables, history)
    plan = plan_features(features or job.app.feature_set(model.train.features), source)
    filled = backfill(plan, job.home.kernels, frames, labels, progress=job.progress, total=history.table.rows)
    if isinstance(source, StreamSpec):
        frames = [f.filter(~pl.col("_late")) for f in frames]
    ids = _joined(frames, source.id)
    return Rows(
        names=plan.names,
        x=filled.features,
        y=_truth(model.train, source, frames, labels, ids),
        time=filled.effective,
        ids=ids,
        keys={m.by: _joined(frames, m.by) for m in model.metrics},
    )


def _labels(job: Job, tables: DeltaTables, history: History) -> pl.DataFrame | None:
    if history.labels is None:
        return None
    return pl.concat(list(tables.scan(job.table(f"{history.source.name}.labels"), history.labels.version)))


def _joined(frames: list[pl.DataFrame], column: str) -> NDArray[np.int64]:
    return np.concatenate([keys_of_column(f[column]) for f in frames])


def _truth(
    spec: TrainSpec,
    source: StreamSpec | TableSpec,
    frames: list[pl.DataFrame],
    labels: pl.DataFrame | None,
    ids: NDArray[np.int64],
) -> NDArray[np.float32]:
    """The label of each row, NaN where none is known; of several for one subject the last one in the log counts."""
    if isinstance(source, TableSpec) or labels is None:
        return np.concatenate([f[spec.label].cast(pl.Float32).fill_null(float("nan")).to_numpy() for f in frames])
    known = labels.filter(pl.col("label") == spec.label).sort("_offset").unique("subject", keep="last")
    subjects = keys_of_column(known["subject"])
    values = known["value"].cast(pl.Float32).to_numpy()
    truth = np.full(len(ids), np.nan, np.float32)
    if len(subjects):
        order = np.argsort(subjects)
        at = np.minimum(np.searchsorted(subjects[order], ids), len(subjects) - 1)
        found = subjects[order][at] == ids
        truth[found] = values[order][at[found]]
    return truth
