"""The decisions of a block of events (`skyriver.data.decisions`): each is the DecisionRecord that an event on its own
would have got."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from skyriver.core.errors import Corrupt
from skyriver.data.columns import decode_events
from skyriver.data.decisions import DecisionColumns, Outcome
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.log.records import LATE, DecisionRecord, Id, Value, decode_decision, decode_event

SEARCHED_RECORDS = 200_000
"""A decision follows its event within a batch or a restart; it is not searched for further than this."""
_OF_EVENTS = frozenset({RecordKind.EVENT, RecordKind.EVENTS})


@dataclass(frozen=True, slots=True)
class DecisionBlock(DecisionColumns):
    """The same with each event's record."""

    def record(self, place: int) -> DecisionRecord:
        """The decision of the event at this place of the block."""
        row = place
        if self.without is not None:
            row = -1 if self.without[place] else place - int(np.count_nonzero(self.without[:place]))
        own = self.ids[place]
        features = self.features[row].tobytes() if row >= 0 else b""
        return self._record(
            place,
            own if isinstance(own, str) else int(own),
            self.outcomes[self.codes[place]],
            float(self.scores[place]),
            features,
            int(self.latency_us[place]),
        )

    def records(self, start: int = 0, end: int | None = None) -> Iterator[DecisionRecord]:
        """Those from place `start` to `end`, in order."""
        end = len(self) if end is None else end
        before = self.without[:start] if self.without is not None else None
        at = start - (int(np.count_nonzero(before)) if before is not None else 0)
        vectors, width = self.features.tobytes(), 4 * self.features.shape[1]
        ids: list[Id] = self.ids[start:end] if isinstance(self.ids, list) else self.ids[start:end].tolist()  # type: ignore[assignment]
        none = self.without[start:end].tolist() if self.without is not None else [False] * (end - start)
        columns = (self.codes[start:end].tolist(), self.scores[start:end].tolist(), self.latency_us[start:end].tolist())
        for place, (own, code, score, latency, without) in enumerate(zip(ids, *columns, none, strict=True), start):
            vector = b"" if without else vectors[at * width : (at + 1) * width]
            at += not without
            yield self._record(place, own, self.outcomes[code], score, vector, latency)

    def _record(
        self, place: int, own: Id, outcome: Outcome, score: float, features: bytes, latency: int
    ) -> DecisionRecord:
        return DecisionRecord(
            self.first + place,
            own,
            outcome.status,
            outcome.decision,
            score if score == score else None,
            features,
            outcome.model,
            outcome.version,
            outcome.rules_digest,
            outcome.features_digest,
            outcome.reason,
            self.decided_at_us,
            latency,
            outcome.arm,
            self.shadow_version_of(outcome),
            _known(self.shadow[place]) if self.shadow is not None else None,
            outcome.rule,
            _known(self.probabilities[place]) if self.probabilities is not None else None,
            outcome.shadow_decision,
            outcome.shadow_rules,
        )


def _known(score: np.float32) -> float | None:
    return None if np.isnan(score) else float(score)


def decisions_of(record: Record) -> Iterator[DecisionRecord]:
    """Those that a record holds, one or a block of them; none if it is of another kind. Raises Corrupt."""
    if record.kind is RecordKind.DECISION:
        yield decode_decision(record.payload)
    elif record.kind is RecordKind.DECISIONS:
        yield from decode_decisions(record.payload, record.count).records()


def decisions_in_log(log: LogReader, event_offsets: Iterable[int]) -> dict[int, DecisionRecord]:
    """The decisions of the events at these offsets. One that is no live event, or has none within SEARCHED_RECORDS, is
    left out. Raises NotFound (OFFSET_GONE), Corrupt, Unavailable."""
    found: dict[int, DecisionRecord] = {}
    wanted = sorted(set(event_offsets))
    beyond = 0
    """Of a record without live events, its end."""
    for offset in wanted:
        if offset in found or offset < beyond:
            continue
        for count, record in enumerate(log.read(offset)):
            if record.kind is RecordKind.DECISION:
                decision = decode_decision(record.payload)
                if decision.event_offset == offset:
                    found[offset] = decision
            elif record.kind is RecordKind.DECISIONS:
                block = decode_decisions(record.payload, record.count)
                first = bisect_left(wanted, block.first)
                among = wanted[first : bisect_left(wanted, block.first + len(block))]
                found |= {own: block.record(own - block.first) for own in among}
            if count == 0 and record.kind not in _OF_EVENTS:
                beyond = record.offset + record.count
            if offset in found or beyond > offset or count > SEARCHED_RECORDS:
                break
    return found


def events_of(record: Record) -> Iterator[tuple[int, list[Value]]]:
    """(flags, values) of each event that a record holds, in the order of their offsets. Raises Corrupt."""
    if record.kind is RecordKind.EVENT:
        yield decode_event(record.payload)
    elif record.kind is RecordKind.EVENTS:
        block = decode_events(record.payload, record.count)
        late = block.late.tolist() if block.late is not None else [False] * len(block)
        yield from zip((LATE if is_late else 0 for is_late in late), block.columns.rows(), strict=True)


def decode_decisions(payload: bytes, count: int) -> DecisionBlock:
    """Raises Corrupt (UNREADABLE_RECORD) for a payload that is no block of `count` decisions."""
    try:
        return DecisionBlock.decode(payload, count)
    except ValueError as error:
        raise Corrupt(f"A record of kind DECISIONS cannot be read: {error}.", code="UNREADABLE_RECORD") from error
