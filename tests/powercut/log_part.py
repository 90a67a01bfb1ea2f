"""The segment log under power cuts, at both durabilities."""

from __future__ import annotations

import random
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from powercut.part import Say, Told, most, need, right
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.segments.layout import Durability, segment_of
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.core.errors import NotFound
from skyriver.data.log import Record, RecordKind


class LogPart:
    """Record o has a payload that follows from o. Closed segments go to a tier, and the beginning is given up."""

    def __init__(self, name: str, durability: Durability) -> None:
        self.name = name
        self._durability = durability

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        for life in range(6):
            log = self._open(root, say)
            for _ in range(luck.randrange(2, 25)):
                self._append(log, luck, say, root)
                if luck.random() < 0.3:
                    self._keep_house(log, luck, say)
            if life % 2:
                log.close()
                say("synced", log.next_offset)
            else:
                log.abandon()

    def check(self, root: Path, told: Told, say: Say) -> None:
        least = most(told, self._promise, 0)
        with suppress(NotFound):
            reader = SegmentReader(_log(root), _tier(root))
            # Of a mark that stayed behind, a reader sees less until the next writer has opened the log, nothing worse.
            self._compare(reader, 0, "a reader", told)
        log = self._open(root, say, told)
        try:
            self._compare(log, least, "the writer", told)
            self._append(log, random.Random(log.next_offset), say, root)
            self._keep_house(log, random.Random(log.next_offset), say)
        finally:
            log.close()
        after = SegmentReader(_log(root), _tier(root))
        need(after.next_offset == log.next_offset, "what was written after the cut is not read")
        need(after.first_offset == log.first_offset, "what was given up after the cut is there")
        self._compare(after, log.next_offset, "a reader after the cut", [("gives", log.first_offset)])

    @property
    def _promise(self) -> str:
        """At "process" only sealed segments are promised to survive the end of the power."""
        return "synced" if self._durability == "disk" else "sealed"

    def _open(self, root: Path, say: Say, told: Told = ()) -> SegmentLog:
        log = open_log(
            _log(root), durability=self._durability, segment_bytes=3_000, holder="examiner", tier=_tier(root)
        )
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

    def _keep_house(self, log: SegmentLog, luck: random.Random, say: Say) -> None:
        for _ in range(luck.randrange(3)):
            log.tier_next()
        if luck.random() < 0.5:
            log.drop_local(luck.randrange(12_000))
        if (parts := log.parts()) and luck.random() < 0.3:
            say("gives", parts[len(parts) // 3].end)
            log.remove_before(parts[len(parts) // 3].end)
            say("begins", log.first_offset)

    def _compare(self, source: SegmentLog | SegmentReader, least: int, who: str, told: Told) -> None:
        first = source.first_offset
        right(first <= most(told, "gives", 0), f"{who} begins with {first}, which nobody gave up")
        need(first >= most(told, "begins", 0), f"{who} begins with {first}, though more was given up")
        records = list(source.read(first))
        need(first + len(records) >= least, f"{who} has {len(records)} records, {least} were acknowledged")
        for place, record in enumerate(records, first):
            right(
                (record.offset, record.payload) == (place, _record(place).payload),
                f"{who} shows another record at {place}",
            )


def _log(root: Path) -> Path:
    return root / "home" / "streams" / "a" / "log"


def _tier(root: Path) -> DirectoryObjects:
    return DirectoryObjects(root / "home" / "tier")


def _record(offset: int) -> Record:
    return Record(RecordKind.EVENT, offset, blake2b(offset.to_bytes(8, "little")).digest() * (offset % 7))
