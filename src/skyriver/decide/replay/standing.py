"""What decisions hang on beside the event and its features, as it stood at each place of a log: rows of lists, and how
many decisions there were of late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from skyriver.core.jobs import Progress
from skyriver.core.spec import StreamSpec
from skyriver.data.columns import Columns, join
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.decision.tallies import Tallies
from skyriver.decide.decision.walking import keys_of_columns
from skyriver.decide.log import lists_columns
from skyriver.decide.log.checkpoint import NEVER
from skyriver.decide.log.history import learn_frame, read_record
from skyriver.decide.log.lists import Lists
from skyriver.decide.log.recorded import Recorded, erased, of_outcomes
from skyriver.decide.log.records import ControlRecord, decode_reference
from skyriver.decide.replay.past import offset_at
from skyriver.decide.replay.stretch import Asked, Events

if TYPE_CHECKING:
    import polars as pl


class Standing:
    """`tallies` are of live events; `loaded` those of history, which nobody counted then, and `unasked` of what it is
    compared with."""

    def __init__(self, stream: StreamSpec, asked: Asked) -> None:
        self._stream, self._asked = stream, asked
        self._lists = Lists(stream)
        self.tallies, self.loaded, self.unasked = Tallies(stream), Tallies(stream), Tallies(stream)
        self.lists_whole = self.counts_whole = True
        """Whether the log has all that they hang on."""

    @property
    def has_lists(self) -> bool:
        return len(self._lists) > 0

    def reaches_to(self, reader: LogReader, first: int, control: ControlRecord | None) -> int:
        """The offset from which on what was decided is to be counted, at most `first`, where this `control` counts."""
        tallies, start = Tallies(self._stream), self._asked.start
        self._follow(tallies, control)
        if not tallies.reach:
            return first
        begin, gone = reader.begin()
        self.counts_whole = not begin or start - tallies.reach >= gone
        return min(first, max(begin, offset_at(reader, start - tallies.reach))) if start > NEVER else first

    def use(self, control: ControlRecord | None) -> None:
        """From the next decision on."""
        self._follow(self.tallies, control)

    def _follow(self, tallies: Tallies, control: ControlRecord | None) -> None:
        rules = self._asked.rules
        if rules is not None and rules.bounds is not None:
            tallies.use(rules.bounds.budgets, rules.bounds.counters)
        elif control is not None:
            tallies.follow(control)

    def note(self, events: Events, then: Recorded) -> None:
        """What they were decided then counts, of these before the stretch, or erased in it."""
        tallies = self.tallies
        if not tallies:
            return
        words = [outcome.decision for outcome in then.outcomes]
        places = np.flatnonzero(of_outcomes(then, [word in tallies for word in words]))
        keys, codes = keys_of_columns(tallies, events.columns, places), then.codes[places].tolist()
        nobodys = erased(then)[places]
        if nobodys.any() and self._says_no_value(events.take(places[nobodys])):
            self.counts_whole = False
        for code, own, now in zip(codes, keys, events.effective[places].tolist(), strict=True):
            tallies.note(words[code], own, now)

    def _says_no_value(self, gone: Events) -> bool:
        """Whether a field that is counted by may have been emptied when the subjects of these events were erased."""
        for place in self.tallies.fields:
            column = gone.columns.columns[place]
            if column.missing is not None and column.missing.any():
                return True
            if not all(column.values if isinstance(column.values, list) else column.values.tolist()):
                return True
        return False

    def learn_before(self, reader: LogReader, end: int, progress: Progress) -> None:
        """What lists say at offset `end`: their rows may be of any age."""
        if not self.has_lists:
            return
        begin = reader.begin()[0]
        self.lists_whole = not begin
        for record in reader.read(begin, end=end):
            progress("lists", record.offset - begin, end - begin)
            if record.offset < end:
                self.learn(record)

    def reads(self, record: Record) -> bool:
        """Whether a row of a reference is one of a list."""
        return record.kind is RecordKind.REFERENCE and self._lists.get(decode_reference(record.payload)[0]) is not None

    def learn(self, record: Record) -> None:
        if record.kind is RecordKind.REFERENCE:
            self._lists.learn(*decode_reference(record.payload), record.time)
        elif record.kind is RecordKind.HISTORY:
            self.learn_frame(read_record(record.payload))

    def learn_frame(self, frame: pl.DataFrame) -> None:
        """Of a block of history."""
        learn_frame(self._lists, frame)

    def beside(self, lookups: Sequence[int], events: Events) -> Columns:
        """The fields of the events, and what lists say of them now; `lookups`: what is asked of these."""
        if not lookups:
            return events.columns
        return lists_columns.beside(self._lists, lookups, events.columns, events.effective)

    def beside_loaded(self, lookups: Sequence[int], events: Events, frame: pl.DataFrame, first: int) -> Columns:
        """The same of events of a block of history, whose rows of lists count for the events behind them in it."""
        if not lookups or "_reference" not in frame.columns:
            self.learn_frame(frame)
            return self.beside(lookups, events)
        parts: list[Columns] = []
        at = 0
        for row in np.flatnonzero(frame["_kind"].to_numpy() == RecordKind.REFERENCE).tolist():
            end = int(np.searchsorted(events.offsets, first + row))
            if end > at:
                parts.append(self.beside(lookups, events.take(np.arange(at, end))))
                at = end
            self._lists.learn(*decode_reference(frame["_reference"][row]), int(frame["_effective"][row]))
        if at < len(events) or not parts:
            parts.append(self.beside(lookups, events.take(np.arange(at, len(events)))))
        return join(parts)
