"""The decisions of a block of events, in columns: what a DECISIONS record holds.

Its payload is msgpack, an array (see `_Payload`); what many events have in common, their outcome, stands there once.
On disk for years: fields are only ever added at an array's end, with a default. Each decision is the DecisionRecord
that an event on its own would have got.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Corrupt
from skyriver.data.columns import Bools, Ints, decode_events, pack_bits, unpack_bits
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.records import LATE, DecisionRecord, Id, Reason, Status, Value, decode_decision, decode_event

SEARCHED_RECORDS = 200_000
"""A decision follows its event within a batch or a restart; it is not searched for further than this."""
_OF_EVENTS = frozenset({RecordKind.EVENT, RecordKind.EVENTS})

Floats = NDArray[np.float32]
Codes = NDArray[np.uint16]


class Outcome(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What became of some events; the fields are those of DecisionRecord."""

    status: Status
    decision: str
    model: str
    version: int
    rules_digest: str
    features_digest: str
    reason: Reason
    arm: str = ""


class _Payload(msgspec.Struct, array_like=True, frozen=True, gc=False):
    first: int
    """Offset of the first event; the others follow it without a gap."""
    ids: bytes | list[str]
    """int64 [n], or texts."""
    outcomes: list[Outcome]
    codes: bytes
    """uint16 [n]: place of each event's outcome."""
    scores: bytes
    """float32 [n], NaN for none."""
    without: bytes
    """Bits [n]: events without features; empty when all have some."""
    features: bytes
    """float32 [those with features, F]."""
    decided_at_us: int
    latency_us: bytes
    """int64 [n]."""
    shadow_version: int = 0
    shadow: bytes = b""
    """float32 [n], NaN for none; empty without a shadow."""


_decoder = msgspec.msgpack.Decoder(_Payload)


@dataclass(frozen=True, slots=True)
class DecisionBlock:
    """`features` float32 [those with some, F]; `without` bool [n]: who has none, None when all have some."""

    first: int
    ids: Ints | list[str]
    outcomes: list[Outcome]
    codes: Codes
    scores: Floats
    without: Bools | None
    features: Floats
    decided_at_us: int
    latency_us: Ints
    shadow_version: int = 0
    """Of the version that was asked beside, for each event that is not late."""
    shadow: Floats | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(
            _Payload(
                self.first,
                self.ids if isinstance(self.ids, list) else self.ids.tobytes(),
                self.outcomes,
                self.codes.tobytes(),
                self.scores.tobytes(),
                pack_bits(self.without),
                self.features.tobytes(),
                self.decided_at_us,
                self.latency_us.tobytes(),
                self.shadow_version,
                self.shadow.tobytes() if self.shadow is not None else b"",
            )
        )

    def counts(self) -> list[tuple[Outcome, int]]:
        """How many events have each outcome."""
        return list(zip(self.outcomes, np.bincount(self.codes, minlength=len(self.outcomes)).tolist(), strict=True))

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
            self.shadow_version if outcome.status is not Status.LATE else 0,
            _known(self.shadow[place]) if self.shadow is not None else None,
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
        found = _decoder.decode(payload)
        without = unpack_bits(found.without, count)
        having = count - (int(np.count_nonzero(without)) if without is not None else 0)
        features = np.frombuffer(found.features, "<f4").reshape(having, -1) if having else np.empty((0, 0), "<f4")
        block = DecisionBlock(
            found.first,
            found.ids if isinstance(found.ids, list) else np.frombuffer(found.ids, "<i8"),
            found.outcomes,
            np.frombuffer(found.codes, "<u2"),
            np.frombuffer(found.scores, "<f4"),
            without,
            features,
            found.decided_at_us,
            np.frombuffer(found.latency_us, "<i8"),
            found.shadow_version,
            np.frombuffer(found.shadow, "<f4") if found.shadow else None,
        )
        columns = (block.ids, block.codes, block.scores, block.latency_us, *((block.shadow,) if found.shadow else ()))
        lengths = {len(column) for column in columns if column is not None}
        if lengths != {count} or int(block.codes.max()) >= len(block.outcomes):
            raise ValueError(f"its columns do not fit {count} decisions")
    except (msgspec.MsgspecError, ValueError) as error:
        raise Corrupt(f"A record of kind DECISIONS cannot be read: {error}.", code="UNREADABLE_RECORD") from error
    return block
