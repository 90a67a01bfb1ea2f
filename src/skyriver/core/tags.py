"""Tags: words that people hang on a thing, `owner=ana`; nothing in the cloud acts by them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from skyriver.core.errors import InvalidInput, QuotaExceeded
from skyriver.core.resources import Resource

MOST_TAGS = 100
LONGEST_KEY = 250
LONGEST_VALUE = 5_000
"""Characters, as in MLflow's registry."""
MOST_CHARACTERS = 20_000
"""Of all tags of a thing together: they are in its row, which the control plane holds in memory."""
RESERVED = "skyriver."
"""Keys that begin so are ours to show, and nobody's to set."""


def tags_of(row: Resource) -> dict[str, str]:
    return {str(key): str(value) for key, value in row.status.get("tags", {}).items()}


def tagged(row: Resource, changes: Mapping[str, str | None]) -> Resource:
    """The row with these tags set, and those taken away that are None.

    Raises InvalidInput (BAD_TAG), QuotaExceeded (TOO_MANY_TAGS)."""
    for key, value in changes.items():
        _check(row, key, value)
    tags = tags_of(row)
    for key, value in changes.items():
        if value is None:
            tags.pop(key, None)
        else:
            tags[key] = value
    characters = sum(len(key) + len(value) for key, value in tags.items())
    if len(tags) > MOST_TAGS or characters > MOST_CHARACTERS:
        raise QuotaExceeded(
            f"{row.name} would have {len(tags)} tags of {characters:,} characters; {MOST_TAGS} of {MOST_CHARACTERS:,}"
            " together are possible.",
            code="TOO_MANY_TAGS",
            where=row.ref,
            next_action=f"Take one away (`skyriver model untag {row.name} KEY`), or keep long texts elsewhere.",
        )
    status: dict[str, Any] = {name: value for name, value in row.status.items() if name != "tags"}
    return replace(row, status={**status, "tags": dict(sorted(tags.items()))} if tags else status)


def _check(row: Resource, key: str, value: str | None) -> None:
    if not key or len(key) > LONGEST_KEY or not key.isprintable() or key != key.strip():
        raise InvalidInput(
            f"{key!r:.300} cannot be the key of a tag: 1 to {LONGEST_KEY} printable characters, no spaces around them.",
            code="BAD_TAG",
            where=row.ref,
            next_action="Give the tag a short name, as in owner=ana.",
        )
    if key.startswith(RESERVED):
        raise InvalidInput(
            f"Tags that begin with {RESERVED!r} tell what the cloud knows itself, and nobody sets them.",
            code="BAD_TAG",
            where=row.ref,
            next_action=f"Leave {RESERVED!r} out of {key!r}.",
        )
    if value is not None and len(value) > LONGEST_VALUE:
        raise InvalidInput(
            f"The tag {key} has {len(value):,} characters; at most {LONGEST_VALUE:,} are possible.",
            code="BAD_TAG",
            where=row.ref,
            next_action="Keep the text elsewhere, and tag where it is.",
        )
