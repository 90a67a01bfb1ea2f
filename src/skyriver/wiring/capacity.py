"""What this machine gives to jobs."""

from __future__ import annotations

import os
from pathlib import Path

from skyriver.core.jobs import Capacity

MEMORY_SHARE = 0.8
"""Of the memory, that jobs may ask for together: the rest is for replicas, workers and the system."""
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
    return Capacity(float(len(os.sched_getaffinity(0))), int(memory * MEMORY_SHARE / 1e6))
