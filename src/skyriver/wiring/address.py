"""Where the cloud of a home listens, and with which token: what each command needs, and no more weight than that."""

from __future__ import annotations

from dataclasses import dataclass

from skyriver.core.errors import NotAllowed, Unavailable
from skyriver.trust.secretfile import read_secret
from skyriver.trust.tokens import is_token
from skyriver.wiring.home import Home


@dataclass(frozen=True, slots=True)
class CloudAddress:
    url: str
    token: str
    home: Home
    fresh: bool
    """Whether the token was never shown before, and so has to be."""
    started: bool
    """Whether the cloud was started now, rather than found running."""


def address_of(home: Home) -> CloudAddress:
    """How to reach a cloud that was started before. Raises Unavailable when there is none."""
    if not home.token.exists() or "port" not in home.settings():
        raise Unavailable(
            f"There is no cloud in {home.root}.",
            code="NO_CLOUD",
            next_action="`skyriver up` starts one; --home or SKYRIVER_HOME names another place.",
        )
    return address(home, fresh=False, started=False)


def address(home: Home, *, fresh: bool, started: bool) -> CloudAddress:
    url = f"http://127.0.0.1:{home.settings()['port']}"
    return CloudAddress(url, token_of(home), home, fresh=fresh, started=started)


def token_of(home: Home) -> str:
    """Raises NotAllowed for a file that holds something else."""
    try:
        text = read_secret(home.token).decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not is_token(text):
        raise NotAllowed(
            "This file holds no token of this cloud.",
            code="BAD_TOKEN_FILE",
            where=str(home.token),
            next_action="Remove it, then `skyriver down` and `skyriver up`: another token is made.",
        )
    return text
