"""Requests that meet by chance wait for each other, however many replicas the work itself needs: M/M/n (Erlang,
"Solution of some Problems in the Theory of Probabilities of Significance in Automatic Telephone Exchanges", 1917). Of
latencies that are shorter than a tick; in a longer one whatever meets within it evens out, as the replay by ticks sees.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from skyriver.control.schedule.history import TICK_S

Floats = NDArray[np.float64]
MOST_TIMES: Final = 5.0
"""So many times the work, or replicas where the work is less than one: room for chance is not worth more."""
LARGE: Final = 32
"""From this load on all are taken to wait (C = 1), which then makes little difference."""


def by_chance(load: Floats, servers: Floats, latency_s: float | Floats, service_s: float | Floats) -> Floats:
    """The share that waits for longer than what of a latency is left after the work itself, in M/M/n: Erlang's C times
    exp(-(n - load) t / service); for a latency that is shorter than a tick."""
    n = np.maximum(servers, 1.0)
    blocked = np.ones_like(load)
    for k in range(1, int(n.max(initial=1.0)) + 1):
        blocked = np.where(k <= n, _blocked(k, load, blocked), blocked)
    room = np.maximum(n - load, 1e-9)
    waits = np.minimum(1.0, _waits(n, load, room, blocked))
    left = np.maximum(np.asarray(latency_s) - service_s, 0.0) / np.maximum(service_s, 1e-9)
    short = (np.asarray(latency_s) > 0) & (np.asarray(latency_s) < TICK_S) & (np.asarray(service_s) > 0)
    share: Floats = np.where(short & (load > 0) & (load < n), waits * np.exp(-room * left), 0.0)
    return share


def servers(load: Floats, left_s: Floats, service_s: Floats, allowed: Floats) -> Floats:
    """How many servers a load needs, so that no more than the share `allowed` of its requests waits longer than
    `left_s`: C(n, load) exp(-(n - load) left / service) <= allowed, between two whole numbers by the logarithm of that
    share. Not less than the load, and no more than MOST_TIMES of it."""
    pace = left_s / np.maximum(service_s, 1e-9)
    wanted = np.log(np.maximum(allowed, 1e-9))
    all_wait = load - wanted / np.maximum(pace, 1e-9)
    most = np.minimum(all_wait, MOST_TIMES * np.maximum(load, 1.0))
    found = most.copy()
    of = np.flatnonzero((load < LARGE) & (load > 0))  # those that are not found yet
    if not len(of):
        return np.maximum(found, load)
    a, per, goal, most = load[of], pace[of], wanted[of], most[of]
    with np.errstate(divide="ignore", over="ignore"):  # of next to no load
        n = np.floor(a)  # with so many all wait
        blocked, before = _blocked_by(n, a), np.zeros(len(of))
        while len(of):
            n += 1
            blocked = _blocked(n, a, blocked)
            room = n - a
            share = np.log(_waits(n, a, room, blocked)) - room * per
            done = (share <= goal) | (n >= most)
            if done.any():
                less, more = before[done], share[done]
                part = (less - goal[done]) / np.maximum(less - more, 1e-12)
                found[of[done]] = np.minimum(most[done], n[done] - 1 + part)
                rest = ~done
                of, n = of[rest], n[rest]
                a, per, goal, most = a[rest], per[rest], goal[rest], most[rest]
                blocked, share = blocked[rest], share[rest]
            before = share
    least: Floats = np.maximum(found, load)
    return least


def _blocked_by(n: Floats, load: Floats) -> Floats:
    """Erlang's B of n servers; 1 of none."""
    inverse = np.ones((int(n.max()) + 1, len(n)))
    for k in range(1, len(inverse)):  # 1 / B(k) = 1 + k / load / B(k - 1)
        np.divide(inverse[k - 1], load, out=inverse[k])
        inverse[k] *= k
        inverse[k] += 1
    blocked: Floats = 1 / inverse[n.astype(np.int64), np.arange(len(n))]
    return blocked


def _blocked(n: int | Floats, load: Floats, blocked: Floats) -> Floats:
    """Erlang's B of n servers, from that of one fewer."""
    return load * blocked / (n + load * blocked)


def _waits(n: int | Floats, load: Floats, room: Floats, blocked: Floats) -> Floats:
    """Erlang's C, from his B; `room`: n less the load."""
    return n * blocked / (room + load * blocked)
