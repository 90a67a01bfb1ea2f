"""The power goes while changed features are built: what was built is of the log that is there afterwards."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.segments.layout import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from skyriver.adapters.segments.log import SegmentReader, open_log
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.checkpoint import CheckpointFiles
from skyriver.decide.log.records import Value, encode_event
from skyriver.decide.partition import building
from skyriver.decide.partition.building import Resting, build, built
from skyriver.decide.partition.kernel_windows import WindowsFiles, memory_windows
from skyriver.wiring.process import SystemClock

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness

START, SECOND = 1_700_000_000_000_000, 1_000_000


def event(number: int, amount: float) -> list[Value]:
    return [number, START + number * SECOND, 1, "web", amount]


class Place:
    """A stream whose features are built."""

    def __init__(self, directory: Path, kernels: Path) -> None:
        self.log, self.building = directory / "log", directory / "building"
        app = harness.declare()
        self.stream, self.features = app.streams[0], app.feature_sets[0]
        self.files = WindowsFiles(self.stream, directory / "side", kernels)

    def write(self, numbers: range, amount: float) -> None:
        log = open_log(self.log, durability="process", holder="test", take_over=True)
        log.append(
            [Record(RecordKind.EVENT, START + n * SECOND, encode_event(0, event(n, amount))) for n in numbers],
        )
        log.sync()
        log.abandon()

    def cut(self, end: int) -> None:
        """The records from `end` on were not on the disk yet."""
        segment = next(self.log.glob("*.log"))
        kept = SegmentReader(self.log).read(0, end=end)
        os.truncate(segment, SEGMENT_HEADER_BYTES + sum(FRAME_HEADER_BYTES + len(r.payload) for r in kept))
        (self.log / "mark").unlink()

    def build(self, reader: Any = None) -> int:
        resting = Resting(1.0, SystemClock(), lambda _: None)
        reader = reader if reader is not None else SegmentReader(self.log)
        return build(reader, self.files, self.features, self.building, resting, lambda *_: None)


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(building, "CLOSE_RECORDS", 0)
    return Place(tmp_path, tmp_path_factory.getbasetemp() / "kernels")


def test_it_reads_no_further_than_the_disk_has_the_log(place: Place) -> None:
    class Reader(SegmentReader):
        """The writer goes on while the disk is waited for."""

        def sync(self) -> int:
            return super().sync() - 400

    place.write(range(1000), 1.0)
    assert place.build(Reader(place.log)) == 600


def test_what_was_built_of_records_that_are_gone_is_built_anew(place: Place) -> None:
    place.write(range(1000), 1.0)
    assert place.build() == 1000
    place.cut(500)  # a disk that said it had them
    place.write(range(500, 1600), 100.0)
    assert place.build() == 1600
    saved = built(CheckpointFiles(place.building), place.files.digest_of(place.features), 1600)
    assert saved is not None
    built_ones = place.files.open(place.features, saved.features)
    prepared = place.files.prepare(place.features)
    right = memory_windows(place.stream, prepared.plan, prepared.kernel)
    rows = [event(n, 1.0 if n < 500 else 100.0) for n in range(1600)]
    right.fold_events(range(1600), [START + n * SECOND for n in range(1600)], rows)
    found, wanted = (
        windows.fold_events([1600], [START + 1600 * SECOND], [event(1600, 100.0)]) for windows in (built_ones, right)
    )
    built_ones.close()
    right.close()
    assert found.tolist() == wanted.tolist()


def test_what_was_built_is_gone_on_from(place: Place) -> None:
    place.write(range(1000), 1.0)
    assert place.build() == 1000
    place.write(range(1000, 1600), 1.0)
    read: list[int] = []

    class Reader(SegmentReader):
        def read(self, start: int = 0, *, end: int | None = None) -> Any:
            read.append(start)
            return super().read(start, end=end)

    assert place.build(Reader(place.log)) == 1600
    assert min(read) == 999, "its last record, and what came since"
