"""What travels about prices between the control plane and its callers, as `skyriver.core.contract` has the rest."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # as in skyriver.core.contract


class Price(TypedDict):
    """What a unit of a resource costs now."""

    name: str
    unit: str
    """What it is for, in words."""
    price: str
    """A decimal number."""
    currency: str
    """"" where nothing costs anything."""
    source: str
    """`list NAME`, of those that come with Skyriver, or the operator's file; or a list that the file takes it from."""
    as_of: str
    """The day on which it held, as 2026-11-01."""


class PriceList(TypedDict):
    items: Sequence[Price]
    problem: str
    """Why the operator's file is not taken as it is now; "" while it is, or there is none."""
    code: str
    """Of that."""
    next_action: str
