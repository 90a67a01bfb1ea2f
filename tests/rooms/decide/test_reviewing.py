"""Review as a part of a dispatcher: from decisions to cases, from requests to answers, by a clock that never jumps."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import skyriver as sr
from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, SkyriverError
from skyriver.core.spec import AppSpec
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting.case_opener import CaseOpener
from skyriver.decide.acting.dispatching import Ask, Dispatch
from skyriver.decide.acting.reviewing import Reviewing
from skyriver.decide.log.following import Decided, Step
from skyriver.decide.log.records import DecisionRecord, LabelRecord
from skyriver.features.plan import plan_features
from skyriver.wiring.answers import Answers

SECOND = 1_000_000
HOUR = 3_600 * SECOND
START = 1_700_000_000 * SECOND


def declare(**review: Any) -> AppSpec:
    class Order(sr.Event):
        order: int
        at: sr.Time
        customer: int
        amount: float

    app = sr.App("shop")
    orders = app.stream("orders", Order, id="order", time="at", key="customer")
    bad = app.labels("bad", of=orders, delay="0us")
    app.list("watched", of=orders, id="customer")
    features = app.features("habits", orders, {"mean_7d": sr.mean("amount", by="customer", over="7d")})

    @app.train(features, label=bad)
    def fit(data: sr.TrainingData) -> Any: ...

    costs = sr.Costs({"hold": sr.Cost(negative=25), "look": sr.Cost(4), "ship": sr.Cost(positive="amount")})
    model = app.model("comes_back", fit)
    decisions = app.decide(
        orders, model, {"hold": "score >= 0.9", "look": "score >= 0.5"}, otherwise="ship", costs=costs
    )
    given: dict[str, Any] = {"within": "4h", "second_opinion": "amount > 5000", **review}
    decisions.review("look", label=bad, answers={"hold": 1, "ship": 0}, **given)
    return app.spec


@dataclass
class Clock:
    wall_us: int = START
    steady_us: int = 500

    def wall(self) -> int:
        return self.wall_us

    def monotonic(self) -> int:
        return self.steady_us

    def pass_(self, us: int) -> None:
        self.wall_us += us
        self.steady_us += us


@dataclass
class Desk:
    """A dispatcher that only reviews; `restart` is another process on the same file."""

    app: AppSpec = field(default_factory=declare)
    clock: Clock = field(default_factory=Clock)
    database: SqliteFile = field(default_factory=lambda: SqliteFile(None))
    offset: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        stream = self.app.streams[0]
        self.handed: list[tuple[int, str, str, str]] = []
        self.reviewing = Reviewing(stream, self.clock, self.hand_on)
        self.dispatch = Dispatch(self.database, [self.reviewing], [self.reviewing])
        decide = self.app.decides[0].to_json()
        live = {"reviews": decide["reviews"], "decide": decide, "features": self.app.feature_sets[0].to_json()}
        self.dispatch.declare(live)
        self.dispatch.open(0)

    def hand_on(self, do: Any, decided: Decided, now: int, *, by: str = "", after: str = "") -> None:
        assert decided.values
        self.handed.append((decided.record.event_offset, decided.record.decision, by, after))

    def decided(
        self,
        offset: int,
        *,
        word: str = "look",
        score: float | None = 0.6,
        amount: float = 10.0,
        own: int | str | None = None,
    ) -> None:
        digest = plan_features(self.app.feature_sets[0], self.app.streams[0]).digest
        vector = struct.pack("<f", 7.5)
        status = Status.DECIDED if score is not None else Status.FALLBACK
        record = DecisionRecord(
            offset,
            900 + offset if own is None else own,
            status,
            word,
            score,
            vector,
            "m",
            1,
            "",
            digest,
            Reason.NONE,
            self.clock.wall(),
            0,
        )
        values = {"order": 900 + offset, "at": START, "customer": 3, "amount": amount}
        assert self.reviewing.wants(record) == (word == "look")
        self.dispatch.take(Step([Decided(record, values, offset + 1)], offset + 2), self.clock.wall())

    def label(self, offset: int, value: float, known_at: int) -> None:
        label = LabelRecord(0, 900 + offset, value, known_at, offset)
        self.dispatch.take(Step([], self.dispatch.offset + 1, [label]), self.clock.wall())

    def ask(self, method: str, path: str, who: str = "ana", *, senior: bool = False, **body: Any) -> Any:
        query = {name: str(value) for name, value in body.items()} if method == "GET" else {}
        given = {**body, "senior": senior} if method == "POST" else {}
        ask = Ask(actor=who, query=query, body=given, now=self.clock.wall())
        return self.dispatch.answer(method, path, ask)

    def tick(self) -> Any:
        return self.dispatch.tick(self.clock.wall())

    def due(self) -> list[Any]:
        with self.database.transaction() as do:
            return self.reviewing.due_labels(do)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.database.close()


def code_of(act: Any) -> str:
    with pytest.raises(SkyriverError) as raised:
        act()
    return raised.value.code


def test_a_case_is_opened_with_what_its_reviewer_needs(desk: Desk) -> None:
    desk.decided(1, amount=50.0)
    desk.decided(3, word="ship")
    [item] = desk.ask("GET", "/reviews")["items"]
    assert (item["id"], item["event"], item["key"], item["state"]) == (1, 901, 3, "OPEN")
    assert (item["due_at"], item["expires_at"]) == (START + 4 * HOUR, None)
    assert item["expected_cost"] == pytest.approx(0.6 * 50.0), "what is lost if it is shipped and bad"
    found = desk.ask("GET", "/reviews/1")
    assert found["values"] == {"order": 901, "at": "2023-11-14T22:13:20Z", "customer": 3, "amount": 50.0}
    assert found["features"] == {"mean_7d": 7.5}
    assert (found["score"], found["label"], found["answers"]) == (0.6, "bad", {"hold": 1.0, "ship": 0.0})


def test_two_people_look_at_what_the_rule_says(desk: Desk) -> None:
    desk.decided(1, amount=5_001.0)
    desk.decided(3, amount=5_000.0)
    second = {item["id"]: item["second_opinion"] for item in desk.ask("GET", "/reviews")["items"]}
    assert second == {1: True, 3: False}


def test_a_share_of_cases_is_looked_at_twice_and_it_is_always_the_same() -> None:
    app = declare(second_opinion=0.25)
    opener = CaseOpener(app.streams[0], app.decides[0], app.feature_sets[0])

    def asked(offset: int) -> bool:
        record = DecisionRecord(offset, 1, Status.DECIDED, "look", 0.6, b"", "m", 1, "", "", Reason.NONE, 0, 0)
        case = opener.open(Decided(record, {}, offset))
        assert case is not None
        return case.second

    found = [asked(offset) for offset in range(4_000)]
    assert 0.22 < sum(found) / len(found) < 0.28
    assert found == [asked(offset) for offset in range(4_000)]


def test_an_event_without_a_score_counts_as_even(desk: Desk) -> None:
    desk.decided(1, score=None)
    assert desk.ask("GET", "/reviews/1")["probability"] == 0.5


def test_from_the_claim_to_the_label(desk: Desk) -> None:
    desk.decided(1)
    claimed = desk.ask("POST", "/reviews/claim")
    assert (claimed["id"], claimed["holder"], claimed["claim"]) == (1, "ana", 1)
    said = {"answer": "hold", "reason": "as last week", "claim": 1}
    done = desk.ask("POST", "/reviews/1/decide", **said)
    assert (done["state"], done["outcome"]) == ("DECIDED", "hold")
    assert desk.ask("POST", "/reviews/1/decide", **said)["state"] == "DECIDED", "once more is the same"
    assert desk.handed == [(1, "hold", "ana", "review")]
    [due] = desk.due()
    assert (due.event, due.label, due.value, due.known_at) == (901, "bad", 1.0, done["closed_at"])
    desk.label(1, 1.0, due.known_at)
    assert desk.due() == []
    assert desk.ask("GET", "/reviews/stats")["labels"] == {"unsent": 0, "refused": 0}
    page = desk.ask("GET", "/reviews", state="CLOSED", limit=1)
    assert (page["total"], len(page["items"])) == (1, 1)
    assert desk.ask("GET", "/reviews", state="CLOSED", limit=1, after=page["next"])["items"] == []
    assert desk.ask("GET", "/reviews", limit=1)["next"] is None


def test_a_second_opinion_does_not_see_the_first(desk: Desk) -> None:
    desk.decided(1, amount=9_000.0)
    desk.ask("POST", "/reviews/claim")
    desk.ask("POST", "/reviews/1/decide", answer="hold", reason="as last week")
    with pytest.raises(NotFound):
        desk.ask("POST", "/reviews/claim")
    claimed = desk.ask("POST", "/reviews/claim", "ben")
    [first] = claimed["opinions"]
    assert (first["by"], first["answer"], first["reason"]) == ("ana", "", "")
    torn = desk.ask("POST", "/reviews/1/decide", "ben", answer="ship", reason="a regular")
    assert torn["state"] == "ESCALATED"
    assert [opinion["answer"] for opinion in torn["opinions"]] == ["hold", "ship"]
    with pytest.raises(NotAllowed):
        desk.ask("POST", "/reviews/claim", "dan", case=1)
    desk.ask("POST", "/reviews/claim", "eve", senior=True, case=1)
    done = desk.ask("POST", "/reviews/1/decide", "eve", senior=True, answer="ship", reason="ben is right")
    assert done["outcome"] == "ship"
    told = desk.ask("GET", "/reviews/stats")
    assert [pair["agreed"]["hits"] for pair in told["pairs"]] == [0]


def test_what_is_refused_says_why(desk: Desk) -> None:
    desk.decided(1)
    ask = desk.ask
    assert code_of(lambda: ask("POST", "/reviews/1/decide", answer="hold", reason="x")) == "NOT_YOURS"
    assert code_of(lambda: ask("GET", "/reviews/7")) == "NO_CASE"
    assert code_of(lambda: ask("POST", "/reviews/claim", case=7)) == "NO_CASE"
    assert code_of(lambda: ask("GET", "/reviews", state="SLEEPING")) == "BAD_QUERY"
    assert code_of(lambda: ask("GET", "/reviews", lane="fast")) == "BAD_QUERY"
    assert code_of(lambda: ask("GET", "/reviews", state="CLOSED", after="x.1")) == "BAD_CURSOR"
    assert code_of(lambda: ask("GET", "/reviews", after="1.1")) == "BAD_CURSOR"
    assert code_of(lambda: ask("POST", "/reviews/1/decide", answer="hold")) == "BAD_REQUEST"
    desk.ask("POST", "/reviews/claim")
    assert code_of(lambda: ask("POST", "/reviews/1/decide", answer="hld", reason="x")) == "UNKNOWN_ANSWER"
    assert code_of(lambda: ask("POST", "/reviews/1/decide", answer="hold", reason="")) == "BAD_REASON"
    assert code_of(lambda: ask("POST", "/reviews/1/decide", "ben", answer="hold", reason="x")) == "NOT_YOURS"


def test_a_lease_ends_by_the_time_that_passes_not_by_the_clock(desk: Desk) -> None:
    desk.decided(1)
    desk.ask("POST", "/reviews/claim")
    desk.clock.wall_us += 1_000 * HOUR  # somebody sets the machine's clock
    assert desk.ask("POST", "/reviews/1/renew")["holder"] == "ana"
    desk.clock.wall_us -= 2_000 * HOUR
    assert desk.ask("GET", "/reviews/1")["holder"] == "ana"
    desk.clock.steady_us += 900 * SECOND
    assert code_of(lambda: desk.ask("POST", "/reviews/1/renew")) == "LEASE_LOST"
    assert desk.ask("GET", "/reviews/1")["state"] == "OPEN"


def test_a_process_that_starts_with_its_clock_set_back_goes_on_from_what_was_written(desk: Desk) -> None:
    desk.decided(1)
    claimed = desk.ask("POST", "/reviews/claim")
    desk.clock.pass_(100 * SECOND)
    desk.clock.wall_us -= 1_000 * HOUR
    desk.restart()
    assert desk.ask("GET", "/reviews/1")["lease_until"] == claimed["lease_until"]
    desk.clock.pass_(900 * SECOND)
    assert desk.ask("GET", "/reviews/1")["state"] == "OPEN", "and its lease ends"


def test_overdue_cases_are_told(desk: Desk) -> None:
    desk.decided(1)
    assert "reason" not in desk.tick()
    desk.clock.pass_(4 * HOUR)
    told = desk.tick()
    assert (told["reason"], told["reviews"]["overdue"]) == ("REVIEWS_OVERDUE", 1)
    assert [item["lane"] for item in desk.ask("GET", "/reviews", lane="overdue")["items"]] == ["overdue"]


def test_a_case_that_nobody_answers_expires_without_a_label() -> None:
    desk = Desk(declare(expires="1d", unanswered="hold"))
    desk.decided(1)
    desk.clock.pass_(24 * HOUR)
    found = desk.ask("GET", "/reviews/1")
    assert (found["state"], found["outcome"], found["closed_why"]) == ("EXPIRED", "hold", "UNANSWERED")
    assert desk.due() == []
    assert desk.handed == [(1, "hold", "", "review")]
    with pytest.raises(Conflict):
        desk.ask("POST", "/reviews/claim", case=1)


def test_a_full_queue_keeps_the_dearest_and_tells() -> None:
    desk = Desk(declare(most_waiting=3))
    for offset in range(1, 6):
        desk.decided(offset, amount=offset * 10.0)
    assert sorted(item["id"] for item in desk.ask("GET", "/reviews")["items"]) == [3, 4, 5]
    assert desk.ask("GET", "/reviews/1")["closed_why"] == "QUEUE_FULL"
    assert desk.ask("GET", "/reviews/1")["outcome"] == "look", "the decision stays what it was"
    assert desk.ask("GET", "/reviews/stats")["closed"]["queue_full"] == 2
    assert desk.handed == []


def test_old_cases_are_given_up() -> None:
    desk = Desk(declare(keep="7d"))
    desk.decided(1)
    desk.ask("POST", "/reviews/claim")
    done = desk.ask("POST", "/reviews/1/decide", answer="ship", reason="x")
    desk.label(1, 0.0, done["closed_at"])
    desk.clock.pass_(7 * 24 * HOUR + SECOND)
    desk.tick()
    assert code_of(lambda: desk.ask("GET", "/reviews/1")) == "NO_CASE"
    assert desk.ask("GET", "/reviews/stats")["before"][0]["counts"] == {"decided": 1}


def test_while_it_is_declared_anew_no_decision_is_passed_over(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is read in another thread, which asks what is wanted at any moment."""
    record = DecisionRecord(5, 1, Status.DECIDED, "look", 0.6, b"", "m", 1, "", "", Reason.NONE, 0, 0)
    meanwhile: list[bool] = []

    class Watched(CaseOpener):
        def __init__(self, *given: Any) -> None:
            meanwhile.append(desk.reviewing.wants(record))
            super().__init__(*given)

    monkeypatch.setattr("skyriver.decide.acting.reviewing.CaseOpener", Watched)
    decide = desk.app.decides[0].to_json()
    desk.dispatch.declare({"reviews": decide["reviews"], "decide": decide})
    assert meanwhile == [True]
    with pytest.raises(ValueError, match="DecideSpec"):
        desk.dispatch.declare({"reviews": decide["reviews"], "decide": {**decide, "reviews": 7}})
    assert desk.reviewing.wants(record), "what cannot be read changes nothing"


def test_cases_stay_when_no_review_is_declared_any_more(desk: Desk) -> None:
    desk.decided(1)
    desk.dispatch.declare({"sinks": []})
    desk.dispatch.take(Step([], 9), 0)
    assert desk.ask("POST", "/reviews/claim")["id"] == 1
    assert desk.tick()["reviews"] == {"open": 1, "overdue": 0, "unsent": 0, "refused": 0}


@pytest.mark.parametrize("own", ["j\u00e4nner", "\u6771\u4eac", "901", 77])
def test_ids_of_any_letters_are_erased(desk: Desk, own: int | str) -> None:
    desk.decided(1, own=own)
    desk.decided(3)
    desk.ask("POST", "/reviews/claim", case=1)
    desk.ask("POST", "/reviews/1/decide", answer="hold", reason="as last week")
    [due] = desk.due()
    assert desk.dispatch.erase([own], 0) == 1
    with desk.database.transaction() as do:
        assert not desk.reviewing.note_sending(do, due, SECOND), "what was read before it was erased is not sent"
    assert code_of(lambda: desk.ask("GET", "/reviews/1")) == "NO_CASE"
    assert desk.due() == []
    assert desk.ask("GET", "/reviews")["total"] == 1


def test_cases_are_found_by_their_event_closed_ones_too(desk: Desk) -> None:
    for offset in (1, 3, 5):
        desk.decided(offset)
    desk.ask("POST", "/reviews/claim", case=3)
    desk.ask("POST", "/reviews/3/decide", answer="hold", reason="as last week")

    def found(**query: str) -> list[int]:
        told = desk.ask("GET", "/reviews", **query)
        assert told["total"] == len(told["items"])
        return [case["id"] for case in told["items"]]

    assert found(event="901") == found(event="901", state="OPEN", lane="first") == [1]
    assert found(event="903") == found(event="903", state="CLOSED") == [3]
    assert found(event="903", state="OPEN") == found(event="7") == []
    assert found() == [1, 5]
    assert code_of(lambda: found(event="x7")) == "BAD_ID"


def test_an_answer_that_is_erased_while_others_are_sent_is_not_sent(desk: Desk) -> None:
    for offset in (1, 3, 5):
        desk.decided(offset)
        desk.ask("POST", "/reviews/claim", case=offset)
        desk.ask("POST", f"/reviews/{offset}/decide", answer="hold", reason="x")
    sent: list[int] = []

    class Worker:
        def ask(self, *_: Any, body: dict[str, Any], **__: Any) -> None:
            sent.append(body["order"])
            desk.dispatch.erase([903], 0)

    async def within(work: Any) -> Any:
        return desk.dispatch.transact(work)

    stream = desk.app.streams[0]
    answers = Answers(stream, desk.reviewing, Worker(), Path("worker"), within, lambda: True)  # type: ignore[arg-type]
    asyncio.run(answers.send())
    answers.close()
    assert sent == [901, 905]


def test_earlier_cases_of_the_same_customer_are_shown(desk: Desk) -> None:
    desk.decided(1)
    desk.ask("POST", "/reviews/claim")
    desk.ask("POST", "/reviews/1/decide", answer="ship", reason="a regular")
    desk.decided(3)
    [earlier] = desk.ask("GET", "/reviews/3")["earlier"]
    assert (earlier["id"], earlier["outcome"], earlier["reason"]) == (1, "ship", "a regular")


# How it is declared


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"second_opinion": "amont > 5000"}, "BAD_RULE"),
        ({"second_opinion": "amount"}, "BAD_RULE"),
        ({"second_opinion": "customer in watched"}, "BAD_RULE"),
        ({"second_opinion": 1.5}, "BAD_REVIEW"),
        ({"second_opinion": ""}, "BAD_REVIEW"),
        ({"expires": "1d"}, "BAD_REVIEW"),
        ({"unanswered": "hold"}, "BAD_REVIEW"),
        ({"expires": "1d", "unanswered": "call"}, "BAD_REVIEW"),
        ({"expires": "1h", "unanswered": "hold"}, "BAD_REVIEW"),
        ({"lease": "1s"}, "BAD_REVIEW"),
        ({"within": "soon"}, "BAD_DURATION"),
        ({"most_waiting": 0}, "BAD_REVIEW"),
    ],
)
def test_a_review_that_makes_no_sense_is_refused(wrong: dict[str, Any], code: str) -> None:
    from skyriver.decide.streams.checking import check_decisions

    with pytest.raises(InvalidInput) as refused:
        check_decisions(declare(**wrong))
    assert refused.value.code == code
