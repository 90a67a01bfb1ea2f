"""The kernel behind the engine: rows one by one, in batches and in blocks of history give the bits that tables give."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.spec import FeatureSpec
from skyriver.data.columns import Columns
from skyriver.data.log import RecordKind
from skyriver.decide.log.records import LabelRecord
from skyriver.decide.partition.kernel_windows import WindowsFiles, memory_windows
from skyriver.decide.partition.windows import FeatureSets
from skyriver.features.backfill import backfill
from skyriver.features.kernel import load_kernel
from skyriver.features.plan import plan_features
from skyriver.features.reading import load_reader

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
import worker_process as harness

HOUR = 3_600_000_000
APP = harness.declare()
STREAM, FEATURES = APP.streams[0], APP.feature_sets[0]
WITH_TRAILS = {
    "channels": sr.distinct("channel", by="customer", over="3d"),
    "least": sr.minimum("amount", by="channel", over="1d"),
    "last": sr.last("amount", by="customer", over="3d"),
    "since": sr.since(by="customer", over="3d"),
    "decayed": sr.decayed_mean("amount", by="channel", over="3d", half_life="1d"),
}
MORE = FEATURES.model_copy(
    update={"features": (*FEATURES.features, *(FeatureSpec(name=n, expr=e.node) for n, e in WITH_TRAILS.items()))}
)
PLAN, FEW = plan_features(MORE, STREAM), plan_features(FEATURES, STREAM)
Row = tuple[int, int, Any]
"""(kind, T, values or a label record); its place is its offset."""


def history(count: int, seed: int) -> list[Row]:
    """Events with gaps from seconds to days, labels of events and of none."""
    luck = random.Random(seed)
    rows: list[Row] = []
    at, events = 1_700_000_000_000_000, []
    for offset in range(count):
        if events and luck.random() < 0.3:
            subject = luck.choice(events) if luck.random() < 0.9 else -1
            value = luck.choice([0.0, 1.0, 0.25])
            rows.append((RecordKind.LABEL, at, LabelRecord(0, subject, value, at, subject)))
        else:
            at += luck.choice([0, 1_000_000, HOUR, 30 * HOUR])
            values = [offset, at, luck.randrange(5), f"c{luck.randrange(3)}", luck.random() * 1000]
            rows.append((RecordKind.EVENT, at, values))
            events.append(offset)
    return rows


def one_by_one(rows: list[Row], kernels: Path, sizes: list[int], *, in_columns: bool = False) -> np.ndarray:
    """Folded in batches of these sizes, as a worker does."""
    windows = memory_windows(STREAM, PLAN, load_kernel(PLAN, kernels))
    found: list[np.ndarray] = [np.empty((0, len(PLAN.names)), np.float32)]
    start = 0
    while start < len(rows):
        kind, end = rows[start][0], start
        limit = start + sizes[start % len(sizes)]
        while end < min(limit, len(rows)) and rows[end][0] == kind:
            end += 1
        part, offsets = rows[start:end], list(range(start, end))
        if kind is RecordKind.EVENT and in_columns:
            columns = Columns.of_rows(STREAM.fields, [v for _, _, v in part])
            found.append(windows.fold_columns(np.array(offsets), np.array([t for _, t, _ in part]), columns))
        elif kind is RecordKind.EVENT:
            found.append(windows.fold_events(offsets, [t for _, t, _ in part], [v for _, _, v in part]))
        else:
            windows.fold_labels(offsets, [label for _, _, label in part])
        start = end
    return np.concatenate(found)


def as_block(rows: list[Row]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {f.name: [] for f in STREAM.fields}
    more: dict[str, list[Any]] = {n: [] for n in ("_kind", "_effective", "_label", "_value", "_subject_offset")}
    for kind, at, content in rows:
        is_label = kind is RecordKind.LABEL
        for place, name in enumerate(columns):
            columns[name].append(None if is_label else content[place])
        more["_kind"].append(int(kind))
        more["_effective"].append(at)
        more["_label"].append(content.label_index if is_label else None)
        more["_value"].append(content.value if is_label else None)
        more["_subject_offset"].append(content.subject_offset if is_label else -1)
    schema = {"_kind": pl.UInt8, "_effective": pl.Int64, "_label": pl.UInt8, "_value": pl.Float64}
    return pl.DataFrame({**columns, **more}, schema_overrides={**schema, "_subject_offset": pl.Int64})


def in_blocks(rows: list[Row], kernels: Path, size: int) -> np.ndarray:
    windows = memory_windows(STREAM, PLAN, load_kernel(PLAN, kernels))
    starts = range(0, len(rows), size)
    return np.concatenate([windows.fold_block(s, as_block(rows[s : s + size])) for s in starts])


def from_tables(rows: list[Row], kernels: Path) -> np.ndarray:
    frame = as_block(rows).with_row_index("_offset").cast({"_offset": pl.Int64})
    events = frame.filter(pl.col("_kind") == 1).with_columns(_late=pl.lit(False))
    labels = frame.filter(pl.col("_kind") == 2).select(
        "_offset",
        pl.lit("fraud").alias("label"),
        pl.col("_subject_offset").alias("subject"),  # the ids of `history` are their offsets
        pl.col("_value").alias("value"),
    )
    return backfill(PLAN, kernels, [events], labels).features


@pytest.mark.parametrize("seed", range(3))
def test_all_ways_give_the_same_bits(kernels: Path, seed: int) -> None:
    rows = history(400, seed)
    wanted = from_tables(rows, kernels)
    assert wanted.any(axis=0).all(), "every feature has some value"
    for found in (
        one_by_one(rows, kernels, [1]),
        one_by_one(rows, kernels, [7, 1, 50]),
        one_by_one(rows, kernels, [7, 1, 50], in_columns=True),
        in_blocks(rows, kernels, 400),
        in_blocks(rows, kernels, 37),
    ):
        assert found.tobytes() == wanted.tobytes()


def test_missing_values_and_texts_reach_the_kernel(kernels: Path) -> None:
    windows = memory_windows(STREAM, FEW, load_kernel(FEW, kernels))
    rows = [[1, 5, 1, "a", 10.0], [2, 5, 1, "b", 20.0]]
    assert windows.fold_events([0, 1], [5, 5], rows).tolist() == [[10.0, 10.0, 0.0], [20.0, 15.0, 0.0]]
    windows.fold_labels([2, 3], [LabelRecord(0, 1, 1.0, 5, 0), LabelRecord(0, 9, 1.0, 5, -1)])
    assert windows.fold_events([4], [5], [[3, 5, 1, "a", 0.0]]).tolist() == [[0.0, 10.0, 1.0]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("place", "old", "new"), [(2, 3, -77), (3, "c1", "erased-c1")], ids=["customer", "channel"])
def test_a_renamed_key_goes_on_as_another_one(kernels: Path, seed: int, place: int, old: Any, new: Any) -> None:
    """With the bits that it would have had, also after a restart; and all others as if nothing had been."""
    rows = history(600, seed)
    kernel = load_kernel(PLAN, kernels)

    def folded(windows: Any, part: list[Row], first: int) -> np.ndarray:
        found = []
        for offset, (kind, at, content) in enumerate(part, first):
            if kind is RecordKind.LABEL:
                windows.fold_labels([offset], [content])
            else:
                found.append(windows.fold_events([offset], [at], [content]))
        return np.concatenate(found)

    expected = folded(memory_windows(STREAM, PLAN, kernel), rows, 0)
    windows = memory_windows(STREAM, PLAN, kernel)
    before = folded(windows, rows[:400], 0)
    assert windows.rename("customer" if place == 2 else "channel", old, new) == 1
    assert windows.rename("customer" if place == 2 else "channel", old, new) == 0
    windows._state.restore(windows.save().state)
    later: list[Row] = []
    for kind, at, content in rows[400:]:
        if kind is RecordKind.EVENT and content[place] == old:
            content = [*content[:place], new, *content[place + 1 :]]
        later.append((kind, at, content))
    after = folded(windows, later, 400)
    found = np.concatenate([before, after])
    keep = [n for n, name in enumerate(PLAN.names) if place == 2 or name != "channels"]  # those count the channels
    np.testing.assert_array_equal(found[:, keep], expected[:, keep])


def test_what_is_read_is_what_the_next_event_would_find(kernels: Path) -> None:
    """Right after an event its own features; before an event of the same time, what that one finds of those before."""
    rows = history(200, 7)
    windows = memory_windows(STREAM, PLAN, load_kernel(PLAN, kernels), load_reader(PLAN, kernels))
    own = [place for place, name in enumerate(PLAN.names) if name in ("last", "since")]
    for offset, (kind, at, content) in enumerate(rows):
        if kind is RecordKind.LABEL:
            windows.fold_labels([offset], [content])
            continue
        asked = memory_of(windows, content)
        folded = windows.fold_events([offset], [at], [content])
        read = windows.read(PLAN.digest, [content, [None, None, 99, content[3], None]])
        found = read.features
        known = dict(zip(read.keys, read.known.tolist(), strict=True))
        assert known == {"customer": [True, False], "channel": [True, True]}
        others = [place for place in range(len(PLAN.names)) if place not in own]
        assert found[0, others].tobytes() == folded[0, others].tobytes()
        if asked[0] == at:  # no time has passed since
            assert asked[1][own].tobytes() == folded[0, own].tobytes()


def memory_of(windows: Any, row: list[Any]) -> tuple[int, np.ndarray]:
    return windows._state.now, windows.read(PLAN.digest, [row]).features[0]


def test_of_two_sets_that_are_folded_each_is_read_by_its_digest(kernels: Path, tmp_path: Path) -> None:
    files = WindowsFiles(STREAM, tmp_path / "side", kernels, reads=True)
    sets = FeatureSets(files.open(FEATURES, None), files.open(MORE, None))
    row = [1, 5, 1, "a", 10.0]
    sets.fold_events([0], [5], [row])
    assert sets.read(FEW.digest, [row]).features.shape == (1, len(FEW.names))
    assert sets.read(PLAN.digest, [row]).features.shape == (1, len(PLAN.names))
    with pytest.raises(Conflict, match="not folded here") as refused:
        sets.read("0" * 64, [row])
    assert refused.value.code == "FEATURES_NOT_BUILT"
    sets.close()


def test_windows_that_were_not_opened_to_be_read_say_so(kernels: Path) -> None:
    windows = memory_windows(STREAM, FEW, load_kernel(FEW, kernels))
    with pytest.raises(Conflict):
        windows.read(FEW.digest, [[1, 5, 1, "a", 10.0]])


def test_a_row_without_a_key_is_refused(kernels: Path) -> None:
    windows = memory_windows(STREAM, PLAN, load_kernel(PLAN, kernels), load_reader(PLAN, kernels))
    with pytest.raises(InvalidInput) as refused:
        windows.read(PLAN.digest, [[1, 5, 1, "a", 10.0], [1, 5, 1, None, 10.0]])
    assert (refused.value.code, refused.value.where) == ("KEY_MISSING", "channel")
