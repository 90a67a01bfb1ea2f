"""The in-memory twin of `Compute`: processes that exist only as rows, whose reports the caller writes."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from skyriver.core.names import digest
from skyriver.core.resources import ProcessSpec, ProcessStatus


class MemoryCompute:
    """`running` is open to the caller, who plays the processes: `report`, `kill`."""

    def __init__(self) -> None:
        self.running: dict[str, ProcessStatus] = {}
        self.specs: dict[str, ProcessSpec] = {}
        self.starts: list[str] = []

    def observe(self) -> Mapping[str, ProcessStatus]:
        return dict(self.running)

    def ensure(self, wanted: Mapping[str, ProcessSpec], *, keep: Set[str] = frozenset()) -> None:
        for name in self.running.keys() - keep:
            if name not in wanted or digest(dict(wanted[name].config)) != self.running[name].config_digest:
                del self.running[name]
        for name, spec in wanted.items():
            current = self.running.get(name)
            if current is None or (not current.alive and not spec.once):
                self.starts.append(name)
                config = digest(dict(spec.config))
                self.running[name] = ProcessStatus(name, True, pid=len(self.starts), config_digest=config, socket=name)
            self.specs[name] = spec

    def report(self, name: str, **report: Any) -> None:
        """What the process writes as its report."""
        self.running[name] = replace(self.running[name], report={**self.running[name].report, **report})

    def kill(self, name: str, exit_code: int | None = -9) -> None:
        self.running[name] = replace(self.running[name], alive=False, exit_code=exit_code)

    def log(self, name: str, *, offset: int = 0, limit: int = 1 << 16) -> tuple[bytes, int]:
        return b"", 0

    def stop_all(self) -> list[str]:
        names = sorted(self.running)
        self.running.clear()
        return names
