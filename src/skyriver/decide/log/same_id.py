"""Whether an id that the index knows is the one that is asked for, or another text with the same 64 bits.

The index holds keys (`skyriver.data.keys`). Of a whole number the key is the number; two texts may have the same one,
and then an event must not count as a duplicate of another one, nor a label be about it. So what the index found is
compared with the id that stands at that offset: in the last decisions, which are in memory, or in the log where it
lies on this disk. Only what was found pays for it: 4 us an event where many come again in their order, 0.5 ms for one
that stands alone. Labels, which are about old events in no order, are compared with what is in memory alone.

What the log has given up, has moved to its tier, or cannot read is taken for the same id: nobody may wait for a tier
that is away, and a chance of 3 in a million for 10 million ids is what is left for those alone. The index has one
offset a key: of two texts with the same key the one that came last is known, and the other one is new if it comes
again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import cast

from skyriver.core.errors import SkyriverError
from skyriver.core.spec import StreamSpec
from skyriver.data.columns import decode_events
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.log.history import read_record
from skyriver.decide.log.records import DecisionRecord, Id, decode_event

NEAR = 256
"""Offsets that are read over, rather than looked up again: one of the index of a segment stands for about so many."""


class SameId:
    """`recent` gives decisions that are in memory, by their events' offsets; `here` the offset from which on the log
    lies on this disk."""

    def __init__(
        self,
        log: LogReader,
        stream: StreamSpec,
        recent: Callable[[int], DecisionRecord | None],
        here: Callable[[], int],
    ) -> None:
        self._log = log
        self._field = stream.id
        self._place = [f.name for f in stream.fields].index(stream.id)
        self._recent = recent
        self._here = here

    def others(self, ids: Sequence[object], found: Sequence[int], *, in_log: bool = True) -> list[int]:
        """Places where the event at the offset found (-1: none was) has another id. Not `in_log`: as far as memory
        tells."""
        known = self._ids_at({offset for offset in found if offset >= 0}, in_log)
        return [
            place
            for place, (own, at) in enumerate(zip(ids, found, strict=True))
            if at >= 0 and known.get(at, own) != own
        ]

    def _ids_at(self, offsets: Iterable[int], in_log: bool) -> dict[int, Id]:
        """Of the events at these offsets, as far as they can be told."""
        known: dict[int, Id] = {}
        far = []
        for offset in offsets:
            if (decision := self._recent(offset)) is not None:
                known[offset] = decision.id
            else:
                far.append(offset)
        if in_log and far and (here := self._here()) <= max(far):
            with suppress(SkyriverError):
                self._read(sorted(offset for offset in far if offset >= here), known)
        return known

    def _read(self, offsets: Sequence[int], known: dict[int, Id]) -> None:
        """`offsets` ascend. Each run of them that lie near each other is read at once."""
        at, before = 0, -1
        while before < at < len(offsets):
            before = at
            for record in self._log.read(offsets[at], end=offsets[-1] + 1):
                behind = record.offset + record.count
                to = bisect_left(offsets, behind, at)
                if to > at:
                    ids = self._ids_of(record)
                    known.update((offset, ids[offset - record.offset]) for offset in offsets[at:to])
                    at = to
                if at == len(offsets) or offsets[at] > behind + NEAR:
                    break

    def _ids_of(self, record: Record) -> Sequence[Id]:
        """Of the events of a record, by their place in it."""
        match record.kind:
            case RecordKind.EVENT:
                return [cast("Id", decode_event(record.payload)[1][self._place])]
            case RecordKind.EVENTS:
                columns = decode_events(record.payload, record.count).columns.columns
                return cast("Sequence[Id]", columns[self._place].to_list())
            case _:
                return cast("Sequence[Id]", read_record(record.payload)[self._field].to_list())
