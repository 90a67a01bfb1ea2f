"""The parts of the test rows that a model declares, found in the fields of its events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.expr import Aggregate, Lookup, Node, walk
from skyriver.core.spec import FeatureSpec, ModelSpec, SliceSpec, StreamSpec
from skyriver.data.border_frame import schema_of
from skyriver.features.conditions import Given, fields_read, holds
from skyriver.train.slices import Slice
from skyriver.train.split import Split
from skyriver.wiring.work.history import History, fields_of
from skyriver.wiring.work.job import Job

SHOWN = 40
"""Characters of a value in the name of its slice."""
REST = "(others)"
MISSING = "(missing)"


def slices_of(
    job: Job, model: ModelSpec, history: History, split: Split, features: Sequence[FeatureSpec], x: NDArray[np.float32]
) -> tuple[Slice, ...]:
    """`history` and `split` are those of the training, as are `features` and their values `x` float32 [n, F]: rows are
    counted as `rows_of` does."""
    if not model.slices:
        return ()
    looked = {node for each in model.slices if each.when is not None for node in walk(each.when)}
    given: dict[Node, NDArray[np.float32]] = {
        feature.expr: x[split.test, place]
        for place, feature in enumerate(features)
        if feature.expr in looked and any(isinstance(node, Aggregate | Lookup) for node in walk(feature.expr))
    }
    names = [name for each in model.slices for name in _read(each, given)]
    if not names:
        frame = pl.DataFrame({"row": split.test})
    elif isinstance(history.source, StreamSpec):
        first = int(split.test[0])
        frame = fields_of(job, history, names, first, int(split.test[-1]) + 1)[split.test - first]
    else:
        frame = _of_table(job, history, names)[split.test]
    return tuple(part for each in model.slices for part in _parts(each, frame, given))


def _read(spec: SliceSpec, given: Given) -> tuple[str, ...]:
    return fields_read(spec.when, given) if spec.when is not None else (spec.by,)


def _of_table(job: Job, history: History, names: list[str]) -> pl.DataFrame:
    schema = {name: kind for name, kind in schema_of(history.source.fields).items() if name in names}
    pieces = DeltaTables(job.home.tables).scan(job.table(history.source.name), history.table.version, list(schema))
    return pl.concat([pl.DataFrame(schema=schema), *(piece.select(list(schema)) for piece in pieces)])


def _parts(spec: SliceSpec, frame: pl.DataFrame, given: Given) -> Iterator[Slice]:
    if spec.when is not None:
        rows = np.flatnonzero(holds(spec.when, frame, given))
        yield Slice(spec.name, spec.name, rows, spec.least, spec.least_positives)
        return
    values = frame[spec.by].cast(pl.String).fill_null(MISSING)
    counts = values.value_counts().sort("count", spec.by, descending=[True, False])
    frequent = counts[spec.by].head(spec.most).to_list()
    masks = [(value[:SHOWN], values == value) for value in frequent]
    masks.append((REST, ~values.is_in(frequent)))
    for shown, mask in masks:
        rows = np.flatnonzero(mask.to_numpy())
        if len(rows):
            yield Slice(f"{spec.name}={shown}", spec.name, rows, spec.least, spec.least_positives)
