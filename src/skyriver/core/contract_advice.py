"""What travels about advice between the control plane and its callers, as `skyriver.core.contract` has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired

from typing_extensions import TypedDict  # as in skyriver.core.contract


class Declaration(TypedDict):
    """What may be declared of a service, and what its own history says of it."""

    line: str
    """As it is written in the application."""
    replica_hours: float | None
    """A month of 730 hours, starts included; null, and so the rest: how many there are goes by a load that nobody
    knows."""
    core_hours: float | None
    memory_gb_hours: float | None
    cost: str | None
    """The same in money, a decimal number to a millionth; of replicas alone."""
    late: float | None
    """Share of the work that would have been late; null: there is no history to replay."""
    verdict: str
    """"" of what may be proposed; else why it is not."""


class Side(TypedDict):
    """What a declaration would have had, in the unit of the trace, an hour."""

    cost: float
    """c: of replicas, starts included."""
    late_cost: float | None
    """D: of late requests, at the price at which its own objective just holds; null: nothing tells that."""
    sum: float | None
    most: int
    """Replicas at once."""
    replicas: Sequence[float | None]
    """On the mean of each stretch; null: nobody measured."""
    late: Sequence[float | None]
    """Share of the work that came in it."""


class Rejudged(TypedDict):
    """The present declaration by another objective: the one that is asked for."""

    latency_ms: float
    share: float
    late: float
    late_cost: float | None
    sum: float | None


class Trace(TypedDict):
    """Of a history, in stretches of `seconds`, oldest first."""

    seconds: int
    demand: Sequence[float | None]
    """Replicas' work."""
    measured: Sequence[float | None]
    """Share of the requests that was really late, by what was declared then; null: none was judged."""
    judged: int
    """Requests of which that was measured."""
    now: Side
    then: Side
    rejudged: NotRequired[Rejudged]
    """Where another objective is asked for than is declared."""
    late_price: float
    """Of a late request, at which the objective asked for just holds."""
    unit: str
    """A currency, or core-hours."""


class ServiceAdvice(TypedDict):
    name: str
    app: str
    now: Declaration
    proposed: Declaration | None
    """null: nothing that is verified saves."""
    saves: float
    """Share of the cost, of the replica-hours where nothing costs anything."""
    since: str | None
    """From when on there is a history, as 2026-11-27T08:00:00Z; null: there is none."""
    until: str | None
    known_hours: float
    """Of the time between, in which somebody measured."""
    late: float | None
    """Measured share of the requests; null: none was asked."""
    why: str
    looked_at: Sequence[Declaration]
    doubt: NotRequired[str]
    """Why the replay is not to be relied on, where it says something else than was measured."""
    trace: NotRequired[Trace]
    """Where a declaration was asked for: that is `proposed` then, whatever it does."""


class NoAdvice(TypedDict):
    """Of one service: why there is none, while others have theirs."""

    name: str
    app: str
    code: str
    message: str
    next_action: str


class Advice(TypedDict):
    """Of a tenant's services. Replaying takes some time: while `state` is not DONE it is to be asked again."""

    state: Literal["WAITING", "REPLAYING", "DONE"]
    done: float
    """Share of the replaying."""
    items: Sequence[ServiceAdvice]
    """In the order of names; empty until it is done."""
    failed: Sequence[NoAdvice]
    """The same of those of which nothing can be said now."""
    currency: str
    """Of the prices in force; "" where nothing costs anything."""
    as_of: str
    source: str
