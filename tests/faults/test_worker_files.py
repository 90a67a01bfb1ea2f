"""What a partition keeps beside its log, damaged: a restart is right all the same, it only takes longer."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyriver.adapters.segments.layout import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from skyriver.adapters.segments.log import SegmentReader, open_log
from skyriver.core.errors import Conflict, Unavailable
from skyriver.data.log import Record, RecordKind
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.log.checkpoint import Checkpoint, CheckpointFiles, Counters, SavedSet
from skyriver.decide.log.records import ModelInUse
from skyriver.decide.partition.kernel_windows import WindowsFiles
from skyriver.decide.partition.opening import Keeper, PartitionFiles
from skyriver.decide.partition.recovery import recover
from skyriver.decide.rules.ruleset import rules_of
from skyriver.decide.worker.border import EventBorder, LabelBorder

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness

START = 1_700_000_000_000_000
SECOND = 1_000_000


class Clock:
    us = START

    def wall(self) -> int:
        return self.us

    def monotonic(self) -> int:
        return self.us - START


class Score:
    def score(self, features: Any) -> Any:
        return features[:, 0] / np.float32(100)


class Life:
    """A partition on disk, in this process."""

    segment_bytes = 64 << 20

    def __init__(self, directory: Path, kernels: Path) -> None:
        self.app = harness.declare()
        self.directory = directory
        self.kernels = kernels
        self.clock = Clock()
        self.number = 0

    @property
    def stream(self) -> Any:
        return self.app.streams[0]

    def start(self) -> Life:
        features = self.app.feature_sets[0]
        self.log = open_log(
            self.directory / "log",
            durability="process",
            segment_bytes=self.segment_bytes,
            holder="test",
            take_over=True,
        )
        windows = WindowsFiles(self.stream, self.directory / "side", self.kernels)
        self.files = PartitionFiles(self.stream, self.directory, self.log, windows, self.clock, features)
        rules = rules_of(self.app.decides[0], self.stream, features)
        self.keeper = Keeper(self.files, self.clock)
        self.engine = self.files.open(lambda *_: Deciding(rules, ModelInUse("m", 1, "a"), Score()), lambda *_: None)
        assert self.files.recovered is not None
        self.replayed_from = self.files.recovered.offset
        self.keeper.opened(self.replayed_from)
        return self

    def crash(self) -> None:
        """As a kill: nothing is written any more."""
        self.keeper.close()
        self.files.close()
        self.log.abandon()

    def send(self, count: int) -> None:
        """Events two hours apart, and a label for every fifth."""
        for _ in range(count):
            self.clock.us += 7200 * SECOND
            self.number += 1
            event = harness.payment(self.number, customer=self.number % 5, amount=self.number % 90, at=self.clock.us)
            self.engine.take([EventBorder(self.stream).take([event], 0, False)])
            if self.number % 5 == 0:
                row = {"payment": self.number - 3, "fraud": 1}
                self.engine.label([LabelBorder(self.stream).take([row], self.clock.us, self.clock.us)])
                self.log.sync()

    def save(self) -> int:
        offset = self.log.next_offset
        self.keeper.begin(self.engine, offset)
        self.keeper.settle()
        assert self.keeper.problem == ""
        return offset

    def verify(self) -> int:
        """How many decisions were compared; all must be equal."""
        reader = SegmentReader(self.directory / "log")
        report = harness.verify_stream(reader, self.stream, self.app.feature_sets[0], self.kernels, lambda *_: None)
        assert report.first_differences == ()
        assert report.compared == report.decisions
        return report.compared


@pytest.fixture
def life(tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    monkeypatch.setattr("skyriver.decide.partition.journal.FLUSH", 12)  # some ids in files, some in checkpoints
    return Life(tmp_path, kernels).start()


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def checkpoints(life: Life) -> list[Path]:
    return sorted((life.directory / "checkpoint").iterdir(), reverse=True)


def test_a_restart_goes_on_from_the_newest_checkpoint(life: Life) -> None:
    for _ in range(4):
        life.send(30)
        newest = life.save()
    life.send(17)
    life.crash()
    assert len(checkpoints(life)) == 2
    life.start()
    assert life.replayed_from == newest
    life.send(40)
    assert life.verify() == 4 * 30 + 17 + 40


def test_ids_that_neither_log_nor_labels_can_reach_are_forgotten(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    life.send(600)  # fifty days; a label counts for thirty, some days late
    life.save()
    assert life.engine.find(1)[0] >= 0, "the log has it"
    first_of_last = life.engine.find(590)[0]
    monkeypatch.setattr(type(life.log), "begin", lambda log: (first_of_last, 0))  # as if all before were given up
    life.save()
    found = [life.engine.find(number)[0] for number in range(1, 601)]
    forgotten = found.index(next(offset for offset in found if offset >= 0))
    assert forgotten >= 120, "what is older than all windows"
    assert 30 * 12 <= 600 - forgotten <= 480, "what a label may still be for is found"
    assert min(found[forgotten:]) >= 0
    life.send(20)
    assert life.verify() == 620


def test_a_damaged_checkpoint_is_passed_over(life: Life) -> None:
    offsets = []
    for _ in range(2):
        life.send(25)
        offsets.append(life.save())
    life.send(5)
    life.crash()
    flip(checkpoints(life)[0], -7)
    life.start()
    assert life.replayed_from == offsets[0]
    life.send(20)
    life.crash()
    for path in checkpoints(life):
        flip(path, 30)
    life.start()
    assert life.replayed_from == 0
    life.send(20)
    assert life.verify() == 95


def test_a_checkpoint_beyond_the_end_of_the_log_is_set_aside_until_the_next_one(life: Life) -> None:
    life.send(10)
    offset = life.save()
    life.crash()
    newest = checkpoints(life)[0]
    beyond = newest.with_name(f"{offset + 1000:020d}.checkpoint")
    beyond.write_bytes(newest.read_bytes())
    life.start()
    assert not beyond.exists()
    assert beyond.with_suffix(".beyond").read_bytes() == newest.read_bytes()
    assert life.replayed_from == offset
    life.send(10)
    second = life.save()
    assert [path.name for path in checkpoints(life)] == [f"{at:020d}.checkpoint" for at in (second, offset)]
    assert life.verify() == 20


def test_a_checkpoint_stands_on_what_the_disk_has_of_the_log(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """At "process" too: the log's last records are put on the disk before the checkpoint gets its name."""
    life.send(10)
    done: list[tuple[str, int]] = []
    synced, named = os.fdatasync, Path.replace
    log_file = max((life.directory / "log").glob("*.log"))

    def fdatasync(fd: int) -> None:
        synced(fd)
        if os.fstat(fd).st_ino == log_file.stat().st_ino:
            done.append(("log", os.fstat(fd).st_size))

    def replace(self: Path, target: Path) -> Path:
        if target.suffix == ".checkpoint":
            done.append(("checkpoint", log_file.stat().st_size))
        return named(self, target)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(Path, "replace", replace)
    life.save()
    size = log_file.stat().st_size
    assert done == [("log", size), ("checkpoint", size)]


def test_a_disk_that_fails_under_a_checkpoint_ends_the_log(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    life.send(10)
    offset = life.save()
    life.send(10)

    synced, log_file = os.fdatasync, max((life.directory / "log").glob("*.log"))

    def broken(fd: int) -> None:
        if os.fstat(fd).st_ino == log_file.stat().st_ino:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        life.keeper.begin(life.engine, life.log.next_offset)
        life.keeper.settle()
    assert "cannot be written" in life.keeper.problem
    assert [path.name for path in checkpoints(life)] == [f"{offset:020d}.checkpoint"]
    with pytest.raises(Unavailable) as caught:  # the kernel tells of it once: what the disk has nobody knows
        life.send(1)
    assert caught.value.code == "LOG_FAILED"


def test_a_checkpoint_of_records_that_a_power_cut_took_is_passed_over(life: Life) -> None:
    life.send(20)
    life.save()
    life.send(20)
    life.save()
    life.crash()
    stale = checkpoints(life)[0]
    cut_log(life.directory / "log", int(checkpoints(life)[1].stem) + 3)
    life.start()
    kept = stale.with_suffix(".beyond").read_bytes()
    life.send(30)  # others take the offsets
    life.crash()
    stale.write_bytes(kept)
    for path in checkpoints(life):
        if path != stale:
            path.unlink()
    life.start()
    assert life.replayed_from == 0
    assert life.files.recovered is not None
    assert "another record" in life.files.recovered.passed_over[0]
    life.send(10)
    life.verify()


def cut_log(log: Path, end: int) -> None:
    """As a power cut that leaves the open segment's records below this offset."""
    segment = max(log.glob("*.log"))
    base = int(segment.name.split("-")[0])
    records = list(SegmentReader(log).read(base, end=end))
    os.truncate(segment, SEGMENT_HEADER_BYTES + sum(FRAME_HEADER_BYTES + len(r.payload) for r in records))
    (log / "mark").unlink()


def test_a_checkpoint_that_cannot_be_read_is_passed_over(
    life: Life, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    life.send(25)
    offset = life.save()
    life.send(25)
    life.save()
    life.crash()
    newest, read = checkpoints(life)[0], Path.read_bytes

    def broken(self: Path) -> bytes:
        if self == newest:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        life.start()
    assert life.replayed_from == offset
    assert f"{newest} cannot be read" in caplog.text
    life.send(10)
    assert life.verify() == 60


def test_a_start_that_cannot_go_on_leaves_what_the_next_one_needs(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has given up what the features look back to, and the disk does not give the checkpoints, once."""
    life.crash()
    life.segment_bytes = 4_000
    life.start()
    for _ in range(3):
        life.send(40)
        life.engine.use(life.engine.deciding)
        life.log.sync()
        newest = life.save()
    assert life.log.remove_before(min(life.files.needed, life.engine.control_offset)) > 0
    life.crash()
    read = Path.read_bytes

    def broken(self: Path) -> bytes:
        if self.suffix == ".checkpoint":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return read(self)

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", broken)
            with pytest.raises(Conflict) as caught:
                life.start()
        assert caught.value.code == "HISTORY_GONE"
        life.crash()
    life.start()
    assert life.replayed_from == newest
    for _ in range(2):
        life.send(5)
        life.save()
    assert len(list((life.directory / "side").iterdir())) == 1


def test_an_engine_that_is_opened_again_moves_no_limit(life: Life) -> None:
    """A sender whose clock is fast sends the latest time that is taken, before each of five errors."""
    life.send(1)
    ahead = life.stream.ahead_us
    for _ in range(5):
        latest = life.files.receiving.limit(life.clock.us)
        life.number += 1
        event = harness.payment(life.number, at=latest)
        (receipt,) = life.engine.take([EventBorder(life.stream).take([event], 0, False)])
        assert receipt.accepted == 1
        life.engine = life.files.open(lambda *_: Deciding(), lambda *_: None)
    assert life.files.receiving.limit(life.clock.us) == life.clock.us + ahead
    life.crash()
    life.start()  # of a process that is started, the clock may have been behind
    assert life.files.receiving.limit(life.clock.us) == life.clock.us + 2 * ahead


def test_a_log_that_begins_at_its_own_end_is_opened(tmp_path: Path) -> None:
    stream = harness.declare().streams[0]
    for _ in range(2):  # closed, so that nothing is in the segment that is written
        log = open_log(tmp_path / "log", durability="process", segment_bytes=2000, holder="test")
        for n in range(9):
            log.append([Record(RecordKind.DEAD, START + n, b"x" * 1000)])
            log.sync()
        log.close()
    log = open_log(tmp_path / "log", durability="process", segment_bytes=2000, holder="test")
    log.remove_before(log.next_offset)
    assert log.begin() == (18, START + 8)
    nothing: Any = None
    found = recover(
        log,
        stream,
        checkpoints=iter(()),
        open_windows=lambda _: nothing,
        open_ids=lambda _: nothing,
        progress=lambda *_: None,
    )
    log.close()
    assert (found.offset, found.partition.time) == (18, START + 8)


def damage_side(life: Life) -> None:
    rows = next((life.directory / "side").rglob("rows"))
    flip(rows, 8 * 5)


def lose_side(life: Life) -> None:
    next((life.directory / "side").rglob("rows")).unlink()


def damage_ids(life: Life) -> None:
    for path in (life.directory / "ids").iterdir():
        flip(path, 70)


def lose_ids(life: Life) -> None:
    for path in (life.directory / "ids").iterdir():
        path.unlink()


@pytest.mark.parametrize("damage", [damage_side, lose_side, damage_ids, lose_ids])
def test_damaged_helpers_are_built_anew_from_the_log(life: Life, damage: Callable[[Life], None]) -> None:
    life.send(12)
    life.save()
    life.send(3)
    life.crash()
    damage(life)
    life.start()
    assert life.replayed_from == 0
    receipt = life.engine.take([EventBorder(life.stream).take([harness.payment(4, at=life.clock.us)], 0, False)])[0]
    assert receipt.duplicates == 1
    life.send(10)
    assert life.verify() == 25


def test_after_a_replay_that_failed_files_of_others_stay_open(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    life.send(12)
    life.save()

    def broken(self: Any) -> None:
        raise Unavailable("The disk does not answer.", code="DISK_FAILED")

    with monkeypatch.context() as patch:
        patch.setattr("skyriver.decide.partition.recovery.Replay.finish", broken)
        with pytest.raises(Unavailable):
            life.files.open(Deciding(), lambda *_: None)
    others = [os.open(life.directory, os.O_RDONLY) for _ in range(8)]  # the numbers that the windows had
    life.files.close()
    for other in others:
        os.close(other)
    life.keeper.close()
    life.log.abandon()
    life.start()
    life.send(5)
    assert life.verify() == 17


def test_a_checkpoint_that_fails_is_told_and_tried_again(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    life.send(5)
    life.save()

    def full(self: Any, checkpoint: Any) -> None:
        raise Unavailable("The disk is full.", code="DISK_FULL")

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFiles, "write", full)
        life.send(5)
        life.keeper.begin(life.engine, life.log.next_offset)
        life.keeper.settle()
        assert "The disk is full" in life.keeper.problem
    life.send(5)
    newest = life.save()
    life.crash()
    life.start()
    assert life.replayed_from == newest
    assert life.verify() == 15


def test_a_checkpoint_that_fails_for_whatever_reason_leaves_what_the_older_one_needs(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.send(5)
    life.save()
    life.send(25)
    older = life.save()

    def refuse(self: Any, checkpoint: Any) -> None:
        raise ValueError("It cannot be encoded.")

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFiles, "write", refuse)
        life.send(30)
        life.keeper.begin(life.engine, life.log.next_offset)
        life.keeper.settle()
    assert "cannot be encoded" in life.keeper.problem
    needed = life.files.needed
    life.send(30)
    newest = life.save()
    assert life.files.needed >= needed
    assert [int(path.stem) for path in checkpoints(life)] == [newest, older]
    life.crash()
    flip(checkpoints(life)[0], -7)
    life.start()
    assert life.replayed_from == older, "all that it needs is there"
    life.send(5)
    assert life.verify() == 95


def test_states_of_any_size_are_saved(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.decide.log.checkpoint.LARGE_BYTES", 1)
    life.send(20)
    offset = life.save()
    newest = checkpoints(life)[0]
    assert newest.read_bytes().startswith(b"SKYRCP2")
    life.crash()
    life.start()
    assert life.replayed_from == offset
    life.send(20)
    assert life.verify() == 40
    life.crash()
    flip(newest, -7)
    life.start()
    assert life.replayed_from == 0


@pytest.mark.parametrize("large", [1, 1 << 30])
def test_states_come_back_as_they_were_saved(large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.decide.log.checkpoint.LARGE_BYTES", large)
    files = CheckpointFiles(tmp_path)
    for offset, beside in enumerate((None, SavedSet("b", {"name": "beside"}, b"of those beside" * 9))):
        saved = Checkpoint(offset, 7, "a", b"state" * 100, b"ids", Counters(), ((3, 4),), None, (), beside=beside)
        files.write(saved)
        assert next(files.newest_first(offset)) == saved


def test_it_is_time_for_a_checkpoint_after_seconds_or_many_records(life: Life) -> None:
    assert not life.keeper.due(life.replayed_from)
    assert not life.keeper.due(life.replayed_from + 1)
    assert life.keeper.due(life.replayed_from + 50_000)
    life.clock.us += 5 * SECOND
    assert life.keeper.due(life.replayed_from + 1)
    assert not life.keeper.due(life.replayed_from)
