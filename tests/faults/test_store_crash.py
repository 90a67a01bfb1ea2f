"""SIGKILL at the worst moments: what was acknowledged is there, what was not is there whole or not at all."""

import gzip
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from forked import forking

from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.store import SqliteStore

DEADLINE_S = 300

COMMITTING = """
import sqlite3, sys
from dataclasses import replace
from pathlib import Path
from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.resources import AuditEntry, Put, Resource

store = SqliteStore(Path(sys.argv[1]), driver=sqlite3 if sys.argv[2] == "of-python" else newest_driver())
fence = store.acquire("child")
rows = {row.name: row for row in store.rows()}
start = rows["count"].spec["n"] if rows else 0
for n in range(start + 1, 1_000_000):
    old = rows.get("count", Resource("t", "job", "count"))
    new = Resource("t", "job", f"j{n:06}", {"n": n, "text": "x" * (n * 37 % 5000)})
    changes = [Put(replace(old, spec={"n": n}), old.revision), Put(new, 0)]
    entry = AuditEntry("t", "child", "jobs:run", "count", f"{n}")
    for row in store.commit(changes, audit=[entry], fence=fence, actor="child", now=n):
        rows[row.name] = row
    print(n, flush=True)
"""


def acknowledged_before_kill(path: Path, driver: str, lines: int) -> int:
    """The last number that a child said it had committed; killed after `lines` of them, at any place in its loop."""
    child = subprocess.Popen(
        [sys.executable, "-c", COMMITTING, path, driver], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watch = threading.Timer(DEADLINE_S, child.kill)
    watch.start()
    with child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.readlines()
        assert child.stderr is not None
        assert "Error" not in child.stderr.read()
    watch.cancel()
    assert child.returncode == -9
    return int([line for line in said if line.endswith("\n")][-1])


@pytest.mark.parametrize("driver", ["newest", "of-python"])
def test_acknowledged_commits_survive_a_kill(tmp_path: Path, driver: str) -> None:
    path = tmp_path / "home" / "state.db"
    for lines in (1, 37, 60):
        told = acknowledged_before_kill(path, driver, lines)
        store = SqliteStore(path, driver=sqlite3 if driver == "of-python" else newest_driver())
        rows = {row.name: row for row in store.rows()}
        written = rows.pop("count").spec["n"]
        assert written in (told, told + 1), "what was acknowledged is there; at most one more was not yet told"
        assert [row.spec["n"] for row in rows.values()] == list(range(1, written + 1))
        assert all(len(row.spec["text"]) == row.spec["n"] * 37 % 5000 for row in rows.values())
        assert store.verify_audit().seq == written
        store.close()


MIGRATING = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from skyriver.adapters.sqlite.store import SqliteStore

seen = []

def die_after(nth):
    if len(seen) == nth:
        os.kill(os.getpid(), signal.SIGKILL)

@event.listens_for(Engine, "after_cursor_execute")
def executed(connection, cursor, statement, *rest):
    if statement.lstrip().startswith(("CREATE", "DROP", "INSERT", "UPDATE")):
        seen.append(statement)
        die_after(int(sys.argv[2]))

SqliteStore(Path(sys.argv[1])).close()
print(len(seen), file=sys.stderr)
"""


def open_and_die(path: Path, nth: int) -> tuple[int, str]:
    """After the `nth` statement that changes something; 0: never, and how many there were is told."""
    return forking("skyriver.adapters.sqlite.store").run(MIGRATING, str(path), str(nth))


def all_of(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = newest_driver().connect(str(path))
    try:
        found: list[tuple[object, ...]] = connection.execute(query).fetchall()
        return found
    finally:
        connection.close()


def test_a_kill_while_a_file_is_made_leaves_no_schema_or_a_whole_one(tmp_path: Path) -> None:
    code, told = open_and_die(tmp_path / "whole" / "state.db", 0)
    assert code == 0, told
    steps = int(told)
    assert steps >= 8
    for nth in range(1, steps + 1):
        path = tmp_path / f"killed-{nth}" / "state.db"
        assert open_and_die(path, nth)[0] == -9
        assert all_of(path, "SELECT name FROM sqlite_master") == []
        store = SqliteStore(path)
        assert store.acquire("next") == 1
        assert store.rows() == []
        store.close()


def test_a_kill_while_an_older_file_is_migrated_leaves_it_as_it_was(tmp_path: Path) -> None:
    older = gzip.decompress((Path(__file__).parent / "schemas" / "0001.db.gz").read_bytes())

    def laid(name: str) -> Path:
        path = tmp_path / name / "state.db"
        path.parent.mkdir(mode=0o700)
        path.write_bytes(older)
        return path

    whole = laid("whole")
    code, told = open_and_die(whole, 0)
    assert code == 0, told
    steps = int(told)
    assert steps >= 4
    for nth in range(1, steps + 1):
        path = laid(f"killed-{nth}")
        before = all_of(laid(f"before-{nth}"), "SELECT type, name, sql FROM sqlite_master")
        assert open_and_die(path, nth)[0] == -9
        assert all_of(path, "SELECT version_num FROM alembic_version") == [("0001",)]
        assert all_of(path, "SELECT type, name, sql FROM sqlite_master") == before
        SqliteStore(path).close()
        for query in ("SELECT type, name, sql FROM sqlite_master", "SELECT * FROM resources", "SELECT * FROM counters"):
            assert all_of(path, query) == all_of(whole, query)
