"""What travels about signing keys between the control plane and its callers."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # as in skyriver.core.contract


class SigningKey(TypedDict):
    """The public half of a key that signs versions; the other half is told to nobody."""

    id: str
    algorithm: str
    public: str
    """Base64 of 32 bytes."""
    state: str
    """ACTIVE: it signs; RETIRED: what it signed still counts; KEPT: trusted, and no longer in the key file."""
    made_at: int
    """0 where that is not known any more."""
    versions: int
    """How many are signed by it."""


class KeyList(TypedDict):
    items: Sequence[SigningKey]
    signs: bool
    """Whether this cloud signs its versions."""
    problem: str
    """Why the last version was not signed; empty where it was."""


class RotatedKey(TypedDict):
    key: SigningKey
    signed: Sequence[str]
    """Versions that were signed again."""
