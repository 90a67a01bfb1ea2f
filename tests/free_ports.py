"""A TCP port for a server of a test."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port(beside: int = 0) -> int:
    """Nobody listens there now, nor at the `beside` ports after it. Below the ports that the system gives to outgoing
    connections: one of those would be taken by somebody's connection before the server is up."""
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for one in range(port, port + beside + 1):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", one))
            return port
    raise OSError("a hundred ports are in use")
