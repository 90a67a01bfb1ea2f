"""A TCP port for a server of a test."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections import deque

LOWEST, HIGHEST = 12_000, 22_000
"""Below what the system gives to outgoing connections (RFC 6056; Linux: from 32,768), also 10,000 higher: one of those
would be taken by somebody's connection before the server is up."""

_lately: deque[int] = deque(maxlen=50)


def free_port(beside: int = 0, also: tuple[int, ...] = ()) -> int:
    """Nobody listens there now, nor at the `beside` ports after it, nor at as many above it as `also` says.

    Between this answer and the server's start another test may ask: so each process of a run has ports of its own, and
    gives none twice in a row."""
    ours = own_ports()
    for port in random.SystemRandom().sample(ours, len(ours)):
        wanted = [*range(port, port + beside + 1), *(port + more for more in also)]
        if port + beside in ours and not set(wanted) & set(_lately) and _are_free(wanted):
            _lately.extend(wanted)
            return port
    raise OSError("all ports of this process's part are in use")


def own_ports() -> range:
    """The part of them that is this process's, where a run has several processes (pytest-xdist)."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (HIGHEST - LOWEST) // count
    return range(LOWEST + number % count * size, LOWEST + (number % count + 1) * size)


def _are_free(ports: list[int]) -> bool:
    with contextlib.ExitStack() as probes:
        try:
            for port in ports:
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
