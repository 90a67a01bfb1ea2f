from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.core.errors import Corrupt, Unavailable
from skyriver.data import id_runs, ids
from skyriver.data.ids import IdIndex


def ints(values: Any) -> ids.Ints:
    return np.array(values, dtype=np.int64)


@contextmanager
def small_parts() -> Iterator[None]:
    """Everything that happens with millions of ids happens with some dozens."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RECENT": 8, "LARGE": 6, "SINGLY": 3, "ON_DISK": 20, "RATIO": 2, "MOST_RUNS": 4}.items():
            patch.setattr(ids, name, value)
        patch.setattr(id_runs, "STEP", 7)
        yield


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IdIndex]:
    index = IdIndex.open(tmp_path / "ids")
    yield index
    index.close()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_empty_index_knows_nothing(index: IdIndex) -> None:
    assert index.find(ints([])).tolist() == []
    assert index.find(ints([1])).tolist() == [-1]
    assert index.find(ints(range(100))).tolist() == [-1] * 100


@pytest.mark.parametrize("size", [1, 3, 20, 5000, 50_000])
def test_what_was_added_is_found(index: IdIndex, size: int) -> None:
    keys = np.random.default_rng(1).permutation(np.arange(-100_000, 100_000, 2))
    for start in range(0, 100_000, size) if size > 20 else range(0, 100 * size, size):
        offsets = np.arange(start, start + len(keys[start : start + size]))
        index.add(keys[start : start + size], offsets)
        end = start + len(offsets)
    sample = np.random.default_rng(2).integers(0, end, 500)
    assert index.find(keys[sample]).tolist() == sample.tolist()
    assert (index.find(keys[sample] + 1) == -1).all()
    for place in sample[:50].tolist():
        assert index.find(keys[place : place + 1]).tolist() == [place]
        assert index.find(keys[place : place + 1] + 1).tolist() == [-1]


def test_the_ends_of_int64_are_keys_too(index: IdIndex) -> None:
    keys = [-(2**63), -1, 0, 2**63 - 1]
    index.add(ints(keys), ints([0, 1, 2, 3]))
    index.checkpoint()
    assert index.find(ints(keys)).tolist() == [0, 1, 2, 3]
    assert index.find(ints(keys * 10)).tolist() == [0, 1, 2, 3] * 10
    assert index.find(ints([1, -2])).tolist() == [-1, -1]


def test_the_newest_offset_of_a_key_counts(index: IdIndex) -> None:
    index.add(ints([7, 7, 8]), ints([0, 1, 2]))
    assert index.find(ints([7, 8])).tolist() == [1, 2]
    index.checkpoint()
    index.add(ints([8]), ints([3]))
    assert index.find(ints([7, 8])).tolist() == [1, 3]
    index.add(ints([7] * 5000), ints(range(4, 5004)))
    assert index.find(ints([7, 8])).tolist() == [5003, 3]
    assert index.find(ints([7, 8] * 20)).tolist() == [5003, 3] * 20


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(-20, 20), min_size=1, max_size=12)),
        st.tuples(st.just("forget"), st.integers(0, 15)),
        st.tuples(st.just("checkpoint"), st.just(0)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 1)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_an_index_is_a_dictionary_that_can_go_back_to_its_checkpoints(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    directory = tmp_path_factory.mktemp("ids")
    with small_parts():
        index, known, offset, floor = IdIndex.open(directory), dict[int, int](), 0, 0
        saved: list[tuple[bytes | None, dict[int, int], int, int]] = [(None, {}, 0, 0)]
        try:
            for step, value in steps:
                match step:
                    case "add":
                        index.add(ints(value), np.arange(offset, offset + len(value)))
                        for key in value:
                            known[key] = offset
                            offset += 1
                    case "forget":
                        floor = max(floor, offset - value)
                        index.forget(floor)
                    case "checkpoint":
                        saved = [*saved[-1:], (index.checkpoint(), dict(known), offset, floor)]
                    case "release":
                        index.release([description for description, *_ in saved if description is not None])
                    case "restart":
                        index.close()
                        description, before, offset, floor = saved[-1 - value % len(saved)]
                        index, known = IdIndex.open(directory, description), dict(before)
                        saved = [kept for kept in saved if kept[2] <= offset and kept[3] <= floor]
                expected = [found if (found := known.get(key, -1)) >= floor else -1 for key in range(-22, 23)]
                assert index.find(np.arange(-22, 23)).tolist() == expected
                assert [int(index.find(ints([key]))[0]) for key in range(-22, 23)] == expected
        finally:
            index.close()


def test_a_checkpoint_is_what_was_there(tmp_path: Path) -> None:
    index = IdIndex.open(tmp_path)
    index.add(np.arange(1000), np.arange(1000))
    first = index.checkpoint()
    assert index.checkpoint() == first
    index.add(np.arange(500, 3000), np.arange(1000, 3500))
    second = index.checkpoint()
    index.add(ints([0]), ints([5000]))
    index.close()

    index = IdIndex.open(tmp_path, second)
    assert index.find(ints([0, 499, 500, 2999, 3000])).tolist() == [0, 499, 1000, 3499, -1]
    index.close()
    index = IdIndex.open(tmp_path, first)
    assert index.find(ints([0, 499, 500, 2999])).tolist() == [0, 499, 500, -1]
    index.close()
    index = IdIndex.open(tmp_path)
    assert index.find(ints([0, 499])).tolist() == [-1, -1]
    index.close()
    json.loads(second)


def test_many_additions_become_few_runs(tmp_path: Path) -> None:
    with small_parts():
        index = IdIndex.open(tmp_path)
        descriptions = []
        for start in range(0, 2000, 7):
            index.add(np.arange(start, start + 7), np.arange(start, start + 7))
            descriptions = [*descriptions[-1:], index.checkpoint()]
            index.release(descriptions)
        assert index.find(np.arange(2002)).tolist() == list(range(2002))
        index.close()
        assert len(json.loads(descriptions[-1])["runs"]) <= ids.MOST_RUNS + 2
        named = {run[0] for description in descriptions for run in json.loads(description)["runs"]}
        assert named <= set(files(tmp_path))
        assert len(files(tmp_path)) <= len(named) + 3


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(-30, 30), min_size=1, max_size=40, unique=True), min_size=1, max_size=6),
    st.integers(0, 120),
    st.integers(1, 50),
)
def test_a_merge_piece_by_piece_is_the_merge_of_all(
    tmp_path_factory: pytest.TempPathFactory, keys: list[list[int]], floor: int, step: int
) -> None:
    runs, offset, newest = [], 0, dict[int, int]()
    for some in keys:
        runs.append(id_runs.sorted_run(ints(some), np.arange(offset, offset + len(some))))
        newest |= {key: offset + place for place, key in enumerate(some)}
        offset += len(some)
    expected = sorted((key, at) for key, at in newest.items() if at >= floor)
    path = tmp_path_factory.mktemp("ids") / "run-0000000001"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_runs, "STEP", step)
        merged = id_runs.merge_into_file([run for run in runs if run is not None], floor, path, {})
    if merged is None:
        assert not expected
        assert not path.exists()
        return
    opened = id_runs.open_run(path.parent, path.name, len(merged), merged.crc, merged.first, merged.last)
    assert list(zip(opened.keys.tolist(), opened.offsets.tolist(), strict=True)) == expected
    assert (merged.first, merged.last) == (min(at for _, at in expected), max(at for _, at in expected))


def test_what_is_forgotten_leaves_the_disk(tmp_path: Path) -> None:
    index = IdIndex.open(tmp_path)
    index.add(np.arange(5000), np.arange(5000))
    index.checkpoint()
    assert len(files(tmp_path)) == 1
    index.forget(4000)
    assert index.find(ints([3999, 4000])).tolist() == [-1, 4000]
    index.forget(10)
    assert index.find(ints([3999, 4000])).tolist() == [-1, 4000]
    index.forget(5000)
    description = index.checkpoint()
    index.release([description])
    assert files(tmp_path) == []
    index.close()
    index = IdIndex.open(tmp_path, description)
    index.add(ints([1]), ints([4999]))
    assert index.find(ints([1])).tolist() == [-1]
    index.close()


def checkpointed(directory: Path) -> tuple[bytes, Path]:
    index = IdIndex.open(directory)
    index.add(np.arange(20), np.arange(20))
    description = index.checkpoint()
    index.close()
    (path,) = directory.iterdir()
    return description, path


def test_every_flipped_bit_is_told(tmp_path: Path) -> None:
    description, path = checkpointed(tmp_path)
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(Corrupt):
            IdIndex.open(tmp_path, description)
    for size in (0, 10, 64, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(Corrupt):
            IdIndex.open(tmp_path, description)
    path.unlink()
    with pytest.raises(Corrupt):
        IdIndex.open(tmp_path, description)


@pytest.mark.parametrize(
    "description",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format":2,"floor":0,"runs":[]}',
        b'{"format":1,"floor":0,"runs":[["../x",1,1,1,1]]}',
        b'{"format":1,"floor":0,"runs":[["run-0000000001",1,1,1]]}',
        b'{"format":1,"floor":0,"runs":[["run-0000000001",0,1,1,1]]}',
        b'{"format":1,"floor":0,"runs":[[]]}',
    ],
)
def test_a_description_that_is_none_is_told(tmp_path: Path, description: bytes) -> None:
    with pytest.raises(Corrupt):
        IdIndex.open(tmp_path, description)


def test_without_room_a_checkpoint_fails_and_the_index_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = IdIndex.open(tmp_path)
    index.add(np.arange(20), np.arange(20))

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(Unavailable) as refused:
            index.checkpoint()
    assert refused.value.code == "DISK_FULL"
    assert files(tmp_path) == []
    assert index.find(np.arange(21)).tolist() == [*range(20), -1]
    index.add(ints([20]), ints([20]))
    description = index.checkpoint()
    index.close()
    index = IdIndex.open(tmp_path, description)
    assert index.find(np.arange(22)).tolist() == [*range(21), -1]
    index.close()


def test_a_merge_without_room_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with small_parts():
        index = IdIndex.open(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", full)
            for start in range(0, 700, 7):
                index.add(np.arange(start, start + 7), np.arange(start, start + 7))
            assert index.find(np.arange(700)).tolist() == list(range(700))
        index.close()
        assert files(tmp_path) == []


def test_files_of_no_checkpoint_are_removed(tmp_path: Path) -> None:
    index = IdIndex.open(tmp_path)
    index.add(ints([1]), ints([0]))
    first = index.checkpoint()
    index.close()
    index = IdIndex.open(tmp_path)  # that checkpoint was never written
    index.add(ints([1]), ints([0]))
    second = index.checkpoint()
    assert len(files(tmp_path)) == 2
    index.release([first, second])
    assert len(files(tmp_path)) == 2
    index.release([second])
    index.close()
    index = IdIndex.open(tmp_path, second)
    assert index.find(ints([1])).tolist() == [0]
    assert len(files(tmp_path)) == 1
    index.close()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 12))
def test_what_is_dropped_leaves_index_and_files(seed: int, count: int, some: int) -> None:
    """At any time, whatever runs there are and are being merged; what is added later under the same key stays."""
    luck = np.random.default_rng(seed)
    with small_parts(), TemporaryDirectory() as place:
        directory = Path(place) / "ids"
        index = IdIndex.open(directory)
        known: dict[int, int] = {}
        at = 0

        def add(rows: int) -> None:
            nonlocal at
            for _ in range(rows):
                size = int(luck.integers(1, 9))
                keys = luck.integers(-300, 300, size)
                index.add(keys, np.arange(at, at + size))
                known.update(zip(keys.tolist(), range(at, at + size), strict=True))
                at += size

        add(count)
        gone = luck.choice(np.arange(-300, 300), some, replace=False)
        index.drop(gone, at)
        for key in gone.tolist():
            known.pop(key, None)
        everything = np.arange(-300, 300)
        assert index.find(everything).tolist() == [known.get(key, -1) for key in everything.tolist()]
        assert [int(index.find(ints([key]))[0]) for key in gone[:2].tolist()] == [-1] * min(2, some)
        add(int(luck.integers(0, 20)))
        deadline = time.monotonic() + 60
        while index.drops:
            assert time.monotonic() < deadline
        assert index.find(everything).tolist() == [known.get(key, -1) for key in everything.tolist()]
        description = index.checkpoint()
        index.release([description])
        index.close()
        held = np.concatenate([np.empty(0, np.int64), *(run.keys for run in index._runs)])
        assert not set(gone.tolist()) & (set(held.tolist()) - set(known))
        again = IdIndex.open(directory, description)
        assert again.find(everything).tolist() == [known.get(key, -1) for key in everything.tolist()]
        again.close()
