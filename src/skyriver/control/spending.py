"""How much of each budget is spent, from the rows that tell what was used. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Final

from skyriver.control.costing import Period, money
from skyriver.core.prices import Prices
from skyriver.core.resources import Change, Delete, Key, Put, Resource, Snapshot
from skyriver.core.spending import BUDGET, NEAR, MoneyBudget, name_of, parse_budget
from skyriver.core.units import DAY, SECOND, format_span
from skyriver.core.usage import HOUR, USAGE, Bucket, buckets

SOON_US: Final = 3 * DAY
_STEP: Final = Decimal("0.005")
"""Of a budget: a row is not written for less."""


def spending(snapshot: Snapshot, prices: Prices) -> list[Change]:
    """What the rows of budgets are to be now."""
    declared = dict(_declared(snapshot))
    changes: list[Change] = []
    for row in snapshot.rows.every(BUDGET):
        if row.key[::2] not in {(tenant, name_of(app)) for tenant, app in declared}:
            changes.append(Delete(*row.key, row.revision))
    for tenant in sorted({tenant for tenant, _ in declared}):
        own = {app: budget for (of, app), budget in declared.items() if of == tenant}
        longest = max(budget.per_us for budget in own.values())
        used = list(buckets(snapshot.all(tenant, USAGE), since=snapshot.now - longest - DAY))
        for app, budget in own.items():
            after = _judged(snapshot, tenant, app, budget, used, prices)
            before = snapshot.find(*after.key)
            if before is None or _is_news(before, after):
                same = before is not None and before.state == after.state
                after = replace(after, since=before.since) if before is not None and same else after
                changes.append(Put(after, before.revision if before is not None else 0))
    return changes


def spending_after(snapshot: Snapshot, changes: Iterable[Change], prices: Prices) -> list[Change]:
    """What the same commit is to make of the budgets that `changes` declare, change or take away: who asks for one that
    was declared a moment ago finds it."""
    declaring = [change for change in changes if _key_of(change)[1] in ("app", "tenant")]
    if not declaring:
        return []
    rows: dict[Key, Resource] = {}
    for change in declaring:
        tenant, kind, name = _key_of(change)
        before = snapshot.find(tenant, BUDGET, name_of(name if kind == "app" else ""))
        declared = change.resource if isinstance(change, Put) else None
        known = [row for row in (before, declared) if row is not None]
        rows |= {row.key: row for row in (*known, *snapshot.all(tenant, USAGE))}
    return spending(Snapshot(rows, {}, {}, snapshot.now), prices)


def _key_of(change: Change) -> Key:
    return change.resource.key if isinstance(change, Put) else (change.tenant, change.kind, change.name)


def uncounted(budget: MoneyBudget, prices: Prices) -> str:
    """Why nothing that is used now counts; "" where it does."""
    if prices.are_zero:
        return f"Nothing costs anything here ({prices.source}): nothing is ever counted against it."
    if prices.currency != budget.currency:
        return f"Prices are in {prices.currency} now: nothing that is used is counted against it."
    return ""


def to_be_counted(budget: MoneyBudget, prices: Prices) -> str:
    """What to do about that."""
    theirs = f"Give the budget in {prices.currency}, or" if not prices.are_zero else "Leave the budget out, or"
    return f"{theirs} have who steers the cloud write prices in {budget.currency} into HOME/prices.toml."


def _declared(snapshot: Snapshot) -> Iterator[tuple[tuple[str, str], MoneyBudget]]:
    """By (tenant, application); "" is all of the tenant."""
    for row in snapshot.rows.every("tenant"):
        if text := row.spec.get("budget"):
            yield (row.tenant, ""), parse_budget(text)
    for row in snapshot.rows.every("app"):
        if text := row.spec.get("spec", {}).get("budget"):
            yield (row.tenant, row.name), parse_budget(text)


def _judged(
    snapshot: Snapshot, tenant: str, app: str, budget: MoneyBudget, used: list[Bucket], prices: Prices
) -> Resource:
    period = Period.last(budget.per_us, snapshot.now)
    spent = _spent(used, app, budget.currency, period.begin, period.end)
    share = spent / budget.most
    whose = f"The application {app}" if app else f"The tenant {tenant}"
    said = f"{whose} has spent {money(spent)} of its budget of {budget}."
    unpriced = uncounted(budget, prices)
    state = "SPENT" if share >= 1 else "UNPRICED" if unpriced else "NEAR" if share >= NEAR else "WITHIN"
    action = ""
    match state:
        case "SPENT":
            action = (
                f"`skyriver cost list` shows what it went to. It is free again as time goes by, or {_more(tenant, app)}"
            )
        case "UNPRICED":
            said = f"{said} {unpriced}" if spent else f"{whose} has a budget of {budget}. {unpriced}"
            action = to_be_counted(budget, prices)
        case "NEAR":
            action = "`skyriver cost list` shows what it goes to."
    recent = _spent(used, app, budget.currency, period.end - 24 * HOUR, period.end)
    known_us = _known(used, period.end - 24 * HOUR, snapshot.now)
    left_us = int((budget.most - spent) / recent * known_us) if recent and share < 1 else 0
    if 0 < left_us < SOON_US and budget.per_us > SOON_US:
        pace = "the last day" if known_us == DAY else f"the last {format_span(known_us)}"
        said = f"{said} At the pace of {pace} it is spent in {format_span(left_us)}."
    return Resource(
        tenant,
        BUDGET,
        name_of(app),
        spec={"app": app, "budget": str(budget)},
        status={"spent": money(spent), "share": f"{share:.3f}"},
        state=state,
        reason=f"BUDGET_{state}" if state != "WITHIN" else "",
        message=said,
        next_action=action,
        since=snapshot.now,
        parent=f"app/{app}" if app else "",
    )


def _known(used: Iterable[Bucket], day_ago: int, now: int) -> int:
    """How much of the last day what was used is known of: a young cloud has none of yesterday."""
    begin = min((bucket.at for bucket in used), default=now)
    return DAY if begin <= day_ago else max(now - begin, SECOND)


def _more(tenant: str, app: str) -> str:
    if app:
        return f"deploy {app} with a larger one."
    return f"who steers the cloud gives more: `skyriver tenant limit {tenant} --budget ...`."


def _spent(used: list[Bucket], app: str, currency: str, begin: int, end: int) -> Decimal:
    within = (bucket for bucket in used if begin <= bucket.at + (bucket.length - HOUR) // 2 < end)
    parts = (part for bucket in within for part in bucket.parts if part.prices.currency == currency)
    return sum(
        (part.charge(subject) for part in parts for subject in part.used if not app or subject.app == app), Decimal(0)
    )


def _is_news(before: Resource, after: Resource) -> bool:
    moved = abs(Decimal(after.status["share"]) - Decimal(before.status["share"]))
    same = (before.state, before.spec, before.next_action) == (after.state, after.spec, after.next_action)
    return not same or moved >= _STEP
