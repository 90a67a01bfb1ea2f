"""The HAProxy process: started so that it outlives us, found again, ended.

It runs as a daemon of its own (no master process): whoever started it may end. Several, by number, may listen on one
address: a further one gets the listening sockets themselves from one that runs (over its admin socket, as at a reload,
but both go on), so there is one queue of connections, and what waits in it when a process ends is taken by another.
HOME/gateway/haproxy.json (haproxy-2.json, ...) says which process it is; a process is taken for it only if pid, start
time and boot agree and the admin socket in our private directory answers with that very pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skyriver.adapters.haproxy import port as ports
from skyriver.adapters.haproxy.admin import Admin, admin_socket
from skyriver.adapters.haproxy.binary import Binary
from skyriver.adapters.haproxy.config import ADMIN_VARIABLE, CONFIG
from skyriver.adapters.haproxy.files import replace_all
from skyriver.adapters.processes.identity import Identity, identify, readable
from skyriver.core.errors import Internal, SkyriverError, Unavailable

START_SECONDS = 20.0
_RUN_FILE = re.compile(r"haproxy(?:-([1-9][0-9]*))?\.json")


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
    number: int = 1

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_time, self.boot)


def file_of(kind: str, number: int) -> str:
    return f"haproxy{'' if number == 1 else f'-{number}'}.{kind}"


def numbers(directory: Path) -> list[int]:
    """Of those that have a run file."""
    found = (_RUN_FILE.fullmatch(path.name) for path in directory.glob("haproxy*.json"))
    return sorted(int(match[1] or 1) for match in found if match)


def recorded(directory: Path, number: int = 1) -> Running | None:
    """What the run file says, whether it still runs or not."""
    try:
        return Running(**json.loads((directory / file_of("json", number)).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def find(directory: Path, address: str, port: int, number: int = 1) -> Running | None:
    """The HAProxy that runs for this directory; one whose start was cut off before its run file is found by its
    admin socket. One that runs and does not answer is ended: it could never be told anything again."""
    run = recorded(directory, number)
    try:
        pid = Admin(directory, number).pid()
    except SkyriverError:
        if run is not None and run.identity.alive():
            end(run.identity, 0.0)
        return None
    if run is not None and run.pid == pid and run.identity.alive():
        return run
    identity = identify(pid)
    return None if identity is None else Running(pid, identity.start_time, identity.boot, "", address, port, number)


def launch(
    binary: Binary, directory: Path, wanted: Running, replaced: Running | None, siblings: Sequence[Running] = ()
) -> Running:
    """Starts HAProxy number `wanted.number` from the files in `directory`; `replaced` hands its listeners over, ends
    what it has and goes, one of `siblings` that listens on the same address shares its own. Returns `wanted`, running.

    Raises Conflict (PORT_IN_USE) or Internal (GATEWAY_NOT_STARTED) with what HAProxy said.
    """
    address, port, number = wanted.address, wanted.port, wanted.number
    pid_file = file_of("pid", number)
    command = [str(binary.path), "-D", "-f", CONFIG, "-p", pid_file]
    holders = [r for r in (replaced, *siblings) if r is not None and (r.address, r.port) == (address, port)]
    if holders:
        command += ["-x", admin_socket(holders[0].number)]
    else:
        ports.check_free(address, port)
    if replaced is not None:
        command += ["-sf", str(replaced.pid)]
    # A file, not a pipe: nothing of ours may keep the daemon's end, or wait for it.
    descriptor = os.open(directory / file_of("log", number), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w+b") as log:
        try:
            ran = subprocess.run(
                command,
                cwd=directory,
                env={**os.environ, ADMIN_VARIABLE: admin_socket(number)},
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
    pid = int((directory / pid_file).read_text())
    identity = _answering(Admin(directory, number), pid)
    run = replace(wanted, pid=pid, start_time=identity.start_time, boot=identity.boot)
    record(directory, run)
    return run


def record(directory: Path, run: Running) -> None:
    replace_all(directory, {file_of("json", run.number): json.dumps(asdict(run))})


def forget(directory: Path, number: int) -> None:
    for name in (file_of("json", number), file_of("pid", number), admin_socket(number)):
        (directory / name).unlink(missing_ok=True)


def leave(run: Running) -> None:
    """No new connections; it ends by itself after its last request."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(run.pid)
        try:
            if run.identity.alive():
                signal.pidfd_send_signal(descriptor, signal.SIGUSR1)
        finally:
            os.close(descriptor)


def _answering(admin: Admin, pid: int) -> Identity:
    """Its identity, once its admin socket answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        identity = identify(pid)
        if identity is None:
            break
        with contextlib.suppress(Unavailable):
            if admin.pid() == pid:
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
