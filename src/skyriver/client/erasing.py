"""Erasing a subject from a stream: what there is of it, a question, and the proof."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect, wait
from skyriver.core.errors import InvalidInput

if TYPE_CHECKING:
    from skyriver.client.api import Client

_KINDS = {
    "event": "events",
    "events": "events",
    "history": "rows of loaded history",
    "decision": "decisions",
    "decisions": "decisions",
    "label": "labels",
    "dead": "refused events",
    "reference": "rows of references",
}


@app.command()
def erase(
    stream: Annotated[str, typer.Argument(metavar="STREAM")],
    key: Annotated[str, typer.Argument(help="Who: the value of the stream's key.")],
    field: Annotated[str, typer.Option(help="Another field that names somebody.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what there is.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase somebody from a stream: its log, tables, decisions and refused events. This cannot be undone."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        _check_key(client.get("streams", stream)["spec"]["stream"], stream, key, field)
        if dry_run or not yes:
            with screen.progress() as bars:
                found = _act(client, bars, stream, key, field, dry_run=True)
            if dry_run:
                screen.data(found, lambda: _show_found(screen, found))
                return
            if not as_json:
                _show_found(screen, found)
            if not _rows(found):
                return
            _confirm(key)
        with screen.progress() as bars:
            proof = _act(client, bars, stream, key, field, dry_run=False)
    screen.data(proof, lambda: _show_proof(screen, proof))


def _check_key(declared: Mapping[str, Any], stream: str, key: str, field: str) -> None:
    """Before anything is asked for: the request itself does not say who it is about. Raises InvalidInput
    (UNKNOWN_FIELD, BAD_SUBJECT)."""
    name = field or declared["key"]
    fields = {own["name"]: own["type"] for own in declared["fields"]}
    if fields.get(name) not in ("int", "text"):
        fits = ", ".join(own for own, kind in fields.items() if kind in ("int", "text"))
        raise InvalidInput(
            f"{stream} has no field {name[:80]!r} that names somebody.",
            code="UNKNOWN_FIELD",
            where="--field",
            next_action=f"It has {fits}.",
        )
    try:
        wrong = fields[name] == "int" and not -(1 << 63) <= int(key) < 1 << 63
    except ValueError:
        wrong = True
    if wrong or not key:
        what = "is a whole number" if fields[name] == "int" else "is not empty"
        raise InvalidInput(
            f"{key[:80]!r} is no {name}: {name} of {stream} {what}.",
            code="BAD_SUBJECT",
            where="KEY",
            next_action=f"Give a value as its events have it; --field names somebody by another field than {name}.",
        )


def _act(client: Client, bars: Any, stream: str, key: str, field: str, *, dry_run: bool) -> dict[str, Any]:
    """Who it is goes as an object, with random words beside it: neither rows nor the audit's know, and nobody can try
    which name the object has. It comes after the request, so that one that is refused leaves nothing."""
    said = json.dumps({"field": field, "value": key, "beside": secrets.token_hex(16)}).encode()
    inputs = {"subject": {"digest": hashlib.sha256(said).hexdigest()}}
    operation = client.act("erase", stream, params={"dry_run": dry_run}, inputs=inputs)
    with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
        file.write(said)
        file.flush()
        client.upload(Path(file.name), lambda done, total: None)
    done = wait(client, operation, bars)
    result: dict[str, Any] = done["status"]["result"]["erase"]
    return result


def _confirm(key: str) -> None:
    import sys

    if not sys.stdin.isatty():
        raise InvalidInput("Nobody is there to confirm.", code="NOT_CONFIRMED", next_action="Give -y to do it.")
    if typer.prompt(f"This cannot be undone. Type {key} to erase it", err=True) != key:
        raise InvalidInput(
            "That is another one: nothing was erased.",
            code="NOT_CONFIRMED",
            next_action="Ask again, and type the key as you gave it.",
        )


def _rows(found: Mapping[str, Any]) -> int:
    counts = found["found"]
    return int(sum(counts["log"].values()) + sum(counts["tables"].values()))


def _table(found: Mapping[str, Any], left: Mapping[str, Any] | None) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("where", "rows", *(("left",) if left is not None else ())):
        table.add_column(name, justify="left" if name == "where" else "right")
    log: dict[str, int] = {}
    for kind, count in found["log"].items():
        log[_KINDS[kind]] = log.get(_KINDS[kind], 0) + count
    after = sum(left["log"].values()) if left is not None else 0
    for what, count in log.items():
        table.add_row(f"log: {what}", f"{count:,}", *((f"{after:,}",) if left is not None else ()))
    for name, count in found["tables"].items():
        more = (f"{left['tables'].get(name, 0):,}",) if left is not None else ()
        table.add_row(f"table {name}", f"{count:,}", *more)
    return table


def _show_found(screen: Screen, told: Mapping[str, Any]) -> None:
    if not _rows(told):
        screen.out.print(f"{told['stream']} has nothing of it.")
        _show_unreached(screen, told)
        return
    screen.out.print(f"{told['stream']} has {told['events']:,} events of it:")
    screen.out.print(_table(told["found"], None))
    _show_kept(screen, told)
    _show_unreached(screen, told)


def _show_proof(screen: Screen, told: Mapping[str, Any]) -> None:
    if not _rows(told):
        screen.out.print(f"{told['stream']} had nothing of it.")
        _show_unreached(screen, told)
        return
    screen.out.print(f"Erased from {told['stream']}; looked for once more, in all of it:")
    screen.out.print(_table(told["found"], told["left"]))
    _show_kept(screen, told)
    if told["files"]:
        screen.out.print(f"Files that were loaded into it, deleted: {told['files']}.")
    if told["replays"]:
        screen.out.print(f"Files with rows of replays, deleted: {told['replays']}.")
    if told.get("predictions"):
        screen.out.print(f"Files with predictions, and what they were made of, deleted: {told['predictions']}.")
    if told["acts"]:
        screen.out.print(f"Deliveries and cases of it, deleted: {told['acts']}.")
    if told["until"]:
        screen.out.print(f"Windows count its events, as those of nobody, until {told['until']} by the stream's time.")
    for place in told["copies"]:
        screen.out.print(f"A copy is left that this cloud cannot delete: {place}")
    if told["versions"]:
        screen.out.print(f"Versions that may have been trained on its events: {', '.join(told['versions'])}.")
    _show_unreached(screen, told)


def _show_kept(screen: Screen, told: Mapping[str, Any]) -> None:
    if told["kept"]:
        screen.out.print(f"Of its events stay, for features or budgets of others read them: {', '.join(told['kept'])}.")
    if told["linked"]:
        screen.out.print("They stay linked to each other, for features count how many different ones there are.")


def _show_unreached(screen: Screen, told: Mapping[str, Any]) -> None:
    if told.get("unreached"):
        screen.out.print(f"Predictions that do not say whom they are of stay: {', '.join(told['unreached'])}.")
