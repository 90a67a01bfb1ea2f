"""Where a week of each service's demand is kept: a file a service, in which a minute is written as it ends.

Nothing of it is in memory but the minute that is under way. A control plane that is killed loses that one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from skyriver.control.schedule.history import (
    HEAD,
    MARK,
    Filling,
    Look,
    Minute,
    is_blank,
    is_ours,
    pack,
    place,
    unpack,
)
from skyriver.core.errors import Corrupt, Unavailable
from skyriver.observe.demand import Measured

FOLDER: Final = "demand"
"""In the cloud's home."""


class Histories:
    """Of one thread. Reading is for anybody."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        self._of: dict[str, Filling] = {}

    def note(self, measured: Mapping[str, Measured], wall: float, seconds: float) -> None:
        """What was measured of services, by tenant/name, in `seconds` before `wall`; what is stale is not known. A disk
        that is full loses a minute."""
        for name, seen in measured.items():
            if seen.stale:
                continue
            look = Look(wall, seconds, seen.work, seen.judged, seen.late, seen.start_s, seen.cores, seen.rss_mb)
            minute = self._of.setdefault(name, Filling()).add(look)
            if minute is not None:
                with contextlib.suppress(OSError):
                    self._write(name, minute)

    def keep(self, names: set[str]) -> None:
        """Those that there are no more are forgotten."""
        for name in self._of.keys() - names:
            del self._of[name]
        if not self._folder.exists():
            return
        with contextlib.suppress(OSError):
            for path in list(self._folder.glob("*/*")):
                if f"{path.parent.name}/{path.name}" not in names:
                    path.unlink(missing_ok=True)
            for tenant in self._folder.iterdir():
                if not any(tenant.iterdir()):
                    shutil.rmtree(tenant)

    def _write(self, name: str, minute: Minute) -> None:
        path = self._folder / name
        for again in (False, True):
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                break
            except FileNotFoundError:
                if again:
                    raise
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if not is_ours(os.pread(file, HEAD, 0)):
                os.ftruncate(file, 0)  # it is new, or of a format that nobody reads any more
                os.pwrite(file, MARK, 0)
            os.pwrite(file, pack(minute), place(minute.number))
        finally:
            os.close(file)


def read_history(home: Path, tenant: str, name: str, now: float) -> list[Minute]:
    """Oldest first, until `now`; empty where there is none. Raises Unavailable (HISTORY_UNREADABLE), Corrupt
    (HISTORY_DAMAGED)."""
    path = home / FOLDER / tenant / name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unavailable(
            f"The history of its demand cannot be read: {error.strerror}.",
            code="HISTORY_UNREADABLE",
            where=str(path),
            next_action="Make it a file that the cloud's user may read, or remove it: it is then begun anew.",
        ) from error
    found = list(unpack(data, now))
    if not found and not is_blank(data):
        raise Corrupt(
            "The history of its demand is damaged, or of another release.",
            code="HISTORY_DAMAGED",
            where=str(path),
            next_action="Remove the file: while the service runs it is begun anew, and a day of it is needed.",
        )
    return found
