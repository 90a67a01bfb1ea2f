"""The price of durability: an acknowledged append of 2 kB at each level of the log, beside the bare operations.

    python bench/durability.py [--appends 3000] [--quick]

All four in turn, in one process on one disk. Prints one JSON document; progress goes to stderr.
Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _document import Document, Goal

from skyriver.adapters.segments.log import SegmentLog, open_log
from skyriver.data.log import Record, RecordKind

BYTES = 2_000
APPENDS = 3_000
GOALS = (Goal("disk_ratio_to_bare_fdatasync", "<=", 2.0, "ratio of medians"),)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--appends", type=int, default=0, help=f"at each level ({APPENDS}; with --quick a fifth)")
    parser.add_argument("--quick", action="store_true", help="fewer")
    given = parser.parse_args()
    document = Document("durability", GOALS)
    appends = given.appends or (APPENDS // 5 if given.quick else APPENDS)
    document.part([goal.name for goal in GOALS], lambda: measure(document, appends))
    return 0 if document.print() else 1


def measure(document: Document, appends: int) -> None:
    payload = os.urandom(BYTES)
    with tempfile.TemporaryDirectory(prefix="durability-") as folder:
        process = open_log(Path(folder) / "process", durability="process", holder="bench")
        disk = open_log(Path(folder) / "disk", durability="disk", holder="bench")
        files = [os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("bare", "synced")]

        def write_and_sync() -> None:
            os.write(files[1], payload)
            os.fdatasync(files[1])

        levels: dict[str, Callable[[], object]] = {
            "bare write": lambda: os.write(files[0], payload),
            'log, "process"': lambda: _append(process, payload),
            "bare write + fdatasync": write_and_sync,
            'log, "disk"': lambda: _append(disk, payload),
        }
        times: dict[str, list[float]] = {name: [] for name in levels}
        for _ in range(appends):
            for name, append in levels.items():
                begun = time.perf_counter()
                append()
                times[name].append(1e6 * (time.perf_counter() - begun))
        process.close()
        disk.close()
        for file in files:
            os.close(file)
    for name, found in times.items():
        ordered = sorted(found)
        figures = {f"p{share}_us": round(ordered[int(len(ordered) * share / 100)], 1) for share in (50, 99)}
        document.row("skyriver" if name.startswith("log") else "control", name, appends=appends, **figures)
    half = appends // 2
    ratio = sorted(times['log, "disk"'])[half] / sorted(times["bare write + fdatasync"])[half]
    document.measured(GOALS[0].name, round(ratio, 2))


def _append(log: SegmentLog, payload: bytes) -> None:
    log.append([Record(RecordKind.EVENT, 0, payload)])
    log.sync()


if __name__ == "__main__":
    raise SystemExit(main())
