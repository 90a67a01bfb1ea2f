"""wrk (Debian's package `wrk`) against one system, and what that cost the system's processes and wrk itself.

wrk is one thread of C that keeps a fixed number of connections busy: a closed loop. How much of a core it took stands
beside each figure; near 1 it is wrk that is measured.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from _processes import Failed, clean_environment, run

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

_SCRIPT = """\
wrk.method = "POST"
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["content-type"] = "application/json"
local token = os.getenv("BENCH_TOKEN")
if token ~= "" then wrk.headers["authorization"] = "Bearer " .. token end
function done(summary, latency, requests)
  local e = summary.errors
  local broken = e.connect + e.read + e.write + e.timeout
  print(string.format('{"requests":%d,"us":%d,"p50":%f,"p99":%f,"wrong":%d,"broken":%d}', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), e.status, broken))
end
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run of wrk. `wrong`: answers that were no 2xx or 3xx; `broken`: connections."""

    per_second: float
    p50_ms: float
    p99_ms: float
    wrong: int
    broken: int
    cpu_us: float
    """Of the system's processes, a request."""
    wrk_share: float
    """Of a core, that wrk took."""


def find_wrk() -> str:
    """Raises Failed."""
    found = shutil.which("wrk")
    if found is None:
        raise Failed("there is no `wrk`: install the package of that name")
    return found


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system, by process; one that is gone is left out."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(words[11]) + int(words[12])) / _TICKS
    return found


def spent(before: dict[int, float], after: dict[int, float]) -> float:
    """CPU seconds between two looks; a process that came meanwhile counts in full."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def resident_megabytes(pids: Iterable[int]) -> float:
    """Summed up; pages that processes share count in each."""
    pages = 0
    for pid in pids:
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * _PAGE / 1e6, 1)


def descendants(root: int) -> list[int]:
    """`root` and all processes below it."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(place.name))
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        left += children.get(pid, [])
    return found


@contextmanager
def realtime(pids: Iterable[int]) -> Iterator[None]:
    """All threads of `pids`, and what is started in it, go before all other work of the machine (for root), so that
    neighbours do not stand in the figures. The kernel leaves the others a twentieth of the time."""
    every = list(pids)
    _schedule([os.getpid(), *every], os.SCHED_RR, 1)
    try:
        yield
    finally:
        _schedule([os.getpid(), *every], os.SCHED_OTHER, 0)


def _schedule(pids: Iterable[int], policy: int, priority: int) -> None:
    for pid in pids:
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


def load(folder: Path, url: str, body: bytes, token: str, connections: int, seconds: float, pids: list[int]) -> Figures:
    """One run. `pids` are the system's. Raises Failed."""
    script, file = folder / "wrk.lua", folder / "wrk.body"
    script.write_text(_SCRIPT)
    file.write_bytes(body)
    command = [find_wrk(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
    environment = clean_environment(BENCH_BODY=str(file), BENCH_TOKEN=token)
    before, own = cpu_seconds(pids), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(command, timeout=seconds + 60, env=environment).check()
    used, after = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_seconds(pids)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if not found["requests"]:
        raise Failed(f"no request of {url} was answered: {done.stdout[-300:]}")
    wall = found["us"] / 1e6
    return Figures(
        per_second=found["requests"] / wall,
        p50_ms=found["p50"] / 1000,
        p99_ms=found["p99"] / 1000,
        wrong=found["wrong"],
        broken=found["broken"],
        cpu_us=spent(before, after) / found["requests"] * 1e6,
        wrk_share=(used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime) / wall,
    )
