"""kill -9 of a log's writer at any moment: nothing that it acknowledged is lost, and the order stays whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import pytest

from skyriver.adapters.segments.log import SegmentReader, open_log
from skyriver.data.log import RecordKind

KILLS = 20

WRITER = """
import os, random, sys
from hashlib import blake2b
from pathlib import Path
from skyriver.adapters.segments.log import open_log
from skyriver.data.log import Record, RecordKind

directory, durability, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
chance = random.Random(seed)
log = open_log(directory, durability=durability, segment_bytes=20_000, holder="writer", take_over=True)
while True:
    first = log.next_offset
    records = []
    for offset in range(first, first + chance.randrange(1, 30)):
        digest = blake2b(offset.to_bytes(8, "little")).digest()
        records.append(Record(RecordKind.EVENT, offset, digest * (offset % 7)))
    log.append(records)
    if chance.random() < 0.8:
        log.sync()
        os.write(1, log.next_offset.to_bytes(8, "little"))
"""


def payload(offset: int) -> bytes:
    return blake2b(offset.to_bytes(8, "little")).digest() * (offset % 7)


def kill_after(process: subprocess.Popen[bytes], acknowledgements: int) -> int:
    """The highest offset that the process said was synced, when it was killed after so many words."""
    assert process.stdout is not None
    said = b""
    while len(said) < 8 * acknowledgements:
        said += os.read(process.stdout.fileno(), 1 << 16)
    process.kill()
    said += process.stdout.read()
    assert process.wait(60) == -9
    process.stdout.close()
    return max((int.from_bytes(said[at : at + 8], "little") for at in range(0, len(said) - 7, 8)), default=0)


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_killed_writer_loses_nothing(tmp_path: Path, durability: str) -> None:
    chance = random.Random(20240607)
    acknowledged = 0
    kills = KILLS if durability == "process" else KILLS // 4
    for life in range(kills):
        command = [sys.executable, "-c", WRITER, str(tmp_path), durability, str(life)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        acknowledged = max(acknowledged, kill_after(process, chance.randrange(1, 60)))
        reader = SegmentReader(tmp_path)
        assert reader.next_offset >= acknowledged
        if life % 5 == 4:
            offsets = [record.offset for record in reader.read()]
            assert offsets == list(range(reader.next_offset))

    log = open_log(tmp_path, durability="process", holder="parent")
    assert log.epoch == kills + 1
    assert log.next_offset >= acknowledged
    epoch = 0
    for expected, record in enumerate(log.read()):
        assert record.offset == record.time == expected
        assert record.kind is RecordKind.EVENT
        assert record.payload == payload(expected)
        assert record.epoch >= epoch
        epoch = record.epoch
    assert expected + 1 == log.next_offset
    log.close()


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_reader_follows_a_writer_that_goes_on_and_changes_hands(tmp_path: Path, durability: str) -> None:
    deadline = time.monotonic() + 600  # of four starts of Python and as many thousand syncs, beside what else runs
    position, lives = 0, 0
    process: subprocess.Popen[bytes] | None = None
    reader = SegmentReader(tmp_path)
    try:
        while lives < 4:
            assert time.monotonic() < deadline
            if process is None:
                command = [sys.executable, "-c", WRITER, str(tmp_path), durability, str(lives)]
                process = subprocess.Popen(command, stdout=subprocess.PIPE)
                assert process.stdout is not None
                assert process.stdout.read(8)
                enough = position + 1000
            for record in reader.read(position):
                assert record.offset == position
                assert record.payload == payload(position)
                position += 1
            if position > enough:
                assert process.stdout is not None
                process.kill()
                process.stdout.close()
                process.wait(60)
                process, lives = None, lives + 1
            elif process.stdout is not None:
                os.read(process.stdout.fileno(), 1 << 16)
    finally:
        if process is not None:
            process.kill()
            process.wait(60)
            assert process.stdout is not None
            process.stdout.close()
    assert len(list(tmp_path.glob("*.log"))) > 4
    assert [record.offset for record in SegmentReader(tmp_path).read()][:position] == list(range(position))
