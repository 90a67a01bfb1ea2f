"""A TCP port for a server of a test."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """Nobody listens there now. Below the ports that the system gives to outgoing connections: one of those would be
    taken by somebody's connection before the server is up."""
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("a hundred ports are in use")
