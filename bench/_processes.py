"""Running things within bounds, ending what was started, and looking at memory."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from _document import tell

SKYRIVER = str(Path(sys.executable).parent / "skyriver")
_INTERRUPT_SECONDS = 30.0


class Failed(Exception):
    """A command that did not do what was asked of it."""


@dataclass(frozen=True, slots=True)
class Done:
    command: str
    code: int
    stdout: str
    stderr: str
    seconds: float

    def check(self) -> Self:
        if self.code:
            raise Failed(f"`{self.command}` ended with {self.code}: {(self.stderr or self.stdout).strip()[-400:]}")
        return self

    def json(self) -> dict[str, Any]:
        """The document on stdout. Raises Failed when there is none."""
        try:
            found: dict[str, Any] = json.loads(self.stdout)
        except ValueError as error:
            raise Failed(f"`{self.command}` ({self.code}) printed no JSON: {self.stderr.strip()[-400:]}") from error
        return found


def run(
    command: Sequence[str], *, timeout: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Done:
    """Runs `command` in a session of its own. Past `timeout` seconds it is interrupted, then killed, and Failed
    raised. Its output goes to files: what it leaves running may hold them open without holding us up."""
    words = " ".join(Path(w).name if n == 0 else w for n, w in enumerate(command))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.perf_counter()
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=clean_environment() if env is None else env,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"`{words}` did not end within {timeout:.0f} s: {_text(err)[-300:]}") from error
        finally:
            if child.poll() is None:
                _end(child)
        seconds = time.perf_counter() - begun
        return Done(words, code, _text(out), _text(err), seconds)


def _text(file: Any) -> str:
    file.seek(0)
    data: bytes = file.read()
    return data.decode(errors="replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGINT)
    try:
        child.wait(_INTERRUPT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def clean_environment(**more: str) -> dict[str, str]:
    """Ours without what would point a run to another cloud, environment or interpreter."""
    hidden = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    kept = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith("SKYRIVER_")}
    own = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join(p for p in kept.get("PATH", os.defpath).split(os.pathsep) if p != own)
    return {**kept, **more}


def free_port() -> int:
    """Nobody listens there now. Below the ports that the system gives to outgoing connections: one of those would be
    taken by somebody's connection before the server is up."""
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("a hundred ports are in use")


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory that goes away, with every process that still runs on something in it.

    Its path is short: Unix sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="srb-"))
    try:
        yield folder
    finally:
        left = processes_of(folder)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left:
            tell(f"{len(left)} processes were left in {folder} and were killed")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cloud_home() -> Iterator[Path]:
    """A fresh home; its cloud, if one is started there, is ended."""
    with workplace() as folder:
        home = folder / "home"
        try:
            yield home
        finally:
            if home.exists():
                run([SKYRIVER, "--home", str(home), "down", "--json"], timeout=60)


def processes_of(folder: Path, module: str = "") -> list[int]:
    """Processes that have a path below `folder` in their command line, or work there; `module`: run by `python -m`."""
    found = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or int(place.name) == os.getpid():
            continue
        with suppress(OSError):
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = any(str(folder) in word for word in words) or str((place / "cwd").readlink()).startswith(str(folder))
            if here and (not module or module in words):
                found.append(int(place.name))
    return found


def memory(pid: int) -> dict[str, float]:
    """Resident megabytes (10^6 bytes): now, at most so far, and how much of now are pages of files.
    Raises Failed when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError as error:
        raise Failed(f"process {pid} is gone") from error
    kilobytes = {k: int(v.split()[0]) for k, _, v in (line.partition(":") for line in lines) if v.endswith(" kB")}
    if "VmRSS" not in kilobytes:
        raise Failed(f"process {pid} is ending")
    names = {"rss": "VmRSS", "peak": "VmHWM", "files": "RssFile"}
    return {name: round(kilobytes[field] * 1024 / 1e6, 1) for name, field in names.items()}


@dataclass
class MemoryWatch:
    """Looks at the memory of `folder`'s processes of `module` twice a second; `last` by process, dead ones too."""

    folder: Path
    module: str
    last: dict[int, dict[str, float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.look()

    def look(self) -> None:
        for pid in processes_of(self.folder, self.module):
            with suppress(Failed):
                self.last[pid] = memory(pid)
