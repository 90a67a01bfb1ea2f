"""Budgets of money: what is spent of them, and what is refused once they are."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from api_stage import BASE, Stage

import skyriver as sr
from skyriver.control.pricing import OWNED
from skyriver.control.spending import spending, spending_after
from skyriver.core.errors import InvalidInput, QuotaExceeded
from skyriver.core.prices import CORE, Prices
from skyriver.core.resources import Change, Delete, Put, Resource, Snapshot
from skyriver.core.spec import AppSpec
from skyriver.core.spending import BUDGET, check_spending, parse_budget, spent_budget
from skyriver.core.units import DAY
from skyriver.core.usage import HOUR, Bucket, Subject
from skyriver.observe.of_budgets import of_budgets
from skyriver.observe.sight import Sight
from skyriver.observe.signs import Seen
from skyriver.observe.tracks import Tracks

PRICES = Prices("prices.toml", date(2026, 11, 1), "EUR", {CORE: Decimal(1)})
CORE_HOUR = 1_000 * 3_600_000
NOW = 20_000 * DAY + HOUR // 2
SHOP, RISK = Subject("shop", "service", "s"), Subject("risk", "job", "j")


def hour(ago: int, euros: int, subject: Subject = SHOP, prices: Prices = PRICES) -> Resource:
    bucket = Bucket("default", (NOW // HOUR - ago) * HOUR).add(prices, {subject: {CORE: euros * CORE_HOUR}})
    return replace(bucket.to_row(), revision=1)


def app(budget: str = "", name: str = "shop") -> Resource:
    return Resource("default", "app", name, spec={"spec": {"name": name, **({"budget": budget} if budget else {})}})


def tenant(budget: str) -> Resource:
    return Resource("default", "tenant", "default", spec={"budget": budget})


def snapshot(*rows: Resource) -> Snapshot:
    return Snapshot({row.key: row for row in rows}, {}, {}, NOW)


def judged(*rows: Resource, prices: Prices = PRICES) -> dict[str, Resource]:
    found = {}
    for change in spending(snapshot(*rows), prices):
        assert isinstance(change, Put)
        found[change.resource.name] = change.resource
    return found


@pytest.mark.parametrize(
    ("text", "shown"),
    [("200 EUR/30d", "200 EUR/30d"), (" 0.5USD / 24h ", "0.5 USD/1d"), ("1000000 CHF/366d", "1000000 CHF/366d")],
)
def test_a_budget_is_read_as_it_is_meant(text: str, shown: str) -> None:
    assert str(parse_budget(text)) == shown
    assert sr.App("shop", budget=text).spec.budget == shown


@pytest.mark.parametrize(
    "text",
    ["200", "200 EUR", "0 EUR/30d", "-1 EUR/30d", "nan EUR/1d", "1 euro/1d", "1 EUR/90m", "1 EUR/30s", "1 EUR/9999d"],
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no budget") as refused:
        parse_budget(text)
    assert (refused.value.code, bool(refused.value.next_action)) == ("BAD_BUDGET", True)
    with pytest.raises(InvalidInput, match="no budget"):
        sr.App("shop", budget=text)
    with pytest.raises(InvalidInput, match="no budget"):
        AppSpec(name="shop", budget=text)


def test_specifications_without_a_budget_are_as_they_were() -> None:
    assert "budget" not in sr.App("shop").spec.to_json()


@pytest.mark.parametrize(
    ("euros", "state"), [(0, "WITHIN"), (79, "WITHIN"), (80, "NEAR"), (99, "NEAR"), (100, "SPENT"), (500, "SPENT")]
)
def test_it_is_near_at_80_percent_and_spent_at_100(euros: int, state: str) -> None:
    row = judged(app("100 EUR/30d"), hour(50, euros))["app-shop"]
    assert (row.state, row.status["spent"]) == (state, f"{euros}.000000")
    assert f"The application shop has spent {euros}.000000 of its budget of 100 EUR/30d." in row.message
    assert bool(row.next_action) == (state != "WITHIN")


def test_an_application_pays_for_its_own_and_a_tenant_for_all() -> None:
    rows = judged(app("100 EUR/30d"), tenant("50 EUR/7d"), hour(1, 30), hour(2, 45, RISK), hour(8 * 24, 40))
    assert (rows["app-shop"].status["spent"], rows["app-shop"].state) == ("70.000000", "WITHIN")
    assert (rows["tenant"].status["spent"], rows["tenant"].state) == ("75.000000", "SPENT")


def test_at_the_pace_of_a_day_it_is_said_when_it_is_spent() -> None:
    old = hour(40, 0)
    assert "the last day it is spent in 30 hours" in judged(app("54 EUR/30d"), old, hour(1, 24))["app-shop"].message
    assert "pace" not in judged(app("1000 EUR/30d"), old, hour(1, 24))["app-shop"].message


def test_a_young_cloud_spends_at_the_pace_of_its_own_time_and_not_of_a_day() -> None:
    message = judged(app("54 EUR/30d"), hour(1, 24))["app-shop"].message  # an hour and a half
    assert message.endswith("At the pace of the last 90 minutes it is spent in 112 minutes.")


def test_a_budget_that_nothing_counts_against_is_not_said_to_be_spent() -> None:
    dollars = replace(PRICES, currency="USD")
    row = judged(app("100 EUR/30d"), prices=dollars)["app-shop"]
    assert row.message.startswith("The application shop has a budget of 100 EUR/30d. Prices are in USD now")


def test_prices_in_another_currency_are_said_and_free_ones_spend_nothing() -> None:
    dollars = replace(PRICES, currency="USD")
    row = judged(app("100 EUR/30d"), hour(1, 500, prices=dollars), prices=dollars)["app-shop"]
    assert (row.state, row.status["spent"]) == ("UNPRICED", "0.000000")
    assert "Prices are in USD now" in row.message
    assert row.next_action.startswith("Give the budget in USD, or have")
    free = judged(app("100 EUR/30d"), hour(1, 500, prices=OWNED), prices=OWNED)["app-shop"]
    assert (free.state, free.status["spent"]) == ("UNPRICED", "0.000000")
    assert "Nothing costs anything here (list owned): nothing is ever counted against it." in free.message
    assert free.next_action.startswith("Leave the budget out, or have")
    zero = replace(PRICES, of={CORE: Decimal(0)})
    assert judged(app("100 EUR/30d"), prices=zero)["app-shop"].state == "UNPRICED"
    assert judged(app("100 EUR/30d"), hour(1, 500), prices=OWNED)["app-shop"].state == "SPENT", "when it cost something"


def test_a_row_is_written_when_something_is_new_and_goes_with_its_budget() -> None:
    before = replace(judged(app("100 EUR/30d"), hour(1, 50))["app-shop"], revision=3, since=5)

    def then(*rows: Resource) -> list[Change]:
        return spending(snapshot(before, *rows), PRICES)

    assert then(app("100 EUR/30d"), hour(1, 50)) == []
    [more] = then(app("100 EUR/30d"), hour(1, 51))
    assert isinstance(more, Put)
    assert (more.expected, more.resource.since) == (3, 5)
    [worse] = then(app("100 EUR/30d"), hour(1, 90))
    assert isinstance(worse, Put)
    assert (worse.resource.state, worse.resource.since) == ("NEAR", NOW)
    assert then(app()) == [Delete("default", BUDGET, "app-shop", 3)]


def test_a_budget_is_there_with_what_declares_it_and_goes_with_it() -> None:
    known = snapshot(app("50 EUR/30d", "risk"), hour(1, 50), hour(2, 45, RISK))
    declared = [Put(app("100 EUR/30d"), 0), Put(Resource("default", "model", "m"), 0)]
    [put] = spending_after(known, declared, PRICES)
    assert isinstance(put, Put)
    assert (put.resource.name, put.resource.status["spent"], put.expected) == ("app-shop", "50.000000", 0)
    there = snapshot(app("100 EUR/30d"), replace(put.resource, revision=7), hour(1, 50))
    assert spending_after(there, [Put(app("100 EUR/30d"), 1)], PRICES) == []
    [more] = spending_after(there, [Put(app("900 EUR/30d"), 1)], PRICES)
    assert isinstance(more, Put)
    assert (more.resource.spec["budget"], more.expected) == ("900 EUR/30d", 7)
    gone = [Delete("default", BUDGET, "app-shop", 7)]
    assert spending_after(there, [Put(app(), 1)], PRICES) == gone
    assert spending_after(there, [Delete("default", "app", "shop", 1)], PRICES) == gone
    assert spending_after(known, [Delete("default", "model", "m", 1)], PRICES) == []


def test_who_deploys_a_budget_without_prices_is_told_and_finds_it_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    admin = stage.issue()
    body = stage.body()
    spec = AppSpec.model_validate({**body["spec"], "budget": "200 EUR/30d"})
    body |= {"spec": spec.to_json(), "spec_digest": spec.digest()}

    def deploy(query: str = "") -> Any:
        answer = stage.caller.request("PUT", f"{BASE}/apps/shop{query}", json=body, headers=admin)
        assert answer.status_code == 200, answer.text
        return answer.json()

    dry = deploy("?dry_run=true")
    assert stage.store.rows("default", BUDGET) == []
    [warned] = [line for line in deploy()["plan"] if line["kind"] == "budget"]
    assert warned in dry["plan"]
    assert (warned["action"], warned["name"]) == ("warn", "shop")
    assert warned["detail"].startswith("200 EUR/30d: Nothing costs anything here (list owned): nothing is ever counted")
    [row] = stage.caller.get(f"{BASE}/budgets", headers=admin).json()["items"]
    assert (row["name"], row["state"]) == ("app-shop", "UNPRICED")
    told = stage.caller.request("PATCH", "/api/v1/tenants/default", json={"budget": "9 EUR/1d"}, headers=admin).json()
    assert told["note"].startswith("9 EUR/1d: Nothing costs anything here")
    listed = stage.caller.get(f"{BASE}/budgets", headers=admin).json()["items"]
    assert [row["name"] for row in listed] == ["app-shop", "tenant"]
    stage.caller.request("PATCH", "/api/v1/tenants/default", json={"budget": None}, headers=admin)
    stage.caller.request("DELETE", f"{BASE}/apps/shop", headers=admin)
    assert stage.store.rows("default", BUDGET) == []


def test_a_search_whose_money_is_no_limit_is_told_when_it_is_deployed(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    admin = stage.issue()
    body = stage.body()

    def warned(search: sr.Search) -> list[Any]:
        spec = AppSpec.model_validate(body["spec"])
        model = spec.models[0]
        assert model.train is not None
        searched = model.model_copy(update={"train": model.train.model_copy(update={"search": search.spec})})
        spec = spec.model_copy(update={"models": (searched,)})
        request = body | {"spec": spec.to_json(), "spec_digest": spec.digest()}
        answer = stage.caller.request("PUT", f"{BASE}/apps/shop?dry_run=true", json=request, headers=admin)
        assert answer.status_code == 200, answer.text
        return [line for line in answer.json()["plan"] if (line["action"], line["kind"]) == ("warn", "model")]

    space = {"leaves": sr.Int(2, 30)}
    [line] = warned(sr.Search(space, money="2 EUR"))
    assert line["name"] == "comes_back"
    assert line["detail"].startswith("The search may cost 2 EUR, and a core costs nothing here. Its run will end with")
    assert "Limit it by minutes= or trials=" in line["detail"]
    assert warned(sr.Search(space, minutes=2)) == []


def test_what_is_near_or_spent_is_a_sign_for_an_incident() -> None:
    rows = judged(app("100 EUR/30d"), tenant("100 EUR/30d"), hour(1, 75), hour(2, 30, RISK)).values()
    signs = list(of_budgets(Seen(Sight(0.0, snapshot(*rows)), Tracks())))
    assert [(sign.subject, sign.severity) for sign in signs] == [("default:budget/tenant", "warning")]
    rows = judged(app("10 EUR/30d"), hour(1, 85)).values()
    [sign] = of_budgets(Seen(Sight(0.0, snapshot(*rows)), Tracks()))
    assert (sign.kind, sign.subject) == ("budget spent", "default:budget/app-shop")


# What is refused


def spent(name: str = "app-shop", state: str = "SPENT") -> Resource:
    spec = {"app": name.removeprefix("app-"), "budget": "1 EUR/30d"}
    return Resource("default", BUDGET, name, spec=spec, state=state, message="It is spent.", next_action="Wait.")


def job(of: str = "shop") -> Resource:
    return Resource("default", "job", "j-1", spec={"kind": "train", "target": "m", "app": {"name": of}})


def test_jobs_of_who_has_spent_it_are_refused_and_of_others_not() -> None:
    with pytest.raises(QuotaExceeded, match="It is spent") as refused:
        check_spending(snapshot(spent()), "default", [job()])
    assert (refused.value.code, refused.value.exit_code, refused.value.next_action) == ("BUDGET_SPENT", 5, "Wait.")
    check_spending(snapshot(spent()), "default", [job("risk")])
    check_spending(snapshot(spent(state="NEAR")), "default", [job()])
    check_spending(snapshot(spent()), "default", [app()])
    with pytest.raises(QuotaExceeded):
        check_spending(snapshot(spent("tenant")), "default", [job("risk")])
    assert spent_budget(snapshot(spent("tenant")), "other", ["shop"]) is None


def test_the_api_refuses_work_that_waits_well_and_nothing_else(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    admin = stage.issue()
    deployed = stage.caller.request("PUT", f"{BASE}/apps/shop", json=stage.body(), headers=admin)
    assert deployed.status_code == 200, deployed.text
    stage.put(spent())

    def ask(action: str, target: str) -> Any:
        path = f"{BASE}/actions/{action}"
        return stage.caller.request("POST", path, json={"target": target}, headers=admin)

    refused = ask("train", "comes_back")
    assert (refused.status_code, refused.json()["code"]) == (429, "BUDGET_SPENT")
    assert refused.json()["next_action"] == "Wait."
    assert stage.store.rows("default", "job") == []
    assert ask("watch_pause", "comes_back").json().get("code") != "BUDGET_SPENT"
    listed = stage.caller.get(f"{BASE}/budgets", headers=stage.issue("viewer")).json()
    assert [row["name"] for row in listed["items"]] == ["app-shop"]
    stage.put(spent(state="WITHIN"))
    assert ask("train", "comes_back").status_code == 202


def test_who_steers_the_cloud_gives_a_tenant_its_budget(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    admin, other = stage.issue(), stage.issue("admin", "bank")
    path = "/api/v1/tenants/bank"
    told = stage.caller.request("PATCH", path, json={"budget": "200EUR/30d"}, headers=admin).json()
    assert told.pop("note").startswith("200 EUR/30d: Nothing costs anything here")
    assert told == {"name": "bank", "rate": None, "concurrency": None, "budget": "200 EUR/30d"}
    assert stage.caller.get(path, headers=other).json()["budget"] == "200 EUR/30d"
    refused = stage.caller.request("PATCH", path, json={"budget": "much"}, headers=admin)
    assert (refused.status_code, refused.json()["code"]) == (422, "BAD_BUDGET")
    more = stage.caller.request("PATCH", path, json={"budget": "900 EUR/30d"}, headers=other)
    assert more.json()["code"] == "NOT_OPERATOR"
    assert stage.caller.request("PATCH", path, json={"budget": None}, headers=admin).json()["budget"] is None
