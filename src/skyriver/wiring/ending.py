"""Ending the cloud of a home: what `skyriver down` does, whatever state the cloud is in."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skyriver.adapters.flock.leases import FileLeases
from skyriver.adapters.processes.processes import ChildProcesses
from skyriver.core.errors import Conflict, Unavailable
from skyriver.wiring.gateway import gateway_of
from skyriver.wiring.home import Home
from skyriver.wiring.living import Living, processes_of, terminate

COMMAND = "command"
COMMAND_SECONDS = 120.0
"""How long one `up` or `down` waits for another one to be done."""
SUPERVISOR_SECONDS = 3.0
CONTROL_SECONDS = 10.0
HELD_SECONDS = 30.0
"""Past its grace and SIGKILL, after which a process is given up that the kernel does not let go."""

# In this order: who could start the other one goes first.
_PARTS = (("supervisor", "supervisor", SUPERVISOR_SECONDS), ("control", "control plane", CONTROL_SECONDS))


@contextmanager
def only_command(home: Home, name: str, told: Callable[[str], None]) -> Iterator[None]:
    """One `up` or `down` at a time; `told` is called once when another one has to be waited for. Raises Conflict
    (BUSY), and Unavailable where no lease can be kept."""
    leases = FileLeases(home.leases)
    deadline = time.monotonic() + COMMAND_SECONDS
    waiting = False
    while True:
        try:
            lease = leases.acquire(COMMAND, name, ttl_us=int(COMMAND_SECONDS * 1e6))
            break
        except Conflict as error:
            if time.monotonic() > deadline:
                raise Conflict(
                    f"Another command has been at work on this cloud for {COMMAND_SECONDS:.0f} s: {error.message}",
                    code="BUSY",
                    next_action="End that process, then try again.",
                ) from error
            if not waiting:
                told(f"Waiting: {error.message}")
            waiting = True
        time.sleep(0.05)
    try:
        yield
    finally:
        leases.release(lease)


def down(home: Home, told: Callable[[str], None] = lambda text: None) -> list[str]:
    """Ends everything of this home, the supervisor and the control plane dead, hung or well; returns what was ended."""
    if not home.run.is_dir():
        return []
    with contextlib.ExitStack() as held:
        with contextlib.suppress(Unavailable):  # a full disk: ending must be possible all the same
            held.enter_context(only_command(home, "skyriver down", told))
        return end_everything(home)


def end_everything(home: Home) -> list[str]:
    """Supervisor, control plane, its processes, gateway; then whatever no run file knows."""
    with _stopping(home):
        ended = _end_supervision(home)
        names = ChildProcesses(home.root, home.sockets).stop_all()
        ended += [" ".join(name.split(".", 2)[1:]) for name in names]
        if any(process.module == "gateway" for process in processes_of(home)):
            ended.append("gateway")
        gateway_of(home).stop()
        for process in processes_of(home):
            terminate(process.identity, 0.0)
            ended.append(_words(process))
        _remove_files(home)
    return ended


def end_supervision(home: Home) -> None:
    """Supervisor and control plane alone."""
    with _stopping(home):
        _end_supervision(home)


@contextmanager
def _stopping(home: Home) -> Iterator[None]:
    """Supervisor and control plane start nothing meanwhile, so that they cannot bring each other back. What is cut off
    leaves the mark; the next `up` or `down` removes it."""
    with contextlib.suppress(OSError):
        home.stopping.touch(mode=0o600)
    yield
    home.stopping.unlink(missing_ok=True)


def _end_supervision(home: Home) -> list[str]:
    return [words for module, words, grace in _PARTS if _end_module(home, module, grace)]


def _end_module(home: Home, module: str, grace: float) -> bool:
    """Ends every process of `module`; whether there was one. It is looked for until none is left: one may have been
    about to start another."""
    found = False
    deadline = time.monotonic() + grace + HELD_SECONDS
    while processes := [p for p in processes_of(home) if p.module == module]:
        found = True
        if time.monotonic() > deadline:
            pids = ", ".join(str(p.identity.pid) for p in processes)
            raise Unavailable(
                f"The {module} (pid {pids}) does not end, not even by SIGKILL: the kernel holds it.",
                code="NOT_ENDED",
                next_action="Look what it waits for (`ps -o pid,stat,wchan`), often a disk that is away; then again.",
            )
        for process in processes:
            terminate(process.identity, grace)
    return found


def _words(process: Living) -> str:
    known = " ".join(process.name.split(".", 2)[1:]) or process.module
    return f"{known} (no run file)" if process.module else f"what {known} had started"


def _remove_files(home: Home) -> None:
    """What only a running cloud needs. Nothing of it runs any more."""
    for path in (home.control_run, home.supervisor_run, *home.run.glob(".*")):
        path.unlink(missing_ok=True)
    if home.sockets.is_dir() and not home.sockets.is_symlink():
        for path in home.sockets.iterdir():
            if path.is_socket():
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            home.sockets.rmdir()
