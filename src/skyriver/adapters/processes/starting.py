"""How a process is started: what it is given, its environment, its log, and its watcher where it has one."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyriver.adapters.processes import watcher
from skyriver.adapters.processes.groups import ControlGroups, Hold
from skyriver.adapters.processes.identity import Identity, identify
from skyriver.adapters.processes.logs import set_aside
from skyriver.adapters.processes.runs import Run, RunFiles
from skyriver.adapters.processes.strays import MARK, mark
from skyriver.core.environments import apart
from skyriver.core.errors import SkyriverError, Unavailable
from skyriver.core.names import digest
from skyriver.core.resources import Limits, ProcessSpec

RESERVED_BYTES = 1_000_000_000
"""Libraries take 0.2 GB and more of address space that they never touch. Where the watcher alone holds the memory, the
kernel refuses only what is far above the limit: that is the most that can be taken between two of its looks."""
OOM_SCORE = 500
"""When the machine has no memory left, a job goes before what serves, decides and steers: it can be done again."""
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of a home that processes know of."""

    home: Path
    sockets: Path

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def job_logs(self) -> Path:
        return self.logs / "jobs"

    @property
    def run(self) -> Path:
        return self.home / "run"

    def make(self) -> None:
        for directory in (self.run, self.logs, self.job_logs, self.home / "work", self.sockets):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def work(self, name: str) -> Path:
        return self.home / "work" / name

    def log(self, name: str, *, once: bool) -> Path:
        return (self.job_logs if once else self.logs) / f"{name}.log"

    def socket(self, name: str) -> Path:
        return socket_path(self.sockets, name)

    def interpreter(self, environment: str) -> str:
        return str(self.home / "environments" / environment / "bin" / "python") if environment else sys.executable


def socket_path(sockets: Path, name: str) -> Path:
    """Where the process `name` listens: short, for a socket's path has at most 107 bytes."""
    return sockets / f"{digest(name.encode())[:12]}.sock"


class Starter:
    def __init__(
        self, places: Places, files: RunFiles, groups: ControlGroups, environment: Mapping[str, str], fence: int
    ) -> None:
        self._places = places
        self._files = files
        self._groups = groups
        self._environment = environment
        self._fence = fence

    def start(self, spec: ProcessSpec, *, restarts: int, grace_s: float) -> Run:
        """Starts the process and records it. Raises Unavailable (START_FAILED): then nothing of it runs."""
        try:
            return self._start(spec, restarts, grace_s)
        except OSError as error:
            raise _failed(spec, str(error)) from error

    def _start(self, spec: ProcessSpec, restarts: int, grace_s: float) -> Run:
        interpreter = self._places.interpreter(spec.environment)
        if not os.access(interpreter, os.X_OK):
            raise _failed(spec, f"its environment has no interpreter: {interpreter} is not there.")
        self._places.make()  # a directory that somebody removed must not keep everything from starting
        token = secrets.token_hex(16)
        watched = _watched(spec)
        self._write_config(spec, token)
        command = [interpreter, "-m", f"skyriver.wiring.{spec.module}", str(self._files.path(spec.name, "config"))]
        hold = self._groups.hold(f"{spec.name}-{token[:8]}", spec.limits)
        try:
            if watched:
                self._files.write(spec.name, "watch", self._watch(spec, token, command, grace_s, hold))
                command = [sys.executable, "-I", "-S", watcher.__file__, str(self._files.path(spec.name, "watch"))]
            own = apart(self._environment) if spec.environment else self._environment
            environment = {**own, **_thread_limits(spec.limits.cpus)}
            environment[MARK] = mark(self._files.path(spec.name, "run"), token)
            pid = self._spawn(command, environment, self._open_log(spec))
            return self._record(spec, restarts, token, pid, watched, hold)
        except OSError:
            self._groups.remove(hold.groups)
            raise

    def _record(self, spec: ProcessSpec, restarts: int, token: str, pid: int, watched: bool, hold: Hold) -> Run:
        identity = identify(pid) or Identity(pid, 0, "")
        run = Run(
            name=spec.name,
            module=spec.module,
            tenant=spec.tenant,
            once=spec.once,
            pid=pid,
            start_time=identity.start_time,
            boot=identity.boot,
            token=token,
            config_digest=digest(dict(spec.config)),
            live_digest=digest(dict(spec.live)),
            socket=str(self._places.socket(spec.name)),
            started_at=time.time(),
            restarts=restarts,
            watched=watched,
            groups=list(hold.groups),
            held_by=_held_by(spec.limits, hold),
            fence=self._fence,
        )
        try:
            self._files.record(run)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # a child that was not waited for: the number is its own
            os.waitpid(pid, 0)
            raise
        return run

    def _write_config(self, spec: ProcessSpec, token: str) -> None:
        work = self._places.work(spec.name)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in ("status", "ending"):
            self._files.path(spec.name, part).unlink(missing_ok=True)
        process = {
            "name": spec.name,
            "tenant": spec.tenant,
            "home": str(self._places.home),
            "socket": str(self._places.socket(spec.name)),
            "status_file": str(self._files.path(spec.name, "status")),
            "live_file": str(self._files.path(spec.name, "live")),
            "run_file": str(self._files.path(spec.name, "run")),
            "work_dir": str(work),
            "token": token,
            "watched": _watched(spec),
        }
        config = _with_paths(spec.config, self._places.home)
        self._files.write(spec.name, "config", {"process": process, "config": config})
        self._files.write(spec.name, "live", dict(spec.live))

    def _watch(self, spec: ProcessSpec, token: str, command: list[str], grace_s: float, hold: Hold) -> dict[str, Any]:
        memory = spec.limits.memory_mb * 1_000_000
        return {
            "home": str(self._places.home),
            "run_file": str(self._files.path(spec.name, "run")),
            "ending_file": str(self._files.path(spec.name, "ending")),
            "token": token,
            "command": command,
            "grace_s": grace_s,
            "seconds": spec.limits.seconds,
            "memory_bytes": memory,
            "data_bytes": 2 * memory + RESERVED_BYTES if memory and not hold.oom_counter else 0,
            "groups": hold.groups,
            "oom_score": OOM_SCORE if spec.once else 0,
            "oom_counter": hold.oom_counter,
        }

    def _open_log(self, spec: ProcessSpec) -> int:
        path = self._places.log(spec.name, once=spec.once)
        size = set_aside(path)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if spec.once and size:
            with contextlib.suppress(OSError):  # a full disk: the process itself may still do its work
                os.write(log, f"--- started again {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n".encode())
        return log

    def _spawn(self, command: list[str], environment: Mapping[str, str], log: int) -> int:
        """The pid of a new process in a session of its own. It outlives this one, so no handle of it is kept."""
        try:
            return os.posix_spawn(
                command[0],
                command,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGPIPE),
            )
        finally:
            os.close(log)


def _failed(spec: ProcessSpec, why: str) -> SkyriverError:
    return Unavailable(
        f"{spec.name} cannot be started: {why}",
        code="START_FAILED",
        next_action="Mend that; it is tried again by itself.",
    )


def _watched(spec: ProcessSpec) -> bool:
    """A process that ends, or is held to something, needs somebody who is always there."""
    return spec.once or spec.limits != Limits()


def _held_by(limits: Limits, hold: Hold) -> str:
    """In words for people; "" without limits of these kinds."""
    ways = {"memory": "control group" if hold.oom_counter else "watcher"} if limits.memory_mb else {}
    ways |= {"cores": "control group" if hold.cores else "threads"} if limits.cpus else {}
    return ", ".join(f"{what}: {way}" for what, way in ways.items())


def _thread_limits(cpus: float) -> dict[str, str]:
    """Libraries that take a thread for each core of the machine only stand in each other's way on fewer."""
    if not cpus:
        return {}
    threads = str(max(1, math.ceil(cpus)))
    return {**{f"{library}_NUM_THREADS": threads for library in _THREADS}, "POLARS_MAX_THREADS": threads}


def _with_paths(value: Any, home: Path) -> Any:
    """`value` with every text that starts with `{home}/` made a path of this machine."""
    match value:
        case str() if value.startswith("{home}/"):
            return str(home / value.removeprefix("{home}/"))
        case Mapping():
            return {k: _with_paths(v, home) for k, v in value.items()}
        case list() | tuple():
            return [_with_paths(v, home) for v in value]
        case _:
            return value
