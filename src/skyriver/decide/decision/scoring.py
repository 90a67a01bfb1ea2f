"""Who scores which events: the released version, a canary for its share of the keys, and where one of these gives no
score, if so declared, the version before. A shadow scores all of them beside, and decides none.

Pure but for the models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from skyriver.core.calibration import Calibration
from skyriver.data.decisions import Reason
from skyriver.decide.decision.model_run import CODES, Floats, ModelRun, Outcomes, none_of, score_rows
from skyriver.decide.decision.scorer import Scorer
from skyriver.decide.log.records import ModelInUse
from skyriver.release.places import BUCKETS
from skyriver.release.places import PLACES as HUNDREDTHS

Ints = NDArray[np.int64]
Codes = NDArray[np.uint8]

CANARY = "canary"
PLACES = range(5)
MAIN, BY_CANARY, BY_LAST, BY_MAIN, BY_CHEAPER = PLACES
"""Who gave (or failed to give) a score: the released version, the canary, the version before in place of the released
one, the released one in place of the canary, the cheaper one in place of either."""
_FINE = CODES[Reason.NONE]


class Effort(Enum):
    """How much is done for the scores of a batch."""

    FULL = auto()
    THREADS = auto()
    """The same, and a run may take more threads (`Threads`)."""
    CHEAPER = auto()
    """The cheaper version alone is asked, if there is one."""
    SHED = auto()
    """Nobody is asked: there is no time for it."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A version that scores."""

    model: ModelInUse
    scorer: Scorer
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    lane: Lane
    percent: float
    """Of the keys, by a hash: a key stays with its version, and a larger share keeps those of the smaller."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """`main` is None: no version is released. `last`: the version before the released one; it and the released one
    stand in where the released one, or the canary, gives no score, if `stand_in`. `cheaper`: asked in place of all of
    them where there is no time for more."""

    main: Lane | None
    canary: Canary | None = None
    shadow: Lane | None = None
    last: Lane | None = None
    stand_in: bool = False
    cheaper: Lane | None = None

    calibrations: tuple[Calibration | None, ...] | None = field(init=False, repr=False, compare=False)
    """Of each place in `Scored.lanes`; None: none of them has one."""
    runs: tuple[ModelRun, ...] = field(init=False, repr=False, compare=False)
    """Of all of them."""

    def __post_init__(self) -> None:
        lanes = [self.at(place) for place in PLACES]
        found = tuple(lane.calibration if lane is not None else None for lane in lanes)
        object.__setattr__(self, "calibrations", found if any(found) else None)
        scorers = {id(lane.scorer): lane.scorer for lane in (*lanes, self.shadow) if lane is not None}
        runs = tuple(scorer for scorer in scorers.values() if isinstance(scorer, ModelRun))
        object.__setattr__(self, "runs", runs)

    @property
    def waited_us(self) -> int:
        """That was waited for scores, since these models are here."""
        return sum(run.waited_us for run in self.runs)

    def at(self, place: int) -> Lane | None:
        """Of a place in `Scored.lanes`."""
        others = {
            BY_CANARY: self.canary.lane if self.canary else None,
            BY_LAST: self.last,
            BY_CHEAPER: self.cheaper,
        }
        return others.get(place, self.main)

    def who(self, place: int) -> tuple[ModelInUse | None, str, bool]:
        """Of a place in `Scored.lanes`: the version, its arm, and whether it stood in."""
        lane = self.at(place)
        model = lane.model if lane is not None else None
        return model, CANARY if place == BY_CANARY else "", place in (BY_LAST, BY_MAIN, BY_CHEAPER)


@dataclass(frozen=True, slots=True)
class Scored:
    """Of n events: `scores` float32, NaN for none; `reasons` places in REASONS why the version that was asked first
    gave none; `lanes` who gave the score, or failed; `shadow` float32, NaN for none, or None: no shadow;
    `probabilities` of the scores, the same."""

    scores: Floats
    reasons: Codes
    lanes: Codes
    shadow: Floats | None = None
    probabilities: Floats | None = None

    def take(self, kept: NDArray[np.bool_]) -> Scored:
        """Only these."""
        shadow = self.shadow[kept] if self.shadow is not None else None
        probabilities = self.probabilities[kept] if self.probabilities is not None else None
        return Scored(self.scores[kept], self.reasons[kept], self.lanes[kept], shadow, probabilities)


def in_canary(keys: Ints, version: int, percent: float) -> NDArray[np.bool_]:
    """Which of the keys (int64) are the canary's. Another version takes others."""
    found: NDArray[np.bool_] = _mixed(keys, version) % np.uint64(BUCKETS) < np.uint64(round(percent * BUCKETS / 100))
    return found


def places_of(keys: Ints, version: int) -> Ints:
    """In which hundredth of all keys each of them (int64) is, by what `in_canary` takes them by."""
    return (_mixed(keys, version) % np.uint64(BUCKETS) // np.uint64(BUCKETS // HUNDREDTHS)).astype(np.int64)


def _mixed(keys: Ints, salt: int) -> NDArray[np.uint64]:
    """As `skyriver.release.places.place_of` mixes one key, which takes a sixth of the time for it."""
    with np.errstate(over="ignore"):
        x = keys.view(np.uint64) + np.uint64(salt) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def score_lanes(lanes: Lanes, features: Floats, keys: Ints) -> Scored:
    """`features` float32 [n, F] and `keys` int64 [n] (read where there is a canary alone)."""
    assert lanes.main is not None
    beside = begin_shadow(lanes.shadow, features)
    n = len(features)
    mask = in_canary(keys, lanes.canary.lane.model.version, lanes.canary.percent) if lanes.canary is not None else None
    if mask is None or lanes.canary is None or not mask.any():
        scores, reasons = run(lanes.main.scorer, features)
        who = np.zeros(n, np.uint8)
    else:
        scores, reasons = np.full(n, np.nan, np.float32), np.zeros(n, np.uint8)
        who = np.where(mask, np.uint8(BY_CANARY), np.uint8(MAIN))
        for rows, scorer in ((~mask, lanes.main.scorer), (mask, lanes.canary.lane.scorer)):
            if rows.any():
                scores[rows], reasons[rows] = run(scorer, features[rows])
    if lanes.stand_in and (reasons != _FINE).any():
        scores, who = _stand_in(lanes, features, scores, reasons, who)
    probabilities = probabilities_of(lanes.calibrations, scores, who) if lanes.calibrations is not None else None
    return Scored(scores, reasons, who, beside() if beside is not None else None, probabilities)


def shed_lanes(lanes: Lanes, count: int, keys: Ints) -> Scored:
    """Of events whose scores there is no time for: whose they would have been, and why there are none."""
    canary = lanes.canary
    mask = in_canary(keys, canary.lane.model.version, canary.percent) if canary is not None else np.zeros(count, bool)
    return Scored(*none_of(count, Reason.SHED), np.where(mask, np.uint8(BY_CANARY), np.uint8(MAIN)))


def score_cheaper(lanes: Lanes, features: Floats, keys: Ints) -> Scored:
    """By the cheaper version; what it gives no score for is shed."""
    assert lanes.cheaper is not None
    found, why = run(lanes.cheaper.scorer, features)
    fine, shed = why == _FINE, shed_lanes(lanes, len(features), keys)
    who = np.where(fine, np.uint8(BY_CHEAPER), shed.lanes)
    reasons = np.where(fine, np.uint8(CODES[Reason.CHEAPER]), shed.reasons)
    probabilities = probabilities_of(lanes.calibrations, found, who) if lanes.calibrations is not None else None
    return Scored(found, reasons, who, None, probabilities)


def probabilities_of(calibrations: Sequence[Calibration | None], scores: Floats, who: Codes) -> Floats:
    """Each by the calibration of who gave its score."""
    first = int(who[0])
    alone = calibrations[first]
    if alone is not None and (len(who) == 1 or (who == first).all()):
        return alone.of(scores)
    found = np.full(len(scores), np.nan, np.float32)
    for place, calibration in enumerate(calibrations):
        rows = who == place
        if calibration is not None and rows.any():
            found[rows] = calibration.of(scores[rows])
    return found


def _stand_in(lanes: Lanes, features: Floats, scores: Floats, reasons: Codes, who: Codes) -> tuple[Floats, Codes]:
    """Scores by the version before where there are none. Why the first one gave none is kept as the reason."""
    assert lanes.main is not None
    scores, who = scores.copy(), who.copy()
    for failed, other, place in ((BY_CANARY, lanes.main, BY_MAIN), (MAIN, lanes.last, BY_LAST)):
        rows = np.flatnonzero((reasons != _FINE) & (who == failed))
        if other is None or not len(rows):
            continue
        found, why = run(other.scorer, features[rows])
        scored = rows[why == _FINE]
        scores[scored] = found[why == _FINE]
        who[scored] = place
    return scores, who


def run(scorer: Scorer, features: Floats) -> Outcomes:
    return scorer.run(features) if isinstance(scorer, ModelRun) else score_rows(scorer, features)


def begin_shadow(shadow: Lane | None, features: Floats) -> Callable[[], Floats] | None:
    """Begins to score in the shadow's own thread; what is returned collects the scores, as far as they are there."""
    if shadow is None:
        return None
    if isinstance(shadow.scorer, ModelRun):
        return shadow.scorer.begin(features)
    scores = score_rows(shadow.scorer, features)[0]
    return lambda: scores
