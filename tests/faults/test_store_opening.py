"""Opening the control state: which library, which modes, which version, and by whom at once."""

import logging
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, insert

from skyriver.adapters.sql.migrating import configuration, upgrade
from skyriver.adapters.sql.rows import Totals, totals_values
from skyriver.adapters.sql.schema import metadata
from skyriver.adapters.sqlite.driver import SAFE_WAL, journal_for, newest_driver, settings_of
from skyriver.adapters.sqlite.migrations import REVISIONS
from skyriver.adapters.sqlite.opening import SCRIPTS
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.errors import Conflict, NotAllowed, Unavailable
from skyriver.core.resources import Put, Resource

DRIVER = newest_driver()


def statement(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Runs `sql` on the file of a closed store."""
    connection = DRIVER.connect(str(path), isolation_level=None)
    try:
        found: list[tuple[object, ...]] = connection.execute(sql).fetchall()
        return found
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state.db"


def test_the_tables_are_those_that_the_migrations_make(path: Path) -> None:
    store = SqliteStore(path)
    with store._reading(None) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.close()


def test_a_new_file_is_what_the_migrations_would_have_made(path: Path, tmp_path: Path) -> None:
    """To the letter of each table and index, and in all that stands in them."""
    SqliteStore(path).close()
    migrated = tmp_path / "migrated.db"
    engine = create_engine(f"sqlite:///{migrated}")
    with engine.begin() as connection:
        upgrade(SCRIPTS, connection)
        connection.execute(insert(metadata.tables["counters"]), totals_values(Totals()))
    engine.dispose()
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
    assert statement(path, schema) == statement(migrated, schema)
    for (table,) in statement(path, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        assert sorted(statement(path, f"SELECT * FROM {table}")) == sorted(
            statement(migrated, f"SELECT * FROM {table}")
        )


def test_the_revisions_are_those_of_the_scripts() -> None:
    scripts = ScriptDirectory.from_config(configuration(SCRIPTS))
    assert tuple(s.revision for s in reversed(list(scripts.walk_revisions()))) == REVISIONS


def test_every_row_knows_its_tenant_and_who_wrote_it() -> None:
    resources, audit = metadata.tables["resources"].c, metadata.tables["audit"].c
    assert {"tenant", "created_at", "created_by", "updated_at", "updated_by"} <= set(resources.keys())
    assert {"tenant", "actor", "permission", "action", "target", "previous", "digest"} <= set(audit.keys())


def test_file_and_folder_are_the_owners_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        store = SqliteStore(path)
        store.acquire("me")
        files = list(path.parent.iterdir())
    finally:
        os.umask(old)
    assert path in files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    store.close()
    path.chmod(0o644)
    SqliteStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_others_may_write_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o770)
    with pytest.raises(NotAllowed) as caught:
        SqliteStore(path)
    assert caught.value.code == "OPEN_FOLDER"
    assert f"chmod 700 {path.parent}" in caught.value.next_action
    assert not path.exists()


def test_a_path_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable) as caught:
        SqliteStore(tmp_path / "file" / "state.db")
    assert caught.value.code == "STORE_UNREADABLE"
    (tmp_path / "state.db").mkdir()
    with pytest.raises(Unavailable):
        SqliteStore(tmp_path / "state.db")


def test_which_journal_a_library_gets() -> None:
    assert journal_for(SAFE_WAL) == "wal"
    assert journal_for((3, 53, 0)) == "wal"
    assert journal_for((3, 51, 2)) == "delete"
    assert journal_for((3, 40, 1)) == "delete"
    assert "PRAGMA synchronous = FULL" in settings_of("wal", 1)
    assert "PRAGMA synchronous = EXTRA" in settings_of("delete", 1)


@pytest.mark.parametrize("driver", [DRIVER, sqlite3], ids=["newest", "of-python"])
def test_every_connection_is_durable(path: Path, driver: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "skyriver.store"):
        store = SqliteStore(path, driver=driver)  # type: ignore[arg-type]
    old = journal_for(driver.sqlite_version_info) == "delete"  # type: ignore[attr-defined]
    assert len(caplog.records) == (1 if old else 0)
    with store._reading(None) as first, store._reading(None) as second:
        for connection in (first, second):
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == ("delete" if old else "wal")
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == (3 if old else 2)
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    store.close()


def test_a_file_goes_from_one_library_to_another(path: Path) -> None:
    for number, driver in enumerate((DRIVER, sqlite3, DRIVER, sqlite3)):
        store = SqliteStore(path, driver=driver)
        fence = store.acquire("me")
        store.commit([Put(Resource("t", "job", f"j{number}"), 0)], audit=(), fence=fence, actor="me", now=1)
        assert len(store.rows()) == number + 1
        store.close()


def test_a_current_file_is_opened_without_alembic_and_no_object_mapper_is_loaded(path: Path) -> None:
    SqliteStore(path).close()
    code = (
        "import sys; from pathlib import Path; from skyriver.adapters.sqlite.store import SqliteStore;"
        "SqliteStore(Path(sys.argv[1])).close();"
        "print(sorted({'alembic', 'sqlalchemy.orm', 'polars'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=300, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_file_of_a_newer_version_is_refused_and_not_touched(path: Path) -> None:
    SqliteStore(path).close()
    statement(path, "UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(Conflict) as caught:
        SqliteStore(path)
    assert caught.value.code == "NEWER_STORE"
    assert "'9999'" in caught.value.message
    assert "newer" in caught.value.next_action
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_refused_and_not_touched(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    statement(path, "CREATE TABLE letters (body TEXT)")
    with pytest.raises(Conflict) as caught:
        SqliteStore(path)
    assert caught.value.code == "FOREIGN_STORE"
    assert statement(path, "SELECT name FROM sqlite_master") == [("letters",)]


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch()
    store = SqliteStore(path)
    assert store.rows() == []
    store.close()


OPEN_AT_ONCE = """
import sys
from pathlib import Path
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.resources import Put, Resource
import alembic.command
sys.stdin.readline()
store = SqliteStore(Path(sys.argv[1]), patience_us=30_000_000)
print(store.acquire(sys.argv[2]))
store.close()
"""


def test_processes_that_open_a_new_home_at_once_make_one(path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AT_ONCE, path, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=300) for child in children]
    assert [errors for _, errors in answers] == [""] * 4
    assert sorted(int(out) for out, _ in answers) == [1, 2, 3, 4]


def test_after_its_end_a_store_says_so(path: Path) -> None:
    store = SqliteStore(path)
    store.close()
    store.close()
    with pytest.raises(Unavailable) as caught:
        store.rows()
    assert caught.value.code == "STORE_CLOSED"


def test_what_was_written_is_there_when_it_is_opened_again(path: Path) -> None:
    store = SqliteStore(path)
    fence = store.acquire("one")
    (row,) = store.commit([Put(Resource("t", "job", "a", {"n": 1}), 0)], audit=(), fence=fence, actor="me", now=1)
    store.close()
    store = SqliteStore(path)
    assert store.rows() == [row]
    assert store.revision() == row.revision
    assert store.acquire("two") > fence
    store.close()


def test_old_fences_are_not_kept_for_ever(path: Path) -> None:
    store = SqliteStore(path)
    fences = [store.acquire(f"holder-{number}") for number in range(105)]
    store.close()
    assert fences == list(range(1, 106))
    assert statement(path, "SELECT count(*), max(fence) FROM fences") == [(100, 105)]
