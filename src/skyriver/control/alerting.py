"""The port for telling people of incidents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from skyriver.core.contract_alerts import Alert, AlertTested


class Alerts(Protocol):
    """MUST: send to no other place than what the machine's operator wrote down. Any thread."""

    def list(self, tenant: str) -> Sequence[Alert]:
        """By name, those that cannot be used too."""
        ...

    def test(self, tenant: str, name: str) -> AlertTested:
        """Sends one message, at once, and waits for what comes of it. Raises NotFound, and what its file is refused
        with."""
        ...
