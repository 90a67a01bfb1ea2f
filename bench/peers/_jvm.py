"""The JVM that a peer's Python library has started, and the CPU that it has used."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path


def jvm() -> int:
    """Its pid: a child of this process."""
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            words = (place / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) == os.getpid() and b"java" in (place / "cmdline").read_bytes():
                return int(place.name)
    raise SystemExit("no JVM was found")


def cpu(pid: int) -> float:
    """Seconds, all of its threads."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], None], version: str, events: int) -> None:
    """Does the work and prints what it took, as one JSON document."""
    process = jvm()
    before, began = cpu(process), time.perf_counter()
    work()
    wall, used = time.perf_counter() - began, cpu(process) - before
    print(json.dumps({"version": version, "events": events, "wall": wall, "cpu": used}))
