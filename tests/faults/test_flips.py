"""Bits of all that a stream keeps flip, and files end early (`bench/bit_flips.py` does it ten thousand times)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from flips.campaign import CLASSES, Campaign

FLIPS = 6 * int(os.environ.get("FAULT_ROUNDS", "50"))


def test_whatever_rots_is_told_or_mended_and_never_served(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Path("/dev/shm")  # nothing of this is about the disk
    with tempfile.TemporaryDirectory(prefix="flips-", dir=memory if memory.is_dir() else None) as folder:
        outcome = Campaign(Path(folder), kernels, seed=11).run(FLIPS)
    assert outcome.silent == []
    assert outcome.unnamed == []
    assert set(outcome.done) == set(CLASSES)
