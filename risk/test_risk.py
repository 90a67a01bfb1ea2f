"""The application without a cloud: its functions are plain functions, its declaration is data. Run `pytest` here."""

from __future__ import annotations

import numpy as np
from risk import app, fit

import skyriver as sr

FEATURES = app.spec.feature_set("behaviour").names


def test_a_payment_has_the_fields_that_are_declared() -> None:
    stream = app.spec.stream("payments")
    assert [f.name for f in stream.fields] == ["payment", "at", "customer", "terminal", "amount"]
    assert (stream.id, stream.time, stream.key) == ("payment", "at", "customer")
    assert stream.field("amount").ge == 0


def test_nineteen_features_and_none_is_the_truth_itself() -> None:
    assert len(FEATURES) == 19
    assert "fraud" not in FEATURES


def test_the_model_has_a_gate_and_something_is_decided() -> None:
    assert [rule.metric for rule in app.spec.model("fraud").gate.rules] == ["average_precision"]
    decide = app.spec.decides[0]
    assert ([rule.decision for rule in decide.rules], decide.otherwise) == (["block", "review"], "approve")


def test_fit_learns_what_is_unusual() -> None:
    luck = np.random.default_rng(0)
    x = luck.exponential(1.0, (4_000, len(FEATURES))).astype(np.float32)
    y = (x[:, FEATURES.index("amount_to_mean_7d")] > 2.0).astype(np.float32)
    data = sr.TrainingData(x, y, FEATURES, np.zeros(len(y), dtype=np.int64), params={"trees": 20})
    scores = fit(data).predict(x)
    assert scores[y == 1].mean() > scores[y == 0].mean() + 0.3
