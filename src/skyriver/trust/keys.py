"""The port for keys that sign in the name of a tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from skyriver.core.errors import NotFound

ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What others may know of a key: enough to check what it signed. `public` is 32 bytes (RFC 8032)."""

    id: str
    public: bytes
    made_at: int
    """Wall microseconds."""


@dataclass(frozen=True, slots=True)
class Signed:
    """An Ed25519 signature of 64 bytes, and by which key."""

    key: str
    signature: bytes


class Keys(Protocol):
    """Signing keys, a row of them for each tenant: one signs now, those before it have signed.

    MUST: a private key never leaves; `sign` is by the newest key of exactly this tenant, and `list` tells its public
    half; after `rotate` returns the new key is durable, the one before signs no more (its private half is gone) and
    is still listed; a key's id is `key_id` of its public half, so that no two keys share one. A change that fails
    leaves all as it was. Any number of threads may sign; one process at a time rotates.
    Raises NotFound (NO_KEY) to sign for a tenant that has no key; NotAllowed (SECRET_EXPOSED) where others could
    have read it; Corrupt (KEY_CORRUPT); Unavailable when it cannot be reached or this machine cannot compute it.
    Encrypting (envelopes of secrets) will be a port of its own beside this one: who checks signatures needs neither.
    """

    def list(self, tenant: str) -> Sequence[PublicKey]:
        """The oldest first, the one that signs now last; empty where there is none."""
        ...

    def sign(self, tenant: str, data: bytes) -> Signed: ...

    def rotate(self, tenant: str, *, now: int) -> PublicKey:
        """A new key that signs from now on; the first one too. `now`: wall microseconds."""
        ...


def key_id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:ID_DIGITS]


def no_key(tenant: str) -> NotFound:
    return NotFound(
        f"The tenant {tenant} has no key to sign with.",
        code="NO_KEY",
        where=tenant,
        next_action="Put the key file back from a copy, or make another key with `skyriver key rotate --sign-again`.",
    )
