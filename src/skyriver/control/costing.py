"""What things cost in a period, from the rows that tell what was used. Pure.

A cell is rounded to a millionth once, and sums are those of the cells: a table adds up exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final, Literal, TypeVar

from skyriver.core.contract_costs import CostHour, CostLine, Costs
from skyriver.core.prices import ACCELERATOR, CORE, EGRESS, MEMORY, STORAGE, Prices, micro, per
from skyriver.core.units import DAY, iso_seconds
from skyriver.core.usage import HOUR, PREDICTIONS, Bucket, Subject

By = Literal["item", "app", "kind", "tenant"]
ZERO: Final = Decimal(0)
_Place = tuple[str, Subject]
"""A tenant, and what is summed up there."""


@dataclass(slots=True)
class Sum:
    """Of one line, while it is added up."""

    compute: Decimal = ZERO
    storage: Decimal = ZERO
    egress: Decimal = ZERO
    before: Decimal = ZERO
    amounts: dict[str, int] = field(default_factory=dict)

    def add(self, prices: Prices, amounts: Mapping[str, int]) -> None:
        for name, amount in amounts.items():
            self.amounts[name] = self.amounts.get(name, 0) + amount
        self.storage += prices.charge({STORAGE: amounts.get(STORAGE, 0)})
        self.egress += prices.charge({EGRESS: amounts.get(EGRESS, 0)})
        self.compute += prices.charge({k: v for k, v in amounts.items() if k not in (STORAGE, EGRESS)})

    def rounded(self) -> Sum:
        return Sum(micro(self.compute), micro(self.storage), micro(self.egress), micro(self.before), self.amounts)

    def join(self, other: Sum) -> None:
        self.compute += other.compute
        self.storage += other.storage
        self.egress += other.egress
        self.before += other.before
        for name, amount in other.amounts.items():
            self.amounts[name] = self.amounts.get(name, 0) + amount


@dataclass(slots=True)
class Tally:
    """Amounts by what they are summed up for and by the prices that held: whole numbers, and money once at the end."""

    lists: list[Prices] = field(default_factory=list)
    now: dict[tuple[_Place, int], dict[str, int]] = field(default_factory=dict)
    before: dict[tuple[_Place, int], dict[str, int]] = field(default_factory=dict)
    hours: dict[tuple[tuple[int, int], int], dict[str, int]] = field(default_factory=dict)

    def number(self, prices: Prices) -> int:
        if prices not in self.lists:
            self.lists.append(prices)
        return self.lists.index(prices)

    def charged(self, number: int, currency: str) -> Prices:
        """What was used by prices in another currency is counted, and what it cost is told apart."""
        prices = self.lists[number]
        if prices.currency in ("", currency):
            return prices
        return replace(prices, of=dict.fromkeys(prices.of, ZERO))

    @property
    def last_currency(self) -> str:
        """Of what was used: nothing costs anything now, and something did."""
        return next((prices.currency for prices in reversed(self.lists) if prices.currency), "")


@dataclass(frozen=True, slots=True)
class Period:
    """Whole hours, and whole days where hours are folded: `begin` up to `end`, and before it as long from `before`."""

    begin: int
    end: int
    before: int

    @classmethod
    def last(cls, microseconds: int, now: int) -> Period:
        """The last `microseconds`, the hour that is under way included."""
        end = (now // HOUR + 1) * HOUR
        begin = end - -(-microseconds // HOUR) * HOUR
        return cls(begin, end, 2 * begin - end)


def costs(
    found: Iterable[Bucket],
    prices: Prices,
    period: Period,
    *,
    by: By = "item",
    only: Iterable[str] = (),
    with_hours: bool = False,
) -> Costs:
    """`found`: buckets of the tenants that are asked for. `only`: of those of this name, or kind/name."""
    wanted = frozenset(only)
    tally = Tally()
    for bucket in found:
        if where := _where(bucket, period):
            _count(tally, bucket, where, by, wanted, with_hours=with_hours)
    currency = prices.currency or tally.last_currency
    sums: dict[_Place, Sum] = {}
    hours: dict[tuple[int, int], Sum] = {}
    for (place, number), amounts in tally.now.items():
        sums.setdefault(place, Sum()).add(tally.charged(number, currency), amounts)
    for (place, number), amounts in tally.before.items():
        sums.setdefault(place, Sum()).before += tally.charged(number, currency).charge(amounts)
    for (hour, number), amounts in tally.hours.items():
        hours.setdefault(hour, Sum()).add(tally.charged(number, currency), amounts)
    lines = {place: line.rounded() for place, line in sums.items()}
    whole = Sum()
    for line in lines.values():
        whole.join(line)
    items = [_line(*place, line) for place, line in lines.items()]
    items.sort(
        key=lambda item: (-Decimal(item["total"]), -item["core_hours"], item["tenant"], item["kind"], item["name"])
    )
    return {
        "since": iso_seconds(period.begin),
        "until": iso_seconds(period.end),
        "before": iso_seconds(period.before),
        "currency": currency,
        "as_of": prices.as_of.isoformat(),
        "source": prices.source,
        "is_free": prices.are_zero and all(known.are_zero for known in tally.lists),
        "items": items,
        "total": _line("", Subject("", "total", ""), whole),
        "hours": [_hour(at, length, hours[at, length]) for at, length in sorted(hours)],
        "notes": list(_notes(tally, currency)),
    }


def _count(
    tally: Tally, bucket: Bucket, where: Literal["in", "before"], by: By, wanted: frozenset[str], *, with_hours: bool
) -> None:
    for part in bucket.parts:
        number = tally.number(part.prices)
        for subject, amounts in part.used.items():
            if wanted and not wanted & {subject.name, f"{subject.kind}/{subject.name}"}:
                continue
            place = bucket.tenant, _grouped(subject, bucket.tenant, by)
            _put(tally.now if where == "in" else tally.before, place, number, amounts)
            if with_hours and where == "in":
                _put(tally.hours, (bucket.at, bucket.length // HOUR), number, amounts)


_Key = TypeVar("_Key")


def _put(of: dict[tuple[_Key, int], dict[str, int]], key: _Key, number: int, amounts: Mapping[str, int]) -> None:
    own = of.setdefault((key, number), {})
    for name, amount in amounts.items():
        own[name] = own.get(name, 0) + amount


def _where(bucket: Bucket, period: Period) -> Literal["in", "before", ""]:
    """A day that is folded belongs where its noon does."""
    at = bucket.at if bucket.length == HOUR else bucket.at + DAY // 2
    if period.begin <= at < period.end:
        return "in"
    return "before" if period.before <= at < period.begin else ""


def _grouped(subject: Subject, tenant: str, by: By) -> Subject:
    match by:
        case "item":
            return subject
        case "app":
            return Subject("", "app", subject.app)
        case "kind":
            return Subject("", subject.kind, "")
        case "tenant":
            return Subject("", "tenant", tenant)


def _line(tenant: str, subject: Subject, line: Sum) -> CostLine:
    total = line.compute + line.storage + line.egress
    predictions = line.amounts.get(PREDICTIONS, 0)
    accelerators = sum(amount for name, amount in line.amounts.items() if name.startswith(ACCELERATOR))
    return {
        "tenant": tenant,
        "app": subject.app,
        "kind": subject.kind,
        "name": subject.name,
        "compute": money(line.compute),
        "storage": money(line.storage),
        "egress": money(line.egress),
        "total": money(total),
        "before": money(line.before),
        "change": round(float(total / line.before) - 1, 6) if line.before else None,
        "predictions": predictions,
        "per_million": money(micro(total * 1_000_000 / predictions)) if predictions else None,
        "core_hours": _units(line, CORE),
        "memory_gb_hours": _units(line, MEMORY),
        "accelerator_hours": round(accelerators / per(ACCELERATOR), 9),
        "storage_gb_months": _units(line, STORAGE),
        "egress_gb": _units(line, EGRESS),
    }


def money(amount: Decimal) -> str:
    return f"{micro(amount):f}"


def _units(line: Sum, name: str) -> float:
    return round(line.amounts.get(name, 0) / per(name), 9)


def _hour(at: int, length: int, line: Sum) -> CostHour:
    total = micro(line.compute) + micro(line.storage) + micro(line.egress)
    return {"at": iso_seconds(at), "hours": length, "total": money(total), "core_hours": _units(line, CORE)}


def _notes(tally: Tally, currency: str) -> Iterator[str]:
    abroad: dict[str, Decimal] = {}
    unpriced: set[str] = set()
    for (_, number), amounts in tally.now.items():
        prices = tally.lists[number]
        if prices.currency not in ("", currency):
            abroad[prices.currency] = abroad.get(prices.currency, ZERO) + prices.charge(amounts)
        unpriced |= {name for name in amounts if name.startswith(ACCELERATOR) and not prices.knows(name)}
    for other, amount in sorted(abroad.items()):
        if amount:
            yield f"{money(amount)} {other} are left out: prices were in another currency then."
    for name in sorted(unpriced):
        yield f"{name} has no price, and is counted as free: write it into the prices."
