"""Whole frames through a model: what `serve.fields` does with rows, a column at a time, with the same bits.

A clean column becomes the tensor's type as a single value would: over a double where the tensor holds floats, with NaN
for what is missing. A value that the type cannot hold, or a row that the model fails on, refuses its row and no other:
asked for alone it would be answered with that error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.spec import FieldSpec, FieldType
from skyriver.data.border import Reason
from skyriver.data.border_frame import BAD_SCHEMA, CleanFrame, encode_raw, frame_of
from skyriver.release.signature import ANY, Signature, TensorSpec, answer_names
from skyriver.serve.fields import inputs_of, no_such_value
from skyriver.serve.runner import NUMPY_TYPES, Array, Runner, Tensors

RUN_ROWS = 1_024
"""Rows of a run: more of them are not faster, and take more memory."""
Fault = tuple[int, str, str, str]
"""(place of the row, reason, field, message)."""


@dataclass(frozen=True, slots=True)
class Scored:
    """`outputs` in the order of the model, one value for each of `rows`; `bad`, of BAD_SCHEMA, are the others."""

    outputs: pl.DataFrame
    rows: pl.Series
    bad: pl.DataFrame


def fields_of(signature: Signature) -> tuple[FieldSpec, ...]:
    """The fields of a model that declares none: its inputs. Raises InvalidInput (INPUTS_NOT_COLUMNS) where one takes
    more than a value a row."""
    return tuple(_field(tensor) for tensor in signature.inputs)


def _field(tensor: TensorSpec) -> FieldSpec:
    single = bool(tensor.shape) and tensor.shape[0] in (ANY, 1) and all(axis in (ANY, 1) for axis in tensor.shape[1:])
    types: Mapping[str, FieldType] = {"f": "float", "b": "bool", "O": "text"}
    kind = NUMPY_TYPES[tensor.datatype].kind
    try:
        if single:
            return FieldSpec(name=tensor.name, type=types.get(kind, "int"), nullable=kind == "f")
    except ValueError:
        pass  # its name is none of a column
    raise InvalidInput(
        f"The model's input {tensor.name} takes {list(tensor.shape)} values: no column of a table gives those.",
        code="INPUTS_NOT_COLUMNS",
        where=tensor.name,
        next_action=f"POST /predict takes them as a list, {tensor.name}: [...], in many rows a request; for files and"
        " tables give the model one input a column.",
    )


class FrameScorer:
    """Scores clean frames by one model; any number of threads may use it. Raises InvalidInput (FIELDS_MISMATCH)."""

    def __init__(self, runner: Runner, fields: Sequence[FieldSpec]) -> None:
        self._runner = runner
        self._inputs = inputs_of(runner.signature, fields)
        self._names = answer_names(runner.signature)
        self._step = RUN_ROWS if runner.batching else 1

    def score(self, clean: CleanFrame) -> Scored:
        """Of the frame's columns those of the fields are read."""
        faults: list[Fault] = []
        tensors: dict[str, Array] = {}
        for tensor, fields in self._inputs:
            tensors[tensor.name] = _tensor(tensor, fields, clean.good, faults)
        places = np.setdiff1d(np.arange(len(clean.good)), [fault[0] for fault in faults])
        outputs, kept = self._run(tensors, places, faults)
        bad = pl.concat([clean.bad, _bad_rows(faults, clean)]).sort("row") if faults else clean.bad
        return Scored(outputs, clean.rows[kept], bad)

    def empty(self) -> pl.DataFrame:
        """No row, with the columns of answers."""
        return self._frame(self._runner.run(self._runner.probe(1, seed=0)), 1)[:0]

    def _run(self, tensors: Tensors, places: Array, faults: list[Fault]) -> tuple[pl.DataFrame, Array]:
        frames: list[pl.DataFrame] = []
        kept: list[Array] = []
        for start in range(0, len(places), self._step):
            for some in self._runs(tensors, places[start : start + self._step], faults):
                frames.append(some[0])
                kept.append(some[1])
        if not frames:
            return self.empty(), np.empty(0, np.int64)
        return pl.concat(frames, rechunk=True), np.concatenate(kept)

    def _runs(self, tensors: Tensors, some: Array, faults: list[Fault]) -> Iterator[tuple[pl.DataFrame, Array]]:
        """One run of all rows, or a run each when that fails: a row's values must not fail the others."""
        try:
            outputs = self._runner.run({name: values[some] for name, values in tensors.items()})
        except SkyriverError as error:
            if len(some) == 1:
                faults.append((int(some[0]), error.code, "", error.message))
                return
            for one in some:
                yield from self._runs(tensors, np.array([one]), faults)
            return
        yield self._frame(outputs, len(some)), some

    def _frame(self, outputs: Tensors, rows: int) -> pl.DataFrame:
        return pl.DataFrame([_series(name, outputs[source], rows) for name, source in self._names])


def _series(name: str, output: Array, rows: int) -> pl.Series:
    """A value a row, or a list of them."""
    if output.size == rows:
        flat = output.reshape(rows)
        return pl.Series(name, flat.tolist(), dtype=pl.String) if flat.dtype.kind == "O" else pl.Series(name, flat)
    each = output if output.shape and output.shape[0] == rows else output[None]  # of a model that runs row by row
    if each.dtype.kind == "O":
        return pl.Series(name, each.tolist())
    inner = pl.Series(each.reshape(-1)).dtype
    kind: pl.DataType = inner
    for _ in range(each.ndim - 1):
        kind = pl.List(kind)
    return pl.Series(name, each.tolist(), dtype=kind)


def _tensor(tensor: TensorSpec, fields: Sequence[FieldSpec], frame: pl.DataFrame, faults: list[Fault]) -> Array:
    """The columns as the input, with anything where a fault is noted."""
    kind = NUMPY_TYPES[tensor.datatype]
    values = np.empty((frame.height, len(fields)), kind)
    for place, field in enumerate(fields):
        column = frame[field.name]
        values[:, place], fits = _column(column, kind)
        for row in np.flatnonzero(~fits):
            message = no_such_value(field.name, column[int(row)], tensor.datatype)
            faults.append((int(row), Reason.OUT_OF_RANGE.value, field.name, message))
    return values.reshape((frame.height, *(1 for _ in tensor.shape[1:]))) if len(fields) == 1 else values


def _column(column: pl.Series, kind: np.dtype[np.generic]) -> tuple[Array, Array]:
    """Values of the tensor's type, and whether each holds what the column does."""
    known = column.is_not_null().to_numpy()
    if kind.kind == "f":
        exact = column.cast(pl.Float64).to_numpy()
        with np.errstate(over="ignore"):
            values = exact.astype(kind)
        return values, ~(np.isinf(values) & np.isfinite(exact))
    if kind.kind == "O":
        return column.to_numpy().astype(np.object_), known
    whole = column.cast(pl.Int64).fill_null(0).to_numpy()
    if kind.kind == "b":
        return whole.astype(np.bool_), known
    limits = np.iinfo(str(kind))
    fits = (whole >= max(limits.min, -(2**63))) & (whole <= min(limits.max, 2**63 - 1))
    return np.where(fits, whole, 0).astype(kind), known & fits


def _bad_rows(faults: Sequence[Fault], clean: CleanFrame) -> pl.DataFrame:
    """The first fault of each row."""
    first: dict[int, Fault] = {}
    for fault in faults:
        first.setdefault(fault[0], fault)
    rows = [
        (int(clean.rows[place]), reason, field, message, encode_raw(clean.good.row(place, named=True)))
        for place, reason, field, message in first.values()
    ]
    return frame_of(rows, BAD_SCHEMA)
