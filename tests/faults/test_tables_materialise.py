"""The job that makes a stream's tables is killed, again and again: each row is there once, in its order."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
from forked import forking

from skyriver.adapters.delta.ledger import read_ledger
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.segments.log import open_log
from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.records import DeadRecord, encode, encode_event
from skyriver.wiring.work.history import newest_history

EVENTS = 400
STREAM = StreamSpec(
    name="payments",
    fields=(FieldSpec(name="payment", type="int"), FieldSpec(name="at", type="time")),
    id="payment",
    time="at",
    key="payment",
)

JOB = """
import os, signal, sys
from pathlib import Path
from skyriver.adapters.delta import compacting, writing
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.segments.log import SegmentReader
from skyriver.core.spec import StreamSpec
from skyriver.data import materialise

home, spec, point, left = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
place = compacting if point in ("_merge", "_commit", "remove_old") else writing
inner = getattr(place, point)

def dying(*given, **named):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*given, **named)

setattr(place, point, dying)
compacting.EVERY, compacting.KEPT_SECONDS, compacting.TARGET_ROWS = 2, -1.0, 1_000
materialise.COMMIT_ROWS = 100
tables = DeltaTables(home / "tables")
stream = StreamSpec.model_validate_json(spec)
materialise.materialise(stream, SegmentReader(home / "log"), tables, "acme", {}, lambda stage, done, total: None)
"""


LOADED = ("skyriver.adapters.delta.compacting", "skyriver.adapters.segments.log", "skyriver.data.materialise")


def run_job(home: Path, point: str, left: int) -> int:
    arguments = [str(home), STREAM.model_dump_json(), point, str(left)]
    code, errors = forking(*LOADED).run(JOB, *arguments)
    assert code in (0, -signal.SIGKILL), errors
    return code


def test_each_row_is_there_once(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    log = open_log(tmp_path / "log", durability="process", holder="test")
    for number in range(EVENTS):
        log.append([Record(RecordKind.EVENT, number, encode_event(0, [number, number]))])
        if number % 5 == 0:
            log.append([Record(RecordKind.DEAD, number, encode(DeadRecord("MISSING", "at", str(number), b"{}")))])
    log.sync()
    log.close()

    killed = 0
    points = (("write_file", 2), ("commit", 3), ("sync_commit", 4), ("sync_folder", 9))
    for point, left in (*points, ("_merge", 1), ("_commit", 1), ("checkpoint", 1), ("remove_old", 2)):
        killed += run_job(tmp_path, point, left) != 0
    assert killed >= 7
    assert run_job(tmp_path, "commit", 10_000) == 0

    tables = DeltaTables(tmp_path / "tables")
    version = tables.latest("acme/payments")
    assert version.offset == EVENTS + EVENTS // 5 - 1
    events = pl.concat(list(tables.scan("acme/payments", version.version)))
    assert read_ledger(tmp_path / "tables/acme/payments", version.version).base > 0, "small files were put together"
    assert events["payment"].to_list() == list(range(EVENTS))
    assert events["_offset"].is_sorted()
    dead = tables.latest("acme/payments.dead")
    refused = pl.concat(list(tables.scan("acme/payments.dead", dead.version)))
    assert refused["message"].to_list() == [str(number) for number in range(0, EVENTS, 5)]


def test_training_sees_the_events_of_the_minutes_before(tmp_path: Path) -> None:
    """Whoever trains takes the newest version; what came since the one before is in it, once."""
    (tmp_path / "log").mkdir()
    log = open_log(tmp_path / "log", durability="process", holder="test")
    job: Any = SimpleNamespace(home=SimpleNamespace(tables=tmp_path / "tables"), table=lambda name: f"acme/{name}")
    seen = []
    for minute in range(3):
        for number in range(100 * minute, 100 * minute + 100):
            log.append([Record(RecordKind.EVENT, number, encode_event(0, [number, number]))])
        log.sync()
        assert run_job(tmp_path, "commit", 10_000) == 0
        history = newest_history(job, STREAM)
        seen.append(history.table.rows)
        rows = pl.concat(list(DeltaTables(tmp_path / "tables").scan("acme/payments", history.table.version)))
        assert rows["payment"].to_list() == list(range(100 * minute + 100))
    log.close()
    assert seen == [100, 200, 300]
