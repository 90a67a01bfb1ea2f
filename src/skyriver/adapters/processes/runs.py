"""The files of HOME/run by which a process is known: who it is, what it was given, what it tells.

NAME.run.json says which process bears the name; NAME.config.json and NAME.live.json are what it is given,
NAME.watch.json what its watcher is given; NAME.status.json is its own report, NAME.ending.json how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skyriver.adapters.processes.identity import Identity

PARTS = ("run", "config", "live", "watch", "status", "ending")


@dataclass(slots=True)
class Run:
    """One run file."""

    name: str
    module: str
    tenant: str
    once: bool
    pid: int
    start_time: int
    boot: str
    token: str
    config_digest: str
    live_digest: str
    socket: str
    started_at: float
    restarts: int = 0
    watched: bool = False
    """`pid` is that of its watcher."""
    groups: list[str] = field(default_factory=list)
    """Control groups that hold it."""
    held_by: str = ""

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_time, self.boot)


class RunFiles:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str, part: str) -> Path:
        return self.directory / f"{name}.{part}.json"

    def all(self) -> list[Run]:
        runs = []
        for path in self.directory.glob("*.run.json"):
            with contextlib.suppress(ValueError, TypeError, FileNotFoundError):
                runs.append(Run(**json.loads(path.read_bytes())))
        return runs

    def record(self, run: Run) -> None:
        self.write(run.name, "run", asdict(run))

    def write(self, name: str, part: str, document: Mapping[str, Any]) -> None:
        path = self.path(name, part)
        temporary = path.with_suffix(".tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(json.dumps(document).encode())
        temporary.replace(path)

    def read(self, name: str, part: str) -> dict[str, Any]:
        """{} where there is none, or no whole one."""
        try:
            return as_json(self.path(name, part).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def remove(self, name: str) -> None:
        for part in PARTS:
            self.path(name, part).unlink(missing_ok=True)
        self.path(name, "ending").with_suffix(".json.new").unlink(missing_ok=True)


def as_json(data: bytes) -> dict[str, Any]:
    """A report as what every store can keep: no NaN, no halves of characters, whatever a user's error said."""
    if b"\\ud" in data:
        data = json.dumps(_whole_texts(json.loads(data))).encode()
    found = json.loads(data, parse_constant=lambda _: None)
    return found if isinstance(found, dict) else {}


def _whole_texts(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_whole_texts(k): _whole_texts(v) for k, v in value.items()}
        case list():
            return [_whole_texts(v) for v in value]
        case _:
            return value
