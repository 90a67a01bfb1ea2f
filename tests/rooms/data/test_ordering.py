"""Sorting outside memory gives what sorting in memory gives, whatever the sizes of runs and chunks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.data import ordering
from skyriver.data.ordering import Sorter, merge

rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(given_rows=st.lists(rows, max_size=6), chunk=st.integers(1, 9), run_bytes=st.integers(1, 1_500))
def test_it_is_the_same_stable_order(given_rows: list[list[tuple[int, int]]], chunk: int, run_bytes: int) -> None:
    frames = [
        pl.DataFrame(part, schema={"time": pl.Int64, "id": pl.Int64}, orient="row").with_columns(
            came=pl.lit(number * 100) + pl.int_range(pl.len()), text=pl.format("t{}", "id")
        )
        for number, part in enumerate(given_rows)
    ]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "CHUNK_ROWS", chunk)
        patch.setattr(ordering, "RUN_BYTES", run_bytes)
        sorter = Sorter(Path(folder), "events", ["time", "id"])
        for frame in frames:
            sorter.add(frame)
        found = list(sorter.sorted())
        assert list(Path(folder).iterdir()) == [], "what was read is removed"
    assert all(len(piece) for piece in found)
    if any(len(frame) for frame in frames):
        assert pl.concat(found).equals(pl.concat(frames).sort("time", "id", maintain_order=True))
    else:
        assert found == []


@settings(max_examples=150, deadline=None)
@given(left=st.lists(st.integers(0, 9)), right=st.lists(st.integers(0, 9)), size=st.integers(1, 5))
def test_two_sources_become_one_and_the_first_goes_first(left: list[int], right: list[int], size: int) -> None:
    frames = [
        pl.DataFrame({"time": sorted(times)}, schema={"time": pl.Int64}).with_columns(source=pl.lit(name))
        for name, times in (("a", left), ("b", right))
    ]
    found = list(merge([iter(list(frame.iter_slices(size)) if len(frame) else []) for frame in frames], ["time"]))
    if left or right:
        assert pl.concat(found).equals(pl.concat(frames).sort("time", maintain_order=True))
    else:
        assert found == []
