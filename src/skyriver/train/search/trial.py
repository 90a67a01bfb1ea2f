"""One trial, as it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, get_args

from skyriver.core.spec_search import Value

State = Literal["complete", "pruned", "failed"]
_STATES: Final = get_args(State)


@dataclass(frozen=True, slots=True)
class Trial:
    """`value` is higher where it is better, also of a loss; None of a trial that failed, and then `error` says why.
    `step`: where it was best, for whom looks were taken (steps, and how good it was then); 0: at its end."""

    number: int
    params: Mapping[str, Value]
    state: State
    value: float | None
    seconds: float
    step: int = 0
    looks: tuple[tuple[int, float], ...] = ()
    error: str = ""
    at: float = 0.0
    """When it began, in seconds."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, told: Any) -> Trial:
        """Raises ValueError where that is no trial, or one of another format."""
        if not isinstance(told, dict) or told.keys() != {field.name for field in fields(cls)}:
            raise ValueError("a trial has other fields")
        try:
            looks = tuple((int(step), float(value)) for step, value in told["looks"])
        except TypeError as error:
            raise ValueError("a look is a step and a number") from error
        trial = cls(**{**told, "looks": looks})
        value = type(None) if trial.state == "failed" else float | int
        number = float | int
        kinds: dict[str, Any] = {
            "number": int,
            "params": dict,
            "seconds": number,
            "step": int,
            "error": str,
            "at": number,
        }
        wrong = [name for name, kind in kinds.items() if not isinstance(told[name], kind)]
        if wrong or trial.state not in _STATES or not isinstance(trial.value, value):
            raise ValueError("a field of a trial holds something else")
        if not all(isinstance(chosen, str | int | float) for chosen in trial.params.values()):
            raise ValueError("a parameter of a trial holds something else")
        return trial


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The first one of the best among those that were not cut short."""
    done = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    return max(done, key=lambda trial: trial.value or 0.0, default=None)
