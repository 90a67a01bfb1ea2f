"""What the watching of the system measures on this machine, every few seconds: disk, memory, parts, gateway, and
whether processes answer. What cannot be measured is left out, and keeps nobody from the rest."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from skyriver.adapters.haproxy.access_log import FILE, line_of
from skyriver.core.contract_requests import RequestLine
from skyriver.core.errors import SkyriverError
from skyriver.core.resources import ProcessStatus
from skyriver.observe.sight import Machine, Problem
from skyriver.wiring.gateway import certificate_of, gateway_of
from skyriver.wiring.home import Home
from skyriver.wiring.parts import parts_of
from skyriver.wiring.watched import PartState, first_bytes, read_parts

ASKED_AT_ONCE: Final = 16
PROBE_BYTES: Final = 4096
LOG_BYTES: Final = 4 << 20
"""Of the access log, that are read in one look; of more, only the end."""
_FAILED: Final = b'"status":5'
_LIMITED: Final = b'"status":429'
"""Lines without these are not read."""
_MODEL: Final = "model/"
_T = TypeVar("_T")
_CGROUP: Final = Path("/sys/fs/cgroup")


class Measuring:
    """One thread calls `measure`; its questions to processes have threads of their own."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._failures = FailureLog(home.logs / FILE)
        self._asking = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="asking")
        self._told: dict[str, tuple[int, Mapping[str, Any]]] = {}

    def measure(self, processes: Mapping[str, ProcessStatus]) -> Machine:
        disk_used, disk_total = _disk(self._home.root)
        write_s, problem = _write(self._home.logs)
        memory_used, memory_total = memory()
        weights, gateway_problem = self._weights()
        return Machine(
            disk_used=disk_used,
            disk_total=disk_total,
            disk_write_s=write_s,
            disk_problem=problem,
            memory_used=memory_used,
            memory_total=memory_total,
            parts=_or(lambda: parts_of(self._home), []),
            ends=_or(lambda: {name: _times(part) for name, part in read_parts(self._home).items()}, {}),
            weights=weights,
            unanswered=self._unanswered(processes),
            failed=self._failures.read(),
            certificate_until=_or(lambda: certificate_of(self._home), 0),
            gateway_problem=gateway_problem,
        )

    def close(self) -> None:
        self._asking.shutdown(wait=False, cancel_futures=True)

    def _weights(self) -> tuple[Mapping[str, int], Problem | None]:
        try:
            return gateway_of(self._home).weights(), None
        except SkyriverError as error:
            return {}, Problem(error.code, error.message, error.next_action)
        except OSError:
            return {}, None

    def _unanswered(self, processes: Mapping[str, ProcessStatus]) -> frozenset[str]:
        """Those that said once that they are ready, do not answer now, and have told nothing new since the last look:
        one that works much answers late."""
        asked = {n: p for n, p in processes.items() if p.alive and p.socket and p.report.get("ready")}
        quiet = {n for n, p in asked.items() if self._told.get(n) == (p.pid, p.report)}
        self._told = {n: (p.pid, p.report) for n, p in asked.items()}
        answers = self._asking.map(lambda p: first_bytes(p.socket, "/livez"), asked.values())
        return frozenset(n for n, well in zip(asked, answers, strict=True) if not well and n in quiet)


class FailureLog:
    """Follows the gateway's record of requests: how many no server answered, by (tenant, what they asked). Only the
    lines that count are read; what is written there while nobody looks counts with the next look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at: tuple[int, int] | None = None
        """(inode, offset)."""

    def read(self) -> Mapping[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        found.update((line["tenant"], line["of"]) for line in self._with(_FAILED) if _unserved(line))
        return found

    def of_models(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """In place of `read`, by tenant/name of the service: requests that no replica counts, and those that a limit
        refused."""
        unreached, limited = Counter[str](), Counter[str]()
        for line in self._with(_FAILED, _LIMITED):
            if line["of"].startswith(_MODEL):
                name = f"{line['tenant']}/{line['of'].removeprefix(_MODEL)}"
                if _unreached(line):
                    unreached[name] += 1
                elif line["status"] == 429 and not line["server"] and line["asks"] != "look":
                    limited[name] += 1
        return unreached, limited

    def _with(self, *marks: bytes) -> Iterator[RequestLine]:
        with contextlib.suppress(OSError):
            for text in self._lines():
                if any(mark in text for mark in marks) and (line := line_of(text)) is not None:
                    yield line

    def _lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            seen = os.fstat(file.fileno())
            if self._at is None:  # what was before this control plane is not now
                self._at = seen.st_ino, seen.st_size
                return
            inode, offset = self._at
            offset = offset if inode == seen.st_ino and offset <= seen.st_size else 0
            offset = max(offset, seen.st_size - LOG_BYTES)
            file.seek(offset)
            data = file.read(LOG_BYTES)
            whole = data.rfind(b"\n") + 1
            self._at = seen.st_ino, offset + whole
        yield from data[:whole].splitlines()


def _unserved(line: RequestLine) -> bool:
    """The gateway's own answer: no server had it, or none answered. What servers say of themselves they count. Whoever
    only asks whether it is ready (`skyriver up` does, again and again) was answered: it is not yet."""
    if line["asks"] == "look":
        return False
    return line["status"] >= 500 and (not line["server"] or line["status"] == 502 or line["end"] != "--")


def _unreached(line: RequestLine) -> bool:
    """Those of them that no server counts either: it never had them, or ended with them. What it had for too long, when
    the gateway gave up, it counts as late."""
    return _unserved(line) and (not line["server"] or line["status"] != 504)


def _disk(root: Path) -> tuple[int, int]:
    """(used, total) bytes, as far as this user may fill it."""
    try:
        told = os.statvfs(root)
    except OSError:
        return 0, 0
    used = (told.f_blocks - told.f_bfree) * told.f_frsize
    return used, used + told.f_bavail * told.f_frsize


def _write(folder: Path) -> tuple[float, str]:
    """(seconds, why not) of a small write that is on the disk when it returns."""
    path, began = folder / ".probe", time.monotonic()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, bytes(PROBE_BYTES), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return 0.0, ""  # the cloud is being taken down
    except OSError as error:
        return 0.0, error.strerror or str(error)
    return time.monotonic() - began, ""


def memory() -> tuple[int, int]:
    """(in use, all there is) bytes: of the control group where it has a limit, else of the machine."""
    with contextlib.suppress(OSError, ValueError):
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit.isdecimal():
            told = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
            used = int((_CGROUP / "memory.current").read_text()) - int(told.get("inactive_file", 0))
            return max(0, used), int(limit)
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        return known["MemTotal"] - known["MemAvailable"], known["MemTotal"]
    return 0, 0


def _times(part: PartState) -> tuple[int, ...]:
    return tuple(int(end["at"]) for end in part.ends)


def _or(measure: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return measure()
    except (OSError, SkyriverError, ValueError, KeyError):
        return otherwise
