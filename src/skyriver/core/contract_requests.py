"""What travels about single requests between the control plane and its callers, as `skyriver.core.contract` has the
rest."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # as in skyriver.core.contract


class RequestLine(TypedDict):
    """What became of a request at the gateway. Nothing that it held, and no token."""

    time: float
    """When it came: Unix time in seconds."""
    id: str
    """Its X-Request-Id; "" where it was no HTTP at all."""
    tenant: str
    """ "" where no token said so."""
    of: str
    """model/NAME, stream/NAME, control, or "" where it was refused before that was known."""
    asks: str
    """predict or look of a model; events, decisions, ... of a stream; the kind of thing of the control plane."""
    method: str
    status: int
    """-1 where it ended without an answer."""
    code: str
    """Of the gateway's own refusals: RATE_LIMITED, NO_CAPACITY, ..."""
    bytes_in: int
    bytes_out: int
    receive_ms: int | None
    """Until it was there whole; null, here and below, where it did not come so far."""
    queue_ms: int | None
    connect_ms: int | None
    answer_ms: int | None
    """From there to the first byte of the answer."""
    total_ms: int | None
    server: str
    """The replica or worker that had it."""
    end: str
    """HAProxy's two letters for how it ended: -- is well."""


class RequestList(TypedDict):
    items: Sequence[RequestLine]
    """Newest first."""
