"""Leases of one machine, with processes that are killed, stopped and forked, and files that are damaged."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skyriver.adapters.flock.leases import FileLeases
from skyriver.core.errors import Conflict, Corrupt, StaleWrite, Unavailable

TTL_US = 1_000_000

HOLDER = """
import sys
from pathlib import Path
from skyriver.adapters.flock.leases import FileLeases

leases = FileLeases(Path(sys.argv[1]))
lease = leases.acquire("work", "child", ttl_us=1_000_000)
print(lease.token, flush=True)
sys.stdin.readline()
"""


@contextmanager
def holder(root: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds the lease `work`, and its token."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()
        process.stdin.close()


def test_a_killed_holder_is_followed_with_a_higher_token(tmp_path: Path) -> None:
    leases = FileLeases(tmp_path)
    tokens = []
    for _ in range(3):
        with holder(tmp_path) as (process, token):
            tokens.append(token)
            with pytest.raises(Conflict, match=rf"process {process.pid} \(child\)"):
                leases.acquire("work", "me", ttl_us=TTL_US)
            held = leases.holder("work")
            assert held is not None
            assert (held.holder, held.token) == ("child", token)
            process.kill()
            process.wait(60)
        assert leases.holder("work") is None
        lease = leases.acquire("work", "me", ttl_us=TTL_US)
        tokens.append(lease.token)
        leases.release(lease)
    assert tokens == [1, 2, 3, 4, 5, 6]
    leases.close()


def test_a_stopped_holder_keeps_its_lease_until_it_is_taken_over(tmp_path: Path) -> None:
    leases = FileLeases(tmp_path)
    with holder(tmp_path) as (process, token):
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        with pytest.raises(Conflict):
            leases.acquire("work", "me", ttl_us=TTL_US)
        lease = leases.take_over("work", "me", ttl_us=TTL_US)
        assert lease.token == token + 1
        assert leases.holds(lease)
        assert process.wait(60) == -signal.SIGKILL
    leases.close()


def test_taking_over_what_is_free_or_ones_own(tmp_path: Path) -> None:
    leases = FileLeases(tmp_path)
    lease = leases.take_over("work", "me", ttl_us=TTL_US)
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        leases.take_over("work", "me", ttl_us=TTL_US)
    assert leases.holds(lease)
    leases.close()


def test_a_lease_whose_lock_was_removed_is_lost(tmp_path: Path) -> None:
    one, two = FileLeases(tmp_path), FileLeases(tmp_path)
    first = one.acquire("work", "one", ttl_us=TTL_US)
    (tmp_path / "work" / "lock").unlink()  # as a careless hand would; the token still tells
    second = two.acquire("work", "two", ttl_us=TTL_US)
    assert second.token == first.token + 1
    with pytest.raises(StaleWrite):
        one.renew(first)
    assert not one.holds(first)
    two.renew(second)
    assert two.holder("work") == second
    one.close()
    two.close()


def test_a_forked_child_does_not_hold_it_and_a_started_one_does_not_keep_it(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            if descriptor.readlink().name == "lock":
                info = Path(f"/proc/{process.pid}/fdinfo/{descriptor.name}").read_text()
                flags = int(next(line for line in info.splitlines() if line.startswith("flags")).split()[1], 8)
                assert flags & os.O_CLOEXEC
                break
        else:
            pytest.fail("no descriptor of the lock")
    leases = FileLeases(tmp_path)
    lease = leases.acquire("work", "me", ttl_us=TTL_US)
    child = os.fork()
    if child == 0:
        os._exit(int(leases.holds(lease)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert leases.holds(lease)
    leases.close()


@pytest.mark.parametrize("content", [b"", b"7", b'{"token": 9, "holder": "x", "crc": 1}', b"\xff\xfe"])
def test_a_damaged_token_is_never_begun_anew(tmp_path: Path, content: bytes) -> None:
    leases = FileLeases(tmp_path)
    leases.release(leases.acquire("work", "me", ttl_us=TTL_US))
    (tmp_path / "work" / "token.json").write_bytes(content)
    with pytest.raises(Corrupt) as caught:
        leases.acquire("work", "me", ttl_us=TTL_US)
    assert caught.value.code == "LEASE_CORRUPT"
    leases.close()
    FileLeases(tmp_path).acquire("other", "me", ttl_us=TTL_US)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable) as caught:
        FileLeases(tmp_path / "file").acquire("work", "me", ttl_us=TTL_US)
    assert caught.value.code == "LEASES_AWAY"
