"""The parts that the supervisor watches, the control plane and the gateway: how each is started, whether it answers and
how it ended; and who runs of a home."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from skyriver.adapters.flock.lock import read_holder
from skyriver.adapters.haproxy.admin import Admin
from skyriver.adapters.haproxy.process import recorded
from skyriver.adapters.processes.identity import Identity, identify
from skyriver.core.errors import Internal, SkyriverError
from skyriver.wiring.gateway import gateway_of, gateways_of
from skyriver.wiring.home import Home

SUPERVISOR: Final = "supervisor"
CONTROL: Final = "control"

ANSWER_SECONDS = 2.0
LOG_LIMIT = 16 * 1024 * 1024
"""A log that is larger at a start is set aside as NAME.log.1 first."""


@dataclass(slots=True)
class PartState:
    """What the supervisor's run file tells of one part. Times are wall microseconds."""

    pid: int = 0
    since: int = 0
    restarts: int = 0
    """Since the supervisor of this home was first started."""
    ends: list[dict[str, Any]] = field(default_factory=list)
    """The last KEPT_ENDS that were seen: {"at", "why"}."""
    problem: dict[str, Any] | None = None
    """Why the last start failed, as an error's document; None once it answered."""
    problem_at: int = 0


class Part(Protocol):
    """Something that is started and watched."""

    name: str

    def start(self) -> Identity:
        """Starts it, or adopts the one that runs. Raises SkyriverError or OSError."""
        ...

    def wanted(self) -> bool:
        """Whether it should run at all, as the settings say now."""
        ...

    def answers(self) -> bool: ...

    def ended(self, identity: Identity) -> tuple[str, dict[str, Any] | None]:
        """How it ended, in words, and the problem that it could not mend itself, if it told one."""
        ...


class ControlPlane:
    name = "control"

    def __init__(self, home: Home) -> None:
        self._home = home
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Identity:
        if (running := control_of(self._home)) is not None:
            return running
        self._child = start_module(self._home, "control")
        identity = identify(self._child.pid)
        if identity is None:
            raise Internal("The control plane ended at once.", code="CONTROL_NOT_READY")
        return identity

    def wanted(self) -> bool:
        return True

    def answers(self) -> bool:
        return first_bytes(str(self._home.control_socket), "/api/v1/livez").split(b" ")[1:2] == [b"200"]

    def ended(self, identity: Identity) -> tuple[str, dict[str, Any] | None]:
        why = "ended"
        if self._child is not None and self._child.pid == identity.pid:
            code = self._child.wait()
            why = f"ended by {_signal_name(-code)}" if code < 0 else f"exited with {code}"
            self._child = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(self._home.control_run.read_bytes())
            if (told["pid"], told["start_time"]) == (identity.pid, identity.start_time) and told.get("problem"):
                return why, dict(told["problem"])
        return why, None


class Gateway:
    """One of the processes that share the address; `start` starts whichever of them is missing."""

    def __init__(self, home: Home, number: int = 1) -> None:
        self.name = "gateway" if number == 1 else f"gateway-{number}"
        self._home = home
        self._number = number

    def start(self) -> Identity:
        gateway_of(self._home).start()
        running = recorded(self._home.gateway, self._number)
        if running is None:
            raise Internal("The gateway left no run file.", code="GATEWAY_NOT_STARTED")
        return running.identity

    def wanted(self) -> bool:
        return self._number <= gateways_of(self._home)

    def answers(self) -> bool:
        try:
            return Admin(self._home.gateway, self._number, answer_seconds=ANSWER_SECONDS).pid() > 0
        except SkyriverError:
            return False

    def ended(self, identity: Identity) -> tuple[str, dict[str, Any] | None]:
        return "ended", None


def first_bytes(path: str, target: str) -> bytes:
    """Of the answer to `GET target` on the socket `path`; none where none comes within ANSWER_SECONDS."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(path)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: skyriver\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(32)
    return b""


def read_parts(home: Home) -> dict[str, PartState]:
    """What the last supervisor knew of its parts: a new one goes on counting."""
    try:
        told = json.loads(home.supervisor_run.read_bytes())["parts"]
        known = {name: PartState(**state) for name, state in told.items()}
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    return {"gateway": PartState(), "control": PartState(), **known}


def start_module(home: Home, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """`python -m skyriver.wiring.MODULE HOME` in a session of its own; what it prints goes to its log."""
    path = home.logs / f"{module}.log"
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", f"skyriver.wiring.{module}", str(home.root), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=home.root,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def running_supervisor(home: Home) -> Identity | None:
    return _holder(home, SUPERVISOR)


def control_of(home: Home) -> Identity | None:
    """The control plane that runs now, ready or not."""
    return _holder(home, CONTROL)


def _holder(home: Home, lease: str) -> Identity | None:
    holder = read_holder(home.leases / lease)
    if holder is None:
        return None
    identity = Identity(holder.pid, holder.start, holder.boot)
    return identity if identity.alive() else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have none
        return f"signal {number}"
