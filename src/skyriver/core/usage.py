"""What was used, by hour and by day, each with the prices that held then: rows of the kind `usage`. Pure.

A bucket never changes its prices: where those in force have changed within it, it has another part. So what somebody
paid is the same whoever looks later, and a sum over buckets is exact. Hours are kept for two weeks, then they are
folded into days, and those are kept for 13 months; both are counted, not compared with the clock, so a clock that jumps
loses nothing but the oldest.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from time import gmtime, strftime
from typing import Final

from skyriver.core.prices import Amounts, Prices
from skyriver.core.resources import Change, Delete, Put, Resource
from skyriver.core.units import DAY, SECOND

USAGE: Final = "usage"
"""The kind of its rows; none is stepped."""
HOUR: Final = 3_600 * SECOND
HOURS_OF_DAYS: Final = 15
"""So many days, of which there is anything, are kept by hours: two weeks, to compare a week with the one before."""
DAYS: Final = 400
SUBJECTS: Final = 2_000
"""Of a bucket; what is beyond is counted together."""
PREDICTIONS: Final = "predictions"
"""Counted, and free of charge."""


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """What used it: `kind` is service, stream, job, table or model (the files of its versions), or other."""

    app: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.app}|{self.kind}|{self.name}"

    @staticmethod
    @lru_cache(8 * 2_000)
    def of(text: str) -> Subject:
        return Subject(*text.split("|", 2))


OTHERS: Final = Subject("", "other", "others")
Used = Mapping[Subject, Amounts]


@dataclass(frozen=True, slots=True)
class Part:
    """What was used while these prices held."""

    prices: Prices
    used: Used

    def charge(self, subject: Subject) -> Decimal:
        return self.prices.charge(self.used.get(subject, {}))


@dataclass(frozen=True, slots=True)
class Bucket:
    """Of a tenant, from the wall time `at`, whole microseconds, for `length` (HOUR or DAY)."""

    tenant: str
    at: int
    length: int = HOUR
    parts: tuple[Part, ...] = ()
    revision: int = field(default=0, compare=False)
    """Of its row; 0 before it is written."""

    @property
    def name(self) -> str:
        return strftime("h%Y%m%d%H" if self.length == HOUR else "d%Y%m%d", gmtime(self.at // SECOND))

    @property
    def day(self) -> int:
        return self.at // DAY

    def add(self, prices: Prices, used: Used) -> Bucket:
        """The part of these prices with more in it."""
        others = [part for part in self.parts if part.prices != prices]
        same = next((part.used for part in self.parts if part.prices == prices), {})
        return replace(self, parts=(*others, Part(prices, added(same, used))))

    def and_all(self, other: Bucket) -> Bucket:
        found = self
        for part in other.parts:
            found = found.add(part.prices, part.used)
        return found

    def to_row(self) -> Resource:
        parts = [{"prices": part.prices.to_json(), "used": _packed(part.used)} for part in self.parts]
        status = {"at": self.at, "length": self.length, "parts": parts}
        return Resource(self.tenant, USAGE, self.name, status=status, state="KEPT", revision=self.revision)

    @classmethod
    def of(cls, row: Resource) -> Bucket:
        parts = tuple(Part(Prices.of_json(part["prices"]), _unpacked(part["used"])) for part in row.status["parts"])
        return cls(row.tenant, int(row.status["at"]), int(row.status["length"]), parts, row.revision)


def added(before: Used, more: Used) -> dict[Subject, dict[str, int]]:
    found = {subject: dict(amounts) for subject, amounts in before.items()}
    for subject, amounts in more.items():
        place = subject if subject in found or len(found) < SUBJECTS else OTHERS
        own = found.setdefault(place, {})
        for name, amount in amounts.items():
            own[name] = own.get(name, 0) + amount
    return found


def is_bucket(row: Resource) -> bool:
    return row.kind == USAGE and "parts" in row.status


def buckets(rows: Iterable[Resource], *, since: int = 0) -> Iterator[Bucket]:
    """Those that end after the wall time `since`."""
    kept = (row for row in rows if is_bucket(row))
    return (Bucket.of(row) for row in kept if int(row.status["at"]) + int(row.status["length"]) > since)


def folded(rows: Iterable[Resource]) -> list[Change]:
    """What makes a tenant's rows fewer, where there are too many: the hours of the oldest day become a day, together or
    not at all, and the oldest days go."""
    kept = [row for row in rows if is_bucket(row)]
    hours = [row for row in kept if row.status["length"] == HOUR]
    days = sorted((row for row in kept if row.status["length"] == DAY), key=lambda row: int(row.status["at"]))
    by_day: dict[int, list[Resource]] = {}
    for row in hours:
        by_day.setdefault(int(row.status["at"]) // DAY, []).append(row)
    changes: list[Change] = []
    if len(by_day) > HOURS_OF_DAYS:
        oldest = min(by_day)
        known = next((row for row in days if int(row.status["at"]) // DAY == oldest), None)
        whole = Bucket.of(known) if known is not None else Bucket(by_day[oldest][0].tenant, oldest * DAY, DAY)
        for row in by_day[oldest]:
            whole = whole.and_all(Bucket.of(row))
            changes.append(Delete(*row.key, row.revision))
        changes.append(Put(whole.to_row(), whole.revision))
    if len(days) > DAYS:
        changes.append(Delete(*days[0].key, days[0].revision))
    return changes


def _packed(used: Used) -> str:
    """Compressed: of a tenant with 1,000 services an hour is 100 KB otherwise, and all rows are in memory."""
    told = {str(subject): dict(amounts) for subject, amounts in sorted(used.items())}
    return b64encode(zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 1)).decode()


def _unpacked(packed: str) -> dict[Subject, dict[str, int]]:
    told: dict[str, dict[str, int]] = json.loads(zlib.decompress(b64decode(packed)))
    return {Subject.of(text): amounts for text, amounts in told.items()}
