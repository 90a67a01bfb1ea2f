"""What rules, reasons and probabilities take and are worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import _payments
import lightgbm
import numpy as np
from numpy.typing import NDArray

import skyriver as sr
from skyriver.core.spec import ModelSpec, TrainSpec
from skyriver.core.units import DAY
from skyriver.data.columns import Columns
from skyriver.decide.decision.reasons import Explainer
from skyriver.decide.decision.scorer import OnnxScorer
from skyriver.decide.rules.columns import Rows, compiled, first_that_fires
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.train.evaluate import calibration_of, score
from skyriver.train.metrics import calibration_error
from skyriver.train.run import train
from skyriver.train.split import Rows as TrainingRows
from skyriver.train.split import split_rows
from skyriver.train.trees_onnx import read_lightgbm, to_onnx

if TYPE_CHECKING:
    from decisions import Bench

RULES = 50
EVENTS = 20_000
SHAPES = (
    "score >= {high:.4f}",
    "score >= {high:.4f} and amount > {more}",
    "amount > {much} and {feature} > {more}",
    "{feature} is missing",
    "score >= {high:.4f} and (amount > {more} or {feature} > {more})",
    "amount / {feature} > {more} and score > {high:.4f}",
    "not {feature} < {more} and amount >= {much}",
)
"""None of them fires: all fifty are asked."""
EXPLAINED = 2_000
DELAY_DAYS, HELD_OUT_DAYS = 7, 30
TRAININGS: dict[str, dict[str, Any]] = {
    "by log loss": {},
    "weighted, to rank a rare class": {"is_unbalance": True},
}


def microseconds(call: Callable[[], object], events: int, times: int = 5) -> float:
    """CPU time an event, the least of some runs."""
    taken = []
    for _ in range(times + 1):
        begun = time.process_time()
        call()
        taken.append((time.process_time() - begun) / events * 1e6)
    return round(min(taken[1:]), 3)


def measure_rules(bench: Bench) -> None:
    app = _payments.declare()
    stream, features = app.streams[0], app.feature_sets[0]
    names = [feature.name for feature in features.features]
    texts = [
        (
            f"d{n}",
            SHAPES[n % len(SHAPES)].format(high=0.99 + n / 1e4, more=900 + n, much=5000 + n, feature=names[n % 12]),
        )
        for n in range(RULES)
    ]
    rules = compile_rules(texts, "approve", "review", stream, features)
    luck = np.random.default_rng(0)
    vectors = luck.gamma(2, 10, (EVENTS, len(names))).astype(np.float32)
    scores = 0.9 * luck.random(EVENTS).astype(np.float32)
    events = [[n, n, 1, 2, amount] for n, amount in enumerate(luck.gamma(2.0, 25.0, EVENTS).tolist())]
    alone = list(zip(scores.tolist(), vectors.tolist(), events, strict=True))
    row = microseconds(lambda: [rules.decide(*event) for event in alone], EVENTS)
    figures = {"one_by_one_us": row}
    closures = [evaluate for _, evaluate in rules.rules]
    figures["closures_us"] = microseconds(
        lambda: [next((f for f in closures if f(*event, None) is True), None) for event in alone], EVENTS, 2
    )
    worst = row
    for size in (20, 200, 2_000):
        given = Rows(scores[:size].astype(np.float64), vectors[:size], Columns.of_rows(stream.fields, events[:size]))
        times = EVENTS // size

        def run(given: Rows = given, times: int = times) -> None:
            for _ in range(times):
                rules.decide_columns(given)

        def by_columns(given: Rows = given, times: int = times) -> None:
            for _ in range(times):
                first_that_fires(compiled(rules.trees), given)

        figures[f"block_of_{size}_us"] = microseconds(run, EVENTS, 2)
        figures[f"columns_of_{size}_us"] = microseconds(by_columns, EVENTS, 1)
        worst = max(worst, figures[f"block_of_{size}_us"])
    bench.document.row("skyriver", f"{RULES} rules, none of which fires", **figures)
    bench.document.measured("rules_us_50", worst, note="the slowest of one by one and blocks of 20, 200 and 2,000")


def measure_reasons(bench: Bench) -> None:
    found = [_explained(bench, features) for features in (12, 20)]
    bench.document.measured(
        "reasons_us", max(own for own, _ in found), note="CPU time, of the slower of 12 and 20 features"
    )
    bench.document.measured(
        "reasons_difference", max(differs for _, differs in found), note="from pred_contrib, the largest of all"
    )


def _explained(bench: Bench, features: int) -> tuple[float, float]:
    """What reasons take an event, and by how much they differ from LightGBM's contributions."""
    luck = np.random.default_rng(features)
    x = luck.lognormal(2, 1, (50_000, features)).astype(np.float32)
    x[luck.random(x.shape) < 0.05] = np.nan
    known = np.nan_to_num(x)
    y = (known[:, 0] * luck.random(len(x)) > known[:, 3] + 0.1 * known[:, 5]).astype(np.float32)
    settings = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1, "seed": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), 100)
    data = to_onnx(read_lightgbm(booster.model_to_string()))
    begun = time.process_time()
    explainer = Explainer.load(data, [f"f{n}" for n in range(features)], bench.folder / "kernels")
    loading = round((time.process_time() - begun) * 1e3)
    rows = x[:EXPLAINED]
    records = [row.tobytes() for row in rows]
    path = bench.folder / f"model-{features}.onnx"
    path.write_bytes(data)
    scorer = OnnxScorer.load(path, features, bench.folder / "kernels")
    own = microseconds(lambda: [explainer.reasons(record) for record in records], EXPLAINED)
    case = f"100 trees of 31 leaves, {features} features"
    bench.document.row(
        "skyriver",
        case,
        reasons_us=own,
        contributions_us=microseconds(lambda: [explainer.explain(record) for record in records], EXPLAINED),
        score_us=microseconds(lambda: [scorer.score(rows[n : n + 1]) for n in range(EXPLAINED)], EXPLAINED),
        first_ms=loading,
    )
    bench.document.row(
        "lightgbm",
        case,
        pred_contrib_one_row_us=microseconds(
            lambda: [booster.predict(rows[n : n + 1], pred_contrib=True, num_threads=1) for n in range(200)], 200, 2
        ),
        pred_contrib_many_rows_us=microseconds(
            lambda: booster.predict(rows, pred_contrib=True, num_threads=1), EXPLAINED, 2
        ),
    )
    expected = np.asarray(booster.predict(rows, pred_contrib=True))[:, :-1]
    found = np.array([explainer.explain(record).contributions for record in records])
    return own, float(np.abs(found - expected).max())


def measure_calibration(bench: Bench) -> None:
    app, days = _payments.declare(), bench.sizes.days
    payments = _payments.handbook(days, customers=bench.sizes.customers, terminals=2 * bench.sizes.customers)
    x = _payments.features(app, payments, bench.folder / "kernels")
    x = np.column_stack([x, payments["amount"].to_numpy().astype(np.float32)])
    rows = TrainingRows(
        (*_payments.NAMES, "amount"),
        x,
        payments["fraud"].to_numpy().astype(np.float32),
        payments["at"].to_numpy(),
        payments["payment"].to_numpy(),
        {},
    )
    spec = TrainSpec(function="fit", features="behaviour", label="fraud", test_us=HELD_OUT_DAYS * DAY)
    ratio = 1.0
    for name, more in TRAININGS.items():
        ratio = _calibrated(bench, name, spec, rows, more)
    bench.document.measured(
        "calibration_error_ratio",
        round(ratio, 4),
        note="of the weighted training; one by log loss gives probabilities as it is: see its row",
    )


def _calibrated(bench: Bench, name: str, spec: TrainSpec, rows: TrainingRows, more: dict[str, Any]) -> float:
    """The error of probabilities by that of scores, on the last month."""

    def fit(data: sr.TrainingData) -> lightgbm.Booster:
        settings = {"objective": "binary", "num_leaves": 31, "min_data_in_leaf": 200, "verbose": -1, **more}
        return lightgbm.train(settings, lightgbm.Dataset(data.x, data.y), 100)

    model = ModelSpec(name="fraud", train=spec)
    quiet: Callable[..., None] = lambda *_: None  # noqa: E731
    delay = DELAY_DAYS * DAY
    found = train(model, rows, fit, delay_us=delay, params={}, seed=0, champion=None, progress=quiet)
    metrics, calibration = found.metrics, calibration_of(found.onnx)
    assert calibration is not None
    split = split_rows(spec, rows, delay, validate=True)
    probabilities = calibration.of(score(found.onnx, rows.x[split.test]))
    bench.document.row(
        "skyriver",
        f"calibration, a model trained {name}",
        method=found.calibrated.method,
        fitted_on_positives=found.calibrated.positives,
        **{key: round(metrics[key], 6) for key in sorted(metrics) if key.startswith(("calibration_error", "brier"))},
        error_of_true_probabilities=round(_by_chance(probabilities), 6),
        one_us=microseconds(lambda: [calibration.of(probabilities[n : n + 1]) for n in range(2_000)], 2_000),
        of_1000_us=microseconds(lambda: [calibration.of(probabilities[:1_000]) for _ in range(20)], 20_000),
    )
    return metrics["calibration_error_calibrated"] / metrics["calibration_error"]


def _by_chance(probabilities: NDArray[np.float32]) -> float:
    """The error that these would have if they were the truth: what so few rows can tell."""
    errors = []
    for seed in range(5):
        drawn = np.random.default_rng(seed).random(len(probabilities)) < probabilities
        errors.append(calibration_error(drawn.astype(np.float32), probabilities))
    return float(np.mean(errors))
