"""What a partition knows after the last record of its log; all of it comes from the log alone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Conflict
from skyriver.core.spec import ReferenceSpec, StreamSpec
from skyriver.data.log import Record
from skyriver.decide.decision.arms import Arms
from skyriver.decide.decision.tallies import Tallies
from skyriver.decide.decision.trial import Trials
from skyriver.decide.log.blocks import DecisionBlock
from skyriver.decide.log.checkpoint import (
    NEVER,
    BlockAnswer,
    Counters,
    DeadLetter,
    Load,
    SavedArm,
    SavedTally,
    SavedTrial,
)
from skyriver.decide.log.lists import Lists
from skyriver.decide.log.records import ControlRecord, DecisionRecord, LoadStep, decode_dead, decode_decision

KEPT_DECISIONS = 20_000
"""Last decisions in memory, some 400 bytes each, for duplicates of recent events; older ones are read from the log."""
KEPT_LOADS = 4
KEPT_DEAD = 50
"""Last dead letters in memory and in checkpoints; all of them are in the stream's table of them."""
SHOWN_MESSAGE = 300
SHOWN_RAW = 500
"""Characters of a dead letter that are kept so."""

BEYOND = 2**62
"""Above every offset."""

Ints = NDArray[np.int64]


class Ids(Protocol):
    """Where each id was last seen: keys of ids to log offsets. One thread at a time."""

    def find(self, keys: Ints) -> Ints:
        """The highest offset added for each key, -1 where there is none."""
        ...

    def add(self, keys: Ints, offsets: Ints) -> None:
        """Offsets ascend, within a call and from call to call."""
        ...

    def drop(self, keys: Ints, before_offset: int) -> None:
        """Entries of these keys with an offset below are not found any more."""
        ...

    @property
    def drops(self) -> bool:
        """Whether such entries are still somewhere."""
        ...


_ROLE = "/"


def fields_of(stream: StreamSpec) -> tuple[str, ...]:
    """Names and types of the fields, as CONTROL records keep them."""
    return tuple(f"{f.name} {f.type}" for f in stream.fields)


def references_of(stream: StreamSpec) -> tuple[tuple[str, ...], ...]:
    """Names of the references with those and the types of their fields, and what is what of them, as CONTROL records
    keep them."""
    return tuple((r.name, *(f"{f.name} {f.type}" for f in r.fields), *_roles(r)) for r in stream.references)


def _roles(reference: ReferenceSpec) -> Iterator[str]:
    """No field begins so: logs of before do not have them."""
    for role in ("id", "time", "until", "by"):
        if named := getattr(reference, role):
            yield f"{_ROLE}{role} {named}"


def _is_same(before: tuple[str, ...], now: tuple[str, ...]) -> bool:
    """A reference may become a list: `until` and `by` may be named where they were not."""
    told, tells = ({line for line in lines if line.startswith(_ROLE)} for lines in (before, now))
    fields, wanted = ([line for line in lines if not line.startswith(_ROLE)] for lines in (before, now))
    return fields == wanted and told <= tells


def check_same_stream(control: ControlRecord, stream: StreamSpec) -> None:
    """Raises Conflict (STREAM_CHANGED) when the values of a log written under `control` are not those of `stream`: its
    events are read by their fields' places, its labels and references by their index (to which others may be
    added)."""
    now, labels = fields_of(stream), tuple(label.name for label in stream.labels)
    references = references_of(stream)
    same = all(map(_is_same, control.references, references))
    if len(control.references) > len(references) or not same:
        before = "; ".join(f"{name}: {', '.join(fields)}" for name, *fields in control.references)
        raise Conflict(
            f"The log of {stream.name} holds rows of other references, or in another order: {before}.",
            code="STREAM_CHANGED",
            next_action="Declare the references and lists as they were, with their id, time, until and by; new ones"
            " may be added behind them.",
        )
    if control.fields != now or control.labels != labels[: len(control.labels)]:
        before = ", ".join((*control.fields, *control.labels))
        raise Conflict(
            f"The log of {stream.name} holds {before}; declared are {', '.join((*now, *labels))}.",
            code="STREAM_CHANGED",
            next_action="Declare the fields and labels as they were, or a stream of another name.",
        )


class Horizon:
    """Which offsets lie within the last `period` of effective time, from some thousand points of it.

    A point (offset, t) says that records from there on to the next point have times below t + 2 steps. So what is given
    is at or before the exact offset: an id counts as seen for at least the period, and at most 1/2048 of it longer.
    """

    def __init__(self, period_us: int, points: Iterable[tuple[int, int]] = ()) -> None:
        self._period = period_us
        self._step = max(1, period_us // 4096)
        self._points: deque[tuple[int, int]] = deque(points)

    @property
    def points(self) -> tuple[tuple[int, int], ...]:
        return tuple(self._points)

    def note(self, offset: int, time: int) -> None:
        """Records from `offset` on brought effective time to `time`; calls come in order."""
        points = self._points
        if not self._period:
            return  # no id is remembered
        if not points or time - points[-1][1] >= self._step:
            points.append((offset, time))
            gone = time - self._period - 2 * self._step
            while points[0][1] <= gone:
                points.popleft()

    def note_all(self, first_offset: int, times: Ints) -> None:
        """As `note` for each record from `first_offset` on; `times` ascend."""
        if not self._period:
            return
        if not self._points:
            self.note(first_offset, int(times[0]))
        points, step = self._points, self._step
        at, due = 0, points[-1][1] + step
        if due > times[-1]:
            return
        found = times.tolist()
        while due <= found[-1]:
            at = bisect_left(found, due, at)
            points.append((first_offset + at, found[at]))
            due = found[at] + step
        gone = points[-1][1] - self._period - 2 * step
        while points[0][1] <= gone:
            points.popleft()

    def look_ahead(self) -> Ahead:
        """This horizon with the events of a batch, which are not in the log yet."""
        return Ahead(self._points, self._period, self._step)

    def first_of_each(self, times: Ints) -> Ints:
        """For each of these times: all offsets with an effective time within the period before it are at or above
        this."""
        if not self._points or not self._period:
            return np.full(len(times), BEYOND)
        offsets, points = np.array(self._points, np.int64).T
        places = np.searchsorted(points, times - self._period - 2 * self._step, side="right")
        return np.append(offsets, BEYOND)[places]


class Ahead:
    """A horizon while a batch is sorted: whether an id counts as seen at a time, be it of before or of the batch, so
    that it is the same in whatever batches events come. Changes nothing of the horizon."""

    def __init__(self, points: Sequence[tuple[int, int]], period_us: int, step_us: int) -> None:
        self._points = points
        self._period = period_us
        self._step = step_us
        self._own: list[tuple[int, int]] = []
        """As points are, with the place in the batch for the offset."""
        self._last = points[-1][1] if points else NEVER - step_us

    def note(self, place: int, time: int) -> None:
        """The new event at this place of the batch brings effective time to `time`; as `Horizon.note`."""
        if time - self._last >= self._step:
            self._own.append((place, time))
            self._last = time

    def saw(self, offset: int, time: int) -> bool:
        """Whether a record of before the batch counts at `time`."""
        if offset < 0 or not self._period:
            return False
        place = self._after(self._points, time)
        return place < len(self._points) and offset >= self._points[place][0]

    def saw_own(self, place: int, time: int) -> bool:
        """Whether the new event at this place of the batch counts at `time`."""
        if not self._period:
            return False
        if self._after(self._points, time) < len(self._points):
            return True  # a point of before the batch lies within the period: so does all of the batch
        first = self._after(self._own, time)
        return first < len(self._own) and place >= self._own[first][0]

    def _after(self, points: Sequence[tuple[int, int]], time: int) -> int:
        """The first of the points that is not too long before `time`."""
        return bisect_right(points, time - self._period - 2 * self._step, key=lambda point: point[1])


class Loads:
    """Bulk loads and what their senders were told, so that a repeated block is answered and not appended again."""

    def __init__(self, loads: Sequence[Load] = ()) -> None:
        self._loads: OrderedDict[str, Load] = OrderedDict((load.id, load) for load in loads)

    def all(self) -> tuple[Load, ...]:
        return tuple(Load(load.id, dict(load.answers), load.ended, load.left) for load in self._loads.values())

    @property
    def open(self) -> bool:
        """Whether the load that came last has not ended, nor live events come after it. Labels and changes of what is
        decided with come in between."""
        last = next(reversed(self._loads.values()), None)
        return last is not None and not last.ended and not last.left

    def leave(self) -> None:
        """Live events come: nobody waits for a load any more. It may go on all the same, if its times still fit."""
        last = next(reversed(self._loads.values()), None)
        if last is not None:
            last.left = True

    def answered(self, load: str, sequence: int) -> BlockAnswer | None:
        """What was answered to this block before, None for the next one of its load.

        Raises Conflict (LOAD_OUT_OF_ORDER) when blocks before it are missing."""
        known = self._loads.get(load)
        if known is not None and sequence in known.answers:
            return known.answers[sequence]
        # Not their number: older logs tell nothing of a block that held duplicates alone.
        expected = max(known.answers) + 1 if known is not None else 0
        if sequence != expected or (known is not None and known.ended):
            raise Conflict(
                f"Block {sequence} of load {load} cannot be taken: {expected} have come"
                + (" and the load has ended." if known is not None and known.ended else "."),
                code="LOAD_OUT_OF_ORDER",
                next_action="Send the blocks of a load in order, from 0.",
            )
        return None

    def note(self, step: LoadStep, answer: BlockAnswer) -> None:
        load = self._loads.setdefault(step.load, Load(step.load, {}))
        load.answers[step.sequence] = answer
        load.ended, load.left = step.last, False
        self._loads.move_to_end(step.load)
        while len(self._loads) > KEPT_LOADS:
            self._loads.popitem(last=False)


class RecentDecisions:
    """The decisions of the last events by their offset, oldest out first: encoded, or a block of them."""

    def __init__(self, limit: int = KEPT_DECISIONS) -> None:
        self._limit = limit
        self._known: dict[int, bytes | DecisionBlock] = {}
        """By the offset of the first event; offsets ascend but for events that a restart found undecided."""
        self._blocks: list[int] = []
        """First offsets of the blocks, ascending."""
        self._held = 0

    def get(self, event_offset: int) -> DecisionRecord | None:
        found = self._known.get(event_offset)
        if isinstance(found, bytes):
            return decode_decision(found)
        place = bisect_right(self._blocks, event_offset) - 1
        if place < 0:
            return None
        block = self._known[self._blocks[place]]
        assert isinstance(block, DecisionBlock)
        at = event_offset - block.first
        return block.record(at) if at < len(block) else None

    def put(self, event_offset: int, payload: bytes) -> None:
        self._known[event_offset] = payload
        self._held += 1
        if self._held > self._limit:
            self._forget()

    def put_block(self, block: DecisionBlock) -> None:
        self._known[block.first] = block
        self._blocks.append(block.first)
        self._held += len(block)
        while self._held > self._limit and len(self._known) > 1:
            self._forget()

    def clear(self) -> None:
        """They are read from the log from now on."""
        self._known.clear()
        self._blocks.clear()
        self._held = 0

    def _forget(self) -> None:
        gone = self._known.pop(next(iter(self._known)))
        if isinstance(gone, bytes):
            self._held -= 1
        else:
            self._held -= len(gone)
            self._blocks.pop(0)


class Partition:
    """State after the records so far, but for windows and ids, which are kept apart."""

    def __init__(
        self,
        stream: StreamSpec,
        *,
        time: int = NEVER,
        counters: Counters | None = None,
        control: ControlRecord | None = None,
        loads: Sequence[Load] = (),
        horizon: Iterable[tuple[int, int]] = (),
        dead_letters: Iterable[DeadLetter] = (),
        arms: Sequence[SavedArm] = (),
        trial: SavedTrial | None = None,
        tallies: Sequence[SavedTally] = (),
    ) -> None:
        self.stream = stream
        self.time = time
        self.counters = counters if counters is not None else Counters()
        self.control = control
        self.loads = Loads(loads)
        self.horizon = Horizon(stream.dedupe_us, horizon)
        self.recent = RecentDecisions()
        self.dead_letters = deque(dead_letters, KEPT_DEAD)
        self.arms = Arms(arms)
        self.trials = Trials(trial)
        self.lists = Lists(stream)
        self.tallies = Tallies(stream, tallies)
        if control is not None:
            self.tallies.follow(control)

    def enter(self, first_offset: int, time: int) -> None:
        """Events from `first_offset` on brought effective time to `time`."""
        if time > self.time:
            self.horizon.note(first_offset, time)
            self.time = time

    def enter_block(self, first_offset: int, effective: Ints) -> None:
        """A block whose rows have these times: as `enter` for each of them."""
        self.horizon.note_all(first_offset, effective)
        self.time = max(self.time, int(effective[-1]))

    def enter_dead(self, first_offset: int, records: Sequence[Record]) -> None:
        """Refused events or labels, in the log from `first_offset` on."""
        counters = self.counters
        for offset, record in enumerate(records, first_offset):
            dead = decode_dead(record.payload)
            counters.dead += 1
            counters.dead_by_reason[dead.reason] = counters.dead_by_reason.get(dead.reason, 0) + 1
            message, raw = dead.message[:SHOWN_MESSAGE], dead.raw[: 4 * SHOWN_RAW].decode(errors="replace")[:SHOWN_RAW]
            self.dead_letters.append(DeadLetter(offset, record.time, dead.reason, dead.field, message, raw))

    def count_decisions(self, status: str, decision: str, reason: str, count: int = 1) -> None:
        counters = self.counters
        if reason:
            counters.by_reason[reason] = counters.by_reason.get(reason, 0) + count
        counters.decided += count
        counters.by_status[status] = counters.by_status.get(status, 0) + count
        counters.by_decision[decision] = counters.by_decision.get(decision, 0) + count

    def enter_decisions(self, block: DecisionBlock) -> None:
        """The state after these decisions were appended."""
        self.recent.put_block(block)
        for outcome, count in block.counts():
            self.count_decisions(outcome.status, outcome.decision, outcome.reason, count)
