"""Checkpoints: state and offset in one atomic write, so that a restart replays seconds of the log and not all of it.

    DIR/<offset, 20 digits>.checkpoint    magic, SHA-256 of the body, the body (msgpack); of large states: another
                                          magic, SHA-256 of what follows, three lengths of 8 bytes, the body without
                                          states, the state of the features, that of those beside
    DIR/<offset, 20 digits>.beyond        one that was found beyond the log's end

The two newest are kept. One that is damaged is passed over for the older one, and without any the log is replayed
from offset 0: a checkpoint only ever saves time, it never is the truth.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from skyriver.core.errors import Corrupt, Unavailable, disk_error
from skyriver.data.folders import sync_folder
from skyriver.data.log import LogReader, check_of
from skyriver.decide.log.records import ControlRecord, ModelInUse

_log = logging.getLogger(__name__)

_MAGIC, _LARGE = b"SKYRCP1\n", b"SKYRCP2\n"
LARGE_BYTES = 1 << 30
"""States from this size on stand behind the body: what is inside of it ends at 4 GiB."""
_LENGTHS = struct.Struct("<3Q")
KEPT = 2
NEVER = -(2**62)
"""Effective time before the first event."""


class BlockAnswer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the sender of one block of a load was told."""

    sequence: int
    appended: int
    duplicates: int
    last_offset: int


class Load(msgspec.Struct, array_like=True):
    """A bulk load as far as it has come, by its id."""

    id: str
    answers: dict[int, BlockAnswer]
    ended: bool = False
    left: bool = False
    """Live events came after its last block: nobody waits for its next one any more."""


class DeadLetter(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A refused event or label as it is shown: `message` and `raw` are cut to what helps; `time` is effective time."""

    offset: int
    time: int
    reason: str
    field: str
    message: str
    raw: str


class Counters(msgspec.Struct):
    """Of the whole life of the log, but for `duplicates`, which leave no record: those since it was last replayed
    from its beginning; of a process that was killed, those that its last checkpoint has. What is counted by reason is
    counted from the release on that began to."""

    events: int = 0
    decided: int = 0
    """Decision records, of whatever status."""
    by_status: dict[str, int] = msgspec.field(default_factory=dict)
    by_decision: dict[str, int] = msgspec.field(default_factory=dict)
    dead: int = 0
    duplicates: int = 0
    history_rows: int = 0
    labels: int = 0
    by_reason: dict[str, int] = msgspec.field(default_factory=dict)
    """Events not decided as their score says."""
    dead_by_reason: dict[str, int] = msgspec.field(default_factory=dict)
    reference_rows: int = 0


class SavedArm(msgspec.Struct, frozen=True):
    """What an arm has done since it got its version and share (see `skyriver.decide.decision.arms`)."""

    arm: str
    model: ModelInUse
    percent: float
    events: int
    by_decision: dict[str, int]
    by_reason: dict[str, int]
    scores: list[int]
    places: list[tuple[int, int, list[tuple[int, int]]]] = msgspec.field(default_factory=list)
    """What `decide.decision.places` tells, where there is a canary."""


class SavedTrial(msgspec.Struct, frozen=True):
    """What rules that are tried have said beside those that decide (see `skyriver.decide.decision.trial`)."""

    number: int
    percent: float
    live_rules: str
    trial_rules: str
    said: dict[str, list[tuple[str, str, int]]]


class SavedTally(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Of the decisions that budgets and counters look back to (see `decide.decision.tallies`). `keys`: int64, in the
    order in which they were counted last; `counts`: uint32, times of each; `times`: int64."""

    decision: str
    window_us: int
    by: str
    keys: bytes
    counts: bytes
    times: bytes


class SavedSet(msgspec.Struct, frozen=True):
    """The state of a feature set that is folded beside those that decide, and how it is computed."""

    digest: str
    spec: dict[str, Any]
    """Its FeatureSetSpec, as JSON."""
    state: bytes
    whole_from: int = NEVER
    """See `Windows`."""


class LastRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The record that a state was brought to, and its checksum: where a power cut took the log's end, others have
    its offset."""

    offset: int
    check: int


class Checkpoint(msgspec.Struct, frozen=True):
    """The state after all records below `offset`, every event of which has its decision.

    `features`: a snapshot of the feature state of `features_digest` (b"": the stream has none); `ids`: the id index as
    it described itself; `horizon`: (offset, T) pairs of the period in which ids are remembered.
    """

    offset: int
    time: int
    features_digest: str
    features: bytes
    ids: bytes
    counters: Counters
    horizon: tuple[tuple[int, int], ...]
    control: ControlRecord | None
    loads: tuple[Load, ...]
    dead_letters: tuple[DeadLetter, ...] = ()
    """The last ones."""
    beside: SavedSet | None = None
    arms: tuple[SavedArm, ...] = ()
    whole_from: int = NEVER
    """Of `features`, while they are built; those that decide are whole."""
    last: LastRecord | None = None
    """None: there was none in the log, or it is of a release that did not note it."""
    trial: SavedTrial | None = None
    lists: dict[str, bytes] = msgspec.field(default_factory=dict)
    """By their names; of one that is not there the log tells."""
    tallies: tuple[SavedTally, ...] = ()

    @property
    def sets(self) -> frozenset[str]:
        """Digests of the feature sets whose state it has."""
        beside = {self.beside.digest} if self.beside is not None else set()
        return frozenset({self.features_digest} - {""} | beside)


def last_before(offset: int, log: LogReader) -> LastRecord | None:
    record = next(log.read(offset - 1, end=offset), None) if offset > log.begin()[0] else None
    return LastRecord(record.offset, check_of(record)) if record is not None else None


def is_of(checkpoint: Checkpoint, log: LogReader) -> bool:
    """Whether its last record is the log's; True as well where that cannot be known."""
    last = checkpoint.last
    if last is None or last.offset < log.begin()[0]:
        return True
    try:
        record = next(log.read(last.offset, end=last.offset + 1), None)
    except (Corrupt, Unavailable):  # what was folded before is not needed: it keeps nothing from going on
        return True
    return record is not None and check_of(record) == last.check


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Checkpoint)


class CheckpointFiles:
    """The checkpoints in one directory, which is created if need be. One writer at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in directory.glob(".*.new"):
            leftover.unlink()

    def write(self, checkpoint: Checkpoint) -> None:
        """Durable when it returns; older ones beyond the newest KEPT are gone. Raises Unavailable (DISK_FULL)."""
        magic, parts = _parts(checkpoint)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        path = self._directory / f"{checkpoint.offset:020d}.checkpoint"
        temporary = self._directory / f".{path.name}.new"
        try:
            with temporary.open("wb") as file:
                file.writelines((magic, digest.digest(), *parts))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(self._directory)
            for old in (*self._files()[KEPT:], *self._directory.glob("*.beyond")):
                old.unlink()
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise disk_error(error, "A checkpoint cannot be written, so a restart takes longer", str(path)) from error

    def clear(self) -> None:
        """Removes all."""
        for path in self._files():
            path.unlink()

    def newest_first(self, log_end: int) -> Iterator[Checkpoint]:
        """Those that are whole and lie within the log. One beyond its end is set aside, until another one is written:
        the log has lost its last records, and others will take their offsets."""
        for path in self._files():
            if int(path.stem) > log_end:
                _log.warning("%s lies beyond the log's end, offset %d: it is set aside", path, log_end)
                path.replace(path.with_suffix(".beyond"))
                sync_folder(self._directory)
                continue
            try:
                found = _read(path)
            except OSError as error:
                _log.warning("%s cannot be read, and is passed over: %s", path, error.strerror)
                continue
            if found is None:
                _log.warning("%s is not what was written, and is passed over", path)
                continue
            yield found

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("[0-9]*.checkpoint"), reverse=True)


def _parts(checkpoint: Checkpoint) -> tuple[bytes, Sequence[bytes]]:
    """The magic, and what the file has behind its checksum."""
    beside = checkpoint.beside
    states = (checkpoint.features, beside.state if beside is not None else b"")
    if sum(map(len, states)) < LARGE_BYTES:
        return _MAGIC, [_encoder.encode(checkpoint)]
    body = _encoder.encode(_with_states(checkpoint, b"", b""))
    return _LARGE, [_LENGTHS.pack(len(body), *map(len, states)), body, *states]


def _with_states(checkpoint: Checkpoint, features: bytes, of_beside: bytes) -> Checkpoint:
    beside = checkpoint.beside
    if beside is not None:
        beside = msgspec.structs.replace(beside, state=of_beside)
    return msgspec.structs.replace(checkpoint, features=features, beside=beside)


def _read(path: Path) -> Checkpoint | None:
    """None when it is not what was written."""
    data = path.read_bytes()
    start = len(_MAGIC)
    magic, body = data[:start], memoryview(data)[start + 32 :]
    if magic not in (_MAGIC, _LARGE) or hashlib.sha256(body).digest() != data[start : start + 32]:
        return None
    try:
        if magic == _MAGIC:
            return _decoder.decode(body)
        length, features, _ = _LENGTHS.unpack_from(body)
        states = body[_LENGTHS.size + length :]
        saved = _decoder.decode(body[_LENGTHS.size : _LENGTHS.size + length])
        return _with_states(saved, bytes(states[:features]), bytes(states[features:]))
    except msgspec.MsgspecError:
        return None  # of a release whose checkpoints were different
