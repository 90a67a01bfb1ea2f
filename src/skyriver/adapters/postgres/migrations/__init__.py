"""The way of a database from any version to this one: forward only, each step whole or not at all."""

from __future__ import annotations

REVISIONS = ("0001",)
"""All revisions, oldest first. Stated here too, so that a database that is up to date is opened without Alembic."""
