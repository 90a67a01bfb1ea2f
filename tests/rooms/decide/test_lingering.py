"""When a turn waits for more requests, for senders of several kinds."""

from __future__ import annotations

import pytest

from skyriver.decide.worker.lingering import ENOUGH_ROWS, STEP, STEPS, Linger

LIMIT = 2_000
TURN = 400
"""Microseconds that a turn takes, with however many requests."""


def by_itself(linger: Linger, turns: int, every: int, start: int = 0) -> list[int]:
    """Requests of each turn, of a sender that sends one each `every` microseconds and waits for no answer; a turn that
    finds none ends the waiting, as the station does it."""
    now = read = start
    taken, found = start // every, []
    while len(found) < turns:
        now += linger.wait_us(now - read, 0) if found else 0
        read = now
        if now // every == taken:  # nothing has come: the next request is waited for, and read as it comes
            now = read = (taken + 1) * every
            now += linger.wait_us(0, 1)
            read = now
        count = now // every - taken
        taken += count
        linger.note(count, now)
        found.append(count)
        now += TURN
    return found


def waiting_for_answers(linger: Linger, turns: int, senders: int, turn: int = TURN) -> tuple[list[bool], int]:
    """Whether each turn waited, and how long all took: each of `senders` sends as soon as it has its answer."""
    now = read = 0
    waited = []
    for _ in range(turns):
        more = linger.wait_us(now - read, 1)
        waited.append(bool(more))
        now += more
        read = now
        linger.note(senders, now)
        now += turn
    return waited, now


def test_without_a_limit_nothing_ever_waits() -> None:
    linger = Linger(0)
    assert by_itself(linger, 10 * STEP, 1_000) == [1] * (10 * STEP)
    assert not linger.waits


def test_requests_that_come_by_themselves_are_gathered() -> None:
    found = by_itself(Linger(LIMIT), 40 * STEP, 1_000)
    assert found[: STEP + 1] == [1] * (STEP + 1)  # the first turn only starts the clock
    assert set(found[STEP + 1 :]) == {2}


def test_after_a_while_it_is_tried_again_whether_it_pays() -> None:
    found = by_itself(Linger(LIMIT), 2 * (STEPS + 4) * STEP, 1_000)
    without = [at for at, count in enumerate(found) if count == 1]
    assert without[: STEP + 1] == list(range(STEP + 1))
    assert without[STEP + 1] == STEP + 1 + (STEPS + 1) * STEP


def test_rare_requests_wait_for_nobody_but_in_a_try() -> None:
    linger = Linger(LIMIT)
    found = by_itself(linger, STEPS * STEP, 50_000)
    assert set(found) == {1}
    assert not linger.waits


def test_senders_that_wait_for_their_answers_are_slowed_in_a_try_alone() -> None:
    for senders in (1, 4):
        waited, took = waiting_for_answers(Linger(LIMIT), 4 * STEPS * STEP, senders)
        assert waited[: STEP + 1] == [False] * (STEP + 1)
        assert waited[STEP + 1 : 2 * STEP + 1] == [True] * STEP
        assert sum(waited) <= 4 * STEP
        assert took < 1.05 * len(waited) * TURN


@pytest.mark.parametrize("turn", [LIMIT * share // 100 for share in (50, 80, 84, 86, 95, 100, 300)])
def test_where_a_turn_takes_as_long_as_the_wait_senders_are_hardly_slowed(turn: int) -> None:
    _, took = waiting_for_answers(Linger(LIMIT), 4 * STEPS * STEP, 8, turn)
    assert took < 1.18 * 4 * STEPS * STEP * turn
    _, with_tries = waiting_for_answers(Linger(LIMIT), 4 * STEPS * STEP, 8, LIMIT * 80 // 100)
    assert with_tries < 1.02 * 4 * STEPS * STEP * LIMIT * 80 // 100


def test_a_sender_that_becomes_rare_is_not_waited_for_any_more() -> None:
    linger = Linger(LIMIT)
    by_itself(linger, 4 * STEP, 1_000)
    assert linger.waits
    by_itself(linger, 2 * STEP, 1_000_000, start=10_000_000)
    assert not linger.waits


def test_what_has_waited_long_enough_or_is_much_goes_at_once() -> None:
    linger = Linger(LIMIT)
    by_itself(linger, 4 * STEP, 1_000)
    assert linger.wait_us(0, 1) == LIMIT
    assert linger.wait_us(1_500, 1) == 500
    assert linger.wait_us(LIMIT + 1, 1) == 0
    assert linger.wait_us(0, ENOUGH_ROWS) == 0
