"""The commands for incidents, what is wrong with the system and why, and for alerts, who is told of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from skyriver.client.screen import Screen, age, clock, coloured
from skyriver.client.shell import Json, all_of, app, connect, noun, wait

if TYPE_CHECKING:
    from skyriver.core.contract_alerts import Alert

_incidents = noun(
    "incident", "incidents", "Incidents: what is wrong with the system, and why.", lists=False, gets=False
)
_alerts = typer.Typer(help="Alerts: who is told of incidents.", no_args_is_help=True)
app.add_typer(_alerts, name="alert")

Name = Annotated[str, typer.Argument(metavar="INCIDENT")]
SHOWN_CAUSES = 3
SHOWN_TEXT = 120


@_incidents.command("list")
def incident_list(
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False, as_json: Json = False
) -> None:
    """Those that are not over, the newest first."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found, damaged = all_of(client.list("incidents"))
    items = [row for row in found if every or row["state"] != "RESOLVED"]
    items.sort(key=lambda row: row["created_at"], reverse=True)
    columns = ("INCIDENT", "STATE", "SEVERITY", "BEGAN", "WHAT")
    if items:
        screen.data(items, lambda: screen.table("", columns, [_line(item) for item in items]))
    else:
        more = "" if every else " `skyriver incident list --all` shows those that are over."
        screen.data(items, lambda: screen.say(f"Nothing is wrong that is known.{more}"))
    if damaged is not None:
        raise damaged


@_incidents.command("get")
def incident_get(name: Name, as_json: Json = False) -> None:
    """One: what is wrong, what it is put down to, what was done about it."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.get("incidents", name)
    screen.data(found, lambda: _page(screen, found))


@_incidents.command("ack")
def incident_ack(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="What you do about it; it is kept with the incident.")] = "",
    as_json: Json = False,
) -> None:
    """Say that somebody looks at it."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        wait(client, client.act("incident_ack", name, params={"why": why} if why else None), bars)
        found = client.get("incidents", name)
    who = found["status"].get("acknowledged", {}).get("by")
    taken = f", taken by {escape(who)}" if who else ""
    screen.data(found, lambda: screen.say(f"{name} is {found['state']}{taken}: it is over when what is wrong is."))


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        row["state"],
        row["status"]["severity"],
        f"{age(row['created_at'])} ago",
        _short(row["message"]),
    )


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT].rstrip()} ..."


def _page(screen: Screen, row: Mapping[str, Any]) -> None:
    for line in _lines(row):
        screen.out.print(line)
    causes = row["status"]["causes"][:SHOWN_CAUSES]
    if causes:
        screen.table(
            "", ("LIKELY BECAUSE", "OF", "WEIGHT"), [(c["told"], c["subject"], str(c["score"])) for c in causes]
        )


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    status = row["status"]
    over = f", over since {age(status['ended'])}" if row["state"] == "RESOLVED" and status.get("ended") else ""
    began = f"{status['severity']}, began {age(row['created_at'])} ago{over}"
    yield f"[bold]{row['name']}[/]  {coloured(row['state'])}  {began}"
    for condition in status["conditions"]:
        yield f"  wrong {escape(condition['told'])} ({condition['subject']}, since {clock(condition['since'])} UTC)"
    if status.get("more"):
        yield f"        and {status['more']} more"
    for healed in status["healed"]:
        outcome = escape(healed["outcome"] or "under way")
        yield f"  did   {healed['what']} {healed['subject']} at {clock(healed['at'])} UTC: {outcome}"
    if known := status.get("acknowledged"):
        who = escape(known.get("by") or "somebody")
        yield f"  taken by {who} {age(known['at'])} ago{': ' + escape(known['why']) if known['why'] else ''}"
    for name, told in sorted(status.get("told", {}).items()):
        said = "was told" if not told.get("problem") else f"does not take it: {told['problem']}"
        yield f"  alert {name} {escape(said)}"
    if status["times"] > 1:
        yield f"  times it came back {status['times'] - 1} times"
    if row["next_action"]:
        yield f"  next  {escape(row['next_action'])}"


# Alerts


@_alerts.command("list")
def alert_list(as_json: Json = False) -> None:
    """All receivers."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items = client.alerts()
    screen.data(items, lambda: _alert_table(screen, items))


@_alerts.command("get")
def alert_get(name: Annotated[str, typer.Argument(metavar="ALERT")], as_json: Json = False) -> None:
    """One, and whether it took the last message."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.alert(name)
    screen.data(found, lambda: _alert_table(screen, [found]))


@_alerts.command("test")
def alert_test(name: Annotated[str, typer.Argument(metavar="ALERT")], as_json: Json = False) -> None:
    """Send it a message now, and show what it answers. Exit code 1: it was not taken."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        done = client.test_alert(name)
    screen.data(done, lambda: screen.say(f"{name}: {done['message']}"))
    if not done["taken"]:
        raise typer.Exit(1)


def _alert_table(screen: Screen, alerts: Sequence[Alert]) -> None:
    if not alerts:
        screen.say("Nobody is told of incidents: a file HOME/alerts/TENANT/NAME.toml with a url makes an alert.")
        return
    rows = [
        (
            a["name"],
            a["state"],
            a["host"],
            a["least"],
            f"{age(a['taken_at'])} ago" if a["taken_at"] else "never",
            a["message"],
        )
        for a in alerts
    ]
    screen.table("", ("ALERT", "STATE", "HOST", "FROM", "TOOK ONE", "SAYS"), rows)
    for alert in alerts:
        if alert["next_action"]:
            screen.say(f"{alert['name']}: {alert['next_action']}")
