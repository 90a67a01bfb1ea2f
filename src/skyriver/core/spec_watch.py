"""Of an application's specification: when a model is trained again by itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Self

from pydantic import Field, model_validator

from skyriver.core.spec_base import Spec
from skyriver.core.units import SECOND, parse_duration

MOST_FOLLOW_UPS: Final = 12
RETRAIN_TOLERANCE: Final = 0.02


class RetrainSpec(Spec):
    """What a training is started for, and what holds it back."""

    drift: bool = False
    """When what it is asked is no more what it was trained on."""
    quality: bool = Field(default=False, exclude_if=lambda value: not value)
    """When it is worse on what it decided, once labels tell, than it was on its test rows."""
    tolerance: float = Field(default=RETRAIN_TOLERANCE, ge=0, lt=1, exclude_if=lambda value: value == RETRAIN_TOLERANCE)
    """By so much it may be worse, of its metric."""
    follow_up: tuple[str, ...] = Field(default=(), max_length=MOST_FOLLOW_UPS, exclude_if=lambda value: not value)
    """How long after a training for drift or quality it is trained again, for that one knew little of what is new."""
    every: str = Field(default="", exclude_if=lambda value: not value)
    """When the version that serves was trained so long ago, as "7d"; "": never for that."""
    at_most: str = "1d"
    """Not twice within this time."""
    budget: int = Field(default=0, ge=0, le=10_000, exclude_if=lambda value: not value)
    """So many within 30 days; 0: as many as `at_most` lets."""
    give_up_after: int = Field(default=3, ge=1, le=100)
    """After so many in a row that came to nothing it trains no more by itself, and says so."""
    window: str = Field(default="7d", exclude_if=lambda value: value == "7d")
    """What of the last time is compared: whole weeks where a weekend is not like a Monday."""
    look: str = "1h"
    """How often it looks for drift."""

    @property
    def every_us(self) -> int:
        """0: not for its age."""
        return parse_duration(self.every, "an age") if self.every else 0

    @property
    def follow_up_us(self) -> tuple[int, ...]:
        return tuple(parse_duration(after, "a time after a training") for after in self.follow_up)

    @property
    def at_most_us(self) -> int:
        return parse_duration(self.at_most)

    @property
    def window_us(self) -> int:
        return parse_duration(self.window)

    @property
    def look_us(self) -> int:
        return parse_duration(self.look)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.drift and not self.quality and not self.every:
            raise ValueError("nothing says when it is trained again")
        if self.at_most_us < SECOND:
            raise ValueError(f"at_most={self.at_most!r} is shorter than a second")
        if self.every and self.every_us < self.at_most_us:
            raise ValueError(f"every={self.every!r} is more often than at_most={self.at_most!r} lets it")
        if self.follow_up and not self.drift and not self.quality:
            raise ValueError("follow_up= is for what a change sets off, and an age is none")
        for before, after in pairwise((0, *self.follow_up_us)):
            if after - before < self.at_most_us:
                told = ", ".join(self.follow_up)
                raise ValueError(f"follow_up={told} is not in order, at_most={self.at_most!r} or more apart")
        if self.look_us < SECOND:
            raise ValueError(f"look={self.look!r} is shorter than a second")
        if self.window_us < self.look_us:
            raise ValueError(f"window={self.window!r} is shorter than the pause between two looks, look={self.look!r}")
        return self
