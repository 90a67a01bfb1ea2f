"""What a stream recorded, held against the rows of a training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import polars as pl

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.segments.log import open_log
from skyriver.core.expr import Column
from skyriver.core.spec import FeatureSetSpec, FeatureSpec, FieldSpec, StreamSpec, TableSpec
from skyriver.data.decisions import Status
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.records import DecisionRecord, Reason
from skyriver.features.plan import plan_features
from skyriver.release.measured import FeatureDifference, SameFeatures
from skyriver.train.split import Rows
from skyriver.wiring.home import Home
from skyriver.wiring.work.history import History
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.same_features import same_features

FIELDS = (FieldSpec(name="order", type="int"), FieldSpec(name="at", type="time"), FieldSpec(name="a", type="float"))
STREAM = StreamSpec(name="orders", fields=FIELDS, id="order", time="at", key="order")
PLAN = plan_features(
    FeatureSetSpec(
        name="f",
        source="orders",
        features=(FeatureSpec(name="a", expr=Column(name="a")), FeatureSpec(name="b", expr=Column(name="a"))),
    ),
    STREAM,
)
X = np.arange(12, dtype=np.float32).reshape(6, 2)
X[4, 1] = np.nan
EVENTS = np.array([0, 2, 4, 6, 8, 10])
"""Their offsets; each decision follows its event."""


def _decision(row: int, features: np.ndarray | None, digest: str = PLAN.digest) -> Record:
    told = features.tobytes() if features is not None else b""
    body = DecisionRecord(
        int(EVENTS[row]), row, Status.DECIDED, "yes", 0.5, told, "m", 1, "r" * 64, digest, Reason.NONE, 0, 0
    )
    return Record(RecordKind.DECISION, 0, msgspec.msgpack.encode(body))


def _compared(home: Path, decisions: list[Record]) -> SameFeatures | None:
    log = open_log(home / "orders" / "log", durability="process", holder="test")
    for decision in decisions:
        log.append([Record(RecordKind.EVENT, 0, b""), decision])
    log.sync()
    log.close()
    frame = pl.DataFrame({"_offset": EVENTS, "_late": EVENTS < 0})
    table = DeltaTables(Home(home).tables).append("acme/orders", [frame], offset=10, known=None)
    job: Any = SimpleNamespace(
        home=Home(home), tenant="acme", table=lambda n: f"acme/{n}", stream_directory=lambda n: home / n
    )
    none = np.zeros(6, np.int64)
    rows = Rows(PLAN.names, X, np.zeros(6, np.float32), none, np.arange(6), {})
    return same_features(cast(Job, job), History(STREAM, table, None), PLAN, rows)


def test_the_same_bits_are_equal_and_missing_equals_missing(tmp_path: Path) -> None:
    found = _compared(tmp_path, [_decision(row, X[row]) for row in range(6)])
    assert found == SameFeatures(compared=6, different=0, first=())


def test_what_differs_is_named(tmp_path: Path) -> None:
    other = X.copy()
    other[1, 0] = np.nextafter(other[1, 0], np.float32(9))
    other[4] = (8, 1.5)
    found = _compared(tmp_path, [_decision(row, other[row]) for row in range(6)])
    assert found is not None
    assert (found.compared, found.different) == (6, 2)
    assert found.first == (
        FeatureDifference("1", "a", float(other[1, 0]), 2.0),
        FeatureDifference("4", "b", 1.5, None),
    )


def test_decisions_without_features_or_by_others_are_not_compared(tmp_path: Path) -> None:
    decisions = [_decision(0, None), _decision(1, X[0], digest="0" * 64), *(_decision(n, X[n]) for n in range(2, 6))]
    found = _compared(tmp_path, decisions)
    assert found == SameFeatures(compared=4, different=0, first=())


def test_where_nothing_was_decided_by_them_it_is_said(tmp_path: Path) -> None:
    found = _compared(tmp_path, [_decision(row, None) for row in range(6)])
    assert found is not None
    assert (found.compared, found.why) == (0, "nothing was decided by these features in the newest 6 events")


def test_a_table_has_no_stream() -> None:
    history = History(TableSpec(name="orders", fields=FIELDS, id="order"), cast(Any, None), None)
    assert same_features(cast(Job, None), history, PLAN, cast(Any, None)) is None
