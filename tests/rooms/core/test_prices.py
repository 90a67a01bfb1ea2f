"""What resources cost: amounts by prices, and lists of prices with holes."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from skyriver.core.errors import InvalidInput
from skyriver.core.price_files import parse_prices
from skyriver.core.prices import CORE, MEMORY, Prices, held, micro
from skyriver.core.resources import Limits

TODAY = date(2026, 11, 27)
LISTS = {
    "owned": Prices(
        "list owned", TODAY, "", dict.fromkeys((CORE, MEMORY, "storage_gb_month", "egress_gb"), Decimal(0))
    ),
    "far": Prices(
        "list far",
        date(2026, 1, 1),
        "USD",
        {
            CORE: Decimal("0.04"),
            MEMORY: Decimal("0.0044"),
            "storage_gb_month": Decimal("0.02"),
            "egress_gb": Decimal(0),
        },
    ),
}
WHOLE = """\
as_of = 2026-11-01
currency = "EUR"
core_hour = 0.021
memory_gb_hour = 0.0027
storage_gb_month = 0.02
egress_gb = 0

[accelerator_hour]
h100 = 2.4
"""


def parse(text: str) -> Prices:
    return parse_prices(text, where="prices.toml", today=TODAY, lists=LISTS)


def test_a_whole_list_is_read_as_it_was_written() -> None:
    prices = parse(WHOLE)
    assert (prices.currency, prices.as_of, prices.source) == ("EUR", date(2026, 11, 1), "prices.toml")
    assert prices.price(CORE) == Decimal("0.021")
    assert prices.price("accelerator_hour.h100") == Decimal("2.4")
    assert prices.price("accelerator_hour.t4") == 0
    assert not prices.knows("accelerator_hour.t4")


@pytest.mark.parametrize(
    ("again", "told"),
    [
        ('currency = "USD"\n', "currency is there twice, again in line 1."),
        ("[accelerator_hour]\na100 = 1\n\n", "[accelerator_hour] is there twice, again in line 11."),
    ],
)
def test_what_is_there_twice_is_named(again: str, told: str) -> None:
    if again.startswith("currency"):
        text = f"as_of = 2026-11-01\n{again}" + WHOLE.partition("\n")[2]
        told = told.replace("line 1", "line 3")
    else:
        text = f"{WHOLE}\n{again}"
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert caught.value.message == f"The prices are not taken: {told}"
    assert caught.value.next_action == "Leave one of the two out."


def test_a_list_that_comes_along_is_taken_whole_or_with_prices_of_ones_own() -> None:
    assert parse('list = "far"').of == LISTS["far"].of
    assert parse('list = "far"').as_of == date(2026, 1, 1)
    own = parse('list = "far"\nas_of = 2026-11-02\ncurrency = "USD"\ncore_hour = 0.03\n')
    assert (own.price(CORE), own.price(MEMORY)) == (Decimal("0.03"), Decimal("0.0044"))
    assert own.as_of == date(2026, 11, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (WHOLE.replace("core_hour = 0.021\n", ""), "core_hour is missing"),
        (WHOLE.replace("core_hour = 0.021", "core_hour = -1"), "core_hour is -1"),
        (WHOLE.replace("core_hour = 0.021", "core_hour = nan"), "core_hour is NaN"),
        (WHOLE.replace("core_hour = 0.021", "core_hour = inf"), "core_hour is Infinity"),
        (WHOLE.replace("core_hour = 0.021", 'core_hour = "0.021"'), "which is no number"),
        (WHOLE.replace("core_hour = 0.021", "core_hour = true"), "which is no number"),
        (WHOLE.replace("core_hour = 0.021", "core_hour = 0.0000000000001"), "more than 12 digits"),
        (WHOLE.replace("h100 = 2.4", "h100 = -2.4"), "accelerator_hour.h100 is -2.4"),
        (WHOLE.replace("h100 = 2.4", '"H 100" = 2.4'), "no kind of accelerator"),
        (WHOLE.replace('currency = "EUR"\n', ""), "currency is missing"),
        (WHOLE.replace('"EUR"', '"euro"'), "currency is 'euro'"),
        (WHOLE.replace('"EUR"', '["EUR", "USD"]'), "one code of three capital letters"),
        (WHOLE.replace("as_of = 2026-11-01\n", ""), "as_of is missing"),
        (WHOLE.replace("2026-11-01", '"2026-13-01"'), "is no date"),
        (WHOLE.replace("2026-11-01", "2027-01-01"), "yet to come"),
        ("gpu_hour = 1\n" + WHOLE, "'gpu_hour' is no resource"),
        ("core_hour = \n", "no TOML"),
        (WHOLE + "\n[accelerator_hour]\n", "[accelerator_hour] is there twice"),
        ('list = "near"', "no list 'near'"),
        ('list = "far"\nas_of = 2026-11-01\n', "as_of is given, and no price"),
        ('list = "far"\nas_of = 2026-11-01\ncurrency = "EUR"\ncore_hour = 1\n', "two currencies"),
        ("", "core_hour is missing"),
    ],
)
def test_a_hole_in_a_list_is_one_clear_error(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match="The prices are not taken") as refused:
        parse(text)
    error = refused.value
    assert told in error.message
    assert (error.code, error.where) == ("BAD_PRICES", "prices.toml")
    assert error.next_action


def test_an_hour_costs_what_it_says_and_a_year_of_seconds_is_exact() -> None:
    prices = parse(WHOLE)
    service = Limits(cpus=2.5, memory_mb=4_000)
    hour = prices.charge(held(service, 3_600_000))
    assert hour == Decimal("2.5") * Decimal("0.021") + 4 * Decimal("0.0027")
    assert micro(3_600 * prices.per_second(service)) == micro(hour)
    year = {name: 8_760 * amount for name, amount in held(service, 3_600_000).items()}
    assert prices.charge(year) == 8_760 * hour
    assert prices.charge({"storage_gb_month": 10**9 * 730 * 3_600_000, "egress_gb": 5, "predictions": 7}) == Decimal(
        "0.02"
    )
    assert micro(prices.per_second(Limits(accelerators={"h100": 2})) * 3_600) == Decimal("4.8")


def test_many_small_amounts_cost_as_much_as_their_sum() -> None:
    """A process of a third of a core, looked at every five seconds for 30 days."""
    prices = parse(WHOLE)
    look = held(Limits(cpus=0.333, memory_mb=333), 5_000)
    looks = 30 * 86_400 // 5
    month = {name: looks * amount for name, amount in look.items()}
    assert micro(prices.charge(month)) == micro(
        Decimal(720) * (Decimal("0.333") * Decimal("0.021") + Decimal("0.333") * Decimal("0.0027"))
    )
    assert abs(looks * prices.charge(look) - prices.charge(month)) < Decimal("1e-15")
