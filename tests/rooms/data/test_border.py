"""Cleaning of one row: what each rule takes and refuses, and in which order."""

from __future__ import annotations

import math
from typing import Any

import pytest

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import FieldSpec, with_roles
from skyriver.data.border import Reason, Rejection, RowCleaner, Value, parse_time, summed_limit


def field(kind: str, **options: Any) -> FieldSpec:
    return FieldSpec.model_validate({"name": "x", "type": kind, **options})


def clean(spec: FieldSpec, given: object, *, summed: bool = False, text_numbers: bool = False) -> Value | Reason:
    cleaner = RowCleaner([spec], frozenset({"x"} if summed else ()), text_numbers=text_numbers)
    answer = cleaner.clean({"x": given})
    if isinstance(answer, Rejection):
        assert answer.field == "x"
        assert answer.value is given
        assert answer.message.startswith("x ")
        return answer.reason
    return answer[0]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        (field("int"), 5, 5),
        (field("int"), 2**63 - 1, 2**63 - 1),
        (field("int"), 2**63, Reason.OUT_OF_RANGE),
        (field("int"), 10**4000, Reason.OUT_OF_RANGE),
        (field("int"), True, Reason.WRONG_TYPE),
        (field("int"), 3.0, Reason.WRONG_TYPE),
        (field("int"), "3", Reason.WRONG_TYPE),
        (field("int"), None, Reason.MISSING),
        (field("int"), NAN, Reason.MISSING),
        (field("int", nullable=True), NAN, None),
        (field("int", scale=100.0), 3, 300),
        (field("int", scale=100.0), 2**60, Reason.OUT_OF_RANGE),
        (field("float"), 3, 3.0),
        (field("float"), True, Reason.WRONG_TYPE),
        (field("float"), [1.5], Reason.WRONG_TYPE),
        (field("float"), INF, Reason.NOT_FINITE),
        (field("float"), 10**400, Reason.NOT_FINITE),
        (field("float", scale=0.01), 1999, 19.990000000000002),
        (field("float", scale=10.0), 1e308, Reason.NOT_FINITE),
        (field("float", fill=0), None, 0.0),
        (field("float", fill=0), NAN, 0.0),
        (field("bool"), False, False),
        (field("bool"), 0, Reason.WRONG_TYPE),
        (field("bool"), "true", Reason.WRONG_TYPE),
        (field("text"), "", ""),
        (field("text"), 5, Reason.WRONG_TYPE),
        (field("text"), "a\0b", Reason.BAD_TEXT),
        (field("text"), "a\ud800", Reason.BAD_TEXT),
        (field("text", max_length=2), "äö", "äö"),
        (field("text", max_length=2), "abc", Reason.TOO_LONG),
        (field("text", one_of=("a", "b")), "c", Reason.NOT_ALLOWED),
        (field("int", one_of=(1, 2)), 2, 2),
        (field("int", one_of=(1, 2)), 3, Reason.NOT_ALLOWED),
        (field("float", ge=0), -0.5, Reason.OUT_OF_RANGE),
        (field("float", ge=0), 0, 0.0),
        (field("float", gt=0), 0, Reason.OUT_OF_RANGE),
        (field("float", lt=1), 1, Reason.OUT_OF_RANGE),
        (field("float", le=1), 1, 1.0),
        (field("int", gt=2.5, le=4.9), 3, 3),
        (field("int", gt=2.5, le=4.9), 5, Reason.OUT_OF_RANGE),
        (field("int", ge=2**53), 2**53 - 1, Reason.OUT_OF_RANGE),
        (field("int", ge=INF), 5, Reason.OUT_OF_RANGE),
        (field("int", ge=0, fill=-1), None, Reason.OUT_OF_RANGE),
    ],
)
def test_values(spec: FieldSpec, given: object, expected: object) -> None:
    answer = clean(spec, given)
    assert answer == expected
    assert type(answer) is type(expected)


@pytest.mark.parametrize(
    ("given", "unit", "expected"),
    [
        ("1970-01-01", "s", 0),
        ("1970-01-02T00:00:00Z", "s", 86_400_000_000),
        ("1970-01-01T01:00+01:00", "s", 0),
        ("1970-01-01 00:00:01.5", "s", 1_500_000),
        ("1969-12-31T23:59:59.9999999", "s", -1),
        ("1970-01-01T00:00:00,5", "s", Reason.BAD_TIME),
        ("2023-02-29", "s", Reason.BAD_TIME),
        ("2024-02-29", "s", 1_709_164_800_000_000),
        ("1970-01-01T24:00", "s", Reason.BAD_TIME),
        ("1970-01-01T00:00:60", "s", Reason.BAD_TIME),
        ("19700101", "s", Reason.BAD_TIME),
        ("yesterday", "s", Reason.BAD_TIME),
        ("", "s", Reason.BAD_TIME),
        (1, "s", 1_000_000),
        (1, "ms", 1_000),
        (1, "us", 1),
        (1_999, "ns", 1),
        (-1, "ns", -1),
        (1_700_000_000_000_000_000, "ns", 1_700_000_000_000_000),
        (1_700_000_000_000_000_000, "us", Reason.BAD_TIME),
        (1.5, "s", Reason.WRONG_TYPE),
        (True, "s", Reason.WRONG_TYPE),
        (None, "s", Reason.MISSING),
    ],
)
def test_times(given: object, unit: str, expected: object) -> None:
    assert clean(field("time", time_unit=unit), given) == expected


@pytest.mark.parametrize(
    ("unit", "given", "meant"),
    [
        ("us", 1_700_000_000, "s"),
        ("us", 1_700_000_000_123, "ms"),
        ("us", 1_700_000_000_123_456, ""),
        ("us", 631_152_000, "s"),
        ("us", 631_151_999, ""),
        ("us", 4_102_444_800, ""),
        ("us", -1, ""),
        ("us", 0, ""),
        ("ms", 1_700_000_000, "s"),
        ("ms", 1_700_000_000_123, ""),
        ("ns", 1_700_000_000, "s"),
        ("ns", 1_700_000_000_123, "ms"),
        ("ns", 1_700_000_000_123_456, "us"),
        ("s", 1_700_000_000, ""),
        ("s", 1_700_000, ""),
    ],
)
def test_the_time_of_an_event_in_another_unit(unit: str, given: int, meant: str) -> None:
    own = field("time", time_unit=unit)
    assert isinstance(clean(own, given), int)  # of another time than that of the event nothing is guessed
    (at,) = with_roles([own], "", "x")
    answer = RowCleaner([at]).clean({"x": given})
    if meant:
        assert isinstance(answer, Rejection)
        assert answer.reason == Reason.BAD_TIME
        assert f"as {unit} since 1970 1970-0" in answer.message
        assert answer.message.endswith(f"Declare sr.field(time_unit='{meant}').")
    else:
        assert answer == [clean(own, given)]


def test_an_id_is_no_empty_text() -> None:
    (own,) = with_roles([field("text")], "x")
    answer = RowCleaner([own]).clean({"x": ""})
    assert isinstance(answer, Rejection)
    assert (answer.reason, answer.message) == (Reason.MISSING, "x is empty: an id must not be.")


def test_what_a_field_is_to_its_row_is_no_part_of_its_declaration() -> None:
    (own,) = with_roles([field("text")], "x")
    assert own.to_json() == field("text").to_json()


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        (field("int"), " +5\t", 5),
        (field("int"), "007", 7),
        (field("int"), "5.0", Reason.WRONG_TYPE),
        (field("int"), "1_000", Reason.WRONG_TYPE),
        (field("int"), "9223372036854775808", Reason.OUT_OF_RANGE),
        (field("int"), "", Reason.MISSING),
        (field("int"), "nan", Reason.MISSING),
        (field("float"), "1.5e3", 1500.0),
        (field("float"), ".5", 0.5),
        (field("float"), "1e999", Reason.NOT_FINITE),
        (field("float"), "inf", Reason.WRONG_TYPE),
        (field("float", nullable=True), "NaN", None),
        (field("bool"), "TRUE", True),
        (field("bool"), "0", False),
        (field("bool"), "yes", Reason.WRONG_TYPE),
        (field("text"), " a ", " a "),
        (field("text"), "", Reason.MISSING),
        (field("time"), "12", 12),
        (field("time"), " 1970-01-01 ", 0),
    ],
)
def test_texts_of_csv(spec: FieldSpec, given: str, expected: object) -> None:
    assert clean(spec, given, text_numbers=True) == expected


def test_summed_fields_stay_on_their_grid() -> None:
    assert clean(field("float"), 4194303.5, summed=True) == 4194303.5
    assert clean(field("float"), 4194304, summed=True) is Reason.OUT_OF_GRID
    assert clean(field("float"), 4194304) == 4194304.0
    assert clean(field("float", ge=0, le=1e9), 1e9, summed=True) == 1e9
    assert clean(field("float", le=1e9), -1.1e9, summed=True) is Reason.OUT_OF_GRID
    assert clean(field("int", one_of=(1, 10_000_000)), 10_000_000, summed=True) == 10_000_000
    assert summed_limit(field("float", ge=-10, le=10)) == 2**22


FIELDS = [
    FieldSpec(name="id", type="int"),
    FieldSpec(name="note", type="text", nullable=True),
    FieldSpec(name="amount", type="float", ge=0),
]


def test_the_first_wrong_field_in_field_order_is_named() -> None:
    cleaner = RowCleaner(FIELDS)
    assert cleaner.clean({"amount": 5, "id": 1}) == [1, None, 5.0]
    answer = cleaner.clean({"amount": -1, "id": "one", "colour": "red"})
    assert answer == Rejection("id", "one", Reason.WRONG_TYPE, "id is 'one': it must be a whole number.")
    answer = cleaner.clean({"amount": -1, "id": 1, "colour": "red"})
    assert answer == Rejection("amount", -1, Reason.OUT_OF_RANGE, "amount is -1.0: it must be >= 0.")
    answer = cleaner.clean({"amount": 1, "id": 1, "colour": "red"})
    assert isinstance(answer, Rejection)
    assert (answer.field, answer.value, answer.reason) == ("colour", "red", Reason.UNKNOWN_FIELD)
    assert "id, note, amount" in answer.message


def test_messages_stay_short_whatever_was_given() -> None:
    cleaner = RowCleaner([FIELDS[0]])
    for given in ("x" * 10_000, 1 << 100_000, [1] * 10_000, {"a": "b" * 10_000}, "\ud800"):
        answer = cleaner.clean({"id": given})
        assert isinstance(answer, Rejection)
        assert len(answer.message) < 200


@pytest.mark.parametrize(
    ("spec", "summed"),
    [
        (field("text", ge=0), False),
        (field("text"), True),
        (field("time"), True),
        (field("bool", scale=2.0), False),
        (field("int", scale=0.5), False),
        (field("float", scale=0.0), False),
        (field("float", ge=NAN), False),
        (field("text", one_of=(1,)), False),
        (field("int", one_of=("a",)), False),
        (field("int", fill="a"), False),
        (field("time", fill="never"), False),
    ],
)
def test_declarations_without_meaning_are_refused(spec: FieldSpec, summed: bool) -> None:
    with pytest.raises(InvalidInput) as caught:
        RowCleaner([spec], frozenset({"x"} if summed else ()))
    assert caught.value.code == "BAD_FIELD"
    assert caught.value.where == "x"


def test_times_at_the_ends_of_the_calendar() -> None:
    assert parse_time("0001-01-01") == -62_135_596_800_000_000
    assert parse_time("9999-12-31T23:59:59.999999Z") == 253_402_300_799_999_999
    assert parse_time("0000-12-31") is None
    assert parse_time("0001-01-01T00:00+00:01") is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(INF, "a finite number"), (-INF, "a finite number"), ("inf", "a finite number"), (" -Infinity", "a finite number"),
     ("NaN", "a finite number"), ("high", "a number"), ([1], "a number")],
)  # fmt: skip
def test_who_spells_an_infinity_hears_that_numbers_are_finite(given: object, wanted: str) -> None:
    rejection = RowCleaner([field("float")]).clean({"x": given})
    assert isinstance(rejection, Rejection)
    assert rejection.message.endswith(f": it must be {wanted}.")
