"""Advice on made histories of which it is known what is right."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import skyriver as sr
from skyriver.control.schedule import advising, lanes
from skyriver.control.schedule.advising import LEAST_S, STALE_S, WORTH, Asked, advise, line_of
from skyriver.control.schedule.history import (
    HEAD,
    MARK,
    MINUTES,
    SIZE,
    TICK_S,
    TICKS,
    Filling,
    Look,
    Minute,
    pack,
    place,
    unpack,
)
from skyriver.control.schedule.past import History, Plan, history_of
from skyriver.control.schedule.replaying import replay
from skyriver.control.schedule.scaling import Fleet, Rules, Ticks
from skyriver.control.schedule.tables import Floats
from skyriver.core.contract_advice import ServiceAdvice
from skyriver.core.prices import CORE, MEMORY, Prices
from skyriver.core.spec import ServiceSpec

EUR = Prices("HOME/prices.toml", date(2026, 11, 1), "EUR", {CORE: Decimal("0.021"), MEMORY: Decimal("0.0027")})
FREE = Prices("list owned", date(2026, 11, 1))
DAY = 86_400 // TICK_S
BEGINS = 20_000 * 86_400
SECONDS = np.arange(DAY) * TICK_S
SLOW = "200ms"
"""A latency of twenty times the work."""


def noisy(work: Floats, shape: float = 60.0) -> Floats:
    found: Floats = work * np.random.default_rng(7).gamma(shape, 1 / shape, len(work))
    return found


def history(work: Floats, **known: Any) -> History:
    told = {"late": 0.0, "service_s": 0.01, "start_s": 1.0, "cores": 0.9, "rss_mb": 480.0, **known}
    return History(begins=BEGINS, work=work, **told)


def advised(serve: ServiceSpec, of: History | None, prices: Prices = EUR, p99_s: float = 0.03) -> ServiceAdvice:
    now = of.ends + 5.0 if of is not None else float(BEGINS)
    return advise(Asked("quote", "pricing", serve, of, p99_s), prices, now)


def proposed(found: ServiceAdvice) -> str:
    return found["proposed"]["line"] if found["proposed"] is not None else ""


def shape_of_a_day() -> Floats:
    return noisy(0.2 + 3.0 * np.clip(np.sin(SECONDS / 86_400 * 2 * np.pi - 1.5), 0, None) ** 2)


def office_hours() -> Floats:
    return np.where((SECONDS > 8 * 3_600) & (SECONDS < 18 * 3_600), noisy(np.full(DAY, 0.1)), 0.0)


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LEAD", 60)
    monkeypatch.setattr(lanes, "SHORT_PIECE", 120)


def live(of: History, rules: Rules) -> float:
    """Mean replicas of a service that is decided on as it goes, second by second: nothing of the replay is in it."""
    fleet = Fleet(float(TICK_S))
    fleet.add("quote", rules)
    ready, starting, backlog, cost = 1, [], 0.0, 0.0
    for tick, work in enumerate(of.work.tolist()):
        for second in range(TICK_S):
            now = tick * TICK_S + second
            ready += sum(at <= now for at in starting)
            starting = [at for at in starting if at > now]
            backlog = max(0.0, backlog + work - ready)
            cost += ready + len(starting)
        every = np.ones(1)
        came, asked = every * work * TICK_S, every * work * TICK_S / of.service_s
        pending, starts, service = every * len(starting), every * of.start_s, every * of.service_s
        waits, there = every * backlog, every * ready
        ticks = Ticks(came, asked, asked, 0 * every, waits, there, pending, starts, service, every > 0)
        end = (tick + 1) * TICK_S
        change = int(fleet.decide(ticks, float(end), of.begins + float(end))[0]) - ready - len(starting)
        starting += [end + of.start_s] * max(change, 0)
        ready -= max(-change, 0)
    return cost / (len(of.work) * TICK_S)


# What is proposed


def test_a_day_that_has_a_shape_is_followed_and_that_saves_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advising, "LEAST_S", LEAST_S / 2)
    of = history(shape_of_a_day()[DAY // 4 : 3 * DAY // 4])
    found = advised(sr.Service(replicas=4, latency=SLOW), of)
    assert proposed(found) == f'sr.Service(replicas=(1, 4), latency="{SLOW}")'
    then = found["proposed"]
    assert then is not None
    assert found["now"]["replica_hours"] == 4 * 730
    assert then["late"] is not None
    assert then["late"] <= 0.01
    really = live(of, Rules(0.99, 0.2, 1, 4))
    assert found["saves"] == pytest.approx(1 - really / 4, rel=0.03)
    assert float(then["cost"] or 0) == pytest.approx((then["replica_hours"] or 0) * (0.021 + 0.0027 * 0.512), rel=1e-4)


def test_of_a_load_that_stays_as_many_are_kept_as_it_needs() -> None:
    found = advised(sr.Service(replicas=4, latency=SLOW), history(noisy(np.full(DAY, 1.1), 200.0)))
    assert proposed(found) == f'sr.Service(replicas=2, latency="{SLOW}")'
    assert found["saves"] == 0.5
    assert found["why"] == "2 replicas on the mean would have done for 4."


@pytest.mark.parametrize("serve", [sr.Service(latency=SLOW), sr.Service()], ids=["objective", "none"])
def test_a_service_that_nobody_asks_at_night_sleeps(serve: ServiceSpec) -> None:
    found = advised(serve, history(office_hours()))
    line = proposed(found)
    assert line.startswith("sr.Service(replicas=(0, 1)")
    assert found["saves"] == pytest.approx(14 / 24, abs=0.02)
    assert "waits 1 s" in found["why"]


def test_where_every_request_would_wake_it_it_is_kept_and_what_to_declare_is_said() -> None:
    work = np.zeros(DAY)
    work[:: 3_600 // TICK_S] = 0.002
    found = advised(sr.Service(latency=SLOW), history(work))
    assert found["proposed"] is None
    line = f'sr.Service(replicas=(0, 1), latency="{SLOW}", wake="2s")'
    assert found["why"].endswith(f"If requests that wake it may take 2s, declare {line}.")
    assert (found["looked_at"][0]["late"] or 0.0) > 0.8
    line = 'sr.Service(replicas=(0, 1), wake="2s")'
    assert advised(sr.Service(), history(work))["why"].endswith(
        f"If requests that wake it may take 2s, declare {line}."
    )
    found = advised(sr.Service(replicas=(0, 1), idle="1h", latency=SLOW, wake="2s"), history(work))
    assert proposed(found) == f'sr.Service(replicas=(0, 1), latency="{SLOW}", wake="2s")'


def test_where_fewer_would_break_the_objective_nothing_is_proposed() -> None:
    work = np.full(DAY, 0.05)
    for spike in range(12):  # of a minute, in which a start is just over
        work[700 + spike * 1_440 + 97 * (spike % 5) :][:12] = 3.6
    found = advised(sr.Service(replicas=4, latency=SLOW), history(work, start_s=60.0))
    assert found["proposed"] is None
    assert found["saves"] == 0.0
    assert all("would be late" in one["verdict"] for one in found["looked_at"])
    assert found["why"] == "Tried: 3 others; too much would be late with 3, and 0 save nothing."


def test_memory_and_processor_that_were_never_used_are_given_back() -> None:
    of = history(noisy(np.full(DAY, 0.05)), rss_mb=200.0, cores=0.3)
    found = advised(sr.Service(cpus=2.0, memory_mb=2_048, latency="2s"), of)
    assert proposed(found) == 'sr.Service(cpus=0.4, memory_mb=320, latency="2s")'
    assert found["why"] == "It never held more than 200 MB of 2048. It never took more than 0.3 cores of 2."
    quick = advised(sr.Service(cpus=2.0, memory_mb=2_048, latency="50ms"), of)
    assert proposed(quick) == 'sr.Service(cpus=2.0, memory_mb=320, latency="50ms")'


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize(
    ("serve", "prices", "used"),
    [
        # A slower processor needs more replicas, of which each has its memory.
        (sr.Service(replicas=(1, 8), latency=SLOW, cpus=4, memory_mb=8_192), EUR, {"cores": 0.9, "rss_mb": 7_000.0}),
        (sr.Service(replicas=(0, 1), wake="10s", memory_mb=2_048), FREE, {"cores": 0.1, "rss_mb": 60.0}),
    ],
    ids=["more_replicas", "nothing_costs"],
)
def test_every_proposal_saves_what_is_worth_a_change(
    serve: ServiceSpec, prices: Prices, used: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advising, "LEAST_S", 600.0)
    for work in (np.full(720, 1.2), (np.arange(720) % 300 < 20) * 1.0):
        of = history(work, **used)
        found = advise(Asked("q", "a", serve, of, 0.02), prices, of.ends + 5.0)
        assert found["proposed"] is None or found["saves"] >= WORTH


@pytest.mark.usefixtures("short_pieces")
def test_a_slower_processor_that_needs_more_replicas_with_their_memory_is_not_proposed() -> None:
    serve = sr.Service(replicas=(1, 8), latency=SLOW, cpus=4, memory_mb=8_192)
    of = history(np.full(720, 1.2), cores=0.9, rss_mb=7_000.0)
    asked = Asked("quote", "pricing", serve, of, 0.02)
    outcome = replay(of, [advising.judged_plan(asked, serve, of)])[0]
    judge = replace(advising._Judge.of(asked, of), before=outcome)
    assert advising._smaller(asked, of, judge, EUR, serve, outcome)[0] == serve
    cheap = Prices("", EUR.as_of, "EUR", {CORE: Decimal("0.021"), MEMORY: Decimal(0)})
    assert advising._smaller(asked, of, judge, cheap, serve, outcome)[0].cpus == 1.2


def test_memory_that_nobody_declares_is_what_was_measured() -> None:
    of = history(np.full(DAY, 0.05), rss_mb=100.0)
    asked = Asked("quote", "", sr.Service(replicas=1, latency=SLOW), of, 0.03, memory_mb=160)
    found = advise(asked, EUR, of.ends + 5.0)
    assert found["proposed"] is None
    assert found["now"]["memory_gb_hours"] == 730 * 0.16


def test_where_nothing_costs_anything_replica_hours_are_compared() -> None:
    found = advised(sr.Service(latency=SLOW), history(office_hours()), FREE)
    assert proposed(found) == f'sr.Service(replicas=(0, 1), latency="{SLOW}")'
    assert found["saves"] == pytest.approx(14 / 24, abs=0.02)
    assert found["now"]["cost"] == "0.000000"


def test_a_latency_that_is_new_is_one_that_it_keeps_now() -> None:
    found = advised(sr.Service(replicas=4), history(shape_of_a_day()))
    assert proposed(found).startswith("sr.Service(replicas=(1, 4), latency=")
    assert found["proposed"] is not None
    assert (found["proposed"]["late"] or 1.0) <= 0.005
    assert "is new (99% of its answers took 30 ms at most)" in found["why"]


# When nothing can be said


def test_without_enough_history_it_says_so() -> None:
    serve = sr.Service(replicas=3)
    assert advised(serve, None)["why"].endswith("it is measured from now on, and a day at least is needed.")
    short = history(np.full(1_440, 0.1))
    assert advised(serve, short)["why"] == "There is a history of only 2 hours, and a day at least is needed."
    of = history(np.full(DAY, 0.1))
    assert of.known_s == LEAST_S
    old = advise(Asked("quote", "", serve, of), EUR, of.ends + STALE_S + 1)
    assert old["why"].startswith("Nobody has measured it since 2024-10-05 00:00:00 UTC")
    assert (old["proposed"], old["known_hours"]) == (None, 24.0)


@pytest.mark.parametrize("replicas", [(0, 4), (1, 4), (0, 1)], ids=str)
def test_without_a_history_a_number_that_follows_the_load_costs_nobody_knows_what(replicas: tuple[int, int]) -> None:
    now = advised(sr.Service(replicas=replicas), None)["now"]
    assert (now["cost"], now["replica_hours"], now["core_hours"], now["memory_gb_hours"]) == (None,) * 4
    fixed = advised(sr.Service(replicas=2), None)["now"]
    assert fixed["replica_hours"] == 2 * 730
    assert float(fixed["cost"] or 0) > 0


def test_a_service_that_is_late_already_is_made_no_smaller() -> None:
    found = advised(sr.Service(replicas=3, latency=SLOW), history(np.full(DAY, 0.1), late=0.04))
    assert found["why"] == "4.00% of its requests were late or refused, and 1.00% may be: it has too little."
    assert found["proposed"] is None


@pytest.mark.usefixtures("short_pieces")
def test_what_nobody_saw_counts_neither_as_cost_nor_as_late() -> None:
    work = np.full(2_880, 0.5)
    work[500:2_000] = np.nan
    fixed, elastic = replay(history(work), [Plan(2, 2, 0.2), Plan(1, 2, 0.2)])
    assert fixed.replicas == 2.0
    assert 1.0 <= elastic.replicas <= 2.0
    assert math.isfinite(elastic.late)


def test_the_line_is_what_is_declared() -> None:
    serve = sr.Service(replicas=(0, 3), cpus=0.5, latency="50ms", share=0.999, hold="1m", wake="2s", limit="100/s")
    assert eval(line_of(serve), {"sr": sr}) == serve
    assert line_of(sr.Service()) == "sr.Service()"


# The history


def look(wall: float, work: float, seconds: float = 5.0, **more: float) -> Look:
    told = {"judged": 10.0, "late": 1.0, "start_s": 0.8, "cores": 0.5, "rss_mb": 100.0, **more}
    return Look(wall, seconds, work, **told)


def file_of(minute: Minute) -> bytes:
    return MARK.ljust(place(minute.number), b"\x00") + pack(minute)


def test_a_minute_is_kept_as_it_was_measured() -> None:
    filling, begins = Filling(), 60 * 30_000_000
    for tick in range(TICKS):
        assert filling.add(look(begins + 5.0 * (tick + 1), tick * 1.0)) is None
    minute = filling.add(look(begins + 65.0, 0.0))
    assert minute is not None
    (read,) = unpack(file_of(minute), minute.number * 60)
    assert read.number == 30_000_000
    assert [came or 0.0 for came in read.work] == pytest.approx([tick / 5 for tick in range(TICKS)], abs=0.01)
    assert (read.judged, read.late) == pytest.approx((2.0, 0.2), rel=1e-3)
    assert (read.start_s, read.cores, read.rss_mb) == pytest.approx((0.8, 0.5, 100.0), rel=1e-3)


def test_quick_looks_are_added_up_and_one_that_is_missing_is_not_none() -> None:
    filling = Filling()
    for second in range(60):
        if not 20 <= second < 35:
            assert filling.add(look(60.0 * 7 + second + 1.0, 0.5, 1.0)) is None
    minute = filling.minute()
    assert minute is not None
    assert minute.work == [0.5] * 4 + [None] * 3 + [0.5] * 5


def test_one_look_that_came_late_leaves_no_hole() -> None:
    filling = Filling()
    for tick in range(TICKS):
        filling.add(look(600.0 + 5.0 * (tick + 1) + (2.6 if tick == 3 else 0.0), 1.0))
    minute = filling.minute()
    assert minute is not None
    assert None not in minute.work


def test_a_week_is_kept_and_what_cannot_be_is_left_out() -> None:
    file, last = bytearray(MARK + bytes(MINUTES * SIZE)), 40_000 + MINUTES + 99
    for number in range(40_000, 40_000 + MINUTES + 100):
        one = Minute(number, [0.001, *[None] * 11], 1.0, 0.0, 1.0, 0.1, 70_000.0)
        file[place(number) : place(number) + SIZE] = pack(one)
    file[place(45_000) : place(45_000) + SIZE] = b"\xff" * SIZE
    kept = list(unpack(bytes(file), last * 60))
    assert [minute.number for minute in kept] == [n for n in range(40_100, 40_100 + MINUTES) if n != 45_000]
    assert (kept[0].work[0], kept[0].work[1], kept[0].rss_mb) == (pytest.approx(0.001, rel=0.01), None, 65_535)
    of = history_of(kept[:2000])
    assert of is not None
    assert (of.begins, len(of.work)) == (40_100 * 60, 2_000 * TICKS)
    assert of.service_s == pytest.approx(0.001, rel=0.02), "by what is known of a minute, not by all of it"
    assert history_of([]) is None


def test_a_minute_of_a_clock_that_was_wrong_hides_none_of_the_others_and_another_format_is_not_read() -> None:
    file = bytearray(MARK + bytes(MINUTES * SIZE))
    numbers = [*range(40_000, 40_100), 40_103, 40_100 + 60 * 24 * 30]
    for number in numbers:
        file[place(number) : place(number) + SIZE] = pack(Minute(number, [1.0] * TICKS, 1.0, 0.0, 1.0, 0.1, 70.0))
    assert [minute.number for minute in unpack(bytes(file), 40_100 * 60)] == numbers[:-1]
    file[HEAD - 1] += 1
    assert list(unpack(bytes(file), 40_100 * 60)) == []
    assert list(unpack(b"", 40_100 * 60)) == []


def test_what_is_too_little_for_a_number_of_the_file_is_something_all_the_same() -> None:
    minute = Minute(1, [1e-9, 0.0, *[0.0] * 10], 0.02, 0.0, 1.0, 0.0, 0.0)
    (read,) = unpack(file_of(minute), 60)
    assert read.work[0]
    assert not read.work[1]
    assert read.work[0] < 1e-4


@pytest.mark.usefixtures("short_pieces")
def test_the_same_history_gives_the_same_advice() -> None:
    of = replace(history(shape_of_a_day()[DAY // 2 :][:1_440]), start_s=12.0)
    assert replay(of, [Plan(1, 4, 0.2)]) == replay(of, [Plan(1, 4, 0.2)])
