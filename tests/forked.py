"""`python -c TEXT ARGUMENTS` without its start: a process that has imported what the text needs forks for each.

To start Python and import Polars and Delta Lake takes many times as long as what a test lets a process do until it is
killed, and such tests start it a hundred times. What is forked has used nothing of what is imported: neither library
has begun the threads that work for it before it is first used.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

DEADLINE_S = 60
HUNG = "hung\n"
_TIDYING = ("jemalloc_bg_thd", "polars-ooc-clea")
"""Threads that give memory and files back when they have time: nothing waits for them."""


class Forking:
    """Ends with the process that made it, however that ends."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )

    def run(self, text: str, *arguments: str) -> tuple[int, str]:
        """Its exit code, as `subprocess` tells it, and what it printed as errors."""
        with tempfile.NamedTemporaryFile() as errors:
            print(json.dumps([text, errors.name, *arguments]), file=_open(self._process.stdin), flush=True)
            code = _open(self._process.stdout).readline()
            assert code, "what forks has ended"
            assert code != HUNG, f"not done within {DEADLINE_S} s: {errors.read().decode()}"
            return int(code), errors.read().decode()

    def close(self) -> None:
        _open(self._process.stdin).close()
        self._process.wait(timeout=60)
        _open(self._process.stdout).close()


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@cache
def forking(*modules: str) -> Forking:
    """One for all tests of this process that need these modules."""
    found = Forking(modules)
    atexit.register(found.close)
    return found


def _main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    threads = {(task / "comm").read_text().strip() for task in tasks}
    assert threads <= set(_TIDYING), f"who waits in a fork for one of these, would for ever: {threads}"
    for line in sys.stdin:
        text, errors, *arguments = json.loads(line)
        if (pid := os.fork()) == 0:
            _become(text, errors, arguments)
        ended = select.poll()
        ended.register(descriptor := os.pidfd_open(pid), select.POLLIN)
        in_time = ended.poll(DEADLINE_S * 1_000)
        os.close(descriptor)
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(code if in_time else HUNG.strip(), flush=True)


def _become(text: str, errors: str, arguments: Sequence[str]) -> None:
    code = 1
    try:
        null, told = os.open(os.devnull, os.O_RDWR), os.open(errors, os.O_WRONLY)
        for number, stream in enumerate((null, null, told)):
            os.dup2(stream, number)
        sys.argv = ["-c", *arguments]
        exec(compile(text, "<text>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.pop(0)  # the tests' folder
    _main()
