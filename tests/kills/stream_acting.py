"""Who acts on a stream's decisions while all is killed: two receivers, people, and one who keeps the list."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import polars as pl
from cloud_process import Cloud
from receiver import Receiver, misbehave

from kills.examination import SETTLING_SECONDS
from kills.journal import Journal
from kills.load import Background
from kills.reviewing import People
from kills.stream_killer import STREAM
from kills.stream_load import Producers
from kills.stream_plan import Plan
from skyriver.client.api import Client
from skyriver.core.errors import SkyriverError

LIST = "denied"
REFUSED_EACH = 40
"""One of so many payments the ledger refuses for good."""
WELL = 240.0
"""Of 280: each try comes after twice the time of the one before, and the campaign's end waits for the last."""
TIMEOUT_SECONDS = 1.0
MOST_LISTED = 0.03
"""Of all customers."""
PATIENCE_SECONDS = 120.0
T = TypeVar("T")


def refused(payment: int) -> bool:
    return payment % REFUSED_EACH == 7


def insist(call: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Until what was dead is back; each call may be repeated."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except SkyriverError as error:
            if error.http_status not in (429, 502, 503, 504) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Receivers:
    """`bank` is told of each customer in order, `ledger` of all at once and refuses some."""

    def __init__(self, cloud: Cloud, luck: random.Random) -> None:
        self.bank, self.ledger = Receiver(), Receiver()
        self.bank.behave = misbehave(random.Random(luck.randrange(1 << 30)), lambda _: False, well=WELL)
        self.ledger.behave = misbehave(random.Random(luck.randrange(1 << 30)), _refuses, well=WELL)
        for name, receiver in (("bank", self.bank), ("ledger", self.ledger)):
            receiver.retry_after, receiver.hang_s = "1", 2 * TIMEOUT_SECONDS
            receiver.write_file(cloud.home, name, "default", timeout_s=TIMEOUT_SECONDS)

    def get_well(self) -> None:
        self.bank.behave = lambda _: "take"
        self.ledger.behave = lambda body: "422" if _refuses(body) else "take"

    def close(self) -> None:
        self.bank.close()
        self.ledger.close()


def _refuses(body: dict[str, Any]) -> bool:
    return refused(body["event_id"])


class Reviewers(Background):
    """Four people, each with a token: they claim, think of nothing, and answer."""

    def __init__(self, cloud: Cloud, journal: Journal, seed: int) -> None:
        super().__init__(journal, 0.05)
        self.people = People(self, random.Random(seed))
        url = f"http://127.0.0.1:{cloud.port}"
        with Client(url, cloud.token) as admin:
            tokens = {name: admin.issue_token(name, "operator")["token"] for name in self.people.names}
        self._clients = {name: Client(url, token) for name, token in tokens.items()}

    def turn(self) -> None:
        self.people.step()

    def claim(self, who: str, step: int) -> int:
        return int(insist(lambda: self._clients[who].claim_review(STREAM))["id"])

    def decide(self, who: str, case: int, answer: str, reason: str) -> str:
        return str(insist(lambda: self._clients[who].decide_review(STREAM, case, answer, reason))["state"])

    def end(self, seconds: float = PATIENCE_SECONDS) -> None:
        super().end(seconds)
        for client in self._clients.values():
            client.close()


class ListKeeper(Background):
    """Puts customers on the list and takes them off, as long as payments are sent; each change is repeated until it is
    acknowledged."""

    def __init__(self, cloud: Cloud, journal: Journal, plan: Plan, producers: Producers, seed: int) -> None:
        super().__init__(journal, 0.5)
        self.kept: list[tuple[int, str | None]] = []
        """What was acknowledged: the customers in their order, each with the note of his row; None: taken off."""
        self.changes = 0
        self._luck = random.Random(seed)
        self._producers = producers
        self._client = Client(f"http://127.0.0.1:{cloud.port}", cloud.token)
        customers = (
            pl.read_parquet(plan.history, columns=["customer"])["customer"].drop_nulls().unique().sort().to_list()
        )
        self._off: list[int] = customers
        self._on: list[int] = []
        self._most = max(4, round(MOST_LISTED * len(customers)))

    def turn(self) -> None:
        if self._producers.done:
            return
        removes = len(self._on) >= self._most or (bool(self._on) and self._luck.random() < 0.4)
        of, to = (self._on, self._off) if removes else (self._off, self._on)
        chosen = self._luck.sample(of, min(len(of), self._luck.randrange(1, 4)))
        note = None if removes else f"change {self.changes}"
        rows = [{"customer": customer} | ({"note": note} if note else {}) for customer in chosen]
        how = "off" if removes else ""
        insist(lambda: self._client.send_references(STREAM, LIST, rows, how=how, retry_seconds=0.0))
        self.changes += 1
        self.kept += [(customer, note) for customer in chosen]
        for customer in chosen:
            of.remove(customer)
            to.append(customer)

    def end(self, seconds: float = PATIENCE_SECONDS) -> None:
        super().end(seconds)
        self._client.close()


class Acting:
    """All of them. After `settle` `parked` are the deliveries listed so, `listed` who the cloud says is on the list."""

    def __init__(self, cloud: Cloud, journal: Journal, plan: Plan, producers: Producers, luck: random.Random) -> None:
        self.receivers = Receivers(cloud, luck)
        self.reviewers = Reviewers(cloud, journal, luck.randrange(1 << 30))
        self.keeper = ListKeeper(cloud, journal, plan, producers, luck.randrange(1 << 30))
        self.parked: list[dict[str, Any]] = []
        self.listed: list[int] = []

    def settle(self, client: Client) -> list[str]:
        """What is still to be done although nothing is killed, no receiver fails and nobody answers any more."""
        self.receivers.get_well()
        deadline = time.monotonic() + SETTLING_SECONDS
        while left := _left(client):
            if time.monotonic() > deadline:
                return left
            time.sleep(0.2)
        self.parked = [dict(item) for item in client.deliveries(STREAM, state="parked")]
        page = client.list_page(STREAM, LIST)
        assert page["next"] is None
        self.listed = [row["customer"] for row in page["items"]]
        return []

    def close(self) -> None:
        self.receivers.close()


def _left(client: Client) -> list[str]:
    try:
        reports = {p["kind"]: p["report"] for p in client.processes() if p["kind"] in ("dispatcher", "worker")}
        behind = {kind: report.get("offset") for kind, report in reports.items()}
        if len(behind) != 2 or behind["worker"] != behind["dispatcher"]:
            return [f"the dispatcher is not where the worker is: {behind}"]
        sinks = reports["dispatcher"].get("sinks", ())
        left = [f"deliveries are left: {sink}" for sink in sinks if sink["waiting"] or sink["held"]]
        labels = client.review_stats(STREAM)["labels"]
        return left + ([f"labels of answers are left: {labels}"] if any(labels.values()) else [])
    except SkyriverError as error:
        return [f"the cloud does not answer: {error}"]
