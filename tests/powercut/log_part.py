"""The segment log under power cuts, at both durabilities."""

from __future__ import annotations

import random
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from powercut.part import Say, Told, most, need, right
from skyriver.adapters.segments.layout import Durability, segment_of
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.core.errors import NotFound
from skyriver.data.log import Record, RecordKind


class LogPart:
    """Record o has a payload that follows from o."""

    def __init__(self, name: str, durability: Durability) -> None:
        self.name = name
        self._durability = durability

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        for life in range(6):
            log = self._open(root, say)
            for _ in range(luck.randrange(2, 25)):
                self._append(log, luck, say, root)
            if life % 2:
                log.close()
                say("synced", log.next_offset)
            else:
                log.abandon()

    def check(self, root: Path, told: Told, say: Say) -> None:
        least = most(told, self._promise, 0)
        with suppress(NotFound):
            reader = SegmentReader(_log(root))
            # Of a mark that stayed behind, a reader sees less until the next writer has opened the log, nothing worse.
            self._compare(list(reader.read()), 0, "a reader")
        log = self._open(root, say, told)
        try:
            self._compare(list(log.read()), least, "the writer")
            self._append(log, random.Random(log.next_offset), say, root)
        finally:
            log.close()
        after = SegmentReader(_log(root))
        need(after.next_offset == log.next_offset, "what was written after the cut is not read")
        self._compare(list(after.read()), log.next_offset, "a reader after the cut")

    @property
    def _promise(self) -> str:
        """At "process" only sealed segments are promised to survive the end of the power."""
        return "synced" if self._durability == "disk" else "sealed"

    def _open(self, root: Path, say: Say, told: Told = ()) -> SegmentLog:
        log = open_log(_log(root), durability=self._durability, segment_bytes=3_000, holder="examiner")
        known = most(told, "open", 0)
        need(log.epoch > known, f"epoch {log.epoch} was given before")
        say("open", log.epoch)
        return log

    def _append(self, log: SegmentLog, luck: random.Random, say: Say, root: Path) -> None:
        for _ in range(luck.choice((1, 1, 3))):
            first = log.next_offset
            log.append([_record(offset) for offset in range(first, first + luck.randrange(1, 12))])
        log.sync()
        say("synced", log.next_offset)
        say("sealed", max(found.base for path in _log(root).iterdir() if (found := segment_of(path))))

    def _compare(self, records: list[Record], least: int, who: str) -> None:
        need(len(records) >= least, f"{who} has {len(records)} records, {least} were acknowledged")
        for place, record in enumerate(records):
            right(
                (record.offset, record.payload) == (place, _record(place).payload),
                f"{who} shows another record at {place}",
            )


def _log(root: Path) -> Path:
    return root / "home" / "streams" / "a" / "log"


def _record(offset: int) -> Record:
    return Record(RecordKind.EVENT, offset, blake2b(offset.to_bytes(8, "little")).digest() * (offset % 7))
