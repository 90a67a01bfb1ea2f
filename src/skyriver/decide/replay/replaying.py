"""Deciding history again: what a stretch of a log is decided as by what was used then, or by another version or rules.

Theory of operation
===================
Records are read in the order of the log. Events of the stretch wait, with their features as of then, for their
decisions; where these stand in the log they are decided again, by the same code, so what came in between (a change of
the version, a restart) is where it was. Many are decided together, never across a change of what is decided with.
Loaded history was never decided: it is decided for the first time, by what decides at the log's end unless something
else is asked for; where that is no version yet, it is only folded.

What the time caused (a version that was late, say) is taken from the record where the same version is asked, and is
not comparable where another one is. The replay writes nothing: neither to the log nor anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from skyriver.core.errors import SkyriverError
from skyriver.core.jobs import Progress
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.data.columns import Bools, Columns, Ints, decode_events
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.decision.choice import Choice
from skyriver.decide.decision.deciding import UndecidedBlock, decide_block
from skyriver.decide.decision.scoring import Scored
from skyriver.decide.decision.tallies import Tallies
from skyriver.decide.log.blocks import SEARCHED_RECORDS, DecisionBlock
from skyriver.decide.log.history import read_record
from skyriver.decide.log.recorded import Gathering, Recorded, erased, of_outcomes
from skyriver.decide.log.records import LATE, ControlRecord, Value, decode_event
from skyriver.decide.partition.kernel_windows import KernelWindows
from skyriver.decide.partition.sorting import place_of
from skyriver.decide.partition.windows import Floats
from skyriver.decide.replay.erased_among import ErasedAmong
from skyriver.decide.replay.past import (
    CHUNK,
    PastFeatures,
    control_at,
    control_of,
    effective_of,
    offset_at,
    past_features,
)
from skyriver.decide.replay.rescoring import score_as_recorded, timed
from skyriver.decide.replay.standing import Standing
from skyriver.decide.replay.stretch import Asked, Counts, DecidedAgain, Events, columns_of, joined
from skyriver.decide.replay.ways import Way, Ways

if TYPE_CHECKING:
    import polars as pl

_BEGIN_A_BATCH = frozenset({RecordKind.EVENT, RecordKind.EVENTS, RecordKind.HISTORY})
_BATCH = 4_096
"""So many events may be decided together, one record each: the stretch may begin among them."""
OpenWindows = Callable[[FeatureSetSpec], KernelWindows]
"""Empty windows of these features. They are closed before others of the same features are opened."""


class Replay:
    """One pass over a stretch. `decided` is told what was decided again, in the log's order."""

    def __init__(
        self,
        reader: LogReader,
        stream: StreamSpec,
        asked: Asked,
        *,
        choice: Choice,
        declared: FeatureSetSpec | None,
        digest_of: Callable[[FeatureSetSpec], str],
        open_windows: OpenWindows,
        decided: Callable[[DecidedAgain], None],
        progress: Progress,
        chunk: int = CHUNK,
        shadow: bool = False,
    ) -> None:
        """`chunk`: so many are decided together, or a batch of then if that is larger. `shadow`: what scored beside
        scores again too."""
        self._chunk = chunk
        self._reader, self._stream, self._asked = reader, stream, asked
        self._open_windows, self._decided, self._progress = open_windows, decided, progress
        self._ways = Ways(reader, stream, asked, choice=choice, declared=declared, digest_of=digest_of, shadow=shadow)
        self._standing = Standing(stream, asked)
        self._id, self._key = place_of(stream, stream.id), place_of(stream, stream.key)
        self.counts = Counts()
        self._sets: dict[str, PastFeatures] = {}
        self._gathering = Gathering()
        self._waiting: list[Events] = []
        self._singles: list[tuple[int, int, list[Value], bool]] = []
        """Offset, effective time, values, late."""
        self.first = self.stop = self._at = 0
        self._left_history = False

    def run(self) -> None:
        """Raises what keeps the features or the versions from being had."""
        reader, asked = self._reader, self._asked
        self.first, self.stop = offset_at(reader, asked.start), offset_at(reader, asked.end)
        self.first = max(reader.begin()[0], self.first - _BATCH) if self.first < self.stop else self.first
        if self.stop < reader.next_offset:  # what reaches the end may begin before it
            self.stop += next(iter(reader.read(self.stop))).count
        self.first = self._standing.reaches_to(reader, self.first, control_at(reader, self.first))
        self._use(control_at(reader, self.first))
        self._standing.learn_before(reader, self.first, self._progress)
        self._at, since = self.first, 0
        for record in reader.read(self.first):
            done = not self._waits or record.offset - self.stop > SEARCHED_RECORDS
            if record.offset >= self.stop and done:
                break
            since += record.count
            if since >= self._chunk and record.kind in _BEGIN_A_BATCH:
                since = 0
                self._settle()
                for each in self._sets.values():
                    each.forget()
                self._progress("replay", record.offset - self.first, self.stop - self.first)
            self._apply(record)
            self._at = record.offset + record.count
        self._settle()
        if self._left_history and not self.counts.events:  # it is all there is
            self._ways.of_history()
        self.counts.undecided = sum(int(np.count_nonzero(self._asked.inside(part.effective))) for part in self._waiting)
        self._progress("replay", self.stop - self.first, self.stop - self.first)

    def close(self) -> None:
        for each in self._sets.values():
            each.close()
        self._sets.clear()

    def _apply(self, record: Record) -> None:
        match record.kind:
            case RecordKind.CONTROL:
                control = control_of(record)
                if control is not None:
                    self._settle()
                    self._use(control)
            case RecordKind.DECISION | RecordKind.DECISIONS:
                self._gathering.add(record)
            case RecordKind.HISTORY:
                self._settle()
                self._history(record)
            case RecordKind.EVENT:
                self._fold(record)
                if record.time < self._asked.end or self._waits:
                    flags, values = decode_event(record.payload)
                    self._singles.append((record.offset, record.time, values, bool(flags & LATE)))
            case RecordKind.EVENTS:
                self._fold(record)
                self._block(record)
            case RecordKind.REFERENCE:
                self._fold(record)
                if self._standing.reads(record):
                    self._settle()  # who was decided before does not see it
                    self._standing.learn(record)
            case RecordKind.LABEL | RecordKind.DEAD:
                self._fold(record)

    def _use(self, control: ControlRecord | None) -> None:
        self._ways.use(control)
        self._standing.use(control)

    def _fold(self, record: Record) -> None:
        for each in self._sets.values():
            each.apply(record)

    # Events that wait for their decisions

    def _block(self, record: Record) -> None:
        block = decode_events(record.payload, record.count)
        if block.effective[0] >= self._asked.end and not self._waits:
            return
        self._close_singles()
        offsets = np.arange(record.offset, record.offset + record.count, dtype=np.int64)
        late = block.late if block.late is not None else np.zeros(record.count, np.bool_)
        self._waiting.append(Events(offsets, block.effective, block.columns, late))

    @property
    def _waits(self) -> bool:
        """Whether events wait, of which those of the stretch may be decided together with some that come after it."""
        return bool(self._waiting or self._singles)

    def _close_singles(self) -> None:
        singles, self._singles = self._singles, []
        if singles:
            offsets, effective, rows, late = zip(*singles, strict=True)
            columns = Columns.of_rows(self._stream.fields, rows)
            self._waiting.append(
                Events(np.array(offsets, np.int64), np.array(effective, np.int64), columns, np.array(late, np.bool_))
            )

    def _settle(self) -> None:
        """Decides again all whose decisions have come."""
        if not len(self._gathering):
            return
        self._close_singles()
        then = self._gathering.take()
        if not len(then) or not self._waiting:
            return
        parts, self._waiting = self._waiting, []
        events = parts[0] if len(parts) == 1 else joined(parts)
        at = np.minimum(np.searchsorted(events.offsets, then.events), len(events) - 1)
        mine = events.offsets[at] == then.events
        then, at = then.take(mine), at[mine]
        left = np.ones(len(events), np.bool_)
        left[at] = False
        if left.any():
            self._waiting = [events.take(np.flatnonzero(left))]
        if len(at) != len(events) or bool(np.any(at[1:] != at[:-1] + 1)):
            events = events.take(at)
        inside, gone = self._asked.inside(events.effective), erased(then)
        self.counts.erased += int(np.count_nonzero(gone & inside))
        among = ErasedAmong(events, then, gone & inside)
        if not self._asked.as_it_was and bool((gone & inside).any()):  # what they would be decided now, nobody can say
            self._standing.counts_whole = False
        inside &= ~gone
        self.counts.events += int(np.count_nonzero(inside))
        self.counts.late += int(np.count_nonzero(events.late & inside))
        if not inside.all():
            before = events.effective < self._asked.start
            self._standing.note(events.take(np.flatnonzero(before)), then.take(before))
        kept = inside if inside.all() else np.isin(then.batches, then.batches[inside])
        if kept.any():
            self._decide(events if kept.all() else events.take(np.flatnonzero(kept)), then.take(kept), among)
        among.note_rest(self._standing)
        first_left = int(self._waiting[0].offsets[0]) if self._waiting else self._at
        for each in self._sets.values():
            each.let_go(first_left)

    def _decide(self, events: Events, then: Recorded, among: ErasedAmong) -> None:
        way = self._ways.of_then()
        told = self._ways.told(then, way)
        if way is None or not told.all():
            self.counts.untold += int(np.count_nonzero(~told))
            events, then = events.take(np.flatnonzero(told)), then.take(told)
        if way is None or not len(events):
            return
        on_time = ~events.late
        features: Floats | None = None
        if way.spec is not None:
            features, usable = self._features(way, events, then)
            if not usable.all():
                self.counts.cut += int(np.count_nonzero(~usable))
                features = features[usable[on_time]]
                events, then = events.take(np.flatnonzero(usable)), then.take(usable)
                on_time = ~events.late
        scored: Scored | None = None
        if way.same_model:
            keys = _keys(events, self._key, way, on_time)
            scored = score_as_recorded(way.deciding, features, keys, then.take(on_time))
        inside = self._asked.inside(events.effective) & ~erased(then)
        if not inside.all():  # scored with the others of their batch
            scored = scored.take(inside[on_time]) if scored is not None else None
            features = features[inside[on_time]] if features is not None else None
            events, then = events.take(np.flatnonzero(inside)), then.take(inside)
        for first, end in among.between(events, self._standing) if len(events) else ():
            run = np.zeros(len(events), np.bool_)
            run[first:end] = True
            own = run[~events.late]
            self._decide_run(
                way,
                events if run.all() else events.take(np.arange(first, end)),
                then.take(run),
                scored.take(own) if scored is not None and not own.all() else scored,
                features[own] if features is not None and not own.all() else features,
            )

    def _decide_run(
        self, way: Way, events: Events, then: Recorded, scored: Scored | None, features: Floats | None
    ) -> None:
        standing = self._standing
        now = self._decided_block(
            events, standing.beside(way.deciding.lookups, events), way, features, scored, standing.tallies
        )
        self.counts.budgets_cut += len(events) if standing.tallies and not standing.counts_whole else 0
        self.counts.lists_cut += len(events) if way.deciding.lookups and not standing.lists_whole else 0
        comparable = np.ones(len(events), np.bool_) if way.same_model else ~timed(then)
        self._decided(DecidedAgain(events, then, now, features, way.digest, way.spec, comparable))

    def _decided_block(
        self,
        events: Events,
        columns: Columns,
        way: Way,
        features: Floats | None,
        scored: Scored | None,
        tallies: Tallies,
    ) -> DecisionBlock:
        return decide_block(
            UndecidedBlock(
                int(events.offsets[0]),
                columns,
                events.late if events.late.any() else None,
                np.full(len(events), -1, np.int64),
                features,
                events.effective,
            ),
            way.deciding,
            id_place=self._id,
            key_place=self._key,
            features_digest=way.digest,
            now=0,
            monotonic=0,
            scored=scored,
            tallies=tallies,
        )

    # Loaded history

    def _history(self, record: Record) -> None:
        if record.time < self._asked.start or self._ways.leaves_history:  # the time of its last row
            self._left_history |= record.time >= self._asked.start
            self._fold(record)
            if self._standing.has_lists:
                self._standing.learn(record)
            return
        ways = [(self._ways.of_history(), self._standing.loaded)]
        if (unasked := self._ways.unasked()) is not None:
            ways.append((unasked, self._standing.unasked))
        first = max(self._asked.start, int(effective_of(record)[0]))  # or before the first event that is asked for
        pasts = [self._set(way, time=first, since=record.offset) for way, _ in ways if way.spec is not None]
        self._fold(record)
        frame = pasts[0].block if pasts else read_record(record.payload)
        assert frame is not None
        kind, effective = frame["_kind"].to_numpy(), frame["_effective"].to_numpy()
        places = np.flatnonzero((kind == RecordKind.EVENT) & self._asked.inside(effective))
        if not len(places):
            self._standing.learn_frame(frame)
            return
        columns = columns_of(frame, self._stream).take(places)
        events = Events(record.offset + places, effective[places], columns, np.zeros(len(places), np.bool_))
        self._decide_history(events, frame, record.offset, ways)

    def _decide_history(
        self, events: Events, frame: pl.DataFrame, offset: int, ways: Sequence[tuple[Way, Tallies]]
    ) -> None:
        """By the first of the ways, and by the second one to compare, where there are two."""
        self.counts.history += len(events)
        found = [self._features(way, events, None) if way.spec is not None else None for way, _ in ways]
        usable = np.ones(len(events), np.bool_)
        for each in found:
            usable &= each[1] if each is not None else True
        self.counts.cut += int(np.count_nonzero(~usable))
        events = events.take(np.flatnonzero(usable))
        lookups = sorted({place for way, _ in ways for place in way.deciding.lookups})
        columns = self._standing.beside_loaded(lookups, events, frame, offset)
        if not len(events):
            return
        blocks = []
        for (way, tallies), each in zip(ways, found, strict=True):
            if (rules := way.deciding.rules) is not None:
                tallies.use(rules.budgets, rules.counters)
            features = each[0][usable] if each is not None else None
            blocks.append((self._decided_block(events, columns, way, features, None, tallies), features))
        (now, features), way = blocks[0], ways[0][0]
        unasked = blocks[1][0] if len(blocks) > 1 else None
        all_of = np.ones(len(events), np.bool_)
        self._decided(DecidedAgain(events, None, now, features, way.digest, way.spec, all_of, unasked))

    # Features

    def _features(self, way: Way, events: Events, then: Recorded | None) -> tuple[Floats, Bools]:
        """Of the events that are not late, and which events can be decided: not those whose windows are cut, and whose
        record does not have the same features either."""
        assert way.spec is not None
        places = np.flatnonzero(~events.late)
        usable = np.ones(len(events), np.bool_)
        if not len(places):
            return np.empty((0, len(way.spec.features)), np.float32), usable
        self.counts.feature_sets.add(way.digest)
        waits = min(int(part.offsets[0]) for part in (events, *self._waiting))
        past = self._set(way, time=int(events.effective[places].min()), since=waits)
        found = past.of(events.offsets[places])
        whole = past.whole(events.effective[places])
        if not whole.all():
            known = np.zeros(len(events), np.bool_)
            if then is not None:
                known = then.having & of_outcomes(then, [o.features_digest == way.digest for o in then.outcomes])
                row = np.cumsum(then.having) - 1
                taken = ~whole & known[places]
                if taken.any():
                    found = found.copy()
                    found[taken] = then.features[row[places[taken]]]
                self.counts.recorded_features += int(np.count_nonzero(taken))
            usable[places] = whole | known[places]
        return found, usable

    def _set(self, way: Way, *, time: int, since: int) -> PastFeatures:
        """The features of this way, folded up to the record that is being read."""
        assert way.spec is not None
        known = self._sets.get(way.digest)
        if known is not None:
            return known
        for digest in self._sets.keys() - self._ways.digests:
            self._sets.pop(digest).close()
        windows = self._open_windows(way.spec)
        try:
            past = past_features(
                self._reader,
                windows,
                time=time,
                since=since,
                end=self._at,
                told=lambda offset: self._progress("features", max(0, offset), self._at),
            )
        except SkyriverError:
            windows.close()
            raise
        self._sets[way.digest] = past
        return past


def _keys(events: Events, key: int, way: Way, on_time: Bools) -> Ints:
    """Of the events that are not late, where there is a canary to choose by them."""
    if way.deciding.canary is None:
        return np.empty(0, np.int64)
    return events.columns.take(np.flatnonzero(on_time)).keys(key)
