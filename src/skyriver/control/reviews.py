"""The routes of review: people claim cases of a stream and answer them.

Who asks is the token's holder: his name goes with the request, and whether he may decide what was escalated.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from skyriver.control.dispatching import Dispatchers, OfEvent
from skyriver.control.mutations import Key, fingerprint
from skyriver.control.paging import Cursor, Limit, check_query, decode, encode
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract_reviews as contract
from skyriver.trust.permissions import Permission, permissions_of

_PATH = f"{TENANT}/streams/{{name}}/reviews"
_MOST_TEXT = 10_000
"""Characters of a reason that is read at all; the dispatcher says how many it may have."""

_OF_PEOPLE = ("reason",)
"""Free text may say anything of anybody; the case has it."""

CaseId = Annotated[int, Path(ge=0, lt=1 << 63, description="Of the case.")]
Fingerprint = Annotated[str, Depends(fingerprint)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ClaimRequest(_Body):
    case: int | None = Field(default=None, ge=0, lt=1 << 63)
    """That one; null: the first that waits for the caller."""
    decision: str = Field(default="", max_length=63)
    """Only cases of this decision."""


class HeldRequest(_Body):
    claim: int = Field(default=0, ge=0, lt=1 << 31)
    """The number of the claim by which the caller holds the case; 0: whichever it is."""


class HandUpRequest(HeldRequest):
    reason: str = Field(max_length=_MOST_TEXT)


class AnswerRequest(HeldRequest):
    answer: str = Field(max_length=63)
    reason: str = Field(max_length=_MOST_TEXT)


def add_reviews(routes: Routes, dispatchers: Dispatchers) -> None:
    _add_looking(routes, dispatchers)
    _add_claiming(routes, dispatchers)
    _add_answering(routes, dispatchers)


def _add_looking(routes: Routes, dispatchers: Dispatchers) -> None:
    def listed(
        request: Request,
        name: str,
        state: Annotated[str, Query(max_length=20, description="Only these; CLOSED: all that are closed.")] = "",
        lane: Annotated[str, Query(max_length=20, description="Only those in this lane.")] = "",
        event: OfEvent = "",
        cursor: Cursor = "",
        limit: Limit = 100,
    ) -> contract.ReviewCaseList:
        """Cases that wait or are held, in the order in which they are claimed; closed ones, the newest first. Of an
        event all, unless a state is asked for."""
        check_query(request, ("state", "lane", "event", "cursor", "limit"))
        query = {"state": state, "lane": lane, "event": event, "limit": str(limit), "after": decode(cursor, str)}
        found = dispatchers.look(request, name, "/reviews", query)
        following = encode(found["next"]) if found.get("next") is not None else None
        return {"items": found["items"], "total": found["total"], "now": found["now"], "next": following}

    def one(request: Request, name: str, case: CaseId) -> contract.ReviewCaseInFull:
        """A case with its event, the decision, what was said of it, and earlier cases of the same key."""
        found: Any = dispatchers.look(request, name, f"/reviews/{case}")
        return found  # type: ignore[no-any-return]

    def stats(request: Request, name: str) -> contract.ReviewStats:
        """The queue, and what the answers tell of the people who gave them."""
        found: Any = dispatchers.look(request, name, "/reviews/stats")
        return found  # type: ignore[no-any-return]

    permission = Permission.REVIEWS_READ
    routes.add("GET", _PATH, permission, listed, "list_reviews", errors=[404])
    routes.add("GET", f"{_PATH}/stats", permission, stats, "get_review_stats", errors=[404])
    routes.add("GET", f"{_PATH}/{{case}}", permission, one, "get_review", errors=[404])


def _add_claiming(routes: Routes, dispatchers: Dispatchers) -> None:
    def claim(
        request: Request, name: str, body: ClaimRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.ReviewCaseInFull:
        """Takes a case for a lease: that one, or the first that waits for the caller (404, NO_CASE: none does)."""
        return _act(dispatchers, request, "claim_review", name, "/reviews/claim", body, key, asked)

    def renew(
        request: Request, name: str, case: CaseId, body: HeldRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.ReviewCaseInFull:
        """Begins the caller's lease of a case anew."""
        return _act(dispatchers, request, "renew_review", name, f"/reviews/{case}/renew", body, key, asked)

    def release(
        request: Request, name: str, case: CaseId, body: HeldRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.ReviewCaseInFull:
        """Gives a case back without an answer."""
        return _act(dispatchers, request, "release_review", name, f"/reviews/{case}/release", body, key, asked)

    permission, errors = Permission.REVIEWS_DECIDE, [404, 409]
    routes.add("POST", f"{_PATH}/claim", permission, claim, "claim_review", errors=errors)
    routes.add("POST", f"{_PATH}/{{case}}/renew", permission, renew, "renew_review", errors=errors)
    routes.add("POST", f"{_PATH}/{{case}}/release", permission, release, "release_review", errors=errors)


def _add_answering(routes: Routes, dispatchers: Dispatchers) -> None:
    def decide(
        request: Request, name: str, case: CaseId, body: AnswerRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.ReviewCaseInFull:
        """The caller's answer to a case that he holds. The same one once more changes nothing."""
        return _act(dispatchers, request, "decide_review", name, f"/reviews/{case}/decide", body, key, asked)

    def escalate(
        request: Request, name: str, case: CaseId, body: HandUpRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.ReviewCaseInFull:
        """Hands a case that the caller holds to those with the permission reviews:escalate."""
        return _act(dispatchers, request, "escalate_review", name, f"/reviews/{case}/escalate", body, key, asked)

    permission, errors = Permission.REVIEWS_DECIDE, [404, 409]
    routes.add("POST", f"{_PATH}/{{case}}/decide", permission, decide, "decide_review", errors=errors)
    routes.add("POST", f"{_PATH}/{{case}}/escalate", permission, escalate, "escalate_review", errors=errors)


def _act(
    dispatchers: Dispatchers, request: Request, action: str, name: str, path: str, body: _Body, key: str, asked: str
) -> contract.ReviewCaseInFull:
    senior = Permission.REVIEWS_ESCALATE in permissions_of(caller(request).role)
    given = {**body.model_dump(), "senior": senior}
    permission = Permission.REVIEWS_DECIDE
    done: Any = dispatchers.change(request, permission, action, name, path, given, key, asked, untold=_OF_PEOPLE)
    return done  # type: ignore[no-any-return]
