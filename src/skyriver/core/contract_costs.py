"""What travels about costs between the control plane and its callers, as `skyriver.core.contract` has the rest."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # as in skyriver.core.contract


class CostLine(TypedDict):
    """What something cost in a period, and what it used. Money is a decimal number, to a millionth."""

    tenant: str
    app: str
    """"" of what is of no application, and where applications are summed up."""
    kind: str
    """service, stream, job, table, model (the files of its versions), other; or app, tenant, total."""
    name: str
    compute: str
    storage: str
    egress: str
    total: str
    """Of the three, exactly."""
    before: str
    """The total of the period before, of the same length."""
    change: float | None
    """How much the total is of that one, less 1; null where that was 0."""
    predictions: int
    per_million: str | None
    """The total per million predictions; null without any."""
    core_hours: float
    memory_gb_hours: float
    accelerator_hours: float
    storage_gb_months: float
    egress_gb: float


class CostHour(TypedDict):
    """An hour, or of what is longer ago a day."""

    at: str
    """When it began, as 2026-11-27T08:00:00Z."""
    hours: int
    total: str
    core_hours: float


class Costs(TypedDict):
    """What a tenant's things cost; `items` add up to `total`, column by column."""

    since: str
    """The beginning of the hour (or day, where hours are not kept any more) that the period begins in."""
    until: str
    before: str
    """When the period before began."""
    currency: str
    """Of the prices in force; "" where nothing costs anything."""
    as_of: str
    source: str
    is_free: bool
    """All prices that held in the period were 0."""
    items: Sequence[CostLine]
    total: CostLine
    hours: Sequence[CostHour]
    """Those in which something was used, oldest first; of one thing alone, else empty."""
    notes: Sequence[str]
    """What these sums leave out, and why the operator's file of prices is not what they are by, if it is not."""
