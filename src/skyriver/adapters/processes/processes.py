"""Processes as children of this machine, recorded in run files so that anyone can find and end them.

A run file HOME/run/NAME.json names pid, start time, boot and token; it is written right after the start and
removed when the process is ended and no longer wanted. A start that is cut off between fork and run file leaves a
process that nobody knows: it finds no run file with its token and ends itself (skyriver.wiring.process), and the next
control plane ends it at its start.

A process with `once` or limits has a watcher above it (watcher.py), whose pid is the one recorded: it knows how the
process ended also when nobody else looked.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skyriver.adapters.processes.groups import ControlGroups
from skyriver.adapters.processes.identity import Identity, Look, boot_id, child_of, identify, look, look_at, send_signal
from skyriver.adapters.processes.logs import trim
from skyriver.adapters.processes.runs import Run, RunFiles
from skyriver.adapters.processes.starting import Places, Starter
from skyriver.adapters.processes.strays import end_strays
from skyriver.core.errors import SkyriverError
from skyriver.core.names import digest
from skyriver.core.resources import ProcessSpec, ProcessStatus

GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""
WATCHER_SECONDS = 3.0
"""More for a watcher, which kills its process past the grace and writes down how it ended."""
STEADY_SECONDS = 30.0
"""A process that lived that long is started again at once; else pauses double up to MAX_PAUSE_SECONDS."""
MAX_PAUSE_SECONDS = 10.0
READY_RESTARTS = 3
"""One that had got ready can do its work, so its pauses end at 0.8 s however often it is killed."""
STOPPED_SECONDS = 3.0
"""A replica or worker that is stopped (SIGSTOP) for so long is killed, and started again: it keeps its socket and its
lock, and answers nobody. A job may be paused."""
TRIM_SECONDS = 1.0
"""Between two looks at how long the logs are."""
LIST_SECONDS = 0.5
"""Between two looks for run files that nobody here wrote."""
KEPT_JOB_LOGS = 200
"""Logs of jobs that were forgotten: a stream alone may start 1,440 jobs a day. Those of other processes stay."""


@dataclass(slots=True)
class _Refused:
    """A process that could not be started."""

    error: SkyriverError
    config_digest: str
    attempts: int
    at: float


class ChildProcesses:
    """The `Compute` port on one machine. `fence` is that of the control plane whose it is: a later one has a higher."""

    def __init__(
        self, home: Path, sockets: Path, *, environment: Mapping[str, str] | None = None, fence: int = 0
    ) -> None:
        self._places = Places(home, sockets)
        self._places.make()
        self._files = RunFiles(self._places.run)
        self._groups = ControlGroups(home)
        self._starter = Starter(self._places, self._files, self._groups, dict(environment or {}), fence)
        self._fence = fence
        self._children: set[int] = set()
        self._exit_codes: dict[str, int] = {}
        self._killing: dict[str, float] = {}
        self._stopped: dict[str, float] = {}
        self._workers: dict[int, int] = {}
        self._refused: dict[str, _Refused] = {}
        self._runs = {run.name: run for run in self._files.all()}
        self._leftovers = set(self._groups.all()).difference(*(run.groups for run in self._runs.values()))
        """Groups to be removed, once what was in them is gone."""
        self._look_for_strays = True
        """At the start, and when a watcher was killed."""
        self._digests: dict[tuple[str, str], tuple[str, str]] = {}
        self._robbed: dict[str, Identity] = {}
        """Processes whose files and socket another one may have taken, with that one."""
        self._listed = time.monotonic()
        self._trimmed = 0.0

    def observe(self) -> Mapping[str, ProcessStatus]:
        self._meet_others()
        looks = {name: look(run.identity) for name, run in self._runs.items()}
        now = time.monotonic()
        stopped = [name for name, seen in looks.items() if seen is not None and seen.stopped]
        self._stopped = {name: self._stopped.get(name, now) for name in stopped if not self._runs[name].once}
        self._reap()  # after the look: what was seen dead has its exit code now
        seen = {name: self._status(run, looks[name]) for name, run in self._runs.items()}
        for name, refused in self._refused.items():
            error = refused.error
            report = {"reason": error.code, "message": error.message, "next_action": error.next_action}
            known = seen.get(name, ProcessStatus(name, False, config_digest=refused.config_digest))
            seen[name] = replace(known, report=report)
        return dict(sorted(seen.items()))

    def ensure(self, wanted: Mapping[str, ProcessSpec], *, keep: Set[str] = frozenset()) -> None:
        self._reap()
        self._end_leftovers()
        self._trim_logs()
        for name in self._refused.keys() - wanted.keys() - keep:
            del self._refused[name]
        for name, run in list(self._runs.items()):
            spec = wanted.get(name)
            if name in keep:
                continue
            if spec is None or self._digest(name, "config", spec.config) != run.config_digest:
                self._end(run)
        for name, spec in wanted.items():
            current = self._runs.get(name)
            if current is None:
                self._start(spec, restarts=0)
            elif name in self._killing:
                continue
            elif current.identity.alive():
                self._hand_over(current, spec)
                if time.monotonic() - self._stopped.get(name, math.inf) > STOPPED_SECONDS:
                    send_signal(current.identity, signal.SIGKILL)
            elif not spec.once:
                age = time.time() - current.started_at
                if not 0 <= age < _pause(current.restarts):  # below 0 the clock was set back: that is no reason to wait
                    restarts = 0 if age > STEADY_SECONDS else current.restarts + 1
                    if self._of_this(current, "status").get("ready"):
                        restarts = min(restarts, READY_RESTARTS)
                    self._leave(current)
                    self._start(spec, restarts=restarts)

    def log(self, name: str, *, offset: int = 0, limit: int = 1 << 16) -> tuple[bytes, int]:
        try:
            job = self._places.log(name, once=True)
            with (job if job.is_file() else self._places.log(name, once=False)).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = min(size, offset if offset >= 0 else max(0, size + offset))
                file.seek(start)
                data = file.read(limit)
        except FileNotFoundError:
            return b"", 0
        return data, start + len(data)

    def stop_all(self) -> list[str]:
        names = sorted(self._runs)
        self._look_for_strays = True
        for run in list(self._runs.values()):
            self._end(run, keep_outcome=True)
        deadline = time.monotonic() + GRACE_SECONDS + WATCHER_SECONDS + 5
        while self._runs and time.monotonic() < deadline:
            time.sleep(0.02)
            self._reap()
            for run in list(self._runs.values()):
                self._end(run, keep_outcome=True)
        while self._end_leftovers() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._groups.remove_top()
        return names

    # Another control plane may write run files too: one that was stopped, outlived its term and goes on, or the one
    # that has taken over from this. The higher fence is right, and of what the other one started nothing stays.

    def _meet_others(self) -> None:
        for name, run in list(self._runs.items()):
            if not self._files.changed(name):
                continue
            theirs = self._files.run(name)
            if theirs is None or theirs.fence < self._fence:
                if theirs is not None and theirs.token != run.token:
                    self._kill(theirs)
                    self._robbed[name] = theirs.identity
                if theirs is not None or run.identity.alive():
                    with contextlib.suppress(OSError):
                        self._files.record(run)
            else:
                if theirs.token != run.token:
                    self._kill(run)
                self._runs[name] = theirs
        if time.monotonic() > self._listed + LIST_SECONDS:
            self._listed = time.monotonic()
            self._runs |= {run.name: run for run in self._files.all(but=self._runs.keys())}
        self._mend()

    def _kill(self, run: Run) -> None:
        send_signal(run.identity, signal.SIGKILL)
        self._leave(run)

    def _mend(self) -> None:
        """Who lost its report or its socket to another one is started again: it cannot be reached any more."""
        for name, other in list(self._robbed.items()):
            run = self._runs.get(name)
            if run is not None and other.alive():
                continue
            del self._robbed[name]
            if run is None or run.once:
                continue
            if not self._of_this(run, "status") or not _listens(run.socket):
                send_signal(run.identity, signal.SIGTERM)

    # The rest is one process at a time.

    def _start(self, spec: ProcessSpec, *, restarts: int) -> None:
        """What goes wrong with one process is told of that one, and the others are started all the same."""
        refused = self._refused.get(spec.name)
        if refused is not None and time.monotonic() < refused.at + _pause(refused.attempts):
            return
        theirs = self._files.run(spec.name) if self._files.changed(spec.name) else None
        if theirs is not None and theirs.identity.alive():  # another control plane was first
            self._runs[spec.name] = theirs
            return
        try:
            run = self._starter.start(spec, restarts=restarts, grace_s=GRACE_SECONDS)
        except SkyriverError as error:
            attempts = refused.attempts + 1 if refused is not None else 1
            self._refused[spec.name] = _Refused(error, digest(dict(spec.config)), attempts, time.monotonic())
            return
        self._refused.pop(spec.name, None)
        self._exit_codes.pop(spec.name, None)
        self._children.add(run.pid)
        self._runs[spec.name] = run

    def _hand_over(self, run: Run, spec: ProcessSpec) -> None:
        live = self._digest(run.name, "live", spec.live)
        if live != run.live_digest:
            with contextlib.suppress(OSError):  # a full disk: tried again in the next pass
                self._files.write(run.name, "live", dict(spec.live))
                self._files.record(replace(run, live_digest=live))
                run.live_digest = live

    def _end(self, run: Run, *, keep_outcome: bool = False) -> None:
        """One step towards its end: ask, past the grace kill, once it is gone forget. With `keep_outcome` the report of
        a job stays for a control plane that has not seen it yet."""
        if run.identity.alive():
            deadline = self._killing.get(run.name)
            if deadline is None:
                grace = GRACE_SECONDS + (WATCHER_SECONDS if run.watched else 0.0)
                self._killing[run.name] = time.monotonic() + grace
                send_signal(run.identity, signal.SIGTERM)
            elif time.monotonic() > deadline:
                send_signal(run.identity, signal.SIGKILL)
            return
        asked = self._killing.pop(run.name, None) is not None
        self._runs.pop(run.name, None)
        self._workers.pop(run.pid, None)
        self._exit_codes.pop(run.name, None)
        if run.boot == boot_id() and identify(run.pid) is None:  # else the number is somebody else's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(run.pid, signal.SIGKILL)  # what a job started and left behind shares its group
        self._leave(run)
        for part in ("config", "live"):
            self._digests.pop((run.name, part), None)
        Path(run.socket).unlink(missing_ok=True)
        if keep_outcome and run.once:
            if asked:
                with contextlib.suppress(OSError):  # a full disk: then it is told as ended by our signal
                    self._files.write(run.name, "ending", {**self._of_this(run, "ending"), **_stopped(run)})
            return
        shutil.rmtree(self._places.work(run.name), ignore_errors=True)
        self._files.remove(run.name)
        if run.once:
            self._remove_old_logs()

    def _leave(self, run: Run) -> None:
        """What a process that is gone, or is being killed, may leave behind is ended in the next pass."""
        self._look_for_strays |= run.watched and not self._of_this(run, "ending")
        self._leftovers |= set(run.groups)

    def _end_leftovers(self) -> bool:
        """Ends what no run file names. Whether something of it may still be there."""
        strays = 0
        if self._look_for_strays:
            strays = end_strays(self._places.run, lambda: self._files.tokens() | {r.token for r in self._runs.values()})
            self._look_for_strays = strays > 0
        self._leftovers = self._groups.remove(self._leftovers)
        return strays > 0 or bool(self._leftovers)

    def _trim_logs(self) -> None:
        """At most once a second: a process that prints for ever must not fill the disk."""
        if time.monotonic() - self._trimmed < TRIM_SECONDS:
            return
        self._trimmed = time.monotonic()
        for name, run in self._runs.items():
            trim(self._places.log(name, once=run.once))

    def _remove_old_logs(self) -> None:
        ended = [path for path in self._places.job_logs.glob("*.log") if path.stem not in self._runs]
        ended.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in ended[:-KEPT_JOB_LOGS]:
            path.with_suffix(".log.1").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _status(self, run: Run, seen: Look | None) -> ProcessStatus:
        report = self._of_this(run, "status")
        used = self._used(run, seen)
        ending: Mapping[str, Any] = self._of_this(run, "ending") if run.watched and seen is None else {}
        if ending.get("problem"):
            message = f"{run.name} cannot be started: {ending['problem']}."
            report = {"reason": "START_FAILED", "message": message, **report}
        return ProcessStatus(
            name=run.name,
            alive=seen is not None,
            pid=run.pid,
            exit_code=ending.get("exit_code", self._exit_codes.get(run.name)),
            out_of_memory=bool(ending.get("out_of_memory")) or report.get("reason") == "OUT_OF_MEMORY",
            timed_out=bool(ending.get("timed_out")),
            stopped=bool(ending.get("stopped")),
            peak_mb=float(ending.get("peak_mb", 0.0)),
            held_by=run.held_by,
            config_digest=run.config_digest,
            socket=run.socket,
            started_at=int(run.started_at * 1e6),
            rss_mb=used.rss_mb if used is not None else 0.0,
            cpu_seconds=used.cpu_seconds if used is not None else 0.0,
            report=report,
        )

    def _used(self, run: Run, seen: Look | None) -> Look | None:
        """What does the work: under a watcher its child."""
        if seen is None or not run.watched:
            return seen
        pid = self._workers.get(run.pid) or child_of(run.identity)
        found = look_at(pid) if pid else None
        if found is None or found.parent != run.pid:
            self._workers.pop(run.pid, None)
            return seen
        self._workers[run.pid] = pid
        return found

    def _digest(self, name: str, part: str, document: Mapping[str, Any]) -> str:
        """The digest, which is made anew only where the document is another one: it is asked for in every pass."""
        text = json.dumps(dict(document))
        known = self._digests.get((name, part))
        if known is None or known[0] != text:
            known = self._digests[name, part] = (text, digest(dict(document)))
        return known[1]

    def _of_this(self, run: Run, part: str) -> Mapping[str, Any]:
        """What the process, and not one that had its name before, wrote."""
        found = self._files.read(run.name, part)
        return found if found.get("token") == run.token else {}

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


def _stopped(run: Run) -> dict[str, Any]:
    """What the next control plane must know of a process that `stop_all` ended."""
    return {"token": run.token, "stopped": True}


def _listens(socket_file: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        try:
            client.connect(socket_file)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
    return True


def _pause(failures: int) -> float:
    return min(0.1 * 2.0**failures, MAX_PAUSE_SECONDS) if failures else 0.0
