"""What the cloud's disk holds of each tenant, and whose it is. It walks through folders: seldom, and never for long."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from skyriver.core.resources import Resource, Snapshot
from skyriver.core.usage import Subject
from skyriver.observe.metering import app_of
from skyriver.wiring.home import Home

ENTRIES: Final = 200_000
"""Files and folders that one walk looks at; what is beyond is not counted."""


def stored(home: Home, snapshot: Snapshot) -> Mapping[tuple[str, Subject], int]:
    """Bytes of tables, of streams with their logs, and of the files that versions of models name."""
    left = [ENTRIES]
    found: Counter[tuple[str, Subject]] = Counter()
    for kind, root in (("table", home.tables), ("stream", home.streams)):
        for row in snapshot.rows.every(kind):
            size = sum(_sizes(root / row.tenant / row.name, left))
            found[row.tenant, Subject(app_of(row), kind, row.name)] += size
    for row in snapshot.rows.every("model"):
        subject = Subject(app_of(row), "model", row.name)
        found[row.tenant, subject] += sum(_object(home, digest) for digest in _artifacts(snapshot, row))
    return {key: size for key, size in found.items() if size}


def _artifacts(snapshot: Snapshot, model: Resource) -> set[str]:
    versions = snapshot.all(model.tenant, "version")
    return {str(row.spec.get("artifact", "")) for row in versions if row.spec.get("model") == model.name} - {""}


def _object(home: Home, digest: str) -> int:
    try:
        return (home.objects / digest[:2] / digest).stat().st_size
    except OSError:
        return 0


def _sizes(folder: Path, left: list[int]) -> Iterator[int]:
    """Bytes on the disk of all files in it; `left` entries are looked at, in all walks of a measure."""
    folders = [str(folder)]
    while folders and left[0] > 0:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    left[0] -= 1
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif left[0] > 0:
                        yield entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue  # it has gone meanwhile
