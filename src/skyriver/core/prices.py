"""What resources cost: the prices in force, and what is paid by them. Pure.

Prices are decimal numbers as they were written, amounts are whole numbers of a small unit, and nothing is rounded but
what is shown, to a millionth of the currency: sums over months do not drift, and what was used is charged by the prices
that held when it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from types import MappingProxyType
from typing import Any, Final

from skyriver.core.resources import Limits

Amounts = Mapping[str, int]
"""Of what was used, by the name of its price, in the unit that `per` counts."""
CORE, MEMORY, STORAGE, EGRESS = "core_hour", "memory_gb_hour", "storage_gb_month", "egress_gb"
ACCELERATOR: Final = "accelerator_hour."
"""With its kind, as in accelerator_hour.h100."""
MONTH_HOURS: Final = 730
_HOUR_MS: Final = 3_600_000
_PER: Final = {
    CORE: 1_000 * _HOUR_MS,
    MEMORY: 1_000 * _HOUR_MS,
    STORAGE: 10**9 * MONTH_HOURS * _HOUR_MS,
    EGRESS: 10**9,
}
UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        CORE: "a core for an hour",
        MEMORY: "10^9 bytes of memory for an hour",
        STORAGE: f"10^9 bytes of storage for a month of {MONTH_HOURS} hours",
        EGRESS: "10^9 bytes that were answered",
    }
)
"""All but accelerators have a price in every table."""
MICRO: Final = Decimal("0.000001")


def per(name: str) -> int:
    """How much of an amount the price is for: a core's is in thousandths of a core times milliseconds, memory in MB
    times milliseconds, an accelerator in milliseconds, storage in bytes times milliseconds, egress in bytes."""
    return _HOUR_MS if name.startswith(ACCELERATOR) else _PER[name]


def unit_of(name: str) -> str:
    return f"an accelerator {name.removeprefix(ACCELERATOR)} for an hour" if name not in UNITS else UNITS[name]


def held(limits: Limits, milliseconds: int) -> dict[str, int]:
    """The amounts of what is reserved for a process for so long."""
    amounts = {CORE: round(limits.cpus * 1_000) * milliseconds, MEMORY: limits.memory_mb * milliseconds}
    amounts |= {f"{ACCELERATOR}{kind}": count * milliseconds for kind, count in limits.accelerators.items()}
    return {name: amount for name, amount in amounts.items() if amount}


def micro(money: Decimal) -> Decimal:
    """To a millionth of the currency, as it is shown."""
    return money.quantize(MICRO, ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list: what a unit of each resource costs, in `currency`."""

    source: str
    """Where it comes from: `list NAME` of those that come with Skyriver, or a file."""
    as_of: date
    currency: str = ""
    """"" where nothing costs anything."""
    of: Mapping[str, Decimal] = field(default_factory=dict)
    """By name; one that is not there is 0."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Of those that the source takes from a list: which."""

    def source_of(self, name: str) -> str:
        """Of one price."""
        return f"{self.taken[name]}, by {self.source}" if name in self.taken else self.source

    def price(self, name: str) -> Decimal:
        return self.of.get(name, Decimal(0))

    @property
    def are_zero(self) -> bool:
        return not any(self.of.values())

    def knows(self, name: str) -> bool:
        """False: it is charged with 0 only because nobody said what it costs."""
        return name in self.of

    def charge(self, amounts: Amounts) -> Decimal:
        """What was used costs so much; not rounded. What has no price of its own (a count of predictions) is free."""
        priced = ((self.of[name], name, amount) for name, amount in amounts.items() if name in self.of)
        return sum((price * amount / per(name) for price, name, amount in priced), Decimal(0))

    def per_second(self, limits: Limits) -> Decimal:
        """To hold what is reserved for a process; not rounded."""
        return self.charge(held(limits, 1_000))

    def to_json(self) -> dict[str, Any]:
        of = {name: f"{price:f}" for name, price in sorted(self.of.items())}
        told = {"source": self.source, "as_of": self.as_of.isoformat(), "currency": self.currency, "of": of}
        return {**told, "taken": dict(sorted(self.taken.items()))} if self.taken else told

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Prices:
        of = {name: Decimal(price) for name, price in told["of"].items()}
        return cls(told["source"], date.fromisoformat(told["as_of"]), told["currency"], of, told.get("taken", {}))
