"""The manifest of a log that lives long: it stays small, is read once, and tells tiers from each other."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.segments import manifest as manifest_module
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.adapters.segments.manifest import ENTRY_BYTES, UNKNOWN, ManifestWriter, Tiered, read_manifest
from skyriver.core.errors import Corrupt, Unavailable
from skyriver.core.exam import must_raise
from skyriver.data.log import Record, RecordKind
from skyriver.data.retention import Keep, Upkeep

LOG_ID = b"x" * 16


class Counting(DirectoryObjects):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.deleted: list[str] = []

    def delete(self, digest: str) -> None:
        self.deleted.append(digest)
        super().delete(digest)


def opened(folder: Path, tier: str = "tier") -> tuple[SegmentLog, Counting]:
    objects = Counting(folder / tier)
    log = open_log(folder / "log", durability="process", segment_bytes=1000, holder="test", tier=objects)
    return log, objects


def fill(log: SegmentLog, count: int) -> None:
    for _ in range(count):
        log.append([Record(RecordKind.EVENT, log.next_offset, log.next_offset.to_bytes(4, "little") * 25)])
        log.sync()


def drain(log: SegmentLog) -> None:
    while log.tier_next():
        pass


def test_an_object_is_deleted_once_however_often_the_log_is_opened(tmp_path: Path) -> None:
    deleted: list[str] = []
    given_up = 0
    for _ in range(4):
        log, objects = opened(tmp_path)
        fill(log, 120)
        drain(log)
        parts = log.parts()
        given_up += len(parts) - 2
        log.remove_before(parts[-3].end)
        drain(log)
        deleted += objects.deleted
        log.close()
    assert len(deleted) == len(set(deleted)) == given_up > 40
    manifest = read_manifest(tmp_path / "log")
    assert not manifest.leftover
    assert {path.name for path in (tmp_path / "tier").glob("??/*")} == {t.digest for t in manifest.tiered.values()}


def test_what_was_not_deleted_for_the_tier_was_away_stays_named(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    fill(log, 30)
    drain(log)
    log.remove_before(log.parts()[1].end)
    log.close()
    assert len(read_manifest(tmp_path / "log").leftover) == 2
    log, objects = opened(tmp_path)
    drain(log)
    assert len(objects.deleted) == 2
    log.close()


def test_the_manifest_is_rewritten_while_the_log_is_open(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    most = 0
    for _ in range(20):
        fill(log, 60)
        drain(log)
        log.remove_before(log.parts()[-3].end)
        drain(log)
        most = max(most, (tmp_path / "log" / "manifest").stat().st_size)
    assert read_manifest(tmp_path / "log").entries <= 2 * read_manifest(tmp_path / "log").live + 64
    assert most < 90 * ENTRY_BYTES, "a hundred segments came and went, of which a few are there"
    first = log.first_offset
    offsets = [
        record.offset for record in SegmentReader(tmp_path / "log", DirectoryObjects(tmp_path / "tier")).read(first)
    ]
    assert offsets == list(range(first, log.next_offset))
    log.close()


def test_a_rewriting_that_fails_leaves_the_manifest_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ManifestWriter(tmp_path, LOG_ID)
    writer.begin_at(1, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "replace_file", full)
        for number in range(2, 200):
            writer.begin_at(number, number)
    assert read_manifest(tmp_path).begin == 199
    assert read_manifest(tmp_path).entries == 200
    writer.begin_at(200, 200)
    assert read_manifest(tmp_path).begin == 200
    assert read_manifest(tmp_path).entries < 70


def test_a_reading_of_many_tiered_segments_does_not_parse_the_manifest_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = opened(tmp_path)
    fill(log, 200)
    drain(log)
    log.drop_local(0)
    parses: list[Path] = []
    parse = manifest_module._parse

    def counted(data: bytes, path: Path) -> Any:
        parses.append(path)
        return parse(data, path)

    monkeypatch.setattr(manifest_module, "_parse", counted)
    reader = SegmentReader(tmp_path / "log", DirectoryObjects(tmp_path / "tier"))
    assert len(list(reader.read())) == 200
    assert len(log.parts()) > 20
    assert len(parses) <= 2
    fill(log, 20)
    drain(log)
    log.drop_local(0)
    assert len(list(reader.read())) == 220
    assert len(parses) <= 4, "once more when it has changed"
    log.close()


def test_what_an_older_release_wrote_is_read_and_found_in_the_tier(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    fill(log, 60)
    drain(log)
    log.drop_local(3000)
    log.remove_before(log.parts()[0].end)
    log.close()
    path = tmp_path / "log" / "manifest"
    older(path)
    log, objects = opened(tmp_path)
    assert {t.tier for t in read_manifest(tmp_path / "log").tiered.values()} == {UNKNOWN}
    drain(log)
    assert {t.tier for t in read_manifest(tmp_path / "log").tiered.values()} == {objects.identity()}
    assert len(objects.deleted) == 1
    assert all(part.tiered for part in log.parts())
    assert log.sizes().unreachable is None
    log.drop_local(0)
    assert len(list(log.read(log.first_offset))) == log.next_offset - log.first_offset
    log.close()

    older(path)
    log, _ = opened(tmp_path, "elsewhere")
    drain(log)
    assert "that was set when they went there" in str(log.sizes().unreachable)
    told = must_raise(Corrupt, lambda: list(log.read(log.first_offset)), "it may be lost", code="TIER_CORRUPT")
    assert str(tmp_path / "elsewhere") in told.where
    assert "If SKYRIVER_TIER was changed" in told.next_action
    log.close()


def older(path: Path) -> None:
    """As a release wrote it whose tiers had no id: no names of places, no deletions."""
    data, entries = path.read_bytes(), []
    for at in range(0, len(data), ENTRY_BYTES):
        kind = struct.unpack_from("<I", data, at + 4)[0]
        if kind in (0, 1, 2):
            entries.append(data[at + 4 : at + 80] + bytes(16))
    path.write_bytes(b"".join(struct.pack("<I", crc32(body, n)) + body for n, body in enumerate(entries)))


def place_in_manifest(tier: Path) -> str:
    """A long one is cut."""
    text = str(tier)
    return text if len(text) <= 68 else text[:65] + "…"


def test_a_missing_object_is_told_with_its_place_or_the_changed_setting(tmp_path: Path) -> None:
    log, objects = opened(tmp_path)
    fill(log, 60)
    drain(log)
    log.drop_local(0)
    log.close()
    reader = SegmentReader(tmp_path / "log", DirectoryObjects(tmp_path / "other"))
    told = must_raise(Unavailable, lambda: list(reader.read()), "the setting", code="TIER_CHANGED")
    assert place_in_manifest(tmp_path / "tier") in told.message
    assert told.where == str(tmp_path / "other")
    assert "SKYRIVER_TIER" in told.next_action
    told = must_raise(Unavailable, lambda: list(SegmentReader(tmp_path / "log").read()), "none", code="TIER_NOT_SET")
    assert place_in_manifest(tmp_path / "tier") in told.message
    gone = read_manifest(tmp_path / "log").tiered[0].digest
    objects.delete(gone)
    reader = SegmentReader(tmp_path / "log", DirectoryObjects(tmp_path / "tier"))
    lost = must_raise(Corrupt, lambda: list(reader.read()), "the loss", code="TIER_CORRUPT")
    assert lost.where == f"{tmp_path / 'tier'}: {gone[:2]}/{gone}"


def test_a_tier_that_is_copied_with_its_id_is_the_same_and_without_it_is_found(tmp_path: Path) -> None:
    log, objects = opened(tmp_path)
    fill(log, 60)
    drain(log)
    log.drop_local(0)
    log.close()
    for name in ("with", "without"):
        copy = DirectoryObjects(tmp_path / name)
        for path in (tmp_path / "tier").glob("??/*"):
            copy.put_file(path)
        if name == "with":
            (tmp_path / name / "identity").write_bytes((tmp_path / "tier" / "identity").read_bytes())
        log, there = opened(tmp_path, name)
        assert (there.identity() == objects.identity()) is (name == "with")
        drain(log)
        assert all(part.tiered for part in log.parts())
        assert log.sizes().unreachable is None
        assert len(list(log.read())) == 60
        log.close()


def test_a_place_that_is_empty_under_the_same_name_is_told(tmp_path: Path) -> None:
    """A disk that is not mounted."""
    log, _ = opened(tmp_path)
    fill(log, 60)
    drain(log)
    log.drop_local(3000)
    log.close()
    (tmp_path / "tier").rename(tmp_path / "unmounted")
    log, _ = opened(tmp_path)
    drain(log)
    told = log.sizes().unreachable
    assert told is not None
    assert "is its disk mounted?" in told.next_action
    assert told.message.count(place_in_manifest(tmp_path / "tier").removesuffix("…")) == 2
    log.close()


def test_long_names_of_places_are_cut(tmp_path: Path) -> None:
    writer = ManifestWriter(tmp_path, LOG_ID)
    for number, place in enumerate(("s3://short", "s3://" + "bücket/" * 20)):
        writer.add_tiered(Tiered(number, number + 1, 0, 100, 1, "ab" * 32, bytes([number + 1]) * 16), place)
    short, long = read_manifest(tmp_path).places.values()
    assert short == "s3://short"
    assert long.startswith("s3://bücket/bücket/")
    assert long.endswith("…")


def test_how_a_log_stands_takes_as_long_with_a_thousand_segments_as_with_ten(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    upkeep = Upkeep(log, Keep(local_bytes=1 << 30), tier=True)
    steps: list[int] = []
    for count in (100, 5000):
        fill(log, count)
        calls = 0

        def count_calls(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count_calls)
        try:
            upkeep.look()
        finally:
            sys.setprofile(None)
        steps.append(calls)
    assert len(log.parts()) > 500
    assert steps[0] == steps[1] > 0
    log.close()
