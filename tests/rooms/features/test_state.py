"""Snapshots, and what the state refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyriver.core.errors import Conflict, Corrupt, Internal
from skyriver.data.log import RecordKind
from skyriver.features.side import disk_side
from skyriver.features.state import EventBatch, FeatureState, open_state


def records(rng: np.random.Generator, n: int, first: int = 0, keys: int = 50) -> list[dict[str, Any]]:
    """Events and labels at random, from event number `first` on."""
    found: list[dict[str, Any]] = []
    events = first
    for t in np.sort(rng.integers(0, 3 * n, n)) + 3 * first:
        if rng.random() < 0.3 and events:
            of = int(rng.integers(max(0, events - 40), events))
            found.append({"of": of, "value": float(rng.integers(-3, 4)), "label": int(rng.integers(2))})
        else:
            y = float(rng.normal()) if rng.random() < 0.8 else float("nan")
            found.append({"t": int(t), "k": int(rng.integers(keys)) - 3, "x": float(rng.normal()), "y": y})
            events += 1
    return found


@pytest.mark.parametrize("cut", [0, 1, 700, 1_999, 2_000])
def test_a_restored_state_gives_the_same_bits(windows: Any, tmp_path: Path, kernels: Path, cut: int) -> None:
    everything = records(np.random.default_rng(cut), 2_000)
    expected = windows.exact(everything)
    state = open_state(windows.plan, tmp_path, kernels)
    done = len(windows.exact(everything[:cut], state))
    saved = state.snapshot()
    state.side.flush()
    windows.exact(everything[cut:], state, cut)  # lost again
    state.side.close()
    for _ in range(2):
        again = open_state(windows.plan, tmp_path, kernels, saved)
        np.testing.assert_array_equal(windows.exact(everything[cut:], again, cut), expected[done:])
        assert again.now == state.now


_FOLD = """
import sys
import numpy as np
from pathlib import Path
import skyriver as sr
from skyriver.features.plan import plan_features
from skyriver.features.state import EventBatch, open_state

class Event(sr.Event):
    id: int
    at: sr.Time
    k: int

app = sr.App("test")
stream = app.stream("events", Event, id="id", time="at", key="k")
found = app.features("set", stream, {"count": sr.count(by="k", over="50us")})
plan = plan_features(found.spec, app.spec.stream("events"))
home = Path(sys.argv[1])
saved = (home / "saved").read_bytes() if (home / "saved").exists() else None
state = open_state(plan, home / "side", Path(sys.argv[2]), saved)
for step in range(10):
    first = state.side.row_count
    t = np.arange(first, first + 1000)
    out = np.empty((1000, 1), np.float32)
    state.fold(EventBatch(np.ones(1000, np.uint8), t, t, {}, {"k": t % 3}), out)
    print(state.side.row_count, int(out[0, 0]), int(out[-1, 0]), flush=True)
    if step == 5:
        (home / "saved").write_bytes(state.snapshot())
        state.side.flush()
sys.stdin.read()
"""


def test_kill_9_loses_nothing_that_a_checkpoint_had(tmp_path: Path, kernels: Path) -> None:
    command = [sys.executable, "-c", _FOLD, str(tmp_path), str(kernels)]
    for start in (0, 6_000, 12_000):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline().split() for _ in range(10)]
            process.kill()
            process.wait(timeout=300)
        assert [int(line[0]) for line in lines] == [start + 1000 * step for step in range(1, 11)]
        # Of 50 events in the window every third is of the key: 16 or 17 of them, from the first event after a restart.
        counts = {int(number) for line in lines for number in line[1:]} - ({1} if start == 0 else set())
        assert counts <= {16, 17}


def test_a_snapshot_is_small(windows: Any) -> None:
    state = windows.state()
    windows.exact([{"t": 0, "k": k, "x": 1.0} for k in range(10_000)], state)
    assert len(state.snapshot()) < 10_000 * 2 * 25
    windows.exact([{"t": 100, "k": 1, "x": 1.0}], state, 10_000)
    assert len(state.snapshot()) < 1_000


def test_a_damaged_snapshot_is_refused_and_changes_nothing(windows: Any) -> None:
    state = windows.state()
    windows.exact([{"t": 1, "x": 1.0}], state)
    saved = state.snapshot()
    for at in range(len(saved)):
        broken = bytearray(saved)
        broken[at] ^= 16
        with pytest.raises(Corrupt):
            state.restore(bytes(broken))
    with pytest.raises(Corrupt):
        state.restore(saved[:-1])
    assert state.snapshot() == saved


def test_a_snapshot_of_other_features_is_refused(windows: Any, rows: Any) -> None:
    with pytest.raises(Conflict) as raised:
        rows.state().restore(windows.state().snapshot())
    assert raised.value.code == "SNAPSHOT_OF_OTHER_FEATURES"


def test_the_parts_must_belong_together(windows: Any, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(Internal):
        FeatureState(windows.plan, disk_side(windows.plan, tmp_path), rows.kernel)


def test_time_cannot_go_back(windows: Any) -> None:
    state = windows.state()
    with pytest.raises(Internal, match="Record 1"):
        windows.exact([{"t": 5}, {"t": 4}], state)


def test_lengths_are_checked(windows: Any) -> None:
    state, batch = windows.state(), windows.batch([{"t": 5}, {"t": 6}])
    with pytest.raises(Internal, match="no room"):
        state.fold(batch, np.empty((1, len(windows.plan.names)), np.float32))
    with pytest.raises(Internal, match="no room"):
        state.fold(batch, np.empty((2, 3), np.float32))
    out = np.empty((2, len(windows.plan.names)), np.float32)
    short = EventBatch(batch.kind, batch.effective[:1], batch.offset, batch.columns, batch.keys)
    with pytest.raises(Internal, match="differ in length"):
        state.fold(short, out)
    label = EventBatch(
        np.full(2, RecordKind.LABEL.value, np.uint8), batch.effective, batch.offset, batch.columns, batch.keys
    )
    with pytest.raises(Internal, match="differ in length"):
        state.fold(label, out)
    assert state.fold(EventBatch(batch.kind, batch.effective, batch.offset, batch.columns, batch.keys), out) == 2


def test_other_kinds_of_records_are_refused(windows: Any) -> None:
    batch = windows.batch([{"t": 5}])
    odd = EventBatch(batch.kind + np.uint8(3), batch.effective, batch.offset, batch.columns, batch.keys)
    with pytest.raises(Internal, match="neither an event nor a label"):
        windows.state().fold(odd, np.empty((1, len(windows.plan.names)), np.float32))


def test_read_only_arrays_are_taken(windows: Any) -> None:
    batch = windows.batch([{"t": 5, "x": 2.0}])
    for array in (batch.kind, batch.effective, batch.offset, batch.subject_row, batch.label, batch.value):
        array.flags.writeable = False
    out = np.empty((1, len(windows.plan.names)), np.float32)
    assert windows.state().fold(batch, out) == 1
    assert out[0, 1] == 2.0
