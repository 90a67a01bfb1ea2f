"""The exam of the objects, on each implementation."""

import itertools
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from s3_server import S3Server

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.memory.objects import MemoryObjects
from skyriver.adapters.s3.objects import S3Objects
from skyriver.core.errors import Corrupt
from skyriver.core.objects import Objects
from skyriver.core.objects_exam import (
    OBJECTS_CHECKS,
    Make,
    check_identified_objects,
    check_objects,
    check_verifiable_objects,
    damaged_bytes_are_never_given,
)


def damage_file(objects: Objects, digest: str) -> None:
    path = objects.open_path(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def damage_memory(objects: Objects, digest: str) -> None:
    assert isinstance(objects, MemoryObjects)
    objects._objects[digest] = objects._objects[digest][:-1] + b"\xff"


def damage_s3(objects: Objects, digest: str) -> None:
    """In the bucket, and in the copy that was read into the cache."""
    assert isinstance(objects, S3Objects)
    damage_file(objects._cache, digest)
    key = f"{digest[:2]}/{digest}"
    data = bytearray(obstore.get(objects._store, key).bytes())
    data[len(data) // 2] ^= 1
    obstore.put(objects._store, key, bytes(data))


IMPLEMENTATIONS: dict[str, tuple[Callable[[Path], Objects], Callable[[Any, str], None]]] = {
    "memory": (lambda path: MemoryObjects(), damage_memory),
    "directory": (DirectoryObjects, damage_file),
}


@pytest.fixture(params=[*IMPLEMENTATIONS, "s3"])
def implementation(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Make, Callable[[Any, str], None]]:
    numbers = itertools.count()
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")

        def bucket() -> S3Objects:
            place = server.place(secrets.token_hex(8))
            return S3Objects(place, tmp_path / f"cache-{next(numbers)}", cache_bytes=64 << 20)

        return bucket, damage_s3
    build, damage = IMPLEMENTATIONS[request.param]
    return lambda: build(tmp_path / f"objects-{next(numbers)}"), damage


@pytest.mark.parametrize("check", OBJECTS_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Make], None], implementation: tuple[Make, object]) -> None:
    check(implementation[0])


def test_damaged_bytes_are_never_given(implementation: tuple[Make, Callable[[Objects, str], None]]) -> None:
    damaged_bytes_are_never_given(*implementation)


def test_what_is_verified_is_what_is_kept(implementation: tuple[Any, Callable[[Any, str], None]]) -> None:
    check_verifiable_objects(*implementation)


def test_a_place_is_told_from_every_other(implementation: tuple[Any, object]) -> None:
    def again(objects: Any) -> Any:
        if isinstance(objects, S3Objects):
            return S3Objects(objects._place, objects._cache_root, cache_bytes=64 << 20)
        return DirectoryObjects(objects._root) if isinstance(objects, DirectoryObjects) else objects

    check_identified_objects(implementation[0], again)


def test_an_id_that_rotted_is_told(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.identity()
    path = tmp_path / "identity"
    path.chmod(0o600)
    path.write_text("neither")
    with pytest.raises(Corrupt) as told:
        objects.identity()
    assert told.value.where == str(path)


def test_the_exam_finds_objects_that_break_a_law() -> None:
    class Careless(MemoryObjects):
        def put_stream(self, chunks: object, limit: int) -> str:
            return super().put_stream(chunks, 1 << 40)  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="broken law"):
        check_objects(Careless)
