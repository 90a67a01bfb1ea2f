"""The tables of the control state as they are now; the migrations of each database say how it gets there.

Bits of a file flip unseen: of 200 single flips in a plain SQLite file 162 gave wrong data without an error. So every
row carries a checksum over its columns, and audit rows the digest of their chain. What is read is checked.
"""

from __future__ import annotations

import hashlib

import msgspec
from sqlalchemy import BigInteger, Column, ForeignKey, Index, LargeBinary, MetaData, Table
from sqlalchemy import Integer as SmallInteger
from sqlalchemy import Text as AnyText

metadata = MetaData()

Text = AnyText().with_variant(AnyText(collation="C"), "postgresql")
"""Compares exactly and sorts by code point, in every database."""
Integer = SmallInteger().with_variant(BigInteger, "postgresql")
"""64 bits; a primary key of SQLite must have this name to be the row's own number."""

tenants = Table(
    "tenants",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", Text, nullable=False),
)
"""Every tenant that ever had a row."""

resources = Table(
    "resources",
    metadata,
    Column("tenant", Text, ForeignKey("tenants.name"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("next_action", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("parent", Text, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", Text, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
    Index("resources_by_state", "kind", "state"),
)
"""Columns in the order of `Resource`; `spec` and `status` are canonical JSON."""

steps = Table(
    "steps",
    metadata,
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("deleted", Integer, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
)
"""The newest changes, one for each revision without gaps: which row it wrote (`deleted` 0) or deleted (1)."""

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("permission", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Index("audit_by_tenant", "tenant", "seq"),
)
"""Columns in the order of `AuditRow`. No foreign key: the trail outlives what it tells of."""

fences = Table(
    "fences",
    metadata,
    Column("fence", Integer, primary_key=True, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
"""Who took over the control plane, and when. The newest one, which may write, is the counter `fence`."""

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
)
"""What is known of the whole, so that a row that got lost is missed. `revision`: the newest one; `fence`: the newest
one; `audit`: the head of the chain (seq, digest); `resources`: how many there are, and the sum of their checksums;
`logged`: the revision after which all changes are in `steps`."""


def checksum(*values: str | int) -> bytes:
    """Of the columns of a row, in their order: BLAKE2b, 16 bytes, over their MessagePack. 1.5 us for a usual row."""
    return hashlib.blake2b(msgspec.msgpack.encode(values), digest_size=16).digest()
