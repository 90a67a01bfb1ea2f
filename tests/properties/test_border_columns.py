"""What the border takes in columns, it takes as it would row by row: the same values, bit for bit."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyriver.core.spec import FieldSpec
from skyriver.data.border import Rejection, RowCleaner, Value
from skyriver.data.border_columns import TypedCleaner

EXACT = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def bits(value: Value) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else (type(value), value)


BOUNDS = st.one_of(st.floats(-10, 10), st.sampled_from([5e6, -1e7, 1e19, -1e19, math.inf, -math.inf]))


@st.composite
def fields(draw: st.DrawFn, name: str) -> FieldSpec:
    kind = draw(st.sampled_from(["int", "float", "text", "bool", "time"]))
    options: dict[str, object] = {"nullable": draw(st.booleans())}
    if kind != "text":
        for bound in draw(st.sets(st.sampled_from(["ge", "gt", "le", "lt"]), max_size=1)):
            options[bound] = draw(BOUNDS)
    if kind == "int":
        options["scale"] = draw(st.sampled_from([1.0, 1.0, -1.0, 100.0]))
        options["fill"] = draw(st.sampled_from([None, None, 7]))
        options["one_of"] = draw(st.sampled_from([(), (), (1, 2, 3, 7, 2**70)]))
    elif kind == "float":
        options["scale"] = draw(st.sampled_from([1.0, 1.0, 0.01, -2.5, 1e300]))
        options["fill"] = draw(st.sampled_from([None, None, -1.5]))
        options["one_of"] = draw(st.sampled_from([(), (), (1, 2, 3)]))
    elif kind == "text":
        options["max_length"] = draw(st.sampled_from([3, 4096]))
        options["fill"] = draw(st.sampled_from([None, None, "a"]))
        options["one_of"] = draw(st.sampled_from([(), (), ("a", "b", "")]))
        options["role"] = draw(st.sampled_from(["", "id"]))
    elif kind == "bool":
        options["fill"] = draw(st.sampled_from([None, False]))
        options["one_of"] = draw(st.sampled_from([(), (), (1,)]))
    else:
        options["time_unit"] = draw(st.sampled_from(["s", "ms", "us", "ns"]))
        options["role"] = draw(st.sampled_from(["", "time"]))
        options["fill"] = draw(st.sampled_from([None, "2024-01-01"]))
    return FieldSpec.model_validate({"name": name, "type": kind, **options})


LIKELY: dict[str, st.SearchStrategy[object]] = {
    "int": st.integers(-5, 9) | st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 + 1]),
    "float": st.floats(-5, 5)
    | st.integers(-5, 5)
    | st.sampled_from([-0.0, 2**53 + 1, 2**64 + 1, -(2**70), 1e308, 5e-324, 4194304.0]),
    "text": st.sampled_from(["", "a", "b", "abcd", "x\0y", "ß", "\U0001f30a"]),
    "bool": st.booleans(),
    "time": st.sampled_from(
        [
            "2024-02-29T10:00:00Z",
            "2024-02-30T10:00:00Z",
            "2024-02-29T10:00:00.123456789Z",
            "2024-02-29 10:00",
            "2024-02-29T10:00:00+02:00",
            "2024-02-29",
            "2024-02-2ß",
        ]
    )
    | st.integers(0, 10**9)
    | st.sampled_from([-1, 1_700_000_000, 1_700_000_000_000, 1_700_000_000_000_000, 2**62, -(2**62)]),
}
OTHER = st.one_of(st.none(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.booleans(), st.just([1]))


def rows_of(data: st.DataObject, specs: list[FieldSpec], count: int) -> list[dict[str, object]]:
    """Rows that are mostly as they should be."""
    rows: list[dict[str, object]] = [{} for _ in range(count)]
    for spec in specs:
        values = LIKELY[spec.type]
        if spec.type == "time" and data.draw(st.booleans()):
            values = st.sampled_from(["2024-02-29T10:00:00Z", "2024-02-29T23:59:59Z"])
        if data.draw(st.booleans()):
            values = values | st.none()
        column = data.draw(st.lists(values, min_size=count, max_size=count))
        for row, value in zip(rows, column, strict=True):
            if value is not None or data.draw(st.booleans()):
                row[spec.name] = value
    if data.draw(st.integers(0, 5)) == 0:
        rows[data.draw(st.integers(0, count - 1))][data.draw(st.sampled_from("abz"))] = data.draw(OTHER)
    return rows


@EXACT
@given(st.data(), fields(name="a"), fields(name="b"), st.booleans(), st.integers(1, 6), st.booleans())
def test_what_is_clean_in_columns_is_clean_in_rows(
    data: st.DataObject, first: FieldSpec, second: FieldSpec, summed: bool, count: int, packed: bool
) -> None:
    specs = [first, second]
    sums = frozenset(f.name for f in specs if summed and f.type in ("int", "float", "bool"))
    cleaner, typed = RowCleaner(specs, sums), TypedCleaner(specs, sums)
    rows = rows_of(data, specs, count)
    if packed:
        try:
            body = msgspec.msgpack.encode(rows)
        except OverflowError:  # MessagePack has no larger whole numbers
            return
        given_, decoded = msgspec.msgpack.decode(body), typed.msgpack(body)
    else:
        body = msgspec.json.encode(rows)
        given_, decoded = msgspec.json.decode(body), typed.json(body)
        assert (typed.lines(b"\n".join(map(msgspec.json.encode, rows))) is None) == (decoded is None)
    found = typed.columns(decoded) if decoded is not None else None
    by_rows = typed.rows(decoded, body) if decoded is not None and not packed else None
    one_by_one: list[Any] = [cleaner.clean(row) for row in given_]
    if found is not None:
        assert [[bits(v) for v in row] for row in found.rows()] == [[bits(v) for v in row] for row in one_by_one]
    if by_rows is not None:
        assert [[bits(v) for v in row] for row in by_rows] == [[bits(v) for v in row] for row in one_by_one]
    if not any(isinstance(row, Rejection) for row in one_by_one) and usual(rows, specs):
        assert found is not None, "all rows are good, so columns take them"
        assert packed or by_rows is not None


def usual(rows: list[dict[str, object]], specs: list[FieldSpec]) -> bool:
    """Values that one expects; the long way may be taken for rare ones."""
    for spec in specs:
        values = [row.get(spec.name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if spec.type == "time" and (len(kinds) > 1 or len({len(str(value)) for value in values}) > 1):
            return False
        if any(value != value for value in values):
            return False
        if spec.type == "int" and (spec.scale != 1 or any(abs(int(v)) > 2**62 for v in values if v is not None)):  # type: ignore[call-overload]
            return False
        if spec.type == "time" and int in kinds:
            return False
    return True


@pytest.mark.parametrize("body", [b"[", b"[1]", b"{}", b"[]", b'[{"a":1}] x', b'[{"a":"\\ud800"}]', b'[{"a":"\xff"}]'])
def test_what_is_no_array_of_events_is_left_to_the_long_way(body: bytes) -> None:
    assert not TypedCleaner([FieldSpec(name="a", type="text")]).json(body)
