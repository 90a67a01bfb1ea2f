"""The files of HOME/run by which a process is known: who it is, what it was given, what it tells.

NAME.run.json says which process bears the name; NAME.config.json and NAME.live.json are what it is given,
NAME.watch.json what its watcher is given; NAME.status.json is its own report, NAME.ending.json how it ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from skyriver.adapters.processes.identity import Identity

REPORT_LIMIT = 16_000_000
"""Bytes of a file that is read as a whole: one that is larger was not written by what should write it."""
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
    fence: int = 0
    """Of the control plane that started it."""

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_time, self.boot)


Signature = tuple[int, int, int, int]


class RunFiles:
    """Reads a file again only when it is another one: all of them are looked at in every pass."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._folder = str(directory)
        self._kept: dict[str, tuple[Signature, dict[str, Any]]] = {}
        self._recorded: dict[str, Signature | None] = {}

    def path(self, name: str, part: str) -> Path:
        return Path(self._path(name, part))

    def _path(self, name: str, part: str) -> str:
        return f"{self._folder}/{name}.{part}.json"

    def all(self, *, but: Set[str] = frozenset()) -> list[Run]:
        """Those that are recorded, without the names in `but`."""
        with os.scandir(self.directory) as files:
            names = {file.name.removesuffix(".run.json") for file in files if file.name.endswith(".run.json")}
        found = (self.run(name) for name in sorted(names - but))
        return [run for run in found if run is not None]

    def run(self, name: str) -> Run | None:
        """None where there is no run file, or no whole one."""
        self._recorded[name] = self.signature(name, "run")
        try:
            return Run(**json.loads(self.path(name, "run").read_bytes()))
        except (ValueError, TypeError, FileNotFoundError):
            return None

    def tokens(self) -> frozenset[str]:
        """Of all processes that are recorded now."""
        return frozenset(run.token for run in RunFiles(self.directory).all())

    def record(self, run: Run) -> None:
        self.write(run.name, "run", asdict(run))
        self._recorded[run.name] = self.signature(run.name, "run")

    def changed(self, name: str) -> bool:
        """Whether somebody else has written the run file since it was read or recorded here."""
        return self.signature(name, "run") != self._recorded.get(name)

    def write(self, name: str, part: str, document: Mapping[str, Any]) -> None:
        path = self.path(name, part)
        temporary = path.with_suffix(".tmp")
        # Always a new file: another control plane may have been stopped while it wrote one of this name, and what it
        # goes on to write must not get into what is renamed here.
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(json.dumps(document).encode())
        temporary.replace(path)

    def signature(self, name: str, part: str) -> Signature | None:
        """Another one, when the file is; None when there is none."""
        try:
            stat = os.stat(self._path(name, part))  # noqa: PTH116  # a thousand times in a pass
        except FileNotFoundError:
            return None
        return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size)

    def read(self, name: str, part: str) -> Mapping[str, Any]:
        """{} where there is none, or no whole one."""
        path = self._path(name, part)
        signature = self.signature(name, part)
        kept = self._kept.get(path)
        if signature is None:
            self._kept.pop(path, None)
            return {}
        if kept is not None and kept[0] == signature:
            return kept[1]
        if signature[-1] > REPORT_LIMIT:
            return {}
        try:
            found = as_json(Path(path).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):  # the last one: brackets a thousand deep
            return {}
        self._kept[path] = (signature, found)
        return found

    def remove(self, name: str) -> None:
        self._recorded.pop(name, None)
        for part in PARTS:
            self._kept.pop(self._path(name, part), None)
            self.path(name, part).unlink(missing_ok=True)
        self.path(name, "ending").with_suffix(".json.new").unlink(missing_ok=True)


def as_json(data: bytes) -> dict[str, Any]:
    """A report as what every store can keep: no NaN, no halves of characters, whatever a user's error said."""
    if b"\\ud" in data:
        data = json.dumps(_whole_texts(json.loads(data))).encode()
    try:
        found = msgspec.json.decode(data)
    except ValueError:  # it reads no NaN
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
