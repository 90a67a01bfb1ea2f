"""A stream's partition on disk with everything that it keeps, and what it says afterwards: its truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import worker_process as harness

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.core.errors import SkyriverError
from skyriver.core.units import SECOND
from skyriver.data import ids
from skyriver.data.log import Record
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.log.blocks import decisions_in_log
from skyriver.decide.partition import journal
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.kernel_windows import WindowsFiles
from skyriver.decide.partition.opening import PartitionFiles
from skyriver.decide.partition.receipt import Receipt
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.decide.worker.border import EventBorder, LabelBorder
from skyriver.decide.worker.looking import fill
from skyriver.features import buffers

START = 1_700_000_000 * SECOND
HOUR = 3_600 * SECOND
EVENTS = 260
STEP = HOUR // 4
OPENS = 3
"""A worker whose engine fails opens it again; what still fails then is refused for good."""

Said = list[tuple[Any, ...]]


class Clock:
    def __init__(self) -> None:
        self.now = START

    def wall(self) -> int:
        return self.now

    def monotonic(self) -> int:
        return self.now


@dataclass(frozen=True)
class Kind:
    """How the streams of this examination are declared, and what they share."""

    kernels: Path

    def __post_init__(self) -> None:
        # So small that a few events fill files.
        journal.FLUSH, ids.RECENT, ids.ON_DISK, buffers.RESERVE_BYTES = 24, 16, 32, 1 << 14

    @property
    def spec(self) -> Any:
        return harness.declare("process")


class Partition:
    """One life of the partition's worker, without its process."""

    def __init__(self, kind: Kind, spec: Any, windows: WindowsFiles | None, place: Path) -> None:
        self.stream, features = spec.streams[0], spec.feature_sets[0]
        rules = [(rule.decision, rule.when) for rule in spec.decides[0].rules]
        self._deciding = Deciding(compile_rules(rules, "approve", "review", self.stream, features))
        self.clock = Clock()
        self.log: SegmentLog = open_log(
            place / "log", durability="process", segment_bytes=6_000, holder="examiner", tier=tier_of(place)
        )
        files = WindowsFiles(self.stream, place / "side", kind.kernels)
        if windows is not None:
            files._prepared.update(windows._prepared)  # compiled once for all lives
        self.windows = files
        self.files = PartitionFiles(self.stream, place, self.log, files, self.clock, features)
        self.engine: Engine | None = None
        try:
            self.open()
        except BaseException:
            self.leave()
            raise

    def open(self) -> None:
        self.engine = self.files.open(lambda *_: self._deciding, lambda *_: None)

    def send(self, events: list[dict[str, object]]) -> Receipt:
        assert self.engine is not None
        newest = max(int(str(event["at"])) for event in events)
        self.clock.now = max(self.clock.now, newest)
        (receipt,) = self.engine.take([EventBorder(self.stream).take(events, self.clock.now, True)])
        return fill(receipt, decisions_in_log(self.log, [offset for _, offset in receipt.sought or ()]))

    def label(self, n: int, value: int) -> None:
        assert self.engine is not None
        row = {"payment": n, "fraud": value}
        self.engine.label([LabelBorder(self.stream).take([row], self.clock.now, self.clock.now)])
        self.log.sync()

    def checkpoint(self) -> None:
        assert self.engine is not None
        self.files.save(self.engine)()
        self.files.written()

    def leave(self) -> None:
        """As the end of its process would."""
        self.files.close()
        self.log.abandon()


def tier_of(place: Path) -> DirectoryObjects:
    return DirectoryObjects(place / "tier")


def event(n: int, at: int | None = None) -> dict[str, object]:
    when = START + n * STEP if at is None else at
    return {"payment": n, "at": when, "customer": n * 7 % 5, "channel": f"c{n % 3}", "amount": n * 13 % 997 / 4}


def build(kind: Kind, spec: Any, place: Path, *, cut: bool) -> WindowsFiles:
    """Events with labels, in three lives: sealed segments here and in the tier, the last one open, two checkpoints, ids
    in files, records behind the newest checkpoint. `cut`: the log's beginning was given up."""
    windows = None
    batches = 0
    for life in range(3):
        partition = Partition(kind, spec, windows, place)
        windows = partition.windows
        for n in range(life * EVENTS // 3, (life + 1) * EVENTS // 3, 5):
            partition.send([event(m) for m in range(n, n + 5)])
            batches += 1
            if batches % 3 == 0:
                partition.label(n - 5, n % 2)
            if batches % 8 == 0:
                partition.checkpoint()
        if life == 2:
            log = partition.log
            parts = log.parts()
            while not log.parts()[len(parts) // 2].tiered:
                log.tier_next()
            log.drop_local(sum(part.bytes for part in parts[len(parts) // 3 :]))
            if cut:
                log.remove_before(parts[len(parts) // 6].end)
                log.tier_next()  # its objects go: while they are there, a log whose last BEGIN rotted has them again
        partition.leave()
    assert windows is not None
    return windows


def records(place: Path) -> list[Record]:
    """All that a reader is given. Raises what the log raises, with what was served until then in its `served`."""
    reader = SegmentReader(place / "log", tier_of(place))
    found: list[Record] = []
    try:
        found.extend(reader.read(reader.first_offset))
    except SkyriverError as error:
        error.served = found  # type: ignore[attr-defined]
        raise
    return found


def ask(partition: Partition) -> Said:
    """What it says of events of before, sent again, and of new ones, whose windows pass over all that there was."""
    said: Said = []

    def say(receipt: Receipt) -> None:
        said.append((receipt.accepted, receipt.duplicates, len(receipt.rejected)))
        for decision in receipt.decisions:
            if decision is not None:
                said.append((decision.id, decision.status, decision.decision, decision.score, bytes(decision.features)))

    last = START + (EVENTS - 1) * STEP
    say(partition.send([event(n, last) for n in (EVENTS - 1, EVENTS - 2, EVENTS - 41, EVENTS - 90)]))
    partition.label(EVENTS - 3, 1)
    for day in range(34):
        at = last + day * 24 * HOUR + 1
        say(partition.send([event(1_000 + 5 * day + n, at) for n in range(5)]))
        if day == 3:
            partition.checkpoint()
    return said
