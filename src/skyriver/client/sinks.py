"""The commands for what is done with decisions: a stream's sinks, and the deliveries to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect
from skyriver.client.sink_page import (
    deliveries_table,
    delivery_text,
    erased_lines,
    judged_lines,
    retried_text,
    sinks_table,
)
from skyriver.core.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from skyriver.core.contract import Delivery, SinkNow

_sinks = typer.Typer(help="Receivers of decisions.", no_args_is_help=True)
app.add_typer(_sinks, name="sink")

Stream = Annotated[str, typer.Argument(metavar="STREAM")]
Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1)]
Numbers = Annotated[
    list[int] | None, typer.Argument(metavar="[NUMBER]...", min=1, help="As `skyriver sink deliveries` shows them.")
]
AllOf = Annotated[bool, typer.Option("--all", help="All that await approval, up to 1,000; with --sink.")]
OfDecision = Annotated[str, typer.Option("--decision", help="Only those of this decision.")]
Before = Annotated[
    str, typer.Option("--before", help="Only those made before this time, as 2026-01-31T12:30:00 (UTC).")
]
OfSink = Annotated[str, typer.Option("--sink", help="Only those to this one.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]
OfEvent = Annotated[str, typer.Option("--event", help="Only those of this event, by its id.")]
However = Annotated[bool, typer.Option("--all", help="However many there are.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Kept with the delivery, and in the audit trail.")]


@_sinks.command("list")
def sink_list(stream: Stream, as_json: Json = False) -> None:
    """The sinks of a stream, with what waits, is parked and is done."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        now = client.stream_now(stream)
    dispatcher = now["dispatcher"]
    sinks: Sequence[SinkNow] = dispatcher["sinks"] if dispatcher is not None else []
    screen.data({"items": sinks}, lambda: screen.out.print(sinks_table(sinks)) if sinks else None)
    for line in erased_lines(sinks):
        screen.say(line)
    if dispatcher is None:
        screen.say(f"{stream} declares no sinks: app.decide(...).sink(...) does.")
    elif dispatcher["message"]:
        screen.say(f"[yellow]{dispatcher['message']}[/] {dispatcher['next_action']}")


@_sinks.command("deliveries")
def sink_deliveries(
    stream: Stream,
    state: Annotated[str, typer.Option(help="Only those in this state, such as parked.")] = "",
    sink: OfSink = "",
    event: OfEvent = "",
    limit: Limit = 100,
    all_: However = False,
    as_json: Json = False,
) -> None:
    """Decisions on their way to sinks, and the last that have ended."""
    _list(stream, state, sink, event, None if all_ else limit, as_json)


@_sinks.command("parked")
def sink_parked(
    stream: Stream,
    sink: OfSink = "",
    event: OfEvent = "",
    limit: Limit = 100,
    all_: However = False,
    as_json: Json = False,
) -> None:
    """Deliveries that were given up: refused by their receiver, or tried for too long."""
    _list(stream, "parked", sink, event, None if all_ else limit, as_json)


@_sinks.command("get")
def sink_get(stream: Stream, number: Number, as_json: Json = False) -> None:
    """One delivery, with what the receiver is sent."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.delivery(stream, number)
    _show(screen, found)


@_sinks.command("retry")
def sink_retry(
    stream: Stream,
    number: Annotated[int, typer.Argument(metavar="[NUMBER]", min=0)] = 0,
    sink: Annotated[str, typer.Option("--sink", help="All that this one has parked.")] = "",
    as_json: Json = False,
) -> None:
    """Have a delivery tried again at once, or all that a sink has parked."""
    if bool(number) == bool(sink):
        raise InvalidInput(
            "One delivery is meant, or all that a sink has parked.",
            code="USAGE",
            next_action="Give a NUMBER, as `skyriver sink parked` shows it, or --sink.",
        )
    screen = Screen(as_json=as_json)
    with connect() as client:
        if number:
            _show(screen, client.judge_delivery(stream, number, "retry"))
            return
        retried = client.retry_deliveries(stream, sink)
    screen.data(retried, lambda: screen.out.print(retried_text(stream, retried)))


@_sinks.command("drop")
def sink_drop(stream: Stream, number: Number, reason: Reason, as_json: Json = False) -> None:
    """End a delivery that is to go to nobody any more."""
    _judge(stream, number, "drop", reason, as_json)


@_sinks.command("approve")
def sink_approve(
    stream: Stream,
    numbers: Numbers = None,
    all_: AllOf = False,
    sink: OfSink = "",
    decision: OfDecision = "",
    before: Before = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Let deliveries go that await approval: some by their numbers, or all of a sink."""
    _judge_some(stream, "approve", _Which(numbers or [], all_, sink, decision, before), reason, as_json)


@_sinks.command("refuse")
def sink_refuse(
    stream: Stream,
    reason: Reason,
    numbers: Numbers = None,
    all_: AllOf = False,
    sink: OfSink = "",
    decision: OfDecision = "",
    before: Before = "",
    as_json: Json = False,
) -> None:
    """End deliveries that await approval: some by their numbers, or all of a sink."""
    _judge_some(stream, "refuse", _Which(numbers or [], all_, sink, decision, before), reason, as_json)


@_sinks.command("metrics")
def sink_metrics(stream: Stream, as_json: Json = False) -> None:
    """What is counted of deliveries, as text for Prometheus."""
    with connect() as client:
        text = client.dispatcher_metrics(stream)
    Screen(as_json=as_json).data({"metrics": text}, lambda: print(text, end=""))


def _list(stream: str, state: str, sink: str, event: str, limit: int | None, as_json: bool) -> None:
    """`limit` None: however many there are."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        deliveries = client.deliveries(stream, state=state, sink=sink, event=event)
        found = list(islice(deliveries, None if limit is None else limit + 1))
    items = found[:limit]
    screen.data({"items": items}, lambda: screen.out.print(deliveries_table(items)) if items else None)
    if not items:
        screen.say("There are none.")
    elif limit is not None and len(found) > limit:
        screen.say(f"[dim]There are more: --all shows all, --limit {10 * limit} so many.[/]")


@dataclass(frozen=True, slots=True)
class _Which:
    numbers: Sequence[int]
    all: bool
    sink: str
    decision: str
    before: str

    def check(self) -> None:
        """Raises InvalidInput (USAGE)."""
        if self.all and not self.numbers and self.sink:
            return
        if self.numbers and not (self.all or self.sink or self.decision or self.before):
            return
        raise InvalidInput(
            "Some deliveries are meant, or all that a sink has: which is not said.",
            code="USAGE",
            next_action="Give their NUMBERs, or --all with --sink (and with it --decision or --before).",
        )


def _judge_some(stream: str, verb: Literal["approve", "refuse"], which: _Which, reason: str, as_json: bool) -> None:
    which.check()
    if len(which.numbers) == 1:
        _judge(stream, which.numbers[0], verb, reason, as_json)
        return
    screen = Screen(as_json=as_json)
    with connect() as client:
        done = client.judge_deliveries(
            stream,
            verb,
            which.numbers,
            sink=which.sink,
            decision=which.decision,
            before=which.before,
            reason=reason,
        )
    screen.data(done, lambda: screen.out.print("\n".join(judged_lines(verb, done))))
    if done["left"]:
        raise typer.Exit(Conflict.exit_code)


def _judge(
    stream: str, number: int, verb: Literal["retry", "drop", "approve", "refuse"], reason: str, as_json: bool
) -> None:
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.judge_delivery(stream, number, verb, reason=reason)
    _show(screen, found)


def _show(screen: Screen, found: Delivery) -> None:
    screen.data(found, lambda: screen.out.print(delivery_text(found)))
