"""Pages of lists: an opaque cursor names the last row that was given, so that rows that come or go between two pages
make no other row come twice or be left out."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from skyriver.control.damaged import Found
from skyriver.core.contract import Resource as ResourceDocument
from skyriver.core.contract import ResourcePage
from skyriver.core.errors import InvalidInput
from skyriver.core.resources import Kind, Resource

PAGE_LIMIT = 1_000
LOOKED_AT = 5_000
"""Rows that one request looks at when it filters; a page may then hold few though there is a next one."""

Cursor = Annotated[str, Query(max_length=1_000, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="The most that a page holds.")]


def encode(place: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps([place]).encode()).rstrip(b"=").decode()


def decode(cursor: str, kind: type[str] | type[int]) -> Any:
    """The place; "" or 0 for no cursor. Raises InvalidInput (BAD_CURSOR)."""
    if not cursor:
        return kind()
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        [place] = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if type(place) is not kind:
            raise ValueError(place)
        if isinstance(place, str):
            place.encode()
        elif not 0 <= place < 1 << 63:
            raise ValueError(place)
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidInput(
            "This is no cursor of this list.",
            code="BAD_CURSOR",
            where="cursor",
            next_action="Give `next` of the page before as it came, or none to begin.",
        ) from error
    return place


def check_query(request: Request, known: Collection[str]) -> None:
    """A filter that is misspelt would else give all there is. Raises InvalidInput (BAD_REQUEST)."""
    for name in sorted(request.query_params.keys() - set(known)):
        raise InvalidInput(
            f"This list has no parameter {name!r}.",
            code="BAD_REQUEST",
            where=name,
            next_action=f"There are {', '.join(known)}.",
        )


def check_state(state: str, kind: Kind) -> None:
    """Raises InvalidInput (BAD_REQUEST) for a state in which nothing of this kind ever is."""
    states = {kind.initial, *kind.final, *(state for move in kind.moves for state in move)}
    if state not in states:
        raise InvalidInput(
            f"A {kind.name} is never {state!r}.",
            code="BAD_REQUEST",
            where="state",
            next_action=f"There are {', '.join(sorted(states))}.",
        )


def link(request: Request, response: Response, following: str | None) -> None:
    """The header that names the next page."""
    if following is not None:
        query = urlencode([*((k, v) for k, v in request.query_params.multi_items() if k != "cursor")])
        joined = f"{query}&" if query else ""
        response.headers["Link"] = f'<{request.url.path}?{joined}cursor={following}>; rel="next"'


def page_of(found: Found, limit: int, wanted: Mapping[str, str]) -> ResourcePage:
    """`found` are the next rows of a list; `wanted` says which fields must be what."""
    shown: list[Resource] = []
    last = found.last
    for row in found.rows:
        if all(getattr(row, field) == value for field, value in wanted.items()):
            shown.append(row)
        if len(shown) == limit:
            if row is not found.rows[-1]:
                last = row.name
            break
    page: ResourcePage = {"items": [document(row) for row in shown], "next": encode(last) if last else None}
    if damaged := [one for one in found.damaged if not last or one["name"] <= last]:
        page["damaged"] = damaged
    return page


def document(row: Resource) -> ResourceDocument:
    return {
        "tenant": row.tenant,
        "kind": row.kind,
        "name": row.name,
        "spec": row.spec,
        "status": row.status,
        "state": row.state,
        "reason": row.reason,
        "message": row.message,
        "next_action": row.next_action,
        "since": row.since,
        "parent": row.parent,
        "attempts": row.attempts,
        "revision": row.revision,
        "generation": row.generation,
        "created_at": row.created_at,
        "created_by": row.created_by,
        "updated_at": row.updated_at,
        "updated_by": row.updated_by,
    }
