"""Bits of all that a stream keeps flip, and files end early (`bench/bit_flips.py` does it ten thousand times)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from flips.campaign import CLASSES, Campaign, Damage
from flips.stream import EVENTS

from skyriver.data import id_runs, ids

FLIPS = 6 * int(os.environ.get("FAULT_ROUNDS", "50"))


def test_whatever_rots_is_told_or_mended_and_never_served(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Path("/dev/shm")  # nothing of this is about the disk
    with tempfile.TemporaryDirectory(prefix="flips-", dir=memory if memory.is_dir() else None) as folder:
        outcome = Campaign(Path(folder), kernels, seed=11).run(FLIPS)
    assert outcome.silent == []
    assert outcome.unnamed == []
    assert set(outcome.done) == set(CLASSES)


@pytest.mark.parametrize("unseen", [False, True])
def test_the_campaign_finds_an_error_that_nobody_tells(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unseen: bool
) -> None:
    """An id that the worker is asked for rots in the index, and nobody looks at the checksum."""
    campaign = Campaign(tmp_path, kernels, seed=1)
    sample = campaign._samples[0]
    key = np.int64(EVENTS - 41).tobytes()
    files = sorted((sample.place / "ids").glob("run-*"))
    damaged = [
        Damage("ids", f.relative_to(sample.place), 8 * at) for f in files if (at := f.read_bytes().find(key)) >= 0
    ]
    assert damaged
    if unseen:
        monkeypatch.setattr(ids, "open_run", unchecked)
    for damage in damaged:
        monkeypatch.setattr(campaign, "_choose", lambda _, damage=damage: damage)
        campaign.one(sample)
    assert bool(campaign.outcome.silent) == unseen


def unchecked(directory: Path, name: str, entries: int, crc: int, first: int, last: int) -> id_runs.Run:
    return id_runs.Run(*id_runs._map(directory / name, entries), first, last, name, crc)
