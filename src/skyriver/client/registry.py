"""The commands for models and their versions, and the names that versions have beside their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from skyriver.client import show
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, connect, noun, wait
from skyriver.core.errors import NotFound
from skyriver.core.names import ModelRef, nearest

if TYPE_CHECKING:
    from skyriver.client.api import Client

_versions = noun("version", "versions", "Versions of models.", gets=False)
_models = noun("model", "models", "Models.")

Name = Annotated[str, typer.Argument(metavar="MODEL")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS")]


def version_named(client: Client, name: str) -> str:
    """`fraud:3` for `fraud@good`, where that names it; any other name as it is. Raises NotFound (NO_ALIAS)."""
    if "@" not in name:
        return name
    ref = ModelRef.parse(name)
    aliases = client.get("models", ref.model)["status"].get("aliases", {})
    if ref.alias not in aliases:
        raise NotFound(
            f"{ref.model} has no alias {ref.alias!r}{nearest(ref.alias, aliases)}.",
            code="NO_ALIAS",
            where=f"model/{ref.model}",
            next_action=f"`skyriver model alias {ref.model} {ref.alias} VERSION` sets it.",
        )
    return f"{ref.model}:{aliases[ref.alias]}"


@_versions.command("get")
def version_get(
    name: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="Or MODEL@ALIAS.")], as_json: Json = False
) -> None:
    """One, with all that is known of it."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.get("versions", version_named(client, name))
    screen.data(found, lambda: show.resource(screen, found))


@_versions.command("card")
def version_card(
    name: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="Or MODEL@ALIAS.")],
    as_json: Json = False,
) -> None:
    """What is known of it, for people who did not make it, as Markdown: use, data, quality, limits."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.card(version_named(client, name))
    screen.data(found, lambda: print(found["markdown"], end=""))


@_models.command("history")
def model_history(name: str, as_json: Json = False) -> None:
    """Which version served when, and why it changed."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.get("models", name)
    screen.data(found["status"].get("history", []), lambda: show.history(screen, found))


@_models.command("alias")
def model_alias(name: Name, alias: Alias, version: int, as_json: Json = False) -> None:
    """Give a version a name: MODEL@ALIAS then stands for it. `champion` is the one that serves: a rollout begins."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        wait(client, client.act("alias", name, params={"alias": alias, "version": version}), bars)
        found = client.get("models", name)
    now = found["status"]["aliases"].get(alias)
    told = f"{name}@{alias} is {name}:{version}."
    if now != version:
        told = f"{name}:{version} is on its way to be {name}@{alias}: `skyriver rollout list` shows how far."
    screen.data(found, lambda: screen.say(told))


@_models.command("unalias")
def model_unalias(name: Name, alias: Alias, as_json: Json = False) -> None:
    """Take a name of a version away; the version stays."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        wait(client, client.act("unalias", name, params={"alias": alias}), bars)
        found = client.get("models", name)
    screen.data(found, lambda: screen.say(f"{name} has no alias {alias} any more."))
