"""A model is waited for until its deadline, and one that is late again and again is put aside."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from skyriver.data.decisions import Reason
from skyriver.decide.decision import model_run
from skyriver.decide.decision.model_run import (
    ASIDE_US,
    ENDED_ASIDE_US,
    HUNG_US,
    LATE_LIMIT,
    REASONS,
    ModelRun,
    score_rows,
)
from skyriver.decide.decision.scorer import Ended

DEADLINE_US = 20_000
PATIENCE = 60.0


class Gated:
    """score = the first feature, once the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.runs = 0
        self.to_end = False

    def end(self) -> None:
        self.to_end = True
        self.gate.set()

    def score(self, features: Any) -> Any:
        self.runs += 1
        self.began.release()
        assert self.gate.wait(PATIENCE)
        if self.to_end:
            self.to_end = False
            raise Ended
        if (features[:, 0] == 13).any():
            raise RuntimeError("unlucky")
        self.ended.release()
        return features[:, 0]


class Hand:
    def __init__(self) -> None:
        self.us = 1_000_000

    def now(self) -> int:
        return self.us


def rows(*values: float) -> Any:
    return np.array([[v] for v in values], np.float32)


def reasons(found: Any) -> list[Reason]:
    return [REASONS[code] for code in found[1].tolist()]


def test_in_time_it_scores_as_without_a_deadline() -> None:
    model = Gated()
    run = ModelRun(model, 30_000_000, Hand().now)
    scores, why = run.run(rows(1, 13, np.nan, 4))
    assert scores.tolist()[::3] == [1.0, 4.0]
    assert [REASONS[code] for code in why] == ["", "MODEL_FAILED", "SCORE_NOT_FINITE", ""]
    assert run.run_us.count == 1


def test_a_late_result_is_dropped_and_the_next_one_is_its_own() -> None:
    model, hand = Gated(), Hand()
    run = ModelRun(model, DEADLINE_US, hand.now)
    model.gate.clear()
    assert reasons(run.run(rows(1, 2))) == [Reason.MODEL_LATE] * 2
    assert (waited := run.waited_us) >= 0.9 * DEADLINE_US
    assert model.began.acquire(timeout=PATIENCE)
    assert reasons(run.run(rows(3))) == [Reason.MODEL_LATE], "it is not asked while it runs"
    assert run.waited_us == waited, "and not waited for"
    assert model.runs == 1
    model.gate.set()
    assert model.ended.acquire(timeout=PATIENCE)
    found = run.run(rows(7))
    while reasons(found) == [Reason.MODEL_LATE]:  # a slow machine; what was late never comes back as another's
        hand.us += ASIDE_US + 1
        found = run.run(rows(7))
    assert found[0].tolist() == [7.0]


def test_late_again_and_again_it_is_put_aside_for_a_time() -> None:
    model, hand = Gated(), Hand()
    run = ModelRun(model, DEADLINE_US, hand.now)
    for _ in range(LATE_LIMIT):
        model.gate.clear()
        assert reasons(run.run(rows(1))) == [Reason.MODEL_LATE]
        model.gate.set()
        assert model.ended.acquire(timeout=PATIENCE)
        assert run._late is not None
        assert run._late.done.wait(PATIENCE)
    assert reasons(run.run(rows(1))) == [Reason.MODEL_ASIDE]
    assert run.aside_us == ASIDE_US
    assert (model.runs, run.late_runs) == (LATE_LIMIT, LATE_LIMIT)
    hand.us += ASIDE_US
    assert reasons(run.run(rows(1)))[0] in (Reason.NONE, Reason.MODEL_LATE), "it is asked again"
    for _ in range(LATE_LIMIT + 1):  # on its thread, perhaps only after its deadline
        assert model.began.acquire(timeout=PATIENCE)
    assert model.runs == LATE_LIMIT + 1


def test_one_that_hangs_is_put_aside_without_another_deadline() -> None:
    model, hand = Gated(), Hand()
    run = ModelRun(model, DEADLINE_US, hand.now)
    model.gate.clear()
    run.run(rows(1))
    hand.us += HUNG_US
    assert reasons(run.run(rows(1))) == [Reason.MODEL_LATE]
    assert reasons(run.run(rows(1))) == [Reason.MODEL_ASIDE]
    model.gate.set()


@pytest.fixture
def _short_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_run, "CEILING_S", 1.0)  # what is not held up has to end within it
    monkeypatch.setattr(model_run, "LOOK_S", 0.01)


@pytest.mark.usefixtures("_short_ceiling")
@pytest.mark.parametrize("count", [1, 7])
def test_a_run_without_end_is_ended_and_the_model_put_aside(count: int) -> None:
    model, hand = Gated(), Hand()
    run = ModelRun(model, 0, hand.now)
    assert reasons(run.run(rows(1))) == [Reason.NONE]
    model.gate.clear()
    assert reasons(run.run(rows(*range(count)))) == [Reason.MODEL_LATE] * count
    assert (run.aside_us, run.late_runs, model.runs) == (ENDED_ASIDE_US, 1, 2)
    assert reasons(run.run(rows(1, 2))) == [Reason.MODEL_ASIDE] * 2
    hand.us += ENDED_ASIDE_US
    assert reasons(run.run(rows(1))) == [Reason.NONE]
    assert run.aside_us == 0


@pytest.mark.usefixtures("_short_ceiling")
def test_a_late_run_without_end_is_ended_too() -> None:
    model, hand = Gated(), Hand()
    run = ModelRun(model, 1_000, hand.now)
    model.gate.clear()
    assert reasons(run.run(rows(1))) == [Reason.MODEL_LATE]
    assert run._late is not None
    assert run._late.done.wait(PATIENCE)
    assert run.aside_us == ENDED_ASIDE_US
    assert reasons(run.run(rows(1))) == [Reason.MODEL_ASIDE]


def test_a_run_that_was_over_when_it_was_to_be_ended_costs_the_next_one_its_score_and_no_more() -> None:
    model = Gated()
    run = ModelRun(model, 0, Hand().now)
    model.end()
    assert reasons(run.run(rows(1, 2))) == [Reason.MODEL_LATE] * 2
    assert run.aside_us == 0
    assert reasons(run.run(rows(1, 2))) == [Reason.NONE] * 2


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_one_bad_row_costs_no_other_its_score(count: int) -> None:
    model = Gated()
    for bad in range(count):
        model.runs = 0
        values = [float(n) + 20 for n in range(count)]
        values[bad] = 13.0
        scores, why = score_rows(model, rows(*values))
        assert [REASONS[code] for code in why.tolist()].count(Reason.MODEL_FAILED) == 1
        assert np.isnan(scores[bad])
        assert np.delete(scores, bad).tolist() == np.delete(values, bad).tolist()
        assert model.runs <= 1 + 2 * int(np.ceil(np.log2(count)) if count > 1 else 0)
