"""Processes of a home that no run file names: a start that was cut off, or what outlived its watcher."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Set
from pathlib import Path

MARK = "SKYRIVER_PROCESS"
"""In the environment of every process and of all that it starts: run file and token of whose it is."""


def mark(run_file: Path, token: str) -> str:
    return f"{run_file}#{token}"


def end_strays(run_directory: Path, tokens: Callable[[], Set[str]]) -> int:
    """Kills the processes of this home whose token is not among `tokens`; how many there were. Does not wait.
    `tokens` is asked last, so that it knows of what another control plane started meanwhile."""
    marked = list(_marked(run_directory))
    known = tokens() if marked else frozenset()
    ended = 0
    for pid, token in marked:
        if token in known:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if _token(pid, run_directory) == token:  # still the one that was looked at
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    ended += 1
            finally:
                os.close(descriptor)
    return ended


def _marked(run_directory: Path) -> Iterator[tuple[int, str]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            token = _token(int(entry.name), run_directory)
            if token:
                yield int(entry.name), token


def _token(pid: int, run_directory: Path) -> str:
    """ "" for what is not of this home, and for what another user runs."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    start = f"{MARK}={run_directory}/".encode()
    found = next((word for word in words if word.startswith(start)), b"")
    return found.rpartition(b"#")[2].decode(errors="replace")
