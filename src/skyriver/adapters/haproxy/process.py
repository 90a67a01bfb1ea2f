"""The HAProxy process: started so that it outlives us, found again, ended.

It runs as a daemon of its own (no master process): whoever started it may end. HOME/gateway/haproxy.json says which
one it is; a process is taken for it only if pid, start time and boot agree and the admin socket in our private
directory answers with that very pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from skyriver.adapters.haproxy import port as ports
from skyriver.adapters.haproxy.admin import Admin
from skyriver.adapters.haproxy.binary import Binary
from skyriver.adapters.haproxy.config import ADMIN, CONFIG
from skyriver.adapters.haproxy.files import replace_all
from skyriver.adapters.processes.identity import Identity, identify, readable
from skyriver.core.errors import Internal, SkyriverError, Unavailable

RUN_FILE = "haproxy.json"
PID_FILE = "haproxy.pid"
LOG = "haproxy.log"
START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Running:
    """One run file."""

    pid: int
    start_time: int
    boot: str
    digest: str
    """Of what it cannot change while it runs."""
    address: str
    port: int

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_time, self.boot)


def recorded(directory: Path) -> Running | None:
    """What the run file says, whether it still runs or not."""
    try:
        return Running(**json.loads((directory / RUN_FILE).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def find(directory: Path, address: str, port: int) -> Running | None:
    """The HAProxy that runs for this directory; one whose start was cut off before its run file is found by its
    admin socket. One that runs and does not answer is ended: it could never be told anything again."""
    run = recorded(directory)
    try:
        pid = Admin(directory).pid()
    except SkyriverError:
        if run is not None and run.identity.alive():
            end(run.identity, 0.0)
        return None
    if run is not None and run.pid == pid and run.identity.alive():
        return run
    identity = identify(pid)
    return None if identity is None else Running(pid, identity.start_time, identity.boot, "", address, port)


def launch(binary: Binary, directory: Path, address: str, port: int, digest: str, replaced: Running | None) -> Running:
    """Starts HAProxy from the files in `directory`; `replaced` hands its listeners over, ends what it has and goes.

    Raises Conflict (PORT_IN_USE) or Internal (GATEWAY_NOT_STARTED) with what HAProxy said.
    """
    if replaced is None or (replaced.address, replaced.port) != (address, port):
        ports.check_free(address, port)
    command = [str(binary.path), "-D", "-f", CONFIG, "-p", PID_FILE]
    if replaced is not None:
        command += ["-x", ADMIN, "-sf", str(replaced.pid)]
    # A file, not a pipe: nothing of ours may keep the daemon's end, or wait for it.
    descriptor = os.open(directory / LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w+b") as log:
        try:
            ran = subprocess.run(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_SECONDS,
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Internal(f"HAProxy could not be started: {error}.", code="GATEWAY_NOT_STARTED") from error
        log.seek(0)
        said = log.read(1 << 16).decode(errors="replace").strip()
    if ran.returncode != 0:
        if "Address already in use" in said:
            raise ports.in_use(port)
        raise Internal(f"HAProxy did not start: {said[-2000:]}", code="GATEWAY_NOT_STARTED")
    pid = int((directory / PID_FILE).read_text())
    identity = _answering(directory, pid)
    run = Running(pid, identity.start_time, identity.boot, digest, address, port)
    record(directory, run)
    return run


def record(directory: Path, run: Running) -> None:
    replace_all(directory, {RUN_FILE: json.dumps(asdict(run))})


def _answering(directory: Path, pid: int) -> Identity:
    """Its identity, once its admin socket answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        identity = identify(pid)
        if identity is None:
            break
        with contextlib.suppress(Unavailable):
            if Admin(directory).pid() == pid:
                return identity
        time.sleep(0.005)
    raise Internal("HAProxy started and does not answer on its admin socket.", code="GATEWAY_NOT_STARTED")


def end(identity: Identity, grace: float) -> None:
    """Ends the process: no new connections, `grace` seconds for the requests that it has, then at once."""
    try:
        descriptor = os.pidfd_open(identity.pid)  # from here on a signal cannot hit another process of that number
    except ProcessLookupError:
        return
    try:
        for number, seconds in ((signal.SIGUSR1, grace), (signal.SIGTERM, min(grace, 1.0)), (signal.SIGKILL, 5.0)):
            if not identity.alive():
                return
            if not seconds:
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            _wait(descriptor, seconds)
    finally:
        os.close(descriptor)


def _wait(descriptor: int, seconds: float) -> None:
    """Until the process ended: its descriptor becomes readable then."""
    readable(seconds, descriptor)
