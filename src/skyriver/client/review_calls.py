"""What both clients can do with cases of review."""

from __future__ import annotations

from typing import Any

from skyriver.client.flows import Flow, Request, call
from skyriver.client.tenant_calls import TenantCalls, json_request, part
from skyriver.client.waiting import answered, changed
from skyriver.core.contract_reviews import ReviewCaseInFull, ReviewCaseList, ReviewStats


class ReviewCalls(TenantCalls):
    """Who acts is the token's holder. Each act may raise Conflict (NOT_YOURS, LEASE_LOST, CASE_HELD, CASE_CLOSED ...),
    NotAllowed (ANOTHER_PERSON, NOT_SENIOR) and NotFound (NO_CASE); nothing was done then."""

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
        found: ReviewCaseList = yield from answered(Request("GET", self._reviews(stream), params=params))
        return found

    @call
    def review(self, stream: str, case: int) -> Flow[ReviewCaseInFull]:
        """One case with its event, its decision and what was said of it."""
        found: ReviewCaseInFull = yield from answered(Request("GET", self._reviews(stream, case)))
        return found

    @call
    def review_stats(self, stream: str) -> Flow[ReviewStats]:
        """The queue, and what the answers tell of the people who gave them."""
        found: ReviewStats = yield from answered(Request("GET", self._reviews(stream, "stats")))
        return found

    @call
    def claim_review(self, stream: str, case: int | None = None, *, decision: str = "") -> Flow[ReviewCaseInFull]:
        """Takes a case for its lease: that one, or the first that waits for you, of one `decision` if given."""
        body = {"case": case, "decision": decision}
        return (yield from _acted(self._reviews(stream, "claim"), body))

    @call
    def renew_review(self, stream: str, case: int, *, claim: int = 0) -> Flow[ReviewCaseInFull]:
        """Begins your lease anew. `claim`, here and below, is the number that claiming has told; 0: any of yours."""
        return (yield from _acted(self._reviews(stream, case, "renew"), {"claim": claim}))

    @call
    def release_review(self, stream: str, case: int, *, claim: int = 0) -> Flow[ReviewCaseInFull]:
        """Gives a case back without an answer."""
        return (yield from _acted(self._reviews(stream, case, "release"), {"claim": claim}))

    @call
    def decide_review(
        self, stream: str, case: int, answer: str, reason: str, *, claim: int = 0
    ) -> Flow[ReviewCaseInFull]:
        """Your answer to a case that you hold, with the reason; the same one once more changes nothing."""
        body = {"answer": answer, "reason": reason, "claim": claim}
        return (yield from _acted(self._reviews(stream, case, "decide"), body))

    @call
    def escalate_review(self, stream: str, case: int, reason: str, *, claim: int = 0) -> Flow[ReviewCaseInFull]:
        """Hands a case that you hold to those who may decide such."""
        return (yield from _acted(self._reviews(stream, case, "escalate"), {"reason": reason, "claim": claim}))

    def _reviews(self, stream: str, *rest: int | str) -> str:
        return "/".join([f"{self._base}/streams/{part(stream)}/reviews", *(str(each) for each in rest)])


def _acted(path: str, body: dict[str, Any]) -> Flow[ReviewCaseInFull]:
    done: ReviewCaseInFull = yield from changed(json_request("POST", path, body))
    return done
