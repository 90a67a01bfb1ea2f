"""When services sleep, and when they wake before anybody asks: never much worse than hindsight, and what is bounded."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.control.schedule.sleeping import (
    BINS,
    DAY_S,
    EARLY_S,
    ENOUGH_GAPS,
    LEAST_IDLE_S,
    MOST_WRONG,
    SLOT_S,
    SLOTS,
    TIMES,
    UNSEEN_S,
    Habits,
    Seen,
    Terms,
    Warming,
    idle_after,
    observe,
    pack,
    unpack,
    wakes_at,
)

LATE = Terms(share=0.9, allowed_s=0.05)
"""A waking is late: a start takes longer."""
BEGIN = 20_000.0 * DAY_S


def asked(habits: Habits, second: float, requests: float = 100.0) -> None:
    """A stretch of requests that begins then; somebody looks a second before and when it begins."""
    observe(habits, Seen(second - 1, habits.last))
    observe(habits, Seen(second, second, requests))


def with_gaps(gaps: Iterable[float], requests: float = 100.0) -> tuple[Habits, float]:
    habits, second = Habits(), BEGIN
    asked(habits, second, requests)
    for gap in gaps:
        second += gap
        asked(habits, second, requests)
    return habits, second


def quiet_until(habits: Habits, second: float, by: float = 50.0) -> None:
    while habits.looked + by < second:
        observe(habits, Seen(habits.looked + by, habits.last))
    observe(habits, Seen(second, habits.last))


GAPS = st.lists(st.floats(LEAST_IDLE_S, 2e6), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(GAPS, st.sampled_from([0.5, 3.0, 60.0, 600.0]), st.sampled_from([0.0, 0.05]))
def test_keeping_and_waking_never_cost_more_than_their_bound_over_hindsight(
    gaps: list[float], start_s: float, allowed_s: float
) -> None:
    habits, second = Habits(start_s=start_s), BEGIN
    asked(habits, second, 10.0)
    paid = best = 0.0
    for number, gap in enumerate(gaps):
        rule = idle_after(habits, Terms(0.99, allowed_s))
        costs = min(gap, rule.seconds) + (rule.wake_s if gap > rule.seconds else 0.0)
        hindsight = min(gap, rule.wake_s)
        times = 2.0 if rule.rule == "break-even" else TIMES
        assert costs <= times * hindsight + LEAST_IDLE_S + 1e-6, number
        assert rule.seconds >= LEAST_IDLE_S
        paid, best = paid + costs, best + hindsight
        second += gap
        asked(habits, second, 10.0)
    assert paid <= TIMES * best + LEAST_IDLE_S * len(gaps) + 1e-6


@settings(max_examples=30, deadline=None)
@given(GAPS)
def test_the_same_history_gives_the_same_and_is_bounded_and_survives_a_file(gaps: list[float]) -> None:
    (habits, second), (again, _) = with_gaps(gaps), with_gaps(gaps)
    assert habits == again
    wakes_at(habits, LATE, second)
    assert len(habits.counts) == len(habits.sums) == BINS
    assert len(habits.days) == SLOTS
    packed = json.dumps(pack(habits), allow_nan=False)
    assert len(packed) < 12_000
    assert unpack(json.loads(packed)) == habits


@pytest.mark.parametrize(
    "told",
    [
        None,
        3,
        {},
        {**pack(Habits()), "counts": [1.0]},
        {**pack(Habits()), "days": [[SLOTS, 1]]},
        {**pack(Habits()), "worth_s": math.nan},
        {**pack(Habits()), "start_s": 0},
        {**pack(Habits()), "warming": [1]},
    ],
    ids=str,
)
def test_what_cannot_be_read_is_learnt_anew(told: object) -> None:
    assert unpack(told) == Habits()


def test_without_history_it_is_kept_for_what_a_waking_costs() -> None:
    rule = idle_after(Habits(start_s=4.0), LATE)
    assert (rule.rule, rule.seconds) == ("break-even", 304.0)
    assert idle_after(Habits(start_s=40.0), Terms(0.9, allowed_s=60.0)).seconds == 40.0
    assert idle_after(Habits(start_s=40.0), Terms(0.9)).seconds == 40.0
    assert idle_after(Habits(start_s=0.5), Terms(0.9)).seconds == LEAST_IDLE_S


def test_what_is_declared_wins_and_nothing_is_foretold() -> None:
    habits, second = daily(days=6)
    declared = Terms(0.9, 0.05, idle_s=600.0)
    assert (idle_after(habits, declared).seconds, idle_after(habits, declared).rule) == (600.0, "declared")
    assert wakes_at(habits, declared, second + 3_600) is None
    assert wakes_at(habits, LATE, second + 3_600) is not None


@pytest.mark.parametrize(("mean_s", "worth_s", "kept"), [(120.0, 300.0, True), (120.0, 20.0, False)])
def test_a_trickle_is_kept_or_slept_by_the_price(mean_s: float, worth_s: float, kept: bool) -> None:
    """Of a Poisson process the past says nothing: it is kept if a waking costs more than the mean gap."""
    draw = random.Random(7)
    gaps = [max(LEAST_IDLE_S, draw.expovariate(1 / mean_s)) for _ in range(400)]
    habits, _ = with_gaps(gaps)
    habits.worth_s = worth_s / habits.late
    rule = idle_after(habits, LATE)
    assert rule.rule == "history"
    slept = sum(gap > rule.seconds for gap in gaps) / len(gaps)
    assert slept < 0.05 if kept else slept > 0.6
    assert rule.seconds > rule.wake_s if kept else rule.seconds <= rule.wake_s


def test_history_sleeps_sooner_where_gaps_are_long_and_waits_where_they_are_a_little_longer_than_break_even() -> None:
    even = idle_after(Habits(), LATE).seconds
    habits, _ = with_gaps([3_600.0] * 30)
    assert idle_after(habits, LATE).seconds < 0.7 * even
    habits, _ = with_gaps([1.3 * even] * 30)
    assert idle_after(habits, LATE).seconds > 1.3 * even


def test_a_late_request_is_worth_what_keeps_the_objective() -> None:
    """Of single requests an hour apart each would be late: the objective allows one in a hundred."""
    single, _ = with_gaps([3_600.0] * 40, requests=1.0)
    assert idle_after(single, Terms(0.99, 0.05)).seconds > 3_600
    many, _ = with_gaps([3_600.0] * 40, requests=1_000.0)
    assert idle_after(many, Terms(0.99, 0.05)).seconds < 600
    assert idle_after(single, Terms(0.99, 5.0)).seconds == LEAST_IDLE_S  # wake="5s": nobody is late


NINE = 9 * 3_600.0


def daily(days: int, jitter: float = 20.0) -> tuple[Habits, float]:
    """From midnight on, with a job about nine every day; looked at all day long."""
    habits, draw = Habits(), random.Random(3)
    observe(habits, Seen(BEGIN, 0.0))
    at = BEGIN
    for day in range(days):
        at = BEGIN + day * DAY_S + NINE + draw.uniform(-jitter, jitter)
        quiet_until(habits, at - 1)
        observe(habits, Seen(at, at, 500.0))
    return habits, at


def test_a_daily_job_is_foretold_on_the_fourth_day() -> None:
    for days in (1, 2):
        habits, second = daily(days)
        assert wakes_at(habits, LATE, second + 3_600) is None
    habits, second = daily(3)
    warming = wakes_at(habits, LATE, second + 3_600)
    assert warming is not None
    nine = BEGIN + 3 * DAY_S + NINE
    assert nine - 120 < warming.at + habits.start_s < nine - 20
    assert nine + 60 < warming.until < nine + SLOT_S
    assert (warming.days, warming.of) == (3, 3)
    assert wakes_at(habits, Terms(0.9, allowed_s=10.0), second) is None  # wake= is long enough: nobody is late


def test_one_that_has_begun_stays_until_it_is_over() -> None:
    habits, second = daily(5)
    warming = wakes_at(habits, LATE, second + 3_600)
    assert warming is not None
    quiet_until(habits, warming.at + 1)
    assert wakes_at(habits, LATE, warming.at + 1) == warming
    observe(habits, Seen(warming.at + 70, warming.at + 70, 500.0))
    assert wakes_at(habits, LATE, warming.at + 70) == warming
    quiet_until(habits, warming.until + 1)
    assert habits.wrong == 0
    later = wakes_at(habits, LATE, warming.until + 1)
    assert later is not None
    assert later.at == pytest.approx(warming.at + DAY_S)


def test_a_job_that_ends_costs_a_bounded_loss_and_then_it_rests() -> None:
    habits, second = daily(14)
    bound = habits.start_s + LATE_COST + SLOT_S + 1.5 * habits.start_s + 5.0
    lost: dict[int, float] = {}
    for _ in range(40 * DAY_S // 50):
        second += 50.0
        observe(habits, Seen(second, habits.last))
        before = wakes_at(habits, LATE, second)
        if before is not None and before.at <= second:
            day = int(before.at + EARLY_S) // DAY_S
            lost[day] = lost.get(day, 0.0) + 50.0
    assert len(lost) == MOST_WRONG
    assert max(lost.values()) <= bound


LATE_COST = 300.0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, SLOTS - 1), min_size=0, max_size=12, unique=True), st.integers(0, 5))
def test_whatever_days_are_like_the_loss_of_a_day_is_bounded(slots: list[int], quiet_days: int) -> None:
    habits = Habits(begun=BEGIN, looked=BEGIN + 14 * DAY_S - 1, day=int(BEGIN) // DAY_S + 13)
    for slot in slots:
        habits.days[slot] = (1 << 14) - 1
    lost: dict[int, float] = {}
    second = BEGIN + 14 * DAY_S
    for _ in range((1 + quiet_days) * SLOTS * 5):
        second += 60.0
        observe(habits, Seen(second, 0.0))
        before = habits.warming
        wakes_at(habits, LATE, second)
        if before is not None and before.at <= second < before.until:
            day = int(before.at + EARLY_S) // DAY_S
            lost[day] = lost.get(day, 0.0) + 60.0
    assert all(each <= 303.0 + SLOT_S + 9.5 + 60.0 for each in lost.values())


def test_where_a_service_is_kept_for_long_a_warming_for_nobody_is_as_dear() -> None:
    habits, second = daily(5)
    short = wakes_at(habits, LATE, second + 3_600)
    habits.start_s, habits.searched = 40.0, 0
    longer = wakes_at(habits, LATE, second + 3_600)
    assert short is not None
    assert longer is not None
    assert short.stays_s == pytest.approx(short.until - short.at)
    assert longer.stays_s == pytest.approx(40.0 + idle_after(habits, LATE).seconds)
    assert longer.stays_s > longer.until - longer.at


def test_after_nobody_looked_it_is_not_known_what_came() -> None:
    habits, second = with_gaps([600.0] * 3)
    gaps = sum(habits.counts)
    observe(habits, Seen(second + 10 * UNSEEN_S, second + 10 * UNSEEN_S, 5.0))
    assert sum(habits.counts) == gaps
    asked(habits, habits.last + 50.0)
    assert sum(habits.counts) == pytest.approx(gaps + 1, rel=0.01)


def test_a_clock_that_was_wrong_is_forgotten() -> None:
    habits, _ = with_gaps([600.0] * 3)
    observe(habits, Seen(BEGIN + 900 * DAY_S, BEGIN + 900 * DAY_S, 1.0))
    observe(habits, Seen(BEGIN + DAY_S, 0.0))
    assert habits.last == 0.0
    gaps = sum(habits.counts)
    asked(habits, BEGIN + DAY_S + 2)
    asked(habits, BEGIN + DAY_S + 50)
    assert sum(habits.counts) > 0.9 * gaps
    assert habits.day == int(BEGIN) // DAY_S + 1


def test_gaps_fade_with_the_weeks() -> None:
    habits, _ = with_gaps([7 * DAY_S / 40] * 41)
    assert ENOUGH_GAPS < sum(habits.counts) < 41
    assert isinstance(wakes_at(habits, LATE, habits.last), Warming | None)
