"""All parts that are examined."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from powercut.home_part import HomePart
from powercut.leases_part import LeasesPart
from powercut.log_part import LogPart
from powercut.migration_part import MigrationPart
from powercut.objects_part import ObjectsPart
from powercut.part import PARTS, Part
from powercut.store_part import StorePart
from powercut.stream_part import StreamPart
from powercut.tables_part import TablesPart
from skyriver.adapters.sqlite.driver import newest_driver


def make_parts(kernels: Path) -> dict[str, Part]:
    """By their names. `kernels`: where compiled kernels are kept."""
    parts: list[Part] = [
        StorePart("store", newest_driver()),
        StorePart("store, Python's SQLite", sqlite3),
        MigrationPart(),
        LogPart("log, disk", "disk"),
        LogPart("log, process", "process"),
        ObjectsPart(),
        TablesPart(),
        HomePart(),
        LeasesPart(),
        StreamPart("stream, disk", "disk", kernels),
        StreamPart("stream, process", "process", kernels),
        StreamPart("stream, process, retention", "process", kernels, retention=True),
    ]
    found = {part.name: part for part in parts}
    assert tuple(found) == PARTS
    return found
