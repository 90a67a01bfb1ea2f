"""Writes what the newest schema looks like today: run it once with each new revision, before that is released.

python tests/faults/schemas/save.py
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from postgres_server import PostgresServer, database_of

from skyriver.adapters.postgres import migrations as of_postgres
from skyriver.adapters.postgres.store import PostgresStore
from skyriver.adapters.sqlite import migrations as of_sqlite
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.core.resources import AuditEntry, Delete, Put, Resource

SAVED = Path(__file__).parent


def fill(store: Any) -> dict[str, Any]:
    """Writes rows of two tenants, changes one, deletes one; returns all that can be read."""
    store.acquire("control-1")
    fence = store.acquire("control-2")
    rows = []
    for tenant in ("acme", "beta"):
        for n in range(3):
            spec = {"n": n, "text": "é'\"\n"}
            row = Resource(
                tenant, "job", f"j{n}", spec, {"seen": [1, 2.5, None]}, "RUNNING", "WHY", "It runs.", "Wait."
            )
            entry = AuditEntry(tenant, "ann", "jobs:run", "job.run", row.name, {"n": n})
            rows += store.commit([Put(row, 0)], audit=[entry], fence=fence, actor="ann", now=1000 + n)
    changes = [Put(rows[0], rows[0].revision), Delete("beta", "job", "j2", rows[-1].revision)]
    entry = AuditEntry("beta", "bob", "jobs:run", "job.delete", "j2", {})
    store.commit(changes, audit=[entry], fence=fence, actor="bob", now=2000)
    return {
        "rows": [asdict(row) for row in store.rows()],
        "audit": {tenant: store.audit(tenant) for tenant in ("acme", "beta")},
        "head": asdict(store.verify_audit()),
        "revision": store.revision(),
        "fence": fence,
    }


def keep(name: str, data: bytes, content: dict[str, Any]) -> None:
    (SAVED / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
    (SAVED / f"{name.split('.')[0]}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "home" / "state.db"
        file = SqliteStore(path)
        content = fill(file)
        file.close()
        keep(f"{of_sqlite.REVISIONS[-1]}.db", path.read_bytes(), content)
    server = PostgresServer()
    try:
        address = server.prepared()
        database = PostgresStore(address)
        content = fill(database)
        database.close()
        keep(f"postgres-{of_postgres.REVISIONS[-1]}.sql", server.dump(database_of(address)), content)
    finally:
        server.close()


if __name__ == "__main__":
    main()
