"""The `skyriver` command without its start: a process that has loaded it forks for each command that tests give.

To start Python and load the command is nine tenths of what most commands cost, and tests give thousands. What is forked
has read no argument and no setting yet: arguments, environment, folder and streams are the command's own, and its exit
code is that of the interpreter's own end. What is `STARTED`, and what tests say of the start itself and of signals, is
the command as it is installed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).parent / "skyriver"
STARTED = frozenset({"up", "down", "serve", "init", "demo", "--help", "--version"})
"""Given as it is installed: what leaves processes running, serves itself, or must come at once."""
LOADED = (
    "skyriver.wiring.command",
    "skyriver.client.api",
    "skyriver.client.appfile",
    "skyriver.wiring.address",
    "skyriver.wiring.environments",
    "typer._adapters",  # since Typer 0.29 each command loads it
    "typer.rich_utils",
)
_STREAMS = 3


class WarmCommand:
    """Ends with the process that made it, however that ends."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        door = self.folder / "door"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(door))
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=dict(environment),
                cwd=self.folder,
                pass_fds=[listener.fileno()],
            )
        typed = self.folder / "skyriver"
        text = _TYPED.format(door=str(door), command=str(COMMAND), started=sorted(STARTED))
        typed.write_text(f"#!{sys.executable} -IS\n{text}")
        typed.chmod(0o700)

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None,
        env: Mapping[str, str],
        given: str | None,
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` would, with `given` as all that it can read."""
        request = {"argv": list(argv), "cwd": str(cwd or Path.cwd()), "env": dict(env)}
        data = json.dumps(request).encode()
        with (
            tempfile.TemporaryFile() as reads,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            reads.write((given or "").encode())
            reads.seek(0)
            connection.settimeout(timeout)
            connection.connect(str(self.folder / "door"))
            socket.send_fds(connection, [len(data).to_bytes(4, "big")], [reads.fileno(), out.fileno(), err.fileno()])
            connection.sendall(data)
            code = int.from_bytes(_exactly(4, connection), "big", signed=True)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(argv, code, out.read().decode(), err.read().decode())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=300)
        shutil.rmtree(self.folder)


_TYPED = """\
import json, os, signal, socket, sys

if not set({started}).isdisjoint(sys.argv[1:4]):
    os.execv({command!r}, sys.argv)
connection = socket.socket(socket.AF_UNIX)
connection.connect({door!r})
data = json.dumps(dict(argv=sys.argv, cwd=os.getcwd(), env=dict(os.environ))).encode()
passed = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
signal.pthread_sigmask(signal.SIG_BLOCK, passed)  # the command may be seen to run before the next lines do
socket.send_fds(connection, [len(data).to_bytes(4, "big")], [0, 1, 2])
connection.sendall(data)
for number in passed:
    signal.signal(number, lambda number, _: connection.send(bytes([number])))
signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
code = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""
"""What a shell finds as `skyriver`: signals that it gets are passed on, and if it is killed so is the command."""


def _exactly(size: int, connection: socket.socket) -> bytes:
    found = connection.recv(size, socket.MSG_WAITALL)
    if len(found) < size:
        raise EOFError(f"{size - len(found)} bytes are missing")
    return found


def _request(size: int, connection: socket.socket) -> dict[str, Any]:
    """Empty if who asks was killed meanwhile."""
    try:
        found: dict[str, Any] = json.loads(_exactly(size, connection))
    except (EOFError, ValueError):  # ValueError: before it had said anything
        return {}
    return found


def _asked(listener: socket.socket, living: int) -> dict[str, Any]:
    """Forks for each command that comes; only the fork returns, with what it is asked. Ends when `living` is closed."""
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    poller.register(living, select.POLLIN)
    running: dict[int, tuple[int, int, socket.socket]] = {}
    """(pid, its descriptor, who waits for it) by each of the two descriptors."""
    while True:
        ready = poller.poll()[0][0]  # one at a time: what it closes, the next one may be given
        if ready == living:
            os._exit(0)
        elif ready == listener.fileno():
            connection, _ = listener.accept()
            size, streams, _, _ = socket.recv_fds(connection, 4, _STREAMS)
            request = _request(int.from_bytes(size, "big"), connection)
            pid = os.fork() if request else -1
            if pid == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                os.closerange(_STREAMS, max(*streams, *running, connection.fileno(), listener.fileno()) + 1)
                return request
            for stream in streams:
                os.close(stream)
            if not request:
                connection.close()
                continue
            command = (pid, os.pidfd_open(pid), connection)
            for descriptor in (command[1], connection.fileno()):
                running[descriptor] = command
                poller.register(descriptor, select.POLLIN)
        else:
            pid, descriptor, connection = running.pop(ready)
            poller.unregister(ready)
            if ready == descriptor:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(descriptor)
                if running.pop(connection.fileno(), None):
                    poller.unregister(connection)
                with suppress(OSError):  # who asked is gone
                    connection.sendall(code.to_bytes(4, "big", signed=True))
                connection.close()
            elif number := connection.recv(1):
                signal.pidfd_send_signal(descriptor, number[0])
                running[ready] = pid, descriptor, connection
                poller.register(ready, select.POLLIN)
            else:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _main() -> None:
    for name in LOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        request = _asked(listener, 0)
        listener.detach()
    sys.path[0] = str(Path(sys.executable).parent)  # as for the installed command; ours is the tests' folder
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    from skyriver.wiring.command import main

    main()


if __name__ == "__main__":
    _main()
