"""The commands for models and their versions, and the names that versions have beside their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from skyriver.client import show
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, confirm, connect, noun, wait
from skyriver.core.errors import InvalidInput, NotFound
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


@_models.command("import")
def model_import(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model in ONNX's format.")],
    description: Annotated[str, typer.Option(help="What it is for, for its card.")] = "",
    weights: Annotated[
        list[Path] | None, typer.Option("--weights", help="A file beside it that has its weights; may be given often.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take in a model file from outside as a version of a model, which no application needs to declare."""
    screen = Screen(as_json=as_json)
    ModelRef.parse(name)
    for path in (file, *(weights or ())):
        if not path.is_file():
            action = "Name a file in ONNX's format, and with --weights those beside it."
            raise NotFound("There is no such file.", code="NO_MODEL_FILE", where=str(path), next_action=action)
    with connect() as client, screen.progress() as bars:
        done = wait(client, client.import_model(name, file, weights=weights or (), description=description), bars)
        [made] = [ref.partition("/")[2] for ref in done["status"]["created"] if ref.startswith("version/")]
        found = client.get("versions", made)
    screen.data(found, lambda: _say_imported(screen, found))


def _say_imported(screen: Screen, found: Mapping[str, Any]) -> None:
    for side in ("inputs", "outputs"):
        told = ", ".join(f"{t['name']} {t['datatype']}{t['shape']}" for t in found["spec"]["signature"][side])
        screen.say(f"{'takes' if side == 'inputs' else 'gives'} {escape(told)}")
    screen.say(f"It is {found['name']}. {found['message']} {found['next_action']}".rstrip())


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


@_models.command("delete")
def model_delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a model that `model import` brought, with all its versions.

    What was brought by mistake is deleted: no model that has served or that rows were scored by. A model that an
    application declares goes with its declaration: `skyriver deploy APP.py --prune`, or `skyriver app delete APP`."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        if not yes:
            confirm(f"Remove {name} and all its versions?")
        done = client.delete_model(name)
    screen.data(done, lambda: screen.say(f"Removed: {', '.join(line['name'] for line in done['plan'])}."))


@_models.command("tag")
def model_tag(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Or MODEL:VERSION, or MODEL@ALIAS.")],
    tags: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...")],
    as_json: Json = False,
) -> None:
    """Hang tags on a model, or on one of its versions. Nothing in the cloud acts by them."""
    given = {}
    for text in tags:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(
                f"{text!r} is no tag.", code="BAD_TAG", where=name, next_action="Write KEY=VALUE, as in owner=ana."
            )
        given[key] = value
    _tag(name, given, as_json=as_json)


@_models.command("untag")
def model_untag(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Or MODEL:VERSION, or MODEL@ALIAS.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY...")],
    as_json: Json = False,
) -> None:
    """Take tags away again."""
    _tag(name, dict.fromkeys(keys), as_json=as_json)


def _tag(name: str, changes: Mapping[str, str | None], *, as_json: bool) -> None:
    screen = Screen(as_json=as_json)
    with connect() as client:
        named = version_named(client, name)
        known = client.get("versions" if ":" in named else "models", named)["status"].get("tags", {})
        if missing := [key for key, value in changes.items() if value is None and key not in known]:
            raise NotFound(
                f"{named} has no tag {missing[0]!r}{nearest(missing[0], known)}.",
                code="NO_TAG",
                where=named,
                next_action=f"`skyriver explain {named}` shows those it has.",
            )
        found = client.tag(named, changes)
    told = ", ".join(f"{key}={value}" for key, value in found["status"].get("tags", {}).items())
    screen.data(found, lambda: screen.say(f"{named} is tagged {told}." if told else f"{named} has no tags."))


@_models.command("unalias")
def model_unalias(name: Name, alias: Alias, as_json: Json = False) -> None:
    """Take a name of a version away; the version stays."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        wait(client, client.act("unalias", name, params={"alias": alias}), bars)
        found = client.get("models", name)
    screen.data(found, lambda: screen.say(f"{name} has no alias {alias} any more."))
