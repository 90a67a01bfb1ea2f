"""The application without a cloud: its functions are plain functions, its declaration is data. Run `pytest` here."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from diagnosis import MEASURES, app, fit

import skyriver as sr

with Path(__file__).with_name("biopsies.csv").open() as file:
    ROWS = list(csv.DictReader(file))


def test_the_file_has_the_columns_that_are_declared() -> None:
    assert set(ROWS[0]) == {f.name for f in app.spec.tables[0].fields}
    assert len(MEASURES) == 30


def test_the_model_has_a_gate() -> None:
    rules = app.spec.model("malignancy").gate.rules
    assert {rule.metric: rule.value for rule in rules} == {"auc": 0.97, "average_precision": 0.95}


def test_fit_tells_malignant_from_benign() -> None:
    x = np.array([[row[name] for name in MEASURES] for row in ROWS], dtype=np.float32)
    y = np.array([row["malignant"] for row in ROWS], dtype=np.float32)
    data = sr.TrainingData(x, y, tuple(MEASURES), np.zeros(len(y), dtype=np.int64))
    right = (fit(data).predict(x) >= 0.5) == (y == 1)
    assert right.mean() > 0.95
