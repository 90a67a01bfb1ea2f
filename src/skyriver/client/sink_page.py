"""How sinks and deliveries look to a person."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from skyriver.client.screen import age, coloured
from skyriver.core.contract import Delivery, DispatcherNow, JudgedDeliveries, RetriedDeliveries, SinkNow

SHOWN = 120


def dispatcher_lines(now: DispatcherNow) -> Iterator[tuple[str, str]]:
    """(name, what) of each line of a stream's page."""
    behind = f", {now['behind']:,} offsets behind" if now["behind"] else ""
    up = f", pid {now['pid']}, {now['rss_mb']:,.0f} MB" if now["pid"] else ""
    yield "dispatcher", f"{coloured(now['state'])}{up}{behind}"
    if now["message"]:
        why = f"{now['reason']}: " if now["reason"] else ""
        yield "", f"[yellow]{escape(why + now['message'])} {escape(now['next_action'])}".rstrip() + "[/]"
    for place, sink in enumerate(now["sinks"]):
        yield "" if place else "sinks", f"{sink['sink']}: {sink_line(sink)}"
    if (reviews := now["reviews"]) is not None:
        counts = (
            (reviews["open"], "open"),
            (reviews["overdue"], "overdue"),
            (reviews["unsent"], "answers on their way to labels"),
            (reviews["refused"], "answers refused as labels"),
        )
        yield "reviews", ", ".join(f"{count:,} {word}" for count, word in counts if count) or "no case is open"


def sink_line(sink: SinkNow) -> str:
    counts = (
        (sink["waiting"], "wait"),
        (sink["held"], "held behind others"),
        (sink["awaiting_approval"], "await approval"),
        (sink["parked"], "parked"),
        (sink["done"], "done"),
        (sink["refused"], "refused"),
        (sink["expired"], "expired"),
        (sink["dropped"], "dropped"),
        (sink.get("erased", 0), "erased"),
    )
    told = ", ".join(f"{count:,} {word}" for count, word in counts if count) or "nothing yet"
    old = f", the oldest for {age(sink['oldest'])}" if sink["oldest"] else ""
    left = "" if sink["declared"] else " [yellow](not declared any more)[/]"
    return f"{told}{old}{left}"


def sinks_table(sinks: Sequence[SinkNow]) -> Table:
    table = _table("SINK", "GETS", "WAITING", "HELD", "TO APPROVE", "PARKED", "DONE", "LAST ERROR")
    for sink in sinks:
        counts = (sink["waiting"], sink["held"], sink["awaiting_approval"], sink["parked"], sink["done"])
        words = ", ".join(sink["on"]) if sink["declared"] else "(not declared any more)"
        table.add_row(sink["sink"], words, *(f"{count:,}" for count in counts), escape(sink["last_error"][:SHOWN]))
    return table


def erased_lines(sinks: Sequence[SinkNow]) -> Iterator[str]:
    """Why a list of deliveries may be shorter than what is counted here."""
    for sink in sinks:
        if count := sink.get("erased", 0):
            what = "was erased and is" if count == 1 else "were erased and are"
            yield f"{sink['sink']}: {_deliveries(count)} {what} not listed any more; DONE counts since the start."


def deliveries_table(deliveries: Sequence[Delivery]) -> Table:
    table = _table("NUMBER", "SINK", "DECISION", "EVENT", "STATE", "FOR", "TRIES", "WHY")
    for delivery in deliveries:
        table.add_row(
            str(delivery["number"]),
            delivery["sink"],
            delivery["decision"],
            escape(str(delivery["event"])),
            coloured(delivery["state"]),
            age(delivery["since"]),
            str(delivery["tries"]),
            escape(_why(delivery)[:SHOWN]),
        )
    return table


def _why(delivery: Delivery) -> str:
    """Of one that somebody ended who did, and what the receiver had said before; else what it says."""
    failed = " ".join(part for part in (delivery["reason"], delivery["message"]) if part)
    by, note = delivery["judged_by"], delivery["note"]
    if delivery["state"] in ("DROPPED", "REFUSED", "EXPIRED"):
        said = ": ".join(part for part in (by, note) if part)
        return f"{said} (before: {failed})" if failed else said
    said = ": ".join(part for part in (f"approved by {by}" if by else "", note) if part)
    return "; ".join(part for part in (failed, said) if part)


def retried_text(stream: str, told: RetriedDeliveries) -> str:
    """Of a sink that has nothing parked, what it has."""
    count, sink = told["retried"], told["sink"]
    if count:
        return f"{_deliveries(count)} to {sink}: tried again."
    others = (
        (told["waiting"], "wait and are tried by themselves"),
        (told["held"], "are held behind others"),
        (told["awaiting_approval"], f"await approval (`skyriver sink approve {stream}`)"),
    )
    rest = ", ".join(f"{number:,} {what}" for number, what in others if number) or "nothing else is on its way"
    return f"0 deliveries to {sink}: only what is parked is tried again, and nothing is; {rest}."


def judged_lines(verb: str, told: JudgedDeliveries) -> Iterator[str]:
    done = "approved" if verb == "approve" else "refused"
    yield f"{_deliveries(len(told['judged']))} {done}."
    for left in told["left"]:
        yield f"[yellow]left[/] {left['number']}: {escape(left['message'])}"
        if left["next_action"]:
            yield f"  [bold]→[/] {escape(left['next_action'])}"
    if told["more"]:
        yield f"{told['more']:,} more await approval: ask again for the next ones."


def _deliveries(count: int) -> str:
    return f"{count:,} {'delivery' if count == 1 else 'deliveries'}"


def delivery_text(delivery: Delivery) -> str:
    lines = [
        f"[bold]delivery {delivery['number']}[/] to {delivery['sink']} is {coloured(delivery['state'])}"
        f" for {age(delivery['since'])}",
        f"  decision   {delivery['decision']} on the event {escape(str(delivery['event']))}",
        f"  id         {escape(delivery['id'])}",
        f"  tries      {delivery['tries']}",
    ]
    if why := " ".join(part for part in (delivery["reason"], delivery["message"]) if part):
        lines.append(f"  why        [yellow]{escape(why)}[/]")
    if delivery["judged_by"] or delivery["note"]:
        by = f"{delivery['judged_by']}: " if delivery["judged_by"] else ""
        lines.append(f"  judged     {escape(by + delivery['note'])}")
    if delivery["lane"] is not None:
        lines.append(f"  in order   with others of {escape(delivery['lane'])}")
    if body := delivery.get("body"):
        lines.append(escape(json.dumps(body, indent=2, ensure_ascii=False)))
    return "\n".join(lines)


def _table(*columns: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name not in ("WHY", "LAST ERROR", "GETS"))
    return table
