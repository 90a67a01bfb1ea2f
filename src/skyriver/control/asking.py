"""The port for asking a process of the cloud something, over the socket that it listens on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Asker(Protocol):
    """MUST: one request, and its answer within some seconds; an answer that is an error is raised as what it says
    (`core.errors.from_problem`). Unavailable (PROCESS_AWAY) where nobody listens or no answer comes: then it is not
    known whether the request was carried out. Any number of threads."""

    def ask(
        self,
        socket: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        """The answer's JSON."""
        ...
