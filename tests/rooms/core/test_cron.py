"""Times of schedules, above all where clocks change."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from skyriver.core.cron import check_cron, last_slots, next_slot
from skyriver.core.errors import InvalidInput

BERLIN = "Europe/Berlin"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def told(slots: list[int]) -> list[str]:
    return [datetime.fromtimestamp(slot / 1e6, UTC).strftime("%m-%d %H:%M") for slot in slots]


def forward(expression: str, zone: str, after: str, count: int) -> list[str]:
    slots = [at(after)]
    for _ in range(count):
        found = next_slot(expression, zone, slots[-1])
        assert found is not None
        slots.append(found)
    return told(slots[1:])


def test_a_time_in_a_zone_moves_with_it() -> None:
    assert forward("0 3 * * *", BERLIN, "2026-03-28T00:00", 3) == ["03-28 02:00", "03-29 01:00", "03-30 01:00"]
    assert forward("0 3 * * *", "UTC", "2026-03-28T00:00", 3) == ["03-28 03:00", "03-29 03:00", "03-30 03:00"]


def test_a_time_that_does_not_exist_is_the_first_after_the_gap() -> None:
    assert forward("30 2 * * *", BERLIN, "2026-03-28T12:00", 2) == ["03-29 01:00", "03-30 00:30"]


def test_a_time_that_exists_twice_counts_once_and_an_interval_goes_on() -> None:
    assert forward("30 2 * * *", BERLIN, "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]
    assert forward("30 2 * * *", BERLIN, "2026-10-25T00:30", 1) == ["10-26 01:30"]
    half_hours = ["10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"]
    assert forward("*/30 * * * *", BERLIN, "2026-10-25T00:00", 4) == half_hours


@pytest.mark.parametrize("expression", ["30 2 * * *", "*/30 * * * *", "15 * * * *", "0 0 1 * *", "30 2 25 10,3 *"])
def test_the_last_times_are_those_that_came(expression: str) -> None:
    begin, end = at("2026-03-20T00:00"), at("2026-11-03T00:00")
    came, slot = [], next_slot(expression, BERLIN, begin)
    while slot is not None and slot <= end:
        came.append(slot)
        slot = next_slot(expression, BERLIN, slot)
    assert last_slots(expression, BERLIN, begin, end, 100_000) == came
    assert last_slots(expression, BERLIN, begin, end, 3) == came[-3:]
    for slot in came[-3:]:
        assert last_slots(expression, BERLIN, slot, end, 100_000) == [s for s in came if s > slot]
        assert last_slots(expression, BERLIN, begin, slot, 1) == [slot]


def test_the_last_of_a_year_of_minutes_cost_nothing() -> None:
    begun = time.thread_time()
    assert len(last_slots("* * * * *", BERLIN, at("2026-01-01T00:00"), at("2027-01-01T00:00"), 100)) == 100
    assert time.thread_time() - begun < 1.0


@pytest.mark.parametrize(
    ("expression", "zone", "words"),
    [
        ("* * * *", "UTC", "five fields"),
        ("* * * * * *", "UTC", "five fields"),
        ("61 * * * *", "UTC", "Bad minute"),
        ("0 0 30 2 *", "UTC", "Bad day-of-month"),
        ("0 0 29 2 MON#6", "UTC", "not a cron expression"),
        ("0 3 * * *", "Mars/Olympus", "no time zone 'Mars/Olympus'"),
        ("0 3 * * *", "../etc/passwd", "no time zone"),
        (7, "UTC", "five fields"),
    ],
)
def test_what_is_no_schedule_is_refused(expression: str, zone: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        check_cron(expression, zone)
    assert caught.value.code == "BAD_SCHEDULE"
    assert caught.value.next_action
