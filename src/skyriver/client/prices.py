"""The commands for prices: what resources cost, and where that comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect
from skyriver.core.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from skyriver.core.contract_prices import Price, PriceList

HOW_TO = "Nothing costs anything here: a file prices.toml in the cloud's home gives prices; see the guide on cost."

_prices = typer.Typer(help="Prices: what resources cost.", no_args_is_help=True)
app.add_typer(_prices, name="price")


@_prices.command("list")
def price_list(as_json: Json = False) -> None:
    """The prices in force, where they come from, and as of when they are; an error where the operator's file is not
    taken."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.prices()
    screen.data(found, lambda: _show(screen, found))
    if found["problem"]:
        error = Unavailable if found["code"] == "PRICES_UNREADABLE" else InvalidInput
        raise error(
            f"{found['problem']} The prices before stay in force.",
            code=found["code"],
            next_action=found["next_action"],
        )


@_prices.command("get")
def price_get(
    name: Annotated[str, typer.Argument(metavar="RESOURCE", help="As core_hour.")], as_json: Json = False
) -> None:
    """What one resource costs."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.price(name)
    screen.data(found, lambda: _table(screen, [found]))


def _show(screen: Screen, found: PriceList) -> None:
    _table(screen, found["items"])
    if not found["problem"] and not any(float(price["price"]) for price in found["items"]):
        screen.say(HOW_TO)


def _table(screen: Screen, prices: Sequence[Price]) -> None:
    rows = [(p["name"], f"{p['price']} {p['currency']}".rstrip(), p["unit"], p["as_of"], p["source"]) for p in prices]
    screen.table("", ("RESOURCE", "PRICE", "FOR", "AS OF", "FROM"), rows)
