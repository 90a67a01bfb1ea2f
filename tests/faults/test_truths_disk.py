"""Labels that a replay keeps in a file, on a full disk: an error that says what to do, not the end of the process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from skyriver.core.errors import Unavailable
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.records import LabelRecord, encode
from skyriver.decide.replay.truths import Truths

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from kills.stream_disturbances import fill

EVENTS = 100_000


@pytest.mark.parametrize("disk", [1], indirect=True)
def test_room_for_all_labels_is_taken_at_once_or_not_at_all(disk: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        Truths(disk / "labels", 0, 10 * EVENTS, 0, 0)
    assert caught.value.code == "DISK_FULL"
    assert caught.value.next_action
    assert list(disk.iterdir()) == [], "and what it had taken is given back"

    found = Truths(disk / "labels", 0, EVENTS, 0, 10)
    fill(disk / "filler")
    for offset in range(0, EVENTS, 500):  # into every page
        found.apply(Record(RecordKind.LABEL, 5, encode(LabelRecord(0, offset, 1.0, 5, offset))))
    told = found.of(np.arange(EVENTS), np.full(EVENTS, 10))
    assert (told == 1).sum() == EVENTS // 500
    assert np.isnan(told).sum() == EVENTS - EVENTS // 500
