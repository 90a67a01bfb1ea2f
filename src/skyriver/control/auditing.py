"""The routes by which the audit trail is read: who did what, under which permission. A tenant sees its own rows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request, Response

from skyriver.control.cloud import Cloud
from skyriver.control.paging import Cursor, Limit, check_query, decode, encode, link
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract
from skyriver.core.errors import NotFound
from skyriver.core.units import parse_duration
from skyriver.trust.permissions import Permission

_PATH = f"{TENANT}/audit"


def add_audit(routes: Routes, cloud: Cloud) -> None:
    def listed(
        request: Request,
        response: Response,
        order: Annotated[Literal["oldest", "newest"], Query(description="Which comes first.")] = "oldest",
        since: Annotated[str, Query(max_length=20, description="For how long back, as 1h.")] = "",
        target: Annotated[
            str, Query(max_length=300, description="Only what was done to this: a name, or kind/name.")
        ] = "",
        cursor: Cursor = "",
        limit: Limit = 100,
    ) -> contract.AuditPage:
        """Who did what. Only of this tenant."""
        check_query(request, ("order", "since", "target", "cursor", "limit"))
        rows = cloud.store.audit(
            caller(request).tenant,
            after=decode(cursor, int),
            limit=limit,
            newest=order == "newest",
            since=cloud.clock.wall() - parse_duration(since) if since else 0,
            target=target,
        )
        following = encode(rows[-1]["seq"]) if len(rows) == limit else None
        link(request, response, following)
        items: list[contract.AuditRow] = rows  # type: ignore[assignment]  # the store gives documents
        return {"items": items, "next": following}

    def one(request: Request, number: Annotated[int, Path(ge=1, lt=1 << 63)]) -> contract.AuditRow:
        """One, by its number in the trail."""
        rows: Any = cloud.store.audit(caller(request).tenant, after=number - 1, limit=1)
        if not rows or rows[0]["seq"] != number:
            raise NotFound(
                f"There is no audit row {number} of this tenant.",
                where=f"audit/{number}",
                next_action="`skyriver audit list` shows the newest, with their numbers.",
            )
        found: contract.AuditRow = rows[0]
        return found

    routes.add("GET", _PATH, Permission.AUDIT_READ, listed, "list_audit", headers=["Link"])
    routes.add("GET", f"{_PATH}/{{number}}", Permission.AUDIT_READ, one, "get_audit", errors=[404])
