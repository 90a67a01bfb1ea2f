"""The commands for the audit trail: who did what in the cloud, and under which permission."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect
from skyriver.core.units import utc_time

if TYPE_CHECKING:
    from skyriver.core.contract import AuditPage, AuditRow

_audit = typer.Typer(help="Audit: who did what, and when.", no_args_is_help=True)
app.add_typer(_audit, name="audit")

SHOWN_DETAILS = 80


@_audit.command("list")
def audit_list(
    target: Annotated[str, typer.Option(help="Only what was done to this: a name, or kind/name.")] = "",
    since: Annotated[str, typer.Option(help="Only of so long: 10m, 1h, 7d.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="The most that is shown.")] = 50,
    cursor: Annotated[str, typer.Option(help="`next` of the page before: what is older.")] = "",
    as_json: Json = False,
) -> None:
    """What was done, newest first."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        page = client.audit_page(newest=True, target=target, since=since, limit=limit, cursor=cursor)
    screen.data(page, lambda: _table(screen, page))


@_audit.command("get")
def audit_get(
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As `skyriver audit list` shows it.")],
    as_json: Json = False,
) -> None:
    """One, with all that was written down of it."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.audit_row(number)
    screen.data(found, lambda: _page(screen, found))


def _table(screen: Screen, page: AuditPage) -> None:
    if not page["items"]:
        screen.say("Nothing of that kind was done.")
        return
    rows = [
        (str(row["seq"]), utc_time(row["at"]), row["actor"], row["action"], row["target"], _short(row["details"]))
        for row in page["items"]
    ]
    screen.table("", ("NUMBER", "TIME (UTC)", "WHO", "DID", "TO", "DETAILS"), rows)
    if page["next"]:
        screen.say(f"There are older ones: the same with --cursor {page['next']}")


def _short(details: Mapping[str, Any]) -> str:
    text = json.dumps(dict(details), ensure_ascii=False) if details else ""
    return text if len(text) <= SHOWN_DETAILS else f"{text[:SHOWN_DETAILS]} ..."


def _page(screen: Screen, row: AuditRow) -> None:
    screen.out.print(f"[bold]{row['seq']}[/]  {escape(row['actor'])} did {row['action']} to {escape(row['target'])}")
    screen.out.print(f"  when       {utc_time(row['at'])} UTC")
    screen.out.print(f"  permission {row['permission']}")
    for name, value in row["details"].items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        screen.out.print(f"  {escape(name):<10} {escape(shown)}")
