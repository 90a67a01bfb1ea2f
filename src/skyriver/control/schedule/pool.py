"""What of a machine each elastic service gets, when it does not do for all. Pure.

What a service declares as its least is its own, whatever there is: the pool is the rest. Where all wishes fit they are
granted. Else replicas are granted one by one: of a higher priority before those of a lower one, within a priority by
what a replica is worth (the cost of late requests that it spares) for a unit of the scarcer resource. One that does not
fit ends the grants of its service, and those behind it go on: nothing stays idle that somebody can use. What a service
has already counts as STAY more, so that two that are worth the same do not take turns.

The price of the pool is what the best replica that was not granted is worth, for a unit of the scarcer resource: it is
what a replica that was granted costs the others.

Reference: the continuous knapsack, Dantzig, "Discrete-variable extremum problems" (1957).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from skyriver.control.schedule.tables import Floats

STAY: Final = 0.1
"""Of its worth: so much more another replica must be worth to take the place of one that is there."""
_ROUND: Final = 1e-9

Scarce = Literal["", "cores", "memory"]
Curves = Callable[[Mapping[str, tuple[int, int]]], Mapping[str, Floats]]
"""By (n, m) of services: what their replicas n + 1 to m spare, each."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Of one service."""

    wish: int
    least: int
    """Of its replicas, that are not the pool's to take; also of one on which nobody can decide now."""
    cores: float
    """Of a replica."""
    memory_mb: float
    priority: int = 0
    has: int = 0
    """That it was granted last."""


@dataclass(frozen=True, slots=True)
class Grants:
    replicas: Mapping[str, int]
    scarce: Scarce = ""
    """What there is too little of; "" where all wishes fit."""
    price: float = 0.0
    """An hour of a unit (a core, a MB) of what is scarce."""


def fits(asks: Mapping[str, Ask], cores: float, memory_mb: float) -> bool:
    """Whether all wishes can be granted, or nobody wishes for more than is its own."""
    more = [ask for ask in asks.values() if ask.wish > ask.least]
    wished = sum(ask.cores * max(ask.wish, ask.least) for ask in asks.values())
    memory = sum(ask.memory_mb * max(ask.wish, ask.least) for ask in asks.values())
    return not more or (wished <= cores + _ROUND and memory <= memory_mb + _ROUND)


def share(asks: Mapping[str, Ask], cores: float, memory_mb: float, curves: Curves) -> Grants:
    """Replicas of each. `cores` and `memory_mb` are what there is for these services together; what is over their least
    fits, or is none. `curves` is only called where not all wishes fit."""
    if fits(asks, cores, memory_mb):
        return Grants({name: max(ask.wish, ask.least) for name, ask in asks.items()})
    names = sorted(name for name, ask in asks.items() if ask.wish > ask.least)
    of = [asks[name] for name in names]
    sizes = np.array([(ask.cores, ask.memory_mb) for ask in of], np.float64)
    own = (sum(ask.cores * ask.least for ask in asks.values()), sum(ask.memory_mb * ask.least for ask in asks.values()))
    free = np.maximum((cores - own[0], memory_mb - own[1]), 0.0)
    more = np.array([ask.wish - ask.least for ask in of])
    with np.errstate(divide="ignore"):
        scarce = int(((more @ sizes) / free).argmax())
    possible = np.minimum(more, (free[scarce] + _ROUND) // sizes[:, scarce] + 1).astype(int)
    worth = curves({name: (ask.least, ask.wish) for name, ask in zip(names, of, strict=True)})
    curve = [
        of_each[:most] / size
        for of_each, most, size in zip(
            concave([worth[name] for name in names]), possible.tolist(), sizes[:, scarce].tolist(), strict=True
        )
    ]
    granted = _greedy(of, curve, sizes, free)
    refused = [c[n] for c, n in zip(curve, granted, strict=True) if n < len(c)]
    replicas = {name: ask.least for name, ask in asks.items()}
    replicas |= {name: asks[name].least + n for name, n in zip(names, granted, strict=True)}
    return Grants(replicas, ("cores", "memory")[scarce], float(max(refused, default=0.0)))


def _greedy(asks: Sequence[Ask], curve: Sequence[Floats], sizes: Floats, free: Floats) -> list[int]:
    """Replicas over the least of each; their names are in order, so that ties are decided."""
    lengths = np.array([len(each) for each in curve])
    service = np.repeat(np.arange(len(asks)), lengths)
    number = np.arange(len(service)) - (lengths.cumsum() - lengths)[service]
    has = np.array([ask.has - ask.least for ask in asks])
    density = np.concatenate(curve) * np.where(number < has[service], 1 + STAY, 1.0)
    priority = np.array([ask.priority for ask in asks])
    # at the same worth: what is there, then by turns
    order = np.lexsort((service, number, number >= has[service], -density, -priority[service]))
    granted, closed = [0] * len(asks), [False] * len(asks)
    cores, memory = (float(each) + _ROUND for each in free)
    size = sizes.tolist()
    least_cores, least_memory = sizes.min(0).tolist()
    for at in service[order].tolist():
        if cores < least_cores or memory < least_memory:
            break
        if closed[at]:
            continue
        wants, holds = size[at]
        if wants > cores or holds > memory:
            closed[at] = True
        else:
            granted[at] += 1
            cores -= wants
            memory -= holds
    return granted


def concave(curves: Sequence[Floats]) -> list[Floats]:
    """Each one so that it never rises: a replica that is worth less than those after it is worth the mean of them, for
    nobody gets the second without the first. That is the slope of the concave hull of what they are worth together."""
    lengths = np.array([len(curve) for curve in curves])
    number = np.arange(int(lengths.max(initial=0)) + 1)
    worth = np.full((len(curves), len(number)), 0.0)
    worth[:, 1:][number[1:] <= lengths[:, None]] = np.concatenate(curves)
    total = np.where(number <= lengths[:, None], worth.cumsum(1), -np.inf)
    slopes = np.zeros_like(worth)
    rows, at = np.flatnonzero(lengths), np.zeros(len(curves), np.int64)
    while len(rows):
        ahead = number - at[rows][:, None]
        rises = (total[rows] - total[rows, at[rows]][:, None]) / np.maximum(ahead, 1)
        rises[ahead <= 0] = -np.inf
        to = rises.argmax(1)
        within = (ahead > 0) & (number <= to[:, None])
        slopes[rows] = np.where(within, rises[np.arange(len(rows)), to][:, None], slopes[rows])
        at[rows] = to
        rows = rows[to < lengths[rows]]
    return [row[1 : length + 1] for row, length in zip(slopes, lengths.tolist(), strict=True)]
