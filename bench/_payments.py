"""The work that every system is given: simulated payments, and the Fraud Detection Handbook's twelve features of them.

Of the customer: payments and mean amount over 1, 7 and 30 days, this payment included. Of the terminal: payments and
share of frauds over 1, 7 and 30 days, seven days late, for so long it takes until one knows. No two payments have the
same time (to the millisecond), so that no system's way with ties makes a difference.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import polars as pl
from _document import ROOT
from _load import Sending
from numpy.typing import NDArray

import skyriver as sr
from skyriver.core.spec import AppSpec, Durability
from skyriver.features.backfill import backfill
from skyriver.features.plan import FeaturePlan, plan_features
from skyriver.train.trees_onnx import read_lightgbm, to_onnx

sys.path.insert(0, str(ROOT / "examples" / "risk"))
from simulate import FIRST_DAY, simulate

Ints = NDArray[np.int64]
DAY_MS = 86_400_000
DAYS = (1, 7, 30)
FULL_WINDOWS_DAYS = 37
"""30 days, seven days late: from then on all windows are full."""
NAMES = tuple(f"{what}_{d}d" for d in DAYS for what in ("customer_count", "customer_mean")) + tuple(
    f"{what}_{d}d" for d in DAYS for what in ("terminal_count", "terminal_fraud")
)


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    terminal: int
    amount: float = sr.field(ge=0, le=1_000_000)


def declare(event: type[sr.Event] = Payment, durability: Durability = "process", **kept: Any) -> AppSpec:
    """The application: stream, labels, the twelve features, a model and two rules. `kept`: how the stream keeps its
    log."""
    app = sr.App("risk")
    # Nothing is to be late: a machine that is busy with others may hold a sender up for seconds.
    payments = app.stream(
        "payments", event, id="payment", time="at", key="customer", disorder="1m", durability=durability, **kept
    )
    frauds = app.labels("fraud", of=payments, delay="7d")
    found: dict[str, Any] = {}
    for d in DAYS:
        found[f"customer_count_{d}d"] = sr.count(by="customer", over=f"{d}d")
        found[f"customer_mean_{d}d"] = sr.mean("amount", by="customer", over=f"{d}d")
    for d in DAYS:
        found[f"terminal_count_{d}d"] = sr.count(frauds, by="terminal", over=f"{d}d")
        found[f"terminal_fraud_{d}d"] = sr.mean(frauds, by="terminal", over=f"{d}d")
    features = app.features("behaviour", payments, found)

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> lightgbm.Booster: ...

    model = app.model("fraud", fit)
    app.decide(payments, model, {"block": "score >= 0.9", "review": "score >= 0.3"}, otherwise="approve")
    return app.spec


def plan_of(app: AppSpec) -> FeaturePlan:
    return plan_features(app.feature_sets[0], app.streams[0])


def handbook(days: int, *, customers: int = 5_000, terminals: int = 10_000, seed: int = 0) -> pl.DataFrame:
    """The handbook's payments: payment, at (microseconds since 1970), customer, terminal, amount, fraud."""
    found = simulate(seed, customers, terminals, days, 5.0 * (10_000 / terminals) ** 0.5)
    second = found.second
    nth = np.arange(len(second)) - np.searchsorted(second, second)  # of the payments of that second
    at = (int(FIRST_DAY.astype("datetime64[ms]").astype(np.int64)) + second * 1000 + nth) * 1000
    columns = {"payment": found.payment, "at": at, "customer": found.customer, "terminal": found.terminal}
    return pl.DataFrame({**columns, "amount": found.amount, "fraud": found.fraud.astype(np.int64)})


def spread(keys: int, count: int, *, days: float = 60.0, seed: int = 0) -> pl.DataFrame:
    """`count` payments, evenly in `days`, of `keys` customers at as many terminals: every key is met once before any
    is met twice."""
    luck = np.random.default_rng(seed)

    def drawn() -> Ints:
        rounds = -(-count // keys)
        return np.concatenate([luck.permutation(keys) for _ in range(rounds)])[:count]

    start = int(FIRST_DAY.astype("datetime64[us]").astype(np.int64))
    at = start + (np.arange(count) * (days * DAY_MS * 1000 / count)).astype(np.int64)
    amount = np.round(luck.gamma(2.0, 25.0, count), 2)
    fraud = (luck.random(count) < 0.01).astype(np.int64)
    columns = {"payment": np.arange(count), "at": at, "customer": drawn(), "terminal": drawn()}
    return pl.DataFrame({**columns, "amount": amount, "fraud": fraud})


def features(app: AppSpec, payments: pl.DataFrame, kernels: Path) -> NDArray[np.float32]:
    """The twelve of each payment; the label of each fraud stands behind its event."""
    index = pl.Series("_offset", np.arange(len(payments)) * 2)
    events = payments.drop("fraud").with_columns(index, _effective=pl.col("at"), _late=False)
    frauds = payments.with_columns(index).filter(pl.col("fraud") == 1)
    labels = frauds.select(
        pl.col("_offset") + 1, label=pl.lit("fraud"), subject="payment", value=pl.col("fraud").cast(pl.Float64)
    )
    return backfill(plan_of(app), kernels, [events], labels).features


def train(app: AppSpec, payments: pl.DataFrame, kernels: Path) -> bytes:
    """A hundred boosted trees over the twelve features, as ONNX."""
    found = features(app, payments, kernels)
    settings = {"objective": "binary", "num_leaves": 31, "min_data_in_leaf": 200, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(found, payments["fraud"].to_numpy()), 100)
    return to_onnx(read_lightgbm(booster.model_to_string()))


def blocks(app: AppSpec, payments: pl.DataFrame, rows: int = 60_000) -> Iterator[bytes]:
    """History as a stream's worker takes it: blocks of events, each fraud's label behind its event."""
    for start in range(0, len(payments), rows):
        part = payments[start : start + rows]
        events = part.select(
            pl.lit(1, pl.UInt8).alias("_kind"), pl.col("at").alias("_time"), *part.drop("fraud").columns,
            pl.lit(None, pl.UInt8).alias("_label"), pl.lit(None, pl.Int64).alias("_subject"),
            pl.lit(None, pl.Float64).alias("_value"),
        )  # fmt: skip
        frauds = part.filter(pl.col("fraud") == 1)
        nothing = [pl.lit(None, dtype).alias(name) for name, dtype in part.drop("fraud").schema.items()]
        labels = frauds.select(
            pl.lit(2, pl.UInt8).alias("_kind"), pl.col("at").alias("_time"), *nothing,
            pl.lit(0, pl.UInt8).alias("_label"), pl.col("payment").alias("_subject"),
            pl.lit(1.0).alias("_value"),
        )  # fmt: skip
        block = pl.concat([events, labels]).sort("_time", "_kind", maintain_order=True)
        yield block.write_ipc_stream(None).getvalue()


def requests(payments: pl.DataFrame, rows: int, form: str = "msgpack") -> Iterator[Sending]:
    """The same as live events: `rows` a request, behind it the labels of its frauds. `form`: msgpack, or lines of JSON
    (x-ndjson)."""
    kind = f"application/{form}"
    for start in range(0, len(payments), rows):
        part = payments[start : start + rows]
        events = part.drop("fraud").to_dicts()
        body = msgspec.msgpack.encode(events) if form == "msgpack" else b"\n".join(map(msgspec.json.encode, events))
        yield Sending("/streams/payments/events", kind, body, len(part))
        frauds = part.filter(pl.col("fraud") == 1).select("payment", "fraud")
        if len(frauds):
            yield Sending("/streams/payments/labels", "application/json", msgspec.json.encode(frauds.to_dicts()), 0)
