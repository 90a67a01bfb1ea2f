"""Rows and frames are cleaned alike: the same values bit for bit, the same rejections."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyriver.core.spec import FieldSpec
from skyriver.data.border import Rejection, RowCleaner, Value, parse_time
from skyriver.data.border_frame import BAD_SCHEMA, DTYPES, CleanFrame, clean_frame, encode_raw
from skyriver.data.border_times import parse_times, plain_times
from skyriver.data.border_values import plain_time

UNITS = ("s", "ms", "us", "ns")
EXACT = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
INTS = st.one_of(
    st.integers(-5, 5),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**22, 2**53 + 1, -(2**63), 1_700_000_000, 1_700_000_000_000]),
)
FLOATS = st.one_of(st.floats(), st.integers(-5, 5).map(float), st.sampled_from([-0.0, 4194304.0, 1e308, 5e-324]))
TEXTS = st.one_of(
    st.text(max_size=6), st.sampled_from(["", "a", "b", "x\0y", "1", "2024-02-29T10:00:00Z", "ß", "\U0001f30a"])
)


def bits(value: Value) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else (type(value), value)


def offsets() -> st.SearchStrategy[str]:
    two = st.integers(0, 99).map(lambda n: f"{n:02d}")
    full = st.tuples(st.sampled_from("+-"), two, st.sampled_from(["", ":"]), two).map("".join)
    return st.one_of(st.sampled_from(["", "Z", "z", "+00:00", "-0130", "+02"]), full)


def time_texts() -> st.SearchStrategy[str]:
    """ISO texts, mostly right ones, some spoilt at one place."""
    fraction = st.one_of(st.just(""), st.text("0123456789", max_size=11).map(lambda t: "." + t))
    clock = st.tuples(st.integers(0, 24), st.integers(0, 60), st.integers(0, 60), fraction, offsets()).map(
        lambda t: f"{t[0]:02d}:{t[1]:02d}:{t[2]:02d}{t[3]}{t[4]}"
    )
    short = st.tuples(st.integers(0, 23), st.integers(0, 59), offsets()).map(lambda t: f"{t[0]:02d}:{t[1]:02d}{t[2]}")
    day = st.one_of(
        st.dates().map(date.isoformat),
        st.tuples(st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32)).map(
            lambda t: f"{t[0]:04d}-{t[1]:02d}-{t[2]:02d}"
        ),
    )
    right = st.one_of(day, st.tuples(day, st.sampled_from("T t"), st.one_of(clock, short)).map("".join))
    spoilt = st.tuples(right, st.integers(0, 30), st.sampled_from("x0: -+Z.\u0661")).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :]
    )
    return st.one_of(right, right, spoilt)


def number_texts() -> st.SearchStrategy[str]:
    written = st.one_of(
        st.integers(-(2**64), 2**64).map(str),
        st.integers(-9, 9).map(lambda n: f"{n:+d}"),
        st.floats().map(repr),
        st.from_regex(r"[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
        st.sampled_from(
            ["", "nan", "NaN", "inf", "-Infinity", "1_0", "0x1", "1.", ".", "+", "1e", "\u0661", "0" * 401]
        ),
        st.sampled_from(["true", "FALSE", "1", "0", "True", "yes"]),
    )
    padding = st.sampled_from(["", "", "", " ", "\t ", "\n"])
    return st.tuples(padding, written, padding).map("".join)


@st.composite
def fields(draw: st.DrawFn) -> FieldSpec:
    kind = draw(st.sampled_from(["int", "float", "text", "bool", "time"]))
    options: dict[str, object] = {"nullable": draw(st.booleans())}
    if kind != "text":
        bounds = st.one_of(st.floats(-10, 10), st.sampled_from([5e6, -1e7, 1e19, -1e19, math.inf, -math.inf]))
        for bound in draw(st.sets(st.sampled_from(["ge", "gt", "le", "lt"]), max_size=2)):
            options[bound] = draw(bounds)
    if kind == "int":
        options["scale"] = draw(st.sampled_from([1.0, 1.0, -1.0, 100.0, -3.0]))
        options["fill"] = draw(st.sampled_from([None, 0, 7]))
        options["one_of"] = draw(st.sampled_from([(), (), (1, 2, 3, 2**70)]))
    elif kind == "float":
        options["scale"] = draw(st.sampled_from([1.0, 0.01, -2.5, 1e300]))
        options["fill"] = draw(st.sampled_from([None, 0, -1.5]))
        options["one_of"] = draw(st.sampled_from([(), (), (1, 2, 3)]))
    elif kind == "text":
        options["max_length"] = draw(st.sampled_from([3, 4096]))
        options["fill"] = draw(st.sampled_from([None, "", "a"]))
        options["one_of"] = draw(st.sampled_from([(), (), ("a", "b", "")]))
        options["role"] = draw(st.sampled_from(["", "id"]))
    elif kind == "bool":
        options["fill"] = draw(st.sampled_from([None, False]))
        options["one_of"] = draw(st.sampled_from([(), (), (1,)]))
    else:
        options["time_unit"] = draw(st.sampled_from(UNITS))
        options["role"] = draw(st.sampled_from(["", "time"]))
        options["fill"] = draw(st.sampled_from([None, 0, "2024-01-01"]))
    name = draw(st.sampled_from("abcdefgh"))
    return FieldSpec.model_validate({"name": name, "type": kind, **options})


def schemas() -> st.SearchStrategy[list[FieldSpec]]:
    return st.lists(fields(), min_size=1, max_size=3, unique_by=lambda f: f.name)


def columns(dtypes: dict[pl.DataType, st.SearchStrategy[object]], rows: int) -> st.SearchStrategy[pl.Series]:
    def of(dtype: pl.DataType) -> st.SearchStrategy[pl.Series]:
        cells = st.lists(st.one_of(st.none(), dtypes[dtype], dtypes[dtype]), min_size=rows, max_size=rows)
        return cells.map(lambda values: pl.Series(values, dtype=dtype))

    return st.sampled_from(list(dtypes)).flatmap(of)


TYPED: dict[pl.DataType, st.SearchStrategy[object]] = {
    pl.Int64(): INTS,
    pl.UInt64(): st.integers(0, 2**64 - 1),
    pl.Int8(): st.integers(-128, 127),
    pl.Float64(): FLOATS,
    pl.String(): st.one_of(TEXTS, time_texts()),
    pl.Boolean(): st.booleans(),
    pl.Null(): st.none(),
}
WRITTEN: dict[pl.DataType, st.SearchStrategy[object]] = {pl.String(): st.one_of(TEXTS, number_texts(), time_texts())}


def compare(df: pl.DataFrame, specs: list[FieldSpec], summed: frozenset[str], text_numbers: bool) -> None:
    cleaned: CleanFrame = clean_frame(df, specs, summed, text_numbers=text_numbers, first_row=10)
    cleaner = RowCleaner(specs, summed, text_numbers=text_numbers)
    kept, good, bad = [], [], []
    for number, row in enumerate(df.iter_rows(named=True), start=10):
        answer = cleaner.clean(row)
        if isinstance(answer, Rejection):
            bad.append((number, answer.reason.value, answer.field, answer.message, encode_raw(row)))
        else:
            kept.append(number)
            good.append([bits(v) for v in answer])
    assert cleaned.rows.to_list() == kept
    assert [[bits(v) for v in row] for row in cleaned.good.rows()] == good
    assert cleaned.bad.rows() == bad
    assert dict(cleaned.good.schema) == {f.name: DTYPES[f.type] for f in specs}
    assert dict(cleaned.bad.schema) == BAD_SCHEMA


def summed_of(specs: list[FieldSpec], wanted: bool) -> frozenset[str]:
    return frozenset(f.name for f in specs if wanted and f.type in ("int", "float", "bool"))


@EXACT
@given(data=st.data(), specs=schemas(), summed=st.booleans(), rows=st.integers(0, 12))
def test_typed_frames_are_cleaned_as_their_rows(
    data: st.DataObject, specs: list[FieldSpec], summed: bool, rows: int
) -> None:
    df = pl.DataFrame({f.name: data.draw(columns(TYPED, rows)) for f in specs})
    compare(df, specs, summed_of(specs, summed), text_numbers=False)


@EXACT
@given(data=st.data(), specs=schemas(), summed=st.booleans(), rows=st.integers(0, 12))
def test_frames_of_text_are_cleaned_as_their_rows(
    data: st.DataObject, specs: list[FieldSpec], summed: bool, rows: int
) -> None:
    df = pl.DataFrame({f.name: data.draw(columns(WRITTEN, rows)) for f in specs})
    compare(df, specs, summed_of(specs, summed), text_numbers=True)


@EXACT
@given(texts=st.lists(time_texts(), min_size=1, max_size=20), text_numbers=st.booleans(), unit=st.sampled_from(UNITS))
def test_times_are_cleaned_alike(texts: list[str], text_numbers: bool, unit: str) -> None:
    spec = FieldSpec.model_validate({"name": "at", "type": "time", "time_unit": unit})
    compare(pl.DataFrame({"at": texts}), [spec], frozenset(), text_numbers)


@EXACT
@given(texts=st.lists(number_texts(), min_size=1, max_size=20), kind=st.sampled_from(["int", "float", "bool", "time"]))
def test_numbers_in_text_are_cleaned_alike(texts: list[str], kind: str) -> None:
    spec = FieldSpec.model_validate({"name": "x", "type": kind})
    compare(pl.DataFrame({"x": texts}), [spec], frozenset(), text_numbers=True)


ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.one_of(st.just(UTC), ZONES))


@EXACT
@given(moment=MOMENTS)
def test_a_time_is_what_the_standard_library_reads(moment: datetime) -> None:
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_time(moment.isoformat()) == expected
    assert parse_time(moment.isoformat(sep=" ")) == expected


@EXACT
@given(
    moment=MOMENTS, zone=st.sampled_from(["", "Z", "z", "+00:00", "-00:00", "+0000", "ZZ", "Z+00:00"]), data=st.data()
)
def test_a_time_of_the_common_form_is_read_as_a_column_reads_it(
    moment: datetime, zone: str, data: st.DataObject
) -> None:
    unit = data.draw(st.sampled_from(["seconds", "milliseconds", "microseconds"]))
    text = moment.replace(tzinfo=None).isoformat(timespec=unit) + zone
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text) - 1))
        text = text[:place] + data.draw(st.sampled_from("0-+:.,TZ /9")) + text[place + data.draw(st.integers(0, 1)) :]
    (read,), (clear,) = parse_times(np.frombuffer(text.encode(), np.uint8).reshape(1, -1))
    if clear:
        assert parse_time(text) == read
    assert plain_time(text) in ((None, read) if clear else (None,))
    assert plain_time(moment.replace(tzinfo=None).isoformat(timespec=unit) + "+00:00") is not None


@EXACT
@given(moments=st.lists(MOMENTS, max_size=4), data=st.data())
def test_times_read_together_are_those_read_one_by_one(moments: list[datetime], data: st.DataObject) -> None:
    forms = st.tuples(
        st.sampled_from(["seconds", "milliseconds", "microseconds"]),
        st.sampled_from(["Z", "Z", "+00:00", "+00:00", "", "+0000", "z"]),
    )
    form = data.draw(forms)
    texts = []
    for moment in moments:
        unit, zone = form if data.draw(st.integers(0, 9)) else data.draw(forms)
        texts.append(moment.replace(tzinfo=None).isoformat(timespec=unit) + zone)
    if texts and data.draw(st.booleans()):
        place, text = data.draw(st.integers(0, len(texts) - 1)), texts[-1]
        at = data.draw(st.integers(0, len(text)))
        texts[place] = (
            text[:at]
            + data.draw(st.sampled_from(["\n", f"\n{text}", "9", "0", "-", "+", "٣", "\ud800", " ", ""]))
            + text[at + 1 :]
        )
    read = plain_times(texts)
    if read is None:
        plain = all(text.endswith(("Z", "+00:00")) and plain_time(text) is not None for text in texts)
        assert not plain or len(set(map(len, texts))) != 1
    else:
        assert read == [plain_time(text) for text in texts]


@EXACT
@given(values=st.lists(st.integers(-(2**63) + 1, 2**63 - 1), max_size=5), unit=st.sampled_from(["ms", "us", "ns"]))
def test_datetime_columns_are_instants_whatever_the_declared_unit(values: list[int], unit: str) -> None:
    limit = {"ms": 10**14, "us": 10**17, "ns": 2**63}[unit]
    values = [v % (2 * limit) - limit for v in values]
    df = pl.DataFrame({"at": pl.Series(values, dtype=pl.Int64).cast(pl.Datetime(unit))})  # type: ignore[arg-type]
    spec = FieldSpec(name="at", type="time", time_unit="s")
    expected = [{"ms": v * 1000, "us": v, "ns": v // 1000}[unit] for v in values]
    inside = [v for v in expected if -62135596800000000 <= v <= 253402300799999999]
    assert clean_frame(df, [spec]).good["at"].to_list() == inside
