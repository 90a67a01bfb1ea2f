"""The commands for costs: what everything costs, and one thing hour by hour."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from skyriver.client.advice_page import advice, missing_advice
from skyriver.client.prices import HOW_TO
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, all_of, app, connect, noun
from skyriver.core.errors import InvalidInput, NotFound
from skyriver.core.units import SECOND, iso_seconds

if TYPE_CHECKING:
    from skyriver.core.contract import Resource
    from skyriver.core.contract_costs import CostHour, CostLine, Costs

BAR = 40
HOURS = 48
"""That are plotted: the last ones."""
TIMES = 10
"""What is beyond it is told in times and no percent."""
_EIGHTHS = " ▏▎▍▌▋▊▉"

_budgets = noun("budget", "budgets", "Budgets: what may be spent, and how much of it is.", lists=False, gets=False)
_costs = typer.Typer(help="Costs: what everything costs.", invoke_without_command=True)
app.add_typer(_costs, name="cost")

_BY = ("item", "app", "kind", "tenant")
Since = Annotated[str, typer.Option("--since", metavar="TIME", help="For how long back, as 24h, 7d or 30d.")]
By = Annotated[str, typer.Option("--by", metavar="|".join(_BY), help="What a line is of; tenant is for operators.")]


@_costs.callback()
def cost(context: typer.Context, since: Since = "7d", by: By = "item", as_json: Json = False) -> None:
    """What everything costs, the dearest first."""
    if context.invoked_subcommand is None:
        cost_list(since, by, as_json)


@_costs.command("list")
def cost_list(since: Since = "7d", by: By = "item", as_json: Json = False) -> None:
    """What everything costs, the dearest first."""
    if by not in _BY:
        raise InvalidInput(
            f"--by {by} is nothing that costs are added up by.",
            code="BAD_REQUEST",
            next_action=f"Write --by {', '.join(_BY[:-1])} or {_BY[-1]};"
            f" `skyriver cost get {by}/NAME` shows one thing.",
        )
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.costs(since=since, by=by)
    screen.data(found, lambda: _table(screen, found))


@_costs.command("get")
def cost_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a service, stream, job; or kind/name.")],
    since: Since = "24h",
    as_json: Json = False,
) -> None:
    """What one thing costs, hour by hour."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.cost(name, since=since)
    screen.data(found, lambda: _page(screen, found))


@_costs.command("advise")
def cost_advise(
    service: Annotated[str, typer.Argument(metavar="[SERVICE]", help="Of all services unless given.")] = "",
    as_json: Json = False,
) -> None:
    """What to declare instead to pay less: verified on each service's own history."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        found = client.advice(service, told=lambda done: bars.tell("replaying", done, 1.0))
    screen.data(found, lambda: advice(screen, found))
    if failed := found.get("failed"):
        raise missing_advice(failed)


def _table(screen: Screen, found: Costs) -> None:
    if not found["items"]:
        screen.say(f"Nothing was used since {found['since']}.")
    elif found["is_free"]:
        lines = [*found["items"], found["total"]]
        screen.table("", ("NAME", "KIND", "APP", *_UNITS), [(*_names(line), *_used(line)) for line in lines])
    else:
        head = ("NAME", "KIND", "APP", "COMPUTE", "STORAGE", "EGRESS", f"TOTAL {found['currency']}", "PER MILLION")
        lines = [*found["items"], found["total"]]
        rows = [(*_names(line), *_money(line), _trend(line)) for line in lines]
        screen.table("", (*head, "TREND"), rows)
    _say_more(screen, found)


_UNITS = ("CORE HOURS", "GB HOURS", "GB MONTHS", "GB ANSWERED", "PREDICTIONS")


def _names(line: CostLine) -> tuple[str, str, str]:
    if line["kind"] == "app":
        return line["app"] or "of no application", "app", line["app"] or "-"
    return line["name"] or ("total" if line["kind"] == "total" else "all"), line["kind"], line["app"] or "-"


def _used(line: CostLine) -> tuple[str, ...]:
    units = ("core_hours", "memory_gb_hours", "storage_gb_months", "egress_gb")
    return (*(f"{line[unit]:,.3f}" for unit in units), f"{line['predictions']:,}")  # type: ignore[literal-required]


def _money(line: CostLine) -> tuple[str, ...]:
    return line["compute"], line["storage"], line["egress"], line["total"], line["per_million"] or "-"


def _trend(line: CostLine) -> str:
    return "-" if line["change"] is None else f"{line['change']:+.0%}"


def _say_more(screen: Screen, found: Costs) -> None:
    if found["is_free"]:
        screen.say(HOW_TO)
    else:
        # The hour that is under way is counted as far as it went.
        until = "now" if found["until"] > iso_seconds(int(time.time() * SECOND)) else found["until"]
        screen.say(f"From {found['since']} to {until}, by prices as of {found['as_of']} ({found['source']}).")
    for note in found["notes"]:
        screen.say(note)


def _page(screen: Screen, found: Costs) -> None:
    _table(screen, found)
    for line in _plot(found["hours"][-HOURS:], free=found["is_free"]):
        screen.out.print(line, highlight=False)


def _plot(hours: Sequence[CostHour], *, free: bool) -> Iterator[str]:
    """A bar an hour: of money, or of core hours where nothing costs anything."""
    values = [hour["core_hours"] if free else float(hour["total"]) for hour in hours]
    most = max(values, default=0.0)
    for hour, value in zip(hours, values, strict=True):
        eighths = round(8 * BAR * value / most) if most else 0
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        at = hour["at"][:13].replace("T", " ") + "h" if hour["hours"] == 1 else hour["at"][:10]
        yield f"{at:<14}{f'{value:.3f} core h' if free else hour['total']:>16}  {bar}"


@_budgets.command("list")
def budget_list(as_json: Json = False) -> None:
    """Those of the tenant and of its applications, with what is spent."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items, damaged = all_of(client.list("budgets"))
    screen.data(items, lambda: _budget_table(screen, items))
    if damaged is not None:
        raise damaged


@_budgets.command("get")
def budget_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the application, or of the tenant; or as listed.")],
    as_json: Json = False,
) -> None:
    """One, with what is spent of it."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items, damaged = all_of(client.list("budgets"))
        found = _budget_of(items, name)
    if found is None:
        raise damaged or NotFound(
            f"There is no budget {name!r}.",
            where=f"budget/{name}",
            next_action="`skyriver budget list` shows what there is; an application has one by"
            f' sr.App("{name}", budget="200 EUR/30d").',
        )
    screen.data(found, lambda: _budget_table(screen, [found]))


def _budget_of(items: Sequence[Resource], name: str) -> Resource | None:
    """By its own name, that of its application, or that of the tenant."""
    ways: tuple[Callable[[Resource], str], ...] = (
        lambda row: row["name"],
        lambda row: str(row["spec"]["app"]),
        lambda row: row["tenant"] if not row["spec"]["app"] else "",
    )
    return next((row for told in ways for row in items if told(row) == name), None)


def _budget_table(screen: Screen, items: Sequence[Resource]) -> None:
    if not items:
        screen.say('Nothing has a budget: sr.App("shop", budget="200 EUR/30d") gives an application one.')
        return
    rows = [
        (
            row["name"],
            row["state"],
            row["spec"]["budget"],
            row["status"]["spent"],
            _of_budget(float(row["status"]["share"])),
            f"{row['message']} {row['next_action']}".strip(),
        )
        for row in items
    ]
    screen.table("", ("BUDGET", "STATE", "OF", "SPENT", "SHARE", "SAYS"), rows)


def _of_budget(share: float) -> str:
    return f"{share:.0%}" if share < TIMES else f"{share:,.0f} times"
