"""Alembic over an open connection. Imported only when a database has to be migrated: see the lists of `REVISIONS`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def configuration(scripts: Path, connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(scripts: Path, connection: Connection) -> None:
    """Brings the database to the newest revision, inside the transaction that `connection` is in."""
    command.upgrade(configuration(scripts, connection), "head")
