"""The routes of prices: what resources cost now, and where that comes from. Prices are a file of the cloud's operator:
whoever is charged must not set what he pays."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request

from skyriver.control.cloud import Cloud
from skyriver.control.paging import check_query
from skyriver.control.pricing import Pricing
from skyriver.control.routes import TENANT, Routes
from skyriver.core import contract_prices as contract
from skyriver.core.errors import NotFound
from skyriver.core.prices import unit_of
from skyriver.trust.permissions import Permission

_PATH = f"{TENANT}/prices"


def add_prices(routes: Routes, cloud: Cloud) -> None:
    def listed(request: Request) -> contract.PriceList:
        """The prices in force."""
        check_query(request, ())
        problem = cloud.prices.problem()
        return {
            "items": list(_items(cloud.prices)),
            "problem": f"{problem.where}: {problem.message}" if problem is not None else "",
            "code": problem.code if problem is not None else "",
            "next_action": problem.next_action if problem is not None else "",
        }

    def one(request: Request, name: str) -> contract.Price:
        """What one resource costs."""
        found = next((price for price in _items(cloud.prices) if price["name"] == name), None)
        if found is None:
            raise NotFound(f"{name!r} has no price.", next_action="`skyriver price list` shows what has one.")
        return found

    routes.add("GET", _PATH, Permission.CLOUD_READ, listed, "list_prices")
    routes.add("GET", f"{_PATH}/{{name}}", Permission.CLOUD_READ, one, "get_price", errors=[404])


def _items(pricing: Pricing) -> Iterator[contract.Price]:
    prices, problem = pricing.now(), pricing.problem()
    before = ", as it was before" if problem is not None and problem.where in prices.source else ""
    for name, price in prices.of.items():
        yield {
            "name": name,
            "unit": unit_of(name),
            "price": f"{price:f}",
            "currency": prices.currency,
            "source": f"{prices.source_of(name)}{before}",
            "as_of": prices.as_of.isoformat(),
        }
