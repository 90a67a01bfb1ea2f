"""The rows of a training are read piece by piece."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import Unavailable
from skyriver.core.expr import Aggregate, Column
from skyriver.core.spec import (
    FeatureSetSpec,
    FeatureSpec,
    FieldSpec,
    LabelSpec,
    MetricSpec,
    ModelSpec,
    StreamSpec,
    TrainSpec,
)
from skyriver.wiring.home import Home
from skyriver.wiring.work.history import newest_history, rows_of
from skyriver.wiring.work.job import Job

STREAM = StreamSpec(
    name="payments",
    fields=(
        FieldSpec(name="payment", type="int"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="customer", type="int"),
        FieldSpec(name="amount", type="float", nullable=True),
        FieldSpec(name="note", type="text"),
    ),
    id="payment",
    time="at",
    key="customer",
    labels=(LabelSpec(name="fraud", delay_us=5),),
)
FEATURES = FeatureSetSpec(
    name="behaviour",
    source="payments",
    features=(
        FeatureSpec(name="amount", expr=Column(name="amount")),
        FeatureSpec(name="count", expr=Aggregate(kind="count", by="customer", over_us=10)),
        FeatureSpec(name="frauds", expr=Aggregate(kind="sum", label="fraud", by="customer", over_us=50, delay_us=5)),
    ),
)
MODEL = ModelSpec(
    name="fraud",
    train=TrainSpec(function="fit", features="behaviour", label="fraud"),
    metrics=(MetricSpec(name="cards", k=1, by="customer", per_us=10),),
)
PIECES, PIECE = 8, 50


def job(home: Path) -> Job:
    found: Any = SimpleNamespace(
        home=Home(home),
        work_dir=home,
        table=lambda name: f"acme/{name}",
        app=SimpleNamespace(feature_set=lambda name: FEATURES),
        progress=lambda stage, done, total: None,
    )
    return cast(Job, found)


def loaded(home: Path) -> Job:
    """Some events are late; every third one is labelled, eight offsets after it."""
    tables, work = DeltaTables(Home(home).tables), job(home)
    for piece in range(PIECES):
        offsets = np.arange(piece * PIECE, (piece + 1) * PIECE)
        events = pl.DataFrame(
            {
                "payment": offsets,
                "at": offsets,
                "customer": offsets % 4,
                "amount": [None if n % 7 == 0 else float(n) for n in offsets],
                "note": ["words" for _ in offsets],
                "_offset": offsets * 10,
                "_effective": offsets,
                "_late": offsets % 11 == 3,
            }
        )
        tables.append("acme/payments", [events], offset=int(offsets[-1]) * 10, known=piece - 1 if piece else None)
    subjects = np.arange(0, PIECES * PIECE, 3)
    labels = pl.DataFrame(
        {
            "_offset": subjects * 10 + 85,
            "label": ["fraud" for _ in subjects],
            "subject": subjects,
            "value": (subjects % 2).astype(float),
        }
    )
    tables.append("acme/payments.labels", [labels], offset=10**6, known=None)
    return work


def test_the_rows_are_those_that_were_not_late(tmp_path: Path) -> None:
    work = loaded(tmp_path)
    rows = rows_of(work, MODEL, newest_history(work, STREAM))
    wanted = [n for n in range(PIECES * PIECE) if n % 11 != 3]
    assert rows.ids.tolist() == wanted
    assert rows.time.tolist() == wanted
    assert rows.keys["customer"].tolist() == [n % 4 for n in wanted]
    assert np.isnan(rows.y).tolist() == [n % 3 != 0 for n in wanted]
    assert rows.y[~np.isnan(rows.y)].tolist() == [n % 2 for n in wanted if n % 3 == 0]
    assert rows.names == ("amount", "count", "frauds")
    assert rows.x.shape == (len(wanted), 3)
    np.testing.assert_array_equal(rows.x[:, 0], [np.nan if n % 7 == 0 else n for n in wanted])
    counts = [sum(m % 4 == n % 4 and n - 10 < m <= n for m in wanted) for n in wanted]
    assert rows.x[:, 1].tolist() == counts
    assert rows.x[:, 2].any()


def test_the_features_are_a_file_that_goes_with_them(tmp_path: Path) -> None:
    work = loaded(tmp_path)
    before = set(tmp_path.iterdir())
    rows = rows_of(work, MODEL, newest_history(work, STREAM))
    assert isinstance(rows.x.base, np.memmap)
    assert not rows.x.flags.writeable
    assert set(tmp_path.iterdir()) - before <= {Home(tmp_path).kernels.parent, Home(tmp_path).kernels}


def test_without_room_for_the_features_the_job_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = loaded(tmp_path)
    history = newest_history(work, STREAM)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **where: io.FileIO("/dev/full", "wb"))
    with pytest.raises(Unavailable) as refused:
        rows_of(work, MODEL, history)
    assert refused.value.code == "DISK_FULL"
