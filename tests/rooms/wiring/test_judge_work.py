"""The look for quality: which decisions of a stream's tables it judges, by which labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.spec import FieldSpec, GateRule, GateSpec, LabelSpec, ModelSpec, StreamSpec, TrainSpec
from skyriver.train.metrics import average_precision, roc_auc
from skyriver.wiring.home import Home
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.judge import metric_of, work

ROWS, DELAY, WINDOW = 8_000, 2_000, 4_000
STREAM = StreamSpec(
    name="orders",
    fields=(FieldSpec(name="order", type="int"), FieldSpec(name="at", type="time")),
    id="order",
    time="at",
    key="order",
    labels=(LabelSpec(name="bad", delay_us=DELAY), LabelSpec(name="other", delay_us=0)),
)
RNG = np.random.default_rng(5)
Y = (RNG.random(ROWS) < 0.1).astype(float)
GOOD = RNG.normal(2.5 * Y, 1).astype(np.float32)
NOISE = RNG.normal(size=ROWS).astype(np.float32)


def job(home: Path, rules: tuple[GateRule, ...] = (), **inputs: Any) -> Job:
    train = TrainSpec(function="fit", features="f", label="bad")
    model = ModelSpec(name="risk", train=train, gate=GateSpec(rules=rules))
    asked = {
        "version": 2,
        "stream": "orders",
        "window_us": WINDOW,
        "metrics": {"average_precision": average_precision(Y, GOOD), "auc": roc_auc(Y, GOOD)},
        "intervals": {"average_precision": [0.6, 0.75], "auc": [0.94, 0.97]},
        "test": [0, 9, 1_000, 100],
        "tolerance": 0.02,
        "looks": 4,
    }
    found: Any = SimpleNamespace(
        home=Home(home),
        target="risk",
        table=lambda name: f"acme/{name}",
        inputs=asked | inputs,
        app=SimpleNamespace(model=lambda name: model, stream=lambda name: STREAM),
    )
    return cast(Job, found)


def decided(home: Path, scores: np.ndarray, *, labels: bool = True) -> None:
    """Events at 10, 20, ...; version 1 decided the first 3,000, one of a hundred was late, one fell back."""
    tables, order = DeltaTables(Home(home).tables), np.arange(ROWS)
    events = {"order": order, "at": order, "_offset": order * 10, "_effective": order, "_late": order % 100 == 7}
    tables.append("acme/orders", [pl.DataFrame(events)], offset=ROWS * 10, known=None)
    decisions = {
        "_offset": order * 10 + 1,
        "event_offset": order * 10,
        "status": np.where(order % 100 == 7, "late", np.where(order % 100 == 8, "fallback", "decided")),
        "score": scores.astype(np.float64),
        "model": ["risk"] * ROWS,
        "version": np.where(order < 3_000, 1, 2),
    }
    tables.append("acme/orders.decisions", [pl.DataFrame(decisions)], offset=ROWS * 10, known=None)
    if not labels:
        return
    bad = np.flatnonzero(Y)
    told = pl.DataFrame(
        {
            "_offset": np.concatenate([bad * 10 + 2, bad * 10 + 3, bad * 10 + 4]),
            "label": ["bad"] * (2 * len(bad)) + ["other"] * len(bad),
            "subject": np.concatenate([bad] * 3),
            "value": [0.0] * len(bad) + [1.0] * len(bad) + [0.0] * len(bad),
        }
    )
    tables.append("acme/orders.labels", [told], offset=ROWS * 10, known=None)


def test_what_the_version_decided_in_the_last_window_with_labels(tmp_path: Path) -> None:
    decided(tmp_path, GOOD)
    found = work(job(tmp_path))
    judged = [n for n in range(3_000, ROWS - DELAY) if n % 100 not in (7, 8)]
    assert (found["rows"], found["positives"]) == (len(judged), int(Y[judged].sum())), "the last label of each counts"
    assert (found["worse"], found["looks"], found["metric"]) == (False, 5, "average_precision")
    assert found["value"] == pytest.approx(average_precision(Y[judged], GOOD[judged]), abs=0.02)


def test_one_that_knows_nothing_any_more_is_worse(tmp_path: Path) -> None:
    decided(tmp_path, np.where(np.arange(ROWS) < 3_000, GOOD, NOISE))
    found = work(job(tmp_path))
    assert found["worse"] is True
    assert "it is worse" in found["message"]
    by_auc = work(
        job(tmp_path, (GateRule(metric="log_loss", op="<=", value=1), GateRule(metric="auc", op=">=", value=0.1)))
    )
    assert (by_auc["metric"], by_auc["worse"]) == ("auc", True)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"version": 3}, "Of 0 rows with known labels 0 are positive"),
        ({"window_us": 20}, "30 are needed"),
        ({"intervals": {}}, "not known well enough"),
        ({"metrics": {}}, "not known well enough"),
        ({"test": []}, "not known well enough"),
    ],
    ids=range(5),
)
def test_what_cannot_be_told_is_said_and_costs_no_chance(tmp_path: Path, inputs: dict[str, Any], why: str) -> None:
    decided(tmp_path, GOOD)
    found = work(job(tmp_path, **inputs))
    assert (found["worse"], found["looks"]) == (None, 4)
    assert why in found["message"]
    assert found["value"] is None


def test_tables_that_are_not_there_yet(tmp_path: Path) -> None:
    assert work(job(tmp_path))["rows"] == 0
    decided(tmp_path, GOOD, labels=False)
    found = work(job(tmp_path))
    assert (found["positives"], found["worse"]) == (0, None)


def test_the_metric_is_the_first_of_the_gate_that_can_be_judged() -> None:
    assert metric_of(GateSpec()) == "average_precision"
