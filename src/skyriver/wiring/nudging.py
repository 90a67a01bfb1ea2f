"""A nudge to the control plane: somebody waits, so the next pass is due now. It says no more than that: what is waited
for stands in a report, which the next pass finds in any case, so a nudge may be lost, doubled, or about nothing."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path


def listen(path: Path) -> socket.socket | None:
    """Of mode 0600; what was there is taken over, for the control plane before is gone, or about to go. None where it
    cannot be: passes come by themselves."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
    except OSError:
        listening.close()
        return None
    finally:
        os.umask(before)
    return listening


def nudge(path: Path) -> None:
    """Never waits, never fails."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.sendto(b"!", str(path))


def take(listening: socket.socket, then: Callable[[], None]) -> None:
    """All nudges that came, for one `then`."""
    with contextlib.suppress(OSError):
        while listening.recv(1):
            pass
    then()
