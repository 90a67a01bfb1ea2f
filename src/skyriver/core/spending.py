"""Budgets of money: what a tenant or an application may spend, and what is refused once that is spent. Pure.

How much of a budget is spent is a row of the kind `budget`, written once a minute by who counts what is used. At 80% it
is told; at 100% no more work is begun that waits well: jobs that somebody asks for, that a schedule brings, or a
training by itself. What answers and decides goes on: nobody's customers are turned away for money.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from skyriver.core.errors import InvalidInput, QuotaExceeded
from skyriver.core.prices import Prices
from skyriver.core.resources import Limits, Resource, Snapshot
from skyriver.core.spec_search import SearchSpec
from skyriver.core.units import DAY, SECOND, format_duration, parse_duration

BUDGET: Final = "budget"
"""The kind of its rows; none is stepped. WITHIN, NEAR, SPENT, or UNPRICED: nothing costs anything, or in another
currency."""
NEAR: Final = Decimal("0.8")
OF_TENANT: Final = "tenant"
"""The name of the row of a tenant's own budget; an application's is `app-NAME`."""
_TEXT: Final = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([A-Z]{3})\s*/\s*(\S+)\s*")
_HOUR: Final = 3_600 * SECOND


def never_spent(search: SearchSpec, prices: Prices, reserved: Limits) -> tuple[str, str]:
    """Why what a search may cost does not end it by these prices, where a job of it has `reserved` so much, and what to
    do about that; "" where it does, or where it is not limited by money."""
    if not search.money or (prices.currency == search.currency and prices.per_second(reserved)):
        return "", ""
    free = not prices.per_second(reserved)
    why = "a core costs nothing here" if free else f"prices are in {prices.currency}"
    return (
        f"The search may cost {search.money:f} {search.currency}, and {why}.",
        "Limit it by minutes= or trials=, or give this cloud prices: `skyriver price list` shows those it has.",
    )


@dataclass(frozen=True, slots=True)
class MoneyBudget:
    """So much within any stretch of `per_us`."""

    most: Decimal
    currency: str
    per_us: int

    def __str__(self) -> str:
        return f"{self.most:f} {self.currency}/{format_duration(self.per_us)}"


def parse_budget(text: str) -> MoneyBudget:
    """Of "200 EUR/30d". Raises InvalidInput (BAD_BUDGET)."""
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    try:
        per_us = parse_duration(found[3]) if found is not None else 0
    except InvalidInput:
        per_us = 0
    if found is None or not Decimal(found[1]) or not _HOUR <= per_us <= 366 * DAY or per_us % _HOUR:
        raise InvalidInput(
            f"{text!r:.80} is no budget.",
            code="BAD_BUDGET",
            next_action='Write an amount above 0, a currency and whole hours or days up to 366d, as in "200 EUR/30d".',
        )
    return MoneyBudget(Decimal(found[1]), found[2], per_us)


def name_of(app: str) -> str:
    """Of the row of an application's budget; "" is the tenant's."""
    return f"app-{app}" if app else OF_TENANT


def spent_budget(snapshot: Snapshot, tenant: str, apps: Iterable[str]) -> Resource | None:
    """The first budget that is spent, of the tenant and of these applications."""
    rows = (snapshot.find(tenant, BUDGET, name_of(app)) for app in ("", *sorted(set(apps) - {""})))
    return next((row for row in rows if row is not None and row.state == "SPENT"), None)


def check_spending(snapshot: Snapshot, tenant: str, made: Iterable[Resource]) -> None:
    """Raises QuotaExceeded (BUDGET_SPENT) where jobs among the rows that are to be `made` have nothing to be paid
    from."""
    jobs = [row for row in made if row.kind == "job"]
    apps = {str((job.spec.get("app") or {}).get("name", "")) for job in jobs}
    row = spent_budget(snapshot, tenant, apps) if jobs else None
    if row is not None:
        raise QuotaExceeded(
            f"{row.message} Jobs are not begun; what serves and decides goes on.",
            code="BUDGET_SPENT",
            where=row.ref,
            next_action=row.next_action,
        )
