"""A disk that is full, read-only or in other hands: nothing is half written, and the error says what to do."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from skyriver.adapters.sqlite import driver
from skyriver.adapters.sqlite.faults import translate
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.errors import Internal, Unavailable
from skyriver.core.resources import AuditEntry, Put, Resource

DRIVER = driver.newest_driver()


def put(store: SqliteStore, fence: int, name: str, size: int = 10) -> None:
    entry = AuditEntry("t", "me", "jobs:run", "run", name)
    row = Resource("t", "job", name, {"text": "x" * size})
    store.commit([Put(row, 0)], audit=[entry], fence=fence, actor="me", now=1)


def with_pragma(monkeypatch: pytest.MonkeyPatch, pragma: str) -> None:
    """Connections that are made from now on also begin with `pragma`."""
    settings = driver.settings_of
    monkeypatch.setattr(driver, "settings_of", lambda *given: (*settings(*given), pragma))


def test_a_full_file_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "home" / "state.db"
    SqliteStore(path).close()
    with_pragma(monkeypatch, "PRAGMA max_page_count = 120")
    store = SqliteStore(path)
    fence = store.acquire("me")
    written = 0

    def fill() -> None:
        nonlocal written
        for _ in range(1000):
            put(store, fence, f"j{written:04}", 5000)
            written += 1

    with pytest.raises(Unavailable) as caught:
        fill()
    assert caught.value.code == "DISK_FULL"
    assert "Free space" in caught.value.next_action
    assert written > 10
    assert [row.name for row in store.rows()] == [f"j{number:04}" for number in range(written)]
    assert (store.revision(), store.verify_audit().seq) == (written, written)
    store.close()


FULL_DISK = """
import sys
from pathlib import Path
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.errors import Unavailable
from skyriver.core.resources import AuditEntry, Put, Resource

disk = Path(sys.argv[1])
(disk / "ballast").write_bytes(bytes(500_000))
store = SqliteStore(disk / "home" / "state.db")
fence = store.acquire("me")
put = lambda n: store.commit([Put(Resource("t", "job", f"j{n:04}", {"x": "y" * 20_000}), 0)],
    audit=[AuditEntry("t", "me", "jobs:run", "run", "j")], fence=fence, actor="me", now=n)
written = 0
try:
    while written < 1000:
        put(written)
        written += 1
except Unavailable as error:
    assert error.code == "DISK_FULL", error.code
assert 0 < written < 1000, written
assert len(store.rows()) == written == store.revision() == store.verify_audit().seq
(disk / "ballast").unlink()
put(written)
store.close()
store = SqliteStore(disk / "home" / "state.db")
assert len(store.rows()) == written + 1 == store.revision() == store.verify_audit().seq
store.close()
print("whole")
"""


def test_a_full_disk_keeps_what_it_has_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "none", str(tmp_path)]
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


def test_a_read_only_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "home" / "state.db"
    store = SqliteStore(path)
    fence = store.acquire("me")
    put(store, fence, "a")
    store.close()
    with_pragma(monkeypatch, "PRAGMA query_only = ON")
    store = SqliteStore(path)
    assert [row.name for row in store.rows()] == ["a"]
    with pytest.raises(Unavailable) as caught:
        put(store, fence, "b")
    assert caught.value.code == "STORE_READ_ONLY"
    assert caught.value.next_action
    store.close()


def test_another_process_that_writes_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "home" / "state.db"
    store = SqliteStore(path, patience_us=50_000)
    fence = store.acquire("me")
    other = DRIVER.connect(str(path), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught:
        put(store, fence, "a")
    assert caught.value.code == "STORE_LOCKED"
    assert caught.value.next_action
    assert store.rows() == []  # readers do not wait
    store.close()

    store = SqliteStore(path, patience_us=30_000_000)
    writer = threading.Thread(target=put, args=(store, fence, "a"))
    writer.start()
    other.execute("COMMIT")
    writer.join(30)
    other.close()
    assert [row.name for row in store.rows()] == ["a"]
    store.close()


def test_errors_without_a_meaning_for_users_are_ours() -> None:
    assert isinstance(translate(DRIVER.OperationalError("near 'SELEC': syntax error"), Path("state.db")), Internal)
    busy = translate(PoolTimeout(), Path("state.db"))
    assert isinstance(busy, Unavailable)
    assert busy.code == "STORE_BUSY"
