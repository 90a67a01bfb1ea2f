"""The newest changes one by one, so that a reader learns what happened since it last read.

The index of rows by revision goes: nothing is looked up by it. Frozen, with a copy of the checksum of its time.
"""

from __future__ import annotations

import hashlib

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("resources_by_revision", "resources")
    op.create_table(
        "steps",
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("deleted", sa.Integer, nullable=False),
        sa.Column("checksum", sa.LargeBinary, nullable=False),
    )
    # Of what happened before, nothing is known one by one. A file that is being made has no counters yet.
    connection = op.get_bind()
    newest = connection.scalar(sa.text("SELECT value FROM counters WHERE name = 'revision'"))
    if newest is not None:
        values = ("logged", newest, "")
        check = hashlib.blake2b(msgspec.msgpack.encode(values), digest_size=16).digest()
        connection.execute(
            sa.text("INSERT INTO counters (name, value, digest, checksum) VALUES (:name, :value, :digest, :checksum)"),
            {"name": "logged", "value": newest, "digest": "", "checksum": check},
        )
