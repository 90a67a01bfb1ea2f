"""The exam of the control state, on each implementation and each SQLite library there is."""

import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer

from skyriver.adapters.memory.store import MemoryStore
from skyriver.adapters.postgres.store import PostgresStore
from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.control.store_exam import STORE_CHECKS, Make, check_store, check_verifiable_audit

Open = Callable[[Path, Callable[[], PostgresServer]], Any]

IMPLEMENTATIONS: dict[str, Open] = {
    "memory": lambda path, server: MemoryStore(),
    "sqlite": lambda path, server: SqliteStore(path, driver=newest_driver()),
    "sqlite-of-python": lambda path, server: SqliteStore(path, driver=sqlite3),
    "postgres": lambda path, server: PostgresStore(server().prepared()),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    numbers = itertools.count()
    return lambda: IMPLEMENTATIONS[request.param](
        tmp_path / f"home-{next(numbers)}" / "state.db", lambda: request.getfixturevalue("postgres")
    )


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Make], None], make: Make) -> None:
    check(make)


def test_the_audit_trail_is_verifiable(make: Callable[[], Any]) -> None:
    check_verifiable_audit(make)


def test_the_exam_finds_a_store_that_breaks_a_law() -> None:
    class Forgetful(MemoryStore):
        def revision(self) -> int:
            return 0

    with pytest.raises(AssertionError, match="broken law"):
        check_store(Forgetful)
