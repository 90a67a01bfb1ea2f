"""Rules that are tried beside those that decide: what records tell of them, for which keys they decide, what counts."""

from __future__ import annotations

from collections import Counter
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
from skyriver.decide.decision.scoring import in_canary
from skyriver.decide.decision.trial import Ends, Trial
from skyriver.decide.log.checkpoint import Checkpoint
from skyriver.decide.log.records import decode_control
from skyriver.decide.rules.ruleset import RuleSet, compile_rules

House = Any
TRIED = [("hold", "score >= 0.7", "likely"), ("block", "amount > 400")]


def tried(house: House, percent: float, number: int = 2) -> Trial:
    return Trial(compile_rules(TRIED, "approve", "review", house.stream, None), number, percent)


def deciding(house: House, percent: float, **changes: Any) -> Any:
    return replace(house.deciding(), trial=tried(house, percent), rules_version=1, **changes)


def send(house: House, rows: int, first: int = 0, count: int = 200) -> None:
    house.engine._block_rows = rows
    house.send(*(house.event(n, customer=n % 20, amount=float(n % 100)) for n in range(first, first + count)))


@pytest.mark.parametrize("rows", [1, 10_000])
def test_a_shadow_tells_what_it_would_have_decided_and_decides_nothing(make_house: Any, rows: int) -> None:
    house = make_house()
    house.start(deciding(house, 0.0))
    amounts = [10.0, 75.0, 95.0, 13.0, 500.0]
    house.engine._block_rows = rows
    house.send(*(house.event(n, customer=n, amount=amount) for n, amount in enumerate(amounts)))
    house.send(house.event(9, at=-60.0))
    live, trial = house.engine.deciding.rules.digest, house.engine.deciding.trial.rules.digest
    assert [(d.decision, d.rule, d.shadow_decision) for d in house.decisions()] == [
        ("approve", "", "approve"),
        ("approve", "", "hold"),
        ("block", "block", "hold"),
        ("review", "", "review"),
        ("block", "block", "hold"),
        ("review", "", ""),
    ]
    assert {d.rules_digest for d in house.decisions()} == {live}
    assert [d.shadow_rules for d in house.decisions()] == [trial] * 5 + [""], "no rule sees a late event"


@pytest.mark.parametrize("rows", [1, 10_000])
def test_a_key_stays_with_its_rules_and_the_record_says_which(make_house: Any, rows: int) -> None:
    house = make_house()
    house.start(deciding(house, 40.0))
    send(house, rows)
    trial = house.engine.deciding.trial
    expected = in_canary(np.arange(20, dtype=np.int64), trial.salt, 40.0)
    assert 0 < expected.sum() < 20
    for d in house.decisions():
        mine, other = ("hold" if d.id % 100 > 70 else "approve"), ("block" if d.id % 100 > 90 else "approve")
        if d.reason:
            mine = other = "review"
        taken = bool(expected[d.id % 20])
        assert (d.decision, d.shadow_decision) == ((mine, other) if taken else (other, mine))
        digests = (trial.rules.digest, house.engine.deciding.rules.digest)
        assert (d.rules_digest, d.shadow_rules) == (digests if taken else digests[::-1])
        assert d.rule == ({"hold": "likely", "block": "block"}.get(d.decision, ""))
        assert d.arm == "", "the arm is the model's"
    control = decode_control(house.records(RecordKind.CONTROL)[-1].payload)
    assert control.rules_version == 1
    assert control.trial == trial.in_use()


def test_rules_take_other_keys_than_a_model_of_their_number() -> None:
    keys = np.arange(100_000, dtype=np.int64)
    rules = RuleSet((), "a", "b", (), "d", False, ())
    model, trial = in_canary(keys, 2, 20), in_canary(keys, Trial(rules, 2, 20.0).salt, 20.0)
    assert abs((model & trial).mean() - 0.04) < 0.004
    assert np.flatnonzero(in_canary(np.arange(60, dtype=np.int64), Trial(rules, 2, 20.0).salt, 20.0)).tolist() == PINNED


PINNED = [3, 6, 7, 11, 13, 14, 22, 34, 40, 42, 49, 53, 54, 56]


def said(house: House) -> dict[str, Counter[tuple[str, str]]]:
    """By the records, (released, tried) by who decided."""
    live, trial = house.engine.deciding.rules.digest, house.engine.deciding.trial.rules.digest
    counts: dict[str, Counter[tuple[str, str]]] = {"live": Counter(), "trial": Counter()}
    for d in house.decisions():
        if (d.rules_digest, d.shadow_rules) == (live, trial):
            counts["live"][d.decision, d.shadow_decision] += 1
        elif d.shadow_rules:
            counts["trial"][d.shadow_decision, d.decision] += 1
    return counts


def counted(house: House) -> dict[str, Counter[tuple[str, str]]]:
    told = house.engine.trials.to_json()
    return {who: Counter({(a, b): n for a, b, n in rows}) for who, rows in told["said"].items()}


@pytest.mark.parametrize("rows", [1, 10_000])
@pytest.mark.parametrize("saved", [False, True])
def test_what_was_compared_is_known_after_a_restart(make_house: Any, rows: int, saved: bool) -> None:
    house = make_house()
    house.start(deciding(house, 40.0))
    send(house, rows)
    if saved:
        house.save()
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(house.checkpoints[0]), type=Checkpoint)
        house.checkpoints[0] = again
    send(house, rows, 200)
    before = counted(house)
    assert before == said(house)
    assert sum(before["live"].values()) + sum(before["trial"].values()) == 400
    house.start(deciding(house, 40.0))
    assert counted(house) == before
    send(house, rows, 400)
    assert counted(house) == said(house)
    house.start(deciding(house, 60.0))
    assert counted(house) == {"live": Counter(), "trial": Counter()}, "another share counts anew"
    house.start(house.deciding())
    assert house.engine.trials.to_json() is None
    send(house, rows, 600, 10)
    assert [d.shadow_rules for d in house.decisions()[-10:]] == [""] * 10


def test_the_same_words_by_other_rules_are_told_apart(make_house: Any) -> None:
    """Each end with each word of the others stands once, and of a late event there is one."""
    house = make_house()
    rules, trial = house.deciding().rules, tried(house, 10.0)
    ends = Ends(rules, trial)
    assert len(ends.all) == 3 * 4 + 4 * 3 + 1
    for live in range(3):
        for other in range(4):
            for taken in (False, True):
                place = ends.of(live, other, taken)
                assert ends.of_columns(np.array([live]), np.array([other]), np.array([taken])).tolist() == [place]
                own, beside = (trial.rules, rules) if taken else (rules, trial.rules)
                at, by = (other, live) if taken else (live, other)
                assert ends.all[place] == (*own.ends[at], own.digest, beside.ends[by][0], beside.digest)
    assert ends.all[-1] == ("review", "", rules.digest, "", "")


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 20),  # seconds after the one before
        st.sampled_from([10.0, 14.0, 91.0, 95.0]),
        st.integers(0, 3),  # customer
    ),
    min_size=1,
    max_size=30,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(EVENTS, st.sampled_from([0.0, 40.0, 100.0]), st.booleans(), st.booleans())
def test_what_is_counted_and_spent_is_so_for_both(
    make_house: Any, sent: list[Any], percent: float, same: bool, counting: bool
) -> None:
    """Alone and in blocks, with budgets and counters; and the same rules under other names never differ."""
    when = "score >= 0.9 and seen < 2" if counting else "score >= 0.9"
    texts = [("block", when, "other" if same else "tried")] if same else [("hold", when), ("block", "amount > 90")]
    bounds: dict[str, Any] = {
        "budgets": [
            BudgetSpec(decision="block", most=2, per_us=60 * SECOND, overflow="call"),
            BudgetSpec(decision="call", most=1, per_us=60 * SECOND, overflow="review"),
        ],
        "counters": [CounterSpec(name="seen", decision="block", over_us=60 * SECOND, by="customer", most=10)],
    }
    found = []
    for rows in (1, 10_000):
        house = make_house()
        live, other = (
            compile_rules(rules, "approve", "review", house.stream, None, **bounds)
            for rules in ([("block", when)], texts)
        )
        house.start(replace(house.deciding(), rules=live, trial=Trial(other, 2, percent), rules_version=1))
        house.engine._block_rows = rows
        at = 0.0
        events = []
        for number, (ahead, amount, customer) in enumerate(sent):
            at += ahead
            events.append(house.event(number, at=at, customer=customer, amount=amount))
        house.clock.pass_(round(at * SECOND))
        house.send(*events)
        counts = counted(house)
        assert counts == said(house)
        assert sum(sum(of.values()) for of in counts.values()) == len(sent)
        if same:
            assert all(one == another for of in counts.values() for one, another in of)
        found.append(house.decisions())
    assert found[0] == found[1]
