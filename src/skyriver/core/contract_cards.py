"""The cards of versions, as the control plane tells them."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # typing's own is not introspected by pydantic before Python 3.12


class CardSection(TypedDict):
    """Sentences, then a table; either may be empty."""

    title: str
    text: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class ModelCard(TypedDict):
    """What is known of a version, for people who did not make it."""

    version: str
    state: str
    sections: Sequence[CardSection]
    markdown: str
    """The same as one document."""
