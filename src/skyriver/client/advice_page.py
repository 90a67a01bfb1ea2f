"""How advice looks on the screen: what to declare instead, what that saves, and why where nothing does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from skyriver.client.screen import Screen
from skyriver.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyriver.core.contract_advice import Advice, Declaration, NoAdvice, ServiceAdvice


NAMED = 3
"""Services without advice, at most, whose reasons are told one by one."""


def advice(screen: Screen, found: Advice) -> None:
    if not found["items"] and not found.get("failed"):
        screen.say("There is no service with a version yet: advice is given on what has served.")
        return
    unit = found["currency"]
    head = ("SERVICE", "NOW", "PROPOSED", f"COST A MONTH, {unit or 'core-hours'}", "LATE", "HISTORY")
    rows = []
    for item in found["items"]:
        then = item["proposed"]
        proposed = escape(then["line"]) if then is not None else "-"
        cost = _both(_cost(item["now"], unit), _cost(then, unit) if then is not None else "")
        late = _both(_late(item["now"]), _late(then) if then is not None else "")
        rows.append((item["name"], escape(item["now"]["line"]), proposed, cost, late, _span(item)))
    screen.table("", head, rows)
    for item in found["items"]:
        saves = f" It saves {item['saves']:.0%}." if item["proposed"] is not None and item["saves"] else ""
        screen.out.print(f"{item['name']}: {escape(item['why'])}{saves}", highlight=False)
        if item.get("doubt"):
            screen.out.print(f"{item['name']}: not to be relied on: {escape(item['doubt'])}", highlight=False)
    if len(found["items"]) == 1:
        _looked_at(screen, found["items"][0], unit)
    if unit:
        screen.say(f"By prices as of {found['as_of']} ({found['source']}), of replicas alone.")


def missing_advice(failed: Sequence[NoAdvice]) -> Unavailable:
    """To be raised once the others are shown."""
    said = " ".join(f"No advice on {one['name']}: {one['message']}" for one in failed[:NAMED])
    more = f" Nor on {len(failed) - NAMED} more." if len(failed) > NAMED else ""
    return Unavailable(
        f"{said}{more} All others are answered.",
        code="NO_ADVICE",
        next_action=failed[0]["next_action"],
        details=tuple({"name": one["name"], "message": one["message"]} for one in failed),
    )


def _looked_at(screen: Screen, item: ServiceAdvice, unit: str) -> None:
    if not item["looked_at"]:
        return
    rows = [
        (escape(one["line"]), _cost(one, unit), _late(one), escape(one["verdict"]) or "may be")
        for one in item["looked_at"]
    ]
    screen.table("", ("LOOKED AT", "COST A MONTH", "LATE", "VERDICT"), rows)


def _both(now: str, then: str) -> str:
    return f"{now} -> {then}" if then else now


def _cost(one: Declaration, unit: str) -> str:
    if unit:
        return "-" if one["cost"] is None else f"{float(one['cost']):,.2f}"
    return "-" if one["core_hours"] is None else f"{one['core_hours']:,.0f}"


def _late(one: Declaration) -> str:
    return "-" if one["late"] is None else f"{one['late']:.3%}"


def _span(item: ServiceAdvice) -> str:
    if item["since"] is None:
        return "none"
    hours = item["known_hours"]
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.3g} h"
