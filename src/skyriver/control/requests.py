"""The routes by which a request is looked up. A tenant sees its own; who steers the cloud sees all, also those that no
token came with."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Query, Request

from skyriver.control.cloud import Cloud
from skyriver.control.paging import PAGE_LIMIT, check_query
from skyriver.control.request_log import RequestQuery
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract_requests as contract
from skyriver.core.errors import NotFound
from skyriver.core.units import parse_duration
from skyriver.trust.permissions import FIRST_TENANT, Permission

_PATH = f"{TENANT}/requests"
_RECORDED_SECONDS = 1.0
_STATUS = r"^([1-5]xx|[1-5][0-9][0-9])?$"


def add_requests(routes: Routes, cloud: Cloud) -> None:
    def listed(
        request: Request,
        status: Annotated[str, Query(pattern=_STATUS, description="As 5xx, or 503.")] = "",
        of: Annotated[str, Query(description="model/NAME, stream/NAME, control, or NAME alone.")] = "",
        since: Annotated[str, Query(description="For how long back, as 1h.")] = "",
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="The most that is given.")] = 100,
    ) -> contract.RequestList:
        """What became of the newest requests, newest first."""
        check_query(request, ("status", "of", "since", "limit"))
        after = cloud.clock.wall() - parse_duration(since) if since else 0
        query = RequestQuery(_seen(request), of=of, status=_statuses(status), since=after / 1e6, limit=limit)
        return {"items": cloud.requests.find(query)}

    def one(request: Request, id: str) -> contract.RequestList:
        """What became of the requests with this X-Request-Id: an id that a caller gave may have come more than once."""
        query = RequestQuery(_seen(request), id=id)
        deadline = time.monotonic() + _RECORDED_SECONDS  # it may have been answered just now
        while not (found := cloud.requests.find(query)):
            if time.monotonic() > deadline:
                raise NotFound(
                    f"No request with the id {id[:128]!r} is recorded.",
                    next_action="`skyriver request list` shows the newest; older ones make room. Those that went well"
                    " are recorded after `skyriver up --access-log all`.",
                )
            time.sleep(0.1)
        return {"items": found}

    routes.add("GET", _PATH, Permission.CLOUD_READ, listed, "list_requests")
    routes.add("GET", f"{_PATH}/{{id:path}}", Permission.CLOUD_READ, one, "get_requests", errors=[404])


def _seen(request: Request) -> str | None:
    tenant = caller(request).tenant
    return None if tenant == FIRST_TENANT else tenant


def _statuses(told: str) -> tuple[int, int]:
    if not told:
        return (-1, 599)
    return (100 * int(told[0]), 100 * int(told[0]) + 99) if told.endswith("xx") else (int(told), int(told))
