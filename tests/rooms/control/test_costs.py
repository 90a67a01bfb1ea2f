"""What things cost: sums over buckets, and the API that tells them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from api_stage import BASE, Stage

from skyriver.control.api import create_api
from skyriver.control.costing import Period, costs
from skyriver.control.costs import _declared
from skyriver.control.pricing import OwnedMachines
from skyriver.core.contract_costs import CostLine
from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.prices import CORE, EGRESS, STORAGE, Prices
from skyriver.core.units import DAY
from skyriver.core.usage import HOUR, PREDICTIONS, Bucket, Subject, Used

PRICES = Prices(
    "HOME/prices.toml",
    date(2026, 11, 1),
    "EUR",
    {CORE: Decimal("0.021"), STORAGE: Decimal("0.02"), EGRESS: Decimal("0.09"), "memory_gb_hour": Decimal(0)},
)
SHOP = Subject("shop", "service", "comes_back")
FILES = Subject("shop", "model", "comes_back")
ORDERS = Subject("shop", "stream", "orders")
FREE = Prices("list owned", date(2026, 11, 1), "", {name: Decimal(0) for name in PRICES.of})
NOW = 1_000 * DAY + 5 * HOUR + 1
CORE_HOUR = 1_000 * 3_600_000


def hour(ago: int, used: Used, prices: Prices = PRICES, tenant: str = "default") -> Bucket:
    return Bucket(tenant, (NOW // HOUR - ago) * HOUR).add(prices, used)


def line(items: Any, name: str) -> CostLine:
    return next(item for item in items if item["name"] == name)


def test_a_table_adds_up_exactly_and_compares_with_the_period_before() -> None:
    odd = CORE_HOUR // 7
    found = [
        hour(ago, {SHOP: {CORE: odd, EGRESS: 1_234_567, PREDICTIONS: 1_000}, ORDERS: {CORE: odd}}) for ago in range(30)
    ]
    told = costs(found, PRICES, Period.last(24 * HOUR, NOW))
    assert {item["name"] for item in told["items"]} == {"comes_back", "orders"}
    for column in ("compute", "storage", "egress", "total", "before"):
        assert sum(Decimal(item[column]) for item in told["items"]) == Decimal(told["total"][column])
    shop = line(told["items"], "comes_back")
    assert shop["compute"] == f"{Decimal('0.021') * 24 / 7:.6f}"
    assert Decimal(shop["total"]) == Decimal(shop["compute"]) + Decimal(shop["egress"])
    assert Decimal(shop["before"]) * 4 == pytest.approx(Decimal(shop["total"]), abs=Decimal("0.00001"))
    assert shop["change"] == pytest.approx(3.0, abs=1e-4)
    assert shop["predictions"] == 24_000
    assert Decimal(shop["per_million"] or 0) == pytest.approx(Decimal(shop["total"]) * 1_000_000 / 24_000)
    assert (told["currency"], told["is_free"], told["hours"]) == ("EUR", False, [])


def test_prices_that_change_do_not_rewrite_the_past() -> None:
    dear = replace(PRICES, of={**PRICES.of, CORE: Decimal(2)})
    bucket = hour(1, {SHOP: {CORE: CORE_HOUR}}).add(dear, {SHOP: {CORE: CORE_HOUR}})
    told = costs([bucket], dear, Period.last(24 * HOUR, NOW))
    assert told["total"]["total"] == "2.021000"


def test_of_another_currency_it_is_told_that_it_is_left_out() -> None:
    other = replace(PRICES, currency="USD")
    found = [hour(1, {SHOP: {CORE: CORE_HOUR}}, other), hour(2, {SHOP: {CORE: CORE_HOUR}})]
    told = costs(found, PRICES, Period.last(24 * HOUR, NOW))
    assert (told["total"]["total"], told["total"]["core_hours"]) == ("0.021000", 2.0)
    assert told["notes"] == ["0.021000 USD are left out: prices were in another currency then."]


def test_an_accelerator_without_a_price_is_said_to_be_counted_as_free() -> None:
    told = costs([hour(1, {SHOP: {"accelerator_hour.h100": 3_600_000}})], PRICES, Period.last(24 * HOUR, NOW))
    assert told["total"]["accelerator_hours"] == 1.0
    assert "accelerator_hour.h100 has no price" in told["notes"][0]


def test_where_nothing_costs_anything_units_are_told() -> None:
    told = costs([hour(1, {SHOP: {CORE: CORE_HOUR * 3}}, FREE)], FREE, Period.last(24 * HOUR, NOW))
    assert (told["is_free"], told["items"][0]["core_hours"], told["total"]["total"]) == (True, 3.0, "0.000000")


def test_of_one_thing_it_is_told_hour_by_hour() -> None:
    found = [
        hour(ago, {SHOP: {CORE: CORE_HOUR}, FILES: {STORAGE: 10**9 * 3_600_000}, ORDERS: {CORE: 1}}) for ago in (1, 3)
    ]
    told = costs(found, PRICES, Period.last(24 * HOUR, NOW), only=["comes_back"], with_hours=True)
    assert {item["kind"] for item in told["items"]} == {"service", "model"}
    assert [h["core_hours"] for h in told["hours"]] == [1.0, 1.0]
    assert told["hours"][0]["at"] < told["hours"][1]["at"]
    told = costs(found, PRICES, Period.last(24 * HOUR, NOW), only=["model/comes_back"])
    assert {item["kind"] for item in told["items"]} == {"model"}


def test_a_period_is_whole_hours_with_the_one_that_is_under_way() -> None:
    period = Period.last(24 * HOUR, NOW)
    assert (period.end - period.begin, period.begin - period.before) == (24 * HOUR, 24 * HOUR)
    assert period.begin < NOW < period.end
    day = Bucket("default", 985 * DAY, DAY).add(PRICES, {SHOP: {CORE: CORE_HOUR}})
    assert costs([day], PRICES, Period.last(30 * DAY, NOW))["total"]["core_hours"] == 1.0


# The API


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def kept(stage: Stage, *found: Bucket) -> None:
    hours_now = stage.world.clock.wall() // HOUR
    for bucket in found:
        ago = NOW // HOUR - bucket.at // HOUR
        stage.put(replace(bucket, at=(hours_now - ago) * HOUR).to_row())


def get(stage: Stage, path: str, headers: dict[str, str]) -> Any:
    answer = stage.caller.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_api_tells_a_tenant_its_own_costs_and_the_operator_those_of_all(stage: Stage) -> None:
    stage.world.clock.advance(100 * DAY)
    kept(
        stage,
        hour(1, {SHOP: {CORE: CORE_HOUR}}),
        hour(2, {ORDERS: {CORE: 2 * CORE_HOUR}}),
        hour(1, {SHOP: {CORE: 5 * CORE_HOUR}}, tenant="bank"),
    )
    viewer, bank = stage.issue("viewer"), stage.issue("admin", "bank")
    own = get(stage, f"{BASE}/costs", viewer)
    assert [(item["name"], item["core_hours"]) for item in own["items"]] == [("orders", 2.0), ("comes_back", 1.0)]
    by_app = get(stage, f"{BASE}/costs?by=app&since=24h", viewer)
    assert [(item["kind"], item["name"], item["core_hours"]) for item in by_app["items"]] == [("app", "shop", 3.0)]
    by_kind = get(stage, f"{BASE}/costs?by=kind", viewer)
    assert {item["kind"] for item in by_kind["items"]} == {"service", "stream"}
    tenants = get(stage, f"{BASE}/costs?by=tenant", viewer)
    assert {item["name"]: item["core_hours"] for item in tenants["items"]} == {"bank": 5.0, "default": 3.0}
    theirs = get(stage, "/api/v1/tenants/bank/costs", bank)
    assert [item["core_hours"] for item in theirs["items"]] == [5.0]
    refused = stage.caller.get("/api/v1/tenants/bank/costs?by=tenant", headers=bank)
    assert (refused.status_code, refused.json()["code"]) == (403, "NOT_OPERATOR")
    assert stage.caller.get(f"{BASE}/costs", headers=bank).json()["code"] == "OTHER_TENANT"


def test_the_api_tells_of_one_thing_and_refuses_what_is_not_there(stage: Stage) -> None:
    stage.world.clock.advance(100 * DAY)
    kept(stage, hour(1, {SHOP: {CORE: CORE_HOUR}}), hour(30, {SHOP: {CORE: CORE_HOUR}}))
    token = stage.issue("viewer")
    one = get(stage, f"{BASE}/costs/comes_back", token)
    assert (one["total"]["core_hours"], len(one["hours"])) == (1.0, 1)
    assert get(stage, f"{BASE}/costs/service/comes_back?since=48h", token)["total"]["core_hours"] == 2.0
    missing = stage.caller.get(f"{BASE}/costs/nothing", headers=token)
    assert (missing.status_code, "nothing" in missing.json()["detail"]) == (404, True)
    for since in ("1s", "10000d", "soon"):
        assert stage.caller.get(f"{BASE}/costs?since={since}", headers=token).json()["code"] == "BAD_DURATION"
    assert stage.caller.get(f"{BASE}/costs?by=moon", headers=token).status_code == 422
    assert stage.caller.get(f"{BASE}/costs?of=moon", headers=token).json()["code"] == "BAD_REQUEST"


class Refused(OwnedMachines):
    def problem(self) -> SkyriverError:
        return InvalidInput("currency is missing.", code="BAD_PRICES", where="F", next_action="Write it.")


def test_costs_say_that_the_operator_s_prices_are_not_what_they_are_by(stage: Stage) -> None:
    kept(stage, hour(1, {SHOP: {CORE: CORE_HOUR}}))
    viewer = stage.issue("viewer")
    assert get(stage, f"{BASE}/costs", viewer)["notes"] == []
    api = create_api(replace(stage.cloud, prices=Refused()))
    for path in ("costs", "costs/comes_back"):
        told = type(stage.caller)(api).get(f"{BASE}/{path}", headers=viewer).json()
        assert told["notes"] == ["F: currency is missing. Write it. The prices before stay in force."]


@pytest.mark.parametrize(
    ("declared", "told", "action"),
    [
        (
            {"share": 2},
            "The declaration is not understood: share=2 is not less than 1.0.",
            "share is a number above 0.5 and below 1: write share=0.9.",
        ),
        (
            {"latency": "1us"},
            "The declaration: latency='1us' is less than 1ms.",
            'latency is a duration from 1ms to 2m: write latency="150ms".',
        ),
        (5, "The declaration is not understood: it=5 is no object of names and values.", 'Write it as JSON, as {"'),
    ],
    ids=str,
)
def test_a_declaration_that_cannot_be_is_told_with_its_range(declared: object, told: str, action: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _declared(json.dumps(declared), "price")
    assert caught.value.message == told
    assert caught.value.next_action.startswith(action)
