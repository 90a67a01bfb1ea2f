"""What each arm of a stream does, for those who judge a rollout: the released version, its canary and its shadow, each
since it got its version and share. Counted by the records of the log alone, so a restart knows it; how long the models
take and how often they are late is of this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyriver.data.decisions import OVERLOADED, Outcome, Reason
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.model_run import ModelRun
from skyriver.decide.decision.places import Places
from skyriver.decide.decision.scorer import Scorer
from skyriver.decide.decision.scoring import CANARY, places_of
from skyriver.decide.log.blocks import DecisionBlock
from skyriver.decide.log.checkpoint import SavedArm
from skyriver.decide.log.records import ControlRecord, DecisionRecord, ModelInUse
from skyriver.release.places import place_of
from skyriver.release.stepping import NO_SCORE

SCORE_BINS = 20
"""Of [0, 1]; what is outside counts at its end."""
MAIN, SHADOW = "released", "shadow"
Ints = NDArray[np.int64]


@dataclass(slots=True)
class ArmStats:
    """`events` it was asked for; `by_decision` and `by_reason` ("" when its score decided) are empty for a shadow. Of
    its events that were shed, for which nobody was asked, only `by_reason` tells."""

    model: ModelInUse
    percent: float
    scorer: Scorer | None = None
    """None while the log is replayed."""
    events: int = 0
    by_decision: Counter[str] = field(default_factory=Counter)
    by_reason: Counter[str] = field(default_factory=Counter)
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    places: Places = field(default_factory=Places)
    """Of the released version and its canary, while there is one."""

    def add_scores(self, scores: NDArray[np.float32]) -> None:
        known = scores[~np.isnan(scores)].astype(np.float64)  # as `add_score` computes
        places = np.clip(known * SCORE_BINS, 0, SCORE_BINS - 1).astype(np.int64)
        for place, count in enumerate(np.bincount(places, minlength=SCORE_BINS).tolist()):
            self.scores[place] += count

    def add_score(self, score: float) -> None:
        self.scores[int(min(max(score * SCORE_BINS, 0), SCORE_BINS - 1))] += 1

    def to_json(self, arm: str) -> dict[str, Any]:
        run = self.scorer if isinstance(self.scorer, ModelRun) else None
        return {
            "arm": arm,
            "model": self.model.name,
            "version": self.model.version,
            "percent": self.percent,
            "events": self.events,
            "scored": sum(self.scores),
            "by_decision": dict(self.by_decision),
            "by_reason": dict(self.by_reason),
            "scores": list(self.scores),
            "places": self.places.told(),
            "run_us": {
                "p50": round(run.run_us.quantile(0.5)) if run is not None else 0,
                "p99": round(run.run_us.quantile(0.99)) if run is not None else 0,
            },
            "late_runs": run.late_runs if run is not None else 0,
            "aside_seconds": round(run.aside_us / 1e6, 1) if run is not None else 0.0,
        }


class Arms:
    """Counts decisions by arm. One thread."""

    def __init__(self, saved: Sequence[SavedArm] = ()) -> None:
        self.stats: dict[str, ArmStats] = {}
        for arm in saved:
            decided, reasons = Counter(arm.by_decision), Counter(arm.by_reason)
            self.stats[arm.arm] = ArmStats(
                arm.model, arm.percent, None, arm.events, decided, reasons, list(arm.scores), Places(arm.places)
            )

    @property
    def by_key(self) -> bool:
        """Whether it counts by the keys of events too."""
        return CANARY in self.stats

    def use(self, deciding: Deciding) -> None:
        """From now on; arms whose version or share stays go on counting."""
        lanes = deciding.lanes
        canary = lanes.canary.lane if lanes.canary is not None else None
        percent = lanes.canary.percent if lanes.canary is not None else 0.0
        used = {arm: lane for arm, lane in ((MAIN, lanes.main), (CANARY, canary), (SHADOW, lanes.shadow)) if lane}
        self._change({arm: lane.model for arm, lane in used.items()}, percent)
        for arm, lane in used.items():
            self.stats[arm].scorer = lane.scorer

    def follow(self, control: ControlRecord) -> None:
        """The same, as the log tells it."""
        told = {MAIN: control.model, CANARY: control.canary, SHADOW: control.shadow}
        self._change({arm: model for arm, model in told.items() if model is not None}, control.canary_percent)

    def saved(self) -> tuple[SavedArm, ...]:
        """A copy, for a checkpoint."""
        return tuple(
            SavedArm(
                arm,
                s.model,
                s.percent,
                s.events,
                dict(s.by_decision),
                dict(s.by_reason),
                list(s.scores),
                s.places.told(),
            )
            for arm, s in self.stats.items()
        )

    def _change(self, models: Mapping[str, ModelInUse], percent: float) -> None:
        shares = {MAIN: round(100 - percent, 2), CANARY: percent, SHADOW: 0.0}
        wanted = {arm: ArmStats(model, shares[arm]) for arm, model in models.items()}
        for arm, stats in wanted.items():
            before = self.stats.get(arm)
            if before is not None and (before.model, before.percent) == (stats.model, stats.percent):
                wanted[arm] = before
        self.stats = wanted

    def note(self, records: Sequence[DecisionRecord], keys: Sequence[int] = ()) -> None:
        """Mostly of one record, so nothing here is done in columns. `keys`: of their events; () where they are not
        known, or not needed."""
        canary = self.stats.get(CANARY)
        for arm, stats in self.stats.items():
            mark, version = _mark(arm), stats.model.version
            for number, record in enumerate(records):
                if arm == SHADOW:
                    if record.shadow_version != version:
                        continue
                    score = record.shadow_score
                else:
                    if record.arm != mark or record.status == "late" or record.reason is Reason.CHEAPER:
                        continue
                    if record.reason is Reason.SHED:
                        stats.by_reason[Reason.SHED] += 1
                        continue
                    score = record.score
                    stats.by_decision[record.decision] += 1
                    stats.by_reason[_failure(record.reason)] += 1
                stats.events += 1
                if score is not None:
                    stats.add_score(score)
                if canary is not None and arm != SHADOW and keys:
                    place = place_of(keys[number], canary.model.version)
                    stats.places.add(place, failed=record.reason in NO_SCORE, score=score)

    def note_block(self, block: DecisionBlock, keys: Ints | None = None) -> None:
        """`keys`: of its events; None where they are not known, or not needed."""
        canary = self.stats.get(CANARY)
        places = places_of(keys, canary.model.version) if canary is not None and keys is not None else None
        for arm, stats in self.stats.items():
            if arm == SHADOW:
                if block.shadow is not None and block.shadow_version == stats.model.version:
                    stats.events += sum(count for outcome, count in block.counts() if outcome.status != "late")
                    stats.add_scores(block.shadow)
                continue
            mine = np.array([_asked(outcome, arm) for outcome in block.outcomes], np.bool_)
            for outcome, count in block.counts():
                if outcome.arm == _mark(arm) and outcome.reason is Reason.SHED:
                    stats.by_reason[Reason.SHED] += count
                if _asked(outcome, arm):
                    stats.events += count
                    stats.by_decision[outcome.decision] += count
                    stats.by_reason[_failure(outcome.reason)] += count
            rows = mine[block.codes]
            scores = block.scores[rows]
            stats.add_scores(scores)
            if places is not None:
                failed = np.array([o.reason in NO_SCORE for o in block.outcomes], np.bool_)[block.codes]
                stats.places.add_many(places[rows], failed[rows], scores)

    def to_json(self) -> list[dict[str, Any]]:
        return [stats.to_json(arm) for arm, stats in self.stats.items()]


def _failure(reason: Reason) -> Reason:
    """A budget that is spent is none of the version."""
    return Reason.NONE if reason is Reason.BUDGET_SPENT else reason


def _asked(outcome: Outcome, arm: str) -> bool:
    return outcome.arm == _mark(arm) and outcome.status != "late" and outcome.reason not in OVERLOADED


def _mark(arm: str) -> str:
    """How records name it."""
    return "" if arm == MAIN else arm


def in_use(deciding: Deciding) -> dict[str, Any]:
    """The versions of the arms, by name."""
    canary, shadow = deciding.canary, deciding.shadow
    found: dict[str, Any] = {"model": _named(deciding.model), "canary": None}
    if canary is not None:
        found["canary"] = {
            "name": canary.lane.model.name,
            "version": canary.lane.model.version,
            "percent": canary.percent,
        }
    if deciding.cheaper is not None:
        found["cheaper"] = _named(deciding.cheaper.model)
    return found | {"shadow": _named(shadow.model if shadow is not None else None)}


def _named(model: ModelInUse | None) -> dict[str, Any] | None:
    return {"name": model.name, "version": model.version} if model is not None else None
