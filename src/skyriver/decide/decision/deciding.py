"""From features to decisions: the model scores a batch in one run, the rules decide each event. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from skyriver.core.calibration import Calibration
from skyriver.data.columns import Bools, Columns, Ints
from skyriver.data.decisions import Outcome, Reason, Status
from skyriver.data.keys import key_of
from skyriver.decide.decision.model_run import CODES, REASONS, Floats, none_of
from skyriver.decide.decision.scorer import Scorer
from skyriver.decide.decision.scoring import (
    MAIN,
    PLACES,
    Canary,
    Codes,
    Effort,
    Lane,
    Lanes,
    Scored,
    in_canary,
    score_cheaper,
    score_lanes,
    shed_lanes,
)
from skyriver.decide.decision.tallies import Tallies
from skyriver.decide.decision.trial import Ends, Trial
from skyriver.decide.decision.walking import Asked, overflowed, reason_beyond, spend_block, walk
from skyriver.decide.log.blocks import DecisionBlock
from skyriver.decide.log.records import DecisionRecord, Id, ModelInUse, Value
from skyriver.decide.rules.closures import Values
from skyriver.decide.rules.columns import Rows
from skyriver.decide.rules.ruleset import RuleSet

_STATUS = {
    Reason.NONE: Status.DECIDED,
    Reason.NO_VERSION: Status.FALLBACK,
    Reason.NO_DECISIONS: Status.FALLBACK,
    Reason.LATE: Status.LATE,
    Reason.MODEL_FAILED: Status.FAILED,
    Reason.SCORE_NOT_FINITE: Status.FAILED,
    Reason.MODEL_LATE: Status.FALLBACK,
    Reason.MODEL_ASIDE: Status.FALLBACK,
    Reason.SHED: Status.FALLBACK,
    Reason.CHEAPER: Status.FALLBACK,
}
_IS_LATE, _FINE, _NO_DECISIONS = Reason.LATE, Reason.NONE, Reason.NO_DECISIONS
_MODEL_RAN = frozenset({Reason.NONE, Reason.MODEL_FAILED, Reason.SCORE_NOT_FINITE, Reason.MODEL_LATE})


@dataclass(frozen=True, slots=True)
class Deciding:
    """What events are decided with now. `rules` is None in a stream that declares no decisions. `deadline_us` and
    `fallback_by` are as they were declared; the scorers keep the one, `stand_in` and the rules do the other."""

    rules: RuleSet | None = None
    model: ModelInUse | None = None
    scorer: Scorer | None = None
    features_digest: str = ""
    """The features that the rules and the models read; "": those that decide when it comes, whichever they are."""
    canary: Canary | None = None
    shadow: Lane | None = None
    last: Lane | None = None
    """The version that decided before this one."""
    cheaper: Lane | None = None
    """The version that scores while the worker is overloaded."""
    deadline_us: int = 0
    fallback_by: tuple[str, ...] = ()
    calibration: Calibration | None = None
    """Of the scorer's scores."""
    rules_version: int = 0
    """Of the rules; 0: nobody knows."""
    trial: Trial | None = None

    lanes: Lanes = field(init=False, repr=False, compare=False)
    who: tuple[tuple[ModelInUse | None, str, bool], ...] = field(init=False, repr=False, compare=False)
    """`Lanes.who` of each place: made once, and read for each event."""
    ends: Ends = field(init=False, repr=False, compare=False)
    lookups: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """What its rules read of lists, see `RuleSet`."""
    counting: bool = field(init=False, repr=False, compare=False)
    """Whether its rules read counters."""
    needs_features: bool = field(init=False, repr=False, compare=False)
    """Whether its rules read features."""
    reads_keys: bool = field(init=False, repr=False, compare=False)
    """Whether it depends on an event's key what it is decided with."""

    def __post_init__(self) -> None:
        main = None
        if self.model is not None and self.scorer is not None:
            main = Lane(self.model, self.scorer, self.calibration)
        lanes = Lanes(main, self.canary, self.shadow, self.last, "last_version" in self.fallback_by, self.cheaper)
        object.__setattr__(self, "lanes", lanes)
        object.__setattr__(self, "who", tuple(lanes.who(place) for place in PLACES))
        object.__setattr__(self, "ends", Ends(self.rules, self.trial))
        evaluated = [rules for rules in (self.rules, self.trial.rules if self.trial else None) if rules is not None]
        object.__setattr__(self, "lookups", tuple(sorted({place for rules in evaluated for place in rules.lookups})))
        object.__setattr__(self, "counting", any(rules.counting for rules in evaluated))
        object.__setattr__(self, "needs_features", any(rules.needs_features for rules in evaluated))
        reads_keys = self.canary is not None or (self.trial is not None and self.trial.percent > 0)
        object.__setattr__(self, "reads_keys", reads_keys)


@dataclass(frozen=True, slots=True)
class Undecided:
    """Events without decisions (the sequences belong together). `arrived` in monotonic microseconds, -1: in an earlier
    process. `features`, float32 [events that are not late, F], in order; None where there are none. `times`: T of
    each."""

    offsets: Sequence[int]
    rows: Sequence[Sequence[Value]]
    late: Sequence[bool]
    arrived: Sequence[int]
    features: Floats | None
    times: Sequence[int] = ()

    def keys(self, place: int) -> list[int]:
        """Of each, by the field at this place, which is a whole number or a text and never missing."""
        return [key_of(row[place]) for row in self.rows]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class UndecidedBlock:
    """The same in columns: events from the offset `first` on; `late` bool [n], None for none; `arrived` and `times`
    int64 [n]."""

    first: int
    columns: Columns
    late: Bools | None
    arrived: Ints
    features: Floats | None
    times: Ints | None = None


def decide_events(
    events: Undecided,
    deciding: Deciding,
    *,
    id_place: int,
    key_place: int,
    features_digest: str,
    now: int,
    monotonic: int,
    tallies: Tallies | None = None,
    effort: Effort = Effort.FULL,
) -> list[DecisionRecord]:
    """One record for each event, in their order. `tallies`: of the decisions before them; these are added. Without them
    no budget holds."""
    rules, trial = deciding.rules, deciding.trial
    counted, counting = bool(tallies), deciding.counting
    on_time = [place for place, late in enumerate(events.late) if not late]
    keys = _NO_KEYS
    if deciding.reads_keys:
        every = events.keys(key_place)
        keys = np.array([every[place] for place in on_time], np.int64)
    scored = score_events(deciding, events.features, len(on_time), keys, effort)
    who = deciding.who
    scores, reasons, lanes = scored.scores.tolist(), scored.reasons.tolist(), scored.lanes.tolist()
    shadows = scored.shadow.tolist() if scored.shadow is not None else None
    probabilities = scored.probabilities.tolist() if scored.probabilities is not None else None
    vectors = events.features.tobytes() if events.features is not None else b""
    width = len(vectors) // len(on_time) if on_time else 0
    numbers: Sequence[Sequence[float]] | None = None
    if events.features is not None and deciding.needs_features:
        numbers = events.features.tolist()
    taken = _taken(trial, keys, len(on_time)).tolist() if trial is not None else ()
    ends = deciding.ends.all
    records: list[DecisionRecord] = []
    at = -1
    for row, (offset, values, late, arrived) in enumerate(
        zip(events.offsets, events.rows, events.late, events.arrived, strict=True)
    ):
        score: float | None = None
        reason, vector, end = _IS_LATE, b"", ends[-1]
        model, arm, stood_in = None, "", False
        shadow: float | None = None
        shadow_version = 0
        probability: float | None = None
        if not late:
            at += 1
            reason = REASONS[reasons[at]]
            score = scores[at] if scores[at] == scores[at] else None
            if probabilities is not None:
                probability = probabilities[at] if probabilities[at] == probabilities[at] else None
            vector = vectors[at * width : (at + 1) * width]
            model, arm, stood_in = who[lanes[at]]
            if shadows is not None and deciding.shadow is not None:
                shadow_version = deciding.shadow.model.version
                shadow = shadows[at] if shadows[at] == shadows[at] else None
            if rules is not None:
                features = numbers[at] if numbers is not None else ()
                seen = values
                if counting:
                    assert tallies is not None, "rules read counters"
                    seen = [*values, *tallies.counts(tallies.keys_of(values), events.times[row])]
                place = _decide(rules, score, features, seen, probability)
                if trial is not None:
                    tried = _decide(trial.rules, score, features, seen, probability)
                    place = deciding.ends.of(place, tried, taken[at])
                end = ends[place]
        decision, rule, rules_digest, shadow_decision, shadow_rules = end
        ran = model if stood_in or reason in _MODEL_RAN else None
        status = Status.FALLBACK if stood_in else _STATUS[reason]
        if tallies is not None and counted and decision in tallies:
            got = tallies.spend(decision, tallies.keys_of(values), events.times[row])
            if got != decision:
                if shadow_decision == decision:  # there is nothing left for who says the same
                    shadow_decision = got
                decision, reason = got, reason_beyond(status, reason)
        own: Id = values[id_place]  # type: ignore[assignment]  # an id is a whole number or a text, never missing
        records.append(
            DecisionRecord(
                offset,
                own,
                status,
                decision,
                score,
                vector,
                ran.name if ran is not None else "",
                ran.version if ran is not None else 0,
                rules_digest,
                features_digest,
                reason,
                now,
                monotonic - arrived if arrived >= 0 else 0,
                arm,
                shadow_version,
                shadow,
                rule,
                probability,
                shadow_decision,
                shadow_rules,
            )
        )
    return records


def _decide(
    rules: RuleSet, score: float | None, features: Sequence[float], values: Sequence[Value], probability: float | None
) -> int:
    if score is None:
        return rules.decide_without(features, values)
    return rules.decide(score, features, values, probability)


def _taken(trial: Trial, keys: Ints, count: int) -> Bools:
    """Of which events the rules that are tried decide."""
    return in_canary(keys, trial.salt, trial.percent) if trial.percent else np.zeros(count, np.bool_)


def decide_block(
    events: UndecidedBlock,
    deciding: Deciding,
    *,
    id_place: int,
    key_place: int,
    features_digest: str,
    now: int,
    monotonic: int,
    scored: Scored | None = None,
    tallies: Tallies | None = None,
    effort: Effort = Effort.FULL,
) -> DecisionBlock:
    """What `decide_events` says of each of these events. `scored`: of those that are not late, where it is known
    already (a replay)."""
    n, late, rules = len(events.columns), events.late, deciding.rules
    on_time = np.flatnonzero(~late) if late is not None else None
    columns = events.columns if on_time is None else events.columns.take(on_time)
    keys = columns.keys(key_place) if deciding.reads_keys else _NO_KEYS
    if scored is None:
        scored = score_events(deciding, events.features, len(columns), keys, effort)
    scores, reasons, lanes, shadow = scored.scores, scored.reasons, scored.lanes, scored.shadow
    probabilities = scored.probabilities
    decisions = np.zeros(len(columns), np.int64)
    if rules is not None and not deciding.counting:
        decisions = _decide_columns(rules, scored, events.features, columns)
    if rules is not None and not deciding.counting and (trial := deciding.trial) is not None:
        tried = _decide_columns(trial.rules, scored, events.features, columns)
        decisions = deciding.ends.of_columns(decisions, tried, _taken(trial, keys, len(columns)))
    if on_time is not None:
        scores = _spread(scores, on_time, n, np.float32(np.nan))
        reasons = _spread(reasons, on_time, n, np.uint8(CODES[_IS_LATE]))
        lanes = _spread(lanes, on_time, n, np.uint8(MAIN))
        decisions = _spread(decisions, on_time, n, np.int64(len(deciding.ends.all) - 1))
        shadow = _spread(shadow, on_time, n, np.float32(np.nan)) if shadow is not None else None
        if probabilities is not None:
            probabilities = _spread(probabilities, on_time, n, np.float32(np.nan))
    beyond: dict[int, str] | None = None
    if deciding.counting:
        decisions, beyond = _walk(events, deciding, scored, columns, keys, tallies)
    outcomes, codes = _outcomes(deciding, decisions, reasons, lanes, features_digest)
    if tallies and events.times is not None:
        if beyond is None:
            words = [outcome.decision for outcome in outcomes]
            beyond = spend_block(tallies, words, codes, events.columns, events.times)
        outcomes, codes = overflowed(outcomes, codes, beyond)
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
        deciding.shadow.model.version if shadow is not None and deciding.shadow is not None else 0,
        shadow,
        probabilities,
    )


def _walk(
    events: UndecidedBlock, deciding: Deciding, scored: Scored, columns: Columns, keys: Ints, tallies: Tallies | None
) -> tuple[Ints, dict[int, str]]:
    """Of each event its place in `deciding.ends`, and what those beyond a budget get."""
    assert deciding.rules is not None
    assert tallies is not None, "rules read counters"
    assert events.times is not None
    rows = Rows(scored.scores.astype(np.float64), events.features, columns, scored.probabilities)

    def asked(rules: RuleSet) -> Asked:
        return Asked.of(rules, _decide_columns(rules, scored, events.features, columns), rows)

    live, trial, ends = asked(deciding.rules), deciding.trial, deciding.ends
    place_of = live.place
    if trial is not None:
        tried, taken = asked(trial.rules), _taken(trial, keys, len(columns)).tolist()

        def place_of(at: int, values: Values) -> int:
            return ends.of(live.place(at, values), tried.place(at, values), taken[at])

    return walk(tallies, place_of, [end.decision for end in ends.all], events.columns, events.late, events.times)


def _decide_columns(rules: RuleSet, scored: Scored, features: Floats | None, columns: Columns) -> Ints:
    """Of each event, the place in the rules' `ends`."""
    none = np.isnan(scored.scores)
    rows = Rows(scored.scores.astype(np.float64), features, columns, scored.probabilities)
    if not none.any():
        return rules.decide_columns(rows)
    decisions = rules.decide_columns(rows) if not none.all() else np.zeros(len(columns), np.int64)
    decisions[none] = rules.decide_columns_without(rows)[none] if rules.without_score else len(rules.ends) - 1
    return decisions


def _spread(values: NDArray[Any], places: Ints, count: int, other: Any) -> NDArray[Any]:
    """`values` at these places of `count`, `other` elsewhere."""
    found = np.full(count, other, values.dtype)
    found[places] = values
    return found


def _outcomes(
    deciding: Deciding, decisions: Ints, reasons: Codes, lanes: Codes, features_digest: str
) -> tuple[list[Outcome], NDArray[np.uint16]]:
    """Each different one once, and which of them each event has. `decisions` are places in `deciding.ends`."""
    ends = deciding.ends.all
    who = deciding.who
    all_of = (decisions * len(REASONS) + reasons) * len(who) + lanes
    there = np.bincount(all_of) > 0
    outcomes = []
    for value in np.flatnonzero(there).tolist():
        rest, lane = divmod(value, len(who))
        place, code = divmod(rest, len(REASONS))
        end = ends[place]
        reason = REASONS[code]
        model, arm, stood_in = who[lane]
        ran = model if stood_in or reason in _MODEL_RAN else None
        outcomes.append(
            Outcome(
                Status.FALLBACK if stood_in else _STATUS[reason],
                end.decision,
                ran.name if ran is not None else "",
                ran.version if ran is not None else 0,
                end.rules_digest,
                features_digest,
                reason,
                arm if reason is not _IS_LATE else "",
                end.rule,
                end.shadow_decision,
                end.shadow_rules,
            )
        )
    return outcomes, (np.cumsum(there) - 1).astype(np.uint16)[all_of]


_NO_KEYS: Ints = np.empty(0, np.int64)


def score_events(
    deciding: Deciding, features: Floats | None, count: int, keys: Ints, effort: Effort = Effort.FULL
) -> Scored:
    """Of each of `count` events that are not late."""
    reason = _FINE
    if deciding.rules is None:
        reason = _NO_DECISIONS
    elif deciding.scorer is None or features is None:
        reason = Reason.NO_VERSION
    elif count and effort is Effort.SHED:
        return shed_lanes(deciding.lanes, count, keys)
    elif count and effort is Effort.CHEAPER and deciding.cheaper is not None:
        return score_cheaper(deciding.lanes, features, keys)
    elif count:
        return score_lanes(deciding.lanes, features, keys)
    return Scored(*none_of(count, reason), np.zeros(count, np.uint8))
