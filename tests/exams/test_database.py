"""The exam of the dispatcher's database, and what becomes of its file: killed, on a full disk, foreign, newer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.errors import Conflict
from skyriver.decide.acting.database_exam import check_database


def test_the_law_in_memory() -> None:
    check_database(lambda: SqliteFile(None), lasting=False)


def test_the_law_in_a_file(tmp_path: Path) -> None:
    check_database(lambda: SqliteFile(tmp_path / "deep" / "state.sqlite"), lasting=True)
    assert (tmp_path / "deep" / "state.sqlite").stat().st_mode & 0o077 == 0


KILLED = """\
import os, signal, sys
from pathlib import Path
from skyriver.adapters.sqlite.file import SqliteFile

database = SqliteFile(Path(sys.argv[1]))
with database.transaction() as do:
    do.run("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
for n in range(1000):
    with database.transaction() as do:
        do.run_many("INSERT INTO t VALUES (?)", [(n,)] * 100)
        if n == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("at", [0, 1, 37])
def test_a_kill_within_a_transaction_leaves_nothing_of_it(tmp_path: Path, at: int) -> None:
    path = tmp_path / "state.sqlite"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(at)], env=os.environ, timeout=300, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with SqliteFile(path).transaction() as do:
        assert do.run("SELECT count(*), coalesce(max(n), -1) FROM t") == [(100 * at, at - 1)]


FULL = """\
import resource, signal, sys
from pathlib import Path
from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.errors import Unavailable

database = SqliteFile(Path(sys.argv[1]))
with database.transaction() as do:
    do.run("CREATE TABLE t (n INTEGER, x BLOB)")
    do.run("INSERT INTO t VALUES (1, ?)", (b"x" * 100_000,))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
try:
    for n in range(2, 100):
        with database.transaction() as do:
            do.run("INSERT INTO t VALUES (?, ?)", (n, b"x" * 100_000))
except Unavailable as error:
    print(error.code, n)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
with database.transaction() as do:
    assert do.run("SELECT max(n) FROM t") == [(n - 1,)]
    do.run("INSERT INTO t VALUES (?, 'again')", (n,))
    print(do.run("SELECT count(*) FROM t")[0][0])
"""


def test_a_disk_without_room_undoes_the_block_and_it_goes_on_afterwards(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "state.sqlite")],
        env=os.environ, timeout=300, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (code, number), (count,) = (line.split() for line in done.stdout.splitlines())
    assert code in ("DISK_FULL", "DISPATCH_DISK")
    assert int(count) == int(number) < 10


def test_another_programs_file_and_one_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (n INTEGER)")
    connection.close()
    with pytest.raises(Conflict) as caught:
        SqliteFile(foreign)
    assert caught.value.code == "FOREIGN_FILE"
    path = tmp_path / "state.sqlite"
    database = SqliteFile(path)
    with database.transaction() as do:
        do.run("CREATE TABLE t (n INTEGER)")
        do.run("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(Conflict) as caught:
        SqliteFile(path)
    assert caught.value.code == "NEWER_FILE"
