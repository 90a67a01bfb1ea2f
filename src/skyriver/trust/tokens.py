"""Opaque tokens: 256 random bits that only their holder has; the cloud keeps the SHA-256 of each.

A fast hash is right here: there is nothing to guess in 256 random bits, and a check costs 1 microsecond, not the
300 ms of a password hash. The table is looked up by digest, so that the time of a look-up tells nothing of a token.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from skyriver.core.errors import Unauthenticated

_TOKEN = re.compile(r"sky_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request comes from. The tenant is the token's, never the request's (DESIGN 6.11)."""

    tenant: str
    name: str
    role: str


def new_token() -> tuple[str, str]:
    """(the token, to be shown once; its digest, to be kept)."""
    text = f"sky_{secrets.token_urlsafe(32)}"
    return text, digest_of(text)


def is_token(text: str) -> bool:
    """Whether a text has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def digest_of(text: str) -> str:
    """SHA-256 (hex) of a token's text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Whose tokens are valid: digest -> identity, and digest -> end (wall microseconds) of those that end."""

    identities: Mapping[str, Identity] = field(default_factory=dict)
    expiries: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identities", MappingProxyType(dict(self.identities)))
        object.__setattr__(self, "expiries", MappingProxyType(dict(self.expiries)))

    def authenticate(self, header: str | None, now: int) -> Identity:
        """Who sent this `Authorization` header at wall time `now` (microseconds).

        Raises Unauthenticated with the code NO_TOKEN, BAD_TOKEN, UNKNOWN_TOKEN or TOKEN_EXPIRED; no message holds
        any part of what was sent.
        """
        if not header:
            raise _refused("The request carries no token.", "NO_TOKEN", "Send `Authorization: Bearer TOKEN`.")
        scheme, _, text = header.partition(" ")
        text = text.strip(" ")
        if scheme.lower() != "bearer" or not _TOKEN.fullmatch(text):
            raise _refused(
                "The Authorization header holds no token of this cloud.",
                "BAD_TOKEN",
                "Send `Authorization: Bearer TOKEN`; a token is sky_ and 43 more characters.",
            )
        digest = digest_of(text)
        identity = self.identities.get(digest)
        if identity is None:
            raise _refused(
                "Nobody issued this token, or it was revoked.",
                "UNKNOWN_TOKEN",
                "An admin of the tenant can issue a new one.",
            )
        if now >= self.expiries.get(digest, now + 1):
            raise _refused(
                f"The token of {identity.name!r} has expired.",
                "TOKEN_EXPIRED",
                "An admin of the tenant can issue a new one.",
            )
        return identity


def _refused(message: str, code: str, next_action: str) -> Unauthenticated:
    return Unauthenticated(message, code=code, next_action=next_action)
