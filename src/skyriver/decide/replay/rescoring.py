"""Scores of events that were scored before, to the bit.

What the time caused is no property of an event: a model that was late, aside or raised, or that there was no time for,
is not asked again, its record is believed. All others are scored anew, many in one run; where a score has other bits
than the record, its batch is scored once more as it was then, for a net's last bits may hang on how many rows are in a
run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyriver.data.columns import Bools, Ints
from skyriver.data.decisions import OVERLOADED, Floats, Reason, Status
from skyriver.decide.decision.deciding import Deciding, score_events
from skyriver.decide.decision.model_run import CODES
from skyriver.decide.decision.scoring import (
    BY_CANARY,
    BY_CHEAPER,
    BY_LAST,
    BY_MAIN,
    CANARY,
    MAIN,
    Lane,
    Lanes,
    Scored,
    begin_shadow,
    probabilities_of,
    run,
)
from skyriver.decide.log.recorded import Recorded, of_outcomes

TIMED = frozenset({Reason.MODEL_LATE, Reason.MODEL_ASIDE, Reason.MODEL_FAILED, *OVERLOADED})
"""What another run of the same model on the same features may end otherwise than."""
_ASKED = {MAIN: BY_LAST, BY_CANARY: BY_MAIN, BY_LAST: MAIN, BY_MAIN: BY_CANARY, BY_CHEAPER: BY_CHEAPER}
"""By lane: whose events another one scored in its place; of those that stand in, who failed before."""


def timed(then: Recorded) -> Bools:
    """Which of these decisions the time has caused."""
    return of_outcomes(then, [outcome.reason in TIMED for outcome in then.outcomes])


def score_as_recorded(deciding: Deciding, features: Floats | None, keys: Ints, then: Recorded) -> Scored:
    """Of events that are not late, by the versions that were asked then."""
    n = len(then)
    if features is None or deciding.scorer is None:
        return score_events(deciding, features, n, keys)
    by_time = timed(then)
    known = ~by_time
    alone = replace(deciding, shadow=None)
    scored = score_events(alone, features[known], int(np.count_nonzero(known)), keys[known] if len(keys) else keys)
    beside = _beside(deciding.shadow, features, then)
    scored = Scored(
        _spread(scored.scores, known, np.float32(np.nan)),
        _spread(scored.reasons, known, np.uint8(0)),
        _spread(scored.lanes, known, np.uint8(MAIN)),
        beside,
    )
    for place in np.flatnonzero(by_time).tolist():
        outcome = then.outcomes[then.codes[place]]
        scored.reasons[place] = CODES[outcome.reason]
        stood_in = outcome.status is Status.FALLBACK and not np.isnan(then.scores[place])
        if outcome.reason is Reason.CHEAPER:
            scored.lanes[place] = BY_CHEAPER
        elif outcome.arm == CANARY:
            scored.lanes[place] = BY_CANARY
        elif stood_in:
            main = deciding.model
            by_main = main is not None and (outcome.model, outcome.version) == (main.name, main.version)
            scored.lanes[place] = BY_MAIN if by_main else BY_LAST
    for lane in (BY_MAIN, BY_LAST, BY_CHEAPER):
        _score_again(deciding.lanes, features, then, scored, by_time & (scored.lanes == lane), lane)
    differs = (scored.scores.view(np.uint32) != then.scores.view(np.uint32)) & ~np.isnan(then.scores)
    for lane in range(len(deciding.who)):
        _score_again(deciding.lanes, features, then, scored, differs & (scored.lanes == lane), lane)
    calibrations = deciding.lanes.calibrations
    if calibrations is None or not n:
        return scored
    return replace(scored, probabilities=probabilities_of(calibrations, scored.scores, scored.lanes))


def _beside(shadow: Lane | None, features: Floats, then: Recorded) -> Floats | None:
    """What the shadow says of those that it was asked of."""
    beside = begin_shadow(shadow, features)
    if beside is None:
        return None
    unasked = of_outcomes(then, [outcome.reason in OVERLOADED for outcome in then.outcomes])
    return np.where(unasked, np.float32(np.nan), beside())


def _score_again(lanes: Lanes, features: Floats, then: Recorded, scored: Scored, rows: Bools, place: int) -> None:
    """The batches that these rows were in, as the version in `place` scored them: with what it could not score."""
    lane = lanes.at(place)
    if lane is None or not rows.any():
        return
    asked, failed = _ASKED[place], scored.reasons != CODES[Reason.NONE]
    together = scored.lanes == place
    if place == BY_CHEAPER:
        together = np.ones(len(then), np.bool_)  # of these batches it was asked for all
    else:
        together |= (scored.lanes == asked) & failed if place in (BY_LAST, BY_MAIN) else scored.lanes == asked
    places = np.flatnonzero(together & np.isin(then.batches, then.batches[rows]))
    batches = then.batches[places]
    for part in np.split(places, np.flatnonzero(batches[1:] != batches[:-1]) + 1):
        found, own = run(lane.scorer, features[part])[0], scored.lanes[part] == place
        scored.scores[part[own]] = found[own]


def _spread(values: NDArray[Any], rows: Bools, other: object) -> NDArray[Any]:
    found = np.full(len(rows), other, values.dtype)
    found[rows] = values
    return found
