"""Processes as children of this machine, recorded in run files so that anyone can find and end them.

A run file HOME/run/NAME.json names pid, start time, boot and token; it is written right after the start and
removed when the process is ended and no longer wanted. A start that is cut off between fork and run file leaves a
process that nobody knows: it finds no run file with its token and ends itself (skyriver.wiring.process).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skyriver.adapters.processes.identity import Identity, cpu_seconds, identify, resident_mb
from skyriver.core.names import digest
from skyriver.core.resources import ProcessSpec, ProcessStatus

GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""
STEADY_SECONDS = 30.0
"""A process that lived that long is started again at once; else pauses double up to MAX_PAUSE_SECONDS."""
MAX_PAUSE_SECONDS = 10.0
LOG_LIMIT = 16 * 1024 * 1024
"""A log that is larger at a start is set aside as NAME.log.1 first."""
KEPT_JOB_LOGS = 200
"""Logs of jobs that were forgotten: a stream alone may start 1,440 jobs a day. Those of other processes stay."""


@dataclass(slots=True)
class _Run:
    """One run file."""

    name: str
    module: str
    tenant: str
    once: bool
    pid: int
    start_time: int
    boot: str
    token: str
    config_digest: str
    live_digest: str
    socket: str
    started_at: float
    restarts: int = 0

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_time, self.boot)


class ChildProcesses:
    """The `Compute` port on one machine."""

    def __init__(self, home: Path, sockets: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._run_dir = home / "run"
        self._logs = home / "logs"
        self._job_logs = self._logs / "jobs"
        self._work = home / "work"
        self._sockets = sockets
        for directory in (self._run_dir, self._logs, self._job_logs, self._work, sockets):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environment = dict(environment or {})
        self._children: set[int] = set()
        self._exit_codes: dict[str, int] = {}
        self._killing: dict[str, float] = {}
        self._runs = {run.name: run for run in self._read_runs()}

    def observe(self) -> Mapping[str, ProcessStatus]:
        alive = {name: run.identity.alive() for name, run in self._runs.items()}
        self._reap()  # after the look: what was seen dead has its exit code now
        return {name: self._status(run, alive=alive[name]) for name, run in sorted(self._runs.items())}

    def ensure(self, wanted: Mapping[str, ProcessSpec], *, keep: Set[str] = frozenset()) -> None:
        self._reap()
        for name, run in list(self._runs.items()):
            spec = wanted.get(name)
            if name in keep:
                continue
            if spec is None or digest(dict(spec.config)) != run.config_digest:
                self._end(run)
        for name, spec in wanted.items():
            current = self._runs.get(name)
            if current is None:
                self._start(spec, restarts=0)
            elif name in self._killing:
                continue
            elif current.identity.alive():
                self._hand_over(current, spec)
            elif not spec.once and time.time() >= current.started_at + _pause(current):
                lived = time.time() - current.started_at
                self._start(spec, restarts=0 if lived > STEADY_SECONDS else current.restarts + 1)

    def log(self, name: str, *, offset: int = 0, limit: int = 1 << 16) -> tuple[bytes, int]:
        try:
            job = self._log_path(name, once=True)
            with (job if job.is_file() else self._log_path(name, once=False)).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = min(size, offset if offset >= 0 else max(0, size + offset))
                file.seek(start)
                data = file.read(limit)
        except FileNotFoundError:
            return b"", 0
        return data, start + len(data)

    def stop_all(self) -> list[str]:
        names = sorted(self._runs)
        for run in list(self._runs.values()):
            self._end(run, keep_outcome=True)
        deadline = time.monotonic() + GRACE_SECONDS + 5
        while self._runs and time.monotonic() < deadline:
            time.sleep(0.02)
            self._reap()
            for run in list(self._runs.values()):
                self._end(run, keep_outcome=True)
        return names

    # The rest is one process at a time.

    def _start(self, spec: ProcessSpec, *, restarts: int) -> None:
        token = secrets.token_hex(16)
        socket = socket_path(self._sockets, spec.name)
        work = self._work / spec.name
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = {
            "process": {
                "name": spec.name,
                "tenant": spec.tenant,
                "home": str(self._home),
                "socket": str(socket),
                "status_file": str(self._path(spec.name, "status")),
                "live_file": str(self._path(spec.name, "live")),
                "run_file": str(self._path(spec.name, "run")),
                "work_dir": str(work),
                "token": token,
            },
            "config": _with_paths(spec.config, self._home),
        }
        self._path(spec.name, "status").unlink(missing_ok=True)
        _write(self._path(spec.name, "config"), config)
        _write(self._path(spec.name, "live"), dict(spec.live))
        pid = self._spawn(spec)
        identity = identify(pid) or Identity(pid, 0, "")
        self._children.add(pid)
        self._exit_codes.pop(spec.name, None)
        run = _Run(
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
            socket=str(socket),
            started_at=time.time(),
            restarts=restarts,
        )
        self._runs[spec.name] = run
        _write(self._path(spec.name, "run"), asdict(run))

    def _spawn(self, spec: ProcessSpec) -> int:
        """The pid of a new process in a session of its own. It outlives this one, so no handle of it is kept."""
        path = self._log_path(spec.name, once=spec.once)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LOG_LIMIT:
                path.replace(path.with_suffix(".log.1"))
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-m", f"skyriver.wiring.{spec.module}", str(self._path(spec.name, "config"))],
                self._environment,
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

    def _hand_over(self, run: _Run, spec: ProcessSpec) -> None:
        live = digest(dict(spec.live))
        if live != run.live_digest:
            _write(self._path(run.name, "live"), dict(spec.live))
            run.live_digest = live
            _write(self._path(run.name, "run"), asdict(run))

    def _end(self, run: _Run, *, keep_outcome: bool = False) -> None:
        """One step towards its end: ask, past the grace kill, once it is gone forget. With `keep_outcome` the report of
        a job stays for a control plane that has not seen it yet."""
        if run.identity.alive():
            deadline = self._killing.get(run.name)
            if deadline is None:
                self._killing[run.name] = time.monotonic() + GRACE_SECONDS
                _signal(run.identity, signal.SIGTERM)
            elif time.monotonic() > deadline:
                _signal(run.identity, signal.SIGKILL)
            return
        self._killing.pop(run.name, None)
        self._runs.pop(run.name, None)
        if identify(run.pid) is None:  # else the number is somebody else's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(run.pid, signal.SIGKILL)  # what a job started and left behind shares its group
        Path(run.socket).unlink(missing_ok=True)
        if keep_outcome and run.once:
            return
        shutil.rmtree(self._work / run.name, ignore_errors=True)
        for part in ("run", "config", "live", "status"):
            self._path(run.name, part).unlink(missing_ok=True)
        if run.once:
            self._remove_old_logs()

    def _remove_old_logs(self) -> None:
        ended = [path for path in self._job_logs.glob("*.log") if path.stem not in self._runs]
        ended.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in ended[:-KEPT_JOB_LOGS]:
            path.with_suffix(".log.1").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _status(self, run: _Run, *, alive: bool) -> ProcessStatus:
        report: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            report = _as_json(self._path(run.name, "status").read_bytes())
        return ProcessStatus(
            name=run.name,
            alive=alive,
            pid=run.pid,
            exit_code=self._exit_codes.get(run.name),
            config_digest=run.config_digest,
            socket=run.socket,
            started_at=int(run.started_at * 1e6),
            rss_mb=resident_mb(run.pid),
            cpu_seconds=cpu_seconds(run.pid),
            report=report if report.get("token") == run.token else {},
        )

    def _reap(self) -> None:
        by_pid = {run.pid: run.name for run in self._runs.values()}
        for pid in list(self._children):
            with contextlib.suppress(ChildProcessError):
                done, status = os.waitpid(pid, os.WNOHANG)
                if not done:
                    continue
                if pid in by_pid:
                    self._exit_codes[by_pid[pid]] = os.waitstatus_to_exitcode(status)
            self._children.discard(pid)

    def _read_runs(self) -> list[_Run]:
        runs = []
        for path in self._run_dir.glob("*.run.json"):
            with contextlib.suppress(json.JSONDecodeError, TypeError, FileNotFoundError):
                runs.append(_Run(**json.loads(path.read_bytes())))
        return runs

    def _path(self, name: str, part: str) -> Path:
        return self._run_dir / f"{name}.{part}.json"

    def _log_path(self, name: str, *, once: bool) -> Path:
        return (self._job_logs if once else self._logs) / f"{name}.log"


def socket_path(sockets: Path, name: str) -> Path:
    """Where the process `name` listens: short, for a socket's path has at most 107 bytes."""
    return sockets / f"{digest(name.encode())[:12]}.sock"


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


def _as_json(data: bytes) -> dict[str, Any]:
    """A report as what every store can keep: no NaN, no halves of characters, whatever a user's error said."""
    if b"\\ud" in data:
        data = json.dumps(_whole_texts(json.loads(data))).encode()
    found = json.loads(data, parse_constant=lambda _: None)
    return found if isinstance(found, dict) else {}


def _whole_texts(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_whole_texts(k): _whole_texts(v) for k, v in value.items()}
        case list():
            return [_whole_texts(v) for v in value]
        case _:
            return value


def _pause(run: _Run) -> float:
    return min(0.1 * 2.0**run.restarts, MAX_PAUSE_SECONDS) if run.restarts else 0.0


def _signal(identity: Identity, number: signal.Signals) -> None:
    """Through a pid descriptor, so that the signal cannot hit another process that got the pid in between."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        if identity.alive():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(json.dumps(document).encode())
    temporary.replace(path)
