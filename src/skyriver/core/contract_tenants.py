"""What travels about tenants between the control plane and its callers, as `skyriver.core.contract` has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired

from typing_extensions import TypedDict  # as in skyriver.core.contract


class Tenant(TypedDict):
    """What all requests of a tenant's tokens to models and streams together may not exceed."""

    name: str
    rate: str | None
    """Requests a second, as "500/s"; null: no limit."""
    concurrency: int | None
    """Requests under way at once; null: no limit."""
    budget: str | None
    """What all its things may cost together, as "200 EUR/30d"; null: no limit."""
    note: NotRequired[str]
    """Where nothing is counted against its budget: why, and what to do."""


class TenantList(TypedDict):
    items: Sequence[Tenant]
