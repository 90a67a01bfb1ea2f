"""The way of a file from any version to this one: forward only, each step whole or not at all."""

from __future__ import annotations

REVISIONS = ("0001", "0002")
"""All revisions, oldest first. Stated here too, so that a file that is up to date is opened without Alembic, which
costs 200 ms and 11 MB."""
