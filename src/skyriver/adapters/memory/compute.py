"""The in-memory twin of `Compute`: processes that exist only as rows, and do what somebody plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from skyriver.core.names import digest
from skyriver.core.resources import Limits, ProcessSpec, ProcessStatus

GRACE_SECONDS = 10.0
STEADY_SECONDS = 30.0
MAX_PAUSE_SECONDS = 10.0


@dataclass(slots=True)
class MemoryProcess:
    """One process, for who plays it: it tells, prints, takes memory and ends. `asked` once it should end."""

    compute: MemoryCompute
    spec: ProcessSpec
    since: float
    asked: bool = False
    kill_at: float = 0.0
    held_mb: float = 0.0
    restarts: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    """What the player wants to remember of it."""

    @property
    def live(self) -> Mapping[str, Any]:
        return self.compute.specs[self.spec.name].live

    def tell(self, report: Mapping[str, Any]) -> None:
        name = self.spec.name
        self.compute.running[name] = replace(self.compute.running[name], report=dict(report))

    def print(self, text: str) -> None:
        self.compute.logs.setdefault(self.spec.name, bytearray()).extend(text.encode())

    def take(self, megabytes: float) -> None:
        self.held_mb += megabytes
        if 0 < self.spec.limits.memory_mb < self.held_mb:
            self.end(-9, out_of_memory=True)

    def end(self, exit_code: int, *, out_of_memory: bool = False, timed_out: bool = False) -> None:
        status = self.compute.running[self.spec.name]
        if status.alive:
            self.compute.running[self.spec.name] = replace(
                status,
                alive=False,
                exit_code=exit_code,
                out_of_memory=out_of_memory,
                timed_out=timed_out,
                peak_mb=self.held_mb,
            )


Play = Callable[[MemoryProcess], None]


class MemoryCompute:
    """`play` is called with each process that is alive, in every look at it. Without it `running` is open to the
    caller, who plays the processes (`report`, `kill`), and one that is asked to end does so at once.

    Without a `clock` (seconds) no time passes: there are no pauses between starts, and no limits of time.
    """

    def __init__(self, play: Play | None = None, clock: Callable[[], float] | None = None) -> None:
        self.running: dict[str, ProcessStatus] = {}
        self.specs: dict[str, ProcessSpec] = {}
        self.starts: list[str] = []
        self.logs: dict[str, bytearray] = {}
        self.environments: set[str] | None = None
        """Digests of those that are there; None: whichever is wanted."""
        self._processes: dict[str, MemoryProcess] = {}
        self._play = play
        self._clock = clock

    def observe(self) -> Mapping[str, ProcessStatus]:
        for name, status in list(self.running.items()):
            process = self._processes[name]
            if status.alive and 0 < process.spec.limits.seconds < self._now() - process.since:
                process.end(-15, timed_out=True)
            if self.running[name].alive and self._play is not None:
                self._play(process)
        return dict(self.running)

    def ensure(self, wanted: Mapping[str, ProcessSpec], *, keep: Set[str] = frozenset()) -> None:
        for name in self.running.keys() - keep:
            if name not in wanted or digest(dict(wanted[name].config)) != self.running[name].config_digest:
                self._end(name)
        for name, spec in wanted.items():
            current = self._processes.get(name)
            if current is None or name not in self.running:
                self._start(spec, 0)
            elif not self.running[name].alive and not (spec.once and self.running[name].pid) and self._due(current):
                lived = self._now() - current.since
                self._start(spec, 0 if lived > STEADY_SECONDS else current.restarts + 1)
            self.specs[name] = spec

    def report(self, name: str, **report: Any) -> None:
        """What the process writes as its report."""
        self.running[name] = replace(self.running[name], report={**self.running[name].report, **report})

    def kill(self, name: str, exit_code: int | None = -9) -> None:
        self.running[name] = replace(self.running[name], alive=False, exit_code=exit_code)

    def log(self, name: str, *, offset: int = 0, limit: int = 1 << 16) -> tuple[bytes, int]:
        printed = bytes(self.logs.get(name, b""))
        start = min(len(printed), offset if offset >= 0 else max(0, len(printed) + offset))
        data = printed[start : start + limit]
        return data, start + len(data)

    def stop_all(self) -> list[str]:
        names = sorted(name for name, status in self.running.items() if status.pid)
        for name in names:
            if self.running[name].alive:
                self._processes[name].end(-15)
                self.running[name] = replace(self.running[name], stopped=True)
        for name in list(self.running):
            if not self.specs[name].once:
                self._forget(name)
        return names

    def _start(self, spec: ProcessSpec, restarts: int) -> None:
        config = digest(dict(spec.config))
        process = MemoryProcess(self, spec, self._now(), restarts=restarts)
        self._processes[spec.name] = process
        self.specs[spec.name] = spec
        if spec.environment and self.environments is not None and spec.environment not in self.environments:
            told = {"reason": "START_FAILED", "message": f"There is no environment {spec.environment}."}
            self.running[spec.name] = ProcessStatus(spec.name, False, config_digest=config, report=told)
            return
        self.starts.append(spec.name)
        self.running[spec.name] = ProcessStatus(
            spec.name,
            True,
            pid=len(self.starts),
            config_digest=config,
            socket=spec.name,
            started_at=max(1, int(self._now() * 1e6)),
            held_by=", ".join(f"{limit}: the twin" for limit in _held(spec.limits)),
        )

    def _end(self, name: str) -> None:
        process = self._processes[name]
        if self.running[name].alive and not process.asked:
            process.asked, process.kill_at = True, self._now() + GRACE_SECONDS
            if self._play is not None:
                self._play(process)
            else:
                process.end(-15)
        if self.running[name].alive and self._now() > process.kill_at:
            process.end(-9)
        if not self.running[name].alive:
            self._forget(name)

    def _forget(self, name: str) -> None:
        for known in (self.running, self._processes, self.specs):
            known.pop(name, None)

    def _due(self, process: MemoryProcess) -> bool:
        pause = min(0.1 * 2.0**process.restarts, MAX_PAUSE_SECONDS) if process.restarts else 0.0
        return self._clock is None or self._now() >= process.since + pause

    def _now(self) -> float:
        return self._clock() if self._clock is not None else 0.0


def _held(limits: Limits) -> list[str]:
    return [name for name, limit in (("memory", limits.memory_mb), ("cores", limits.cpus)) if limit]
