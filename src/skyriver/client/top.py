"""`skyriver top`: what runs and what it does, once a second."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from skyriver.client import scaling_page
from skyriver.client.screen import Screen, age, coloured
from skyriver.client.shell import Json, app, connect, machine, state
from skyriver.core.errors import Unavailable

if TYPE_CHECKING:
    from skyriver.client.api import Client

EVERY_SECONDS = 1.0
ONE_SHOT_SECONDS = 0.5
"""Between the two looks from which rates are told where there is no terminal."""
JOBS_SHOWN = 12
_WAITING = ("PENDING", "QUEUED")
_WORKING = ("STARTING", "RUNNING", "RECOVERING", "CANCELLING")
_COLUMNS = ("PROCESS", "NAME", "STATE", "PID", "UP", "CPU", "MEMORY", "RESTARTS", "RATE", "P50", "P99")


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment."""

    at: float
    """By a monotonic clock, seconds."""
    processes: Sequence[Mapping[str, Any]]
    jobs: Sequence[Mapping[str, Any]]
    scalings: Sequence[Mapping[str, Any]] = ()
    """Of services whose replicas follow the load."""
    services: Sequence[Mapping[str, Any]] = ()
    trouble: str = ""


@app.command()
def top(as_json: Json = False) -> None:
    """What runs and what it does, once a second; q or Ctrl-C ends. One look without a terminal."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        before = look(client, None)
        if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
            time.sleep(ONE_SHOT_SECONDS)
            document = told(before, look(client, before))
            screen.data(document, lambda: screen.out.print(shown(document)))
            return
        with contextlib.suppress(KeyboardInterrupt), keys_one_by_one(), Live(console=screen.out, screen=True) as live:
            while not quit_pressed(EVERY_SECONDS):
                now = look(client, before)
                live.update(shown(told(before, now)), refresh=True)
                before = now


def look(client: Client, before: Look | None) -> Look:
    """Without the control plane: its parts as they are now, and the rest as it was seen last; nothing once all of
    it is down."""
    try:
        processes = [p for p in client.processes() if p["alive"]]
        jobs = [job for wanted in (*_WORKING, *_WAITING) for job in client.list("jobs", state=wanted)]
        scalings, services = list(client.list("scalings")), list(client.list("services"))
    except Unavailable as error:
        if before is None:
            raise
        if not (parts := machine().parts(state["home"])):
            return Look(time.monotonic(), [], [], trouble="The cloud is down. `skyriver up` starts it.")
        kept = [p for p in before.processes if p["kind"] != "part"]
        return Look(time.monotonic(), [*parts, *kept], before.jobs, before.scalings, before.services, error.message)
    return Look(time.monotonic(), [*machine().parts(state["home"]), *processes], jobs, scalings, services)


def told(before: Look, now: Look) -> dict[str, Any]:
    """The document: of each process its share of a core and its rate since the look before."""
    known = {p["pid"]: p for p in before.processes if p["pid"]}
    seconds = max(now.at - before.at, 1e-3)
    return {
        "processes": [_told_process(p, known.get(p["pid"]), seconds) for p in now.processes],
        "scalings": _told_scalings(now),
        "jobs": [_told_job(job) for job in now.jobs],
        "trouble": now.trouble,
    }


def _told_process(now: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float) -> dict[str, Any]:
    report = now["report"]
    return {
        "kind": now["kind"],
        "name": now["name"],
        "state": now["state"],
        "pid": now["pid"],
        "started_at": now["started_at"],
        "cpu_percent": _rate(now, before, seconds, "cpu_seconds", 100.0),
        "memory_mb": round(now["rss_mb"], 1),
        "restarts": now.get("restarts"),
        "per_second": _rate(report, before and before["report"], seconds, _counter(report)),
        "p50_us": report.get("p50_us"),
        "p99_us": report.get("p99_us"),
        "message": f"{now.get('message', '')} {now.get('next_action', '')}".strip(),
    }


def _told_scalings(now: Look) -> list[dict[str, Any]]:
    """Of services whose replicas follow the load, and of those that sleep or wake: what was decided of these when they
    were awake is not so now."""
    rows = {row["name"]: row for row in now.scalings if scaling_page.follows(row)}
    resting = {service["name"]: service for service in now.services if service["status"].get("rest")}
    return [
        _told_rest(resting[name], now.processes) if name in resting else _told_scaling(rows[name], now.processes)
        for name in sorted({*rows, *resting})
    ]


def _told_rest(service: Mapping[str, Any], processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rest = service["status"]["rest"]
    wanted = 0 if rest["state"] == "asleep" else rest.get("replicas", 1)
    told = {"name": service["name"], "ready": _ready(service["name"], processes), "wanted": wanted}
    return {**told, "why": service["message"], "state": service["state"]}


def _ready(service: str, processes: Sequence[Mapping[str, Any]]) -> int:
    """Of all its versions together, those that serve."""
    replicas = [p for p in processes if p["kind"] == "replica" and p["parent"] == f"service/{service}"]
    return sum(p["state"] == "READY" for p in replicas)


def _told_scaling(row: Mapping[str, Any], processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told = {"name": row["name"], "ready": _ready(row["name"], processes), "wanted": row["spec"]["replicas"]}
    return {**told, "why": scaling_page.why(row), "state": row["state"]}


def _counter(report: Mapping[str, Any]) -> str:
    """What the process counts: requests, or events."""
    return next((name for name in ("requests", "events") if name in report), "")


def _rate(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float, name: str, factor: float = 1.0
) -> float | None:
    if not name or before is None or name not in before or name not in now:
        return None
    return round(max(0.0, float(now[name] - before[name]) / seconds * factor), 1)


def _told_job(job: Mapping[str, Any]) -> dict[str, Any]:
    progress = job["status"].get("progress") or {}
    done, total = progress.get("done", 0), progress.get("total", 0)
    return {
        "name": job["name"],
        "state": job["state"],
        "since": job["since"],
        "stage": progress.get("stage", ""),
        "percent": round(100 * done / total, 1) if total else None,
        "message": job["message"],
    }


def shown(document: Mapping[str, Any]) -> Group:
    parts: list[Table | Text] = [_table(_COLUMNS, [_process_row(p) for p in document["processes"]])]
    wrong = [p for p in document["processes"] if p["kind"] == "part" and p["message"]]
    parts += [Text.from_markup(f"[red]{p['name']}[/]: {escape(p['message'])}") for p in wrong]
    if document["trouble"]:
        parts.append(Text.from_markup(f"[yellow]{escape(document['trouble'])}[/]"))
    if document["scalings"]:
        scaled = [(s["name"], str(s["ready"]), str(s["wanted"]), escape(s["why"])) for s in document["scalings"]]
        parts += [Text(""), _table(("SERVICE", "REPLICAS", "WANTED", "WHY"), scaled)]
    jobs = document["jobs"]
    waiting = sum(job["state"] in _WAITING for job in jobs)
    parts.append(Text(f"\n{len(jobs) - waiting} jobs at work, {waiting} waiting"))
    if jobs:
        rows = [
            (j["name"], coloured(j["state"]), age(j["since"]), _progress(j), escape(j["message"]))
            for j in jobs[:JOBS_SHOWN]
        ]
        parts.append(_table(("JOB", "STATE", "FOR", "PROGRESS", "MESSAGE"), rows))
    return Group(*parts)


def _process_row(p: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        p["kind"],
        p["name"],
        coloured(p["state"]),
        str(p["pid"] or ""),
        age(p["started_at"]) if p["pid"] and p["started_at"] else "",
        _number(p["cpu_percent"], "%"),
        f"{p['memory_mb']:.0f} MB" if p["pid"] else "",
        _number(p["restarts"], ""),
        _number(p["per_second"], "/s"),
        _milliseconds(p["p50_us"]),
        _milliseconds(p["p99_us"]),
    )


def _progress(job: Mapping[str, Any]) -> str:
    return escape(f"{job['stage']} {_number(job['percent'], '%')}".strip())


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:,.0f}{unit}"


def _milliseconds(value: float | None) -> str:
    return "" if not value else f"{value / 1000:.2f} ms"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in columns:
        right = name in ("PID", "CPU", "MEMORY", "RESTARTS", "RATE", "P50", "P99")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


@contextmanager
def keys_one_by_one() -> Iterator[None]:
    """Keys come one by one, and are not shown; Ctrl-C stays what it is."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def quit_pressed(seconds: float) -> bool:
    """Whether q was pressed; returns after `seconds` at the latest."""
    return bool(select.select([sys.stdin], [], [], seconds)[0]) and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b"")
