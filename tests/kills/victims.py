"""The processes of a cloud by what they are, as its run files name them, and how they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_process import Cloud, wait_for

from skyriver.adapters.processes.identity import Identity

KINDS = ("supervisor", "control", "gateway", "replica", "worker", "job")
_FILES = {"supervisor": "run/supervisor.json", "control": "run/control.json", "gateway": "gateway/haproxy.json"}


@dataclass(frozen=True, slots=True)
class Victim:
    kind: str
    name: str
    identity: Identity
    record: Path
    """Its run file."""

    @property
    def pid(self) -> int:
        return self.identity.pid


def living(cloud: Cloud, kind: str) -> list[Victim]:
    """Those of a kind that are recorded and live."""
    if kind in _FILES:
        paths = [cloud.home / _FILES[kind]]
    else:
        paths = sorted((cloud.home / "run").glob(f"default.{kind}.*.run.json"))
    found = []
    for path in paths:
        victim = _of(kind, path)
        if victim is not None and victim.identity.alive():
            found.append(victim)
    return found


def _of(kind: str, path: Path) -> Victim | None:
    run = read_json(path)
    try:
        identity = Identity(run["pid"], run["start_time"], run["boot"])
    except KeyError:
        return None
    name = str(run["name"]).partition(f".{kind}.")[2] if "name" in run else kind
    return Victim(kind, name, identity, path)


def read_json(path: Path) -> dict[str, Any]:
    """{} when it is not there, or no document."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def below(pid: int) -> list[int]:
    """The processes that `pid` started, the last first."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [*below(int(child)), int(child)]
    return found


def kill(pid: int, *, stop: bool) -> None:
    """kill -9 and it is dead, or SIGSTOP and it is stopped, when this returns."""
    os.kill(pid, signal.SIGSTOP if stop else signal.SIGKILL)
    ended = {"", "T"} if stop else {"", "X", "Z"}
    wait_for(lambda: state_of(pid) in ended, f"{pid} is dead or stopped")


def state_of(pid: int) -> str:
    """The letter of /proc, "" when it is gone. Dead is who has no thread left: before that its sockets still listen."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "R" if state == "Z" and threads > 1 else state
