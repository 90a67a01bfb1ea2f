"""From the log to a partition: what a start does, and what follows an error half-way through a batch.

The newest checkpoint that is whole is taken, windows are brought back to it, and the records after it are replayed:
events, labels and rows of references fold into windows, ids are added again, decisions are taken as they were; where
a record says that other features took over, the windows change too. Without a checkpoint all that the log has is
replayed, by the features that decide at the end; where it has given up its beginning, it must have all that these look
back to. Events that have no decision at the end are given back: they are decided once the deciding is known (DESIGN
6.8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Conflict, Corrupt, NotFound
from skyriver.core.jobs import Progress
from skyriver.core.spec import StreamSpec
from skyriver.core.units import format_duration
from skyriver.data.columns import EventBlock, decode_events
from skyriver.data.keys import key_of, key_of_text, keys_of_column
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.decision.deciding import Undecided
from skyriver.decide.decision.walking import note_block
from skyriver.decide.log.blocks import decode_decisions
from skyriver.decide.log.checkpoint import NEVER, BlockAnswer, Checkpoint, is_of
from skyriver.decide.log.history import learn_frame, read_record
from skyriver.decide.log.lists import lists_of
from skyriver.decide.log.records import (
    LATE,
    ControlRecord,
    LabelRecord,
    LoadStep,
    Value,
    decode_control,
    decode_decision,
    decode_event,
    decode_label,
    decode_reference,
)
from skyriver.decide.partition.partition import Ids, Partition, check_same_stream
from skyriver.decide.partition.windows import Windows
from skyriver.features.plan import EVER

CHUNK = 4096
"""Records folded together."""


@dataclass(slots=True)
class _Event:
    values: list[Value]
    late: bool
    time: int
    features: NDArray[np.float32] | None = None


@dataclass(slots=True)
class _Block:
    """`features` of those that are not late."""

    events: EventBlock
    features: NDArray[np.float32] | None


class Replay:
    """Applies records to a partition, its windows and ids, in log order.

    `follow`: whether windows change where the log says so; else they are those of its end from the start."""

    def __init__(self, partition: Partition, windows: Windows | None, ids: Ids, *, follow: bool) -> None:
        self._follow = follow
        self._partition = partition
        self._windows = windows
        self._ids = ids
        self._waiting: dict[int, _Event] = {}
        self._blocks: dict[int, _Block] = {}
        """Undecided ones, by the offset of their first event."""
        self._events: list[tuple[int, int, _Event]] = []
        self._labels: list[tuple[int, LabelRecord]] = []
        self._references: list[tuple[int, tuple[int, list[Value]]]] = []
        self._keys: list[int] = []
        self._offsets: list[int] = []
        self._step: LoadStep | None = None
        self.decides_from = NEVER
        """The effective time of the first event that is still to be decided, once it has finished."""
        stream = partition.stream
        self._id, self._key = (
            next(place for place, f in enumerate(stream.fields) if f.name == name) for name in (stream.id, stream.key)
        )
        self._text_id = stream.field(stream.id).type == "text"

    def apply(self, record: Record) -> None:
        match record.kind:
            case RecordKind.EVENT:
                self._event(record)
            case RecordKind.LABEL:
                self._label(record)
            case RecordKind.REFERENCE:
                self._reference(record)
            case RecordKind.EVENTS:
                self._block(record)
            case RecordKind.DECISION:
                decision = decode_decision(record.payload)
                if self._blocks:
                    self._take_apart(decision.event_offset)
                event = self._waiting.pop(decision.event_offset, None)
                if event is not None and decision.decision in (tallies := self._partition.tallies):
                    tallies.note(decision.decision, tallies.keys_of(event.values), event.time)
                self._partition.recent.put(decision.event_offset, record.payload)
                self._partition.count_decisions(decision.status, decision.decision, decision.reason)
                arms = self._partition.arms
                arms.note([decision], [key_of(event.values[self._key])] if event is not None and arms.by_key else ())  # type: ignore[arg-type]
                self._partition.trials.note([decision])
            case RecordKind.DECISIONS:
                block = decode_decisions(record.payload, record.count)
                of = self._blocks.pop(block.first, None)
                if of is not None and self._partition.tallies:
                    note_block(self._partition.tallies, block, of.events)
                self._partition.enter_decisions(block)
                arms = self._partition.arms
                arms.note_block(block, of.events.columns.keys(self._key) if of is not None and arms.by_key else None)
                self._partition.trials.note_block(block)
            case RecordKind.HISTORY:
                self._history(record)
            case RecordKind.DEAD:
                self._partition.enter_dead(record.offset, [record])
            case RecordKind.CONTROL:
                control = decode_control(record.payload)
                check_same_stream(control, self._partition.stream)
                self._step = control.load
                if control.load is None:
                    self._control(control)
                elif control.load.empty:
                    self._note_step(0, record.offset)

    def finish(self) -> Undecided:
        """Folds what is left; the events that have no decision, in order."""
        self._fold()
        for first in list(self._blocks):
            self._take_apart(first)
        waiting = sorted(self._waiting.items())
        self.decides_from = min((event.time for _, event in waiting if not event.late), default=self._partition.time)
        features = [event.features for _, event in waiting if event.features is not None]
        return Undecided(
            offsets=[offset for offset, _ in waiting],
            rows=[event.values for _, event in waiting],
            late=[event.late for _, event in waiting],
            arrived=[-1] * len(waiting),
            features=np.stack(features) if features else self._no_features(),
            times=[event.time for _, event in waiting],
        )

    def _no_features(self) -> NDArray[np.float32] | None:
        return np.empty((0, len(self._windows.names)), np.float32) if self._windows is not None else None

    def _control(self, control: ControlRecord) -> None:
        if self._windows is not None and self._follow and control.features_digest != self._windows.digest:
            self._fold()
            self._windows.switch(control.features_digest)
        self._partition.control = control
        self._partition.arms.follow(control)
        self._partition.trials.follow(control)
        self._partition.tallies.follow(control)

    def _event(self, record: Record) -> None:
        flags, values = decode_event(record.payload)
        event = _Event(values, bool(flags & LATE), record.time)
        self._waiting[record.offset] = event
        own = values[self._id]
        self._keys.append(key_of_text(own) if self._text_id else own)  # type: ignore[arg-type]  # an id is one of these
        self._offsets.append(record.offset)
        self._partition.counters.events += 1
        self._partition.loads.leave()
        if not event.late:
            self._partition.enter(record.offset, record.time)
            if self._labels or self._references:
                self._fold()
            self._events.append((record.offset, record.time, event))
        if len(self._offsets) >= CHUNK:
            self._fold()

    def _block(self, record: Record) -> None:
        self._fold()
        partition = self._partition
        events = decode_events(record.payload, record.count)
        offsets = np.arange(record.offset, record.offset + record.count, dtype=np.int64)
        self._ids.add(events.columns.keys(self._id), offsets)
        partition.counters.events += record.count
        partition.loads.leave()
        partition.enter_block(record.offset, events.effective)
        features = self._windows.fold_columns(*events.on_time(offsets)) if self._windows is not None else None
        self._blocks[record.offset] = _Block(events, features)

    def _take_apart(self, offset: int) -> None:
        """Puts the events of the undecided block with this offset among the single ones: a restart decided them one by
        one, or is about to."""
        first = next((f for f, block in self._blocks.items() if f <= offset < f + len(block.events)), None)
        if first is None:
            return
        block = self._blocks.pop(first)
        late = block.events.late.tolist() if block.events.late is not None else [False] * len(block.events)
        features = iter(block.features) if block.features is not None else None
        times = block.events.effective.tolist()
        for place, (values, is_late) in enumerate(zip(block.events.columns.rows(), late, strict=True)):
            own = next(features) if features is not None and not is_late else None
            self._waiting[first + place] = _Event(values, is_late, times[place], own)

    def _label(self, record: Record) -> None:
        self._partition.counters.labels += 1
        if self._events or self._references:
            self._fold()
        self._labels.append((record.offset, decode_label(record.payload)))
        if len(self._labels) >= CHUNK:
            self._fold()

    def _reference(self, record: Record) -> None:
        self._partition.counters.reference_rows += 1
        row = decode_reference(record.payload)
        self._partition.lists.learn(*row, record.time)
        if self._events or self._labels:
            self._fold()
        self._references.append((record.offset, row))
        if len(self._references) >= CHUNK:
            self._fold()

    def _fold(self) -> None:
        """Everything collected so far: either events or labels or rows of references."""
        if self._offsets:
            self._ids.add(np.array(self._keys, np.int64), np.array(self._offsets, np.int64))
        if self._windows is not None and self._events:
            offsets = [offset for offset, _, _ in self._events]
            effective = [time for _, time, _ in self._events]
            rows = [event.values for _, _, event in self._events]
            for (_, _, event), features in zip(
                self._events, self._windows.fold_events(offsets, effective, rows), strict=True
            ):
                event.features = features
        if self._windows is not None and self._labels:
            self._windows.fold_labels([o for o, _ in self._labels], [label for _, label in self._labels])
        if self._windows is not None and self._references:
            self._windows.fold_references([o for o, _ in self._references], [row for _, row in self._references])
        self._keys, self._offsets, self._events, self._labels, self._references = [], [], [], [], []

    def _history(self, record: Record) -> None:
        self._fold()
        partition = self._partition
        frame = read_record(record.payload)
        kind = frame["_kind"].to_numpy()
        offsets = np.arange(record.offset, record.offset + record.count, dtype=np.int64)
        events = kind == RecordKind.EVENT
        self._ids.add(keys_of_column(frame[partition.stream.id].drop_nulls()), offsets[events])
        partition.enter_block(record.offset, frame["_effective"].to_numpy())
        partition.counters.history_rows += record.count
        learn_frame(partition.lists, frame)
        if self._windows is not None:
            self._windows.fold_block(record.offset, frame)
        self._note_step(record.count, record.offset + record.count - 1)

    def _note_step(self, appended: int, last_offset: int) -> None:
        """A block that was announced is there."""
        step, self._step = self._step, None
        if step is not None:
            answer = BlockAnswer(step.sequence, appended, step.duplicates, last_offset)
            self._partition.loads.note(step, answer)


@dataclass(frozen=True, slots=True)
class Recovered:
    """`offset` is where the replay began (the log's first one: no checkpoint could be used), `passed_over` why not
    later."""

    partition: Partition
    windows: Windows | None
    ids: Ids
    undecided: Undecided
    offset: int
    passed_over: tuple[str, ...]


def recover(
    log: LogReader,
    stream: StreamSpec,
    *,
    checkpoints: Iterator[Checkpoint],
    open_windows: Callable[[Checkpoint | None], Windows | None],
    open_ids: Callable[[bytes | None], Ids],
    progress: Progress,
) -> Recovered:
    """The partition as the log says it is. `open_windows` and `open_ids` give the state that a checkpoint saved, or an
    empty one for None (windows then of the features that the log ends with); they raise Corrupt or Conflict where
    that is not possible.

    Raises Conflict: STREAM_CHANGED when the log's events have other fields, HISTORY_GONE when no checkpoint can be used
    and the log has given up what its features look back to; Corrupt when the log is damaged."""
    passed_over: list[str] = []
    for checkpoint in checkpoints:
        try:
            return _replay(log, stream, checkpoint, open_windows, open_ids, progress, tuple(passed_over))
        except (Corrupt, Conflict, NotFound) as error:  # NotFound: the log begins later
            at = f" ({error.where})" if error.where else ""
            passed_over.append(f"The checkpoint at {checkpoint.offset} cannot be used{at}: {error.message}")
    return _replay(log, stream, None, open_windows, open_ids, progress, tuple(passed_over))


def _replay(
    log: LogReader,
    stream: StreamSpec,
    checkpoint: Checkpoint | None,
    open_windows: Callable[[Checkpoint | None], Windows | None],
    open_ids: Callable[[bytes | None], Ids],
    progress: Progress,
    passed_over: tuple[str, ...],
) -> Recovered:
    first, gone = log.begin()
    if checkpoint is not None and not is_of(checkpoint, log):
        raise Conflict(
            "The log has another record before it: a power cut took the one that it was made after.",
            next_action="Nothing needs to be done: an older one, or the log itself, is taken.",
        )
    partition = _partition_behind(log, stream, first, gone) if checkpoint is None else _partition_at(stream, checkpoint)
    if checkpoint is not None:
        _restore_lists(log, partition, checkpoint)
    start = checkpoint.offset if checkpoint is not None else first
    ids = open_ids(checkpoint.ids if checkpoint is not None else None)
    windows = open_windows(checkpoint)
    try:
        replay = Replay(partition, windows, ids, follow=checkpoint is not None)
        end = log.next_offset
        for count, record in enumerate(log.read(start)):
            replay.apply(record)
            if count % CHUNK == 0:
                progress("replay", record.offset - start, end - start)
        undecided = replay.finish()
        if checkpoint is None and first and _in_log(partition):
            raise _history_gone(stream, first, EVER, passed_over)
        reach = max(windows.reach if windows is not None else 0, partition.tallies.reach)
        if checkpoint is None and first and reach and replay.decides_from < gone + reach:
            raise _history_gone(stream, first, reach, passed_over)
    except BaseException:
        if windows is not None:
            windows.close()
        raise
    return Recovered(partition, windows, ids, undecided, start, passed_over)


def _history_gone(stream: StreamSpec, first: int, reach: int, passed_over: tuple[str, ...]) -> Conflict:
    looks, kept = f"look {format_duration(reach)} back", f"A retention of {format_duration(reach)} or more"
    if reach == EVER:
        looks, kept = "look up references, whose rows may be of any age", "A log without retention"
    return Conflict(
        f"{stream.name} cannot be built anew from its log: the first offset that is there is {first}, what was before"
        f" was given up, and its features or rules {looks}. {' '.join(passed_over)}".strip(),
        code="HISTORY_GONE",
        where=stream.name,
        next_action="Restore its checkpoints from a backup. Else declare a stream of another name, and load the history"
        f" from the table {stream.name} there. {kept} saves from this.",
    )


def _partition_behind(log: LogReader, stream: StreamSpec, first: int, gone: int) -> Partition:
    """At the beginning of the log. Where that was given up: T, and from where on ids are remembered; counted is what
    comes after it."""
    if not first:
        return Partition(stream)
    time = min((gone, *(record.time for record in log.read(first, end=first + 1))))  # it may begin at its end
    return Partition(stream, time=time, horizon=[(first, time)])


def _restore_lists(log: LogReader, partition: Partition, checkpoint: Checkpoint) -> None:
    """As the checkpoint has them. One that it has not was no list when it was made: its rows are read from the log."""
    missing = partition.lists.restore(checkpoint.lists) & _in_log(partition)
    if not missing:
        return
    first, _ = log.begin()
    if first:
        raise Conflict(
            "It has not all lists, and the log has given up rows of them.",
            next_action="Nothing needs to be done where an older one is whole; else send the rows of the lists again.",
        )
    for record in log.read(0, end=checkpoint.offset):
        if record.kind is RecordKind.REFERENCE:
            index, values = decode_reference(record.payload)
            if index in missing:
                partition.lists.learn(index, values, record.time)
        elif record.kind is RecordKind.HISTORY:
            learn_frame(partition.lists, read_record(record.payload), missing)


def _in_log(partition: Partition) -> frozenset[int]:
    """Places of the lists of which the log may have rows."""
    told = partition.control.references if partition.control is not None else ()
    return frozenset(index for index, _ in lists_of(partition.stream) if index < len(told))


def _partition_at(stream: StreamSpec, checkpoint: Checkpoint) -> Partition:
    if checkpoint.control is not None:
        check_same_stream(checkpoint.control, stream)
    return Partition(
        stream,
        time=checkpoint.time,
        counters=checkpoint.counters,
        control=checkpoint.control,
        loads=checkpoint.loads,
        horizon=checkpoint.horizon,
        dead_letters=checkpoint.dead_letters,
        arms=checkpoint.arms,
        trial=checkpoint.trial,
        tallies=checkpoint.tallies,
    )
