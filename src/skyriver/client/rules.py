"""The commands for versions of a stream's rules: candidates, their trial, their promotion and the way back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyriver.client.rows import read_text
from skyriver.client.rules_page import listed, page, told
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect, machine, state
from skyriver.core.errors import InvalidInput
from skyriver.core.names import nearest

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.client.requirements import Declared
    from skyriver.core.contract import RulesVersion

USED_SECONDS = 60.0
"""For so long it is waited for the stream to use what was asked for; it does so soon after, anyway."""
LOOK_SECONDS = 0.2

_rules = typer.Typer(help="Versions of a stream's rules.", no_args_is_help=True)
app.add_typer(_rules, name="rules")
Stream = Annotated[str, typer.Argument(metavar="STREAM")]
Version = Annotated[int, typer.Argument(metavar="VERSION", min=1)]
Why = Annotated[str, typer.Option("--why", help="The reason; it is kept with the version.")]
Anyway = Annotated[str | None, typer.Option("--anyway", help="Do it though the gate refuses, for this reason.")]


@_rules.command("list")
def rules_list(stream: Stream, as_json: Json = False) -> None:
    """The versions there are, and what became of each."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        versions = client.rules(stream)
    screen.data({"items": versions}, lambda: listed(screen, versions))


@_rules.command("get")
def rules_get(stream: Stream, version: Version, as_json: Json = False) -> None:
    """One version: its rules, where it comes from, and how it compares with the rules that decide."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.rules_version(stream, version)
    screen.data(found, lambda: page(screen, found))


@_rules.command("add")
def rules_add(
    stream: Stream,
    file: Annotated[Path, typer.Argument(help='APP.py, whose rules for the stream it are, or JSON: {"rules": [...]}.')],
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Make the rules of an application file a candidate: nothing is deployed, and nothing decided by it yet."""
    screen = Screen(as_json=as_json)
    rules, declared = _rules_of(screen, stream, file)
    with connect() as client, declared.placing() if declared is not None else nullcontext():
        found = client.add_rules(stream, rules, why=why)
    screen.data(found, lambda: told(screen, found))


@_rules.command("shadow")
def rules_shadow(stream: Stream, version: Version, why: Why = "", as_json: Json = False) -> None:
    """Try a version beside the rules that decide: it is evaluated on each event, and decides none."""
    _move(stream, version, "shadow", as_json=as_json, why=why)


@_rules.command("canary")
def rules_canary(
    stream: Stream,
    version: Version,
    percent: Annotated[float, typer.Argument(metavar="PERCENT", min=0.01, max=100, help="Of the keys.")],
    why: Why = "",
    anyway: Anyway = None,
    as_json: Json = False,
) -> None:
    """Let a version decide for a share of the keys; a key stays with its rules, and a larger share keeps it."""
    _move(stream, version, "canary", as_json=as_json, why=why, anyway=_passing(anyway), percent=percent)


@_rules.command("promote")
def rules_promote(
    stream: Stream, version: Version, why: Why = "", anyway: Anyway = None, as_json: Json = False
) -> None:
    """Let a version decide; one that decided before too, which is the way back."""
    _move(stream, version, "promote", as_json=as_json, why=why, anyway=_passing(anyway))


@_rules.command("drop")
def rules_drop(stream: Stream, version: Version, why: Why = "", as_json: Json = False) -> None:
    """Give a candidate up; its trial ends."""
    _move(stream, version, "drop", as_json=as_json, why=why)


def _passing(reason: str | None) -> str:
    """Raises InvalidInput (NO_REASON)."""
    if reason is not None and not reason.strip():
        raise InvalidInput(
            "The reason for passing the gate is empty.",
            code="NO_REASON",
            where="--anyway",
            next_action='Say why: --anyway "REASON".',
        )
    return reason or ""


def _move(stream: str, version: int, to: str, *, as_json: bool, **given: Any) -> None:
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.move_rules(stream, version, to, **given)
        if to != "drop":
            found = _used(client, found)
    screen.data(found, lambda: told(screen, found))


def _used(client: Client, found: RulesVersion) -> RulesVersion:
    """Once the stream uses it, or as it is when nobody waits for that any longer."""
    deadline = time.monotonic() + USED_SECONDS
    asked = found["state"]
    while not found["in_use"] and found["state"] == asked and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        found = client.rules_version(found["stream"], found["version"])
    return found


def _rules_of(screen: Screen, stream: str, file: Path) -> tuple[Sequence[Mapping[str, str]], Declared | None]:
    if file.suffix == ".py":
        from skyriver.client.requirements import declare  # 0.1 s that help need not wait for

        with screen.progress() as bars:
            declared = declare(machine(), state["home"], file, bars.tell)
        decides = declared.spec.decides
        rules = next((decide.rules for decide in decides if decide.stream == stream), None)
        if rules is None:
            raise InvalidInput(
                f"{file} declares no decisions on {stream}.",
                code="NO_DECISIONS",
                next_action=f"It declares some on {', '.join(d.stream for d in decides) or 'no stream'}.",
            )
        return [rule.to_json() for rule in rules], declared
    action = 'Write {"rules": [{"decision": "block", "when": "score >= 0.9"}, ...]}, or give the application\'s file.'
    try:
        found = json.loads(read_text(file))
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON: {error}.", code="BAD_JSON", next_action=action) from error
    given = found.get("rules") if isinstance(found, dict) else None
    if not isinstance(given, list) or not all(isinstance(rule, dict) for rule in given):
        raise InvalidInput(f"{file} holds no rules.", code="BAD_JSON", next_action=action)
    if others := [key for key in found if key != "rules"]:
        raise InvalidInput(
            f"{file} holds {others[0]!r} beside its rules, and a version is a list of rules alone"
            f"{nearest(others[0], ['rules'])}.",
            code="BAD_RULE",
            where=str(file),
            next_action=f"Take {others[0]!r} out; what decides beside rules is declared by app.decide and deployed.",
        )
    return given, None
