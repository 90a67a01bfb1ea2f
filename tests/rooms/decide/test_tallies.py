"""Budgets and counters: what they count, and that it is the same by rows, by blocks, and after any end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyriver.core.spec import BudgetSpec, CounterSpec
from skyriver.core.units import SECOND
from skyriver.data.log import RecordKind
from skyriver.decide.checkpoint import SavedTally
from skyriver.decide.records import decode_control
from skyriver.decide.rules import compile_rules
from skyriver.decide.tallies import Tally

MINUTE = 60 * SECOND
START = 1_700_000_000 * SECOND
"""As `House.event` has it."""


def budget(decision: str, most: int, overflow: str, by: str = "", per: int = MINUTE) -> BudgetSpec:
    return BudgetSpec(decision=decision, most=most, per_us=per, overflow=overflow, by=by)


def counter(name: str, decision: str, by: str = "", over: int = MINUTE, most: int = 1000) -> CounterSpec:
    return CounterSpec(name=name, decision=decision, over_us=over, by=by, most=most)


def deciding(house: Any, rules: list[Any], **bounds: Any) -> Any:
    fallback_by = bounds.pop("fallback_by", ())
    compiled = compile_rules(
        rules, "approve", "review", house.stream, None, without_score="rules" in fallback_by, **bounds
    )
    return replace(house.deciding(), rules=compiled, fallback_by=fallback_by)


BLOCK = [("block", "score >= 0.9", "certain")]


def words(house: Any) -> list[str]:
    return [d.decision for d in house.decisions()]


@pytest.mark.parametrize("rows", [1, 1000])
def test_beyond_a_budget_events_get_the_overflow_and_the_record_says_why(make_house: Any, rows: int) -> None:
    house = make_house(block_rows=rows)
    house.start(deciding(house, BLOCK, budgets=[budget("block", 2, "review")]))
    house.send(*(house.event(n, at=float(n), amount=95.0) for n in range(4)))
    assert [(d.decision, d.status, d.reason, d.rule, d.score is not None) for d in house.decisions()] == [
        ("block", "decided", "", "certain", True),
        ("block", "decided", "", "certain", True),
        ("review", "decided", "BUDGET_SPENT", "certain", True),
        ("review", "decided", "BUDGET_SPENT", "certain", True),
    ]
    assert house.engine.partition.counters.by_reason == {"BUDGET_SPENT": 2}
    assert house.engine.arms.to_json()[0]["by_reason"] == {"": 4}, "it is no failure of the version"
    control = decode_control(house.records(RecordKind.CONTROL)[-1].payload)
    assert [BudgetSpec.model_validate(own) for own in control.budgets] == [budget("block", 2, "review")]


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_window_slides_and_leaves_out_its_beginning(make_house: Any, rows: int) -> None:
    house = make_house(block_rows=rows)
    house.start(deciding(house, BLOCK, budgets=[budget("block", 1, "review")]))
    times = [0.0, 59.999999, 60.0, 119.0, 120.0]  # (T - 60 s, T]
    for number, at in enumerate(times):
        house.clock.pass_(60 * SECOND)
        house.send(house.event(number, at=at, amount=95.0))
    assert words(house) == ["block", "review", "block", "review", "block"]


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_budget_by_a_field_is_of_each_of_its_values_and_overflows_may_have_budgets(
    make_house: Any, rows: int
) -> None:
    house = make_house(block_rows=rows)
    budgets = [budget("block", 1, "call", "customer"), budget("block", 3, "review"), budget("call", 1, "review")]
    house.start(deciding(house, BLOCK, budgets=budgets))
    house.send(*(house.event(n, customer=c, amount=95.0) for n, c in enumerate([1, 1, 1, 2, 3, 4])))
    assert words(house) == ["block", "call", "review", "block", "block", "review"]


@pytest.mark.parametrize("rows", [1, 1000])
def test_whoever_decides_it_counts_and_a_reason_is_kept(make_house: Any, rows: int) -> None:
    house = make_house(block_rows=rows)
    house.start(deciding(house, BLOCK, budgets=[budget("review", 2, "hold")]))
    amounts = [13.0, 10.0, 14.0, 10.0, 15.0]  # 13 raises, 14 and 15 give no finite score
    house.send(*(house.event(n, at=-60.0 if n == 3 else 0.0, amount=a) for n, a in enumerate(amounts)))
    assert [(d.status, d.decision, d.reason) for d in house.decisions()] == [
        ("failed", "review", "MODEL_FAILED"),
        ("decided", "approve", ""),
        ("failed", "review", "SCORE_NOT_FINITE"),
        ("late", "hold", "LATE"),
        ("failed", "hold", "SCORE_NOT_FINITE"),
    ]


@pytest.mark.parametrize("rows", [1, 1000])
def test_nothing_may_be_left_of_a_budget_from_the_start(make_house: Any, rows: int) -> None:
    house = make_house(block_rows=rows)
    house.start(deciding(house, BLOCK, budgets=[budget("block", 0, "review")]))
    house.send(house.event(1, amount=95.0), house.event(2, amount=1.0))
    assert words(house) == ["review", "approve"]


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_rule_reads_how_many_there_were_before(make_house: Any, rows: int) -> None:
    house = make_house(block_rows=rows)
    rules = [("block", "score >= 0.9"), ("watch", "blocks >= 2 and amount > 0"), ("note", "all_blocks > 2")]
    counters = [counter("blocks", "block", "customer"), counter("all_blocks", "block")]
    house.start(deciding(house, rules, counters=counters))
    sent = [(1, 95), (1, 95), (1, 5), (2, 95), (2, 5), (1, 95)]
    house.send(*(house.event(n, customer=c, amount=float(a)) for n, (c, a) in enumerate(sent)))
    assert words(house) == ["block", "block", "watch", "block", "note", "block"]
    assert [d.rule for d in house.decisions()] == ["block", "block", "watch", "block", "note", "block"]


@pytest.mark.parametrize("rows", [1, 1000])
def test_rules_that_read_counters_decide_without_a_score_where_declared(make_house: Any, rows: int) -> None:
    house = make_house(block_rows=rows)
    rules = [("block", "score >= 0.9"), ("watch", "reviews >= 1"), ("hold", "amount == 15")]
    house.start(deciding(house, rules, counters=[counter("reviews", "review")], fallback_by=("rules",)))
    house.send(*(house.event(n, amount=a) for n, a in enumerate([15.0, 13.0, 14.0, 95.0, 5.0])))
    assert words(house) == ["hold", "review", "watch", "block", "watch"]


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("send"),
            st.lists(
                st.tuples(st.sampled_from([-8.0, 0.0, 1.0, 30.0, 61.0]), st.sampled_from([5.0, 14.0, 95.0])),
                min_size=1,
                max_size=8,
            ),
        ),
        st.tuples(st.just("save"), st.none()),
        st.tuples(st.just("restart"), st.booleans()),
        st.tuples(st.just("use"), st.integers(0, 4)),
    ),
    min_size=1,
    max_size=12,
)
RULES = [("block", "score >= 0.9 and seen < 3", "certain"), ("call", "amount > 90"), ("watch", "approved >= 2")]
PLAIN = [("block", "score >= 0.9", "certain"), ("call", "amount > 90")]
COUNTERS = [counter("seen", "block", "customer", 40 * SECOND), counter("approved", "approve", "", 50 * SECOND, most=3)]
BUDGETS = [budget("block", 2, "call", "customer"), budget("call", 3, "review", "", 45 * SECOND)]
WAYS: list[dict[str, Any]] = [
    {"rules": PLAIN, "budgets": BUDGETS},
    {"rules": RULES, "budgets": BUDGETS, "counters": COUNTERS},
    {"rules": RULES, "counters": COUNTERS, "combine": ("watch", "call", "block")},
    {"rules": PLAIN, "budgets": [budget("block", 4, "review", "customer")], "fallback_by": ("rules",)},
    {"rules": PLAIN},
]


class Expected:
    """Budgets and counters as they are told, held against all decisions ever made."""

    def __init__(self) -> None:
        self.past: list[tuple[int, int, str]] = []
        """(T, customer, decision)."""
        self.begun: dict[Any, int] = {}
        """Since which decision each tally counts."""

    def use(self, way: dict[str, Any]) -> None:
        kinds = {(b.decision, b.per_us, b.by) for b in way.get("budgets", ())}
        kinds |= {(c.decision, c.over_us, c.by) for c in way.get("counters", ())}
        self.begun = {kind: self.begun.get(kind, len(self.past)) for kind in kinds}

    def count(self, decision: str, window: int, by: str, time: int, customer: int) -> int:
        begun = self.begun[decision, window, by]
        return sum(
            word == decision and at > time - window and (not by or who == customer)
            for at, who, word in self.past[begun:]
        )

    def decide(self, way: dict[str, Any], time: int, customer: int, amount: float, late: bool) -> str:
        def counted(name: str) -> int:
            own = next(c for c in way["counters"] if c.name == name)
            return min(own.most, self.count(own.decision, own.over_us, own.by, time, customer))

        score = np.float32(amount) / np.float32(100)
        scored = amount != 14 and not late
        fires: dict[str, Callable[[], bool]] = {
            "block": lambda: scored and score >= 0.9 and (way["rules"] is PLAIN or counted("seen") < 3),
            "call": lambda: amount > 90,
            "watch": lambda: way["rules"] is RULES and counted("approved") >= 2,
        }
        order = way.get("combine") or [rule[0] for rule in way["rules"]]
        decision = "approve"
        if scored or (not late and "rules" in way.get("fallback_by", ())):
            decision = next((word for word in order if fires[word]()), "approve" if scored else "review")
        else:
            decision = "review"
        while True:
            spent = [
                b.overflow
                for b in way.get("budgets", ())
                if b.decision == decision and self.count(decision, b.per_us, b.by, time, customer) >= b.most
            ]
            if not spent:
                break
            decision = spent[0]
        self.past.append((time, customer, decision))
        return decision


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(0, 4))
def test_budgets_and_counters_are_what_is_told_by_rows_by_blocks_and_after_each_restart(
    make_house: Callable[..., Any], steps: list[Any], way: int
) -> None:
    houses = [make_house(block_rows=rows) for rows in (1000, 1)]
    start = way
    for house in houses:
        way, number = start, 0
        chosen = WAYS[way]
        house.start(deciding(house, **chosen))
        expected, time = Expected(), 0
        expected.use(chosen)
        wanted: list[str] = []
        for step, what in steps:
            if step == "send":
                rows = []
                for ahead, amount in what:
                    at = time + round(ahead * SECOND)
                    rows.append(house.event(number, customer=number % 2, amount=amount) | {"at": START + at})
                    number += 1
                    late = number > 1 and at < time - house.stream.disorder_us
                    time = max(time, at) if number > 1 else at
                    house.clock.wall_us = max(house.clock.wall_us, START + time)
                    wanted.append(expected.decide(chosen, time, rows[-1]["customer"], amount, late))
                house.send(*rows)
            elif step == "save":
                house.save()
            elif step == "restart":
                if what:
                    house.checkpoints = []
                house.start(deciding(house, **chosen))
            else:
                way = what
                chosen = WAYS[way]
                expected.use(chosen)
                house.engine.use(deciding(house, **chosen))
                house.log.sync()
        assert words(house) == wanted
        spent = house.engine.partition.tallies.to_json(START + time)
        house.checkpoints = []
        house.start(deciding(house, **chosen))
        assert house.engine.partition.tallies.to_json(START + time) == spent
    one, many = houses
    assert [(d.decision, d.rule, d.reason, d.status) for d in one.decisions()] == [
        (d.decision, d.rule, d.reason, d.status) for d in many.decisions()
    ]
    assert one.engine.partition.counters.by_reason == many.engine.partition.counters.by_reason


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 40),
)
def test_a_tally_counts_what_lies_in_its_window(steps: list[tuple[int, int]], most: int, window: int) -> None:
    tally = Tally(window)
    tally.most = most
    past: list[tuple[int, int]] = []
    now = 0
    for ahead, key in steps:
        now += ahead
        assert tally.count(key, now) == min(most, sum(k == key and t > now - window for t, k in past))
        tally.add(key, now)
        past.append((now, key))
        assert set(tally._times) == {k for t, k in past if t > now - window}, "no value is held longer"
        assert all(len(times) <= 2 * most for times in tally._times.values())
        again = Tally(window)
        again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(tally.saved(("d", window, ""))), type=SavedTally))
        assert (again._times, list(again._times)) == (tally._times, list(tally._times))
