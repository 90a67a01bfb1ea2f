"""Bytes that changed behind our back: the control state says that it is damaged, it never gives wrong data."""

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.errors import Corrupt
from skyriver.core.resources import AuditEntry, Delete, Put, Resource

TENANTS = ("acme", "beta", "gamma")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Any]]:
    """The bytes of a store with rows of all lengths, and all that can be read from it."""
    path = tmp_path_factory.mktemp("whole") / "home" / "state.db"
    store = SqliteStore(path)
    fence = store.acquire("me")
    for name in ("j0", "gone"):
        (row,) = store.commit([Put(Resource("acme", "job", name), 0)], audit=(), fence=fence, actor="me", now=1)
        store.commit([Delete("acme", "job", name, row.revision)], audit=(), fence=fence, actor="me", now=1)
    for number in range(45):
        tenant = TENANTS[number % 3]
        row = Resource(tenant, "job", f"j{number}", {"n": number, "text": "marker" + "y" * number * 5}, {"k": [1, 2.5]})
        entry = AuditEntry(tenant, "ann", "jobs:run", "run", row.name, {"n": number, "why": "traced"})
        store.commit([Put(row, 0)], audit=[entry], fence=fence, actor="me", now=number)
    seen = read_all(store)
    store.close()
    return path.read_bytes(), seen


def read_all(store: SqliteStore) -> list[Any]:
    rows = store.rows()
    return [
        rows,
        [store.get(*row.key) for row in rows],
        [store.rows(tenant, "job") for tenant in TENANTS],
        [store.audit(tenant, limit=1000) for tenant in TENANTS],
        store.verify_audit(),
        store.revision(),
        store.since(0),
        store.since(40),
    ]


def read_damaged(path: Path, data: bytes) -> list[Any] | None:
    """What is read from a file with these bytes; None when it is refused as damaged."""
    path.parent.mkdir(mode=0o700)
    path.write_bytes(data)
    try:
        with closing(SqliteStore(path)) as store:
            return read_all(store)
    except Corrupt:
        return None


def test_single_bits_flipped_anywhere(tmp_path: Path, whole: tuple[bytes, list[Any]]) -> None:
    data, seen = whole
    luck = random.Random(20260101)
    refused = 0
    for number in range(150):
        place = luck.randrange(len(data) * 8)
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        found = read_damaged(tmp_path / str(number) / "state.db", bytes(flipped))
        assert found in (None, seen), f"wrong data after flipping bit {place % 8} of byte {place // 8}"
        refused += found is None
    assert refused > 20  # the rest hit free space


@pytest.mark.parametrize("word", [b"marker", b"traced"], ids=["row", "audit"])
def test_a_flip_in_the_content_of_a_row(tmp_path: Path, whole: tuple[bytes, list[Any]], word: bytes) -> None:
    data, _ = whole
    path = tmp_path / "home" / "state.db"
    path.parent.mkdir(mode=0o700)
    # Everywhere: pages also hold old copies of rows, which nobody reads.
    path.write_bytes(data.replace(word, bytes([word[0] ^ 1]) + word[1:]))
    store = SqliteStore(path)  # all pages and indexes fit together: only the row tells
    calls: list[Callable[[], object]] = (
        [store.rows] if word == b"marker" else [lambda: [store.audit(t) for t in TENANTS], store.verify_audit]
    )
    for call in calls:
        with pytest.raises(Corrupt):
            call()
    store.close()


def test_a_damaged_row_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "home" / "state.db"
    store = SqliteStore(path)
    fence = store.acquire("me")
    (row,) = store.commit([Put(Resource("t", "job", "a", {"n": 1}), 0)], audit=(), fence=fence, actor="me", now=1)
    store.close()
    run(path, "UPDATE resources SET status = '{\"n\":2}'")
    store = SqliteStore(path)
    with pytest.raises(Corrupt, match="'t'/'job'/'a'"):
        store.get("t", "job", "a")
    with pytest.raises(Corrupt):
        store.commit([Put(row, row.revision)], audit=(), fence=fence, actor="me", now=2)
    store.close()


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM resources WHERE name = 'j1'",
        "DELETE FROM counters WHERE name = 'revision'",
        "UPDATE counters SET value = value + 1 WHERE name = 'revision'",
        "UPDATE resources SET tenant = 'beta' WHERE name = 'j0'",
        "UPDATE audit SET actor = 'bob' WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 45",
        "UPDATE audit SET seq = 99 WHERE seq = 3",
        "DELETE FROM steps WHERE revision = 4",
        "DELETE FROM steps WHERE revision = 49",
        "UPDATE steps SET deleted = 0 WHERE revision = 4",
        "UPDATE steps SET name = 'j1' WHERE revision = 49",
        "UPDATE counters SET value = value + 1 WHERE name = 'logged'",
        "DELETE FROM alembic_version",
        "DROP TABLE fences",
    ],
)
def test_changes_by_hand_are_found(tmp_path: Path, whole: tuple[bytes, list[Any]], sql: str) -> None:
    data, _ = whole
    path = tmp_path / "edited" / "state.db"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(data)
    run(path, sql)
    edited = path.read_bytes()
    if sql.startswith("DROP"):
        store = SqliteStore(path)
        with pytest.raises(Corrupt):
            store.acquire("me")
        store.close()
    else:
        assert read_damaged(tmp_path / "again" / "state.db", edited) is None


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_file_cut_short(tmp_path: Path, whole: tuple[bytes, list[Any]], cut: float) -> None:
    data, _ = whole
    assert read_damaged(tmp_path / "home" / "state.db", data[: int(len(data) * cut)]) is None


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    assert read_damaged(tmp_path / "home" / "state.db", b"This is a letter, not a database. " * 200) is None


def run(path: Path, sql: str) -> None:
    connection = newest_driver().connect(str(path), isolation_level=None)
    try:
        connection.execute(sql)
    finally:
        connection.close()
