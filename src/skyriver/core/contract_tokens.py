"""What travels about tokens between the control plane and its callers, as `skyriver.core.contract` has the rest."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # as in skyriver.core.contract


class Token(TypedDict):
    """Whose it is, not the token."""

    name: str
    role: str
    created_at: int
    created_by: str


class TokenList(TypedDict):
    items: Sequence[Token]


class IssuedToken(TypedDict):
    name: str
    role: str
    token: str
    """Told once."""
