"""The operator's price list: what is in force while its file is there, broken, mended or gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from api_stage import BASE, Stage

from skyriver.control.api import create_api
from skyriver.core.prices import CORE, Prices
from skyriver.wiring import prices as of_prices
from skyriver.wiring.doctor_cloud import prices as examined
from skyriver.wiring.home import Home
from skyriver.wiring.prices import PriceFile, price_file, price_lists

NOW = 1_795_000_000_000_000  # in November 2026
GOOD = """\
as_of = 2026-11-01
currency = "EUR"
core_hour = 0.5
memory_gb_hour = 0
storage_gb_month = 0
egress_gb = 0
"""


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_prices, "LOOK_S", 0.0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def write(home: Home, text: str) -> None:
    path = price_file(home).with_suffix(".new")
    path.write_text(text)
    path.replace(price_file(home))  # another inode, whatever the clock's grain


def test_the_lists_that_come_along_are_whole_and_dated() -> None:
    lists = price_lists()
    assert lists["owned"].are_zero
    assert all(prices.of.keys() >= lists["owned"].of.keys() for prices in lists.values())
    assert all(prices.as_of >= date(2025, 1, 1) for prices in lists.values())
    assert {prices.currency for name, prices in lists.items() if name != "owned"} == {"USD"}


def test_nothing_costs_anything_until_the_operator_says_so(home: Home) -> None:
    file = PriceFile(home, lambda: NOW)
    assert file.now().are_zero
    write(home, GOOD)
    assert (str(file.now().price(CORE)), file.now().currency) == ("0.5", "EUR")
    assert file.problem() is None
    price_file(home).unlink()
    assert file.now().are_zero


def test_what_is_broken_leaves_the_table_before_in_force_also_for_the_next_control_plane(home: Home) -> None:
    write(home, GOOD)
    file = PriceFile(home, lambda: NOW)
    assert str(file.now().price(CORE)) == "0.5"
    write(home, GOOD.replace("0.5", "-0.5"))
    assert str(file.now().price(CORE)) == "0.5"
    problem = file.problem()
    assert problem is not None
    assert (problem.code, problem.where) == ("BAD_PRICES", str(price_file(home)))
    assert str(PriceFile(home, lambda: NOW).now().price(CORE)) == "0.5"
    write(home, GOOD.replace("0.5", "0.7"))
    assert str(file.now().price(CORE)) == "0.7"
    assert file.problem() is None


@pytest.mark.parametrize("data", [b"\xff\xfe", b"#" * 70_000], ids=["no text", "too large"])
def test_a_file_that_is_no_price_list_is_refused(home: Home, data: bytes) -> None:
    price_file(home).write_bytes(data)
    problem = PriceFile(home, lambda: NOW).problem()
    assert problem is not None
    assert problem.code == "BAD_PRICES"


def test_a_file_that_cannot_be_read_is_told(home: Home) -> None:
    price_file(home).mkdir()
    problem = PriceFile(home, lambda: NOW).problem()
    assert problem is not None
    assert problem.code == "PRICES_UNREADABLE"


def test_the_doctor_warns_of_a_broken_table_and_of_an_old_one(home: Home) -> None:
    assert examined(home).result == "ok"
    write(home, GOOD.replace("2026-11-01", datetime.now(UTC).date().isoformat()))
    assert examined(home).result == "ok"
    write(home, GOOD.replace("2026-11-01", "2024-01-01"))
    old = examined(home)
    assert (old.result, "2024-01-01" in old.seen) == ("warn", True)
    write(home, "core_hour = 1")
    broken = examined(home)
    assert (broken.result, "missing" in broken.seen, bool(broken.action)) == ("warn", True, True)


def test_the_api_tells_prices_where_they_come_from_and_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    token = stage.issue("viewer")
    listed = stage.caller.get(f"{BASE}/prices", headers=token).json()
    assert {(p["price"], p["source"]) for p in listed["items"]} == {("0", "list owned")}
    assert (listed["problem"], listed["code"], listed["next_action"]) == ("", "", "")
    one = stage.caller.get(f"{BASE}/prices/core_hour", headers=token).json()
    assert (one["name"], one["as_of"]) == ("core_hour", "2026-11-01")
    assert stage.caller.get(f"{BASE}/prices/love", headers=token).status_code == 404


def test_each_price_says_which_file_or_list_it_is_from_also_while_the_file_is_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    home, token = Home(tmp_path), stage.issue("viewer")
    path, file = price_file(home), PriceFile(home, lambda: NOW)
    api = create_api(replace(stage.cloud, prices=file))

    def listed() -> Any:
        return type(stage.caller)(api).get(f"{BASE}/prices", headers=token).json()

    def sources() -> dict[str, str]:
        return {price["name"]: price["source"] for price in listed()["items"]}

    write(home, "as_of = 2026-11-01\ncore_hour = -1")
    assert set(sources().values()) == {"list owned"}
    assert (listed()["code"], f"{path}: The prices are not taken" in listed()["problem"]) == ("BAD_PRICES", True)
    write(home, 'list = "aws-fargate"\nas_of = 2026-11-01\ncurrency = "USD"\ncore_hour = 0.5')
    assert (sources()["core_hour"], sources()["egress_gb"]) == (str(path), f"list aws-fargate, by {path}")
    assert Prices.of_json(file.now().to_json()) == file.now()
    write(home, "core_hour = 1")
    assert sources()["core_hour"] == f"{path}, as it was before"
    assert sources()["egress_gb"] == f"list aws-fargate, by {path}, as it was before"


def test_a_table_is_looked_at_again_only_when_its_file_is_another_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, GOOD)
    file = PriceFile(home, lambda: NOW)
    file.now()
    monkeypatch.setattr(of_prices, "_text", lambda path: pytest.fail("read again"))
    assert not file.now().are_zero
