"""Which trials are not worth going on with: asynchronous successive halving, in the form that stops.

A trial is compared when it has had FIRST looks, ETA times as many, and so on; each time it goes on if it is among the
best 1/ETA of all that came so far. Nobody waits for others: with fewer than ETA of them the best one goes on.

L. Li, K. Jamieson, A. Rostamizadeh, E. Gonina, J. Ben-tzur, M. Hardt, B. Recht, A. Talwalkar, A System for Massively
Parallel Hyperparameter Tuning, MLSys 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

ETA: Final = 3
FIRST: Final = 2


def is_rung(looks: int) -> bool:
    rung = FIRST
    while rung < looks:
        rung *= ETA
    return rung == looks


def goes_on(looks: int, value: float, others: Iterable[Sequence[tuple[int, float]]]) -> bool:
    """Whether a trial goes on that had `value` (higher is better) at its look number `looks`; `others`: the looks
    (step, value) of the trials before it."""
    if not is_rung(looks):
        return True
    came = [value, *(seen[looks - 1][1] for seen in others if len(seen) >= looks)]
    return value >= sorted(came, reverse=True)[max(1, len(came) // ETA) - 1]
