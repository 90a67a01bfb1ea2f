"""What a training comes to, in one sentence. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from skyriver.core.spec_search import LOWER_IS_BETTER

GAP: Final = 0.1
"""So much better on its training rows a model knows them by heart: one of trees always is somewhat."""


@dataclass(frozen=True, slots=True)
class Point:
    """Of a learning curve: fitted on `rows` rows, the metric of the test rows. `by`: what all rows bring over these,
    with the interval of it; None where it is not known."""

    rows: int
    value: float
    by: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Rival:
    """A baseline: its metric, and by how much the model is above it (a loss: below), with the interval of it."""

    name: str
    value: float
    by: tuple[float, float, float] | None


def better_by(metric: str, difference: tuple[float, float, float]) -> tuple[float, float, float]:
    """A difference and the ends of its interval, so that more is better."""
    if metric not in LOWER_IS_BETTER:
        return difference
    by, low, high = difference
    return -by, -high, -low


def verdict(metric: str, value: float, trained: float | None, rivals: Sequence[Rival], curve: Sequence[Point]) -> str:
    """`value` of the test rows and `trained` of the training rows; None where that is not measured."""
    word, said = metric.replace("_", " "), []
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    strongest = max(rivals, key=lambda rival: sign * rival.value, default=None)
    if strongest is not None:
        against = f"{word} {value:.4g} against {strongest.value:.4g}"
        by = strongest.by
        if by is not None and by[1] <= 0 <= by[2]:
            said.append(f"no better than {strongest.name} within the noise of the test rows: {against}")
        elif sign * (value - strongest.value) < 0:
            said.append(f"loses to {strongest.name}: {against}")
        elif by is None:
            said.append(f"not worse than {strongest.name}, on too few rows to be sure: {against}")
    gap = None if trained is None else sign * (trained - value)
    if gap is not None and gap > GAP:
        said.append(f"overfits: {word} {trained:.4g} on training rows, {value:.4g} on test rows")
    longest = curve[-2] if len(curve) > 1 else None
    if longest is not None and longest.by is not None and longest.by[1] > 0:
        rows = f"{longest.rows:,} of {curve[-1].rows:,} rows"
        said.append(f"more data would help: {longest.by[0]:+.4g} since {rows}")
    if said:
        return "; ".join(said)
    held = [f"better than {strongest.name}: {word} {value:.4g} against {strongest.value:.4g}"] if strongest else []
    held += [f"{gap:+.4g} apart on training rows"] if gap is not None else []
    return f"holds: {', '.join(held)}" if held else f"{word} {value:.4g}, with nothing to compare it with"
