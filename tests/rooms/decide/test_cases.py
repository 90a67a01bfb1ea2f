"""Cases of review: their states, their rows, and what people can and cannot do with them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, SkyriverError
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting import cases
from skyriver.decide.acting.case_book import FIRST, CaseBook
from skyriver.decide.acting.case_stats import LEAST, RECENT_US, compact, difference, kappa, share, stats, wilson
from skyriver.decide.acting.cases import (
    CASE_TRANSITIONS,
    CLOSED,
    HELD,
    WAITING,
    Case,
    CaseState,
    ClosedWhy,
    Reviewer,
)
from skyriver.decide.acting.database import Transaction
from skyriver.decide.log.records import DecisionRecord

SECOND = 1_000_000
HOUR = 3_600 * SECOND
LEASE = 900 * SECOND
ANA, BEN, EVE = Reviewer("ana"), Reviewer("ben"), Reviewer("eve", senior=True)
BASE = Case(
    id=17,
    event=9_000_017,
    key=3,
    decision="review",
    label="bad",
    answers={"block": 1.0, "approve": 0.0},
    opened_at=0,
    within_us=4 * HOUR,
    lease_us=LEASE,
    expires_us=24 * HOUR,
    unanswered="block",
    second=False,
    probability=0.5,
    miss_cost=1.0,
    record=DecisionRecord(17, 17, Status.DECIDED, "review", 0.5, b"", "m", 1, "", "", Reason.NONE, 0, 0),
    offset=18,
    values={"amount": 10.0},
    names=(),
)


@pytest.fixture
def do() -> Iterator[Transaction]:
    database = SqliteFile(None)
    with database.transaction() as do:
        yield do
    database.close()


@pytest.fixture
def book(do: Transaction) -> CaseBook:
    book = CaseBook(do)
    book.prepare()
    return book


def docs(book: CaseBook, now: int = 0) -> list[Case]:
    return book.listed(now, [str(state) for state in CaseState], most=100_000)[0]


def everything(do: Transaction) -> list[Any]:
    return [do.run(f"SELECT * FROM {table}") for table in ("cases", "opinions", "case_labels", "case_sums")]


def code_of(act: Any) -> str:
    with pytest.raises(SkyriverError) as raised:
        act()
    assert raised.value.next_action
    return raised.value.code


# The table


def test_every_state_is_waiting_held_or_closed_and_can_be_left_unless_closed() -> None:
    assert set(CaseState) == WAITING | HELD | CLOSED
    assert len(WAITING) + len(HELD) + len(CLOSED) == len(CaseState)
    left = {before for before, _ in CASE_TRANSITIONS}
    assert left == {str(state) for state in WAITING | HELD}
    assert set(CASE_TRANSITIONS.values()) == {str(state) for state in CaseState}
    for state in WAITING:
        assert CASE_TRANSITIONS[state, "claim"] in HELD
        assert CASE_TRANSITIONS[state, "expire"] == "EXPIRED"
    for state in HELD:
        assert CASE_TRANSITIONS[state, "release"] in WAITING
        assert CASE_TRANSITIONS[state, "decide"] == "DECIDED"


def test_one_person_decides_a_case() -> None:
    held = cases.claim(BASE, ANA, 10)
    assert (held.state, held.holder, held.claim, held.lease_until) == (CaseState.CLAIMED, "ana", 1, 10 + LEASE)
    done = cases.answer(held, ANA, 1, "block", "same shop as before", 30)
    assert (done.state, done.outcome, done.closed_at, done.holder) == (CaseState.DECIDED, "block", 30, "")
    assert done.opinions[0].took_us == 20
    assert cases.answer(done, ANA, 1, "block", "same shop as before", 40) is done
    assert code_of(lambda: cases.answer(done, ANA, 1, "approve", "no", 40)) == "ANSWERED_OTHERWISE"
    assert code_of(lambda: cases.answer(done, ANA, 1, "block", "another reason", 40)) == "ANSWERED_OTHERWISE"
    assert code_of(lambda: cases.answer(done, BEN, 0, "block", "me too", 40)) == "CASE_CLOSED"
    assert code_of(lambda: cases.claim(done, BEN, 40)) == "CASE_CLOSED"


def test_who_does_not_hold_a_case_is_refused_and_told_why() -> None:
    assert code_of(lambda: cases.answer(BASE, ANA, 0, "block", "x", 5)) == "NOT_YOURS"
    held = cases.claim(BASE, ANA, 10)
    assert code_of(lambda: cases.claim(held, BEN, 20)) == "CASE_HELD"
    assert code_of(lambda: cases.claim(held, ANA, 20)) == "CASE_HELD"
    for act in (
        lambda: cases.answer(held, BEN, 1, "block", "x", 20),
        lambda: cases.renew(held, BEN, 1, 20),
        lambda: cases.release(held, BEN, 1),
        lambda: cases.escalate(held, BEN, 1, "x"),
    ):
        assert code_of(act) == "NOT_YOURS"
    lapsed = cases.pass_time(held, 10 + LEASE)
    assert (lapsed.state, lapsed.holder) == (CaseState.OPEN, "")
    assert code_of(lambda: cases.answer(lapsed, ANA, 1, "block", "x", 10 + LEASE)) == "LEASE_LOST"
    taken = cases.claim(lapsed, BEN, 10 + LEASE)
    assert code_of(lambda: cases.answer(taken, ANA, 1, "block", "x", 11 + LEASE)) == "LEASE_LOST"
    mine_again = cases.claim(cases.release(taken, BEN, 2), ANA, 12 + LEASE)
    assert code_of(lambda: cases.answer(mine_again, ANA, 1, "block", "x", 13 + LEASE)) == "LEASE_LOST", "an old claim"
    assert cases.answer(mine_again, ANA, 0, "block", "x", 13 + LEASE).outcome == "block"


def test_a_lease_is_renewed_and_never_past_the_expiry() -> None:
    held = cases.claim(BASE, ANA, 0)
    assert cases.renew(held, ANA, 1, LEASE - 1).lease_until == 2 * LEASE - 1
    late = cases.claim(cases.pass_time(BASE, 24 * HOUR - 5), ANA, 24 * HOUR - 5)
    assert late.lease_until == 24 * HOUR
    over = cases.pass_time(late, 24 * HOUR)
    assert (over.state, over.outcome, over.closed_why) == (CaseState.EXPIRED, "block", ClosedWhy.UNANSWERED)


def test_two_agree_and_the_second_one_is_another_person() -> None:
    asked = cases.answer(cases.claim(replace(BASE, second=True), ANA, 1), ANA, 1, "block", "x", 2)
    assert (asked.state, asked.outcome, asked.lane) == (CaseState.SECOND, "", "second")
    assert code_of(lambda: cases.claim(asked, ANA, 3)) == "ANOTHER_PERSON"
    assert cases.answer(asked, ANA, 1, "block", "x", 3) is asked, "the same answer once more"
    done = cases.answer(cases.claim(asked, BEN, 3), BEN, 2, "block", "y", 4)
    assert (done.state, done.outcome) == (CaseState.DECIDED, "block")


def test_two_disagree_and_a_third_who_may_decides() -> None:
    asked = cases.answer(cases.claim(replace(BASE, second=True), ANA, 1), ANA, 1, "block", "x", 2)
    torn = cases.answer(cases.claim(asked, BEN, 3), BEN, 2, "approve", "y", 4)
    assert (torn.state, torn.outcome, torn.lane) == (CaseState.ESCALATED, "", "escalated")
    with pytest.raises(NotAllowed) as refused:
        cases.claim(torn, Reviewer("dan"), 5)
    assert refused.value.code == "NOT_SENIOR"
    assert code_of(lambda: cases.claim(torn, Reviewer("ben", senior=True), 5)) == "ANOTHER_PERSON"
    done = cases.answer(cases.claim(torn, EVE, 5), EVE, 3, "approve", "z", 6)
    assert (done.state, done.outcome, len(done.opinions)) == (CaseState.DECIDED, "approve", 3)


def test_a_case_is_handed_up_with_a_reason() -> None:
    held = cases.claim(BASE, ANA, 1)
    assert code_of(lambda: cases.escalate(held, ANA, 1, " ")) == "BAD_REASON"
    up = cases.escalate(held, ANA, 1, "a customer of ours")
    assert (up.state, up.escalated_by, up.holder) == (CaseState.ESCALATED, "ana", "")
    at_eve = cases.claim(up, EVE, 2)
    assert code_of(lambda: cases.escalate(at_eve, EVE, 2, "no")) == "CASE_ESCALATED"


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 2_001])
def test_an_answer_needs_a_reason_of_some_length(reason: str) -> None:
    held = cases.claim(BASE, ANA, 1)
    with pytest.raises(InvalidInput) as refused:
        cases.answer(held, ANA, 1, "block", reason, 2)
    assert refused.value.code == "BAD_REASON"


def test_an_answer_that_is_none_names_those_there_are() -> None:
    with pytest.raises(InvalidInput) as refused:
        cases.answer(cases.claim(BASE, ANA, 1), ANA, 1, "blok", "x", 2)
    assert (refused.value.code, refused.value.next_action) == ("UNKNOWN_ANSWER", "Answer block or approve.")


def test_a_case_is_overdue_then_expires_and_without_an_expiry_waits() -> None:
    assert not cases.pass_time(BASE, 4 * HOUR - 1).overdue
    assert cases.pass_time(BASE, 4 * HOUR).lane == "overdue"
    assert cases.pass_time(BASE, 24 * HOUR).state is CaseState.EXPIRED
    patient = cases.pass_time(replace(BASE, expires_us=0, unanswered=""), 10_000 * HOUR)
    assert (patient.state, patient.lane, patient.next_at) == (CaseState.OPEN, "overdue", 0)


# The book


def some(number: int, **changes: Any) -> Case:
    return replace(BASE, **{"id": number, "event": 9_000_000 + number, **changes})


def test_the_dearest_case_comes_first_and_age_counts(book: CaseBook) -> None:
    cheap, dear, old = some(1, probability=0.2), some(2, probability=0.9), some(3, probability=0.2)
    book.add([replace(cheap, opened_at=HOUR), replace(dear, opened_at=HOUR), replace(old, opened_at=HOUR // 2)])
    order = [book.claim(Reviewer(f"r{n}"), HOUR).id for n in range(3)]
    assert order == [2, 3, 1]


def test_no_case_waits_for_ever_behind_dearer_ones(book: CaseBook) -> None:
    """By its age alone: nothing is overdue here for a long time."""
    long = 1_000 * HOUR
    book.add([some(0, probability=0.0, miss_cost=1.0, within_us=long, expires_us=0, unanswered="")])
    for number in range(1, 3_000):
        now = number * HOUR
        book.add([some(number, probability=1.0, opened_at=now, within_us=long, expires_us=0, unanswered="")])
        if book.claim(Reviewer(f"r{number}"), now).id == 0:
            break
    assert number in range(999, 1_002), "once its age weighs as much as a certain miss"


def test_overdue_cases_come_first_then_escalated_ones_for_who_may(book: CaseBook) -> None:
    overdue = some(1, probability=0.1)
    up = cases.escalate(cases.claim(some(2), ANA, 1), ANA, 1, "x")
    fresh = some(3, probability=1.0, opened_at=4 * HOUR)
    book.add([fresh, replace(up, opened_at=4 * HOUR), overdue])
    book.pass_time(4 * HOUR)
    assert book.claim(BEN, 4 * HOUR).id == 1
    assert book.claim(BEN, 4 * HOUR).id == 3, "the escalated one is not for him"
    assert code_of(lambda: book.claim(BEN, 4 * HOUR)) == "NO_CASE"
    assert book.claim(EVE, 4 * HOUR).id == 2


def test_nobody_is_given_the_case_that_he_answered(book: CaseBook) -> None:
    book.add([some(1, second=True)])
    book.claim(ANA, 1)
    book.change(1, 2, lambda case: cases.answer(case, ANA, 0, "block", "x", 2))
    with pytest.raises(NotFound) as none:
        book.claim(ANA, 3)
    assert "1 wait for somebody else" in none.value.message
    assert book.claim(BEN, 3).id == 1


def test_an_opened_case_is_opened_once(book: CaseBook) -> None:
    book.add([some(1)])
    held = book.claim(ANA, 1)
    book.add([some(1), some(2)])
    assert book.count_waiting() == 1
    assert book.get(1) == held


def answered(book: CaseBook, number: int, word: str, at: int, who: Reviewer = ANA) -> Case:
    book.claim(who, at, number)
    return book.change(number, at, lambda case: cases.answer(case, who, 0, word, "seen", at))


def test_an_answer_is_to_be_sent_until_the_log_has_it(book: CaseBook) -> None:
    book.add([some(1)])
    done = answered(book, 1, "block", 50)
    [due] = book.due_labels(60)
    assert (due.event, due.label, due.value, due.known_at) == (done.event, "bad", 1.0, 50)
    book.note_sending(1, until=100)
    assert book.due_labels(99) == []
    assert [label.attempts for label in book.due_labels(100)] == [1]
    book.put_off_label(1, until=200)
    assert book.due_labels(199) == []
    assert [label.attempts for label in book.due_labels(200)] == [1]
    book.note_label(1, "other", 1.0, 50, 101)
    assert book.labels_waiting() == (1, 0)
    book.note_label(1, "bad", 1.0, 50, 101)
    assert book.labels_waiting() == (0, 0)
    assert book.get(1).truth is None, "our own answer is no truth"
    book.note_label(1, "bad", 1.0, 50, 102)
    assert book.get(1).truth is None, "nor is it when it stands there twice"


def test_a_label_from_elsewhere_is_the_truth_and_not_overridden(book: CaseBook) -> None:
    book.add([some(1), some(2)])
    answered(book, 1, "approve", 50)
    book.note_label(1, "bad", 1.0, 70, 71)
    assert (book.get(1).truth, book.get(1).truth_at) == (1.0, 71)
    assert book.labels_waiting() == (0, 0), "what was said before and not sent would be the later one"
    book.note_label(2, "bad", 1.0, 70, 71)
    answered(book, 2, "approve", 80)
    assert book.due_labels(90) == []


def test_an_answer_that_may_have_been_sent_is_not_sent_again_over_what_was_found_out(book: CaseBook) -> None:
    book.add([some(1), some(2)])
    for case in (1, 2):
        answered(book, case, "approve", 50)
        assert book.note_sending(case, until=100)
    book.note_label(1, "bad", 1.0, 70, 71)
    assert [label.case for label in book.due_labels(100)] == [1, 2]
    assert not book.note_sending(1, until=200)
    assert book.note_sending(2, until=200)
    assert [label.case for label in book.due_labels(200)] == [2]


def test_a_label_that_the_stream_refuses_stays_and_is_told(book: CaseBook) -> None:
    book.add([some(1)])
    answered(book, 1, "block", 50)
    book.refuse_label(1, "AHEAD_OF_CLOCK")
    assert book.due_labels(10**12) == []
    assert book.labels_waiting() == (0, 1)


def test_a_queue_that_is_full_gives_up_what_ranks_lowest_and_tells(book: CaseBook) -> None:
    book.add(some(n, probability=n / 10) for n in range(1, 6))
    book.claim(ANA, 1, 1)
    gone = book.trim("review", 3, 10)
    assert [(case.id, case.state, case.closed_why, case.outcome) for case in gone] == [
        (2, CaseState.EXPIRED, ClosedWhy.QUEUE_FULL, "block")
    ]
    assert book.count_waiting() == 3
    assert book.trim("review", 3, 10) == []
    assert book.get(1).holder == "ana", "a held case is not given up"
    assert book.trim("another", 0, 10) == []


def test_time_passes_in_steps_that_are_bounded(book: CaseBook) -> None:
    book.add(some(n) for n in range(25))
    assert book.pass_time(24 * HOUR, most=10).__len__() == 10
    assert len(book.pass_time(24 * HOUR, most=10)) == 10
    assert len(book.pass_time(24 * HOUR, most=10)) == 5
    assert book.pass_time(24 * HOUR, most=10) == []


def test_earlier_cases_are_found_by_key(book: CaseBook) -> None:
    book.add([some(1), some(2), some(3, key="3"), some(4, event="9000001")])
    assert [case.id for case in book.earlier(some(5))] == [4, 2, 1], "a text is another key than a number"
    assert [case.id for case in book.earlier(some(2))] == [1]


def test_what_is_listed(book: CaseBook) -> None:
    book.add([some(1), some(2, probability=0.9), some(3)])
    answered(book, 1, "block", 5)
    open_, total = book.listed(10, ["OPEN"], most=1)
    assert ([case.id for case in open_], total) == ([2], 2)
    assert [case.id for case in book.listed(10, ["DECIDED"])[0]] == [1]
    assert book.listed(10, ["OPEN"], lane="overdue") == ([], 0)


def test_neither_each_event_nor_a_page_of_closed_ones_reads_all_cases(book: CaseBook, do: Transaction) -> None:
    """Thousands wait, and millions may be closed."""
    plans: list[str] = []

    class Explained:
        changed = 0

        def run(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
            plans.extend(row[-1] for row in do.run(f"EXPLAIN QUERY PLAN {statement}", values))
            return do.run(statement, values)

        def run_many(self, statement: str, rows: Any) -> None: ...

    book.add([some(n) for n in range(1, 6)])
    for n in (2, 1, 4):
        answered(book, n, "block", 10 + n)
    explained = CaseBook(Explained())
    assert explained.count_waiting("review") == 2
    assert plans == ["SCAN case_queues"], "a row for each kind of case"
    plans.clear()
    closed = [str(state) for state in CaseState if state in CLOSED]
    assert [case.id for case in explained.listed(100, closed, most=2)[0]] == [4, 2]
    assert any("cases_closed" in plan for plan in plans), plans
    assert "USE TEMP B-TREE FOR ORDER BY" not in plans


def test_closed_ones_come_in_pages_each_once_whatever_is_closed_meanwhile(book: CaseBook) -> None:
    book.add([some(n) for n in range(1, 8)])
    for n, at in ((1, 20), (2, 20), (3, 20), (4, 30), (5, 10), (6, 10)):
        answered(book, n, "block", at)
    closed = [str(state) for state in CaseState if state in CLOSED]
    pages, after = [], FIRST
    while found := book.listed(100, closed, most=2, after=after)[0]:
        pages.append([case.id for case in found])
        after = (found[-1].closed_at, found[-1].id)
        if len(pages) == 1:
            answered(book, 7, "block", 40)
    assert pages == [[4, 1], [2, 3], [5, 6]]


# Nothing is lost, and nothing is held twice, whatever people do


class World:
    """People who do anything at any time, and what must hold of it all."""

    def __init__(self, book: CaseBook, seed: int) -> None:
        self.book = book
        self.luck = random.Random(seed)
        self.now = 0
        self.people = [Reviewer(f"p{n}", senior=n < 2) for n in range(5)]
        self.opened = 0
        self.holders: dict[int, tuple[str, int]] = {}
        """Of each case: who was promised it, and until when."""
        self.words: dict[tuple[int, str], str] = {}

    def open(self) -> None:
        for _ in range(self.luck.randint(0, 3)):
            self.opened += 1
            luck = self.luck
            expires = luck.choice([0, 30 * HOUR])
            self.book.add(
                [
                    some(
                        self.opened,
                        opened_at=self.now,
                        second=luck.random() < 0.4,
                        probability=luck.random(),
                        expires_us=expires,
                        unanswered="block" if expires else "",
                    )
                ]
            )

    def pass_time(self) -> None:
        self.now += self.luck.choice([SECOND, LEASE // 3, LEASE, 2 * HOUR])
        self.book.pass_time(self.now, most=self.luck.choice([1, 1_000]))

    def act(self) -> None:
        luck, who = self.luck, self.luck.choice(self.people)
        held = [number for number, (name, _) in self.holders.items() if name == who.name]
        case = luck.choice(held) if held and luck.random() < 0.7 else luck.randint(1, max(1, self.opened))
        number = luck.choice([0, 0, luck.randint(1, 4)])
        word = luck.choice(["block", "approve"])
        match luck.choice(["claim", "claim", "best", "best", "answer", "answer", "answer", "renew", "release", "up"]):
            case "claim":
                self.promised(self.book.claim(who, self.now, case), who)
            case "best":
                self.promised(self.book.claim(who, self.now), who)
            case "answer":
                self.answer(case, who, number, word)
            case "renew":
                held = self.book.change(case, self.now, lambda c: cases.renew(c, who, number, self.now))
                self.mine(case, who)
                self.holders[case] = (who.name, held.lease_until)
            case "release":
                self.book.change(case, self.now, lambda c: cases.release(c, who, number))
                self.mine(case, who)
                del self.holders[case]
            case _:
                self.book.change(case, self.now, lambda c: cases.escalate(c, who, number, "up"))
                self.mine(case, who)
                del self.holders[case]

    def answer(self, case: int, who: Reviewer, number: int, word: str) -> None:
        known = self.book.get(case).of(who.name)
        self.book.change(case, self.now, lambda c: cases.answer(c, who, number, word, "seen", self.now))
        if known is not None:
            assert known.answer == word, "an answer was changed"
            return
        self.mine(case, who)
        del self.holders[case]
        self.words[case, who.name] = word

    def promised(self, case: Case, who: Reviewer) -> None:
        before = self.holders.get(case.id)
        assert before is None or before[1] <= self.now, f"{before} holds it"
        assert (case.id, who.name) not in self.words, "who answered is asked again"
        self.holders[case.id] = (who.name, case.lease_until)

    def mine(self, case: int, who: Reviewer) -> None:
        holder, until = self.holders[case]
        assert holder == who.name
        assert self.now < until

    def check(self) -> None:
        found = {case.id: case for case in docs(self.book, self.now)}
        assert sorted(found) == list(range(1, self.opened + 1)), "a case is lost"
        due = {label.case: label.value for label in self.book.due_labels(10**18, most=10**6)}
        for case in found.values():
            assert (case.holder != "") == (case.state in HELD)
            said = {o.by: o.answer for o in case.opinions}
            assert said == {by: word for (number, by), word in self.words.items() if number == case.id}
            assert len(said) == len(case.opinions) <= 3
            if case.state is CaseState.DECIDED:
                assert case.outcome == case.opinions[-1].answer
                assert not case.second or len(case.opinions) != 1 or case.escalated_by
                assert due[case.id] == case.answers[case.outcome]
            else:
                assert case.id not in due
            if case.state is CaseState.EXPIRED:
                assert case.closed_at >= case.expires_at > 0


@pytest.mark.parametrize("seed", range(20))
def test_no_case_is_lost_and_none_has_two_holders(book: CaseBook, seed: int) -> None:
    world = World(book, seed)
    refused = done = 0
    for step in range(400):
        world.open()
        world.pass_time()
        for _ in range(4):
            try:
                world.act()
                done += 1
            except (Conflict, NotAllowed, NotFound):
                refused += 1
        if step % 20 == 0:
            world.check()
    world.check()
    assert min(done, refused) > 100
    assert {case.state for case in docs(book)} >= {CaseState.DECIDED, CaseState.EXPIRED}


def test_a_refused_act_changes_nothing(book: CaseBook, do: Transaction) -> None:
    book.add([some(1), some(2, second=True)])
    book.claim(ANA, 1, 1)
    before = everything(do)
    for act in (
        lambda: book.claim(BEN, 2, 1),
        lambda: book.change(1, 2, lambda c: cases.answer(c, BEN, 0, "block", "x", 2)),
        lambda: book.change(1, 2, lambda c: cases.answer(c, ANA, 7, "block", "x", 2)),
        lambda: book.change(1, 2, lambda c: cases.answer(c, ANA, 1, "block", "", 2)),
        lambda: book.change(2, 2, lambda c: cases.release(c, ANA, 0)),
        lambda: book.claim(BEN, 2, 3),
    ):
        code_of(act)
    assert everything(do) == before


# What is told of it


def test_shares_have_honest_intervals() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert share(0, 0)["share"] is None
    assert difference((10, LEAST - 1), (10, 100)) is None
    found = difference((56, 70), (48, 80))
    assert found is not None
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.0524, 0.3339)


def test_kappa_is_cohens_and_of_enough_cases() -> None:
    table = {(1.0, 1.0): 20, (1.0, 0.0): 5, (0.0, 1.0): 10, (0.0, 0.0): 15}
    found = kappa(table)
    assert found["kappa"] == pytest.approx(0.4)
    assert found["low"] < 0.4 < found["high"]
    assert kappa({(1.0, 1.0): LEAST - 1})["kappa"] is None
    assert kappa({(1.0, 1.0): 50})["kappa"] is None, "by chance they would always agree"
    assert kappa({(1.0, 1.0): 10, (0.0, 0.0): 10})["low"] < 1.0, "ten and ten do not prove that they always agree"


def test_what_is_told_of_queue_and_people(book: CaseBook, do: Transaction) -> None:
    book.add(some(n, second=n <= 30, expires_us=0, unanswered="") for n in range(1, 62))
    for n in range(1, 31):
        answered(book, n, "block" if n <= 20 else "approve", 100, ANA)
        answered(book, n, "block" if n <= 15 else "approve", 200, BEN)
    for n in range(31, 61):
        answered(book, n, "approve", RECENT_US + 100, ANA)
    book.note_label(31, "bad", 1.0, 1, RECENT_US + 200)
    book.note_label(1, "bad", 1.0, 1, 150)
    told = stats(do, RECENT_US + 300)
    lanes = {lane["lane"]: lane for lane in told["lanes"]}
    assert (lanes["first"]["waiting"], lanes["escalated"]["waiting"], lanes["first"]["held"]) == (1, 5, 0)
    assert lanes["first"]["oldest_us"] == RECENT_US + 300
    assert told["closed"]["decided"] == 55
    ana, ben = told["reviewers"]
    assert (ana["by"], ana["answered"], ana["positives"]["hits"]) == ("ana", 60, 20)
    assert (ana["agreed"]["hits"], ana["agreed"]["of"]) == (25, 30)
    assert ana["truth"] == {
        "true_positives": 1,
        "false_positives": 0,
        "true_negatives": 0,
        "false_negatives": 1,
    }
    assert ben["truth"]["true_positives"] == 0, "what he said after the truth was known says nothing"
    assert ana["change"]["difference"]["high"] < 0
    assert ana["change"]["others"] is None
    [pair] = told["pairs"]
    assert (pair["a"], pair["b"], pair["both"]) == ("ana", "ben", 30)
    assert pair["kappa"] == pytest.approx((25 / 30 - 0.5) / 0.5)


def test_old_cases_become_sums(book: CaseBook, do: Transaction) -> None:
    book.add(some(n) for n in range(1, 6))
    for n in range(1, 4):
        answered(book, n, "block", n * 100)
    assert compact(do, "review", 10**9) == 0, "what the log does not have is kept"
    for n in range(1, 4):
        book.note_label(n, "bad", 1.0, n * 100, 10**6)
    book.pass_time(24 * HOUR)
    assert compact(do, "review", 250) == 2
    assert code_of(lambda: book.get(1)) == "NO_CASE"
    assert book.get(3).outcome == "block"
    assert stats(do, 10**9)["before"] == [
        {"by": "", "counts": {"decided": 2}},
        {"by": "ana", "counts": {"answered": 2, "positives": 2}},
    ]
    assert compact(do, "review", 10**15) == 3
    assert stats(do, 10**9)["before"][0]["counts"] == {"decided": 3, "unanswered": 2}
