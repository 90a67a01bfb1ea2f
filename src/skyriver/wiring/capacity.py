"""What this machine gives to jobs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from skyriver.core.jobs import Capacity

MEMORY_SHARE = 0.8
"""Of the memory, that jobs may ask for together: the rest is for replicas, workers and the system."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Which GPUs a process sees: places, or names."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_capacity() -> Capacity:
    """The cores that this process may use, and its share of the memory: the machine's, or its control group's."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _LIMITS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            memory = min(memory, int(text))
    return Capacity(float(len(os.sched_getaffinity(0))), int(memory * MEMORY_SHARE / 1e6), machine_gpus())


def machine_gpus(devices: Path = Path("/dev"), seen: str | None = None) -> int:
    """That this process may use: NVIDIA's, by their files, of which `seen` (CUDA_VISIBLE_DEVICES) names some. Whether a
    program can use them is known once it tries."""
    there = sum(path.name.removeprefix("nvidia").isdecimal() for path in devices.glob("nvidia[0-9]*"))
    seen = os.environ.get(VISIBLE) if seen is None else seen
    return there if seen is None else min(there, len(_named(seen)))


def visible(places: Sequence[int], seen: str | None) -> str:
    """Those in these places of what is seen, as a process is told of them; empty: it sees none. Places that are not
    there any more are left out: the process finds that it has too few."""
    named = None if seen is None else _named(seen)
    return ",".join(
        str(place) if named is None else named[place] for place in places if named is None or place < len(named)
    )


def _named(seen: str) -> list[str]:
    """CUDA stops at the first one that is none."""
    return list(takewhile(lambda name: name and name != "-1", (name.strip() for name in seen.split(","))))
