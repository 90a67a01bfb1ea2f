"""Durations, names, references, digests."""

from __future__ import annotations

import pytest

from skyriver.core.errors import InvalidInput, JobFailed, NotFound, Unauthenticated, from_problem
from skyriver.core.names import ModelRef, check_name, digest
from skyriver.core.units import format_duration, parse_bytes, parse_duration, parse_memory, parse_rate


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("7d", 604_800_000_000), ("90m", 5_400_000_000), ("5ms", 5_000), ("1.5h", 5_400_000_000), (" 2 s ", 2_000_000)],
)
def test_durations(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds
    assert parse_duration(format_duration(microseconds)) == microseconds


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-1d", "7 parsecs", "1e3s", "7d 3h", None, "9" * 400 + "s", "9" * 15 + "w"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a window"):
        parse_duration(text, "a window")


def test_what_has_too_many_digits_is_refused_in_few_words() -> None:
    for parse in (parse_duration, parse_memory, parse_bytes):
        with pytest.raises(InvalidInput) as refused:
            parse("9" * 400 + "GB")
        assert len(refused.value.message) < 100


def test_references() -> None:
    assert ModelRef.parse("fraud") == ModelRef("fraud")
    assert ModelRef.parse("fraud@champion") == ModelRef("fraud", alias="champion")
    assert ModelRef.parse("fraud:3") == ModelRef("fraud", version=3)
    for bad in ("", "fraud:", "fraud:x", "fraud:0", "fraud@", "Fraud", "a/b"):
        with pytest.raises(InvalidInput):
            ModelRef.parse(bad)


@pytest.mark.parametrize("name", ["", "A", "1a", "a b", "a/b", "a.b", "../x", "a" * 64, "a\n", 3])
def test_names_that_cannot_be(name: object) -> None:
    with pytest.raises(InvalidInput):
        check_name(name, "a thing")


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})


def test_an_error_survives_the_way_to_the_client() -> None:
    sent = NotFound("No such thing.", code="GONE", where="here", next_action="Look.", details=({"field": "x"},))
    got = from_problem(sent.http_status, sent.to_problem())
    assert type(got) is NotFound
    assert (got.message, got.code, got.where, got.next_action, got.details) == (
        sent.message,
        sent.code,
        sent.where,
        sent.next_action,
        sent.details,
    )
    assert type(from_problem(401, {})) is Unauthenticated
    assert type(from_problem(409, {"code": "JOB_FAILED"})) is JobFailed


def test_rates() -> None:
    assert parse_rate("100/s") == 100
    assert parse_rate(" 7 / s ") == 7
    for wrong in ("", "100", "0/s", "-1/s", "1.5/s", "100/m", "1000000/s", "1/s/s"):
        with pytest.raises(InvalidInput, match="is not a limit") as refused:
            parse_rate(wrong, "a limit")
        assert refused.value.code == "BAD_RATE"
