"""What a training's function says of a step, by parts: where it is begun again, that of parts that stand holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from skyriver.core.errors import InvalidInput

SLOTS: Final = 8
"""Values that a step may report."""


@dataclass(slots=True)
class Said:
    """Of a part, by its share of the step's rows."""

    loss: float = 0.0
    told: dict[str, float] = field(default_factory=dict)
    clip: float = 0.0
    """That of the last part, which has rows in each step, is the step's."""


@dataclass(slots=True)
class Step:
    """What there is of the step that is being done."""

    said: dict[int, Said] = field(default_factory=dict)
    """Of each part."""
    part: Said = field(default_factory=Said)
    """Of the part that is being done."""
    weight: float = 0.0
    """Its share of the step's rows."""
    done: bool = False
    passes: int = 0
    """Backward passes of the part."""
    stepped: bool = False
    ending: bool = False
    """It is to be the last one."""

    def whole(self) -> Said:
        """Of all parts of this worker."""
        found = Said()
        for said in self.said.values():
            found.loss += said.loss
            for name, value in said.told.items():
                found.told[name] = found.told.get(name, 0.0) + value
        check_slots(found.told)
        return found


def check_slots(told: Mapping[str, float]) -> None:
    """Raises InvalidInput (TOO_MANY_VALUES)."""
    if len(told) > SLOTS:
        raise InvalidInput(
            f"ctx.report: more than {SLOTS} values.", code="TOO_MANY_VALUES", next_action="Report fewer in a step."
        )
