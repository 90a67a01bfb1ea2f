"""Files of older schemas under power cuts: before, while and after the store takes them over."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from powercut.part import Say, Told, need, right
from skyriver.adapters.sqlite.migrations import REVISIONS
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.resources import Put
from skyriver.data.folders import make_folder, replace_file
from skyriver.trust.audit import AuditHead

_SAVED = Path(__file__).parents[1] / "faults" / "schemas"
_KEPT = ("spec", "status", "state", "reason", "message", "next_action", "parent", "attempts", "generation")


class MigrationPart:
    name = "store, migrated"

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        for revision in REVISIONS:
            make_folder(root / revision)
            replace_file(root / revision / "state.db", gzip.decompress((_SAVED / f"{revision}.db.gz").read_bytes()))
            say("laid", revision)
            for _ in range(2):
                SqliteStore(root / revision / "state.db").close()
                say("opened", revision)

    def check(self, root: Path, told: Told, say: Say) -> None:
        for revision in dict.fromkeys(words[1] for words in told if words[0] == "laid"):
            was = json.loads((_SAVED / f"{revision}.json").read_bytes())
            store = SqliteStore(root / revision / "state.db")
            try:
                self._look(store, was)
                fence = store.acquire("examiner")
                need(fence > was["fence"], f"fence {fence} was given before")
                row = store.rows()[0]
                store.commit([Put(row, row.revision)], audit=(), fence=fence, actor="examiner", now=1)
                self._look(store, was)
            finally:
                store.close()

    def _look(self, store: SqliteStore, was: Mapping[str, Any]) -> None:
        found = {row.key: asdict(row) for row in store.rows()}
        wanted = {(row["tenant"], row["kind"], row["name"]): row for row in was["rows"]}
        need(found.keys() >= wanted.keys(), "rows of the older file are not there")
        right(found.keys() <= wanted.keys(), "there are rows that the older file had not")
        for key, row in wanted.items():
            right(all(found[key][name] == row[name] for name in _KEPT), f"{key} is another one than in the older file")
        need(store.revision() >= was["revision"], "revisions are given a second time")
        right(store.verify_audit() == AuditHead(**was["head"]), "the audit trail is another one")
