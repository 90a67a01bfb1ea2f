"""The commands for costs, prices and budgets: what they show, and what they end with where a part is missing."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from skyriver.client import cli, costs, prices
from skyriver.core.errors import Corrupt, NotFound, SkyriverError


def budget(name: str, app: str) -> dict[str, Any]:
    return {
        "tenant": "default",
        "kind": "budget",
        "name": name,
        "state": "UNPRICED",
        "reason": "BUDGET_UNPRICED",
        "spec": {"app": app, "budget": "200 EUR/30d"},
        "status": {"spent": "0.000000", "share": "0.000"},
        "message": "Nothing is ever counted against it.",
        "next_action": "Leave it out.",
        "since": 0,
    }


class Cloud(SimpleNamespace):
    damaged: SkyriverError | None = None

    def list(self, kinds: str) -> Any:
        yield from (budget("app-shop", "shop"), budget("app-tenant", "tenant"), budget("tenant", ""))
        if self.damaged is not None:
            raise self.damaged


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    found = Cloud()
    for module in (costs, prices):
        monkeypatch.setattr(module, "connect", lambda: nullcontext(found))
    return found


def run(*arguments: str) -> tuple[Any, SkyriverError | None]:
    done = CliRunner().invoke(cli.app, [*arguments])
    assert done.exception is None or isinstance(done.exception, SkyriverError), done.exception
    return done, done.exception


@pytest.mark.parametrize(
    ("asked", "name"),
    [("shop", "app-shop"), ("app-shop", "app-shop"), ("tenant", "tenant"), ("default", "tenant")],
)
def test_a_budget_is_found_by_what_a_person_calls_it(cloud: Cloud, asked: str, name: str) -> None:
    done, error = run("budget", "get", asked, "--json")
    assert error is None
    assert json.loads(done.stdout)["name"] == name


def test_one_that_there_is_not_is_told_with_how_to_give_one(cloud: Cloud) -> None:
    _, error = run("budget", "get", "risk")
    assert isinstance(error, NotFound)
    assert (error.code, 'sr.App("risk", budget=' in error.next_action) == ("NOT_FOUND", True)


def test_the_list_says_what_a_budget_without_prices_means_and_names_what_is_damaged(cloud: Cloud) -> None:
    done, error = run("budget", "list")
    assert error is None
    assert "Nothing is ever counted against it. Leave it out." in " ".join(done.stdout.split())
    cloud.damaged = Corrupt("Of the budgets app-risk cannot be shown.", code="STORE_CORRUPT", next_action="Restore.")
    done, error = run("budget", "list")
    assert ("app-shop" in done.stdout, error) == (True, cloud.damaged)


@pytest.mark.parametrize(("code", "exit_code"), [("", 0), ("BAD_PRICES", 2), ("PRICES_UNREADABLE", 7)])
def test_prices_that_hold_are_shown_and_a_file_that_is_refused_is_an_error(
    cloud: Cloud, code: str, exit_code: int
) -> None:
    price = {"name": "core_hour", "unit": "", "price": "1", "currency": "EUR", "source": "F", "as_of": "2026-11-01"}
    problem = "F: The prices are not taken: currency is missing." if code else ""
    cloud.prices = lambda: {"items": [price], "problem": problem, "code": code, "next_action": "Write it."}
    done, error = run("price", "list")
    assert "core_hour" in done.stdout
    assert (error.exit_code if error is not None else 0) == exit_code
    if error is not None:
        assert (error.code, error.next_action) == (code, "Write it.")
        assert error.message == f"{problem} The prices before stay in force."


def test_advice_that_some_services_have_not_is_shown_of_the_others_and_an_error(cloud: Cloud) -> None:
    failed = {"name": "slow", "app": "shop", "code": "BAD_SPEC", "message": "Why.", "next_action": "Do."}
    found = {"state": "DONE", "items": [], "failed": [failed], "currency": "", "as_of": "", "source": ""}
    cloud.advice = lambda service, told: found
    done, error = run("cost", "advise", "--json")
    assert json.loads(done.stdout)["failed"] == [failed]
    assert error is not None
    assert (error.code, error.exit_code) == ("NO_ADVICE", 7)
    assert error.message == "No advice on slow: Why. All others are answered."


def test_one_budget_is_told_as_the_list_tells_it(cloud: Cloud) -> None:
    done, error = run("budget", "get", "shop")
    assert error is None
    assert "BUDGET" in done.stdout
    assert "app-tenant" not in done.stdout
    assert "since" not in done.stdout


@pytest.mark.parametrize(("share", "told"), [(0.5, "50%"), (9.99, "999%"), (2270.67, "2,271 times")])
def test_much_more_than_a_budget_is_told_in_times(share: float, told: str) -> None:
    assert costs._of_budget(share) == told


def test_what_costs_are_not_added_up_by_is_refused_as_an_option(cloud: Cloud) -> None:
    _, error = run("cost", "list", "--by", "job")
    assert error is not None
    assert error.message == "--by job is nothing that costs are added up by."
    told = "Write --by item, app, kind or tenant; `skyriver cost get job/NAME` shows one thing."
    assert error.next_action == told


@pytest.mark.parametrize(("until", "told"), [("2999-01-01T00:00:00Z", "now"), ("2026-01-01T00:00:00Z", "2026-01-01")])
def test_a_period_does_not_end_in_the_future_and_a_kind_has_all_of_it(cloud: Cloud, until: str, told: str) -> None:
    line = {
        **dict.fromkeys(("compute", "storage", "egress", "total"), "1.000000"),
        "name": "",
        "kind": "job",
        "app": "",
        "per_million": None,
        "change": None,
    }
    found = {"since": "2025-01-01T00:00:00Z", "until": until, "as_of": "2026-01-01", "source": "F", "currency": "EUR"}
    found |= {"is_free": False, "notes": [], "items": [line], "total": {**line, "kind": "total"}}
    cloud.costs = lambda since, by: found
    done, error = run("cost", "list", "--by", "kind")
    assert error is None
    shown = " ".join((done.stdout + done.stderr).split())
    assert f"From 2025-01-01T00:00:00Z to {told}" in shown
    assert "all job - 1.000000" in shown
