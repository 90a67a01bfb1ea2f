"""The border for whole frames: the same cleaning as `data.border`, a column at a time.

Theory of operation. Each column is taken the fast way, vectorised, which answers one of two things about a value: it is
clean, and this is what it becomes, or it is doubtful. A row with a doubtful value goes through `RowCleaner`, which
alone refuses, or finds it good after all (a NaN written in a CSV, a time in a rare form). So frames and rows give
the same rejections by construction, and what must be examined is one thing only: what the fast way calls clean,
RowCleaner calls clean with the same bits.

A clean frame costs some 0.1 us a value, a doubtful row some 10 us.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import FieldSpec, FieldType
from skyriver.data.border import Rejection, RowCleaner, Rule, Value, compile_rule
from skyriver.data.border_times import parse_times
from skyriver.data.border_values import INT_HIGH, INT_LOW, NUMBER_LENGTH, PER_UNIT, TIME_HIGH, TIME_LOW, units_mistaken

DTYPES: dict[FieldType, pl.DataType] = {
    "int": pl.Int64(),
    "float": pl.Float64(),
    "text": pl.String(),
    "bool": pl.Boolean(),
    "time": pl.Int64(),
}
"""What a clean field is in a frame; a time is microseconds since 1970."""
BAD_SCHEMA = {
    "row": pl.Int64(),
    "reason": pl.String(),
    "field": pl.String(),
    "message": pl.String(),
    "raw": pl.String(),
}

RAW_LIMIT = 64 * 1024
"""Characters of a refused row that are kept."""


@dataclass(frozen=True, slots=True)
class CleanFrame:
    """`good`: the fields in order, exactly of DTYPES; `rows`: the row numbers (int64) that `good` came from, ascending;
    `bad`: of BAD_SCHEMA, one for each other row; `raw` is the row as JSON."""

    good: pl.DataFrame
    rows: pl.Series
    bad: pl.DataFrame


def schema_of(fields: Sequence[FieldSpec]) -> dict[str, pl.DataType]:
    return {f.name: DTYPES[f.type] for f in fields}


def bad_rows(rows: Sequence[tuple[int, Rejection, str]]) -> pl.DataFrame:
    """(row number, rejection, raw text) as a frame of BAD_SCHEMA."""
    return frame_of([(row, r.reason.value, r.field, r.message, raw) for row, r, raw in rows], BAD_SCHEMA)


def frame_of(rows: Sequence[Sequence[object]], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows of clean values as a frame; by columns, which is several times faster than row by row."""
    columns: Sequence[Sequence[object]] = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pl.DataFrame(
        [pl.Series(name, column, dtype=dtype) for (name, dtype), column in zip(schema.items(), columns, strict=True)]
    )


def encode_raw(row: object) -> str:
    """A refused row as JSON text, for the dead letters."""
    return msgspec.json.encode(row, enc_hook=str).decode()[:RAW_LIMIT]


def clean_frame(
    df: pl.DataFrame,
    fields: Sequence[FieldSpec],
    summed: frozenset[str] = frozenset(),
    *,
    text_numbers: bool = False,
    first_row: int = 0,
) -> CleanFrame:
    """Cleans the columns of `fields`; others are ignored. `first_row` is the number of the first row.

    `text_numbers`: the frame is from CSV, all text. Columns may be of any integer, float, text, bool, decimal or
    (for times) date and datetime type; values of a column of another type are refused one by one. Raises
    InvalidInput (MISSING_COLUMN, BAD_FIELD).
    """
    missing = [f.name for f in fields if f.name not in df.columns]
    if missing:
        raise InvalidInput(
            f"There is no column {missing[0]!r}.",
            code="MISSING_COLUMN",
            where=missing[0],
            next_action="Add it to the file, or take its field out of the declaration.",
        )
    # 1. bring columns to one form; a datetime is then a number of microseconds, whatever the declared unit is
    columns: dict[str, pl.Series] = {}
    seen: list[FieldSpec] = []
    for field in fields:
        columns[field.name], spec = _normal(df[field.name], field)
        seen.append(spec)
    # 2. the fast way
    sure = np.ones(df.height, dtype=np.bool_)
    clean: list[pl.Series] = []
    for spec in seen:
        values, clear = _fast(columns[spec.name], compile_rule(spec, spec.name in summed), text_numbers)
        clean.append(values.alias(spec.name))
        sure &= clear
    good = pl.DataFrame(clean, schema=schema_of(fields))
    rows = pl.Series("row", np.arange(first_row, first_row + df.height, dtype=np.int64))
    if sure.all():
        return CleanFrame(good, rows, bad_rows([]))
    # 3. the doubtful rows, one by one
    certain = pl.Series(sure)
    doubtful = rows.filter(~certain)
    kept, found, bad = _clean_rows(
        pl.DataFrame(columns).filter(~certain), doubtful, RowCleaner(seen, summed, text_numbers=text_numbers)
    )
    good, rows = good.filter(certain), rows.filter(certain)
    if kept:
        late = frame_of(found, schema_of(fields))
        rows = pl.concat([rows, pl.Series("row", kept, dtype=pl.Int64)])
        order = rows.arg_sort()
        good, rows = pl.concat([good, late])[order], rows[order]
    return CleanFrame(good, rows, bad_rows(bad))


def _clean_rows(
    df: pl.DataFrame, numbers: pl.Series, cleaner: RowCleaner
) -> tuple[list[int], list[list[Value]], list[tuple[int, Rejection, str]]]:
    kept: list[int] = []
    values: list[list[Value]] = []
    bad: list[tuple[int, Rejection, str]] = []
    for number, row in zip(numbers.to_list(), df.iter_rows(named=True), strict=True):
        cleaned = cleaner.clean(row)
        if isinstance(cleaned, Rejection):
            bad.append((number, cleaned, encode_raw(row)))
        else:
            kept.append(number)
            values.append(cleaned)
    return kept, values, bad


def _normal(column: pl.Series, field: FieldSpec) -> tuple[pl.Series, FieldSpec]:
    dtype = column.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String), field
    if dtype == pl.Float32 or isinstance(dtype, pl.Decimal):
        return column.cast(pl.Float64), field
    if field.type == "time" and isinstance(dtype, pl.Date | pl.Datetime):
        if isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns":
            micros = column.to_physical() // 1000
        else:
            micros = column.cast(pl.Datetime("us")).to_physical()
        return micros, field.model_copy(update={"time_unit": "us", "role": ""})
    return column, field


Fast = tuple[pl.Series, NDArray[np.bool_]]
"""Values, and whether they are clean (else anything may stand there)."""


def _fast(column: pl.Series, rule: Rule, text_numbers: bool) -> Fast:
    """1. convert and scale: values, null where missing or doubtful; and where it is missing."""
    dtype = column.dtype
    text = dtype == pl.String and (text_numbers or rule.spec.type in ("text", "time"))
    if text and text_numbers and rule.spec.type != "text":
        column = column.str.strip_chars(" \t")
    missing = column.is_null()
    if text and text_numbers:
        missing = missing | (column == "").fill_null(False)
    kind = rule.spec.type
    if kind == "int" and (dtype.is_integer() or text):
        values = _whole_numbers(column, text, int(rule.scale))
    elif kind == "float" and (dtype.is_numeric() or text):
        values = _numbers(column, text) * float(rule.scale)
        if not text:
            missing = missing | values.is_nan().fill_null(False)
        values = _only(values, values.is_finite())
    elif kind == "bool" and (dtype == pl.Boolean or text):
        values = _bools(column) if text else column
    elif kind == "text" and text:
        fits = (column.str.len_chars() <= rule.spec.max_length) & ~column.str.contains("\0", literal=True)
        values = _only(column, fits & (column != "") if rule.spec.role == "id" else fits)
    elif kind == "time" and (dtype.is_integer() or text):
        values = _times(column, rule, text_numbers) if text else _instants(column, rule)
    else:
        values = pl.Series(column.name, [None], dtype=DTYPES[kind]).new_from_index(0, len(column))
    # 2. fill, 3. check
    clear = values.is_not_null() & ~missing
    if rule.fill is not None:
        filled = pl.Series(column.name, [rule.fill], dtype=DTYPES[kind])
        values, clear = values.zip_with(~missing, filled), clear | missing
    clear = clear & _holds(values, rule).fill_null(False)
    if rule.fill is None and rule.spec.nullable:
        values = _only(values, ~missing)
        clear = clear | missing
    return values, clear.to_numpy().astype(np.bool_)


def _only(values: pl.Series, where: pl.Series) -> pl.Series:
    """Null where `where` is false or null."""
    return values.zip_with(where.fill_null(False), pl.Series([None], dtype=values.dtype))


def _holds(values: pl.Series, rule: Rule) -> pl.Series:
    """Whether values meet bounds, one_of and grid."""
    if rule.spec.type == "bool":
        values = values.cast(pl.Int64)
    holds = values.is_not_null()
    whole = rule.spec.type != "float"
    low, high = rule.low, rule.high
    if rule.grid is not None:
        if whole:
            edge = math.ceil(rule.grid) - 1
            low, high = max(-edge, low if low is not None else -edge), min(edge, high if high is not None else edge)
        else:
            holds &= values.abs() < rule.grid
    if low is not None:
        if whole and low > INT_HIGH:
            return pl.Series([False]).new_from_index(0, len(values))
        if not whole or low > INT_LOW:
            holds &= (values > low) if rule.low_open else (values >= low)
    if high is not None:
        if whole and high < INT_LOW:
            return pl.Series([False]).new_from_index(0, len(values))
        if not whole or high < INT_HIGH:
            holds &= (values < high) if rule.high_open else (values <= high)
    if rule.spec.one_of:
        allowed = [v for v in rule.allowed if not whole or isinstance(v, str) or INT_LOW <= v <= INT_HIGH]
        holds &= values.is_in(pl.Series(allowed, dtype=values.dtype).implode())
    return holds


def _whole_numbers(column: pl.Series, text: bool, scale: int) -> pl.Series:
    """int64, exactly; null where it does not fit or is none."""
    if text:
        column = _only(column, column.str.len_bytes() <= NUMBER_LENGTH)
    values = column.cast(pl.Int64, strict=False)
    if scale == 1:
        return values
    low, high = -(2**63 // abs(scale)), (2**63 - 1) // abs(scale)
    if scale < 0:
        low, high = -high, -low
    low, high = max(low, INT_LOW), min(high, INT_HIGH)
    return _only(values, (values >= low) & (values <= high)) * scale


def _numbers(column: pl.Series, text: bool) -> pl.Series:
    if text:
        column = _only(column, column.str.len_bytes() <= NUMBER_LENGTH)
    return column.cast(pl.Float64, strict=False)


def _bools(column: pl.Series) -> pl.Series:
    words = ["true", "1", "false", "0"]
    return column.str.to_lowercase().replace_strict(words, [True, True, False, False], default=None)


def _instants(column: pl.Series, rule: Rule) -> pl.Series:
    """Microseconds of whole numbers of the rule's unit; null outside the years 1 to 9999, and where an event's time is
    likely of another unit."""
    values = column.cast(pl.Int64, strict=False)
    if rule.spec.role == "time":
        for first, end in units_mistaken(rule.spec.time_unit).values():
            values = _only(values, (values < first) | (values >= end))
    factor = PER_UNIT.get(rule.spec.time_unit, 0)
    if not factor:
        return values // 1000  # 64 bits of nanoseconds are the years 1677 to 2262
    low, high = -(-TIME_LOW // factor), TIME_HIGH // factor
    return _only(values, (values >= low) & (values <= high)) * factor


def _times(column: pl.Series, rule: Rule, text_numbers: bool) -> pl.Series:
    """Microseconds of texts: per length of text the layout of the first one counts, others are doubtful."""
    lengths = column.str.len_bytes().fill_null(0).to_numpy()
    values = np.zeros(len(column), dtype=np.int64)
    clear = np.zeros(len(column), dtype=np.bool_)
    for length in np.unique(lengths)[:40]:
        places = np.flatnonzero(lengths == length)
        some = column if len(places) == len(column) else column[places]
        if 10 <= length <= 35:
            joined = np.frombuffer("".join(some.to_list()).encode(), dtype=np.uint8).reshape(len(places), length)
            values[places], clear[places] = parse_times(joined)
    times = _only(pl.Series(column.name, values), pl.Series(clear))
    if text_numbers and not clear.all():
        times = times.fill_null(_instants(_whole_numbers(column, True, 1), rule))
    return times
