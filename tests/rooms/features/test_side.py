"""The side log in memory and on disk: cut, released, damaged, found by offset."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, Corrupt, Unavailable
from skyriver.features import buffers
from skyriver.features.side import Side, disk_side, memory_side


@pytest.fixture(params=["memory", "disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Side]:
    return lambda plan: memory_side(plan) if request.param == "memory" else disk_side(plan, tmp_path / "side")


def held_below(folder: Path) -> list[Path]:
    """Files there that this process has open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(each.readlink())
    return [path for path in found if path.is_relative_to(folder)]


def history(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Events 3 us apart, each labelled by the record after it."""
    records: list[dict[str, Any]] = []
    for i in range(start, start + n):
        records += [{"t": 3 * i, "k": i % 5, "x": float(i % 11)}, {"of": i, "value": float(i % 3)}]
    return records


def test_rows_are_found_by_offset(windows: Any, make: Callable[[Any], Side]) -> None:
    state = windows.state(make(windows.plan))
    windows.exact(history(1_000), state)  # events have the even offsets
    found = state.side.rows_of(np.array([0, 1, 2, 999, 1_998, 1_999, 5_000, -1]))
    assert found.tolist() == [0, -1, 1, -1, 999, -1, -1, -1]
    assert windows.state().side.rows_of(np.array([0, 3])).tolist() == [-1, -1]


def test_released_rows_give_back_their_space_and_keep_their_numbers(windows: Any, make: Callable[[Any], Side]) -> None:
    whole, state = windows.state(), windows.state(make(windows.plan))
    for part in range(4):
        records = history(10_000, 10_000 * part)
        expected = windows.exact(records, whole, 20_000 * part)
        np.testing.assert_array_equal(windows.exact(records, state, 20_000 * part), expected)
        state.side.release(state.mark())
    assert not state.side.rows.array[:1_000].any()
    assert state.side.rows_of(np.array([2, 79_998])).tolist() == [-1, 39_999]
    saved = state.snapshot()
    windows.exact(history(10, 40_000), state, 80_000)
    state.restore(saved)
    assert state.side.row_count == 40_000


def test_space_is_given_back_to_the_disk(windows: Any, tmp_path: Path) -> None:
    state = windows.state(disk_side(windows.plan, tmp_path))
    for part in range(10):
        windows.exact(history(10_000, 10_000 * part), state, 20_000 * part)
        state.side.flush()
        state.side.release(state.mark())
    state.side.flush()
    for name in ("rows", "labels", "journal"):
        used = (tmp_path / name).stat().st_blocks * 512
        assert used < 2 * buffers.RESERVE_BYTES, name


def test_a_cut_goes_back_to_a_checkpoint_with_its_labels(windows: Any, make: Callable[[Any], Side]) -> None:
    state = windows.state(make(windows.plan))
    windows.exact([{"t": 0}, {"of": 0, "value": 1.0}], state)
    saved = state.snapshot()
    windows.exact([{"of": 0, "value": 9.0}, {"t": 1}, {"of": 1, "value": 9.0}], state, 2)
    state.restore(saved)
    assert state.side.labels.array[0, 0] ^ -(2**63) == 1 << 40
    assert windows.exact([{"t": 1}, {"t": 6}], state, 2)[1, windows.plan.names.index("late_sum")] == 1


def test_a_side_log_that_ends_before_the_checkpoint_is_refused(windows: Any, tmp_path: Path) -> None:
    state = windows.state(disk_side(windows.plan, tmp_path))
    windows.exact(history(1_000), state)
    mark = state.mark()
    state.side.flush()
    state.side.close()
    with pytest.raises(Corrupt, match=f"entry {mark.rows} of its rows"):
        disk_side(windows.plan, tmp_path).cut(replace(mark, rows=mark.rows + 1))
    with pytest.raises(Corrupt, match="ends before"):
        disk_side(windows.plan, tmp_path).cut(replace(mark, rows=10**8))
    with pytest.raises(Corrupt, match="of its journal"):
        disk_side(windows.plan, tmp_path).cut(replace(mark, entries=mark.entries + 1))
    disk_side(windows.plan, tmp_path).cut(mark)


def test_a_side_log_of_another_history_is_refused(windows: Any, tmp_path: Path) -> None:
    marks = []
    for name, x in (("one", 1.0), ("two", 2.0)):
        state = windows.state(disk_side(windows.plan, tmp_path / name))
        windows.exact([{"t": 0}, {"of": 0, "value": x}, {"t": 1, "x": x}], state)
        marks.append(state.mark())
        state.side.close()
    with pytest.raises(Corrupt, match="another history"):
        disk_side(windows.plan, tmp_path / "two").cut(marks[0])
    with pytest.raises(Corrupt, match="another history"):
        disk_side(windows.plan, tmp_path / "two").cut(replace(marks[0], row_check=marks[1].row_check))


@pytest.mark.parametrize("name", ["rows", "journal"])
def test_every_flipped_bit_of_a_live_row_is_noticed(windows: Any, tmp_path: Path, name: str) -> None:
    state = windows.state(disk_side(windows.plan, tmp_path))
    windows.exact(history(20), state)
    mark = state.mark()
    state.side.flush()
    width = 8 * windows.plan.row_width if name == "rows" else 32
    last = mark.rows - 1 if name == "rows" else mark.entries - 1
    path = tmp_path / name
    whole = path.read_bytes()
    for bit in range(8 * width):
        data = bytearray(whole[: width * (last + 1)])
        data[width * last + bit // 8] ^= 1 << bit % 8
        with path.open("r+b") as file:
            file.write(data)
        with pytest.raises(Corrupt) as raised:
            disk_side(windows.plan, tmp_path).cut(mark)
        assert raised.value.where == str(path)


def test_a_row_that_rots_while_it_waits_for_a_cursor_is_noticed_before_it_counts(windows: Any, tmp_path: Path) -> None:
    for word in range(windows.plan.row_width):
        state = windows.state(disk_side(windows.plan, tmp_path / str(word)))
        windows.exact([{"t": i, "x": 1.0} for i in range(5)], state)
        with (tmp_path / str(word) / "rows").open("r+b") as file:
            file.seek(8 * (2 * windows.plan.row_width + word) + 6)
            file.write(b"\x5a")
        with pytest.raises(Corrupt, match="entry 2 of its rows"):
            windows.exact([{"t": 100, "x": 1.0}], state, 5)


def test_a_directory_of_other_features_is_refused(windows: Any, rows: Any, tmp_path: Path) -> None:
    disk_side(windows.plan, tmp_path)
    with pytest.raises(Conflict) as raised:
        disk_side(rows.plan, tmp_path)
    assert raised.value.code == "SIDE_OF_OTHER_FEATURES"


def test_a_damaged_word_about_the_directory_is_written_again(windows: Any, rows: Any, tmp_path: Path) -> None:
    """The plan says the same; what was written there has checksums of its own."""
    disk_side(windows.plan, tmp_path)
    about = tmp_path / "side.json"
    before = about.read_bytes()
    about.write_bytes(before[:20])
    disk_side(windows.plan, tmp_path)
    assert about.read_bytes() == before
    with pytest.raises(Conflict):
        disk_side(rows.plan, tmp_path)


def test_a_full_disk_is_told_and_changes_nothing(windows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = windows.state(disk_side(windows.plan, tmp_path))
    windows.exact(history(3), state)
    before = state.snapshot()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(buffers.os, "posix_fallocate", full)
        with pytest.raises(Unavailable) as raised:
            windows.exact(history(100_000, 3), state, 6)
    assert raised.value.code == "DISK_FULL"
    assert state.snapshot() == before
    windows.exact(history(100_000, 3), state, 6)


def test_a_new_log_in_an_old_directory_begins_without_old_labels(windows: Any, tmp_path: Path) -> None:
    windows.exact(history(100), windows.state(disk_side(windows.plan, tmp_path)))
    fresh = windows.state(disk_side(windows.plan, tmp_path))
    assert windows.exact([{"t": 0}, {"t": 6}], fresh)[1, windows.plan.names.index("late_sum")] == 0


def test_files_that_nobody_closes_are_closed_with_what_holds_them(windows: Any, tmp_path: Path) -> None:
    side = disk_side(windows.plan, tmp_path)
    assert held_below(tmp_path)
    del side
    assert held_below(tmp_path) == []


def test_a_side_log_that_cannot_be_opened_holds_no_files(windows: Any, tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(Unavailable):
        disk_side(windows.plan, tmp_path)
    assert held_below(tmp_path) == []


@pytest.mark.parametrize("row", [201, 263, 264, 265, 299])
@pytest.mark.parametrize("together", [1, 70, 1_000])
def test_a_damaged_row_is_found_by_the_event_that_reads_it(folder: Callable[..., Any], row: int, together: int) -> None:
    """However many events come together, and wherever the row stands among those that are checked with it."""
    counts = folder(lambda s, late, now: {"count": sr.count(by="k", over="100us")})
    records = [{"t": t, "k": t % 3} for t in range(600)]
    reader = row + 99  # takes the row before out of the window, and looks at what is next
    for word in range(counts.plan.row_width):
        state = counts.state()
        counts.exact(records[:300], state)
        state.side.rows.array[row, word] ^= 1 << 40
        for start in range(300, reader, together):
            counts.exact(records[start : min(start + together, reader)], state, start)
        with pytest.raises(Corrupt, match=f"entry {row} of its rows"):
            counts.exact(records[reader : reader + together], state, reader)
