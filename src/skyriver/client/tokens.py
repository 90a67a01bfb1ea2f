"""The commands for tokens: who may use the cloud, in which role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from skyriver.client.screen import Screen, age
from skyriver.client.shell import Json, app, confirm, connect
from skyriver.core.errors import NotFound

if TYPE_CHECKING:
    from skyriver.core.contract_tokens import Token

_tokens = typer.Typer(help="Tokens: who may use the cloud, in which role.", no_args_is_help=True)
app.add_typer(_tokens, name="token")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the person or program whose it is.")]


@_tokens.command("create")
def token_create(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer, reviewer, operator, developer or admin.")],
    as_json: Json = False,
) -> None:
    """Issue a token. It is shown this once."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        issued = client.issue_token(name, role)
    article = "an" if issued["role"][0] in "aeiou" else "a"
    screen.say(f"The token of {issued['name']}, {article} {issued['role']}, shown this once:")
    screen.data(issued, lambda: print(issued["token"]))


@_tokens.command("list")
def token_list(as_json: Json = False) -> None:
    """Whose tokens count."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items = client.tokens()
    screen.data({"items": items}, lambda: _table(screen, items))


@_tokens.command("get")
def token_get(name: Name, as_json: Json = False) -> None:
    """The role of somebody's token, and who issued it."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = [token for token in client.tokens() if token["name"] == name]
    if not found:
        raise NotFound(f"Nobody has a token of the name {name!r}.", next_action="`skyriver token list` shows all.")
    screen.data(found[0], lambda: _table(screen, found))


def _table(screen: Screen, tokens: Sequence[Token]) -> None:
    rows = [(t["name"], t["role"], f"{age(t['created_at'])} ago", t["created_by"]) for t in tokens]
    screen.table("", ("NAME", "ROLE", "ISSUED", "BY"), rows)


@_tokens.command("delete")
def token_delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Revoke a token: it counts no more."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        if not yes:
            confirm(f"Revoke the token of {name}?")
        revoked = client.revoke_token(name)
    screen.data(revoked, lambda: screen.say(f"The token of {name} is revoked."))
