"""Lists in rules: what they say on every way, their state over checkpoints, and what is refused of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.spec import StreamSpec
from skyriver.data.log import RecordKind
from skyriver.decide.border import ReferenceBorder
from skyriver.decide.deciding import Deciding
from skyriver.decide.lists import Lists
from skyriver.decide.records import decode_event, decode_reference
from skyriver.decide.rules import RuleSet, compile_rules
from skyriver.decide.trial import Trial

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    shop: str | None
    amount: float


class Limit(sr.Event):
    customer: int
    at: sr.Time
    amount: float | None = sr.field(ge=0)
    word: str | None
    open: bool
    since: sr.Time | None


APP = sr.App("risk")
PAYMENTS = APP.stream("payments", Payment, id="payment", time="at", key="customer", disorder="10s")
APP.list("denied", of=PAYMENTS, id="customer")
APP.list("allowed", of=PAYMENTS, id="shop")
APP.list("limits", Limit, of=PAYMENTS, id="customer")
STREAM = APP.spec.stream("payments")
DENIED, ALLOWED, LIMITS = range(3)
RULES = (
    ("block", "customer in denied"),
    ("ask", "shop not in allowed and amount > 50"),
    ("none", "not limits.open"),
    ("word", 'limits.word == "high" and amount < limits.amount'),
    ("limit", "amount > limits.amount"),
    ("unknown", "limits.amount is missing and shop is missing"),
)


def rules(*given: tuple[str, ...], stream: StreamSpec = STREAM) -> RuleSet:
    return compile_rules(given or RULES, "approve", "review", stream, None, without_score=True)


def event(number: int, second: float, customer: int = 1, shop: str | None = "s", amount: float = 1.0) -> Any:
    at = START + round(second * SECOND)
    return {"payment": number, "at": at, "customer": customer, "shop": shop, "amount": amount}


class Keeper:
    """A partition with lists; `ways` says how its events are worked on."""

    def __init__(self, make_house: Callable[..., Any], block_rows: int = 10**9, stream: StreamSpec = STREAM) -> None:
        self.house = make_house(stream=stream, with_features=False, block_rows=block_rows)
        self.stream = stream
        self.house.start(Deciding(rules(stream=stream)))

    def send(self, *rows: Any) -> list[str]:
        receipt = self.house.send(*rows)
        return [decision.decision for decision in receipt.decisions]

    def keep(self, index: int, *rows: Any, off: bool = False) -> int:
        house = self.house
        border = ReferenceBorder(self.stream, index)
        limit = house.clock.wall() + self.stream.ahead_us
        found = border.take_off(rows) if off else border.take(rows, house.clock.wall(), limit)
        (news,) = house.engine.learn([found])
        house.log.sync()
        return int(news)

    @property
    def lists(self) -> Lists:
        found: Lists = self.house.engine.partition.lists
        return found

    def decisions(self) -> list[str]:
        return [decision.decision for decision in self.house.decisions()]


def by_hand(values: list[Any], now: int, told: dict[tuple[int, Any], list[list[Any]]]) -> str:
    """What is to be decided, from all rows that stand before the event in the log."""

    def row_of(index: int, own: Any) -> list[Any] | None:
        at, until = (2, 3) if index != LIMITS else (1, 6)
        come = [(row[at], place) for place, row in enumerate(told.get((index, own), [])) if row[at] <= now]
        row = told[index, own][max(come)[1]] if come else None
        return None if row is None or (row[until] is not None and row[until] <= now) else row

    _, _, customer, shop, amount = values
    limit = row_of(LIMITS, customer)
    if row_of(DENIED, customer) is not None:
        return "block"
    if shop is not None and row_of(ALLOWED, shop) is None and amount > 50:
        return "ask"
    if limit is not None and limit[4] is False:
        return "none"
    if limit is not None and limit[2] is not None:
        if limit[3] == "high" and amount < limit[2]:
            return "word"
        if amount > limit[2]:
            return "limit"
    return "unknown" if (limit is None or limit[2] is None) and shop is None else "review"


def wanted(house: Any) -> list[str]:
    told: dict[tuple[int, Any], list[list[Any]]] = {}
    found: list[str] = []
    for record in house.records(RecordKind.EVENT, RecordKind.EVENTS, RecordKind.REFERENCE):
        if record.kind is RecordKind.REFERENCE:
            index, row = decode_reference(record.payload)
            told.setdefault((index, row[0]), []).append(row)
        elif record.kind is RecordKind.EVENT:
            found.append(by_hand(decode_event(record.payload)[1], record.time, told))
    return found


def step(luck: random.Random, number: int, second: float) -> tuple[str, int, list[Any]]:
    """(what, list, rows): events, rows with and without times and ends, and ids to be taken off."""
    what = luck.choice(["events", "events", "rows", "rows", "off"])
    if what == "events":
        times = sorted(second + luck.random() * 5 for _ in range(luck.randrange(1, 9)))
        shops = [None, "s0", "s1", "s2"]
        return (
            what,
            0,
            [
                event(number + n, at, luck.randrange(6), luck.choice(shops), luck.choice([1.0, 60.0, 200.0]))
                for n, at in enumerate(times)
            ],
        )
    index = luck.randrange(3)
    rows = []
    for _ in range(luck.randrange(1, 4)):
        own = {"shop": f"s{luck.randrange(3)}"} if index == ALLOWED else {"customer": luck.randrange(6)}
        row: dict[str, Any] = dict(own)
        if what == "rows":
            at = START + round((second + luck.choice([-20, 0, 2, 8])) * SECOND)
            row |= luck.choice([{}, {}, {"at": at}, {"at": at, "until": at + luck.choice([0, 3, 30]) * SECOND}])
            row |= luck.choice([{}, {"until": START + round((second + 5) * SECOND)}]) if "at" not in row else {}
            if index == LIMITS:
                more = {"amount": luck.choice([None, 50, 100.5]), "word": luck.choice([None, "high", "low"])}
                row |= {**more, "open": luck.random() < 0.8}
        rows.append(row)
    return what, index, rows


@pytest.mark.parametrize("seed", range(6))
def test_all_ways_decide_as_the_log_says(make_house: Callable[..., Any], seed: int) -> None:
    luck = random.Random(seed)
    one_by_one, in_blocks = Keeper(make_house), Keeper(make_house, block_rows=1)
    restarted = Keeper(make_house, block_rows=4)
    second, number = 0.0, 1
    for _ in range(120):
        what, index, rows = step(luck, number, second)
        second += luck.choice([0, 1, 4])
        number += len(rows)
        for keeper in (one_by_one, in_blocks, restarted):
            keeper.house.clock.wall_us = START + round((second + 10) * SECOND)
            if what == "events":
                keeper.send(*rows)
            else:
                keeper.keep(index, *rows, off=what == "off")
        if luck.random() < 0.1:
            restarted.house.save()
        if luck.random() < 0.2:
            restarted.house.start(Deciding(rules()))
    found = one_by_one.decisions()
    assert found == wanted(one_by_one.house)
    assert in_blocks.decisions() == found
    assert restarted.decisions() == found
    assert len(set(found)) >= 5
    states = [
        {each.spec.name: (each.rows, each._older, len(each)) for each in k.lists} for k in (one_by_one, in_blocks)
    ]
    assert states[0] == states[1]
    assert {each.spec.name: (each.rows, each._older, len(each)) for each in restarted.lists} == states[0]


@pytest.mark.parametrize("block_rows", [10**9, 1])
def test_rules_that_are_tried_read_lists_too(make_house: Callable[..., Any], block_rows: int) -> None:
    house = make_house(stream=STREAM, with_features=False, block_rows=block_rows)
    house.start(Deciding(rules(("block", "amount > 10")), trial=Trial(rules(("stop", "customer in denied")), 1, 0.0)))
    house.engine.learn([ReferenceBorder(STREAM, DENIED).take([{"customer": 2}], START, START)])
    house.send(event(1, 0, 1), event(2, 0, 2))
    assert [(d.decision, d.shadow_decision) for d in house.decisions()] == [("review", "review"), ("review", "stop")]


def row_of(customer: int, at: int, until: int | None) -> list[Any]:
    """Of the list `denied`."""
    spec = STREAM.references[DENIED]
    given = {spec.id: customer, spec.time: at, spec.until: until}
    return [given.get(own.name) for own in spec.fields]


def test_who_is_forgotten_was_never_on_it_also_after_a_restart() -> None:
    lists, expected = Lists(STREAM), Lists(STREAM)
    luck = random.Random(5)
    for now in range(200):
        customer = luck.randrange(5)
        row = row_of(customer, START + now, None if luck.random() < 0.7 else START + now)
        lists.learn(DENIED, row, START + now)
        if customer != 3:
            expected.learn(DENIED, row, START + now)
    assert lists.forget(DENIED, 3)
    assert not lists.forget(DENIED, 3)
    again = Lists(STREAM)
    again.restore(lists.save())
    for found in (lists, again):
        kept, wanted = found.get(DENIED), expected.get(DENIED)
        assert kept is not None
        assert wanted is not None
        assert (kept.rows, len(kept)) == (wanted.rows, len(wanted))
        assert [kept.history(own) for own in range(5)] == [wanted.history(own) for own in range(5)]
