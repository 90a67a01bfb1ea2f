"""A disk that is full or takes only a part: nothing is left behind, and there is room again for what fits."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import InvalidInput, NotFound, Unavailable

DATA = bytes(range(256)) * 40


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_write_that_takes_only_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1000]))
    objects = DirectoryObjects(tmp_path)
    assert objects.get(objects.put(DATA)) == DATA


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync", "fchmod"])
def test_whatever_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    source = tmp_path / "source"
    source.write_bytes(DATA)

    def failing(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    puts: list[Callable[[], str]] = [
        lambda: objects.put(DATA),
        lambda: objects.put_file(source),
        lambda: objects.put_stream(iter([DATA]), 1 << 20),
    ]
    for put in puts:
        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            with pytest.raises(Unavailable) as caught:
                put()
        assert caught.value.code == ("OBJECTS_UNAVAILABLE" if number == errno.EIO else "DISK_FULL")
        assert caught.value.next_action
        assert files(tmp_path) == [source]
    assert objects.get(objects.put(DATA)) == DATA


def test_a_failing_put_leaves_the_object_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = DirectoryObjects(tmp_path)
    digest = objects.put(DATA)

    def failing(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", failing)
        with pytest.raises(Unavailable):
            objects.put(DATA)
    assert objects.get(digest) == DATA


FULL_DISK = """
import sys
from pathlib import Path
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Unavailable

disk = Path(sys.argv[1])
objects = DirectoryObjects(disk / "objects")
kept = objects.put(b"k" * 200_000)
large = disk / "large"
large.write_bytes(b"l" * 600_000)
for put in (
    lambda: objects.put(b"x" * 3_000_000),
    lambda: objects.put_file(large),
    lambda: objects.put_stream((b"y" * 50_000 for _ in range(100)), 1 << 30),
):
    try:
        put()
        raise SystemExit("there was room")
    except Unavailable as error:
        assert error.code == "DISK_FULL", error.code
    assert list((disk / "objects" / "tmp").iterdir()) == []
assert objects.get(kept) == b"k" * 200_000
large.unlink()
assert objects.get(objects.put(b"z" * 500_000)) == b"z" * 500_000
print("whole")
"""


def test_a_full_disk(tmp_path: Path) -> None:
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*own, *mount], capture_output=True, check=False).returncode:
        pytest.skip("a small disk of one's own needs user namespaces")
    script = '"$@" && exec "$PYTHON" -c "$CODE" "$DISK"'
    ran = subprocess.run(
        [*own, "sh", "-c", script, "sh", *mount],
        env={
            "PYTHON": sys.executable,
            "CODE": FULL_DISK,
            "DISK": str(tmp_path),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("whole\n", "")


def test_a_source_that_cannot_be_read_is_the_callers_fault(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    with pytest.raises(NotFound):
        objects.put_file(tmp_path / "absent")
    with pytest.raises(InvalidInput) as caught:
        objects.put_file(tmp_path)
    assert caught.value.code == "UNREADABLE_FILE"
    assert files(tmp_path) == []


def test_large_files_are_copied_in_pieces(tmp_path: Path) -> None:
    source = tmp_path / "source"
    data = os.urandom(3 * (1 << 20) + 17)
    source.write_bytes(data)
    objects = DirectoryObjects(tmp_path / "objects")
    digest = objects.put_file(source)
    assert digest == hashlib.sha256(data).hexdigest()
    source.write_bytes(b"")
    assert objects.get(digest) == data
