"""Decisions as a log has them, gathered into columns, in its order: what a replay is held against."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from skyriver.data.columns import Bools, Ints
from skyriver.data.decisions import Floats, Outcome, Status
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.blocks import DecisionBlock, decode_decisions
from skyriver.decide.log.records import DecisionRecord, decode_decision


@dataclass(frozen=True, slots=True)
class Recorded:
    """Of n decisions. `scores` and `probabilities` float32 [n], NaN for none; `features` float32 [those with some, F],
    and `having` bool [n] says whose they are; `batches` int64 [n]: those of one number were scored together, and stand
    together."""

    events: Ints
    outcomes: list[Outcome]
    codes: Ints
    scores: Floats
    probabilities: Floats
    having: Bools
    features: Floats
    batches: Ints

    def __len__(self) -> int:
        return len(self.events)

    def take(self, kept: Bools) -> Recorded:
        """Only these."""
        if kept.all():
            return self
        return Recorded(
            self.events[kept],
            self.outcomes,
            self.codes[kept],
            self.scores[kept],
            self.probabilities[kept],
            self.having[kept],
            self.features[kept[self.having]],
            self.batches[kept],
        )


def of_outcomes(then: Recorded, values: list[bool]) -> Bools:
    """Of each decision what is said of its outcome."""
    return np.array(values, np.bool_)[then.codes] if values else np.zeros(len(then), np.bool_)


def erased(then: Recorded) -> Bools:
    """Which of these decisions were of a subject that is erased: nothing more is said of its events."""
    return of_outcomes(then, [outcome.status is Status.ERASED for outcome in then.outcomes])


class Gathering:
    """Records in, `Recorded` out. All that is gathered together MUST have been decided by one set of features."""

    def __init__(self) -> None:
        self._parts: list[Recorded] = []
        self._singles: list[DecisionRecord] = []
        self._outcomes: dict[Outcome, int] = {}
        self._batch = 0
        self._at = -1
        """When the last single one was decided: those of one batch have the same time."""
        self.digest = ""
        """Of the features that all of these were decided by."""

    def __len__(self) -> int:
        return sum(map(len, self._parts)) + len(self._singles)

    def add(self, record: Record) -> None:
        """A DECISION or DECISIONS record. Raises Corrupt."""
        if record.kind is RecordKind.DECISION:
            self._singles.append(decode_decision(record.payload))
            return
        self._close_singles()
        self._parts.append(self._of_block(decode_decisions(record.payload, record.count)))

    def take(self) -> Recorded:
        """What was gathered since the last time."""
        self._close_singles()
        parts, self._parts = self._parts, []
        outcomes, self._outcomes = list(self._outcomes), {}
        widths = {part.features.shape[1] for part in parts if len(part.features)}
        empty = np.empty((0, max(widths, default=0)), np.float32)
        return Recorded(
            np.concatenate([np.empty(0, np.int64), *(part.events for part in parts)]),
            outcomes,
            np.concatenate([np.empty(0, np.int64), *(part.codes for part in parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.scores for part in parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.probabilities for part in parts)]),
            np.concatenate([np.empty(0, np.bool_), *(part.having for part in parts)]),
            np.concatenate([empty, *(part.features for part in parts if len(part.features))]),
            np.concatenate([np.empty(0, np.int64), *(part.batches for part in parts)]),
        )

    def _place(self, outcome: Outcome) -> int:
        return self._outcomes.setdefault(outcome, len(self._outcomes))

    def _of_block(self, block: DecisionBlock) -> Recorded:
        n = len(block)
        self._batch += 1
        self._at = -1
        places = np.array([self._place(outcome) for outcome in block.outcomes], np.int64)
        having = ~block.without if block.without is not None else np.ones(n, np.bool_)
        events = np.arange(block.first, block.first + n, dtype=np.int64)
        batches = np.full(n, self._batch, np.int64)
        said = block.probabilities
        probabilities = said if said is not None else np.full(n, np.nan, np.float32)
        return Recorded(events, [], places[block.codes], block.scores, probabilities, having, block.features, batches)

    def _close_singles(self) -> None:
        records, self._singles = self._singles, []
        if not records:
            return
        batches = []
        for record in records:
            if record.decided_at_us != self._at:
                self._batch += 1
                self._at = record.decided_at_us
            batches.append(self._batch)
        vectors = [record.features for record in records if record.features]
        self._parts.append(
            Recorded(
                np.array([record.event_offset for record in records], np.int64),
                [],
                np.array([self._place(outcome_of(record)) for record in records], np.int64),
                _numbers([record.score for record in records]),
                _numbers([record.probability for record in records]),
                np.array([record.features != b"" for record in records], np.bool_),
                np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1) if vectors else _NO_FEATURES,
                np.array(batches, np.int64),
            )
        )


_NO_FEATURES: Floats = np.empty((0, 0), np.float32)
_common = attrgetter(*Outcome.__struct_fields__)


def _numbers(values: list[float | None]) -> Floats:
    return np.array(values, np.float32)  # None becomes NaN


def outcome_of(record: DecisionRecord) -> Outcome:
    return Outcome(*_common(record))
