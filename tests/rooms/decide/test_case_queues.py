"""Which case is next: as by looking at all of them, at a price that does not grow with them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting import cases
from skyriver.decide.acting.case_book import CaseBook
from skyriver.decide.acting.case_queues import CaseQueues
from skyriver.decide.acting.cases import WAITING, Case, CaseState, Reviewer
from skyriver.decide.acting.database import Transaction
from skyriver.decide.log.records import DecisionRecord

SECOND = 1_000_000
HOUR = 3_600 * SECOND
ANA, BEN, EVE = Reviewer("ana"), Reviewer("ben"), Reviewer("eve", senior=True)


def case(number: int, **changes: Any) -> Case:
    record = DecisionRecord(number, number, Status.DECIDED, "review", 0.5, b"", "m", 1, "", "", Reason.NONE, 0, 0)
    made = Case(
        id=number,
        event=number,
        key=3,
        decision="review",
        label="bad",
        answers={"block": 1.0, "approve": 0.0},
        opened_at=0,
        within_us=4 * HOUR,
        lease_us=HOUR,
        expires_us=0,
        unanswered="",
        second=False,
        probability=0.5,
        miss_cost=1.0,
        record=record,
        offset=number,
        values={},
        names=(),
    )
    return replace(made, **changes)


@pytest.fixture
def database() -> Iterator[SqliteFile]:
    found = SqliteFile(None)
    with found.transaction() as do:
        CaseBook(do).prepare()
    yield found
    found.close()


def rank(one: Case, unit: float, now: int) -> float:
    """As `skyriver.decide.acting.cases` has it."""
    return one.probability * one.miss_cost + unit * (now - one.opened_at) / one.within_us


def waiting(do: Transaction) -> list[Case]:
    return CaseBook(do).listed(0, [str(state) for state in WAITING], most=10**6)[0]


def check_next(do: Transaction, who: Reviewer, decision: str, now: int) -> None:
    """The first of all that wait, by looking at each."""
    unit = CaseQueues(do).unit()
    mine = [
        one
        for one in waiting(do)
        if one.of(who.name) is None
        and (who.senior or one.state is not CaseState.ESCALATED)
        and decision in ("", one.decision)
    ]
    states = WAITING if who.senior else WAITING - {CaseState.ESCALATED}
    found = CaseQueues(do).first(states, decision, who.name, now)
    if not mine:
        assert found is None
        return
    first = max(mine, key=lambda one: (one.overdue, one.state is CaseState.ESCALATED, rank(one, unit, now), -one.id))
    taken = next(one for one in mine if one.id == found)
    assert (taken.overdue, taken.state is CaseState.ESCALATED) == (first.overdue, first.state is CaseState.ESCALATED)
    assert rank(taken, unit, now) == pytest.approx(rank(first, unit, now), rel=1e-9)


def check_counts(do: Transaction) -> None:
    found = waiting(do)
    queues = {
        (word, state, overdue, within): (count, cost)
        for word, state, overdue, within, count, cost in do.run("SELECT * FROM case_queues")
    }
    keys = {(one.decision, str(one.state), int(one.overdue), one.within_us) for one in found}
    assert queues.keys() == keys
    for key, (count, cost) in queues.items():
        own = [o for o in found if (o.decision, str(o.state), int(o.overdue), o.within_us) == key]
        assert count == len(own)
        assert cost == pytest.approx(sum(o.miss_cost for o in own), abs=1e-6)
    average = sum(one.miss_cost for one in found) / len(found) if found else 0.0
    assert not average or average / 2.0001 <= CaseQueues(do).unit() <= 2.0001 * average


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_first_of_all_is_next_and_the_lowest_goes(database: SqliteFile, seed: int) -> None:
    luck, now, opened = random.Random(seed), 0, 0
    with database.transaction() as do:
        book = CaseBook(do)
        for step in range(400):
            now += luck.choice([SECOND, 60 * SECOND, HOUR // 2])
            dear = 10.0 ** (step // 100)  # what a miss costs grows with the time
            new = [
                case(
                    opened + n,
                    opened_at=now - luck.randrange(HOUR),
                    within_us=luck.choice([2 * HOUR, 24 * HOUR, 1_000 * HOUR]),
                    decision=luck.choice(["review", "look"]),
                    probability=luck.random(),
                    miss_cost=luck.choice([0.0, dear * luck.random()]),
                    second=luck.random() < 0.3,
                )
                for n in range(luck.randrange(3))
            ]
            opened += len(new)
            book.add(new)
            book.pass_time(now)
            who = luck.choice([ANA, BEN, EVE])
            decision = luck.choice(["", "review", "look"])
            check_next(do, who, decision, now)
            found = CaseQueues(do).first(WAITING - {CaseState.ESCALATED}, decision, who.name, now)
            if found is not None and luck.random() < 0.7:
                book.claim(who, now, found)
                does = luck.choice(["answer", "up", "release", "nothing"])
                if does == "answer":
                    word = luck.choice(["block", "approve"])
                    book.change(found, now, lambda c, w=who, a=word, n=now: cases.answer(c, w, 0, a, "seen", n))
                elif does == "up":
                    book.change(found, now, lambda c, w=who: cases.escalate(c, w, 0, "why"))
                elif does == "release":
                    book.change(found, now, lambda c, w=who: cases.release(c, w, 0))
            if step % 40 == 39:
                check_trim(do, "review", now)
            check_counts(do)


def check_trim(do: Transaction, decision: str, now: int) -> None:
    book, unit = CaseBook(do), CaseQueues(do).unit()
    before = [rank(one, unit, now) for one in waiting(do) if one.decision == decision]
    gone = book.trim(decision, max(0, len(before) - 3), now)
    assert len(gone) == min(3, len(before))
    assert [rank(one, unit, now) for one in gone] == pytest.approx(sorted(before)[: len(gone)], rel=1e-9)


def test_cases_of_before_there_were_queues_are_ranked(database: SqliteFile) -> None:
    luck = random.Random(1)
    some = [case(n, probability=luck.random(), miss_cost=luck.random() * 90, opened_at=n * SECOND) for n in range(50)]
    with database.transaction() as do:
        book = CaseBook(do)
        book.add(some)
        book.claim(ANA, 60 * SECOND, 7)
        unit = CaseQueues(do).rank_anew(45.0)
        before = do.run("SELECT id, rank FROM cases ORDER BY id")
        for trigger in ("case_came", "case_moved", "case_gone"):
            do.run(f"DROP TRIGGER {trigger}")
        for table in ("case_queues", "case_unit"):
            do.run(f"DROP TABLE {table}")
        do.run("DROP INDEX cases_rank")
        do.run("ALTER TABLE cases DROP COLUMN rank")
        do.run("CREATE INDEX cases_decision ON cases (decision, state)")
        book.prepare()
        new = CaseQueues(do).unit()
        assert new == pytest.approx(sum(one.miss_cost for one in some if one.id != 7) / 49)
        check_counts(do)
        check_next(do, BEN, "", HOUR)
        CaseQueues(do).rank_anew(unit)
        assert do.run("SELECT id, rank FROM cases ORDER BY id") == before


def steps(count: int) -> dict[str, int]:
    """Instructions of SQLite's machine for a claim and for giving up three cases, where so many wait."""
    luck, done, database = random.Random(7), 0, SqliteFile(None)

    def note() -> int:
        nonlocal done
        done += 1
        return 0

    found = {}
    with database.transaction() as do:
        book = CaseBook(do)
        book.prepare()
        book.add(
            case(n, probability=luck.random(), miss_cost=luck.random() * 90, opened_at=luck.randrange(HOUR))
            for n in range(count)
        )
        CaseQueues(do).unit()
        acts = {"claim": lambda: book.claim(ANA, HOUR), "trim": lambda: book.trim("review", count - 4, HOUR)}
        for what, act in acts.items():
            done = 0
            database._connection.set_progress_handler(note, 1)
            act()
            database._connection.set_progress_handler(None, 1)
            found[what] = done
        assert book.count_waiting() == count - 4
    database.close()
    return found


def test_a_hundred_times_as_many_cases_cost_hardly_more() -> None:
    few, many = steps(500), steps(50_000)
    assert all(0 < many[what] < 1.5 * few[what] for what in few), (few, many)
