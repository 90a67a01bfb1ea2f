"""The commands for keys: what versions of models are signed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from skyriver.client.screen import Screen, age
from skyriver.client.shell import Json, app, confirm, connect

if TYPE_CHECKING:
    from skyriver.core.contract_keys import KeyList, SigningKey

_keys = typer.Typer(help="Keys: what versions of models are signed with.", no_args_is_help=True)
app.add_typer(_keys, name="key")


@_keys.command("list")
def key_list(as_json: Json = False) -> None:
    """The keys that signed versions, the one that signs now last."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.keys()
    screen.data(found, lambda: _show(screen, found))


@_keys.command("get")
def key_get(
    name: Annotated[str, typer.Argument(metavar="ID", help="The key's id, or its beginning.")], as_json: Json = False
) -> None:
    """One key: its public half, and how many versions it signed."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.key(name)
    screen.data(found, lambda: _table(screen, [found]))


@_keys.command("rotate")
def key_rotate(
    sign_again: Annotated[
        bool, typer.Option("--sign-again", help="Sign all versions anew, as they are now: after a key was lost.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Sign with a new key from now on. What is signed already still counts."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        if not yes:
            what = "Sign all versions anew, whoever changed them" if sign_again else "Sign with a new key from now on"
            confirm(f"{what}?")
        done = client.rotate_key(sign_again=sign_again)

    def show() -> None:
        screen.say(f"The key {done['key']['id']} signs from now on.")
        if done["signed"]:
            screen.say(f"Signed anew: {', '.join(done['signed'])}.")

    screen.data(done, show)


def _show(screen: Screen, found: KeyList) -> None:
    _table(screen, found["items"])
    if not found["signs"]:
        screen.say("This cloud does not sign its versions: `skyriver doctor` says why.")
    if found["problem"]:
        screen.say(f"The last version was not signed: {found['problem']}")


def _table(screen: Screen, keys: Sequence[SigningKey]) -> None:
    rows = [
        (k["id"], k["state"], f"{age(k['made_at'])} ago" if k["made_at"] else "", str(k["versions"]), k["public"])
        for k in keys
    ]
    screen.table("", ("ID", "STATE", "MADE", "VERSIONS", "PUBLIC KEY"), rows)
