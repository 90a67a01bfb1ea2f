"""The commands for tenants: how much each may get through the gateway."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect
from skyriver.core.errors import InvalidInput

if TYPE_CHECKING:
    from skyriver.core.contract_tenants import Tenant

NONE = "none"

_tenants = typer.Typer(help="Tenants: how much each may get of models and streams.", no_args_is_help=True)
app.add_typer(_tenants, name="tenant")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the tenant.")]


@_tenants.command("list")
def tenant_list(as_json: Json = False) -> None:
    """Who has tokens here, with the limits of each."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items = client.tenants()
    screen.data({"items": items}, lambda: _table(screen, items))


@_tenants.command("get")
def tenant_get(name: Name, as_json: Json = False) -> None:
    """How much a tenant may get."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.tenant_limits(name)
    screen.data(found, lambda: _table(screen, [found]))


@_tenants.command("limit")
def tenant_limit(
    name: Name,
    rate: Annotated[str, typer.Option(metavar="N/s|none", help="Requests a second, as 500/s; none: no limit.")] = "",
    concurrency: Annotated[
        str, typer.Option(metavar="N|none", help="Requests under way at once; none: no limit.")
    ] = "",
    budget: Annotated[
        str, typer.Option(metavar="MONEY/TIME|none", help="What its things may cost, as '200 EUR/30d'; none: no limit.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Set how much a tenant may get; what is not given stays as it is. What is more is answered 429."""
    screen = Screen(as_json=as_json)
    limits: dict[str, str | int | None] = {}
    if rate:
        limits["rate"] = None if rate == NONE else rate
    if concurrency:
        limits["concurrency"] = None if concurrency == NONE else _whole(concurrency)
    if budget:
        limits["budget"] = None if budget == NONE else budget
    if not limits:
        raise InvalidInput(
            f"Which limit is {name} to have?",
            code="USAGE",
            next_action=f"Write e.g. `skyriver tenant limit {name} --rate 500/s --concurrency 100`, or none.",
        )
    with connect() as client:
        told = client.limit_tenant(name, limits)
    screen.data(told, lambda: _table(screen, [told]))


def _whole(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}|1000000", text):
        raise InvalidInput(
            f"--concurrency {text} is no number of requests.",
            code="BAD_CONCURRENCY",
            next_action="Give a whole number from 1 to 1,000,000, or none for no limit.",
        )
    return int(text)


def _table(screen: Screen, tenants: Sequence[Tenant]) -> None:
    rows = [
        (t["name"], t["rate"] or "-", f"{t['concurrency']:,}" if t["concurrency"] else "-", t["budget"] or "-")
        for t in tenants
    ]
    screen.table("", ("TENANT", "REQUESTS A SECOND", "AT ONCE", "BUDGET"), rows)
    for tenant in tenants:
        if note := tenant.get("note"):
            screen.say(f"{tenant['name']}: {note}")
