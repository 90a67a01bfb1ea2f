"""One decision computed again from the log, with what was used then, and held against its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from skyriver.core.errors import Conflict, NotFound
from skyriver.core.spec import StreamSpec
from skyriver.data.log import LogReader
from skyriver.decide.log.blocks import SEARCHED_RECORDS, decisions_of
from skyriver.decide.log.records import DecisionRecord
from skyriver.decide.replay.past import effective_of
from skyriver.decide.replay.rescoring import TIMED
from skyriver.decide.replay.stretch import Asked, Counts, DecidedAgain

Value = str | float | int | None
Replaying = Callable[[Asked, Callable[[DecidedAgain], None]], Counts]
"""Runs a replay of what is asked, a batch at a time; what it counted."""

_FEATURES = "the features, for the log has given up what they look back to"
_LISTS = "what no list says, for the log may have given up rows of lists"
_BUDGETS = "how many decisions there were before, for the log has not all of them any more"
_MEASURED = frozenset({"event_offset", "id", "features", "decided_at_us", "latency_us"})
"""Fields that are no outcome (or are told by name)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A field of the record, or a feature; `equal`: to the bit."""

    name: str
    recorded: Value
    computed: Value
    equal: bool


@dataclass(frozen=True, slots=True)
class Recomputed:
    """`believed`: what was taken from the record, for the time alone can tell."""

    event_offset: int
    id: str
    equal: bool
    fields: tuple[Part, ...]
    features: tuple[Part, ...]
    believed: str = ""


def recompute(reader: LogReader, stream: StreamSpec, offset: int, replay: Replaying) -> Recomputed:
    """Raises NotFound (NO_DECISION), Conflict (WINDOWS_CUT, NOT_TOLD) where the log does not have it any more."""
    record, batch = _batch_of(reader, stream, offset)
    times = [_time_of(reader, at) for at in (min(batch), max(batch))]
    found: list[DecidedAgain] = []

    def decided(again: DecidedAgain) -> None:
        if (again.events.offsets == offset).any() and again.then is not None:
            found.append(again)

    counts = replay(Asked(times[0], times[1] + 1), decided)
    if not found:
        raise _not_there(record, counts)
    again = found[0]
    place = int(np.flatnonzero(again.events.offsets == offset)[0])
    names = again.names if record.features and record.features_digest == again.digest else ()
    believed = [
        why
        for count, why in (
            (counts.recorded_features, _FEATURES),
            (counts.lists_cut, _LISTS),
            (counts.budgets_cut, _BUDGETS),
        )
        if count
    ]
    return compared(record, again.now.record(place), names, believed)


def compared(
    record: DecisionRecord, computed: DecisionRecord, names: tuple[str, ...], believed: Sequence[str]
) -> Recomputed:
    """`names` of the features of both."""
    fields = []
    for name in DecisionRecord.__struct_fields__:
        if name in _MEASURED:
            continue
        one, other = getattr(record, name), getattr(computed, name)
        if name == "shadow_score" and one is None and record.shadow_version:
            continue  # it was late: nobody waits for a shadow
        fields.append(Part(name, one, other, one == other))
    features = []
    vectors = (np.frombuffer(vector, "<f4") for vector in (record.features, computed.features))
    for name, then, now in zip_longest(names, *vectors):
        if name is None:
            break
        equal = then is not None and now is not None and then.tobytes() == now.tobytes()
        features.append(Part(name, _number(then), _number(now), equal))
    if not names:
        features.append(Part("features", record.features.hex(), computed.features.hex(), False))
        features = [part for part in features if record.features != computed.features]
    if record.reason in TIMED:
        believed = [f"that the model gave no score ({record.reason.value})", *believed]
    return Recomputed(
        record.event_offset,
        str(record.id),
        all(part.equal for part in (*fields, *features)),
        tuple(fields),
        tuple(features),
        " and ".join(believed),
    )


def _batch_of(reader: LogReader, stream: StreamSpec, offset: int) -> tuple[DecisionRecord, list[int]]:
    """The decision on the event at this offset, and the events that were decided together with it: their decisions
    stand together, behind all of these events."""
    mine: DecisionRecord | None = None
    batch: list[DecisionRecord] = []
    for count, record in enumerate(reader.read(offset)):
        decisions = [*decisions_of(record)]
        if not decisions or (batch and decisions[0].decided_at_us != batch[0].decided_at_us):
            if mine is not None or count > SEARCHED_RECORDS:
                break
            batch = []
        batch += decisions
        mine = next((each for each in decisions if each.event_offset == offset), mine)
    if mine is None:
        raise NotFound(
            f"The log of {stream.name} has no decision on an event at offset {offset}.",
            code="NO_DECISION",
            next_action="Loaded history is not decided: `skyriver stream replay` decides it.",
        )
    return mine, [each.event_offset for each in batch]


def _time_of(reader: LogReader, offset: int) -> int:
    record = next(iter(reader.read(offset)))
    effective = effective_of(record)
    return int(effective[min(offset - record.offset, len(effective) - 1)])


def _not_there(record: DecisionRecord, counts: Counts) -> Conflict:
    if counts.cut:
        return Conflict(
            f"The features of {record.id} look back to what the log has given up.",
            code="WINDOWS_CUT",
            next_action="Keep the log for longer than the widest window (retention=).",
        )
    return Conflict(
        f"The log no longer tells what {record.id} was decided with.",
        code="NOT_TOLD",
        next_action="Keep the log for longer (retention=); its decision is in the table of decisions.",
    )


def _number(value: np.float32 | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
