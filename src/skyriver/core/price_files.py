"""What a price list says, read: each hole in it is one clear error. Pure.

as_of = 2026-11-01
currency = "EUR"
core_hour = 0.021
memory_gb_hour = 0.0027
storage_gb_month = 0.02
egress_gb = 0

[accelerator_hour]
h100 = 2.4

`list = "aws-fargate"` takes one of those that come with Skyriver, and what is written beside it goes before.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NoReturn

from skyriver.core.errors import InvalidInput
from skyriver.core.prices import ACCELERATOR, UNITS, Prices, unit_of

LIST: Final = "list"
_TABLE: Final = "accelerator_hour"
_WORDS: Final = ("as_of", "currency", LIST, *UNITS, _TABLE)
_CURRENCY: Final = re.compile("[A-Z]{3}")
_KIND: Final = re.compile("[a-z0-9][a-z0-9-]{0,62}")
_TWICE: Final = re.compile(r"(?:overwrite a value|twice).*\(at line (\d+),")
"""Of what tomllib says."""
_MOST: Final = Decimal(1_000_000)
_DIGITS: Final = 12
"""After the point."""


def parse_lists(text: str) -> dict[str, Prices]:
    """Those that come with Skyriver, by name."""
    document = tomllib.loads(text, parse_float=Decimal)
    return {
        name: Prices(f"list {name}", told["as_of"], told["currency"], {**_prices(told, name)})
        for name, told in document.items()
    }


def parse_prices(text: str, *, where: str, today: date, lists: Mapping[str, Prices]) -> Prices:
    """What the operator's file says. Raises InvalidInput (BAD_PRICES) that names the file, the key and what to do."""
    try:
        told = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        if twice := _twice(text, str(error)):
            _refuse(where, f"{twice[0]} is there twice, again in line {twice[1]}.", "Leave one of the two out.")
        _refuse(where, f"It is no TOML: {error}.", "Write lines NAME = VALUE, as in core_hour = 0.021.")
    for word in told:
        if word not in _WORDS:
            _refuse(where, f"{word!r} is no resource that has a price.", f"It may have {', '.join(_WORDS)}.")
    base = _base(told, where, lists)
    given = _prices(told, where)
    if base is not None and not given:
        if told.keys() != {LIST}:
            _dated(told, where, base)
        return Prices(where, base.as_of, base.currency, base.of, dict.fromkeys(base.of, base.source))
    prices = {**(base.of if base is not None else {}), **given}
    for name in UNITS:
        if name not in prices:
            _refuse(
                where,
                f"{name} is missing: what {unit_of(name)} costs.",
                f"Write {name} = NUMBER, 0 where it costs nothing, or take a whole list: list = {min(lists)!r}.",
            )
    currency, as_of = _currency(told, where), _as_of(told, where, today)
    if base is not None and base.currency and base.currency != currency:
        _refuse(
            where,
            f"The list {told[LIST]!r} is in {base.currency}, and currency is {currency!r}: prices in two currencies do"
            " not add up.",
            f"Give all prices yourself, in {currency}, or write currency = {base.currency!r}.",
        )
    taken = dict.fromkeys(prices.keys() - given.keys(), base.source) if base is not None else {}
    return Prices(where, as_of, currency, prices, taken)


def _twice(text: str, error: str) -> tuple[str, int] | None:
    """Which name is given for the second time, and in which line; None where that is not what is wrong."""
    found = _TWICE.search(error)
    if found is None:
        return None
    line = int(found[1])
    return text.splitlines()[line - 1].partition("=")[0].strip(), line


def _dated(told: Mapping[str, Any], where: str, base: Prices) -> NoReturn:
    word = next(word for word in told if word != LIST)
    _refuse(
        where,
        f"{word} is given, and no price: the list {told[LIST]!r} has its own, {base.as_of}.",
        f"Leave {word} out, or write prices of your own.",
    )


def _base(told: Mapping[str, Any], where: str, lists: Mapping[str, Prices]) -> Prices | None:
    name = told.get(LIST)
    if name is None:
        return None
    if not isinstance(name, str) or name not in lists:
        _refuse(where, f"There is no list {name!r}.", f"The lists are {', '.join(lists)}.")
    return lists[name]


def _prices(told: Mapping[str, Any], where: str) -> dict[str, Decimal]:
    found = {name: told[name] for name in UNITS if name in told}
    kinds = told.get(_TABLE, {})
    if not isinstance(kinds, Mapping):
        _refuse(where, f"{_TABLE} is {kinds!r:.80}.", f"Write [{_TABLE}], and below it a line a kind: h100 = 2.4.")
    for kind in kinds:
        if not _KIND.fullmatch(kind):
            _refuse(where, f"{_TABLE}.{kind} is no kind of accelerator.", "Small letters, digits and - name one: h100.")
    found |= {f"{ACCELERATOR}{kind}": price for kind, price in kinds.items()}
    return {name: _price(price, name, where) for name, price in found.items()}


def _price(told: object, name: str, where: str) -> Decimal:
    if isinstance(told, bool) or not isinstance(told, int | Decimal):
        _refuse(where, f"{name} is {told!r:.80}, which is no number.", f"Write {name} = 0.021, without quotes.")
    price = Decimal(told)
    if not price.is_finite() or not 0 <= price <= _MOST:
        _refuse(where, f"{name} is {price}: a price is from 0 to {_MOST:,}.", "Write what it costs, or 0.")
    exponent = price.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < -_DIGITS:
        _refuse(where, f"{name} is {price}, with more than {_DIGITS} digits after the point.", "Round it.")
    return price


def _currency(told: Mapping[str, Any], where: str) -> str:
    currency = told.get("currency")
    if currency is None:
        _refuse(where, "currency is missing.", 'Write currency = "EUR": the code of ISO 4217, of all prices here.')
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        _refuse(
            where,
            f"currency is {currency!r:.80}: one code of three capital letters is wanted.",
            'Write currency = "EUR": the code of ISO 4217, of all prices here.',
        )
    return currency


def _as_of(told: Mapping[str, Any], where: str, today: date) -> date:
    as_of = told.get("as_of")
    if isinstance(as_of, str):
        try:
            as_of = date.fromisoformat(as_of)
        except ValueError:
            as_of = None
    if not isinstance(as_of, date) or isinstance(as_of, datetime):
        said = f"as_of is {told['as_of']!s:.80}, which is no date." if "as_of" in told else "as_of is missing."
        _refuse(where, said, f"Write the day on which these prices held: as_of = {today}.")
    if as_of > today + timedelta(days=1):  # it may be tomorrow already where the file was written
        _refuse(
            where, f"as_of is {as_of}, which is yet to come.", f"Write the day on which they held: as_of = {today}."
        )
    return as_of


def _refuse(where: str, message: str, next_action: str) -> NoReturn:
    raise InvalidInput(f"The prices are not taken: {message}", code="BAD_PRICES", where=where, next_action=next_action)
