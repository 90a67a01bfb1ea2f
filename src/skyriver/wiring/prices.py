"""The prices of this cloud: those of HOME/prices.toml, which its operator writes, else of the list `owned`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Final

from skyriver.core.errors import InvalidInput, SkyriverError, Unavailable
from skyriver.core.price_files import parse_lists, parse_prices
from skyriver.core.prices import Prices
from skyriver.wiring.home import Home
from skyriver.wiring.process import write_atomically

DEFAULT: Final = "owned"
OLD_DAYS: Final = 180
MAX_BYTES: Final = 1 << 16
LOOK_S: Final = 1.0

log = logging.getLogger("skyriver.prices")


def price_lists() -> Mapping[str, Prices]:
    """Those that come with Skyriver."""
    return parse_lists((files("skyriver.wiring") / "price_lists.toml").read_text())


def price_file(home: Home) -> Path:
    return home.root / "prices.toml"


def accepted_file(home: Home) -> Path:
    """The operator's file as it was taken last: a control plane that begins while it is broken goes on by that."""
    return home.root / "prices.accepted.toml"


def read_prices(path: Path, lists: Mapping[str, Prices], today: date, *, where: str = "") -> Prices | None:
    """None where there is no file. Raises InvalidInput (BAD_PRICES), Unavailable (PRICES_UNREADABLE)."""
    text = _text(path)
    return None if text is None else parse_prices(text, where=where or str(path), today=today, lists=lists)


class PriceFile:
    """`control.pricing.Pricing`. `wall`: microseconds since 1970."""

    def __init__(self, home: Home, wall: Callable[[], int]) -> None:
        self._home, self._wall = home, wall
        self._lists = price_lists()
        self._mutex = threading.Lock()
        self._stamp: object = ()
        self._looked = float("-inf")
        self._problem: SkyriverError | None = None
        self._prices = self._accepted() or self._lists[DEFAULT]

    def now(self) -> Prices:
        with self._mutex:
            self._look()
            return self._prices

    def problem(self) -> SkyriverError | None:
        with self._mutex:
            self._look()
            return self._problem

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        path = price_file(self._home)
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            text = _text(path)
            found = None if text is None else self._parsed(text)
        except SkyriverError as error:
            log.warning("the prices before stay in force: %s", error)
            self._problem = error
            return
        if found != self._prices:
            log.info("the prices in force are those of %s", found.source if found else f"list {DEFAULT}")
        self._problem, self._prices = None, found or self._lists[DEFAULT]
        with contextlib.suppress(OSError):  # then a control plane that begins while the file is broken knows none
            if text is None:
                accepted_file(self._home).unlink(missing_ok=True)
            else:
                write_atomically(accepted_file(self._home), text.encode())

    def _parsed(self, text: str) -> Prices:
        today = datetime.fromtimestamp(self._wall() / 1e6, UTC).date()
        return parse_prices(text, where=str(price_file(self._home)), today=today, lists=self._lists)

    def _accepted(self) -> Prices | None:
        try:
            text = _text(accepted_file(self._home))
            return None if text is None else self._parsed(text)
        except SkyriverError:
            return None


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return data.decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(
            f"The prices cannot be read: {error.strerror}.",
            code="PRICES_UNREADABLE",
            where=str(path),
            next_action="Make it a file that the cloud's user may read.",
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "The prices are not taken: the file is no UTF-8 text.",
            code="BAD_PRICES",
            where=str(path),
            next_action="Write lines NAME = VALUE, as in core_hour = 0.021.",
        ) from error
    raise InvalidInput(
        f"The prices are not taken: the file has more than {MAX_BYTES:,} bytes.",
        code="BAD_PRICES",
        where=str(path),
        next_action="Write a line a resource and a line a kind of accelerator.",
    )


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode
