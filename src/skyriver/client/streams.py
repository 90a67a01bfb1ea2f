"""The commands for streams: what one is and does, live and once, its dead letters, the proof of its features, and its
past decided again."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.live import Live

from skyriver.client import show
from skyriver.client.screen import Screen
from skyriver.client.sending import check_stream
from skyriver.client.shell import Json, connect, noun, wait
from skyriver.client.stream_page import dead_table, lines, page
from skyriver.client.top import EVERY_SECONDS, keys_one_by_one, quit_pressed
from skyriver.client.what_if import rules_in, show_replay
from skyriver.core.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.core.contract import StreamNow

CURVE_LOOKS = 60

_streams = noun("stream", "streams", "Streams.", gets=False)
Name = Annotated[str, typer.Argument(metavar="NAME")]


@_streams.command("get")
def stream_get(name: Name, as_json: Json = False) -> None:
    """What a stream is, what it does now, and why it is not READY."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        now = client.stream_now(name)
        document = {**client.get("streams", name), "now": now} if as_json else now
    screen.data(document, lambda: screen.out.print(page(now)))


@_streams.command("top")
def stream_top(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One stream on a page; else all of them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Throughput, latency, lag and losses, once a second; q or Ctrl-C ends. One look without a terminal."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        watch = _Watch(client, name)
        watch.look()
        if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
            screen.data({"items": watch.streams}, lambda: screen.out.print(watch.shown()))
            return
        with contextlib.suppress(KeyboardInterrupt), keys_one_by_one(), Live(console=screen.out, screen=True) as live:
            live.update(watch.shown(), refresh=True)
            while not quit_pressed(EVERY_SECONDS):
                watch.look()
                live.update(watch.shown(), refresh=True)


@_streams.command("dead")
def stream_dead(
    name: Name,
    reason: Annotated[str, typer.Option(help="Only those refused for this reason.")] = "",
    as_json: Json = False,
) -> None:
    """The last events and labels that were refused, with the reason and as they came."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        try:
            found = client.dead_letters(name)
        except NotFound as error:
            if error.code == "UNKNOWN_ROUTE":  # the gateway knows no names
                check_stream(client, name)
            raise
    letters = [letter for letter in found if reason in ("", letter["reason"])]
    screen.data({"items": letters}, lambda: screen.out.print(dead_table(letters)) if letters else None)
    if letters:
        screen.say(f"[dim]The last {len(letters)}, cut to what fits; all of them are in the table {name}.dead.[/]")
    elif found:
        reasons = ", ".join(sorted({letter["reason"] for letter in found}))
        screen.say(
            f"None of the last {len(found)} dead letters of {name} has the reason {reason}; they have {reasons}."
        )
    else:
        screen.say(f"{name} has refused nothing.")


@_streams.command("verify")
def stream_verify(name: Name, as_json: Json = False) -> None:
    """Recompute every feature value that the stream recorded, and compare bit for bit."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        done = wait(client, client.act("verify", name), bars)
    report = done["status"]["result"]["verify"]
    screen.data(report, lambda: show.verified(screen, report))
    if report["different"]:
        raise typer.Exit(1)


@_streams.command("replay")
def stream_replay(
    name: Name,
    begin: Annotated[str, typer.Option("--from", metavar="TIME", help="Its first moment (default: the log's).")] = "",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Up to, excluding (default: the log's end).")] = "",
    model: Annotated[str, typer.Option(metavar="NAME:VERSION", help="Decide by this version instead.")] = "",
    rules: Annotated[
        str, typer.Option(metavar="FILE|N", help="Decide by these rules instead: APP.py, JSON, or a version of them.")
    ] = "",
    by: Annotated[list[str] | None, typer.Option("--by", help="Tell changes by this field or feature.")] = None,
    as_json: Json = False,
) -> None:
    """What if: decide a stretch of the past again, by another version or other rules, and compare with what was
    decided. Without these, by what was used then: nothing may differ. Touches nothing of the stream."""
    screen = Screen(as_json=as_json)
    params: dict[str, Any] = {"from": begin, "to": end, "model": model, "by": by or []}
    if rules:
        params["rules"] = int(rules) if rules.isdecimal() else rules_in(Path(rules), name)
    with connect() as client, screen.progress() as bars:
        operation = client.act("replay", name, params={k: v for k, v in params.items() if v})
        done = wait(client, operation, bars)
    report = done["status"]["result"]["replay"]
    screen.data({"job": operation, **report}, lambda: show_replay(screen, report, operation))
    if report["as_it_was"] and report["different"]:
        raise typer.Exit(1)


class _Watch:
    """Looks at one stream or at all; what was seen last stays when the cloud is away."""

    def __init__(self, client: Client, name: str | None) -> None:
        self._client = client
        self._name = name
        self._rates: dict[str, deque[float]] = {}
        self._trouble = ""
        self.streams: Sequence[StreamNow] = ()

    def look(self) -> None:
        try:
            named = self._name
            self.streams = [self._client.stream_now(named)] if named else self._client.streams_now()
            self._trouble = ""
        except Unavailable as error:
            if not self.streams:
                raise
            self._trouble = f"{error.message} What is shown was seen before."
            return
        for now in self.streams:
            rate = sum(p["events_per_second"] for p in now["partitions"])
            self._rates.setdefault(now["name"], deque(maxlen=CURVE_LOOKS)).append(rate)

    def shown(self) -> RenderableType:
        if self._name:
            return page(self.streams[0], rates=self._rates.get(self._name, ()), trouble=self._trouble)
        return lines(self.streams, self._rates, self._trouble)
