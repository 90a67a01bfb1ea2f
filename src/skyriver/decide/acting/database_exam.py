"""The exam of `Database`: runs on every implementation, the twin in memory and one of your own too."""

from __future__ import annotations

from collections.abc import Callable

from skyriver.core.errors import Internal
from skyriver.core.exam import must, must_raise
from skyriver.decide.acting.database import Database

Make = Callable[[], Database]
"""Opens the same one each time; what was written before is there, if the one before was closed or has died."""


class _Broken(Exception):
    pass


def check_database(make: Make, *, lasting: bool) -> None:
    """Raises AssertionError naming the law that does not hold. `lasting`: it outlives a close."""
    database = make()
    with database.transaction() as do:
        do.run("CREATE TABLE t (n INTEGER PRIMARY KEY, x TEXT)")
        do.run_many("INSERT INTO t VALUES (?, ?)", [(1, "one"), (2, "two")])
        do.run("UPDATE t SET x = ? WHERE n > 0", ("x",))
        must(do.changed == 2, "`changed` counts the rows of the last statement")
        must(do.run("SELECT n, x FROM t ORDER BY n") == [(1, "x"), (2, "x")], "a transaction sees what it wrote")
    _check_all_or_nothing(database)
    if lasting:
        database.close()
        database = make()
    with database.transaction() as do:
        must(do.run("SELECT n FROM t ORDER BY n") == [(1,), (2,)], "what a block wrote is there once it has ended")
    database.close()


def _check_all_or_nothing(database: Database) -> None:
    try:
        with database.transaction() as do:
            do.run("INSERT INTO t VALUES (3, 'three')")
            do.run("CREATE TABLE other (n INTEGER)")
            raise _Broken
    except _Broken:
        pass
    with database.transaction() as do:
        must(do.run("SELECT count(*) FROM t") == [(2,)], "nothing of a block that raised is there")
        made = do.run("SELECT count(*) FROM sqlite_master WHERE name = 'other'")
        must(made == [(0,)], "not even the tables that it made")

    def nested() -> None:
        with database.transaction(), database.transaction():
            pass

    must_raise(Internal, nested, "there is one transaction at a time")
