"""Deciding history again: what a stretch of a log is decided as by what was used then, or by another version or rules.

Theory of operation
===================
Records are read in the order of the log. Events of the stretch wait, with their features as of then, for their
decisions; where these stand in the log they are decided again, by the same code, so what came in between (a change of
the version, a restart) is where it was. Many are decided together, never across a change of what is decided with.
Loaded history was never decided: it is decided for the first time, by what decides at the log's end unless something
else is asked for.

What the time caused (a version that was late, say) is taken from the record where the same version is asked, and is
not comparable where another one is. The replay writes nothing: neither to the log nor anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from skyriver.core.errors import Conflict, SkyriverError
from skyriver.core.jobs import Progress
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.data.columns import Bools, Column, Columns, Ints, decode_events, join
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide import lists_columns
from skyriver.decide.asking import DecisionBounds
from skyriver.decide.blocks import SEARCHED_RECORDS, DecisionBlock
from skyriver.decide.checkpoint import NEVER
from skyriver.decide.choice import Choice, Wanted, WantedModel
from skyriver.decide.deciding import Deciding, UndecidedBlock, decide_block
from skyriver.decide.history import learn_frame, read_record
from skyriver.decide.kernel_windows import KernelWindows
from skyriver.decide.lists import Lists
from skyriver.decide.past import (
    CHUNK,
    PastFeatures,
    control_after,
    control_before,
    control_of,
    effective_of,
    offset_at,
    past_features,
)
from skyriver.decide.recorded import Gathering, Recorded
from skyriver.decide.records import LATE, ControlRecord, Value, decode_event, decode_reference
from skyriver.decide.rescoring import of_outcomes, score_as_recorded, timed
from skyriver.decide.rules import RuleText
from skyriver.decide.scoring import Scored
from skyriver.decide.sorting import place_of
from skyriver.decide.tallies import Tallies
from skyriver.decide.walking import keys_of_columns
from skyriver.decide.windows import Floats

if TYPE_CHECKING:
    import polars as pl

_BEGIN_A_BATCH = frozenset({RecordKind.EVENT, RecordKind.EVENTS, RecordKind.HISTORY})
_BATCH = 4_096
"""So many events may be decided together, one record each: the stretch may begin among them."""
OpenWindows = Callable[[FeatureSetSpec], KernelWindows]
"""Empty windows of these features. They are closed before others of the same features are opened."""


@dataclass(frozen=True, slots=True)
class AskedRules:
    rules: tuple[RuleText, ...]
    otherwise: str
    fallback: str
    bounds: DecisionBounds | None = None
    """None: as they were then."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Events with an effective time in [start, end); None: as it was used then."""

    start: int
    end: int
    model: WantedModel | None = None
    rules: AskedRules | None = None

    @property
    def as_it_was(self) -> bool:
        return self.model is None and self.rules is None


@dataclass(frozen=True, slots=True)
class Events:
    """Of n events: offsets, effective times, fields; which came late."""

    offsets: Ints
    effective: Ints
    columns: Columns
    late: Bools

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, places: Ints) -> Events:
        return Events(self.offsets[places], self.effective[places], self.columns.take(places), self.late[places])


@dataclass(frozen=True, slots=True)
class DecidedAgain:
    """Events in the order in which they were decided. `then` is None in loaded history. `features` of those that are
    not late, by the set `digest`, which `spec` is; `comparable` bool [n]: not where the time caused what the
    record says, and another version is asked now."""

    events: Events
    then: Recorded | None
    now: DecisionBlock
    features: Floats | None
    digest: str
    spec: FeatureSetSpec | None
    comparable: Bools

    @property
    def names(self) -> tuple[str, ...]:
        return self.spec.names if self.spec is not None else ()


@dataclass(slots=True)
class Counts:
    """`events` and rows of loaded `history` in the stretch; of them `late`, `undecided` (no decision in the log),
    `cut` (their windows reach back to what the log has given up), `untold` (the log no longer tells what decided)."""

    events: int = 0
    history: int = 0
    late: int = 0
    undecided: int = 0
    cut: int = 0
    recorded_features: int = 0
    """Not computed, for the log has given up what they look back to, but taken from the record."""
    untold: int = 0
    feature_sets: set[str] = field(default_factory=set)
    budgets_cut: int = 0
    """Held to budgets or counters of which the log has given up decisions."""
    lists_cut: int = 0
    """Decided by rules that read lists, of which the log may have given up rows."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How events are decided: by whom, with which features (None: none are computed)."""

    deciding: Deciding
    digest: str
    spec: FeatureSetSpec | None
    same_model: bool


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
        self._chunk, self._shadow = chunk, shadow
        self._reader, self._stream, self._asked = reader, stream, asked
        self._choice, self._declared, self._digest_of = choice, declared, digest_of
        self._open_windows, self._decided, self._progress = open_windows, decided, progress
        self._id, self._key = place_of(stream, stream.id), place_of(stream, stream.key)
        self.counts = Counts()
        self._sets: dict[str, PastFeatures] = {}
        self._control: ControlRecord | None = None
        self._way: _Way | None = None
        self._history_way: _Way | None = None
        self._lists = Lists(stream)
        self._tallies, self._history_tallies = Tallies(stream), Tallies(stream)
        self._gathering = Gathering()
        self._waiting: list[Events] = []
        self._singles: list[tuple[int, int, list[Value], bool]] = []
        """Offset, effective time, values, late."""
        self._lists_whole, self._counts_cut = True, False
        self.first = self.stop = self._at = 0

    def run(self) -> None:
        """Raises what keeps the features or the versions from being had."""
        reader, asked = self._reader, self._asked
        self.first, self.stop = offset_at(reader, asked.start), offset_at(reader, asked.end)
        self.first = max(reader.begin()[0], self.first - _BATCH) if self.first < self.stop else self.first
        if self.stop < reader.next_offset:  # what reaches the end may begin before it
            self.stop += next(iter(reader.read(self.stop))).count
        self._begin_counting()
        self._learn_before()
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
        self.counts.undecided = sum(int(np.count_nonzero(self._inside(part.effective))) for part in self._waiting)
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
                self._learn(record)
            case RecordKind.LABEL | RecordKind.DEAD:
                self._fold(record)

    def _fold(self, record: Record) -> None:
        for each in self._sets.values():
            each.apply(record)

    # Budgets and counters

    def _begin_counting(self) -> None:
        """What is decided with where the reading begins: so far back as budgets and counters look, for they hold what
        was decided before the stretch."""
        reader, asked = self._reader, self._asked
        self._use(control_before(reader, self.first) or control_after(reader, self.first))
        reach = self._tallies.reach
        if not reach or self.first >= self.stop:
            return
        begin, gone = reader.begin()
        self._counts_cut = bool(begin) and asked.start - reach < gone
        if asked.start > NEVER:
            self.first = min(self.first, max(begin, offset_at(reader, asked.start - reach)))
            self._tallies = Tallies(self._stream)
            self._use(control_before(reader, self.first) or control_after(reader, self.first))

    def _use(self, control: ControlRecord | None) -> None:
        """From the next decision on."""
        self._control, self._way = control, None
        rules = self._asked.rules
        if rules is not None and rules.bounds is not None:
            self._tallies.use(rules.bounds.budgets, rules.bounds.counters)
        elif control is not None:
            self._tallies.follow(control)

    def _note(self, events: Events, then: Recorded) -> None:
        """These came before the stretch: what they were decided then counts."""
        tallies = self._tallies
        if not tallies:
            return
        words = [outcome.decision for outcome in then.outcomes]
        places = np.flatnonzero(of_outcomes(then, [word in tallies for word in words]))
        keys, codes = keys_of_columns(tallies, events.columns, places), then.codes[places].tolist()
        for code, own, now in zip(codes, keys, events.effective[places].tolist(), strict=True):
            tallies.note(words[code], own, now)

    # Lists

    def _learn_before(self) -> None:
        """What lists say where the reading begins: their rows may be of any age."""
        if not any(self._lists):
            return
        begin = self._reader.begin()[0]
        self._lists_whole = not begin
        for record in self._reader.read(begin, end=self.first):
            self._progress("lists", record.offset - begin, self.first - begin)
            if record.offset >= self.first:
                break
            if record.kind is RecordKind.REFERENCE:
                self._learn(record)
            elif record.kind is RecordKind.HISTORY:
                learn_frame(self._lists, read_record(record.payload))

    def _learn(self, record: Record) -> None:
        index, values = decode_reference(record.payload)
        if self._lists.get(index) is not None:
            self._settle()  # who was decided before does not see it
            self._lists.learn(index, values, record.time)

    def _beside(self, way: _Way, events: Events) -> Columns:
        """The fields of the events, and what lists say of them now."""
        if not way.deciding.lookups:
            return events.columns
        self.counts.lists_cut += 0 if self._lists_whole else len(events)
        return lists_columns.beside(self._lists, way.deciding.lookups, events.columns, events.effective)

    def _beside_history(self, way: _Way, events: Events, frame: pl.DataFrame, first: int) -> Columns:
        """The same of a block of history, whose rows of lists count for the events behind them in it."""
        if not way.deciding.lookups or "_reference" not in frame.columns:
            learn_frame(self._lists, frame)
            return self._beside(way, events)
        parts: list[Columns] = []
        at = 0
        for row in np.flatnonzero(frame["_kind"].to_numpy() == RecordKind.REFERENCE).tolist():
            end = int(np.searchsorted(events.offsets, first + row))
            if end > at:
                parts.append(self._beside(way, events.take(np.arange(at, end))))
                at = end
            index, values = decode_reference(frame["_reference"][row])
            self._lists.learn(index, values, int(frame["_effective"][row]))
        if at < len(events) or not parts:
            parts.append(self._beside(way, events.take(np.arange(at, len(events)))))
        return join(parts)

    # Events that wait for their decisions

    def _block(self, record: Record) -> None:
        block = decode_events(record.payload, record.count)
        if block.effective[0] >= self._asked.end and not self._waits:
            return
        self._close_singles()
        offsets = np.arange(record.offset, record.offset + record.count, dtype=np.int64)
        late = block.late if block.late is not None else np.zeros(record.count, np.bool_)
        self._waiting.append(Events(offsets, block.effective, block.columns, late))

    def _inside(self, effective: Ints) -> Bools:
        found: Bools = (effective >= self._asked.start) & (effective < self._asked.end)
        return found

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
        events = parts[0] if len(parts) == 1 else _joined(parts)
        at = np.minimum(np.searchsorted(events.offsets, then.events), len(events) - 1)
        mine = events.offsets[at] == then.events
        then, at = then.take(mine), at[mine]
        left = np.ones(len(events), np.bool_)
        left[at] = False
        if left.any():
            self._waiting = [events.take(np.flatnonzero(left))]
        if len(at) != len(events) or bool(np.any(at[1:] != at[:-1] + 1)):
            events = events.take(at)
        inside = self._inside(events.effective)
        self.counts.events += int(np.count_nonzero(inside))
        self.counts.late += int(np.count_nonzero(events.late & inside))
        if not inside.all():
            before = events.effective < self._asked.start
            self._note(events.take(np.flatnonzero(before)), then.take(before))
        kept = inside if inside.all() else np.isin(then.batches, then.batches[inside])
        if kept.any():
            self._decide(events if kept.all() else events.take(np.flatnonzero(kept)), then.take(kept))
        first_left = int(self._waiting[0].offsets[0]) if self._waiting else self._at
        for each in self._sets.values():
            each.let_go(first_left)

    def _decide(self, events: Events, then: Recorded) -> None:
        way = self._way_of_then()
        told = self._told(then, way)
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
        inside = self._inside(events.effective)
        if not inside.all():  # scored with the others of their batch
            scored = scored.take(inside[on_time]) if scored is not None else None
            features = features[inside[on_time]] if features is not None else None
            events, then = events.take(np.flatnonzero(inside)), then.take(inside)
        if not len(events):
            return
        now = self._decided_block(events, self._beside(way, events), way, features, scored, self._tallies)
        if self._counts_cut and self._tallies:
            self.counts.budgets_cut += len(events)
        comparable = np.ones(len(events), np.bool_) if way.same_model else ~timed(then)
        self._decided(DecidedAgain(events, then, now, features, way.digest, way.spec, comparable))

    def _decided_block(
        self,
        events: Events,
        columns: Columns,
        way: _Way,
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
        if record.time < self._asked.start:  # that of its last row
            self._fold(record)
            if any(self._lists):
                learn_frame(self._lists, read_record(record.payload))
            return
        way = self._way_of_history()
        if way.spec is None:
            self._fold(record)
            frame = read_record(record.payload)
        else:
            first = max(self._asked.start, int(effective_of(record)[0]))  # or before the first event that is asked for
            past = self._set(way, time=first, since=record.offset)
            self._fold(record)
            assert past.block is not None
            frame = past.block
        kind, effective = frame["_kind"].to_numpy(), frame["_effective"].to_numpy()
        places = np.flatnonzero((kind == RecordKind.EVENT) & self._inside(effective))
        if not len(places):
            learn_frame(self._lists, frame)
            return
        self.counts.history += len(places)
        columns = columns_of(frame, self._stream).take(places)
        events = Events(record.offset + places, effective[places], columns, np.zeros(len(places), np.bool_))
        features: Floats | None = None
        if way.spec is not None:
            features, usable = self._features(way, events, None)
            if not usable.all():
                self.counts.cut += int(np.count_nonzero(~usable))
                features, events = features[usable], events.take(np.flatnonzero(usable))
        columns = self._beside_history(way, events, frame, record.offset)
        if len(events):
            now = self._decided_block(events, columns, way, features, None, self._history_tallies)
            all_of = np.ones(len(events), np.bool_)
            self._decided(DecidedAgain(events, None, now, features, way.digest, way.spec, all_of))

    # What is decided with

    def _way_of_then(self) -> _Way | None:
        """None: the log does not tell."""
        control = self._control
        if control is None:
            return None
        if not control.fallback and not self._asked.as_it_was:  # nothing was declared then
            return self._way_of_history()
        if self._way is None:
            self._way = self._way_by(control)
        return self._way

    def _way_of_history(self) -> _Way:
        """By what decides at the log's end."""
        if self._history_way is None:
            control = control_before(self._reader, self._reader.next_offset)
            way = self._way_by(control) if control is not None and control.fallback else None
            if way is None or way.deciding.model is None:
                raise Conflict(
                    f"{self._stream.name} decides with no version yet, so its history cannot be decided.",
                    code="NO_VERSION",
                    next_action="Name a version with --model NAME:VERSION, or release one first.",
                )
            self._history_way = way
            rules = way.deciding.rules
            if rules is not None:
                self._history_tallies.use(rules.budgets, rules.counters)
        return self._history_way

    def _way_by(self, control: ControlRecord) -> _Way | None:
        asked, wanted = self._asked, Wanted.of_control(control)
        if not self._shadow:
            wanted = replace(wanted, shadow=None)
        same = asked.model is None or (asked.model.in_use == control.model and control.canary is None)
        if asked.rules is not None:
            rules = asked.rules
            wanted = replace(wanted, rules=rules.rules, otherwise=rules.otherwise, fallback=rules.fallback, trial=None)
        elif not control.fallback:
            return _Way(Deciding(), control.features_digest, self._spec_of(control), same)
        if asked.model is not None and not same:
            wanted = replace(wanted, model=asked.model, canary=None, last=None)
        digest, spec = control.features_digest, self._spec_of(control)
        if asked.model is not None and asked.model.features is not None:
            spec = asked.model.features
            digest = self._digest_of(spec)
        elif asked.model is not None and asked.model.features_digest not in ("", digest):
            raise _other_features(asked.model, digest, self._stream)
        if digest and spec is None:
            return None
        return _Way(self._choice.told(wanted, digest, spec), digest, spec, same)

    def _spec_of(self, control: ControlRecord) -> FeatureSetSpec | None:
        if control.features is not None:
            return FeatureSetSpec.model_validate(control.features)
        declared = self._declared
        return declared if declared is not None and self._digest_of(declared) == control.features_digest else None

    def _told(self, then: Recorded, way: _Way | None) -> Bools:
        """Of which decisions the log tells how they were made, as far as that is asked for."""
        control, asked = self._control, self._asked
        if way is None or control is None:
            return np.zeros(len(then), np.bool_)
        who = way.deciding.who
        rules = {control.rules_digest, *([control.trial.rules_digest] if control.trial is not None else ())}
        versions = {("", 0), *((model.name, model.version) for model, _, _ in who if model is not None)}
        return of_outcomes(
            then,
            [
                (asked.rules is not None or outcome.rules_digest in rules)
                and (asked.model is not None or outcome.features_digest == control.features_digest)
                and (asked.model is not None or (outcome.model, outcome.version) in versions)
                for outcome in then.outcomes
            ],
        )

    # Features

    def _features(self, way: _Way, events: Events, then: Recorded | None) -> tuple[Floats, Bools]:
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

    def _set(self, way: _Way, *, time: int, since: int) -> PastFeatures:
        """The features of this way, folded up to the record that is being read."""
        assert way.spec is not None
        known = self._sets.get(way.digest)
        if known is not None:
            return known
        kept = {way.digest, self._history_way.digest if self._history_way is not None else ""}
        for digest in self._sets.keys() - kept:
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


def _keys(events: Events, key: int, way: _Way, on_time: Bools) -> Ints:
    """Of the events that are not late, where there is a canary to choose by them."""
    if way.deciding.canary is None:
        return np.empty(0, np.int64)
    return events.columns.take(np.flatnonzero(on_time)).keys(key)


def _joined(parts: list[Events]) -> Events:
    return Events(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.effective for part in parts]),
        join([part.columns for part in parts]),
        np.concatenate([part.late for part in parts]),
    )


def columns_of(frame: pl.DataFrame, stream: StreamSpec) -> Columns:
    """The fields of rows of loaded history."""
    columns = []
    for own in stream.fields:
        series = frame[own.name]
        missing = series.is_null().to_numpy() if series.null_count() else None
        if own.type == "text":
            columns.append(Column("text", series.to_list(), missing))
            continue
        filler = float("nan") if own.type == "float" else False if own.type == "bool" else 0
        values = series.to_physical() if own.type == "time" else series
        columns.append(Column(own.type, values.fill_null(filler).to_numpy(), missing))
    return Columns(tuple(columns), frame.height)


def _other_features(model: WantedModel, digest: str, stream: StreamSpec) -> Conflict:
    own = model.in_use
    return Conflict(
        f"Version {own.version} of {own.name} was trained on other features ({model.features_digest[:12]}) than"
        f" {stream.name} decided by ({digest[:12]}), and does not say how these are computed.",
        code="MODEL_OF_OTHER_FEATURES",
        next_action=f"Train {own.name} anew: versions of now say it.",
    )
