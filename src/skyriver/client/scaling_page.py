"""How the number of a service's replicas looks on the screen: the rules that made it, the sum, what it was before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from skyriver.client.screen import Screen
from skyriver.core.units import utc_time

_HOURLY = {"replica-hours": "replicas"}
"""What a unit is called where it is of an hour."""


def scaling(screen: Screen, row: Mapping[str, Any]) -> None:
    """Every rule a line, then the sum for the chosen number and its neighbours, where that follows the load."""
    status = row["status"]
    for rule, sentence in (*status.get("lines", ()), *status.get("sleep", ())):
        screen.out.print(f"  [dim]{rule:<10}[/] {escape(sentence)}")
    if not follows(row):
        return
    unit = _of_an_hour(status["unit"])
    rows = [
        (
            f"{'>' if choice['replicas'] == row['spec']['replicas'] else ''} {choice['replicas']}",
            money(choice["cost"]),
            money(choice["late_cost"]),
            money(choice["sum"]),
            "" if choice["late_share"] is None else f"{choice['late_share']:.3%}",
        )
        for choice in status["choices"]
    ]
    screen.table("", ("REPLICAS", f"COST c, {unit}", "LATE D", "c + D", "LATE"), rows)
    screen.out.print(
        f"  as of {utc_time(status['at'])} UTC, by the prices of {escape(status['prices'])};"
        f" a late request is worth {_worth(status)}."
    )
    for change in status["changes"][-3:]:
        screen.out.print(f"  {escape(change_of(change))}")


def _worth(status: Mapping[str, Any]) -> str:
    return f"{money(status['late_price'])} {status['unit']}" if status["late_price"] else "nothing"


def follows(row: Mapping[str, Any] | None) -> bool:
    """Whether the number follows the load: of others it is only decided when they sleep, or nothing."""
    return row is not None and "choices" in row["status"]


def change_of(change: Mapping[str, Any]) -> str:
    """One line: when, from how many to how many, why, and what that costs."""
    priced = "" if change["sum"] is None else f" c + D = {money(change['sum'])} {_of_an_hour(change['unit'])}."
    return f"{utc_time(change['at'])}  {change['from']} -> {change['to']} replicas, {change['why']}{priced}"


def history(screen: Screen, changes: Sequence[Mapping[str, Any]]) -> None:
    """Newest first."""
    rows = [
        (
            utc_time(change["at"]),
            f"{change['from']} -> {change['to']}",
            *(money(change[what]) for what in ("cost", "late_cost", "sum")),
            change["why"],
        )
        for change in reversed(changes)
    ]
    unit = _of_an_hour(changes[-1]["unit"])
    screen.table("", ("SINCE (UTC)", "REPLICAS", f"COST c, {unit}", "LATE D", "c + D", "WHY"), rows)


def replicas(service: Mapping[str, Any]) -> str:
    """How many of how many serve, where that follows the load; "" elsewhere."""
    wanted, ready = service["status"].get("wanted"), service["status"].get("ready") or {}
    if wanted is None:
        return ""
    versions = service["spec"]["versions"]
    have = [ready.get(version, 0) for version, told in versions.items() if told["weight"]]
    there = max(have, default=0)
    return f"{there} of {wanted} replicas" if there != wanted else f"{wanted} replica{'s' if wanted != 1 else ''}"


def why(row: Mapping[str, Any] | None) -> str:
    """Why there are so many, in one sentence."""
    if row is None:
        return ""
    return str(row["message"] or row["status"].get("why", ""))


def money(amount: float | None) -> str:
    """ "" of what is not known."""
    return "" if amount is None else f"{amount:.4g}"


def _of_an_hour(unit: str) -> str:
    return _HOURLY.get(unit, f"{unit} an hour")
