"""The control state under power cuts: commits, fences, migration, checkpoints of its log."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

from powercut.part import Say, Told, most, need, right
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.resources import AuditEntry, Change, Delete, Put, Resource


class StorePart:
    """Commit n writes a row, the counter row, sometimes takes a row away, and an audit row."""

    def __init__(self, name: str, driver: ModuleType) -> None:
        self.name = name
        self._driver = driver

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        left = []
        n = 0
        for life in range(4):
            store = self._open(root, say)
            fence = self._acquire(store, say)
            for _ in range(luck.randrange(5, 15) if life < 3 else 60):
                n += 1
                self._commit(store, fence, n, say)
            if life % 2:
                left.append(store)  # as if killed: nothing of it is closed while this is recorded
            else:
                store.close()
        say("end")
        for store in left:
            store.close()

    def check(self, root: Path, told: Told, say: Say) -> None:
        store = self._open(root, say)
        try:
            n = self._look(store, told)
            fence = self._acquire(store, say)
            need(fence > most(told, "fence", 0), f"fence {fence} was given before")
            self._commit(store, fence, n + 1, say)
        finally:
            store.close()
        store = self._open(root, say)
        right(_numbers(store) == _expected(n + 1), "the commit after the cut is not read back")
        store.close()

    def _open(self, root: Path, say: Say) -> SqliteStore:
        return SqliteStore(root / "share" / "home" / "state.db", driver=self._driver)

    def _acquire(self, store: SqliteStore, say: Say) -> int:
        fence = store.acquire("examiner")
        say("fence", fence)
        return fence

    def _look(self, store: SqliteStore, told: Told) -> int:
        found = _numbers(store)
        n = found.get("count", (0, 0))[0]
        need(n >= most(told, "done", 0), f"commit {most(told, 'done', 0)} was acknowledged, the store is at {n}")
        right(n <= most(told, "begin", 0), f"commit {n} was never made")
        right(found == _expected(n), f"the rows are not those of commit {n}")
        right(store.verify_audit().seq == n, f"the audit trail is not that of commit {n}")
        return n

    def _commit(self, store: SqliteStore, fence: int, n: int, say: Say) -> None:
        rows = {row.name: row for row in store.rows()}
        changes: list[Change] = []
        for name, (number, size) in _writes(n).items():
            old = rows.get(name, Resource("t", "job", name))
            changes.append(Put(_filled(old, number, size), old.revision))
        gone = _removes(n)
        if gone in rows and gone not in _writes(n):
            changes.append(Delete("t", "job", gone, rows[gone].revision))
        say("begin", n)
        store.commit(changes, audit=[AuditEntry("t", "a", "jobs:run", "x", f"{n}")], fence=fence, actor="a", now=n)
        say("done", n)


def _filled(row: Resource, number: int, size: int) -> Resource:
    return Resource(row.tenant, row.kind, row.name, {"n": number, "text": _text(number, size)})


def _text(number: int, size: int) -> str:
    return (f"{number:x}." * (size // 2 + 1))[:size]


def _writes(n: int) -> dict[str, tuple[int, int]]:
    """Row -> (number, size of its text) of commit n: now and then so much that the log is moved into the file."""
    return {"count": (n, 0), f"j{n % 23}": (n, 200_000 if n % 5 == 0 else n * 37 % 3000)}


def _removes(n: int) -> str:
    return f"j{n * 7 % 23}" if n % 4 == 0 else ""


def _expected(n: int) -> dict[str, tuple[int, int]]:
    rows: dict[str, tuple[int, int]] = {}
    for number in range(1, n + 1):
        if _removes(number) not in _writes(number):
            rows.pop(_removes(number), None)
        rows.update(_writes(number))
    return rows


def _numbers(store: SqliteStore) -> dict[str, tuple[int, int]]:
    found = {row.name: (row.spec["n"], row.spec["text"]) for row in store.rows()}
    right(all(text == _text(n, len(text)) for n, text in found.values()), "a row has another text than was written")
    return {name: (n, len(text)) for name, (n, text) in found.items()}
