"""From features to decisions: the model scores a batch in one run, the rules decide each event. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from skyriver.data.columns import Bools, Columns, Ints
from skyriver.decide.blocks import DecisionBlock, Outcome
from skyriver.decide.records import DecisionRecord, Id, ModelInUse, Reason, Status, Value
from skyriver.decide.rules import RuleSet
from skyriver.decide.rules_columns import Rows
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
_REASONS = tuple(Reason)
_CODE = {reason: code for code, reason in enumerate(_REASONS)}
_MODEL_RAN = frozenset({Reason.NONE, Reason.MODEL_FAILED, Reason.SCORE_NOT_FINITE})


@dataclass(frozen=True, slots=True)
class Deciding:
    """What events are decided with now. `rules` is None in a stream that declares no decisions."""

    rules: RuleSet | None = None
    model: ModelInUse | None = None
    scorer: Scorer | None = None
    features_digest: str = ""
    """The features that the rules and the model read; "": those that decide when it comes, whichever they are."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """Events without decisions (the sequences belong together). `arrived` in monotonic microseconds, -1: in an earlier
    process. `features`, float32 [events that are not late, F], in order; None where there are none."""

    offsets: Sequence[int]
    rows: Sequence[Sequence[Value]]
    late: Sequence[bool]
    arrived: Sequence[int]
    features: Floats | None


@dataclass(frozen=True, slots=True)
class UndecidedBlock:
    """The same in columns: events from the offset `first` on; `late` bool [n], None for none; `arrived` int64 [n]."""

    first: int
    columns: Columns
    late: Bools | None
    arrived: Ints
    features: Floats | None


def decide_events(
    events: Undecided, deciding: Deciding, *, id_place: int, features_digest: str, now: int, monotonic: int
) -> list[DecisionRecord]:
    """One record for each event, in their order."""
    rules, model = deciding.rules, deciding.model
    rules_digest = rules.digest if rules is not None else ""
    name, version = (model.name, model.version) if model is not None else ("", 0)
    on_time = len(events.late) - sum(events.late)
    all_scores, all_reasons = _score(deciding, events.features, on_time)
    scores, reasons = all_scores.tolist(), all_reasons.tolist()
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
            reason = _REASONS[reasons[at]]
            if reason is _FINE:
                score = scores[at]
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


def decide_block(
    events: UndecidedBlock, deciding: Deciding, *, id_place: int, features_digest: str, now: int, monotonic: int
) -> DecisionBlock:
    """What `decide_events` says of each of these events."""
    n, late, rules = len(events.columns), events.late, deciding.rules
    on_time = np.flatnonzero(~late) if late is not None else None
    columns = events.columns if on_time is None else events.columns.take(on_time)
    scores, reasons = _score(deciding, events.features, len(columns))
    decisions = np.zeros(len(columns), np.int64)
    if rules is not None:
        fine = reasons == _CODE[_FINE]
        if fine.any():
            decisions = rules.decide_columns(Rows(scores.astype(np.float64), events.features, columns))
        decisions[~fine] = len(rules.decisions)  # stands for the fallback
    if on_time is not None:
        scores = _spread(scores, on_time, n, np.float32(np.nan))
        reasons = _spread(reasons, on_time, n, np.uint8(_CODE[_IS_LATE]))
        decisions = _spread(decisions, on_time, n, np.int64(len(rules.decisions) if rules is not None else 0))
    outcomes, codes = _outcomes(deciding, decisions, reasons, features_digest)
    without = late if events.features is not None else np.ones(n, np.bool_)
    ids = events.columns.columns[id_place].values
    return DecisionBlock(
        events.first,
        cast("list[str]", ids) if isinstance(ids, list) else ids,
        outcomes,
        codes,
        scores,
        without,
        events.features if events.features is not None else np.empty((0, 0), np.float32),
        now,
        np.where(events.arrived >= 0, monotonic - events.arrived, 0),
    )


def _spread(values: NDArray[Any], places: Ints, count: int, other: Any) -> NDArray[Any]:
    """`values` at these places of `count`, `other` elsewhere."""
    found = np.full(count, other, values.dtype)
    found[places] = values
    return found


def _outcomes(
    deciding: Deciding, decisions: Ints, reasons: NDArray[np.uint8], features_digest: str
) -> tuple[list[Outcome], NDArray[np.uint16]]:
    """Each different one once, and which of them each event has. `decisions` are places in those of the rules, and
    after them the fallback."""
    rules, model = deciding.rules, deciding.model
    names = (*rules.decisions, rules.fallback) if rules is not None else ("",)
    name, version = (model.name, model.version) if model is not None else ("", 0)
    both = decisions * len(_REASONS) + reasons
    there = np.bincount(both) > 0
    outcomes = []
    for decision, code in (divmod(value, len(_REASONS)) for value in np.flatnonzero(there).tolist()):
        reason = _REASONS[code]
        ran = reason in _MODEL_RAN
        outcomes.append(
            Outcome(
                _STATUS[reason],
                names[decision],
                name if ran else "",
                version if ran else 0,
                rules.digest if rules is not None else "",
                features_digest,
                reason,
            )
        )
    return outcomes, (np.cumsum(there) - 1).astype(np.uint16)[both]


def _score(deciding: Deciding, features: Floats | None, count: int) -> tuple[Floats, NDArray[np.uint8]]:
    """Of each of `count` events that are not late: its score, NaN for none, and the place of the reason in _REASONS."""
    if deciding.rules is None:
        return _none(count, Reason.NO_DECISIONS)
    if deciding.scorer is None or features is None:
        return _none(count, Reason.NO_VERSION)
    if not count:
        return _none(count, _FINE)
    return _run(deciding.scorer, features)


def _none(count: int, reason: Reason) -> tuple[Floats, NDArray[np.uint8]]:
    return np.full(count, np.nan, np.float32), np.full(count, _CODE[reason], np.uint8)


def _run(scorer: Scorer, features: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """One run over all. If the model raises, one run a row: an event must not fail for what stands beside it."""
    try:
        scores = scorer.score(features)
        finite = np.isfinite(scores)
        if finite.shape != (len(features),):
            raise ValueError(f"scores of shape {finite.shape}")
    except Exception:  # a user's model: whatever it raises, the event gets its fallback
        if len(features) == 1:
            return _none(1, Reason.MODEL_FAILED)
        alone = [_run(scorer, features[row : row + 1]) for row in range(len(features))]
        return np.concatenate([score for score, _ in alone]), np.concatenate([reason for _, reason in alone])
    reasons = np.zeros(len(features), np.uint8)  # the first reason is that there is none
    if not finite.all():
        reasons[~finite] = _CODE[Reason.SCORE_NOT_FINITE]
        scores = np.where(finite, scores, np.float32(np.nan))
    return scores, reasons
