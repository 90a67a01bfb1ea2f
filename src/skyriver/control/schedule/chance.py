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
    blocked, before = np.ones(len(of)), np.zeros(len(of))
    n = 0
    while len(of):
        n += 1
        a = load[of]
        blocked = _blocked(n, a, blocked)
        room = n - a
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(room > 0, np.log(_waits(n, a, room, blocked)) - room * pace[of], 0.0)
        done = (share <= wanted[of]) | (n >= most[of])
        if done.any():
            at, less, more = of[done], before[done], share[done]
            part = (less - wanted[at]) / np.maximum(less - more, 1e-12)
            found[at] = np.minimum(most[at], n - 1 + part)
            of, blocked, share = of[~done], blocked[~done], share[~done]
        before = share
    least: Floats = np.maximum(found, load)
    return least


def _blocked(n: int, load: Floats, blocked: Floats) -> Floats:
    """Erlang's B of n servers, from that of one fewer."""
    return load * blocked / (n + load * blocked)


def _waits(n: int | Floats, load: Floats, room: Floats, blocked: Floats) -> Floats:
    """Erlang's C, from his B; `room`: n less the load."""
    return n * blocked / (room + load * blocked)
