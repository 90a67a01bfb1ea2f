"""Lists in rules: what they say on every way, their state over checkpoints, and what is refused of them."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.spec import StreamSpec
from skyriver.data.columns import Columns
from skyriver.data.log import RecordKind
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.trial import Trial
from skyriver.decide.log import lists_columns
from skyriver.decide.log.history import read_block
from skyriver.decide.log.lists import BEHIND, JOURNAL, List, Lists, lookups_of
from skyriver.decide.log.records import LoadStep, decode_event, decode_reference, encode_reference
from skyriver.decide.replay.standing import Standing
from skyriver.decide.replay.stretch import Asked
from skyriver.decide.rules.reach import never_fire
from skyriver.decide.rules.ruleset import RuleSet, compile_rules
from skyriver.decide.worker.border import ReferenceBorder

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


def state(lists: Lists) -> dict[str, Any]:
    found = {each.spec.name: (each.rows, each._older, each.changed_at, each.ids) for each in lists}
    return copy.deepcopy(found)


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
    assert state(in_blocks.lists) == state(one_by_one.lists)
    assert state(restarted.lists) == state(one_by_one.lists)


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
        assert (kept.rows, kept.ids) == (wanted.rows, wanted.ids)
        assert [kept.history(own) for own in range(5)] == [wanted.history(own) for own in range(5)]


def test_each_cut_of_the_log_is_decided_as_the_whole_was(make_house: Callable[..., Any]) -> None:
    keeper = Keeper(make_house)
    keeper.send(event(1, 0, 1), event(2, 1, 2))
    keeper.keep(DENIED, {"customer": 1}, {"customer": 2, "at": START + 3 * SECOND})
    keeper.send(event(3, 2, 1), event(4, 2, 2), event(5, 4, 2))
    keeper.keep(DENIED, {"customer": 1}, off=True)
    keeper.send(event(6, 5, 1), event(7, 5, 2))
    whole, records = keeper.decisions(), keeper.house.records()
    assert whole == ["review", "review", "block", "review", "block", "review", "block"]
    for end in range(1, len(records) + 1):
        cut = make_house(stream=STREAM, with_features=False)
        log = cut.store.open()
        log.append(records[:end])
        log.sync()
        cut.start(Deciding(rules()))
        found = [decision.decision for decision in cut.decisions()]
        assert found == whole[: len(found)]
        assert len(found) == sum(record.kind is RecordKind.EVENT for record in records[:end])


def test_what_is_said_already_is_not_logged_again(make_house: Callable[..., Any]) -> None:
    keeper = Keeper(make_house)
    assert keeper.keep(DENIED, {"customer": 1, "note": "stolen"}, {"customer": 2}) == 2
    assert keeper.send(event(1, 0, 1)) == ["block"], "what is told before the first event counts from it on"
    assert keeper.keep(DENIED, {"customer": 1, "note": "stolen"}, {"customer": 2, "note": "lost"}) == 1
    assert keeper.keep(DENIED, {"customer": 1, "note": "lost"}, {"customer": 1, "note": "stolen"}) == 2
    assert keeper.keep(DENIED, {"customer": 9}, {"customer": 2}, off=True) == 1, "one is not on it"
    assert keeper.keep(DENIED, {"customer": 2}, off=True) == 0
    denied = keeper.lists.get(DENIED)
    assert denied is not None
    assert denied.ids == 1
    assert [(row[2], denied.says(row)) for row in denied.history(2)] == [(START, "off"), (0, "on")]
    keeper.send(event(2, 30, 3))
    assert keeper.keep(DENIED, {"customer": 2}) == 1
    assert next((row[2], denied.says(row)) for row in denied.history(2)) == (START + 30 * SECOND, "on")
    assert keeper.send(event(3, 31, 2)) == ["block"]


def test_who_is_still_to_come_can_be_taken_off(make_house: Callable[..., Any]) -> None:
    keeper = Keeper(make_house)
    keeper.send(event(1, 0))
    keeper.keep(DENIED, {"customer": 1}, {"customer": 1, "at": START + 20 * SECOND, "note": "again"})
    assert keeper.keep(DENIED, {"customer": 1}, off=True) == 2
    assert keeper.send(event(2, 1, 1), event(3, 21, 1)) == ["review", "review"]


def test_few_rows_of_an_id_are_kept_behind_the_current_one(make_house: Callable[..., Any]) -> None:
    keeper = Keeper(make_house)
    for second in range(3 * BEHIND):
        keeper.send(event(second, second, 5))
        keeper.keep(DENIED, {"customer": 1, "note": str(second)})
    denied = keeper.lists.get(DENIED)
    assert denied is not None
    assert [row[1] for row in denied.history(1)] == [str(n) for n in range(3 * BEHIND - 1, 2 * BEHIND - 2, -1)]


def test_a_list_that_does_not_change_is_not_written_out_again() -> None:
    one = List(STREAM.references[DENIED])
    for number in range(JOURNAL + 1):
        one.learn([number, None, number, None], number)
    first = one.save()
    written = one._written
    assert not one._since
    one.learn([3, "note", JOURNAL + 7, JOURNAL + 7], JOURNAL + 7)
    second = one.save()
    assert one._written is written
    again, before = List(STREAM.references[DENIED]), List(STREAM.references[DENIED])
    again.restore(second)
    before.restore(first)
    assert (again.rows, again._older, again.ids) == (one.rows, one._older, JOURNAL)
    assert before.ids == JOURNAL + 1
    assert again.changed_at == JOURNAL + 7
    assert again.save() == second


def test_bad_rows_are_set_aside_or_keep_all_back(make_house: Callable[..., Any]) -> None:
    keeper = Keeper(make_house)
    border = ReferenceBorder(STREAM, LIMITS)
    at = START + 5 * SECOND
    good = {"customer": 1, "amount": 5, "open": True}
    rows = [
        good,
        {**good, "amount": -1},
        {**good, "at": at, "until": at - 1},
        7,
        {**good, "costumer": 2},
        {"open": True},
    ]
    sorted_ = border.sort(rows, START, START + 60 * SECOND)
    assert sorted_.rows == [[1, None, 5.0, None, True, None, None]]
    assert [(bad.index, bad.field, bad.reason) for bad, _ in sorted_.dead] == [
        (1, "amount", "OUT_OF_RANGE"),
        (2, "until", "OUT_OF_RANGE"),
        (3, "", "WRONG_TYPE"),
        (4, "costumer", "UNKNOWN_FIELD"),
        (5, "customer", "MISSING"),
    ]
    assert keeper.house.engine.learn([sorted_]) == [1]
    keeper.house.log.sync()
    assert [letter.reason for letter in keeper.house.engine.partition.dead_letters] == [
        b.reason for b, _ in sorted_.dead
    ]
    keeper.house.start(Deciding(rules()))
    assert keeper.house.engine.partition.counters.dead == 5
    for bad in ({"customer": "x"}, {"customer": 1, "note": "x"}, {}, 5):
        with pytest.raises(InvalidInput) as caught:
            border.take_off([{"customer": 1}, bad])
        assert caught.value.code == "REFERENCE_REFUSED"


def test_a_reference_becomes_a_list(make_house: Callable[..., Any]) -> None:
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")

    class Ended(Limit):
        until: sr.Time | None

    app.reference("limits", Ended, of=payments, id="customer", time="at")
    before = app.spec.stream("payments")
    later = sr.App("risk")
    payments = later.stream("payments", Payment, id="payment", time="at", key="customer")
    later.list("limits", Ended, of=payments, id="customer")
    after = later.spec.stream("payments")
    house = make_house(stream=before, with_features=False).start(
        Deciding(rules(("block", "amount > 3"), stream=before))
    )
    house.send(event(1, 0))
    row = {"customer": 1, "at": START, "amount": 5, "open": True}
    house.engine.learn([ReferenceBorder(before, 0).take([row], START, START)])
    house.log.sync()
    house.save()
    house.stream = after
    house.start(Deciding(rules(("block", "amount > limits.amount"), stream=after)))
    assert not house.recovered.passed_over
    assert [d.decision for d in house.send(event(2, 1, amount=6.0), event(3, 1, amount=4.0)).decisions] == [
        "block",
        "review",
    ]


def test_a_log_that_gave_up_rows_is_not_decided_without_them(make_house: Callable[..., Any]) -> None:
    keeper = Keeper(make_house)
    house = keeper.house
    keeper.keep(DENIED, {"customer": 1})
    keeper.send(event(1, 0))
    house.log.end_part()
    house.engine.use(house.engine.deciding)
    keeper.send(event(2, 1))
    house.save()
    house.log.remove_before(house.log.parts()[0].end)
    house.start(Deciding(rules()))
    assert keeper.send(event(3, 2)) == ["block"], "the checkpoint has them"
    house.checkpoints.clear()
    with pytest.raises(Conflict) as caught:
        house.start(Deciding(rules()))
    assert caught.value.code == "HISTORY_GONE"


@pytest.mark.parametrize("seed", range(3))
def test_columns_say_what_rows_say(seed: int) -> None:
    luck = random.Random(seed)
    lists, rows, times = Lists(STREAM), [], []
    for index, reference in enumerate(STREAM.references):
        for _ in range(40):
            own: Any = f"s{luck.randrange(9)}" if index == ALLOWED else luck.randrange(9)
            given: dict[str, Any] = {
                reference.id: own,
                "at": luck.randrange(100),
                "until": luck.choice([None, luck.randrange(150)]),
                "amount": luck.choice([None, 7.0]),
                "word": luck.choice([None, "high"]),
                "note": luck.choice([None, "lost"]),
                "open": luck.choice([True, False]),
            }
            lists.learn(index, [given.get(own.name) for own in reference.fields], 0)
    for number in range(200):
        rows.append([number, number, luck.randrange(12), luck.choice([None, "s1", "s2", "s77"]), 1.0])
        times.append(luck.randrange(120))
    used = tuple(range(len(lookups_of(STREAM))))
    wanted = lists.beside(used, rows, times)
    columns = lists_columns.beside(lists, used, Columns.of_rows(STREAM.fields, rows), np.array(times))
    assert columns.rows() == wanted
    some = (2, 4)
    kept = {len(STREAM.fields) + place for place in some} | set(range(len(STREAM.fields)))
    found = lists.beside(some, rows, times)
    assert [[v if p in kept else None for p, v in enumerate(row)] for row in wanted] == found
    assert all(any(row[place] is not None for row in wanted) for place in range(len(wanted[0])))


@pytest.mark.parametrize(
    ("when", "column", "words", "action"),
    [
        ("customer in denid", 13, "'denid' is no list; did you mean 'denied'?", "There are denied, allowed, limits."),
        ("amount in denied", 1, "'denied' is a list of ints, and 'amount' is a float", ""),
        ("shop in denied", 1, "'denied' is a list of ints, and 'shop' is a text", ""),
        ("score in denied", 1, "what is on a list is a field of the event", "Name the field alone"),
        ("customer + 1 in denied", 1, "what is on a list is a field of the event", ""),
        ("customer not denied", 14, "`in` is expected after `not`, not 'denied'", ""),
        ("customer in 5", 13, "'5' is no list", ""),
        ("customer in", 12, "'the end' is no list", ""),
        ("denied", 1, "'denied' is a list: ask whether something is on it, as in `customer in denied`", ""),
        ("amount > limits.amout", 10, "unknown name 'limits.amout'; did you mean 'limits.amount'?", "limits.amount"),
        ("limits.since > 3", 1, "'since' of 'limits' is a time", ""),
        ("limits.at > 3", 1, "'at' of 'limits' is a time", ""),
        ("limits.word > 3", 13, "a text cannot be compared with a number", ""),
        ("customer in denied > 1", 20, "comparisons cannot be chained", ""),
        ("limits.customer == 1", 1, "unknown name 'limits.customer'", ""),
    ],
)
def test_a_mistake_is_told_with_its_column(when: str, column: int, words: str, action: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        rules(("block", when))
    assert caught.value.code == "BAD_RULE"
    assert caught.value.message.startswith(f"column {column}: ")
    assert words in caught.value.message
    assert action in caught.value.next_action


def test_what_is_missing_is_on_no_list_and_off_none() -> None:
    lists = Lists(STREAM)
    lists.learn(ALLOWED, ["s1", None, 0, None], 0)
    for when, shop, wanted in (
        ("shop in allowed", None, False),
        ("shop not in allowed", None, False),
        ("(shop in allowed) is missing", None, True),
        ("shop in allowed", "s1", True),
        ("shop not in allowed", "s2", True),
        ("(shop in allowed) == false", "s2", True),
        ("limits.amount is missing", "s1", True),
        ("not limits.open", "s1", False),
    ):
        found = rules(("block", when))
        (values,) = lists.beside(found.lookups, [[1, 0, 1, shop, 1.0]], [5])
        assert (found.ends[found.decide(0.5, (), values)][0] == "block") is wanted, when


def test_a_rule_behind_one_of_the_same_list_never_fires() -> None:
    found = rules(
        ("block", "customer in denied"),
        ("ask", "customer in denied and amount > 5"),
        ("free", "customer not in denied and customer == 5"),
        ("limit", "limits.amount is missing"),
        ("other", "limits.amount is missing or customer in denied"),
    )
    assert [name for name, _ in never_fire(found, STREAM)] == ["ask", "other"]


def loaded(*rows: tuple[int, Any]) -> bytes:
    """A block of a load: (second, the values of an event, or a list with the row of one)."""
    times = [START + second * SECOND for second, _ in rows]
    events = [content if isinstance(content, list) else None for _, content in rows]
    frame = pl.DataFrame(
        {
            "_kind": [RecordKind.EVENT if event else RecordKind.REFERENCE for event in events],
            "_time": times,
            **{f.name: [e[n] if e else None for e in events] for n, f in enumerate(STREAM.fields)},
            "_label": [None] * len(rows),
            "_subject": [None] * len(rows),
            "_value": [None] * len(rows),
            "_reference": [None if e else encode_reference(*c) for e, (_, c) in zip(events, rows, strict=True)],
        },
        schema_overrides={"_kind": pl.UInt8, "_label": pl.UInt8, "_subject": pl.Int64, "_value": pl.Float64},
    ).with_columns(pl.col("shop").cast(pl.String), pl.col("_reference").cast(pl.Binary))
    out = io.BytesIO()
    frame.write_ipc_stream(out)
    return out.getvalue()


def test_rows_that_are_loaded_with_history_count(make_house: Callable[..., Any]) -> None:
    keeper = Keeper(make_house)
    denied = (DENIED, [1, "old", START - 90 * SECOND, None])
    off = (DENIED, [2, None, START - 70 * SECOND, START - 70 * SECOND])
    block = loaded((-90, denied), (-80, [1, START - 80 * SECOND, 1, "s", 1.0]), (-70, off))
    keeper.house.engine.load(read_block(block, STREAM), LoadStep("load", 0, 0, last=True))
    keeper.house.log.sync()
    assert keeper.send(event(2, 0, 1), event(3, 0, 2)) == ["block", "review"]
    before = state(keeper.lists)
    keeper.house.start(Deciding(rules()))
    assert state(keeper.lists) == before
    assert keeper.send(event(4, 1, 1)) == ["block"]


def test_a_stretch_of_the_past_begins_with_what_lists_said_there(make_house: Callable[..., Any]) -> None:
    keeper = Keeper(make_house)
    keeper.send(event(1, 0))
    keeper.keep(DENIED, {"customer": 1}, {"customer": 2, "at": START + 9 * SECOND})
    there, end = state(keeper.lists), keeper.house.log.next_offset
    keeper.send(event(2, 1))
    keeper.keep(DENIED, {"customer": 1}, off=True)
    standing = Standing(STREAM, Asked(START + SECOND, START + 2 * SECOND))
    standing.learn_before(keeper.house.store.reader(), end, lambda *_: None)
    assert standing.has_lists
    assert state(standing._lists) == there
