"""The control state, the leases, and who may see what.

Frozen: a later change of the tables is a later migration. Runs as the role that owns the tables, after the roles were
made: see `preparing`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text(collation="C")
OF_TENANTS = {"tenants": "name", "resources": "tenant", "steps": "tenant", "audit": "tenant"}
"""The tables whose rows belong to a tenant, and the column that says to which."""
GRANTS = {
    "skyriver_tenant": {
        "tenants": "SELECT, INSERT",
        "resources": "SELECT, INSERT, UPDATE, DELETE",
        "steps": "SELECT, INSERT",
        "audit": "SELECT, INSERT",
    },
    "skyriver_control": {
        "tenants": "SELECT, INSERT",
        "resources": "SELECT, INSERT, UPDATE, DELETE",
        "steps": "SELECT, INSERT, DELETE",
        "audit": "SELECT, INSERT",
        "fences": "SELECT, INSERT, DELETE",
        "counters": "SELECT, INSERT, UPDATE",
        "alembic_version": "SELECT",
    },
    "skyriver_leases": {"leases": "SELECT, INSERT, UPDATE"},
}


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, TEXT, nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("updated_by", TEXT, nullable=False),
    )
    op.create_table(
        "resources",
        sa.Column("tenant", TEXT, sa.ForeignKey("tenants.name"), primary_key=True),
        sa.Column("kind", TEXT, primary_key=True),
        sa.Column("name", TEXT, primary_key=True),
        *_texts("spec", "status", "state", "reason", "message", "next_action"),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("parent", TEXT, nullable=False),
        *_numbers("attempts", "revision", "generation", "created_at"),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("updated_by", TEXT, nullable=False),
        sa.Column("checksum", sa.LargeBinary, nullable=False),
    )
    op.create_index("resources_by_state", "resources", ["kind", "state"])
    op.create_table(
        "steps",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        *_texts("tenant", "kind", "name"),
        sa.Column("deleted", sa.BigInteger, nullable=False),
        sa.Column("checksum", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        *_texts("tenant", "actor", "permission", "action", "target", "details", "previous", "digest"),
    )
    op.create_index("audit_by_tenant", "audit", ["tenant", "seq"])
    op.create_table(
        "fences",
        sa.Column("fence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "counters",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("checksum", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("ttl", sa.Interval, nullable=False),
        sa.Column("until", sa.TIMESTAMP(timezone=True), nullable=False),
    )
    for table, column in OF_TENANTS.items():
        own = f"{column} = NULLIF(current_setting('skyriver.tenant', true), '')"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_the_tenant ON {table} TO skyriver_tenant USING ({own}) WITH CHECK ({own})")
        op.execute(f"CREATE POLICY of_all ON {table} TO skyriver_control USING (true) WITH CHECK (true)")
    for role, tables in GRANTS.items():
        op.execute(f"GRANT USAGE ON SCHEMA skyriver TO {role}")
        for table, rights in tables.items():
            op.execute(f"GRANT {rights} ON {table} TO {role}")
