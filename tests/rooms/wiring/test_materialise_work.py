"""Tables are made of what the disk has of the log."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from skyriver.adapters.segments.log import SegmentReader, open_log
from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.records import encode_event
from skyriver.wiring.home import Home
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.materialise import bring_up_to_date

STREAM = StreamSpec(
    name="payments",
    fields=(FieldSpec(name="payment", type="int"), FieldSpec(name="at", type="time")),
    id="payment",
    time="at",
    key="payment",
)


def event(number: int) -> Record:
    return Record(RecordKind.EVENT, number, encode_event(0, [number, number]))


def job(home: Path) -> Job:
    found: Any = SimpleNamespace(
        tenant="acme",
        home=Home(home),
        known={},
        table=lambda name: f"acme/{name}",
        stream_directory=lambda name: home / name,
        progress=lambda stage, done, total: None,
    )
    return cast(Job, found)


def test_only_what_was_synced_enters_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path / "payments" / "log", durability="process", segment_bytes=400, holder="test")
    for number in range(20):
        log.append([event(number)])
        log.sync()
    synced: list[Path] = []
    sync = os.fdatasync

    def grows(descriptor: int) -> None:
        """The log goes on while its segment is put on the disk."""
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)
        with monkeypatch.context() as before:
            before.setattr(os, "fdatasync", sync)
            log.append([event(20)])
            log.sync()

    last = max((tmp_path / "payments" / "log").glob("*.log"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", grows)
        made = bring_up_to_date(job(tmp_path), STREAM)
    assert synced == [last]
    assert (made["payments"].rows, made["payments"].offset) == (20, 19)
    assert bring_up_to_date(job(tmp_path), STREAM)["payments"].rows == 21
    log.close()


def test_a_log_that_is_not_open_or_empty_is_synced_too(tmp_path: Path) -> None:
    log = open_log(tmp_path, durability="process", holder="test")
    assert SegmentReader(tmp_path).sync() == 0
    log.append([event(1)])
    assert SegmentReader(tmp_path).sync() == 0
    log.close()
    assert SegmentReader(tmp_path).sync() == 1
