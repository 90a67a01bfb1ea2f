"""The port for looking a request up: what became of it at the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from skyriver.core.contract_requests import RequestLine


@dataclass(frozen=True, slots=True)
class RequestQuery:
    """What is not given says nothing."""

    tenant: str | None = None
    id: str = ""
    of: str = ""
    """model/NAME, or NAME alone."""
    status: tuple[int, int] = (-1, 599)
    """The first and the last that will do."""
    since: float = 0.0
    limit: int = 100

    def fits(self, line: RequestLine) -> bool:
        first, last = self.status
        return (
            (self.tenant is None or line["tenant"] == self.tenant)
            and (not self.id or line["id"] == self.id)
            and (not self.of or self.of in (line["of"], line["of"].partition("/")[2]))
            and first <= line["status"] <= last
            and line["time"] >= self.since
        )


class RequestLog(Protocol):
    """MUST give what fits of the requests that are still recorded, newest first, at most `query.limit`. It is recorded
    within a second after its end; one that could not be is missing, and nobody was kept waiting for it."""

    def find(self, query: RequestQuery) -> Sequence[RequestLine]: ...


class NoRequests:
    """Of a cloud that records none."""

    def find(self, query: RequestQuery) -> Sequence[RequestLine]:
        return ()
