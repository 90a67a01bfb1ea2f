"""The product's features of a stream's history beside those of the oracle (`_oracle.py`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from _document import ROOT
from _environments import duckdb_python
from _processes import Failed, run

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.client.appfile import load_app
from skyriver.core.spec import FeatureSetSpec
from skyriver.features.backfill import Backfill, backfill
from skyriver.features.plan import FeaturePlan, plan_features

BENCH = ROOT / "bench"
STREAM, LABEL = "payments", "fraud"
TOLERANCE = 1e-9
"""Absolute and relative, before rounding to float32."""


def compare(home: Path, example: Path, work: Path, sets: Sequence[FeatureSetSpec] = ()) -> dict[str, Any]:
    """Computes both for the cloud in `home`, whose stream was made from the files in `example`/data; what differs.
    `sets`: of these features, instead of those of the application."""
    app = load_app(example / "risk.py")
    stream = app.spec.stream(STREAM)
    plans = [plan_features(features, stream) for features in sets or app.spec.feature_sets[:1]]
    events, labels = _tables(home)
    data = example / "data"
    sent = pl.read_parquet(data / "stream.parquet", columns=["payment"])
    order = events.join(sent, on="payment", how="semi").select("payment", place="_offset")
    order.write_parquet(work / "sent.parquet")
    late = pl.read_parquet(data / "stream_labels.parquet", columns=["payment"])
    told = labels.filter(pl.col("label") == LABEL).join(late, left_on="subject", right_on="payment", how="semi")
    told = told.unique("subject", keep="first", maintain_order=True)  # one whose answer got lost was sent twice
    told.select(payment="subject", place="_offset").write_parquet(work / "told.parquet")
    written = (data / "payments.parquet", data / "stream.parquet", work / "sent.parquet")
    files = [str(p) for p in (*written, data / "stream_labels.parquet", work / "told.parquet")]
    days = {d for plan in plans for name in plan.names for d in re.findall(r"^(?:customer|terminal)_.*_(\d+)d$", name)}
    arguments = [*files, str(stream.disorder_us), str(work / "oracle.parquet"), *([",".join(days)] if days else [])]
    done = run([duckdb_python(), str(BENCH / "_oracle.py"), *arguments], timeout=600, cwd=work).check()
    oracle = pl.read_parquet(work / "oracle.parquet")
    ids = events.filter(~pl.col("_late"))["payment"]
    found: dict[str, Any] = {"differences": 0, "equal": True, "different": ""}
    for plan in plans:
        product = backfill(plan, home / "cache" / "kernels", [events], labels, exact=True)
        one = _difference(plan, product, ids, oracle)
        differences = found["differences"] + one["differences"]
        different = ", ".join(text for text in (found["different"], one["different"]) if text)
        found = {**one, "differences": differences, "equal": not different, "different": different}
    return {
        **found,
        "late": int(events["_late"].sum()),
        "sent_in_table": len(order),
        "labels": len(labels),
        "oracle_seconds": round(done.seconds, 1),
        "duckdb": done.stdout.strip(),
    }


def _tables(home: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    tables = DeltaTables(home / "tables")

    def whole(name: str) -> pl.DataFrame:
        return pl.concat(list(tables.scan(name, tables.latest(name).version)))

    return whole(f"default/{STREAM}"), whole(f"default/{STREAM}.labels")


def _difference(plan: FeaturePlan, product: Backfill, ids: pl.Series, oracle: pl.DataFrame) -> dict[str, Any]:
    if not set(plan.names) <= set(oracle.columns) - {"payment", "effective"}:
        raise Failed(f"the oracle is of other features than {', '.join(plan.names)}")
    figures: dict[str, Any] = {"rows": len(ids), "oracle_rows": len(oracle), "features": len(plan.names)}
    if ids.to_list() != oracle["payment"].to_list():
        ours_alone, oracles_alone = (
            len(set(a) - set(b)) for a, b in ((ids, oracle["payment"]), (oracle["payment"], ids))
        )
        figures |= {"ours_alone": ours_alone, "oracles_alone": oracles_alone}
        return {
            **figures,
            "equal": False,
            "differences": max(1, ours_alone + oracles_alone),
            "different": "the payments that count, or their order",
        }
    different, largest = [], 0.0
    values = int(np.count_nonzero(product.effective != oracle["effective"].to_numpy()))
    if values:
        different.append("effective time")
    for place, name in enumerate(plan.names):
        ours = product.exact[:, place]
        theirs = oracle[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        unequal = np.count_nonzero(~np.isclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
        if unequal:
            different.append(name)
            values += int(unequal)
        largest = max(largest, float(np.nanmax(np.abs(ours - theirs), initial=0.0)))
    if not np.array_equal(product.features, product.exact.astype(np.float32), equal_nan=True):
        different.append("rounding to float32")
        values += 1
    return {
        **figures,
        "equal": not different,
        "differences": values,
        "different": ", ".join(different),
        "largest_difference": largest,
    }
