"""From a decision that asks for a person to its case: what it is worth, who must look at it, what they are shown."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from zlib import crc32

from skyriver.core.spec import DecideSpec, FeatureSetSpec, ReviewSpec, StreamSpec
from skyriver.decide.acting.cases import Case
from skyriver.decide.log.following import Decided
from skyriver.decide.log.records import DecisionRecord, Value
from skyriver.decide.rules.costs import DecisionCost, costs_of
from skyriver.decide.rules.ruleset import rules_of, second_opinions
from skyriver.features.plan import plan_features

UNKNOWN = 0.5
"""The probability of an event that has no score."""


def _probability(record: DecisionRecord) -> float:
    """The score, where that was not made a probability at training."""
    known = record.probability if record.probability is not None else record.score
    return min(1.0, max(0.0, known)) if known is not None else UNKNOWN


class CaseOpener:
    """Of one stream. Features of another set than `features` are neither shown nor asked about.

    The cost of a miss is what it costs more to do nothing, `otherwise`, than to answer right, where the label is 1; 1
    where no costs are declared."""

    def __init__(self, stream: StreamSpec, decide: DecideSpec, features: FeatureSetSpec | None) -> None:
        self.reviews: Mapping[str, ReviewSpec] = {review.decision: review for review in decide.reviews}
        self._stream = stream
        self._names = features.names if features is not None else ()
        self._digest = plan_features(features, stream).digest if features is not None else ""
        self._second = second_opinions(decide, stream, features)
        self._otherwise = decide.otherwise
        self._costs: Mapping[str, DecisionCost] | None = None
        if decide.costs is not None:
            self._costs = costs_of(decide.costs, rules_of(decide, stream, features), stream, features)

    def open(self, decided: Decided) -> Case | None:
        """None: its decision is not reviewed."""
        record, given = decided.record, decided.values
        review = self.reviews.get(record.decision)
        if review is None:
            return None
        vector = self._vector(record)
        values = [given.get(f.name) for f in self._stream.fields]
        key = given.get(self._stream.key)
        return Case(
            id=record.event_offset,
            event=record.id,
            key=key if isinstance(key, int | str) else None,
            decision=record.decision,
            label=review.label,
            answers=review.answers,
            opened_at=record.decided_at_us,
            within_us=review.within_us,
            lease_us=review.lease_us,
            expires_us=review.expires_us,
            unanswered=review.unanswered,
            second=self._asks_second(review, record, vector, values),
            probability=_probability(record),
            miss_cost=self._miss_cost(review, vector, values),
            record=record,
            offset=decided.offset,
            values=given,
            names=self._names if self._has(record) else (),
        )

    def _vector(self, record: DecisionRecord) -> tuple[float, ...]:
        width = len(self._names)
        return struct.unpack(f"<{width}f", record.features) if self._has(record) else (math.nan,) * width

    def _has(self, record: DecisionRecord) -> bool:
        return record.features_digest == self._digest and len(record.features) == 4 * len(self._names)

    def _asks_second(
        self, review: ReviewSpec, record: DecisionRecord, vector: Sequence[float], values: Sequence[Value]
    ) -> bool:
        rules = self._second.get(review.decision)
        if rules is not None:
            score = record.score if record.score is not None else math.nan
            return rules.decide(score, vector, values, record.probability) == 0
        # The same events after any restart, and none that whoever sends events could choose.
        chance = crc32(f"{self._stream.name} {record.event_offset}".encode()) / 2**32
        return chance < review.second_share

    def _miss_cost(self, review: ReviewSpec, vector: Sequence[float], values: Sequence[Value]) -> float:
        if self._costs is None:
            return 1.0
        known = {word: self._costs[word] for word in (*review.answers, self._otherwise) if word in self._costs}
        costs = {word: cost.of(True, vector, values) for word, cost in known.items()}
        missed = costs.pop(self._otherwise, None) or 0.0
        return max(0.0, missed - min((cost for cost in costs.values() if cost is not None), default=0.0))
