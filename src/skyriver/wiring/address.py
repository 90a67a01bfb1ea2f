"""Where the cloud of a home listens, and with which token: what each command needs, and no more weight than that."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

from skyriver.adapters.processes.identity import Identity
from skyriver.core.errors import NotAllowed, NotFound, Unavailable
from skyriver.trust.secretfile import read_secret
from skyriver.trust.tokens import is_token
from skyriver.wiring.home import Home
from skyriver.wiring.living import processes_of

TOKEN: Final = "SKYRIVER_TOKEN"
"""Environment: the token of whoever types, in place of the administrator's."""
_PARTS: Final = frozenset({"supervisor", "control", "gateway"})


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
    """How to reach a cloud that was started before. Raises Unavailable when there is none (NO_CLOUD), or nothing of it
    runs that would answer (CLOUD_AWAY), and what `token_of` raises."""
    if "port" not in home.settings() or not (home.token.exists() or processes_of(home)):
        raise Unavailable(
            f"There is no cloud in {home.root}.",
            code="NO_CLOUD",
            next_action="`skyriver up` starts one; --home or SKYRIVER_HOME names another place.",
        )
    _check_up(home)
    return address(home, fresh=False, started=False, token=os.environ.get(TOKEN, ""))


def _check_up(home: Home) -> None:
    """Nobody is asked where nobody can answer: it would take seconds, and who has the port now would see the token."""
    if _control_runs(home):
        return
    running = processes_of(home)
    if any(process.module in _PARTS for process in running):
        return  # it answers, or brings back what does
    if not running:
        raise Unavailable(
            f"The cloud in {home.root} is down.", code="CLOUD_AWAY", next_action="`skyriver up` starts it."
        )
    names = sorted({" ".join(process.name.split(".", 2)[1:]) for process in running if process.name and process.module})
    raise Unavailable(
        f"Supervisor, control plane and gateway of the cloud in {home.root} are gone; "
        f"{', '.join(names) or 'what a job had started'} {'runs' if len(names) <= 1 else 'run'} on.",
        code="CLOUD_AWAY",
        next_action="`skyriver up` brings them back and takes over what runs.",
    )


def _control_runs(home: Home) -> bool:
    """By its run file alone: to look through all processes of the machine takes longer."""
    try:
        told = json.loads(home.control_run.read_bytes())
        return Identity(told["pid"], told["start_time"], told["boot"]).alive()
    except (OSError, KeyError, TypeError, ValueError):  # not synced: any bytes after a power cut
        return False


def address(home: Home, *, fresh: bool, started: bool, token: str = "") -> CloudAddress:
    """With the administrator's token unless another one is given. Raises what `token_of` does, and NotAllowed
    (BAD_TOKEN)."""
    url = f"http://127.0.0.1:{home.settings()['port']}"
    if token and not is_token(token):
        raise NotAllowed(
            f"{TOKEN} holds no token of a cloud.",
            code="BAD_TOKEN",
            where=TOKEN,
            next_action="A token is sky_ and 43 more characters; without the variable the administrator's is used.",
        )
    return CloudAddress(url, token or token_of(home), home, fresh=fresh, started=started)


def token_of(home: Home) -> str:
    """Raises NotAllowed when the file is gone (NO_TOKEN_FILE), or holds something else (BAD_TOKEN_FILE)."""
    try:
        text = read_secret(home.token).decode("ascii").strip()
    except NotFound as error:
        raise NotAllowed(
            "The file with the token of this cloud is gone.",
            code="NO_TOKEN_FILE",
            where=str(home.token),
            next_action="`skyriver down`, then `skyriver up`: another token is made.",
        ) from error
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
