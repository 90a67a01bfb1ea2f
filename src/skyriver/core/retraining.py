"""When a model is trained again by itself, as an application declares it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skyriver.core import spec as specs
from skyriver.core.events import refuse
from skyriver.core.misread import made
from skyriver.core.names import nearest
from skyriver.core.units import parse_duration

_ACTION = 'Write retrain=sr.Retrain(on="drift", at_most="1d"), or on="7d", or on=["drift", "quality", "30d"].'
_FOLLOW_UP = 'Write follow_up=("7d", "14d", "21d", "35d"), each counted from the training that the change set off.'
CHANGES = ("drift", "quality")


@dataclass(frozen=True)
class Retrain:
    """When a model is trained again by itself: `Retrain(on="drift", at_most="1d")`.

    `on`: "drift", when what the model is asked, by a stream or over HTTP, is no more like what it was trained on;
    "quality", when what it said of a stream's events is worse, once their labels are known, than on its test rows, by
    more than `tolerance` and than chance explains; a duration, when the version that serves was trained so long ago; or
    several, in a list. `follow_up`: how long after a training for drift or quality it is trained again, as ("7d",
    "14d", "21d", "35d"), for rows of what is new come with time and their labels later. Until the last one nothing else
    is begun for drift or quality: the change is known.

    What comes of a training goes through gate and rollout as any other does. All are held back by `at_most`, not twice
    within this time; by `budget`, so many within 30 days; and by `give_up_after`: when so many in a row came to nothing
    (the training failed, the gate refused, the rollout was taken back) it trains no more by itself, until `skyriver
    watch resume`. `look`: how often it looks for drift, and `window`: how much of the last time it compares; whole
    weeks where a weekend is not like a Monday."""

    spec: specs.RetrainSpec

    def __init__(
        self,
        on: str | Sequence[str] = "drift",
        *,
        at_most: str = "1d",
        budget: int = 0,
        give_up_after: int = 3,
        window: str = "7d",
        look: str = "",
        follow_up: str | Sequence[str] = (),
        tolerance: float = specs.RETRAIN_TOLERANCE,
    ) -> None:
        reasons = [on] if isinstance(on, str) else on
        if not isinstance(reasons, (list, tuple)) or not all(isinstance(reason, str) for reason in reasons):
            refuse(f"on={on!r:.80} is no reason to train.", "BAD_RETRAIN", _ACTION)
        later = [follow_up] if isinstance(follow_up, str) else follow_up
        if not isinstance(later, (list, tuple)) or not all(isinstance(after, str) for after in later):
            refuse(f"follow_up={follow_up!r:.80} are no times after a training.", "BAD_RETRAIN", _FOLLOW_UP)
        ages = [reason for reason in reasons if reason not in CHANGES]
        for word in ages:
            if not any(character.isdigit() for character in word):
                refuse(f"on={word!r}: that is no reason to train{nearest(word, CHANGES)}.", "BAD_RETRAIN", _ACTION)
        if len(ages) > 1:
            refuse(f"on={list(reasons)} has several ages: {', '.join(ages)}.", "BAD_RETRAIN", _ACTION)
        given = {"at_most": at_most, "budget": budget, "give_up_after": give_up_after, "window": window}
        given |= {"look": look or min("1h", window, key=lambda text: parse_duration(text, "a window"))}
        given |= {"drift": "drift" in reasons, "quality": "quality" in reasons, "every": ages[0] if ages else ""}
        given |= {"follow_up": tuple(later), "tolerance": tolerance}
        object.__setattr__(self, "spec", made(specs.RetrainSpec, "sr.Retrain", "BAD_RETRAIN", _ACTION, given))


def retrain_of(value: object, name: str, *, trained: bool) -> specs.RetrainSpec | None:
    """What is declared for the model `name`, which is `trained` or a ready file."""
    if value is None:
        return None
    if not isinstance(value, Retrain):
        refuse(f"retrain={value!r:.80} does not say when to train.", "BAD_RETRAIN", _ACTION)
    if not trained:
        refuse(
            f"The model {name!r} is a ready file: there is nothing to train again.",
            "BAD_RETRAIN",
            "Leave out retrain=, or train the model with a function of @app.train.",
        )
    return value.spec
