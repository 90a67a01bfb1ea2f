"""What a declaration would have done with a service's own history, on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from skyriver.client.scaling_page import money
from skyriver.client.screen import Screen
from skyriver.core.units import SECOND, format_span

if TYPE_CHECKING:
    from skyriver.core.contract_advice import Advice, ServiceAdvice, Trace

_BARS = "▁▂▃▄▅▆▇█"


def trials(screen: Screen, name: str, found: Advice) -> None:
    """`found`: of one service."""
    for item in found["items"]:
        trial(screen, item, found)
    if not found["items"]:
        screen.say(f"{name} has no version yet: there is nothing to replay.")


def trial(screen: Screen, item: ServiceAdvice, found: Advice) -> None:
    """Both declarations with their sum, and below how demand and replicas went, a mark for each stretch of time."""
    trace, then = item.get("trace"), item["proposed"]
    if trace is None or then is None:
        screen.out.print(f"{item['name']}: {escape(item['why'])}", highlight=False)
        return
    rows = [
        (
            word,
            escape(of["line"]),
            f"{_cost(side['cost'])}",
            money(side["late_cost"]),
            money(side["sum"]),
            f"{of['late']:.3%}",
            f"{side['most']}",
        )
        for word, of, side in (("declared", item["now"], trace["now"]), ("asked", then, trace["then"]))
    ]
    if (by := trace.get("rejudged")) is not None:
        objective = f"the same, judged as asked: {by['share']:.4g} within {by['latency_ms']:g} ms"
        rows.insert(1, ("", objective, "", money(by["late_cost"]), money(by["sum"]), f"{by['late']:.3%}", ""))
    unit = f"{trace['unit']} an hour"
    screen.table("", ("", "DECLARATION", f"COST c, {unit}", "LATE D", "c + D", "LATE", "MOST"), rows)
    screen.out.print(f"  {_basis(trace, found)}", highlight=False)
    screen.out.print(f"  {escape(_really(item, trace))}", highlight=False)
    told = f"{item['known_hours']:.3g} hours of it measured; a mark is {format_span(trace['seconds'] * SECOND)}:"
    screen.out.print(f"  {item['since']} to {item['until']}, {told}")
    most = max(
        [
            1.0,
            *(
                one
                for of in (trace["demand"], trace["now"]["replicas"], trace["then"]["replicas"])
                for one in of
                if one is not None
            ),
        ]
    )
    for word, values in (
        ("demand", trace["demand"]),
        ("declared", trace["now"]["replicas"]),
        ("asked", trace["then"]["replicas"]),
    ):
        screen.out.print(f"  {word:<9} {_line(values, most)}", highlight=False)
    screen.out.print(f"  {'late':<9} {_line(trace['then']['late'], 1.0)}  of what is asked", highlight=False)
    if any(one is not None for one in trace["measured"]):
        screen.out.print(f"  {'measured':<9} {_line(trace['measured'], 1.0)}  really late then", highlight=False)
    screen.out.print(f"  {escape(item['why'])} Nothing was changed.", highlight=False)


def _basis(trace: Trace, found: Advice) -> str:
    d = "D is late requests at the price at which each one's objective just holds"
    if not found["currency"]:
        return f"Nothing has a price here, so c is cores that are taken; {d}."
    return f"c is by prices as of {found['as_of']} ({escape(found['source'])}), of replicas alone; {d}."


def _really(item: ServiceAdvice, trace: Trace) -> str:
    if item["late"] is None:
        return "How many were really late is not known: nothing was answered then."
    if doubt := item.get("doubt"):
        return f"Not to be relied on: {doubt}"
    return f"Really late then, by what was declared: {item['late']:.3%} of {trace['judged']:,} requests."


def _cost(amount: float) -> str:
    return money(amount) or "0"


def _line(values: Sequence[float | None], most: float) -> str:
    """A full bar is `most`; a point is none, a gap is not known."""
    return "".join(
        " " if one is None else "·" if not one else _BARS[min(len(_BARS) - 1, int(one / most * len(_BARS)))]
        for one in values
    )
