"""How the number of a service's replicas looks on the screen: the rules that made it, the sum, what it was before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape

from skyriver.client.screen import Screen
from skyriver.core.units import format_span, utc_time

REPLICA_HOURS = "replica-hours"
CORE_HOURS = "core-hours"
"""What people are told instead: two services that take differently large replicas are compared by it."""
DIGITS = 3
_ALWAYS = frozenset({"objective", "impossible"})
"""Rules that are so whether it sleeps or not."""
FAR = 1.5
"""Times as much was late as is foreseen, before that is said."""
ALIKE = 5
"""Digits; sums that differ in later ones are the same."""
_TITLE = "What replicas cost (c), and late requests (D), in"
_THOUSANDS = (
    (1, "a late request counts"),
    (1_000, "1,000 late requests count"),
    (1_000_000, "a million late requests count"),
)


def scaling(
    screen: Screen, row: Mapping[str, Any], objective: Mapping[str, Any] | None = None, *, is_asleep: bool = False
) -> None:
    """Every rule a line, then the sum for the chosen number and its neighbours, where that follows the load."""
    status = row["status"]
    lines = status.get("lines", ())
    if is_asleep:  # what was decided when it was awake is not so now
        lines = [line for line in lines if line[0] in _ALWAYS]
    for rule, sentence in (*lines, *status.get("sleep", ())):
        screen.out.print(f"  [dim]{rule:<10}[/] {escape(sentence)}")
    if is_asleep:
        screen.out.print("  It sleeps: it has no replicas, and they cost nothing until it wakes.")
    if is_asleep or not follows(row):
        return
    of, chosen = choices(status), row["spec"]["replicas"]
    rows = [
        (
            f"{replicas} (chosen)" if replicas == chosen else f"{replicas}",
            *amounts,
            "" if choice["late_share"] is None else percent(choice["late_share"]),
        )
        for choice, (replicas, *amounts) in zip(status["choices"], of.rows, strict=True)
    ]
    screen.table(f"{_TITLE} {of.unit}:", ("REPLICAS", "COST c", "LATE D", "c + D", "LATE"), rows)
    if really := measured(row, objective):
        screen.out.print(f"  {escape(really)}")
    if why := cheapest(row):
        screen.out.print(f"  {escape(why)}")
    screen.out.print(
        f"  As of {utc_time(status['at'])} UTC, by the prices of {escape(status['prices'])}{_worth(status)}."
    )
    for change in status["changes"][-3:]:
        screen.out.print(f"  {escape(change_of(change))}")


@dataclass(frozen=True, slots=True)
class Choices:
    """Of the chosen number and its neighbours, all in one unit and with as many decimals."""

    unit: str
    decimals: int
    rows: Sequence[tuple[int, str, str, str]]
    """Replicas, c, D, c + D."""


def choices(status: Mapping[str, Any]) -> Choices:
    unit, times = _in_people_s(status)
    known = [
        (choice["replicas"], *(None if choice[w] is None else times * choice[w] for w in ("cost", "late_cost", "sum")))
        for choice in status["choices"]
    ]
    decimals = decimals_of([amount for _, *amounts in known for amount in amounts], [total for *_, total in known])
    rows = [(count, *(plain(amount, decimals) for amount in amounts)) for count, *amounts in known]
    return Choices(unit, decimals, [(count, cost, late, total) for count, cost, late, total in rows])


def decimals_of(amounts: Sequence[float | None], sums: Sequence[float | None] = ()) -> int:
    """With which the largest has DIGITS digits; one more where `sums` that differ would look the same."""
    largest = max((abs(amount) for amount in amounts if amount), default=1.0)
    decimals = max(0, DIGITS - 1 - math.floor(math.log10(largest)))
    different = {float(f"{amount:.{ALIKE}g}") for amount in sums if amount is not None}
    looks = {f"{amount:.{decimals}f}" for amount in different}
    return decimals + (len(looks) < len(different))


def plain(amount: float | None, decimals: int) -> str:
    """ "" of what is not known; what is less than the last decimal is not nothing."""
    if amount is None:
        return ""
    least = 10.0**-decimals
    if 0 < amount < least / 2:
        return f"<{least:.{decimals}f}"
    return f"{amount:,.{decimals}f}" if amount else "0"


def percent(share: float) -> str:
    """To two digits."""
    if not share:
        return "0%"
    decimals = max(0, 1 - math.floor(math.log10(100 * share)))
    return f"{100 * share:.{decimals}f}%" if share >= 1e-5 else "<0.001%"


def measured(row: Mapping[str, Any], objective: Mapping[str, Any] | None) -> str:
    """What was late, where that is far more than the sum foresees; "" elsewhere."""
    if objective is None or objective["state"] != "missed":
        return ""
    late = objective["missed"] / objective["judged"]
    chosen = next((c for c in row["status"]["choices"] if c["replicas"] == row["spec"]["replicas"]), None)
    if chosen is None or chosen["late_share"] is None or late <= FAR * chosen["late_share"]:
        return ""
    return (
        "LATE is foreseen, by a replay of its demand were that always as it is now; of the last"
        f" {objective['judged']:,} requests {percent(late)} were late: `because` says why, where that is known."
    )


def cheapest(row: Mapping[str, Any]) -> str:
    """Why the chosen number is the cheapest; or what rule goes before, where another one is. "" where nothing is known
    to compare."""
    status = row["status"]
    of, chosen = choices(status), row["spec"]["replicas"]
    known = {choice["replicas"]: choice for choice in status["choices"] if choice["sum"] is not None}
    if chosen not in known or len(known) < 2:
        return ""
    mine, (_, times) = known[chosen], _in_people_s(status)
    sums = {count: float(f"{choice['sum']:.{ALIKE}g}") for count, choice in known.items()}
    best = min(sums, key=lambda count: (sums[count], count != chosen))

    def differs(what: str, other: Mapping[str, Any]) -> str:
        return plain(abs(times * (other[what] - mine[what])), of.decimals)

    reasons = []
    for count, word in ((chosen - 1, "one fewer"), (chosen + 1, "one more")):
        if (other := known.get(count)) is None:
            continue
        if count < chosen:
            late = differs("late_cost", other)
            reasons.append(f"{word} would save {differs('cost', other)} and cost {late} more in late requests")
        else:
            late = f" and spare {differs('late_cost', other)} of late requests" if mine["late_cost"] else ""
            reasons.append(f"{word} would cost {differs('cost', other)} more{late or ', and nothing is late'}")
    noun = "1 replica is" if chosen == 1 else f"{chosen} replicas are"
    if best == chosen and status.get("wish", 0) > chosen:
        fewer = f", and {reasons[0]}" if chosen - 1 in known else ""
        return f"{noun} all that it may have{fewer}; {status['why']}"
    if best == chosen:
        return f"{noun} the cheapest: {'; '.join(reasons)}."
    return f"By this sum {best} would be cheaper than {chosen}; what goes before it: {status['why']}"


def _in_people_s(told: Mapping[str, Any]) -> tuple[str, float]:
    """(what amounts of an hour are told in, how many of these one of what they are kept in is)."""
    if told["unit"] != REPLICA_HOURS:
        return f"{told['unit']} an hour", 1.0
    cores = told.get("cores")  # a row of a release before does not say
    return (f"{CORE_HOURS} an hour", float(cores)) if cores else ("replicas", 1.0)


def _worth(status: Mapping[str, Any]) -> str:
    """What a late request is counted as, of so many that it can be read."""
    if not status["late_price"]:
        return ""
    unit, times = _in_people_s(status)
    price = times * status["late_price"]
    count, words = next((one for one in _THOUSANDS if one[0] * price >= 0.001), _THOUSANDS[-1])
    return f"; {words} as {count * price:.2g} {unit.removesuffix(' an hour').replace('replicas', REPLICA_HOURS)}"


def follows(row: Mapping[str, Any] | None) -> bool:
    """Whether the number follows the load: of others it is only decided when they sleep, or nothing."""
    return row is not None and "choices" in row["status"]


def change_of(change: Mapping[str, Any]) -> str:
    """One line: when, from how many to how many, why, and what that costs."""
    unit, (*_, total) = costs_of(change)
    priced = f" c + D = {total} {unit}." if total else ""
    return f"{utc_time(change['at'])}  {_step(change)} replicas, {change['why']}{priced}"


def _step(change: Mapping[str, Any]) -> str:
    """One that is refused more than it has stays as it is."""
    return f"{change['from']} -> {change['to']}" if change["from"] != change["to"] else f"still {change['to']}"


def with_rests(changes: Sequence[Mapping[str, Any]], rests: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Changes of how many there are with sleeps and wakes among them, in the order of time."""
    nothing: dict[str, Any] = dict.fromkeys(("cost", "late_cost", "sum")) | {"unit": ""}
    told = [
        {"at": r["at"], "from": r["from"], "to": r["replicas"], "why": _rest(r), **nothing, **_ready(r)} for r in rests
    ]
    return sorted([*changes, *told], key=lambda one: one["at"])


def _ready(rest: Mapping[str, Any]) -> dict[str, Any]:
    return {"rest": rest["to"], **({"ready_at": rest["ready_at"]} if "ready_at" in rest else {})}


def _rest(rest: Mapping[str, Any]) -> str:
    if rest["to"] == "asleep":
        return str(rest["why"])
    done = "ready_at" in rest
    took = f" It was ready after {format_span(rest['ready_at'] - rest['at'])}." if done else " It is not ready yet."
    return f"{rest['why'].replace('Waking', 'Woken') if done else rest['why']}{took}"


def history(screen: Screen, changes: Sequence[Mapping[str, Any]]) -> None:
    """Newest first; with a column for the unit where that was another one before."""
    told = [_amounts(change) for change in changes]
    units = [_in_people_s(change)[0] if set(of) != {None} else "" for change, of in zip(changes, told, strict=True)]
    differ = sorted({unit for unit in units if unit})
    amounts_in = {
        unit: [amount for of, its in zip(told, units, strict=True) if its == unit for amount in of] for unit in units
    }
    decimals = {unit: decimals_of(amounts) for unit, amounts in amounts_in.items()}
    is_mixed = len(differ) > 1
    rows = [
        (
            utc_time(change["at"]),
            _step(change),
            *(plain(amount, decimals[unit]) for amount in of),
            *([unit] if is_mixed else []),
            change["why"],
        )
        for change, of, unit in reversed(list(zip(changes, told, units, strict=True)))
    ]
    title = f"{_TITLE} {'the unit of then' if is_mixed else differ[0]}:" if differ else ""
    heads = ("SINCE (UTC)", "REPLICAS", "COST c", "LATE D", "c + D", *(["IN"] if is_mixed else []), "WHY")
    screen.table(title, heads, rows)


def costs_of(change: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(unit, (c, D, c + D)) of a change; "" is what is not known."""
    amounts = _amounts(change)
    decimals = decimals_of(amounts)
    return _in_people_s(change)[0], [plain(amount, decimals) for amount in amounts]


def _amounts(change: Mapping[str, Any]) -> list[float | None]:
    times = _in_people_s(change)[1] if change["unit"] else 1.0
    return [None if change[what] is None else times * change[what] for what in ("cost", "late_cost", "sum")]


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
