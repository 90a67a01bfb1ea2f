"""Alembic over an open connection. Imported only when a file has to be migrated: see `migrations.REVISIONS`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

SCRIPTS = Path(__file__).parent / "migrations"


def configuration(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Brings the file to the newest revision, inside the transaction that `connection` is in."""
    command.upgrade(configuration(connection), "head")
