"""When a model is trained again by itself, and what holds that back. Pure, of the values that its watch keeps.

A *change* (drift, or worse quality) sets a training off. What is new is then young: of what came since, the newest part
is held out for the test, and labels come later still. So some times after it follow-ups train again, and until the last
one a change is no cause: it is known. What was seen before the last thing that changed (another version serves, a
training ended, somebody let the watch go on) is no cause either: it may be mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from skyriver.core.spec import RetrainSpec
from skyriver.core.units import DAY, iso_seconds

BUDGET_US: Final = 30 * DAY
KEPT_TRAININGS: Final = 100

What = Literal["drift", "quality", "follow_up", "age"]
Status = Mapping[str, Any]
REASONS: Final[Mapping[What, str]] = {
    "drift": "DRIFTED",
    "quality": "WORSE",
    "follow_up": "FOLLOW_UP",
    "age": "TOO_OLD",
}
_CHANGES: Final = {"drift": "drift", "quality": "worse quality"}


@dataclass(frozen=True, slots=True)
class Serving:
    """The version that serves; `since`: what was looked for earlier (wall microseconds) tells nothing of it."""

    version: int
    name: str
    trained_at: int
    since: int


@dataclass(frozen=True, slots=True)
class Cause:
    what: What
    message: str


@dataclass(frozen=True, slots=True)
class Known:
    """A change that was trained for by `run`, and when that is followed up, the next time first."""

    run: str
    what: str
    at: int
    due: tuple[int, ...]
    of: int

    def told(self) -> str:
        return (
            f"{self.run} trained it for {_CHANGES[self.what]} at {iso_seconds(self.at)}; the next follow-up is at"
            f" {iso_seconds(self.due[0])}, {self.of - len(self.due) + 1} of {self.of}."
        )


def cause_of(status: Status, serving: Serving, spec: RetrainSpec, now: int) -> Cause | None:
    """Why it should be trained now."""
    known = known_change(status, spec)
    if known is not None and known.due[0] <= now:
        due = sum(at <= now for at in known.due)
        nth = known.of - len(known.due) + due
        why = f"{known.run} trained it for {_CHANGES[known.what]} at {iso_seconds(known.at)}: more is known of what is"
        return Cause("follow_up", f"{why} new by now. It is follow-up {nth} of {known.of}.")
    if known is None and (change := _change(status, serving, spec)) is not None:
        return change
    if spec.every_us and now - serving.trained_at >= spec.every_us:
        return Cause(
            "age", f"{serving.name} was trained at {iso_seconds(serving.trained_at)}, {spec.every} ago or more."
        )
    return None


def known_change(status: Status, spec: RetrainSpec) -> Known | None:
    """That follow-ups are still due for."""
    follow = status.get("follow")
    if not follow or not follow["due"] or not spec.follow_up:
        return None
    return Known(follow["run"], follow["cause"], follow["at"], tuple(follow["due"]), follow["of"])


def _change(status: Status, serving: Serving, spec: RetrainSpec) -> Cause | None:
    quality, seen = status.get("quality"), status.get("seen")
    if spec.quality and quality is not None and _of_now(quality, serving) and quality["worse"]:
        return Cause("quality", quality["message"])
    if spec.drift and seen is not None and _of_now(seen, serving) and seen["drift"]["verdict"] == "drifted":
        return Cause("drift", seen["drift"]["message"])
    return None


def _of_now(seen: Mapping[str, Any], serving: Serving) -> bool:
    """Looks of an earlier release do not tell when they were asked for: the next one does."""
    return bool(seen["version"] == serving.version) and int(seen.get("asked", 0)) >= serving.since


def held_back(status: Status, spec: RetrainSpec, now: int) -> str:
    """What brakes a training; "" when nothing does."""
    trainings = status.get("trainings") or []
    if trainings and abs(now - trainings[-1]["at"]) < spec.at_most_us:
        following = iso_seconds(trainings[-1]["at"] + spec.at_most_us)
        return f"It is trained by itself at most once in {spec.at_most}, so not before {following}."
    recent = sum(1 for training in trainings if abs(now - training["at"]) < BUDGET_US)
    if spec.budget and recent >= spec.budget:
        return f"Its budget is spent: {recent} trainings within 30 days."
    return ""


def begun(status: Status, cause: Cause, spec: RetrainSpec, run: str, now: int) -> dict[str, Any]:
    """With the training `run`, and what follows it up."""
    training = {"at": now, "run": run, "cause": cause.what, "why": cause.message, "outcome": ""}
    follow = status.get("follow")
    if cause.what in _CHANGES:
        due = [now + after for after in spec.follow_up_us]
        follow = {"run": run, "cause": cause.what, "at": now, "due": due, "of": len(due)} if due else None
    elif follow is not None:  # whatever it was for, it knows what is known by now
        if cause.what == "follow_up":
            training["after"] = follow["run"]
        follow = {**follow, "due": [at for at in follow["due"] if at > now]}
    trainings = [*(status.get("trainings") or []), training][-KEPT_TRAININGS:]
    return {**status, "trainings": trainings, "follow": follow if follow and follow["due"] else None}


def last_failed(model: Status, status: Status) -> bool:
    """Whether the last training came to nothing and nothing has mended that: another version that took over since, or
    somebody who let the watch go on. `model`: its status."""
    training = next(reversed(status.get("trainings") or ()), None)
    if training is None or training.get("good") is not False or not status.get("failures"):
        return False
    return all(int(entry["at"]) <= training.get("ended", 0) for entry in model.get("history", ()))


def ended(status: Status, *, good: bool, told: str, now: int) -> dict[str, Any]:
    """With what came of its last training; `failures` are those in a row."""
    *before, training = status["trainings"]
    failures = 0 if good else int(status.get("failures", 0)) + 1
    return {
        **status,
        "trainings": [*before, {**training, "outcome": told, "good": good, "ended": now}],
        "failures": failures,
    }
