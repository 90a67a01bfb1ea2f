"""What becomes of a delivery: by what receivers say, by time, by people, and in its order."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.errors import Conflict, Internal, InvalidInput, NotAllowed, NotFound, Unavailable
from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.core.units import SECOND
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting import deliveries as module
from skyriver.decide.acting import delivery_table
from skyriver.decide.acting.database import Transaction
from skyriver.decide.acting.deliveries import Deliveries
from skyriver.decide.acting.delivery_table import DELIVERY_TRANSITIONS, ENDED, STATES, back_off
from skyriver.decide.acting.dispatching import Ask, Dispatch
from skyriver.decide.acting.sending import Senders
from skyriver.decide.acting.sinks import Answer, Delivery, Failed, Refused, Taken
from skyriver.decide.log.following import Decided, Step
from skyriver.decide.log.records import DecisionRecord

FIELDS = (FieldSpec(name="order", type="int"), FieldSpec(name="at", type="time"), FieldSpec(name="shop", type="text"))
STREAM = StreamSpec(name="orders", fields=FIELDS, id="order", time="at", key="order")
SINK: dict[str, Any] = {"to": "bank", "on": ["block"]}


class Stage:
    """A dispatcher's deliveries in memory, in a time of their own."""

    def __init__(self, *sinks: dict[str, Any]) -> None:
        self.database = SqliteFile(None)
        self.part = Deliveries(STREAM, "t", random.Random(1))
        self.dispatch = Dispatch(self.database, [self.part])
        self.declare(*sinks or (SINK,))
        self.dispatch.open(0)
        self.now = 1_000_000 * SECOND
        self._offset = 0

    def declare(self, *sinks: dict[str, Any]) -> None:
        self.dispatch.declare({"sinks": list(sinks)})

    def decide(
        self,
        decision: str = "block",
        shop: str | None = "a",
        status: Status = Status.DECIDED,
        own: int | str | None = None,
    ) -> int:
        """The event's offset. `own`: its id."""
        offset, self._offset = self._offset, self._offset + 2
        record = DecisionRecord(
            offset,
            100 + offset if own is None else own,
            status,
            decision,
            0.5,
            b"",
            "m",
            3,
            "r",
            "f",
            Reason.NONE,
            self.now,
            7,
            rule="why",
        )
        decided = Decided(record, {"order": 100 + offset, "at": 1_500_000, "shop": shop}, offset + 1)
        self.dispatch.take(Step([decided], offset + 2), self.now)
        return offset

    def due(self, sink: str = "bank", limit: int = 100) -> list[int]:
        with self.database.transaction() as do:
            return [number for number, _ in self.part.due(do, sink, self.now, limit)]

    def answer(self, number: int, answer: Answer) -> None:
        with self.database.transaction() as do:
            self.part.settle(do, [(number, answer)], self.now)

    def ask(self, method: str, path: str, *, actor: str = "ann", **body: Any) -> Any:
        query = {name: str(value) for name, value in body.items()}
        return self.dispatch.answer(method, path, Ask(actor=actor, query=query, body=body, now=self.now))

    def get(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/deliveries/{number}")
        return found

    def states(self) -> list[str]:
        return [item["state"] for item in self.ask("GET", "/deliveries")["items"]]

    def later(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)
        self.dispatch.tick(self.now)


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.database.close()


def test_only_what_a_sink_is_for_becomes_a_delivery(stage: Stage) -> None:
    stage.decide("approve")
    offset = stage.decide()
    stage.decide(status=Status.DUPLICATE)
    stage.decide(status=Status.FALLBACK)
    assert len(stage.due()) == 2
    found = stage.get(1)
    assert (found["id"], found["event"], found["state"], found["tries"]) == (f"t/orders:{offset}", 102, "WAITING", 0)
    assert found["body"] == {
        "id": f"t/orders:{offset}",
        "tenant": "t",
        "stream": "orders",
        "event_id": 102,
        "event_offset": offset,
        "decision": "block",
        "rule": "why",
        "status": "decided",
        "reason": "",
        "score": 0.5,
        "probability": None,
        "model": "m",
        "version": 3,
        "arm": "",
        "rules_digest": "r",
        "decided_at": "1970-01-12T13:46:40Z",
        "event": {"order": 102, "at": "1970-01-01T00:00:01.500000Z", "shop": "a"},
    }


def test_what_is_read_again_comes_once(stage: Stage) -> None:
    stage.decide()
    stage._offset = 0
    stage.decide()
    assert stage.due() == [1]


def test_a_delivery_that_was_taken_is_done_and_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_table, "KEPT_DONE", 2)
    stage = Stage()
    for _ in range(5):
        stage.decide()
    for number in stage.due():
        stage.answer(number, Taken())
    assert stage.due() == []
    assert stage.states() == ["DONE"] * 5
    assert stage.get(1)["body"] is None
    stage.later(1)
    assert stage.states() == ["DONE"] * 2
    [told] = stage.ask("GET", "/sinks")["items"]
    assert (told["done"], told["waiting"], told["oldest"]) == (5, 0, None)


def test_failures_are_tried_again_with_growing_pauses_and_then_parked(stage: Stage) -> None:
    stage.declare({**SINK, "tries": 4})
    stage.decide()
    pauses = []
    for tries in range(1, 4):
        assert stage.due() == [1]
        stage.answer(1, Failed("it answered 500"))
        found = stage.get(1)
        assert (found["state"], found["tries"], found["reason"]) == ("WAITING", tries, "FAILED")
        pauses.append((found["due"] - stage.now) / SECOND)
        assert stage.due() == []
        stage.now = found["due"]
    assert [0.5 <= pauses[0] <= 1, 1 <= pauses[1] <= 2, 2 <= pauses[2] <= 4] == [True] * 3
    stage.answer(1, Failed("it answered 500"))
    found = stage.get(1)
    assert (found["state"], found["tries"], found["reason"], found["message"]) == (
        "PARKED",
        4,
        "TRIES_SPENT",
        "it answered 500",
    )
    assert [d["number"] for d in stage.ask("GET", "/deliveries", state="parked")["items"]] == [1]


def test_what_was_tried_for_too_long_is_parked(stage: Stage) -> None:
    stage.declare({**SINK, "retry_us": 10 * SECOND})
    stage.decide()
    stage.answer(1, Failed("away", 4 * SECOND))
    assert stage.get(1)["due"] == stage.now + 4 * SECOND, "what the receiver asked for is kept to"
    stage.answer(1, Failed("away", 11 * SECOND))
    assert stage.get(1)["reason"] == "TIME_SPENT"


def test_what_a_receiver_refuses_is_parked_at_once_and_goes_when_it_is_asked_for(stage: Stage) -> None:
    for _ in range(3):
        stage.decide()
        stage.answer(stage.due()[-1], Refused("it answered 422: no such account"))
    assert stage.states() == ["PARKED"] * 3
    assert stage.get(1)["reason"] == "RECEIVER_REFUSED"
    stage.later(3_600)
    assert stage.due() == []
    assert stage.ask("POST", "/deliveries/1/retry")["state"] == "WAITING"
    assert stage.due() == [1]
    assert stage.ask("POST", "/deliveries/retry", sink="bank")["retried"] == 2
    assert sorted(stage.due()) == [1, 2, 3]
    assert stage.get(2)["tries"] == 0, "it has all its tries again"
    none = stage.ask("POST", "/deliveries/retry", sink="bank")
    assert none == {"sink": "bank", "retried": 0, "waiting": 3, "held": 0, "awaiting_approval": 0}


def test_back_off_grows_to_a_limit() -> None:
    luck = random.Random(3)
    for tries in range(1, 2_000, 7):
        longest = min(1_800, 2 ** min(tries - 1, 30)) * SECOND
        assert longest // 2 <= back_off(tries, luck) <= longest


# Order


def test_in_order_one_of_a_key_at_a_time_and_others_meanwhile() -> None:
    stage = Stage({**SINK, "ordered": "shop"})
    for shop in ("a", "a", "b", "a", None, None):
        stage.decide(shop=shop)
    assert stage.due() == [1, 3, 5]
    assert stage.states() == ["WAITING", "HELD", "WAITING", "HELD", "WAITING", "HELD"]
    stage.answer(1, Failed("away"))
    stage.answer(3, Taken())
    assert stage.due() == [5], "a failure holds back its own key alone"
    stage.now = stage.get(1)["due"]
    assert stage.due() == [5, 1]
    stage.answer(1, Taken())
    assert stage.due() == [5, 2]
    stage.answer(2, Refused("no"))
    assert stage.due() == [5], "what is parked holds its key"
    assert stage.ask("POST", "/deliveries/2/drop", reason="obsolete")["state"] == "DROPPED"
    assert stage.due() == [5, 4]


def test_what_is_parked_lets_its_key_pass_where_that_is_declared() -> None:
    stage = Stage({**SINK, "ordered": "shop", "parked": "pass"})
    for _ in range(3):
        stage.decide()
    stage.answer(1, Refused("no"))
    assert stage.due() == [2]
    stage.ask("POST", "/deliveries/1/retry")
    assert stage.due() == [1], "it has its place again"
    stage.answer(1, Taken())
    assert stage.due() == [2]
    stage.answer(2, Taken())
    assert stage.due() == [3]


def test_those_of_a_key_that_were_parked_are_tried_again_in_their_order() -> None:
    stage = Stage({**SINK, "ordered": "shop", "parked": "pass"})
    for shop in ("a", "a", "b", "a", "a"):
        stage.decide(shop=shop)
    for number in (1, 2, 3, 4):
        stage.answer(number, Refused("no"))
    [five] = stage.due()
    assert stage.ask("POST", "/deliveries/retry", sink="bank")["retried"] == 4
    assert stage.due() == [1, 3]
    stage.answer(five, Taken())  # it was on its way
    assert stage.due() == [1, 3]
    taken = []
    while due := stage.due():
        taken.append(due[0])
        stage.answer(due[0], Taken())
    assert taken == [1, 2, 3, 4]
    assert stage.states() == ["DONE"] * 5


def test_the_reason_of_a_retry_is_its_note(stage: Stage) -> None:
    stage.decide()
    stage.answer(1, Refused("no"))
    assert stage.ask("POST", "/deliveries/1/retry", reason="its account is there now")["note"]
    assert stage.ask("POST", "/deliveries/1/retry")["note"] == "its account is there now"


def test_the_oldest_is_the_one_that_was_made_first(stage: Stage) -> None:
    stage.decide()
    first = stage.now
    stage.answer(1, Failed("away", 100 * SECOND))
    stage.now += SECOND
    stage.decide()
    assert stage.ask("GET", "/sinks")["items"][0]["oldest"] == first


def test_no_move_goes_by_the_table(stage: Stage) -> None:
    stage.decide()
    stage.answer(1, Taken())
    for state in sorted(set(STATES) - {"DONE"}):
        with pytest.raises(Internal), stage.database.transaction() as do:
            do.run("UPDATE deliveries SET state = ? WHERE number = 1", (state,))
    assert stage.states() == ["DONE"]


def test_keys_that_were_held_pass_once_that_is_declared() -> None:
    stage = Stage({**SINK, "ordered": "shop"})
    stage.decide()
    stage.decide()
    stage.answer(1, Refused("no"))
    stage.later(1)
    assert stage.due() == []
    stage.declare({**SINK, "ordered": "shop", "parked": "pass"})
    stage.later(1)
    assert stage.due() == [2]


@pytest.mark.parametrize("parked", ["hold", "pass"])
@pytest.mark.parametrize("approve", [False, True])
def test_whatever_happens_each_ends_and_those_of_a_key_are_taken_in_order(parked: str, approve: bool) -> None:
    """Of each key, what was taken was taken in the order of the decisions; but for what was parked and let pass."""
    luck = random.Random(f"{parked}{approve}")
    sink = {**SINK, "ordered": "shop", "parked": parked, "approve": approve, "approve_us": 3_000 * SECOND}
    stage = Stage(sink)
    shops: dict[int, str] = {}
    taken: list[int] = []
    was_parked: set[int] = set()
    for turn in range(1_200):
        if turn < 300:
            shop = luck.choice("abc")
            stage.decide(shop=shop)
            shops[len(shops) + 1] = shop
        for number in stage.due():
            kind = luck.random()
            if kind < 0.5:
                stage.answer(number, Taken())
                taken.append(number)
            elif kind < 0.8:
                stage.answer(number, Failed("away"))
            else:
                stage.answer(number, Refused("no"))
                was_parked.add(number)
            lanes = [shops[n] for n in stage.due() if n not in was_parked]
            assert len(set(lanes)) == len(lanes), "one of a key at a time"
        for item in stage.ask("GET", "/deliveries", state="parked")["items"]:
            if luck.random() < 0.3:
                verb, why = ("retry", {}) if luck.random() < 0.8 else ("drop", {"reason": "x"})
                stage.ask("POST", f"/deliveries/{item['number']}/{verb}", **why)
        for item in stage.ask("GET", "/deliveries", state="awaiting_approval", limit=3)["items"]:
            verb, why = ("approve", {}) if luck.random() < 0.8 else ("refuse", {"reason": "x"})
            stage.ask("POST", f"/deliveries/{item['number']}/{verb}", **why)
        stage.later(luck.randrange(1, 100))
    assert set(stage.states()) <= ENDED
    assert len(stage.states()) == 100, "a page"
    assert len(taken) == len(set(taken)) > 200
    for shop in "abc":
        own = [n for n in taken if shops[n] == shop and (parked == "hold" or n not in was_parked)]
        assert own == sorted(own)
    [told] = stage.ask("GET", "/sinks")["items"]
    assert told["done"] + told["dropped"] + told["refused"] + told["expired"] == 300


# Approval


def test_a_delivery_waits_for_a_second_authority() -> None:
    stage = Stage({**SINK, "approve": True})
    stage.decide()
    stage.decide()
    assert stage.due() == []
    found = stage.ask("POST", "/deliveries/1/approve", actor="bob", reason="seen")
    assert (found["state"], found["judged_by"], found["note"]) == ("WAITING", "bob", "seen")
    assert stage.due() == [1]
    with pytest.raises(InvalidInput) as caught:
        stage.ask("POST", "/deliveries/2/refuse", reason=" ")
    assert caught.value.code == "NO_REASON"
    assert stage.ask("POST", "/deliveries/2/refuse", reason="a mistake")["state"] == "REFUSED"
    assert stage.due() == [1]


def test_who_decided_cannot_approve() -> None:
    stage = Stage({**SINK, "approve": True})
    record = DecisionRecord(4, 4, Status.DECIDED, "block", 0.5, b"", "m", 3, "r", "f", Reason.NONE, 0, 7)
    with stage.database.transaction() as do:
        stage.part.add(do, Decided(record, {}, 5), stage.now, by="ann", after="review")
    assert stage.get(1)["id"] == "t/orders:4:review"
    with pytest.raises(NotAllowed) as caught:
        stage.ask("POST", "/deliveries/1/approve", actor="ann")
    assert caught.value.code == "SAME_PERSON"
    together = stage.ask("POST", "/deliveries/approve", actor="ann", numbers=[1])
    assert (together["judged"], together["left"][0]["code"]) == ([], "SAME_PERSON")
    assert stage.ask("POST", "/deliveries/1/approve", actor="bob")["state"] == "WAITING"


def test_as_many_are_judged_at_once_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_JUDGED", 2)
    stage = Stage({**SINK, "approve": True})
    for _ in range(3):
        stage.decide()
        stage.now += SECOND
    asked = stage.dispatch.answer("GET", "/deliveries/awaiting", Ask(query={"sink": "bank"}, now=stage.now))
    assert asked == {"numbers": [1, 2], "total": 3}
    with pytest.raises(InvalidInput):
        stage.ask("POST", "/deliveries/approve", numbers=[1, 2, 3])
    with pytest.raises(InvalidInput):
        stage.ask("POST", "/deliveries/approve", numbers=["1"])


@pytest.mark.parametrize("own", ["j\u00e4nner", "7", 7])
def test_deliveries_are_found_by_their_event(own: int | str) -> None:
    kind: Any = "text" if isinstance(own, str) else "int"
    stream = StreamSpec(
        name="orders", fields=(FieldSpec(name="order", type=kind), *FIELDS[1:]), id="order", time="at", key="order"
    )
    stage = Stage(SINK, {"to": "hall", "on": ["block"]})
    stage.part._stream = stream
    stage.decide()
    stage.decide(own=own)

    def found(**query: str) -> list[int]:
        return [item["number"] for item in stage.ask("GET", "/deliveries", **query)["items"]]

    assert found(event=str(own)) == found(event=str(own), state="waiting") == [3, 4]
    assert found(event=str(own), sink="hall") == found(event=str(own), after="3") == [4]
    assert found(event="700") == found(event=str(own), state="done") == []
    assert found() == [1, 2, 3, 4]
    if kind == "int":
        with pytest.raises(InvalidInput, match="'x7' is no id of orders"):
            found(event="x7")


def test_what_cannot_await_approval_is_refused_and_is_not_none_of_it() -> None:
    stage = Stage({**SINK, "approve": True}, {"to": "hall", "on": ["block"]})
    stage.decide()

    def awaiting(**query: str) -> Any:
        return stage.dispatch.answer("GET", "/deliveries/awaiting", Ask(query=query, now=stage.now))["total"]

    with pytest.raises(NotFound, match=r"gets no decision 'blok' \(did you mean 'block'\?\)") as unknown:
        awaiting(sink="bank", decision="blok")
    assert unknown.value.code == "UNKNOWN_DECISION"
    with pytest.raises(InvalidInput, match="The sink hall of orders needs no approval") as free:
        awaiting(sink="hall", decision="block")
    assert free.value.code == "NO_APPROVAL"
    assert (awaiting(sink="bank", decision="block"), awaiting(sink="bank", before="1970-01-01")) == (1, 0)
    stage.declare({"to": "bank", "on": ["other"]})
    assert awaiting(sink="bank") == awaiting(sink="bank", decision="block") == 1, "it came when they needed it"
    stage.ask("POST", "/deliveries/approve", numbers=[1])
    with pytest.raises(InvalidInput, match="The sink hall of orders is not declared any more"):
        awaiting(sink="hall")


@pytest.mark.parametrize(("unapproved", "state"), [("drop", "EXPIRED"), ("deliver", "WAITING")])
def test_what_nobody_judged_in_time(unapproved: str, state: str) -> None:
    stage = Stage({**SINK, "approve": True, "approve_us": 60 * SECOND, "unapproved": unapproved})
    stage.decide()
    stage.later(59)
    assert stage.states() == ["AWAITING_APPROVAL"]
    stage.later(2)
    assert stage.states() == [state]
    assert "in time" in stage.get(1)["note"]


# What cannot be


def moves_of(stage: Stage, state: str) -> int:
    """A delivery in this state."""
    sink = {**SINK, "ordered": "shop", "approve": state in ("AWAITING_APPROVAL", "REFUSED", "EXPIRED")}
    stage.declare(sink)
    if state == "HELD":
        stage.decide()
    stage.decide()
    number = len(stage.states())
    match state:
        case "PARKED":
            stage.answer(number, Refused("no"))
        case "DONE":
            stage.answer(number, Taken())
        case "REFUSED":
            stage.ask("POST", f"/deliveries/{number}/refuse", reason="x")
        case "DROPPED":
            stage.ask("POST", f"/deliveries/{number}/drop", reason="x")
        case "EXPIRED":
            stage.later(2 * 86_400)
    assert stage.states()[-1] == state
    return number


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", ["retry", "drop", "approve", "refuse"])
def test_what_the_table_has_no_arrow_for_is_refused(stage: Stage, state: str, verb: str) -> None:
    number = moves_of(stage, state)
    events = {"retry": "tried again", "drop": "dropped", "approve": "approved", "refuse": "refused"}
    allowed = (state, events[verb]) in DELIVERY_TRANSITIONS or (verb, state) == ("retry", "WAITING")
    if allowed:
        after = stage.ask("POST", f"/deliveries/{number}/{verb}", reason="x")["state"]
        assert after in (state, *(DELIVERY_TRANSITIONS.get((state, e), "") for e in (events[verb],)))
        return
    before = stage.get(number)
    with pytest.raises(Conflict) as caught:
        stage.ask("POST", f"/deliveries/{number}/{verb}", reason="x")
    assert caught.value.next_action
    assert "{" not in caught.value.next_action
    assert stage.get(number) == before


def test_unknown_ones(stage: Stage) -> None:
    for path in ("/deliveries/7/retry", "/deliveries/x/drop"):
        with pytest.raises(NotFound):
            stage.ask("POST", path, reason="x")
    with pytest.raises(NotFound):
        stage.ask("POST", "/deliveries/retry", sink="nobody")
    with pytest.raises(InvalidInput):
        stage.ask("GET", "/deliveries", state="lost")


def test_an_answer_to_one_that_was_dropped_meanwhile_changes_nothing(stage: Stage) -> None:
    stage.decide()
    [number] = stage.due()
    stage.ask("POST", f"/deliveries/{number}/drop", reason="x")
    stage.answer(number, Failed("away"))
    assert stage.get(number)["state"] == "DROPPED"


def test_a_sink_that_is_not_declared_any_more_keeps_what_waits(stage: Stage) -> None:
    stage.decide()
    stage.decide()
    stage.answer(1, Taken())
    stage.declare()
    stage.decide()
    [told] = stage.ask("GET", "/sinks")["items"]
    assert (told["sink"], told["declared"], told["waiting"]) == ("bank", False, 1)
    stage.ask("POST", "/deliveries/2/drop", reason="its receiver is no more")
    assert stage.ask("GET", "/sinks")["items"] == []


def test_it_says_when_it_is_full(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OPEN", 2)
    stage.decide()
    assert stage.dispatch.full() == ""
    stage.decide()
    assert "2 deliveries wait" in stage.dispatch.full()
    stage.answer(1, Taken())
    assert stage.dispatch.full() == ""


def test_pages(stage: Stage) -> None:
    for _ in range(5):
        stage.decide()
    first = stage.ask("GET", "/deliveries", limit=3)
    assert ([d["number"] for d in first["items"]], first["next"]) == ([1, 2, 3], 3)
    rest = stage.ask("GET", "/deliveries", limit=3, after=3, state="waiting", sink="bank")
    assert ([d["number"] for d in rest["items"]], rest["next"]) == ([4, 5], None)
    assert json.dumps(first), "it is JSON"


@pytest.mark.parametrize("own", ["j\u00e4nner", "\u6771\u4eac", 'a "b" \\ \n', "7", 7])
def test_ids_of_any_letters_are_erased(stage: Stage, own: int | str) -> None:
    stage.decide(own=own)
    stage.decide(own=own)
    with stage.database.transaction() as do:  # as earlier releases wrote it
        do.run("UPDATE deliveries SET event = ? WHERE number = 1", (json.dumps(own),))
    assert [item["event"] for item in stage.ask("GET", "/deliveries")["items"]] == [own, own]
    assert stage.dispatch.erase(["8", 8, "j", "7" if own == 7 else 7], stage.now) == 0
    assert stage.dispatch.erase([own], stage.now) == 2
    assert stage.states() == []


class Gate:
    """A receiver that takes nothing before it is open."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.asked: list[str] = []
        self.taken = 0
        self.closed_after: list[int] = []
        """What it had taken when it was closed."""

    async def deliver(self, delivery: Delivery) -> Answer:
        self.asked.append(delivery.id)
        await self.opened.wait()
        self.taken += 1
        return Taken()

    async def close(self) -> None:
        self.closed_after.append(self.taken)


class Gates:
    """`skyriver.decide.acting.sending.Sinks`: a new gate each time one was forgotten."""

    def __init__(self) -> None:
        self.gates: list[Gate] = []
        self.known = False

    def open(self, name: str) -> Gate:
        if not self.known:
            self.gates.append(Gate())
            self.known = True
        return self.gates[-1]

    def forget(self, name: str) -> None:
        self.known = False


async def until(held: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not held():
            await asyncio.sleep(0.005)


def sender_of(stage: Stage, gates: Gates, *, full: Callable[[], bool] = lambda: False) -> Senders:
    """Senders whose transactions fail while the disk is full."""

    async def transact(work: Callable[[Transaction], Any]) -> Any:
        def filled(do: Transaction) -> Any:
            before = do.run("SELECT count(*) FROM deliveries WHERE state = 'DONE'")
            found = work(do)
            if full() and do.run("SELECT count(*) FROM deliveries WHERE state = 'DONE'") != before:
                raise Unavailable("The disk is full.", code="DISK_FULL")
            return found

        return stage.dispatch.transact(filled)

    clock = SimpleNamespace(wall=lambda: stage.now, monotonic=lambda: stage.now)
    return Senders(stage.part, transact, gates, clock)


def test_what_is_dropped_or_erased_while_it_is_in_memory_is_not_sent() -> None:
    stage = Stage({**SINK, "parallel": 1})
    offsets = [stage.decide() for _ in range(5)]

    async def send() -> list[str]:
        gates = Gates()
        gate, senders = gates.open("bank"), sender_of(stage, gates)
        running = asyncio.create_task(senders.run())
        await until(lambda: len(gate.asked) == 1)
        stage.ask("POST", "/deliveries/2/drop", reason="a mistake")
        stage.dispatch.erase([100 + offsets[2]], stage.now)
        gate.opened.set()
        await until(lambda: len(gate.asked) == 3)
        running.cancel()
        await senders.end(60)
        return gate.asked

    assert asyncio.run(send()) == [f"t/orders:{offsets[n]}" for n in (0, 3, 4)]


def test_while_answers_cannot_be_written_nothing_more_is_sent_and_none_twice_afterwards() -> None:
    stage = Stage({**SINK, "parallel": 4})
    for _ in range(100):
        stage.decide()
    disk = SimpleNamespace(full=True)

    async def send() -> list[str]:
        gates = Gates()
        gate, senders = gates.open("bank"), sender_of(stage, gates, full=lambda: disk.full)
        gate.opened.set()
        sent = []
        for _ in range(3):
            with pytest.raises(Unavailable):  # whoever runs it begins it again
                await asyncio.wait_for(senders.run(), 60)
            await until(lambda: senders.report()["bank"]["under_way"] == 0)
            sent.append(len(gate.asked))
        assert sent[0] <= 2 * 4, "what was under way, and what began before that failed"
        assert sent == sent[:1] * 3
        assert stage.states() == ["WAITING"] * 100
        disk.full = False
        running = asyncio.create_task(senders.run())
        await until(lambda: stage.states() == ["DONE"] * 100)
        running.cancel()
        await senders.end(60)
        return gate.asked

    asked = asyncio.run(send())
    assert len(asked) == len(set(asked)) == 100


def test_the_connection_of_a_sink_that_is_not_declared_any_more_is_closed_behind_what_is_under_way() -> None:
    stage = Stage(SINK)
    stage.decide()

    async def send() -> list[Gate]:
        gates = Gates()
        first, senders = gates.open("bank"), sender_of(stage, gates)
        running = asyncio.create_task(senders.run())
        await until(lambda: first.asked)
        stage.declare()
        await until(lambda: "bank" not in senders.report())
        assert first.closed_after == []
        first.opened.set()
        await until(lambda: first.closed_after)
        await until(lambda: stage.states() == ["DONE"])
        stage.declare(SINK)
        stage.decide()
        await until(lambda: len(gates.gates) == 2 and gates.gates[1].asked)
        gates.gates[1].opened.set()
        await until(lambda: stage.states() == ["DONE"] * 2)
        running.cancel()
        await senders.end(60)
        return gates.gates

    assert [gate.closed_after for gate in asyncio.run(send())] == [[1], [1]]


def test_no_number_is_given_twice(stage: Stage) -> None:
    """What a receiver said of one that is erased meanwhile must not settle the next one."""
    offset = stage.decide()
    [number] = stage.due()
    stage.dispatch.erase([100 + offset], stage.now)
    stage.decide()
    stage.answer(number, Taken())
    assert stage.due() == [number + 1]
    stage.answer(number + 1, Taken())
    stage.later(1)
    with stage.database.transaction() as do:
        do.run("DELETE FROM deliveries")
    stage.decide()
    stage.decide()
    assert stage.due() == [3, 4]


def test_no_number_is_given_twice_in_a_file_of_before(stage: Stage) -> None:
    stage.decide()
    with stage.database.transaction() as do:
        do.run("DROP TRIGGER delivery_number_used")
        do.run("DROP TABLE delivery_used")
        stage.part.prepare(do)
    assert stage.dispatch.erase([100], stage.now) == 1
    stage.decide()
    assert stage.due() == [2]


def test_what_is_erased_is_told_beside_what_was_done_ever(stage: Stage) -> None:
    offsets = [stage.decide() for _ in range(4)]
    for number in (1, 2, 3):
        stage.answer(number, Taken())
    assert stage.dispatch.erase([100 + offsets[0]], stage.now) == 1
    assert stage.dispatch.erase([100 + offsets[1], 100 + offsets[3]], stage.now) == 2
    [told] = stage.ask("GET", "/sinks")["items"]
    assert (told["done"], told["erased"], told["waiting"]) == (3, 3, 0)
    assert stage.states() == ["DONE"]
    text = stage.ask("GET", "/metrics")["text"]
    assert 'state="done"} 3' in text, "a counter never falls"
    assert stage.ask("GET", "/deliveries", state="done")["items"][0]["number"] == 3
    stage.later(1)


def test_what_is_erased_is_not_sent_and_holds_nobody_back() -> None:
    stage = Stage({**SINK, "ordered": "shop"})
    first, second, other = stage.decide(), stage.decide(), stage.decide(shop="b")
    assert len(stage.due()) == 2, "the second waits for the first"
    assert stage.dispatch.erase([100 + first], stage.now) == 1
    assert len(stage.due()) == 2, "and goes on without it"
    assert stage.dispatch.erase([100 + second, 100 + other, 7], stage.now) == 2
    assert stage.due() == []
    [told] = stage.dispatch.tick(stage.now)["sinks"]
    assert (told["waiting"], told["held"]) == (0, 0)
