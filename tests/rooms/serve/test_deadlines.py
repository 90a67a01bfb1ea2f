"""Until when an answer is wanted, as moments of one clock."""

from __future__ import annotations

import pytest

from skyriver.core.errors import InvalidInput
from skyriver.serve.batching import NO_DEADLINE
from skyriver.serve.deadlines import until_ns

WALL = 1_800_000_000.0
NOW = 5_000_000_000


def until(timeout_us: int | None = None, **headers: str) -> float:
    given = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    moment = until_ns(given, timeout_us, arrived_ns=NOW - 1_000_000, now_ns=NOW, wall=WALL)
    return moment if moment == NO_DEADLINE else (moment - NOW) / 1e9


def test_the_header_is_a_moment_of_the_world() -> None:
    assert until(x_request_deadline="1800000002.5") == 2.5
    assert until(x_request_deadline="1799999999") == -1.0


def test_a_timeout_counts_from_the_arrival_at_the_gateway() -> None:
    assert until(3_000_000) == pytest.approx(2.999)  # it came here a millisecond ago
    assert until(3_000_000, x_skyriver_arrived="1799999999.5") == pytest.approx(2.5)


def test_an_arrival_in_the_future_gives_no_more_time() -> None:
    assert until(3_000_000, x_skyriver_arrived="1800000100") == pytest.approx(2.999)


def test_the_earlier_of_both_counts() -> None:
    assert until(3_000_000, x_request_deadline="1800000001") == 1.0
    assert until(500_000, x_request_deadline="1800000001") == pytest.approx(0.499)


def test_without_either_there_is_none() -> None:
    assert until() == NO_DEADLINE


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-inf", "1e999", "ÿ" * 5000, "0x10"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        until(x_request_deadline=text)
    assert caught.value.code == "BAD_DEADLINE"
    assert len(caught.value.message) < 200


def test_times_out_of_measure_do_not_overflow() -> None:
    assert until(x_request_deadline="1e300") == 1e9
    assert until(x_request_deadline="-1e300") == -1e9
