"""From features to decisions: the model scores a batch in one run, the rules decide each event. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyriver.decide.records import DecisionRecord, Id, ModelInUse, Reason, Status, Value
from skyriver.decide.rules import RuleSet
from skyriver.decide.scorer import Scorer

Floats = NDArray[np.float32]

_STATUS = {
    Reason.NONE: Status.DECIDED,
    Reason.NO_VERSION: Status.FALLBACK,
    Reason.NO_DECISIONS: Status.FALLBACK,
    Reason.LATE: Status.LATE,
    Reason.MODEL_FAILED: Status.FAILED,
    Reason.SCORE_NOT_FINITE: Status.FAILED,
}
_IS_LATE, _FINE = Reason.LATE, Reason.NONE
_MODEL_RAN = frozenset({Reason.NONE, Reason.MODEL_FAILED, Reason.SCORE_NOT_FINITE})


@dataclass(frozen=True, slots=True)
class Deciding:
    """What events are decided with now. `rules` is None in a stream that declares no decisions."""

    rules: RuleSet | None = None
    model: ModelInUse | None = None
    scorer: Scorer | None = None


@dataclass(frozen=True, slots=True)
class Undecided:
    """Events without decisions (the sequences belong together). `arrived` in monotonic microseconds, -1: in an earlier
    process. `features`, float32 [events that are not late, F], in order; None where there are none."""

    offsets: Sequence[int]
    rows: Sequence[Sequence[Value]]
    late: Sequence[bool]
    arrived: Sequence[int]
    features: Floats | None


def decide_events(
    events: Undecided, deciding: Deciding, *, id_place: int, features_digest: str, now: int, monotonic: int
) -> list[DecisionRecord]:
    """One record for each event, in their order."""
    rules, model = deciding.rules, deciding.model
    rules_digest = rules.digest if rules is not None else ""
    name, version = (model.name, model.version) if model is not None else ("", 0)
    on_time = len(events.late) - sum(events.late)
    scored = _score(deciding, events.features, on_time)
    vectors = events.features.tobytes() if events.features is not None else b""
    width = len(vectors) // on_time if on_time else 0
    numbers: Sequence[Sequence[float]] | None = None
    if rules is not None and rules.needs_features and events.features is not None:
        numbers = events.features.tolist()
    records: list[DecisionRecord] = []
    at = 0
    for offset, values, late, arrived in zip(events.offsets, events.rows, events.late, events.arrived, strict=True):
        score: float | None = None
        reason, vector, decision = _IS_LATE, b"", ""
        if not late:
            score, reason = scored[at]
            vector = vectors[at * width : (at + 1) * width]
            at += 1
        if rules is not None:
            if score is None:
                decision = rules.fallback
            else:
                decision = rules.decide(score, numbers[at - 1] if numbers is not None else (), values)
        ran = reason in _MODEL_RAN
        own: Id = values[id_place]  # type: ignore[assignment]  # an id is a whole number or a text, never missing
        records.append(
            DecisionRecord(
                offset,
                own,
                _STATUS[reason],
                decision,
                score,
                vector,
                name if ran else "",
                version if ran else 0,
                rules_digest,
                features_digest,
                reason,
                now,
                monotonic - arrived if arrived >= 0 else 0,
            )
        )
    return records


def _score(deciding: Deciding, features: Floats | None, count: int) -> list[tuple[float | None, Reason]]:
    """A score, or why there is none, for each of `count` events that are not late."""
    if deciding.rules is None:
        return [(None, Reason.NO_DECISIONS)] * count
    if deciding.scorer is None or features is None:
        return [(None, Reason.NO_VERSION)] * count
    if not count:
        return []
    return _run(deciding.scorer, features)


def _run(scorer: Scorer, features: Floats) -> list[tuple[float | None, Reason]]:
    """One run over all. If the model raises, one run a row: an event must not fail for what stands beside it."""
    try:
        scores = scorer.score(features).tolist()
    except Exception:  # a user's model: whatever it raises, the event gets its fallback
        if len(features) == 1:
            return [(None, Reason.MODEL_FAILED)]
        return [outcome for row in range(len(features)) for outcome in _run(scorer, features[row : row + 1])]
    finite = math.isfinite
    return [(s, _FINE) if finite(s) else (None, Reason.SCORE_NOT_FINITE) for s in scores]
