"""What a worker prints, with its number before each line: the log of a job is of all of them."""

from __future__ import annotations

import io
import sys


class Named(io.TextIOWrapper):
    """A line goes out whole, so that those of several workers are not mixed."""

    def __init__(self, file: int, name: str) -> None:
        out = io.BufferedWriter(io.FileIO(file, "w", closefd=False))
        super().__init__(out, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._name, self._begins = f"{name} | ", True

    def write(self, text: str) -> int:
        for line in io.StringIO(text, newline="\n"):
            super().write(self._name + line if self._begins else line)
            self._begins = line.endswith("\n")
        return len(text)


def name_lines(worker: int) -> None:
    """Of this process, from now on. What a library writes past Python has no number."""
    sys.stdout.flush()
    sys.stderr.flush()
    sys.stdout, sys.stderr = (Named(file, f"worker {worker}") for file in (1, 2))
