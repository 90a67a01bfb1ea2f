"""Files that released versions wrote, kept in `schemas/`: today's code takes each of them over whole."""

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

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


def test_a_file_of_every_schema_before_is_kept() -> None:
    assert [file.name for file in sorted(SAVED.glob("*.db.gz"))] == [f"{r}.db.gz" for r in REVISIONS[:-1]]


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_a_file_of_an_older_version_is_taken_over_whole(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "home" / "state.db"
    was = saved(revision, path)
    store = SqliteStore(path)
    assert [asdict(row) for row in store.rows()] == was["rows"]
    assert {tenant: store.audit(tenant) for tenant in was["audit"]} == was["audit"]
    assert store.verify_audit(seen=AuditHead(**was["head"])) == AuditHead(**was["head"])
    assert store.revision() == was["revision"]
    (row, *_) = store.rows()
    with pytest.raises(StaleWrite):
        store.commit([Put(row, row.revision)], audit=(), fence=was["fence"] - 1, actor="me", now=1)
    store.commit([Put(row, row.revision)], audit=(), fence=was["fence"], actor="me", now=1)
    assert store.acquire("next") == was["fence"] + 1
    # What was changed before the steps were written is not known one by one; what was since then is.
    changes = store.since(was["revision"])
    assert changes is not None
    assert [r.key for r in changes.rows] == [row.key]
    if revision == "0001":
        assert store.since(was["revision"] - 1) is None
    store.close()
    store = SqliteStore(path)
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
