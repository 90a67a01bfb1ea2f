"""SIGKILL in the middle of a put, other processes beside it, and bits that flip on the disk."""

import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Corrupt, Unavailable

DEADLINE_S = 300

PUTTING = """
import sys
from pathlib import Path
from skyriver.adapters.directory.objects import DirectoryObjects

def chunks():
    yield b"x" * 3_000_000
    print("half", flush=True)
    sys.stdin.read()
    yield b"never"

objects = DirectoryObjects(Path(sys.argv[1]))
print(objects.put(b"acknowledged"), flush=True)
objects.put_stream(chunks(), 1 << 30)
"""


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_kill_during_a_put_leaves_nothing_and_what_was_acknowledged(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    child = subprocess.Popen(
        [sys.executable, "-c", PUTTING, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    watch = threading.Timer(DEADLINE_S, child.kill)
    watch.start()
    with child:
        assert child.stdout is not None
        digest = child.stdout.readline().strip()
        assert child.stdout.readline() == "half\n"
        # Somebody else opens the store meanwhile: what is being written stays.
        DirectoryObjects(root)
        assert len(list((root / "tmp").iterdir())) == 1
        child.kill()
    watch.cancel()
    assert child.returncode == -9
    objects = DirectoryObjects(root)
    assert list((root / "tmp").iterdir()) == []
    assert files(root) == [objects.open_path(digest)]
    assert objects.get(digest) == b"acknowledged"


def test_a_put_goes_on_while_others_open_the_store(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)

    def chunks() -> Iterator[bytes]:
        for number in range(20):
            yield bytes([number])
            DirectoryObjects(tmp_path)

    assert objects.get(objects.put_stream(chunks(), 100)) == bytes(range(20))


def test_many_threads_put_the_same_and_others(tmp_path: Path) -> None:
    contents = [bytes([number % 5]) * 10_000 for number in range(20)]
    digests: list[str] = []
    threads = [
        threading.Thread(target=lambda data=data: digests.append(DirectoryObjects(tmp_path).put(data)))
        for data in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(digests) == sorted(hashlib.sha256(data).hexdigest() for data in contents)
    assert len(files(tmp_path)) == 5


def test_objects_are_the_owners_alone_and_not_to_be_changed(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        objects = DirectoryObjects(tmp_path / "home" / "objects")
        path = objects.open_path(objects.put(b"data"))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    for folder in (objects._root, objects._tmp, path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("place", [0, 7, -1])
def test_a_flipped_bit_is_found_by_the_next_process(tmp_path: Path, place: int) -> None:
    digest = DirectoryObjects(tmp_path).put(b"important bytes")
    path = DirectoryObjects(tmp_path).open_path(digest)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.chmod(0o600)
    path.write_bytes(data)
    os.utime(path, ns=times)  # a disk that flips a bit does not tell
    objects = DirectoryObjects(tmp_path)
    for call in (objects.get, objects.open_path):
        with pytest.raises(Corrupt) as caught:
            call(digest)
        assert caught.value.where == str(path)
        assert caught.value.next_action
    objects.put(b"important bytes")
    assert objects.get(digest) == b"important bytes"


def test_a_file_is_examined_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = DirectoryObjects(tmp_path)
    digest = objects.put(b"data")
    objects.open_path(digest)
    reads: list[object] = []
    digest_of_file = hashlib.file_digest

    def counted(file: object, name: str) -> object:
        reads.append(file)
        return digest_of_file(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", counted)
    objects.open_path(digest)
    assert len(reads) == 0
    objects.put(b"data")  # another file in its place
    objects.open_path(digest)
    assert len(reads) == 1


def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable) as caught:
        DirectoryObjects(tmp_path / "file" / "objects")
    assert caught.value.code == "OBJECTS_UNAVAILABLE"
