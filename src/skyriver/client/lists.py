"""The commands for lists, which rules read: who is on one, who was when, and changing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from skyriver.client.keeping import (
    SHOWN_BAD,
    Changed,
    KeptList,
    find_list,
    id_of,
    lists_in,
    load_list,
    pages,
    remove_from,
)
from skyriver.client.rows import numbered_rows
from skyriver.client.screen import Screen
from skyriver.client.sending import once_ready
from skyriver.client.shell import Json, app, connect, parameters_of
from skyriver.core.units import utc_time

SHOWN = 50
_lists = typer.Typer(help="Lists, which rules of streams read.", no_args_is_help=True)
app.add_typer(_lists, name="list")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The list's name.")]
Stream = Annotated[str, typer.Option("--stream", help="Where several streams have one of the name.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Who is meant.")]


@_lists.command("list")
def list_list(as_json: Json = False) -> None:
    """All there are, with how many are on each."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        heads = [(kept, next(pages(client, kept))) for kept in lists_in(client)]
    found = [{"stream": kept.stream, **{k: v for k, v in head.items() if k != "items"}} for kept, head in heads]
    rows = [(one["list"], one["stream"], f"{one['ids']:,}", _time(one["changed_at"])) for one in found]
    screen.data(found, lambda: screen.table("Lists", ("list", "stream", "on it", "last change"), rows))


@_lists.command("get")
def list_get(name: Name, stream: Stream = "", as_json: Json = False) -> None:
    """Who is on a list now, by which row."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        kept = find_list(client, name, stream)
        found = [*pages(client, kept)]
    rows = [row for page in found for row in page["items"]]
    screen.data({**found[0], "items": rows, "next": None}, lambda: _shown(screen, kept, found[0], rows))


@_lists.command("history")
def list_history(
    name: Name,
    own: Annotated[str, typer.Argument(metavar="ID", help="Who is meant.")],
    stream: Stream = "",
    as_json: Json = False,
) -> None:
    """Whether somebody is on a list, and the rows that put him there or took him off, the newest first."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        kept = find_list(client, name, stream)
        ask = partial(client.list_row, kept.stream, kept.name, id_of(kept, own))
        found = once_ready(client, kept.stream, ask)
    screen.data(found, lambda: _history(screen, kept, found))


@_lists.command("add")
def list_add(
    name: Name,
    own: Annotated[str, typer.Argument(metavar="ID", help="Who is meant.")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE...", help='Of its row, as in note="stolen card".')
    ] = None,
    stream: Stream = "",
    as_json: Json = False,
) -> None:
    """Put somebody on a list, from now on, or change the row."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        kept = find_list(client, name, stream)
        texts = dict(item.split("=", 1) for item in values or [] if "=" in item)
        given = {n: texts[n] if kept.types.get(n) == "text" else v for n, v in parameters_of(values or []).items()}
        row = {**given, kept.id: id_of(kept, own)}
        send = partial(client.send_references, kept.stream, kept.name, [row])
        done = once_ready(client, kept.stream, send)
        ask = partial(client.list_row, kept.stream, kept.name, row[kept.id])
        found = None if as_json else once_ready(client, kept.stream, ask)
    screen.data(done, lambda: screen.say(_added(kept, own, found) if found is not None else ""))


@_lists.command("remove")
def list_remove(name: Name, ids: Ids, stream: Stream = "", as_json: Json = False) -> None:
    """Take somebody off a list, from now on."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        kept = find_list(client, name, stream)
        removed = remove_from(client, kept, [id_of(kept, own) for own in ids])
    screen.data({"removed": removed}, lambda: screen.say(f"{removed:,} of {len(ids):,} were on {name}, and are off."))


@_lists.command("load")
def list_load(
    name: Name,
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines.")],
    replace: Annotated[bool, typer.Option("--replace", help="Who is not in the file is taken off.")] = False,
    stream: Stream = "",
    as_json: Json = False,
) -> None:
    """Put the rows of a file on a list. A bad row is set aside; a file with too many of them changes nothing."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        kept = find_list(client, name, stream)
        rows = numbered_rows(file, kept.types)
        changed = load_list(client, kept, rows, replace=replace, told=bars.tell)
    report = {"rows": changed.rows, "news": changed.news, "removed": changed.removed, "bad": changed.bad}
    report["twice"] = changed.twice
    screen.data(report, lambda: _changed(screen, kept, changed))


def _shown(screen: Screen, kept: KeptList, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    times = {name for name, kind in kept.types.items() if kind == "time"}
    table = [[_value(name, row[name], times) for name in kept.types] for row in rows[:SHOWN]]
    screen.table(f"{kept.name} of {kept.stream}", tuple(kept.types), table)
    more = f", the first {SHOWN} are shown; --json tells all" if len(rows) > SHOWN else ""
    screen.say(f"{len(rows):,} on it{more}; last change {_time(head['changed_at'])}.")


def _added(kept: KeptList, own: str, found: Mapping[str, Any]) -> str:
    until, row = found["fields"]["until"], found["row"]
    if row is not None:
        end = f", until {_time(row[until])}" if row[until] else ""
        return f"{escape(own)} is on {kept.name}{end}."
    last = next((each[until] for each in found["history"] if each[until] is not None), None)
    over = f"the {until} of its row, {_time(last)}, is past" if last is not None else "its row has ended"
    return f"[yellow]{escape(own)} is not on {kept.name}[/]: by the stream's time {over}."


def _history(screen: Screen, kept: KeptList, found: Mapping[str, Any]) -> None:
    own, row = found["id"], found["row"]
    until = f", until {_time(row[found['fields']['until']])}" if row and row[found["fields"]["until"]] else ""
    screen.say(f"{own} is {f'on {kept.name}{until}' if row else f'not on {kept.name}'}.")
    times = {name for name, kind in kept.types.items() if kind == "time"}
    names = [name for name in kept.types if name != kept.id]
    rows = [[each["what"], *(_value(name, each[name], times) for name in names)] for each in found["history"]]
    if rows:
        screen.table(f"{own} on {kept.name}", ("", *names), rows)


def _changed(screen: Screen, kept: KeptList, changed: Changed) -> None:
    same = changed.rows - len(changed.bad) - changed.news
    off = f", {changed.removed:,} taken off" if changed.removed else ""
    screen.say(f"{changed.rows:,} rows: {changed.news:,} new or changed, {same:,} as they were{off}.")
    for bad in changed.bad[:SHOWN_BAD]:
        screen.say(f"  set aside, line {bad['line']}: {bad['reason']}: {escape(bad['message'])}")
    for named in changed.twice[:SHOWN_BAD]:
        lines = ", ".join(str(line) for line in named["lines"])
        screen.say(f"  {kept.id} {escape(str(named['id']))} is named more than once, lines {lines}: the last counts")
    if changed.twice:
        count = len(changed.twice)
        screen.say(f"  {count:,} {'id is' if count == 1 else 'ids are'} named more than once in the file.")
    if changed.bad:
        screen.say(f"  {len(changed.bad):,} bad rows are in the table {kept.stream}.dead.")


def _value(name: str, value: object, times: set[str]) -> str:
    if value is None:
        return ""
    return _time(value) if name in times and isinstance(value, int) else escape(str(value))


def _time(at: int | None) -> str:
    """Of the stream, in UTC."""
    if at is None:
        return "never"
    if at <= 0:
        return "before the first event"
    return utc_time(at)
