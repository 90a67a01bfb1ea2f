"""Proof that what was decided live is what a backfill computes: the features of every decision, bit for bit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from skyriver.core.errors import Conflict
from skyriver.core.jobs import Progress
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.core.units import format_duration
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.log.blocks import decisions_of
from skyriver.decide.log.records import DecisionRecord, decode_control
from skyriver.decide.partition.folding import Folding
from skyriver.decide.partition.kernel_windows import memory_windows
from skyriver.decide.partition.windows import Floats
from skyriver.features.kernel import load_kernel
from skyriver.features.plan import FeaturePlan, plan_features

CHUNK = 65_536
"""Events folded together: the batch form, where the worker folds what waits, often a single one."""
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """Feature values of one event, as recorded and as computed now."""

    offset: int
    id: str
    feature: str
    recorded: float
    computed: float


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`events` in the log, of which `undecided` have no decision (they are being decided, or their worker is away) and
    `decided_twice` have several; `decisions` in the log; `compared` of them, by features that the log describes or that
    are declared now; `unknown` were decided with features that nobody can compute any more; the windows of `cut` reach
    back to what the log has given up, or they look up rows that may be there; the others were late or had none."""

    events: int
    undecided: int
    decided_twice: int
    decisions: int
    compared: int
    equal: int
    different: int
    first_differences: tuple[Difference, ...]
    features_digest: str
    """Of the features that are declared now."""
    offset: int
    """Up to where the log was read."""
    unknown: int = 0
    feature_sets: int = 1
    """How many different ones were computed."""
    first_offset: int = 0
    """From where on the log was read: its first offset."""
    cut: int = 0


class _Set:
    """One feature set: its values as they are computed and as they are recorded, until both are there."""

    def __init__(self, plan: FeaturePlan, stream: StreamSpec, cache_dir: Path, begin: tuple[int, int]) -> None:
        self.plan = plan
        self.compared = 0
        self.equal = 0
        self.cut = 0
        first, gone = begin
        self._whole_from = gone + plan.reach
        """Windows of events with a T from this on lie in the log as a whole."""
        self._whole_at = None if first else 0
        """The offset behind the first record that has such a T, once it has come."""
        self.first: list[Difference] = []
        self._windows = memory_windows(stream, plan, load_kernel(plan, cache_dir))
        self._folding = Folding(self._windows, chunk=CHUNK, folded=self._folded)
        self._computed: dict[int, bytes] = {}
        """Features of events whose decision has not come yet."""
        self._waiting: dict[int, DecisionRecord] = {}
        """Decisions of events that are collected and not folded yet."""
        self._others: list[int] = []
        """Events whose decision is not compared."""

    def apply(self, record: Record) -> None:
        if self._whole_at is None and record.time >= self._whole_from and record.kind is not RecordKind.DEAD:
            self._whole_at = record.offset + record.count
        self._folding.apply(record)

    def decision(self, record: DecisionRecord) -> None:
        if record.features and record.features_digest == self.plan.digest:
            if self._whole_at is None or record.event_offset < self._whole_at:
                self.cut += 1
                self._others.append(record.event_offset)
                return
            self._waiting[record.event_offset] = record
        else:
            self._others.append(record.event_offset)

    def settle(self) -> None:
        """Folds and compares all that came."""
        self._folding.flush()
        self._windows.forget()
        for offset in self._waiting.keys() & self._computed.keys():
            self._compare(self._waiting.pop(offset), self._computed.pop(offset))
        for offset in self._others:  # all events before their decisions have been folded now
            self._computed.pop(offset, None)
        self._others.clear()

    def close(self) -> None:
        self._windows.close()

    def _folded(self, offsets: list[int], found: Floats) -> None:
        data, width = found.tobytes(), 4 * found.shape[1]
        for place, offset in enumerate(offsets):
            self._computed[offset] = data[place * width : (place + 1) * width]

    def _compare(self, record: DecisionRecord, computed: bytes) -> None:
        self.compared += 1
        if record.features == computed:
            self.equal += 1
            return
        ours, theirs = np.frombuffer(computed, "<f4"), np.frombuffer(record.features, "<f4")
        for name, now, then in zip(self.plan.names, ours, theirs, strict=False):
            if now.tobytes() != then.tobytes() and len(self.first) < SHOWN:
                self.first.append(Difference(record.event_offset, str(record.id), name, float(then), float(now)))


@dataclass(slots=True)
class _Counts:
    begin: int
    events: int = 0
    undecided: set[int] = field(default_factory=set)
    decided_twice: int = 0
    decisions: int = 0
    unknown: int = 0

    def decision(self, record: DecisionRecord, known: Collection[str]) -> None:
        self.decisions += 1
        if record.event_offset in self.undecided:
            self.undecided.remove(record.event_offset)
        elif record.event_offset >= self.begin:  # its first decision took it out
            self.decided_twice += 1
        if record.features and record.features_digest not in known:
            self.unknown += 1


def verify_stream(
    reader: LogReader,
    stream: StreamSpec,
    features: FeatureSetSpec,
    cache_dir: Path,
    progress: Progress,
    *,
    begin: tuple[int, int] = (0, 0),
) -> VerifyReport:
    """Folds the log from its beginning in large batches, with each feature set that it was decided by, and compares
    what each DECISION record holds with what comes out. `features` are those declared now. `begin`: the log's first
    offset, and T of the last record that was given up before it; compared are events whose windows begin after that.

    Raises Corrupt, Unavailable (KERNEL_CACHE), Conflict (WINDOWS_CUT) when there are no such events."""
    end = reader.next_offset
    declared = plan_features(features, stream)
    plans = {declared.digest: declared} | _plans_in(reader, stream, begin[0], end)
    sets = [_Set(plan, stream, cache_dir, begin) for plan in plans.values()]
    counts = _Counts(begin[0])
    since = 0
    for count, record in enumerate(reader.read(begin[0], end=end)):
        if record.kind in (RecordKind.DECISION, RecordKind.DECISIONS):
            for decision in decisions_of(record):
                counts.decision(decision, plans)
                for each in sets:
                    each.decision(decision)
        else:
            if record.kind in (RecordKind.EVENT, RecordKind.EVENTS):
                counts.events += record.count
                counts.undecided.update(range(record.offset, record.offset + record.count))
            for each in sets:
                each.apply(record)
        since += record.count
        if since >= CHUNK:
            since = 0
            for each in sets:
                each.settle()
        if count % 10_000 == 0:
            progress("verify", record.offset, end)
    for each in sets:
        each.settle()
        each.close()
    progress("verify", end, end)
    compared, equal = sum(s.compared for s in sets), sum(s.equal for s in sets)
    cut = sum(s.cut for s in sets)
    if cut and not compared:
        raise Conflict(
            f"The log of {stream.name} begins with offset {begin[0]}: no decision in it has windows"
            f" ({_looks(declared)}) that lie in the log as a whole.",
            code="WINDOWS_CUT",
            next_action="Keep the log for longer than the widest window (retention) to verify it; whole, where features"
            " look up references.",
        )
    first = sorted((d for each in sets for d in each.first), key=lambda d: d.offset)
    return VerifyReport(
        counts.events,
        len(counts.undecided),
        counts.decided_twice,
        counts.decisions,
        compared,
        equal,
        compared - equal,
        tuple(first[:SHOWN]),
        declared.digest,
        end,
        counts.unknown,
        len(sets),
        begin[0],
        cut,
    )


def _looks(plan: FeaturePlan) -> str:
    return "with rows of references of any age" if plan.references else f"{format_duration(plan.reach)} back"


def _plans_in(reader: LogReader, stream: StreamSpec, begin: int, end: int) -> dict[str, FeaturePlan]:
    """The feature sets that the log says were decided by, as far as it says how they are computed."""
    found: dict[str, FeaturePlan] = {}
    for record in reader.read(begin, end=end):
        if record.kind is not RecordKind.CONTROL:
            continue
        control = decode_control(record.payload)
        for features in (control.features, control.features_before):
            if features is not None:
                plan = plan_features(FeatureSetSpec.model_validate(features), stream)
                found[plan.digest] = plan
    return found
