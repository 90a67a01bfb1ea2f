"""What keys cost, and that those that went idle cost nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import skyriver as sr
from skyriver.features.arrays import FIRST_SLOTS

WAVE = 5_000


@pytest.fixture(scope="module")
def trails(folder: Any) -> Any:
    return folder(
        lambda s, late, now: {
            "count": sr.count(by="k", over="90us"),
            "least": sr.minimum("x", by="k", over="90us"),
            "recent": sr.decayed_mean("x", by="k", over="60us", half_life="30us"),
            "keys": sr.distinct("k", by="k2", over="90us", max_events=4),
            "since": sr.since(by="k2", over="90us"),
        }
    )


def wave(number: int, events: int = 2) -> list[dict[str, Any]]:
    """Two events of each of so many keys that no other wave has."""
    return [
        {"t": 1_000 * number + place // WAVE, "k": number * WAVE + place % WAVE, "x": float(place % 7)}
        for place in range(events * WAVE)
    ]


def test_keys_that_went_idle_make_room_for_others(trails: Any) -> None:
    state = trails.state()
    memory, snapshots = [], []
    for number in range(10):
        found = trails.exact(wave(number), state, number * 2 * WAVE)
        state.side.release(state.mark())
        memory.append(state.memory_bytes)
        snapshots.append(len(state.snapshot()))
        assert state.active_keys == {"k": WAVE, "k2": WAVE // 2}
        assert np.count_nonzero(found[:WAVE, 0] == 1) == WAVE, "nothing is left of the wave before"
        assert np.isnan(found[:WAVE, 4]).sum() == WAVE // 2
    assert memory[0] <= 5 * FIRST_SLOTS * sum(most for _, most in trails.plan.key_bytes.values())
    assert len(set(memory[1:])) == 1, memory
    # Rows and nodes keep their numbers, so those of later waves are longer ones; the number of them does not grow.
    assert max(snapshots) <= 1.1 * snapshots[0]


def test_a_key_costs_what_the_plan_states(trails: Any) -> None:
    state = trails.state()
    trails.exact(wave(0, events=1), state)
    slots = {"k": 8_192, "k2": 4_096}
    tables = sum(slots[name] * least for name, (least, _) in trails.plan.key_bytes.items())
    nodes = 3 * WAVE  # of each key one for its minimum, its pane, its place among the different keys
    assert state.memory_bytes == tables + 56 * (1 << nodes.bit_length())


def test_a_key_that_comes_all_the_time_holds_no_more_than_its_limit(folder: Any) -> None:
    bounded = folder(lambda s, late, now: {"least": sr.minimum("x", by="k", over="1s", max_events=50)})
    state = bounded.state()
    events = [{"t": t, "k": 0, "x": float(t)} for t in range(5_000)]  # each one is a candidate as long as it counts
    assert bounded.exact(events, state)[-1, 0] == 4_950
    assert state.memory_bytes == FIRST_SLOTS * (bounded.plan.key_bytes["k"][0] + 56)
