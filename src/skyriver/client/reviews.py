"""The commands for review: what waits for people, and what they make of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyriver.client import review_page as page
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect
from skyriver.core.errors import SkyriverError

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.core.contract_reviews import ReviewCase, ReviewCaseInFull, ReviewCaseList

PAGE = 1_000
_reviews = typer.Typer(help="Decisions that people make: cases of a stream.", no_args_is_help=True)
app.add_typer(_reviews, name="review")

Stream = Annotated[str, typer.Argument(metavar="STREAM")]
Case = Annotated[int, typer.Argument(metavar="CASE", help="Its number, as `review list` shows it.", min=0)]
Claim = Annotated[int, typer.Option("--claim", min=0, help="The number of your claim; any of yours unless given.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="In a sentence.")]


@_reviews.command("list")
def review_list(
    stream: Stream,
    state: Annotated[str, typer.Option(help="Only these, as OPEN, CLAIMED, DECIDED; CLOSED: all closed ones.")] = "",
    lane: Annotated[str, typer.Option(help="Only escalated, overdue, second or first ones.")] = "",
    event: Annotated[str, typer.Option(help="Only those of this event, by its id; closed ones too.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="So many at most.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="However many there are.")] = False,
    as_json: Json = False,
) -> None:
    """Cases in the order in which they are claimed."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = _listed(client, stream, state.upper(), lane, event, sys.maxsize if all_ else limit)
    screen.data(found, lambda: page.show_list(screen, stream, found, event))


@_reviews.command("get")
def review_get(stream: Stream, case: Case, as_json: Json = False) -> None:
    """One case: its event, its decision, what was said of it."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.review(stream, case)
        decision = None if as_json else _decision(client, stream, found)
    screen.data(found, lambda: page.show_case(screen, stream, found, decision))


@_reviews.command("claim")
def review_claim(
    stream: Stream,
    case: Annotated[int | None, typer.Argument(metavar="[CASE]", help="Else the first that waits for you.")] = None,
    decision: Annotated[str, typer.Option(help="Only cases of this decision.")] = "",
    as_json: Json = False,
) -> None:
    """Take a case for yourself, for the time of its lease."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.claim_review(stream, case, decision=decision)
        explained = None if as_json else _decision(client, stream, found)
    screen.data(found, lambda: page.show_case(screen, stream, found, explained))


@_reviews.command("decide")
def review_decide(
    stream: Stream,
    case: Case,
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="One that the case shows.")],
    reason: Reason,
    claim: Claim = 0,
    as_json: Json = False,
) -> None:
    """Answer a case that you hold."""
    _act(stream, as_json, lambda client: client.decide_review(stream, case, answer, reason, claim=claim))


@_reviews.command("renew")
def review_renew(stream: Stream, case: Case, claim: Claim = 0, as_json: Json = False) -> None:
    """Begin your lease of a case anew."""
    _act(stream, as_json, lambda client: client.renew_review(stream, case, claim=claim))


@_reviews.command("release")
def review_release(stream: Stream, case: Case, claim: Claim = 0, as_json: Json = False) -> None:
    """Give a case back without an answer."""
    _act(stream, as_json, lambda client: client.release_review(stream, case, claim=claim))


@_reviews.command("escalate")
def review_escalate(stream: Stream, case: Case, reason: Reason, claim: Claim = 0, as_json: Json = False) -> None:
    """Hand a case that you hold to those who may decide such."""
    _act(stream, as_json, lambda client: client.escalate_review(stream, case, reason, claim=claim))


@_reviews.command("stats")
def review_stats(stream: Stream, as_json: Json = False) -> None:
    """The queue, and how the people who answer agree: with each other, and with what turned out."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.review_stats(stream)
    screen.data(found, lambda: page.show_stats(screen, stream, found))


def _listed(client: Client, stream: str, state: str, lane: str, event: str, limit: int) -> ReviewCaseList:
    """So many at most, in as many pages as that takes."""
    items: list[ReviewCase] = []
    cursor: str | None = ""
    while True:
        most = min(PAGE, limit - len(items))
        page = client.reviews(stream, state=state, lane=lane, event=event, limit=most, cursor=cursor or "")
        items += page["items"]
        cursor = page["next"]
        if cursor is None or len(items) >= limit:
            return {**page, "items": items}


def _decision(client: Client, stream: str, case: ReviewCaseInFull) -> Mapping[str, Any] | None:
    """With the reasons of its score, which the stream's worker tells; a case is shown without them where it cannot."""
    try:
        found = client.decision(stream, case["event"])
    except SkyriverError:
        return None
    return found if found["event_offset"] == case["id"] else None


def _act(stream: str, as_json: bool, act: Callable[[Client], ReviewCaseInFull]) -> None:
    screen = Screen(as_json=as_json)
    with connect() as client:
        done = act(client)
    screen.data(done, lambda: screen.out.print(page.became(stream, done)))
