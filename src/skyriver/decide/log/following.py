"""Reading a log for its decisions, each with the event that it is about."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from skyriver.core.errors import Conflict, Corrupt, NotFound
from skyriver.core.spec import StreamSpec
from skyriver.data.columns import EventBlock, decode_events
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.log.blocks import decisions_of
from skyriver.decide.log.records import DecisionRecord, LabelRecord, Value, decode_event, decode_label

READ_OFFSETS = 16_384
"""Of one step at most: so much may have to be read again after a kill."""
STEP_DECISIONS = 1_024
KEPT_RECORDS = 256
"""Records of events that are kept for their decisions, which follow them within a batch; others are looked up."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision record at `offset` of the log, and the event's cleaned values by field; none where the log has given
    up the event and not yet its decision."""

    record: DecisionRecord
    values: Mapping[str, Value]
    offset: int


@dataclass(frozen=True, slots=True)
class Step:
    decided: Sequence[Decided]
    next_offset: int
    """Where the next step begins."""
    labels: Sequence[LabelRecord] = ()


class Follower:
    """`wanted` says of a decision whether it is to be taken: only then is its event decoded."""

    def __init__(self, stream: StreamSpec, wanted: Callable[[DecisionRecord], bool]) -> None:
        self._names = tuple(field.name for field in stream.fields)
        self._wanted = wanted
        self._events: OrderedDict[int, Record] = OrderedDict()
        self._block: tuple[int, EventBlock] | None = None

    def steps(self, log: LogReader, start: int, end: int) -> Iterator[Step]:
        """All decisions and labels in the records from offset `start` up to (excluding) `end`, in their order. Raises
        NotFound (OFFSET_GONE), Corrupt, Conflict (ENCRYPTED_RECORD), Unavailable."""
        decided: list[Decided] = []
        labels: list[LabelRecord] = []
        begun = start
        for record in log.read(start, end=end):
            if record.offset < start:  # what was taken begins within it
                continue
            if record.kind in (RecordKind.EVENT, RecordKind.EVENTS):
                self._keep(record)
            elif record.kind is RecordKind.LABEL:
                labels.append(decode_label(record.payload))
            else:
                decided += self._taken(log, record)
            after = record.offset + record.count
            if len(decided) >= STEP_DECISIONS or after - begun >= READ_OFFSETS:
                yield Step(decided, after, labels)
                decided, labels, begun = [], [], after
        if begun < end:
            yield Step(decided, end, labels)

    def _taken(self, log: LogReader, record: Record) -> Iterator[Decided]:
        for decision in decisions_of(record):
            if self._wanted(decision):
                values = self._values(log, decision.event_offset)
                yield Decided(decision, dict(zip(self._names, values, strict=False)), record.offset)

    def _values(self, log: LogReader, offset: int) -> Sequence[Value]:
        try:
            record = self._record(log, offset)
        except NotFound:
            return ()
        if record.key_id:
            raise Conflict(
                f"The event at offset {offset} is encrypted, and there is no key for it here.",
                code="ENCRYPTED_RECORD",
                next_action="Read it where its keys are.",
            )
        if record.kind is RecordKind.EVENT:
            return decode_event(record.payload)[1]
        if self._block is None or self._block[0] != record.offset:
            self._block = record.offset, decode_events(record.payload, record.count)
        place = offset - record.offset
        [row] = self._block[1].columns.part(place, place + 1).rows()
        return row

    def _record(self, log: LogReader, offset: int) -> Record:
        if (known := self._events.get(offset)) is not None:
            return known
        for base in reversed(self._events):
            known = self._events[base]
            if base <= offset < base + known.count:
                return known
        found = next(iter(log.read(offset)), None)
        if found is None or found.kind not in (RecordKind.EVENT, RecordKind.EVENTS):
            raise Corrupt(f"There is no event at offset {offset}, which has a decision.", code="UNREADABLE_RECORD")
        self._keep(found)
        return found

    def _keep(self, record: Record) -> None:
        self._events[record.offset] = record
        while len(self._events) > KEPT_RECORDS:
            self._events.popitem(last=False)
