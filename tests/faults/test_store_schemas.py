"""Files that released versions wrote, kept in `schemas/`: today's code takes each of them over whole."""

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer

from skyriver.adapters.postgres.migrations import REVISIONS as POSTGRES_REVISIONS
from skyriver.adapters.postgres.preparing import prepare
from skyriver.adapters.postgres.store import PostgresStore
from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.migrations import REVISIONS
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.errors import Conflict, Corrupt, StaleWrite
from skyriver.core.resources import Put
from skyriver.trust.audit import AuditHead

SAVED = Path(__file__).parent / "schemas"


def saved(revision: str, path: Path) -> dict[str, Any]:
    """Lays the file of schema `revision` at `path`; returns what is in it."""
    path.parent.mkdir(mode=0o700)
    path.write_bytes(gzip.decompress((SAVED / f"{revision}.db.gz").read_bytes()))
    found: dict[str, Any] = json.loads((SAVED / f"{revision}.json").read_bytes())
    return found


def test_one_of_every_schema_is_kept() -> None:
    kept = {file.name for file in SAVED.glob("*.gz")}
    of_files = {f"{revision}.db.gz" for revision in REVISIONS}
    of_databases = {f"postgres-{revision}.sql.gz" for revision in POSTGRES_REVISIONS}
    assert kept == of_files | of_databases, "run schemas/save.py with a new revision"


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_file_of_an_older_version_is_taken_over_whole(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "home" / "state.db"
    was = saved(revision, path)
    check_taken_over(lambda: SqliteStore(path), was, stepless=revision == "0001")


@pytest.mark.parametrize("revision", POSTGRES_REVISIONS)
def test_a_database_of_an_older_version_is_taken_over_whole(postgres: PostgresServer, revision: str) -> None:
    postgres.prepared()  # the roles belong to the server, not to the dump
    administrator = postgres.load(gzip.decompress((SAVED / f"postgres-{revision}.sql.gz").read_bytes()))
    address = administrator.replace("postgres@", "skyriver@")
    assert prepare(administrator, address) == POSTGRES_REVISIONS[-1]
    was = json.loads((SAVED / f"postgres-{revision}.json").read_bytes())
    check_taken_over(lambda: PostgresStore(address), was, stepless=False)


def check_taken_over(open_store: Callable[[], Any], was: dict[str, Any], *, stepless: bool) -> None:
    """`stepless`: what was changed before the migration is not known one by one."""
    store = open_store()
    assert [asdict(row) for row in store.rows()] == was["rows"]
    assert {tenant: store.audit(tenant) for tenant in was["audit"]} == was["audit"]
    assert store.verify_audit(seen=AuditHead(**was["head"])) == AuditHead(**was["head"])
    assert store.revision() == was["revision"]
    before = store.since(was["revision"] - 1)
    assert (before is None) == stepless
    (row, *_) = store.rows()
    with pytest.raises(StaleWrite):
        store.commit([Put(row, row.revision)], audit=(), fence=was["fence"] - 1, actor="me", now=1)
    store.commit([Put(row, row.revision)], audit=(), fence=was["fence"], actor="me", now=1)
    assert store.acquire("next") == was["fence"] + 1
    changes = store.since(was["revision"])
    assert changes is not None
    assert [r.key for r in changes.rows] == [row.key]
    store.close()
    store = open_store()
    assert len(store.rows()) == len(was["rows"])
    store.close()


def test_a_damaged_file_of_an_older_version_is_found_damaged(tmp_path: Path) -> None:
    path = tmp_path / "home" / "state.db"
    saved("0001", path)
    connection = newest_driver().connect(str(path), isolation_level=None)
    connection.execute("UPDATE counters SET value = 3 WHERE name = 'revision'")
    connection.close()
    with pytest.raises(Corrupt):
        SqliteStore(path).revision()


def test_a_file_of_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "home" / "state.db"
    saved("0001", path)
    connection = newest_driver().connect(str(path), isolation_level=None)
    connection.execute("UPDATE alembic_version SET version_num = '0999'")
    connection.close()
    with pytest.raises(Conflict, match="'0999'") as caught:
        SqliteStore(path)
    assert caught.value.code == "NEWER_STORE"
    assert "Install the newer Skyriver" in caught.value.next_action
