"""Cleaned events in columns: what is worked on where many events come together, and what an EVENTS record holds.

A column holds a value a row: int and time int64 (a time in microseconds), float float64, bool bool, text a list of str.
Where a value is missing stands a filler (NaN of a float, None of a text), and `missing` says so; it is None where
none is missing.

An EVENTS record's payload is msgpack, an array, on disk for years; fields are only ever added at its end:

    0  effective times, int64 [n]
    1  late: bits [n] (the first is the highest of a byte), empty when none is late
    2  columns in the order of the stream's fields, each an array: letter of its type (see LETTERS), missing as bits [n]
       or empty, values: int64 or float64 [n] or bytes 0 and 1 [n], little endian; of a text an array of texts and nils
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Corrupt
from skyriver.core.spec import FieldSpec, FieldType
from skyriver.data.border_values import Value
from skyriver.data.keys import keys_of_texts

if TYPE_CHECKING:
    import polars as pl

LETTERS: dict[FieldType, str] = {"int": "i", "float": "f", "text": "s", "bool": "b", "time": "t"}
_TYPES = {letter: kind for kind, letter in LETTERS.items()}

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
_DTYPES: dict[FieldType, str] = {"int": "<i8", "float": "<f8", "bool": "?", "time": "<i8"}


@dataclass(frozen=True, slots=True)
class Column:
    type: FieldType
    values: NDArray[Any] | list[str | None]
    missing: Bools | None = None

    @classmethod
    def of(cls, kind: FieldType, values: Sequence[Value]) -> Column:
        """From cleaned values."""
        if kind == "text":
            texts = cast("list[str | None]", list(values))
            return cls(kind, texts, _mask(texts) if None in texts else None)
        if kind == "float":
            numbers = np.array(values, np.float64)  # None becomes NaN, and a cleaned value is none
            missing = np.isnan(numbers)
            return cls(kind, numbers, missing if missing.any() else None)
        if None in values:
            missing = _mask(values)
            return cls(kind, np.array([v if v is not None else 0 for v in values], _DTYPES[kind]), missing)
        return cls(kind, np.array(values, _DTYPES[kind]))

    @classmethod
    def of_series(cls, kind: FieldType, series: pl.Series) -> Column:
        """From a column of a table."""
        missing = series.is_null().to_numpy() if series.null_count() else None
        if kind == "text":
            return cls(kind, series.to_list(), missing)
        if kind == "float":
            numbers = series.fill_null(float("nan")).to_numpy()
            gone = np.isnan(numbers)
            return cls(kind, numbers, gone if gone.any() else None)
        return cls(kind, series.fill_null(False if kind == "bool" else 0).to_numpy(), missing)

    def to_list(self) -> list[Value]:
        values: list[Value] = self.values if isinstance(self.values, list) else self.values.tolist()  # type: ignore[assignment]
        if self.missing is None or self.type == "text":
            return list(values)
        return [None if gone else value for value, gone in zip(values, self.missing.tolist(), strict=True)]

    def take(self, places: Ints) -> Column:
        if isinstance(self.values, list):
            taken: NDArray[Any] | list[str | None] = [self.values[place] for place in places.tolist()]
        else:
            taken = self.values[places]
        return Column(self.type, taken, self.missing[places] if self.missing is not None else None)

    def part(self, start: int, end: int) -> Column:
        return Column(self.type, self.values[start:end], self.missing[start:end] if self.missing is not None else None)


@dataclass(frozen=True, slots=True)
class Columns:
    """Events: a column for each field of their stream."""

    columns: tuple[Column, ...]
    count: int

    def __len__(self) -> int:
        return self.count

    @classmethod
    def of_rows(cls, fields: Sequence[FieldSpec], rows: Sequence[Sequence[Value]]) -> Columns:
        """From cleaned rows."""
        turned: Sequence[Sequence[Value]] = list(zip(*rows, strict=True)) if rows else [()] * len(fields)
        return cls(tuple(Column.of(f.type, values) for f, values in zip(fields, turned, strict=True)), len(rows))

    def keys(self, place: int) -> Ints:
        """A column of whole numbers or texts, none missing, as keys."""
        values = self.columns[place].values
        return keys_of_texts(cast("list[str]", values)) if isinstance(values, list) else values

    def rows(self) -> list[list[Value]]:
        return [list(row) for row in zip(*(column.to_list() for column in self.columns), strict=True)]

    def take(self, places: Ints) -> Columns:
        return Columns(tuple(column.take(places) for column in self.columns), len(places))

    def part(self, start: int, end: int) -> Columns:
        if start == 0 and end == self.count:
            return self
        return Columns(tuple(column.part(start, end) for column in self.columns), end - start)


def join(parts: Sequence[Columns]) -> Columns:
    """At least one, of the same stream."""
    if len(parts) == 1:
        return parts[0]
    turned = zip(*(part.columns for part in parts), strict=True)
    return Columns(tuple(_join(columns) for columns in turned), sum(part.count for part in parts))


def _join(columns: Sequence[Column]) -> Column:
    missing = None
    if any(column.missing is not None for column in columns):
        missing = np.concatenate(
            [c.missing if c.missing is not None else np.zeros(len(c.values), np.bool_) for c in columns]
        )
    if columns[0].type == "text":
        return Column("text", [text for column in columns for text in column.values], missing)
    return Column(columns[0].type, np.concatenate([cast("NDArray[Any]", c.values) for c in columns]), missing)


def _mask(values: Sequence[Value]) -> Bools:
    return np.array([value is None for value in values], np.bool_)


@dataclass(frozen=True, slots=True)
class EventBlock:
    """What an EVENTS record holds. `late` bool [n] or None for none: later than the stream's disorder."""

    columns: Columns
    effective: Ints
    late: Bools | None

    def __len__(self) -> int:
        return len(self.effective)

    def on_time(self, offsets: Ints) -> tuple[Ints, Ints, Columns]:
        """Of the events that are not late: those of `offsets`, effective times, columns."""
        if self.late is None:
            return offsets, self.effective, self.columns
        places = np.flatnonzero(~self.late)
        return offsets[places], self.effective[places], self.columns.take(places)

    def encode(self) -> bytes:
        columns = [
            (
                LETTERS[column.type],
                pack_bits(column.missing),
                column.values if isinstance(column.values, list) else column.values.tobytes(),
            )
            for column in self.columns.columns
        ]
        return msgspec.msgpack.encode((self.effective.tobytes(), pack_bits(self.late), columns))


class _Payload(msgspec.Struct, array_like=True, gc=False):
    effective: bytes
    late: bytes
    columns: list[tuple[str, bytes, bytes | list[str | None]]]


_decoder = msgspec.msgpack.Decoder(_Payload)


def decode_events(payload: bytes, count: int) -> EventBlock:
    """Raises Corrupt (UNREADABLE_RECORD) for a payload that is no block of `count` events."""
    try:
        found = _decoder.decode(payload)
        effective = np.frombuffer(found.effective, "<i8")
        if len(effective) != count:
            raise ValueError(f"it has {len(effective)} events, its header says {count}")
        columns = tuple(_column(letter, missing, values, count) for letter, missing, values in found.columns)
        late = unpack_bits(found.late, count)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Corrupt(f"A record of kind EVENTS cannot be read: {error}.", code="UNREADABLE_RECORD") from error
    return EventBlock(Columns(columns, count), effective, late)


def _column(letter: str, missing: bytes, values: bytes | list[str | None], count: int) -> Column:
    kind = _TYPES.get(letter)
    if kind is None or isinstance(values, list) != (kind == "text"):
        raise ValueError(f"a column of type {letter!r} does not hold that")
    found = values if isinstance(values, list) else np.frombuffer(values, _DTYPES[kind])
    if len(found) != count:
        raise ValueError(f"a column has {len(found)} values")
    return Column(kind, found, unpack_bits(missing, count))


def pack_bits(bits: Bools | None) -> bytes:
    return np.packbits(bits).tobytes() if bits is not None and bits.any() else b""


def unpack_bits(packed: bytes, count: int) -> Bools | None:
    """Raises ValueError for too few or too many."""
    if not packed:
        return None
    if len(packed) != (count + 7) // 8:
        raise ValueError(f"{len(packed)} bytes of bits for {count} rows")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(np.bool_)
