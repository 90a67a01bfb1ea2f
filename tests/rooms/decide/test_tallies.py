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

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.spec import BudgetSpec, CounterSpec, FieldSpec, StreamSpec
from skyriver.core.units import SECOND
from skyriver.data.log import RecordKind
from skyriver.decide.decision.tallies import Tallies, Tally, budgets_beyond
from skyriver.decide.decision.trial import Trial
from skyriver.decide.log.checkpoint import SavedTally
from skyriver.decide.log.records import decode_control
from skyriver.decide.rules.reach import never_fire
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.decide.streams.checking import check_decisions

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


STREAM = StreamSpec(
    name="payments",
    fields=(FieldSpec(name="payment", type="int"), FieldSpec(name="at", type="time")),
    id="payment",
    time="at",
    key="payment",
    disorder_us=0,
    ahead_us=0,
    dedupe_us=0,
)
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


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
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


@pytest.mark.parametrize("rows", [1, 1000])
def test_rules_that_are_tried_read_counters_and_budgets_hold_for_both(make_house: Any, rows: int) -> None:
    house = make_house(block_rows=rows)
    counters, budgets = [counter("blocks", "block")], [budget("block", 2, "review")]
    chosen = deciding(house, [("block", "score >= 0.9 and blocks < 1")], counters=counters, budgets=budgets)
    tried = compile_rules(
        [("block", "blocks >= 1")], "approve", "review", house.stream, None, counters=counters, budgets=budgets
    )
    house.start(replace(chosen, trial=Trial(tried, 2, 100.0)))
    house.send(*(house.event(n, amount=95.0) for n in range(2)))
    house.engine.use(replace(chosen, trial=Trial(tried, 2, 0.0)))
    house.send(*(house.event(n, amount=95.0) for n in range(2, 4)))
    house.engine.use(replace(chosen, trial=Trial(tried, 2, 100.0)))
    house.send(*(house.event(n, amount=95.0) for n in range(4, 7)))
    found = [(d.decision, d.shadow_decision, d.reason) for d in house.decisions()]
    assert found == [
        ("approve", "block", ""),
        ("approve", "block", ""),
        ("block", "approve", ""),
        ("approve", "block", ""),
        ("block", "approve", ""),
        ("review", "approve", "BUDGET_SPENT"),
        ("review", "approve", "BUDGET_SPENT"),
    ]


def test_it_is_told_which_budgets_an_event_was_beyond(make_house: Any) -> None:
    house = make_house()
    budgets = [
        budget("block", 1, "hold"),
        budget("block", 9, "approve", by="customer"),
        budget("hold", 1, "review", per=2 * MINUTE),
        budget("other", 1, "review"),
    ]
    house.start(deciding(house, [*BLOCK, ("other", "score >= 0.8"), ("hold", "score >= 0.7")], budgets=budgets))
    house.send(*(house.event(n, at=float(n), amount=95.0) for n in range(3)))
    rules, records = house.engine.deciding.rules, list(house.decisions())
    assert words(house) == ["block", "hold", "review"]
    told = [[(own["decision"], own["most"], own["per"]) for own in budgets_beyond(rules, r)] for r in records]
    assert told == [[], [("block", 1, "1m")], [("block", 1, "1m"), ("hold", 1, "2m")]]
    by_customer = msgspec.structs.replace(records[1], decision="approve")
    assert budgets_beyond(rules, by_customer) == [
        {"decision": "block", "most": 9, "per": "1m", "by": "customer", "overflow": "approve"}
    ]


def test_what_is_declared_is_checked_at_once() -> None:
    app = sr.App("risk")

    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float
        shop: int | None = sr.field()

    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="1d")
    features = app.features("features", payments, {"amount": payments.amount})

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    model = app.model("fraud", fit)

    def refused(rules: Any = None, **given: Any) -> tuple[str, str]:
        def deploy() -> None:
            app.decide(payments, model, rules or {"block": "score >= 0.9"}, otherwise="approve", **given)
            check_decisions(app.spec)

        with pytest.raises(InvalidInput) as caught:
            deploy()
        app._decides.clear()
        return caught.value.code, caught.value.message

    def budgets(decision: str = "block", **given: Any) -> tuple[str, str]:
        return refused(budgets={decision: sr.Budget(**{"most": 5, "per": "1h", "overflow": "review", **given})})

    def counts(name: str = "blocks", **given: Any) -> tuple[str, str]:
        return refused(counters={name: sr.Count(**{"decision": "block", "over": "1d", **given})})

    assert budgets("blok") == ("BAD_BUDGET", "payments has a budget of 'blok', which nothing decides.")
    assert budgets(overflow="block")[1] == "What is beyond the budget of 'block' of payments comes back to it."
    assert budgets(most=-1) == ("BAD_BUDGET", "budget of 'block': most=-1 is less than 0.")
    assert budgets(per="500ms")[1] == "budget of 'block': per='500ms' is less than 1s."
    assert budgets(per="2000d")[1] == "budget of 'block': per='2000d' is more than 366d."
    assert budgets(per="soon")[0] == "BAD_DURATION"
    assert budgets(by="nobody")[1] == "The budget of 'block' of payments is by 'nobody', which is no field of it."
    assert budgets(by="shop")[1].endswith("is by 'shop', which may be missing or is no int or text.")
    assert refused(budgets={"block": 5})[0] == "BAD_BUDGET"
    assert refused(budgets=5)[0] == "BAD_BUDGET"
    ring = {"block": sr.Budget(5, "1h", "review"), "review": sr.Budget(5, "1h", "block")}
    assert refused(budgets=ring)[1].endswith("comes back to it.")
    assert counts(decision="blok") == (
        "BAD_COUNTER",
        "The counter blocks of payments counts 'blok', which nothing decides.",
    )
    assert counts(over="0s")[1] == "counter 'blocks': over='0us' is less than 1s."
    assert counts(most=0)[1] == "counter 'blocks': most=0 is less than 1."
    assert counts("amount")[0] == counts("score")[0] == "BAD_COUNTER"
    assert refused(counters={"blocks": 3})[0] == "BAD_COUNTER"
    assert refused({"block": "bloks >= 1"}, counters={"blocks": sr.Count("block", "1d")})[1].endswith(
        "unknown name 'bloks'; did you mean 'blocks'?"
    )
    assert refused(combine="all")[0] == "BAD_DECISION"
    assert refused(combine=sr.Strictest("block", "review"))[1] == (
        "sr.Strictest of payments names block, review, and its rules decide block."
    )
    decisions = app.decide(
        payments,
        model,
        [sr.Rule("review", "score > 0.1"), sr.Rule("block", "blocks >= 2 and score > 0.2")],
        otherwise="approve",
        budgets={"block": [sr.Budget(5, "1h", "review"), sr.Budget(0, "1d", "hold", by="customer")]},
        counters={"blocks": sr.Count("block", over="1d", by="customer", most=4)},
        combine=sr.Strictest("block", "review"),
    )
    decisions.example("block", score=0.5, blocks=2).example("review", score=0.5).example(
        "approve", score=0.05, blocks=3
    )
    assert check_decisions(app.spec) == []
    assert decisions.spec.words == {"approve", "block", "review", "hold"}
    decisions.example("block", score=0.5, blocks=1)
    with pytest.raises(InvalidInput, match="is decided 'review'"):
        check_decisions(app.spec)


@pytest.mark.parametrize(
    ("rules", "combine", "silent"),
    [
        ([("review", "seen > 3")], (), {"review"}),
        ([("review", "seen < 0")], (), {"review"}),
        ([("review", "seen is missing")], (), {"review"}),
        ([("review", "seen >= 3")], (), set()),
        ([("review", "seen >= 2"), ("block", "seen > 2")], (), {"block"}),
        ([("review", "score > 0.1"), ("block", "score > 0.5")], (), {"block"}),
        ([("review", "score > 0.1"), ("block", "score > 0.5")], ("block", "review"), set()),
        ([("review", "score > 0.6"), ("block", "score > 0.5")], ("block", "review"), {"review"}),
    ],
)
def test_rules_that_never_fire_are_told_of_as_they_are_asked(
    house: Any, rules: list[Any], combine: tuple[str, ...], silent: set[str]
) -> None:
    compiled = compile_rules(
        rules, "ok", "ok", house.stream, None, counters=[counter("seen", "block", most=3)], combine=combine
    )
    assert {name for name, _ in never_fire(compiled, house.stream)} == silent


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 9)), max_size=6), st.permutations("abc"))
def test_the_strictest_decision_of_those_that_fire_wins_by_its_first_rule(rules: list[Any], order: list[str]) -> None:
    texts = [(word, f"score * 10 >= {limit}", f"{word}{n}") for n, (word, limit) in enumerate(rules)]
    compiled = compile_rules(texts, "none", "none", STREAM, None, combine=order)
    for score in (0.0, 0.35, 0.8):
        fired = [(word, f"{word}{n}") for n, (word, limit) in enumerate(rules) if score * 10 >= limit]
        expected = min(fired, key=lambda end: order.index(end[0]), default=("none", ""))
        assert compiled.ends[compiled.decide(score, (), [])] == expected


def test_the_digest_has_all_that_decides_and_is_as_before_without(house: Any) -> None:
    def digest(**bounds: Any) -> str:
        return compile_rules([("block", "score > 0.5")], "ok", "ok", house.stream, None, **bounds).digest

    bounds: list[dict[str, Any]] = [
        {},
        {"budgets": [budget("block", 1, "ok")]},
        {"budgets": [budget("block", 2, "ok")]},
        {"counters": [counter("seen", "block")]},
        {"combine": ("block",)},
    ]
    assert len({digest(**own) for own in bounds}) == len(bounds)
    assert digest(budgets=[], counters=[], combine=()) == digest()


def test_a_log_that_gave_up_what_budgets_look_back_to_is_not_recovered_without_a_checkpoint(make_house: Any) -> None:
    house = make_house(block_rows=1000)
    house.store.part_records = 4
    chosen = deciding(house, BLOCK, budgets=[budget("block", 1, "review", per=3600 * SECOND)])
    house.start(chosen)
    for n in range(6):
        house.clock.pass_(10 * SECOND)
        house.send(house.event(n, at=10.0 * n, amount=95.0))
    house.save()
    house.engine.use(chosen)
    house.log.sync()
    assert house.log.remove_before(house.log.parts()[-1].end) > 0
    house.start(chosen)
    house.send(house.event(9, at=60.0, amount=95.0))
    assert house.decisions()[-1].decision == "review", "the checkpoint has it"
    house.checkpoints = []
    with pytest.raises(Conflict) as caught:
        house.start(chosen)
    assert caught.value.code == "HISTORY_GONE"


def test_who_is_forgotten_is_counted_for_all_and_no_more_for_itself() -> None:
    tallies = Tallies(STREAM)
    tallies.use([budget("block", 9, "review"), budget("block", 2, "review", by="payment")], [])
    for now in range(3):
        for who in (7, 8):
            tallies.note("block", tallies.keys_of([who, 0]), now)
    tallies.forget("payment", 7)
    assert [told["spent"] for told in tallies.to_json(3)] == [6, None]
    again = Tallies(STREAM, tallies.saved())
    again.use([budget("block", 9, "review"), budget("block", 2, "review", by="payment")], [])
    for each in (tallies, again):
        assert each.spend("block", each.keys_of([8, 0]), 3) == "review"
        assert each.spend("block", each.keys_of([7, 0]), 3) == "block"


def test_what_is_told_while_other_budgets_are_taken_up_is_whole() -> None:
    told: list[list[str]] = []

    class Watched(Tallies):
        """Told at each change of it, as another thread may."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "_budgets":
                told.append([own["decision"] for own in self.to_json(START)])

    Watched(STREAM).use([budget("block", 5, "review"), budget("review", 7, "approve")], [])
    assert told == [[], ["block", "review"]], "none before, then all"
