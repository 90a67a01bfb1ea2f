"""The port for who says what services could be declared as instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from skyriver.core.contract_advice import Advice
from skyriver.core.resources import Snapshot


class Advisor(Protocol):
    """MUST: answer at once, with what is known so far, and be DONE after some asking; hold to a bounded number of
    answers, and of processes at a time. Any thread."""

    def advise(
        self, snapshot: Snapshot, tenant: str, service: str, declared: Mapping[str, Any] | None = None
    ) -> Advice:
        """On all services of a tenant, or on one; or what one would do that were `declared` so (a ServiceSpec as JSON).
        Raises Unavailable when it cannot be computed."""
        ...
