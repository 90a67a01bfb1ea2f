"""Sending the rows of a file to a stream, batch by batch, and what became of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from skyriver.core.errors import InvalidInput, NotFound, SkyriverError, Unavailable

if TYPE_CHECKING:
    from skyriver.client.api import Client

STARTING_SECONDS = 300.0
"""For how long a stream is waited for that starts: its worker compiles its features first, or replays its log, and how
long that takes is the machine's matter."""


@dataclass
class Sent:
    """What became of events or labels that were sent. `index` of a refused one counts from the first that was sent."""

    accepted: int = 0
    duplicates: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    rejected: list[Mapping[str, Any]] = field(default_factory=list)
    labels: int = 0
    reference_rows: int = 0
    unknown_subjects: int = 0
    seconds: float = 0.0

    def add(self, answer: Mapping[str, Any], first: int = 0) -> None:
        self.accepted += answer["accepted"]
        self.duplicates += answer["duplicates"]
        self.reject(answer["rejected"], first)
        for decision in answer.get("decisions", ()):
            if decision is not None:
                self.decisions[decision["decision"]] += 1
                self.statuses[decision["status"]] += 1
                if reason := decision.get("reason"):
                    self.reasons[reason] += 1

    def add_labels(self, answer: Mapping[str, Any], first: int = 0) -> None:
        self.labels += answer["accepted"]
        self.unknown_subjects += answer["unknown_subjects"]
        self.reject(answer["rejected"], first)

    def reject(self, refused: Sequence[Mapping[str, Any]], first: int) -> None:
        self.rejected += [{**bad, "index": first + bad["index"]} for bad in refused]

    @property
    def taken(self) -> int:
        return self.accepted + self.duplicates + self.labels + self.reference_rows

    def to_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "labels": self.labels,
            "reference_rows": self.reference_rows,
            "unknown_subjects": self.unknown_subjects,
            "decisions": dict(self.decisions),
            "statuses": dict(self.statuses),
            "reasons": dict(self.reasons),
            "rejected": list(self.rejected),
            "seconds": self.seconds,
        }


def declared_types(client: Client, stream: str, reference: str = "") -> dict[str, str]:
    """Of the fields of a stream, or of one of its references, and of its labels; empty where the cloud cannot say."""
    try:
        declared = client.get("streams", stream)["spec"]["stream"]
    except SkyriverError:
        return {}
    if reference:
        of = next((r for r in declared.get("references") or () if r["name"] == reference), {"fields": ()})
        return {own["name"]: own["type"] for own in of["fields"]}
    labels = dict.fromkeys((label["name"] for label in declared.get("labels") or ()), "float")
    return {"known_at": "time"} | labels | {own["name"]: own["type"] for own in declared["fields"]}


def send_rows(
    client: Client,
    stream: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    labels: bool = False,
    reference: str = "",
    rate: float = 0.0,
    batch: int = 100,
    told: Callable[[int], None] = lambda done: None,
) -> Sent:
    """Sends all rows, `rate` a second (0: as fast as it goes) in steps of a tenth of a second at most. Bad rows do not
    keep back the others, but those of a `reference`: they end it.

    Raises InvalidInput (ALL_REJECTED) when not one was taken; other errors say how far it came: sending again is safe.
    """
    result = Sent()
    start = time.perf_counter()
    refusal: SkyriverError | None = None
    if rate:
        batch = max(1, min(batch, int(rate / 10)))
    waiting = deque((first, rows[first : first + batch]) for first in range(0, len(rows), batch))
    while waiting:
        first, part = waiting.popleft()
        if rate:
            time.sleep(max(0.0, start + first / rate - time.perf_counter()))
        try:
            if reference:
                send = partial(client.send_references, stream, reference, part)
                result.reference_rows += once_ready(client, stream, send)["accepted"]
            elif labels:
                result.add_labels(once_ready(client, stream, partial(client.send_labels, stream, part)), first)
            else:
                result.add(once_ready(client, stream, partial(client.send, stream, part, wait=True)), first)
        except SkyriverError as error:
            if error.code == "BODY_TOO_LARGE" and len(part) > 1:
                half = len(part) // 2
                waiting.extendleft([(first + half, part[half:]), (first, part[:half])])
                continue
            if error.code != "ALL_REJECTED":
                raise _told_how_far(error, first, len(rows), events=not labels and not reference) from error
            refusal = refusal or error
            result.reject(error.details, first)
        told(first + len(part))
    result.seconds = time.perf_counter() - start
    if refusal is not None and not result.taken:
        raise _nothing_taken(refusal, result)
    return result


def once_ready(client: Client, stream: str, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is asked of a stream, which may still be starting."""
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            return ask()
        except NotFound as error:
            if error.code == "UNKNOWN_ROUTE":
                check_stream(client, stream)
            raise
        except Unavailable as error:
            if error.code != "NO_CAPACITY" or time.monotonic() > deadline or not _starts(client, stream):
                raise


def check_stream(client: Client, stream: str) -> None:
    """Raises NotFound with the names that are near: the gateway, which has no route, knows none."""
    try:
        known: list[str] = [row["name"] for row in client.list("streams")]
    except SkyriverError:
        return
    if stream not in known:
        near = get_close_matches(stream, known, n=3)
        raise NotFound(
            f"There is no stream {stream!r}.",
            next_action=f"Did you mean {', '.join(near)}?" if near else "`skyriver stream list` shows what there is.",
        )


def _starts(client: Client, stream: str) -> bool:
    try:
        return client.get("streams", stream)["state"] in ("PENDING", "STARTING")
    except SkyriverError:
        return False


def _nothing_taken(refusal: SkyriverError, result: Sent) -> InvalidInput:
    count = len(result.rejected)
    return InvalidInput(
        f"None of {count} rows can be taken; the first: {result.rejected[0]['message']}"
        if count > 1
        else refusal.message,
        code=refusal.code,
        where=refusal.where,
        next_action=refusal.next_action,
        details=tuple(dict(bad) for bad in result.rejected),
    )


def _told_how_far(error: SkyriverError, done: int, total: int, *, events: bool) -> SkyriverError:
    if error.code == "BODY_TOO_LARGE":
        error.message = f"Row {done + 1} alone is larger than a request may be. {error.message}"
        error.next_action = "Leave it out, or shorten it."
    if done:
        action = f"The first {done:,} of {total:,} rows were sent."
        if events:
            action += " Send all of them again: what was taken is answered with its first decision."
        error.next_action = f"{error.next_action} {action}".strip()
    return error
