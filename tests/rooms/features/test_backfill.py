"""History through the stream's kernel: merged by offset, and tables row by row."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.core.errors import Internal
from skyriver.features.backfill import backfill, backfill_parts, fold_history
from skyriver.features.plan import plan_features


def events(n: int, first: int = 0) -> pl.DataFrame:
    """Event i at 4 i us with the offset 3 i and the id 100 + i."""
    i = np.arange(first, first + n)
    return pl.DataFrame(
        {
            "_offset": 3 * i,
            "_effective": 4 * i,
            "_late": np.zeros(n, bool),
            "id": 100 + i,
            "at": 4 * i,
            "k": np.zeros(n, np.int64),
            "k2": np.zeros(n, np.int64),
            "x": np.ones(n),
            "y": pl.Series([None] * n, dtype=pl.Float64),
        }
    )


def labels(*records: tuple[int, str, int, float | None]) -> pl.DataFrame:
    schema = {"_offset": pl.Int64, "label": pl.String, "subject": pl.Int64, "value": pl.Float64}
    return pl.DataFrame(records, schema=schema, orient="row").with_columns(known_at=pl.lit(0))


def column(windows: Any, found: Any, name: str) -> list[float]:
    return found.features[:, windows.plan.names.index(name)].tolist()


def test_events_see_the_labels_before_them(windows: Any, kernels: Path) -> None:
    # Offsets 0 3 6 9 at 0 4 8 12 us; the label at 1 is known to all, the one at 8 to the last.
    known = labels((8, "late", 101, 5.0), (1, "late", 100, 1.0), (100, "late", 100, 9.0))
    found = backfill(windows.plan, kernels, [events(4)], known)
    assert found.offsets.tolist() == [0, 3, 6, 9]
    assert found.effective.tolist() == [0, 4, 8, 12]
    assert column(windows, found, "late_sum") == [0, 0, 1, 6]
    assert column(windows, found, "sum_y") == [0, 0, 0, 0]


def test_late_events_have_no_features_and_their_labels_no_effect(windows: Any, kernels: Path) -> None:
    frame = events(4).with_columns(_late=pl.Series([False, True, False, False]))
    found = backfill(windows.plan, kernels, [frame], labels((4, "now", 101, 1.0), (5, "now", 100, 1.0)))
    assert found.offsets.tolist() == [0, 6, 9]
    assert column(windows, found, "count") == [1, 2, 2]
    assert column(windows, found, "now_sum") == [0, 1, 0]
    assert found.unknown_labels == 0


def test_the_first_event_of_an_id_is_the_subject_and_labels_before_it_are_counted(windows: Any, kernels: Path) -> None:
    frame = events(4).with_columns(id=pl.Series([100, 101, 100, 102]))
    known = labels((2, "now", 101, 1.0), (7, "now", 100, 1.0), (8, "now", 999, 1.0), (8, "other", 998, 1.0))
    found = backfill(windows.plan, kernels, [frame[:1], frame[1:]], known)
    assert column(windows, found, "now_sum") == [0, 0, 0, 0]  # at 12 us the first 100, of 0 us, is out of the window
    assert found.unknown_labels == 2


def test_history_goes_on_where_it_stopped(windows: Any, kernels: Path) -> None:
    known = labels((4, "now", 101, 1.0), (7, "now", 101, 3.0))
    whole = backfill(windows.plan, kernels, [events(4)], known, exact=True)
    state = windows.state()
    parts = [*fold_history(state, [events(1)]), *fold_history(state, [events(3, 1)], known, exact=True)]
    found = np.concatenate([p.features for p in parts])
    np.testing.assert_array_equal(found, whole.features)


def test_offsets_that_go_back_are_refused(windows: Any, kernels: Path) -> None:
    with pytest.raises(Internal, match="order of its offsets"):
        backfill(windows.plan, kernels, [events(2, 2), events(2)])


def test_progress_is_told(windows: Any, kernels: Path) -> None:
    told: list[tuple[str, int, int]] = []
    backfill(windows.plan, kernels, [events(2), events(3, 2)], progress=lambda *a: told.append(a), total=5)
    assert told == [("features", 2, 5), ("features", 5, 5)]


def test_nothing_gives_nothing(windows: Any, kernels: Path) -> None:
    found = backfill(windows.plan, kernels, [], labels((1, "now", 5, 1.0)))
    assert found.features.shape == (0, len(windows.plan.names))
    assert found.unknown_labels == 1


def test_a_batch_finds_its_subjects_before_and_inside_itself(windows: Any) -> None:
    state = windows.state()
    windows.exact([{"t": 0}, {"t": 1}], state)
    kind = np.array([1, 2, 1, 2, 2, 2], np.uint8)
    found = state.subject_rows(kind, np.arange(2, 8), np.array([-1, 1, -1, 2, 4, 3]))
    assert found.tolist() == [-1, 1, -1, 2, 3, -1]
    assert state.subject_rows(np.array([2], np.uint8), np.array([5]), np.array([0])).tolist() == [0]
    many = np.array([0, 1] * 100)
    assert state.subject_rows(np.full(200, 2, np.uint8), np.arange(200) + 2, many).tolist() == many.tolist()


def test_a_table_is_projected_row_by_row(kernels: Path) -> None:
    class House(sr.Event):
        id: str
        built: sr.Time | None
        rooms: int
        area: float | None
        garden: bool

    app = sr.App("test")
    houses = app.table("houses", House, id="id")
    spec = {"share": houses.area / houses.rooms, "month": houses.built.month(), "garden": houses.garden}
    plan = plan_features(app.features("set", houses, spec).spec, app.spec.tables[0])
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c"],
            "built": pl.Series([86_400_000_000 * 59, None, 0], dtype=pl.Int64),
            "rooms": [4, 0, 2],
            "area": [100.0, 100.0, None],
            "garden": [True, False, True],
        }
    )
    found = backfill(plan, kernels, [frame[:2], frame[2:]], exact=True)
    nan = float("nan")
    np.testing.assert_array_equal(found.exact, [[25, 3, 1], [nan, nan, 0], [nan, 1, 1]])
    assert found.offsets.tolist() == [0, 1, 2]


def test_a_label_means_the_event_that_the_stream_recorded(windows: Any, kernels: Path) -> None:
    """An id may come again once its period of de-duplication is over: by id alone the first event would be meant."""
    frame = events(4).with_columns(id=pl.Series([100, 101, 100, 102]))
    known = labels((7, "now", 100, 1.0), (8, "now", 999, 1.0)).with_columns(subject_offset=pl.Series([6, -1]))
    found = backfill(windows.plan, kernels, [frame[:1], frame[1:]], known)
    assert column(windows, found, "now_sum") == [0, 0, 0, 1]
    assert found.unknown_labels == 1


def test_of_all_history_one_frame_is_held(windows: Any, kernels: Path) -> None:
    held: list[weakref.ref[pl.DataFrame]] = []

    def frames() -> Iterator[pl.DataFrame]:
        for number in range(6):
            assert sum(ref() is not None for ref in held) <= 1
            frame = events(3, 3 * number)
            held.append(weakref.ref(frame))
            yield frame

    parts = list(backfill_parts(windows.plan, kernels, frames()))
    assert [len(part.offsets) for part in parts] == [3] * 6 + [0]
    whole = backfill(windows.plan, kernels, frames())
    np.testing.assert_array_equal(np.concatenate([part.features for part in parts]), whole.features)
