"""The exam of what becomes of a log's old part, on each log and each tier."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest
from s3_server import S3Server

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.memory.log import MemoryLog, MemoryLogReader, MemoryLogStore
from skyriver.adapters.memory.objects import MemoryObjects
from skyriver.adapters.s3.objects import Patience, S3Objects
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.adapters.segments.manifest import read_manifest
from skyriver.core.errors import Unavailable
from skyriver.core.objects import IdentifiedObjects
from skyriver.data.retention_exam import RETENTION_CHECKS, Make, RetentionHarness, check_retained_log


class Switch:
    """A tier that can be away."""

    def __init__(self, *objects: IdentifiedObjects) -> None:
        self.objects, *self.others = objects
        self.away = False

    def switch(self) -> None:
        self.objects, self.others = self.others[0], [self.objects]

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise Unavailable("The tier is away.", code="OBJECTS_UNREACHABLE", where="exam")
        return getattr(self.objects, name)

    @contextmanager
    def off(self) -> Iterator[None]:
        self.away = True
        yield
        self.away = False


class SegmentsAndTier:
    def __init__(self, folder: Path, *objects: IdentifiedObjects) -> None:
        self.directory, self.tier = folder / "log", Switch(*objects)
        self.log: SegmentLog | None = None

    def open(self) -> SegmentLog:
        tier: Any = self.tier
        self.log = open_log(self.directory, durability="process", segment_bytes=1000, holder="exam", tier=tier)
        return self.log

    def reader(self) -> SegmentReader:
        tier: Any = self.tier
        return SegmentReader(self.directory, tier)

    def crash(self) -> None:
        assert self.log is not None
        self.log.abandon()

    def usurp(self) -> SegmentLog:
        (self.directory / "lock").unlink()
        return self.open()

    def switch_tier(self) -> None:
        self.tier.switch()

    def tier_away(self) -> Any:
        return self.tier.off()

    def rot_in_tier(self, base: int) -> None:
        digest = read_manifest(self.directory).tiered[base].digest
        objects = self.tier.objects
        if isinstance(objects, S3Objects):
            key = f"{digest[:2]}/{digest}"
            obstore.put(objects._store, key, _flipped(bytes(obstore.get(objects._store, key).bytes())))
            objects._cache.delete(digest)
        else:
            path = objects.open_path(digest)
            data = path.read_bytes()
            path.chmod(0o600)
            path.write_bytes(_flipped(data))

    def objects(self) -> int:
        objects = self.tier.objects
        if isinstance(objects, S3Objects):
            return sum(item["path"] != "identity" for found in obstore.list(objects._store) for item in found)
        return sum(1 for _ in objects._root.glob("??/*"))  # type: ignore[attr-defined]


class MemoryAndTier:
    def __init__(self) -> None:
        self.tier, self.other = Switch(MemoryObjects()), Switch(MemoryObjects())
        tier: Any = self.tier
        self.store = MemoryLogStore(part_records=7, tier=tier)
        self.log: MemoryLog | None = None

    def open(self) -> MemoryLog:
        self.log = self.store.open()
        return self.log

    def usurp(self) -> MemoryLog:
        return self.open()

    def reader(self) -> MemoryLogReader:
        return self.store.reader()

    def crash(self) -> None:
        assert self.log is not None
        self.log.abandon()

    def switch_tier(self) -> None:
        self.tier, self.other = self.other, self.tier
        tier: Any = self.tier
        self.store.tier = tier

    def tier_away(self) -> Any:
        return self.tier.off()

    def rot_in_tier(self, base: int) -> None:
        held = self.tier.objects._objects  # type: ignore[attr-defined]
        digest, _ = self.store.tiered[base]
        held[digest] = _flipped(held[digest])

    def objects(self) -> int:
        return len(self.tier.objects._objects)  # type: ignore[attr-defined]


def _flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]


@pytest.fixture(params=["memory", "segments, directory", "segments, s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    numbers = itertools.count()
    calm = Patience(connect_s=60, request_s=60, retries=1, retry_s=60)

    def build() -> RetentionHarness:
        folder = tmp_path / str(next(numbers))
        if request.param == "memory":
            return MemoryAndTier()
        if request.param == "segments, directory":
            return SegmentsAndTier(folder, *(DirectoryObjects(folder / name) for name in ("tier", "other")))
        server: S3Server = request.getfixturevalue("s3")

        def bucket(name: str) -> S3Objects:
            return S3Objects(server.place(secrets.token_hex(8)), folder / name, cache_bytes=4000, patience=calm)

        return SegmentsAndTier(folder, bucket("cache"), bucket("other cache"))

    return build


@pytest.mark.parametrize("check", RETENTION_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Make], None], make: Make) -> None:
    check(make)


def test_the_exam_finds_a_log_that_gives_up_too_much() -> None:
    class Generous(MemoryAndTier):
        def open(self) -> MemoryLog:
            log = super().open()
            given = log.remove_before
            log.remove_before = lambda offset: given(offset + 7)  # type: ignore[method-assign]
            return log

    with pytest.raises(AssertionError, match="broken law"):
        check_retained_log(Generous)
