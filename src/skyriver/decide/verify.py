"""Proof that what was decided live is what a backfill computes: the features of every decision, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyriver.core.jobs import Progress
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.data.columns import EventBlock, decode_events
from skyriver.data.log import LogReader, RecordKind
from skyriver.decide.blocks import decode_decisions
from skyriver.decide.history import read_record
from skyriver.decide.records import (
    LATE,
    DecisionRecord,
    LabelRecord,
    Value,
    decode_decision,
    decode_event,
    decode_label,
)
from skyriver.decide.windows import KernelWindows, memory_windows
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
    `decided_twice` have several; `decisions` in the log; `compared` of them, whose features are of the plan that is
    verified; the others were late, or decided with other features."""

    events: int
    undecided: int
    decided_twice: int
    decisions: int
    compared: int
    equal: int
    different: int
    first_differences: tuple[Difference, ...]
    features_digest: str
    offset: int
    """Up to where the log was read."""


@dataclass(slots=True)
class _Comparison:
    plan: FeaturePlan
    decisions: int = 0
    compared: int = 0
    equal: int = 0
    first: list[Difference] = field(default_factory=list)
    computed: dict[int, bytes] = field(default_factory=dict)
    """Features of events whose decision has not come yet."""
    waiting: dict[int, DecisionRecord] = field(default_factory=dict)
    """Decisions of events that are collected and not folded yet."""
    others: list[int] = field(default_factory=list)
    """Events whose decision is not compared."""
    events: int = 0
    undecided: set[int] = field(default_factory=set)
    decided_twice: int = 0

    def event(self, offset: int) -> None:
        self.events += 1
        self.undecided.add(offset)

    def decision(self, record: DecisionRecord) -> None:
        self.decisions += 1
        if record.event_offset in self.undecided:
            self.undecided.remove(record.event_offset)
        else:  # its first decision took it out
            self.decided_twice += 1
        if record.features and record.features_digest == self.plan.digest:
            self.waiting[record.event_offset] = record
        else:
            self.others.append(record.event_offset)

    def match(self) -> None:
        """Compares all that has both sides."""
        for offset in self.waiting.keys() & self.computed.keys():
            self._compare(self.waiting.pop(offset), self.computed.pop(offset))
        for offset in self.others:  # all events before their decisions have been folded now
            self.computed.pop(offset, None)
        self.others.clear()

    def _compare(self, record: DecisionRecord, computed: bytes) -> None:
        self.compared += 1
        if record.features == computed:
            self.equal += 1
            return
        ours, theirs = np.frombuffer(computed, "<f4"), np.frombuffer(record.features, "<f4")
        for name, now, then in zip(self.plan.names, ours, theirs, strict=False):
            if now.tobytes() != then.tobytes() and len(self.first) < SHOWN:
                self.first.append(Difference(record.event_offset, str(record.id), name, float(then), float(now)))


def verify_stream(
    reader: LogReader, stream: StreamSpec, features: FeatureSetSpec, cache_dir: Path, progress: Progress
) -> VerifyReport:
    """Folds the log from offset 0 in large batches, with `features` as they are declared now, and compares what each
    DECISION record holds with what comes out. Raises Corrupt, Unavailable (KERNEL_CACHE)."""
    plan = plan_features(features, stream)
    windows = memory_windows(stream, plan, load_kernel(plan, cache_dir))
    comparison = _Comparison(plan)
    fold = _Fold(windows, comparison)
    end = reader.next_offset
    for count, record in enumerate(reader.read(0, end=end)):
        match record.kind:
            case RecordKind.EVENT:
                comparison.event(record.offset)
                flags, values = decode_event(record.payload)
                if not flags & LATE:
                    fold.event(record.offset, record.time, values)
            case RecordKind.EVENTS:
                for offset in range(record.offset, record.offset + record.count):
                    comparison.event(offset)
                fold.block(record.offset, decode_events(record.payload, record.count))
            case RecordKind.LABEL:
                fold.label(record.offset, decode_label(record.payload))
            case RecordKind.HISTORY:
                fold.flush()
                windows.fold_block(record.offset, read_record(record.payload))
            case RecordKind.DECISION:
                comparison.decision(decode_decision(record.payload))
            case RecordKind.DECISIONS:
                for decision in decode_decisions(record.payload, record.count).records():
                    comparison.decision(decision)
                fold.settle()
            case RecordKind.CONTROL | RecordKind.DEAD:
                pass
        if count % 10_000 == 0:
            progress("verify", record.offset, end)
    fold.flush()
    windows.close()
    progress("verify", end, end)
    different = comparison.compared - comparison.equal
    return VerifyReport(
        comparison.events,
        len(comparison.undecided),
        comparison.decided_twice,
        comparison.decisions,
        comparison.compared,
        comparison.equal,
        different,
        tuple(sorted(comparison.first, key=lambda d: d.offset)),
        plan.digest,
        end,
    )


class _Fold:
    """Collects events or labels, in log order, into large batches."""

    def __init__(self, windows: KernelWindows, comparison: _Comparison) -> None:
        self._windows = windows
        self._comparison = comparison
        self._events: list[tuple[int, int, list[Value]]] = []
        self._labels: list[tuple[int, LabelRecord]] = []

    def event(self, offset: int, time: int, values: list[Value]) -> None:
        if self._labels or len(self._events) >= CHUNK:
            self.flush()
        self._events.append((offset, time, values))

    def label(self, offset: int, label: LabelRecord) -> None:
        if self._events or len(self._labels) >= CHUNK:
            self.flush()
        self._labels.append((offset, label))

    def block(self, first: int, events: EventBlock) -> None:
        self.flush()
        offsets, effective, columns = events.on_time(np.arange(first, first + len(events), dtype=np.int64))
        self._note(offsets.tolist(), self._windows.fold_columns(offsets, effective, columns))

    def _note(self, offsets: Sequence[int], features: NDArray[np.float32]) -> None:
        data, width = features.tobytes(), 4 * features.shape[1]
        for place, offset in enumerate(offsets):
            self._comparison.computed[offset] = data[place * width : (place + 1) * width]

    def settle(self) -> None:
        """Compares what has both sides, where nothing waits to be folded."""
        if not self._events:
            self._comparison.match()

    def flush(self) -> None:
        if self._events:
            offsets = [offset for offset, _, _ in self._events]
            rows = [values for _, _, values in self._events]
            self._note(offsets, self._windows.fold_events(offsets, [time for _, time, _ in self._events], rows))
        if self._labels:
            self._windows.fold_labels([o for o, _ in self._labels], [label for _, label in self._labels])
        self._events, self._labels = [], []
        self._windows.forget()
        self._comparison.match()
