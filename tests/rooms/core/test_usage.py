"""Buckets of what was used: what they cost, how they are kept and folded."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

from skyriver.core.prices import CORE, MEMORY, Prices
from skyriver.core.resources import Delete, Put, Resource
from skyriver.core.units import DAY
from skyriver.core.usage import (
    DAYS,
    HOUR,
    HOURS_OF_DAYS,
    OTHERS,
    SUBJECTS,
    Bucket,
    Subject,
    added,
    folded,
)

SHOP = Subject("shop", "service", "comes_back")
CHEAP = Prices("list cheap", date(2026, 11, 1), "EUR", {CORE: Decimal("0.02"), MEMORY: Decimal(0)})
DEAR = replace(CHEAP, of={CORE: Decimal("0.03")})
HOUR_OF_A_CORE = 1_000 * 3_600_000


def kept(bucket: Bucket, revision: int = 1) -> Resource:
    return replace(bucket.to_row(), revision=revision)


def cost(bucket: Bucket) -> Decimal:
    return sum((part.charge(SHOP) for part in bucket.parts), Decimal(0))


def test_a_bucket_is_charged_by_the_prices_that_held_and_comes_back_as_it_was() -> None:
    bucket = Bucket("default", 5 * HOUR).add(CHEAP, {SHOP: {CORE: HOUR_OF_A_CORE}})
    bucket = bucket.add(DEAR, {SHOP: {CORE: HOUR_OF_A_CORE}}).add(CHEAP, {SHOP: {CORE: HOUR_OF_A_CORE}})
    assert cost(bucket) == Decimal("0.07")
    assert len(bucket.parts) == 2
    assert Bucket.of(kept(bucket, 7)) == bucket
    assert Bucket.of(kept(bucket, 7)).revision == 7
    assert bucket.name == "h1970010105"
    assert Bucket("default", 5 * DAY, DAY).name == "d19700106"


def test_of_more_things_than_a_bucket_holds_the_rest_is_counted_together() -> None:
    many = {Subject("a", "job", f"job-{n:05}"): {CORE: 1} for n in range(SUBJECTS + 5)}
    found = added({}, many)
    assert len(found) == SUBJECTS + 1
    assert found[OTHERS] == {CORE: 5}


def test_the_hours_of_the_oldest_day_become_a_day_that_costs_as_much() -> None:
    hours = [
        Bucket("default", day * DAY + hour * HOUR).add(
            CHEAP if hour < 3 else DEAR, {SHOP: {CORE: HOUR_OF_A_CORE * (day + 1)}}
        )
        for day in range(HOURS_OF_DAYS + 1)
        for hour in (0, 3, 23)
    ]
    rows = [kept(bucket) for bucket in hours]
    changes = folded(rows)
    gone = {change.name for change in changes if isinstance(change, Delete)}
    assert gone == {"h1970010100", "h1970010103", "h1970010123"}
    [day] = [change for change in changes if isinstance(change, Put)]
    assert (day.resource.name, day.expected) == ("d19700101", 0)
    assert cost(Bucket.of(day.resource)) == sum(cost(bucket) for bucket in hours[:3])
    left = [row for row in rows if row.name not in gone]
    assert folded([*left, replace(day.resource, revision=9)]) == []


def test_an_hour_that_comes_late_joins_its_day() -> None:
    """A clock that was set back counts into hours of a day that was folded already."""
    day = kept(Bucket("default", 0, DAY).add(CHEAP, {SHOP: {CORE: 5}}), 3)
    hours = [kept(Bucket("default", n * DAY).add(CHEAP, {SHOP: {CORE: 1}}), 4) for n in range(HOURS_OF_DAYS + 1)]
    changes = folded([day, *hours])
    [put] = [change for change in changes if isinstance(change, Put)]
    assert put.expected == 3
    assert Bucket.of(put.resource).parts[0].used[SHOP][CORE] == 6


def test_days_are_kept_for_13_months_by_their_number_not_by_the_clock() -> None:
    days = [kept(Bucket("default", n * DAY, DAY)) for n in range(DAYS)]
    far = kept(Bucket("default", 50_000 * DAY, DAY))  # a clock that was far ahead
    assert folded(days) == []
    assert [change.name for change in folded([*days, far]) if isinstance(change, Delete)] == ["d19700101"]
