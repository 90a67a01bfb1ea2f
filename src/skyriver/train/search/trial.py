"""One trial, as it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from skyriver.core.spec_search import Value


@dataclass(frozen=True, slots=True)
class Trial:
    """`value` is higher where it is better, also of a loss; None of a trial that failed, and then `error` says why.
    `step`: where it was best, for whom looks were taken (steps, and how good it was then); 0: at its end."""

    number: int
    params: Mapping[str, Value]
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    seconds: float
    step: int = 0
    looks: tuple[tuple[int, float], ...] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Trial:
        looks = tuple((int(step), float(value)) for step, value in told["looks"])
        return cls(**{**told, "looks": looks})


def best_of(trials: list[Trial]) -> Trial | None:
    """The first one of the best among those that were not cut short."""
    done = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    return max(done, key=lambda trial: trial.value or 0.0, default=None)
