"""What both clients can do with cases of review."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from skyriver.client.flows import Flow, Request, call
from skyriver.client.waiting import answered, changed
from skyriver.core.contract_reviews import ReviewCaseInFull, ReviewCaseList, ReviewStats
from skyriver.core.errors import InvalidInput


class ReviewCalls:
    """Who acts is the token's holder. Each act may raise Conflict (NOT_YOURS, LEASE_LOST, CASE_HELD, CASE_CLOSED ...),
    NotAllowed (ANOTHER_PERSON, NOT_SENIOR) and NotFound (NO_CASE); nothing was done then."""

    tenant: str

    @call
    def reviews(
        self,
        stream: str,
        *,
        state: str = "",
        lane: str = "",
        event: int | str = "",
        limit: int = 100,
        cursor: str = "",
    ) -> Flow[ReviewCaseList]:
        """Cases that wait or are held, in the order in which they are claimed; or those in a `state` (CLOSED: all that
        are closed, the newest first), in a `lane`; or those of an `event`, by its id. `cursor`: `next` of the page of
        closed ones before."""
        params = {"state": state, "lane": lane, "event": str(event), "limit": limit, "cursor": cursor}
        found: ReviewCaseList = yield from answered(Request("GET", _path(self.tenant, stream), params=params))
        return found

    @call
    def review(self, stream: str, case: int) -> Flow[ReviewCaseInFull]:
        """One case with its event, its decision and what was said of it."""
        found: ReviewCaseInFull = yield from answered(Request("GET", _path(self.tenant, stream, case)))
        return found

    @call
    def review_stats(self, stream: str) -> Flow[ReviewStats]:
        """The queue, and what the answers tell of the people who gave them."""
        found: ReviewStats = yield from answered(Request("GET", _path(self.tenant, stream, "stats")))
        return found

    @call
    def claim_review(self, stream: str, case: int | None = None, *, decision: str = "") -> Flow[ReviewCaseInFull]:
        """Takes a case for its lease: that one, or the first that waits for you, of one `decision` if given."""
        body = {"case": case, "decision": decision}
        return (yield from _acted(_path(self.tenant, stream, "claim"), body))

    @call
    def renew_review(self, stream: str, case: int, *, claim: int = 0) -> Flow[ReviewCaseInFull]:
        """Begins your lease anew. `claim`, here and below, is the number that claiming has told; 0: any of yours."""
        return (yield from _acted(_path(self.tenant, stream, case, "renew"), {"claim": claim}))

    @call
    def release_review(self, stream: str, case: int, *, claim: int = 0) -> Flow[ReviewCaseInFull]:
        """Gives a case back without an answer."""
        return (yield from _acted(_path(self.tenant, stream, case, "release"), {"claim": claim}))

    @call
    def decide_review(
        self, stream: str, case: int, answer: str, reason: str, *, claim: int = 0
    ) -> Flow[ReviewCaseInFull]:
        """Your answer to a case that you hold, with the reason; the same one once more changes nothing."""
        body = {"answer": answer, "reason": reason, "claim": claim}
        return (yield from _acted(_path(self.tenant, stream, case, "decide"), body))

    @call
    def escalate_review(self, stream: str, case: int, reason: str, *, claim: int = 0) -> Flow[ReviewCaseInFull]:
        """Hands a case that you hold to those who may decide such."""
        return (yield from _acted(_path(self.tenant, stream, case, "escalate"), {"reason": reason, "claim": claim}))


def _path(tenant: str, stream: str, *rest: int | str) -> str:
    if not stream:
        raise InvalidInput("A name is empty.", code="EMPTY_NAME", next_action="Give the name of the stream.")
    base = f"/api/v1/tenants/{quote(tenant, safe=':')}/streams/{quote(stream, safe=':')}/reviews"
    return "/".join([base, *(str(part) for part in rest)])


def _acted(path: str, body: dict[str, Any]) -> Flow[ReviewCaseInFull]:
    headers = {"Content-Type": "application/json"}
    done: ReviewCaseInFull = yield from changed(
        Request("POST", path, headers=headers, content=json.dumps(body).encode())
    )
    return done
