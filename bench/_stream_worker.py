"""A stream's worker at work on one core, and who sends to it on another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _document import ROOT
from _processes import Failed

from skyriver.core.spec import AppSpec

sys.path.insert(0, str(ROOT / "tests"))  # the worker of the tests
import worker_process

BENCH = Path(__file__).parent
_TICKS = os.sysconf("SC_CLK_TCK")


def cores() -> tuple[int, int]:
    """Of what is measured, and of who sends. The same one where there is only one."""
    found = sorted(os.sched_getaffinity(0))
    return found[0], found[min(1, len(found) - 1)]


@contextmanager
def on_core(number: int, *, realtime: bool = False) -> Iterator[None]:
    """What is started in it runs there, threads too. `realtime`: before everything else there (for root)."""
    before, policy, given = os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setaffinity(0, {number})
    try:
        if realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        yield
    finally:
        os.sched_setscheduler(0, policy, given)
        os.sched_setaffinity(0, before)


@contextmanager
def kept_awake(number: int) -> Iterator[None]:
    """The core always has something to do, which gives way to all else and ends with us (PR_SET_PDEATHSIG)."""
    with on_core(number):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import ctypes, os\n"
                "ctypes.CDLL(None).prctl(1, 9)\n"
                "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
                "while True: pass",
            ]
        )
    try:
        yield
    finally:
        child.kill()
        child.wait()


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process: CPU seconds (user, system) and resident megabytes."""

    user: float
    system: float
    rss: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        try:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError as error:
            raise Failed(f"process {pid} is gone") from error
        page = os.sysconf("SC_PAGE_SIZE")
        return cls(int(words[11]) / _TICKS, int(words[12]) / _TICKS, int(words[21]) * page / 1e6)

    def since(self, before: Usage) -> float:
        """CPU seconds; one tick at least."""
        return max(1 / _TICKS, self.user + self.system - before.user - before.system)


class StreamWorker(worker_process.Worker):
    """`app`'s worker, with a model that was trained."""

    def use(self, onnx: bytes, **more: Any) -> None:
        self.write_live({"name": "fraud", "version": 2, "artifact": self.objects.put(onnx)}, **more)

    @property
    def socket(self) -> str:
        return str(self.directory / "s")

    @property
    def pid(self) -> int:
        return self.processes[-1].pid

    def usage(self) -> Usage:
        return Usage.of(self.pid)

    def load(self, blocks: Iterable[bytes], name: str = "history") -> None:
        """History, in bulk."""
        ahead = iter(blocks)
        block = next(ahead, None)
        with self.connection() as connection:
            sequence = 0
            while block is not None:
                following = next(ahead, None)
                headers = {"x-load": name, "x-sequence": str(sequence)} | ({} if following else {"x-last": "1"})
                status, answer = connection.ask("POST", "/internal/history", block, headers)
                if status != 200:
                    raise Failed(f"a block of history was answered {status}: {answer}")
                block, sequence = following, sequence + 1

    def settle(self, seconds: float = 1.0) -> None:
        """Until it has stopped working by itself (a checkpoint after a load), for at most a minute."""
        deadline = time.monotonic() + 60
        before = self.usage()
        while time.monotonic() < deadline:
            time.sleep(seconds)
            now = self.usage()
            if now.since(before) < 0.05 * seconds:
                return
            before = now


@contextmanager
def running(
    folder: Path, kernels: Path, app: AppSpec, onnx: bytes, *, realtime: bool = False
) -> Iterator[StreamWorker]:
    """A worker on the core of what is measured, ready and deciding with `onnx`."""
    worker = StreamWorker(folder, kernels, app)
    worker.use(onnx)
    try:
        with on_core(cores()[0], realtime=realtime):
            worker.start()
        worker.wait_for(lambda report: (report.get("model") or {}).get("version") == 2)
        yield worker
    finally:
        worker.close()


def sender(*arguments: str, timeout: float, realtime: bool = False) -> dict[str, Any]:
    """What `_load.py` found, run on the core of who sends. Raises Failed."""
    command = [sys.executable, str(BENCH / "_load.py"), *arguments]
    with on_core(cores()[1], realtime=realtime):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"the sender did not end within {timeout:.0f} s") from error
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode:
        raise Failed(f"the sender ended with {child.returncode}: {err.decode(errors='replace')[-400:]}")
    found: dict[str, Any] = json.loads(out)
    return found


@contextmanager
def server_of_nothing(folder: Path, *, realtime: bool = False) -> Iterator[tuple[str, int]]:
    """Socket and pid of a server that answers at once, on the core of what is measured."""
    path = folder / "nothing"
    with on_core(cores()[0], realtime=realtime):
        child = subprocess.Popen([sys.executable, str(BENCH / "_load.py"), "nothing", str(path)])
    try:
        deadline = time.monotonic() + 30
        while not path.exists():
            if time.monotonic() > deadline or child.poll() is not None:
                raise Failed("the server that does nothing did not start")
            time.sleep(0.01)
        yield str(path), child.pid
    finally:
        child.kill()
        child.wait()
        path.unlink(missing_ok=True)
