"""The port for the prices in force."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Final, Protocol

from skyriver.core.errors import SkyriverError
from skyriver.core.prices import UNITS, Prices


class Pricing(Protocol):
    """MUST: give the prices that the operator of the machine wrote down, and never half a table: what is wrong leaves
    the table before in force. Any thread; cheap enough for every decision."""

    def now(self) -> Prices:
        """Those in force."""
        ...

    def problem(self) -> SkyriverError | None:
        """Why the operator's table is not in force as it stands."""
        ...


OWNED: Final = Prices("list owned", date(2026, 11, 1), "", dict.fromkeys(UNITS, Decimal(0)))


class OwnedMachines:
    """Nothing costs anything."""

    def now(self) -> Prices:
        return OWNED

    def problem(self) -> SkyriverError | None:
        return None
