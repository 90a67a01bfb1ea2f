"""What a training's function says of a step, by parts: where it is begun again, that of parts that stand holds."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from skyriver.core.errors import InvalidInput

SLOTS: Final = 8
"""Values that a step may report."""


@dataclass(slots=True)
class Said:
    """Of a part, by its share of the step's rows."""

    loss: float = 0.0
    told: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By name: (value times share, share) of the parts that reported it."""
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
            for name, (value, share) in said.told.items():
                before = found.told.get(name, (0.0, 0.0))
                found.told[name] = before[0] + value, before[1] + share
        check_slots(found.told)
        return found


def packed(said: Said, *, is_some: bool) -> list[float]:
    """What was reported, as numbers that are summed over all workers: as many whatever it is. `is_some`: this one had
    rows."""
    values = [said.told[name] for name in sorted(said.told)]
    padding = [0.0] * (2 * (SLOTS - len(values)))
    return [float(is_some), float(is_some) * _mark(said.told), *(v for pair in values for v in pair), *padding]


def unpacked(sums: Sequence[float], names: Iterable[str]) -> dict[str, float] | None:
    """Means by name, over the rows of which a value was reported; None where not all workers reported `names`."""
    some, marks, *pairs = sums
    if marks != some * _mark(names):
        return None
    means = zip(sorted(names), pairs[::2], pairs[1::2], strict=False)
    return {name: value / share for name, value, share in means if share}


def _mark(names: Iterable[str]) -> int:
    """Small enough that sums of it are exact in float32."""
    return zlib.crc32("\0".join(sorted(names)).encode()) % 4_093 + 1


def check_slots(told: Mapping[str, object]) -> None:
    """Raises InvalidInput (TOO_MANY_VALUES)."""
    if len(told) > SLOTS:
        raise InvalidInput(
            f"ctx.report: more than {SLOTS} values.", code="TOO_MANY_VALUES", next_action="Report fewer in a step."
        )
