import errno
import os
import stat
from pathlib import Path

import pytest

from skyriver.core.errors import NotAllowed, NotFound, Unavailable
from skyriver.trust.secretfile import MAX_BYTES, read_secret, write_secret


def test_a_secret_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "token"
    old = os.umask(0)
    try:
        write_secret(path, b"one")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_secret(path) == b"one"
    write_secret(path, b"two")
    assert read_secret(path) == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_one_that_others_can_read_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my token"
    write_secret(path, b"hush-hush")
    path.chmod(mode)
    with pytest.raises(NotAllowed, match=f"mode {mode:04o}") as caught:
        read_secret(path)
    assert caught.value.code == "SECRET_EXPOSED"
    assert f"chmod 600 '{path}'" in caught.value.next_action
    assert "hush" not in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_secret(tmp_path / "absent")
    with pytest.raises(Unavailable, match="not a plain file"):
        read_secret(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(Unavailable, match="not a plain file"):
        read_secret(tmp_path / "pipe")
    write_secret(tmp_path / "large", b"x" * (MAX_BYTES + 1))
    with pytest.raises(Unavailable, match="larger than"):
        read_secret(tmp_path / "large")


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "DISK_FULL"), (errno.EDQUOT, "DISK_FULL"), (errno.EIO, "SECRET_UNWRITABLE")]
)
def test_a_disk_that_fails_leaves_the_old_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    path = tmp_path / "token"
    write_secret(path, b"old")

    def failing(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(Unavailable) as caught:
            write_secret(path, b"new")
    assert caught.value.code == code
    assert caught.value.next_action
    assert read_secret(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]
