"""What travels about alerts, the receivers of messages about incidents, between the control plane and its callers."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # as in skyriver.core.contract


class Alert(TypedDict):
    """A receiver, as its file on the cloud's machine says; no secret of it."""

    name: str
    host: str
    """Of its address; "" where its file cannot be used."""
    least: str
    """It is told of incidents of at least this severity: warning or critical."""
    state: str
    """READY, FAILING (the last message was not taken), or UNUSABLE (its file)."""
    message: str
    next_action: str
    taken_at: int
    """When it took the last message, wall microseconds; 0 for never, since this control plane began."""


class AlertList(TypedDict):
    items: Sequence[Alert]


class AlertTested(TypedDict):
    name: str
    taken: bool
    message: str
    """What it answered."""
