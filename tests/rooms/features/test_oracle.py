"""Features against an oracle that shares no code with them: the definitions of DESIGN 6 written down in SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.features.backfill import Backfill, backfill
from skyriver.features.plan import FeaturePlan, plan_features

HOUR = 3_600_000_000
DAY = 24 * HOUR
START = 1_735_689_600_000_000  # 2025-01-01, a Wednesday
DISORDER = 2 * HOUR
WINDOWS = {"6h": 6 * HOUR, "1d": DAY, "3d": 3 * DAY}
DELAYS = {"fraud": 2 * DAY, "complaint": 0}


class Payment(sr.Event):
    payment: str
    at: sr.Time
    customer: int
    shop: str
    cashier: str | None
    amount: float
    tip: float | None


@pytest.fixture(scope="module")
def plan() -> FeaturePlan:
    app = sr.App("oracle")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer", disorder="2h")
    fraud = app.labels("fraud", of=payments, delay="2d")
    complaint = app.labels("complaint", of=payments, delay="0us")
    features: dict[str, object] = {
        "amount": payments.amount,
        "tip_share": payments.tip / payments.amount,
        "night": payments.at.hour() <= 6,
        "weekend": payments.at.weekday() >= 5,
        "month": payments.at.month(),
        "day": payments.at.day(),
    }
    for by in ("customer", "shop"):
        for over in WINDOWS:
            features[f"{by}_{over}_count"] = sr.count(by=by, over=over)
            features[f"{by}_{over}_amount_sum"] = sr.sum("amount", by=by, over=over)
            features[f"{by}_{over}_tip_mean"] = sr.mean("tip", by=by, over=over)
            features[f"{by}_{over}_fraud_count"] = sr.count(fraud, by=by, over=over)
            features[f"{by}_{over}_fraud_mean"] = sr.mean(fraud, by=by, over=over)
            features[f"{by}_{over}_complaint_sum"] = sr.sum(complaint, by=by, over=over)
            features[f"{by}_{over}_complaint_std"] = sr.std(complaint, by=by, over=over)
            features[f"{by}_{over}_tip_std"] = sr.std("tip", by=by, over=over)
            features[f"{by}_{over}_tip_min"] = sr.minimum("tip", by=by, over=over)
            features[f"{by}_{over}_amount_max"] = sr.maximum("amount", by=by, over=over)
            features[f"{by}_{over}_tip_last"] = sr.last("tip", by=by, over=over)
            features[f"{by}_{over}_since"] = sr.since(by=by, over=over)
            features[f"{by}_{over}_cashiers"] = sr.distinct("cashier", by=by, over=over)
            features[f"{by}_{over}_about_min"] = sr.minimum("tip", by=by, over=over, approximate=True)
            features[f"{by}_{over}_decayed"] = sr.decayed_mean("tip", by=by, over=over, half_life="5h")
    found = app.features("behaviour", payments, features)
    return plan_features(found.spec, app.spec.stream("payments"))


def make(rng: np.random.Generator, n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events with ties, disorder and late ones; labels early, in time, late, twice, of late and of unknown events."""
    at = START + np.sort(rng.integers(0, 10 * DAY, n))
    at = np.where(rng.random(n) < 0.5, at // (HOUR // 2) * (HOUR // 2), at)
    at -= np.where(rng.random(n) < 0.2, rng.integers(0, 2 * DISORDER, n), 0)
    offsets = np.sort(rng.choice(4 * n, n, replace=False))
    events = pl.DataFrame(
        {
            "_offset": offsets,
            "payment": [f"p{i}" for i in range(n)],
            "at": at,
            "customer": rng.integers(0, 12, n) - 5,
            "shop": [f"shop {s}" for s in rng.integers(0, 7, n)],
            "cashier": [None if c == 0 else f"cashier {c}" for c in rng.integers(0, 20, n)],
            "amount": np.round(rng.lognormal(3, 2, n), 2),
            "tip": pl.Series(np.round(rng.normal(0, 5, n), 2)).scatter(np.flatnonzero(rng.random(n) < 0.3), None),
        }
    )
    free = np.setdiff1d(np.arange(5 * n), offsets)
    of = rng.integers(0, n, n)
    after = np.searchsorted(free, offsets[of]) + rng.integers(-3, 3 * n, n)
    places = np.unique(np.clip(after, 0, len(free) - 1), return_index=True)[1]
    labels = pl.DataFrame(
        {
            "_offset": free[np.clip(after, 0, len(free) - 1)][places],
            "label": rng.choice(["fraud", "complaint", "other"], len(places)),
            "subject": [f"p{i}" if rng.random() < 0.98 else "nobody" for i in of[places]],
            "value": np.round(rng.normal(0.5, 1, len(places)), 3),
            "known_at": np.zeros(len(places), np.int64),
        }
    )
    return events, labels.sample(fraction=1.0, shuffle=True, seed=1)


_EVENTS = f"""
CREATE TABLE timed AS
WITH before AS (
    SELECT *, max("at") OVER (ORDER BY _offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
    FROM events
)
SELECT *, greatest("at", coalesce(reached, "at")) AS _effective, coalesce("at" < reached - {DISORDER}, false) AS _late
FROM before
"""

_LABELS = """
CREATE TABLE known AS
SELECT l._offset, l.label, l.value, e._offset AS of
FROM labels l JOIN timed e ON e.payment = l.subject AND e._offset < l._offset
WHERE NOT e._late
"""


def window_sql(by: str, over: int) -> str:
    """Over events: everything of the key in (T - over, T], up to the event itself."""
    return f"""
SELECT i._offset, count(*) AS "count", sum(j.amount) AS amount_sum, coalesce(avg(j.tip), 0) AS tip_mean
FROM kept i JOIN kept j
  ON j.{by} = i.{by} AND j._offset <= i._offset
 AND j._effective > i._effective - {over} AND j._effective <= i._effective
GROUP BY i._offset ORDER BY i._offset
"""


def trail_sql(by: str, over: int) -> str:
    """Over the same events: what sums do not tell."""
    return f"""
SELECT i._offset, coalesce(stddev_pop(j.tip), 0) AS tip_std, min(j.tip) AS tip_min, max(j.amount) AS amount_max,
       count(DISTINCT j.cashier) AS cashiers,
       arg_max(j.tip, j._offset) FILTER (j._offset < i._offset AND j.tip IS NOT NULL) AS tip_last,
       (i._effective - max(j._effective) FILTER (j._offset < i._offset)) / 1e6 AS since
FROM kept i JOIN kept j
  ON j.{by} = i.{by} AND j._offset <= i._offset
 AND j._effective > i._effective - {over} AND j._effective <= i._effective
GROUP BY i._offset, i._effective ORDER BY i._offset
"""


def paned_sql(by: str, over: int) -> str:
    """Over the last 60 panes, the running one included."""
    pane = over // 60
    weight = f"pow(2, -(i._effective // {pane} - j._effective // {pane}) * {pane} / {5 * HOUR}.0)"
    return f"""
SELECT i._offset, min(j.tip) AS about_min,
       coalesce(sum(j.tip * {weight}) / sum({weight}) FILTER (j.tip IS NOT NULL), 0) AS decayed
FROM kept i JOIN kept j
  ON j.{by} = i.{by} AND j._offset <= i._offset AND j._effective // {pane} > i._effective // {pane} - 60
GROUP BY i._offset ORDER BY i._offset
"""


def label_sql(by: str, over: int, label: str) -> str:
    """Over subjects in (T - delay - over, T - delay]; the last value known at the event's offset, else 0."""
    delay = DELAYS[label]
    return f"""
WITH subjects AS (
    SELECT i._offset AS at, j._offset AS of
    FROM kept i JOIN kept j
      ON j.{by} = i.{by} AND j._offset <= i._offset
     AND j._effective > i._effective - {delay + over} AND j._effective <= i._effective - {delay}
), valued AS (
    SELECT s.at, s.of, coalesce(arg_max(k.value, k._offset), 0) AS value
    FROM subjects s LEFT JOIN known k ON k.of = s.of AND k._offset < s.at AND k.label = '{label}'
    GROUP BY s.at, s.of
)
SELECT i._offset, count(v.of) AS "count", coalesce(sum(v.value), 0) AS "sum", coalesce(avg(v.value), 0) AS mean,
       coalesce(stddev_pop(v.value), 0) AS std
FROM kept i LEFT JOIN valued v ON v.at = i._offset
GROUP BY i._offset ORDER BY i._offset
"""


_ROWS = """
SELECT amount, tip / nullif(amount, 0) AS tip_share,
       (extract(hour FROM make_timestamp("at")) <= 6)::INT AS night,
       (extract(isodow FROM make_timestamp("at")) >= 6)::INT AS weekend,
       extract(month FROM make_timestamp("at")) AS "month", extract(day FROM make_timestamp("at")) AS "day"
FROM kept ORDER BY _offset
"""


def oracle(db: duckdb.DuckDBPyConnection) -> dict[str, np.ndarray]:
    def columns(query: str) -> dict[str, np.ndarray]:
        found = db.execute(query).fetchnumpy()
        return {name: np.ma.filled(np.ma.asarray(column, np.float64), np.nan) for name, column in found.items()}

    expected = columns(_ROWS)
    for by in ("customer", "shop"):
        for name, over in WINDOWS.items():
            plain = columns(window_sql(by, over))
            fraud, complaint = columns(label_sql(by, over, "fraud")), columns(label_sql(by, over, "complaint"))
            expected |= {
                f"{by}_{name}_count": plain["count"],
                f"{by}_{name}_amount_sum": plain["amount_sum"],
                f"{by}_{name}_tip_mean": plain["tip_mean"],
                f"{by}_{name}_fraud_count": fraud["count"],
                f"{by}_{name}_fraud_mean": fraud["mean"],
                f"{by}_{name}_complaint_sum": complaint["sum"],
                f"{by}_{name}_complaint_std": complaint["std"],
            }
            for query in (trail_sql(by, over), paned_sql(by, over)):
                expected |= {f"{by}_{name}_{what}": c for what, c in columns(query).items() if what != "_offset"}
    return expected


@pytest.fixture(scope="module", params=[0, 1, 2])
def world(
    request: pytest.FixtureRequest, plan: FeaturePlan, kernels: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Backfill, dict[str, np.ndarray], pl.DataFrame, pl.DataFrame]:
    events, labels = make(np.random.default_rng(request.param), 1_500)
    with duckdb.connect() as db:
        for name, frame in (("events", events), ("labels", labels)):
            file = tmp_path_factory.mktemp("world") / f"{name}.parquet"
            frame.write_parquet(file)
            db.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{file}')")
        db.execute(_EVENTS)
        db.execute(_LABELS)
        db.execute("CREATE TABLE kept AS SELECT * FROM timed WHERE NOT _late")
        times = db.execute("SELECT _offset, _effective, _late FROM timed ORDER BY _offset").fetchnumpy()
        timed = events.with_columns(pl.Series("_effective", times["_effective"]), pl.Series("_late", times["_late"]))
        expected = oracle(db)
    found = backfill(plan, kernels, [timed], labels, exact=True)
    return found, expected, timed, labels


def test_the_world_has_what_the_rules_are_about(world: Any) -> None:
    found, expected, timed, _ = world
    assert 20 < timed["_late"].sum() < 300
    assert timed["_effective"].n_unique() < len(timed) - 100
    assert found.unknown_labels > 5
    assert 0 < np.count_nonzero(expected["shop_1d_fraud_mean"]) < len(found.offsets)


def test_every_feature_equals_the_oracle(world: Any, plan: FeaturePlan) -> None:
    found, expected, timed, _ = world
    assert found.offsets.tolist() == timed.filter(~pl.col("_late"))["_offset"].to_list()
    assert found.effective.tolist() == timed.filter(~pl.col("_late"))["_effective"].to_list()
    assert set(plan.names) == set(expected)
    for place, name in enumerate(plan.names):
        np.testing.assert_allclose(found.exact[:, place], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(found.features, found.exact.astype(np.float32))


def test_the_cut_into_frames_does_not_matter(world: Any, plan: FeaturePlan, kernels: Path) -> None:
    found, _, timed, labels = world
    pieces = [timed[a : a + 97] for a in range(0, len(timed), 97)]
    again = backfill(plan, kernels, [timed[:0], *pieces], labels.reverse())
    np.testing.assert_array_equal(again.features, found.features)
    assert again.unknown_labels == found.unknown_labels
