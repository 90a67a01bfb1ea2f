"""What goes on all the time: predictions, events with labels, a look at the API; each outcome is written down."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloud_process import CUSTOMERS, DAYS, ROW, START, Cloud, iso

from kills.journal import Journal
from skyriver.client.api import Client
from skyriver.core.errors import SkyriverError

PATIENCE_SECONDS = 5.0
"""What takes longer than this has failed."""
SENDING_SECONDS = 120.0
"""For how long an event is sent again and again."""


class Background(threading.Thread):
    """Does `turn` again and again until `end`; what it raises is kept."""

    def __init__(self, journal: Journal, pause: float) -> None:
        super().__init__(daemon=True, name=type(self).__name__)
        self.journal = journal
        self.pause = pause
        self.ending = threading.Event()

    def turn(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        while not self.ending.wait(self.pause):
            try:
                self.turn()
            except Exception as error:
                self.journal.wrong.append(f"{self.name}: {type(error).__name__}: {error}"[:600])

    def end(self, seconds: float = SENDING_SECONDS + 30) -> None:
        self.ending.set()
        self.join(seconds)
        if self.is_alive():
            self.journal.wrong.append(f"{self.name} hangs")


class Asker(Background):
    """Requests over one connection of its own, which is made anew after a failure."""

    def __init__(self, cloud: Cloud, journal: Journal, pause: float) -> None:
        super().__init__(journal, pause)
        self._token = cloud.token
        self._connection = http.client.HTTPConnection("127.0.0.1", cloud.port, timeout=PATIENCE_SECONDS)
        self.idle_since = 0.0
        """When the connection was last used: it may have been broken since, and nobody saw it before the next use."""

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            self.idle_since = time.monotonic() if self._connection.sock is None else self.idle_since
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = self._connection.getresponse()
            found = answer.status, json.loads(answer.read() or b"null")
            self.idle_since = time.monotonic()
            return found
        except BaseException:
            self._connection.close()
            raise

    def end(self, seconds: float = 2 * PATIENCE_SECONDS) -> None:
        super().end(seconds)
        self._connection.close()


class Predictor(Asker):
    def turn(self) -> None:
        start = time.monotonic()
        try:
            status, answer = self.ask("POST", "/predict/comes_back", ROW)
        except (OSError, http.client.HTTPException) as error:
            self.journal.failed("prediction", self.idle_since, f"{type(error).__name__}: {error}")
            return
        if status != 200:
            self.journal.failed("prediction", start, f"{status} {answer}"[:200])
            return
        self.journal.answered("prediction", start)
        if not 0 <= answer["score"] <= 1:
            self.journal.wrong.append(f"a prediction is {answer}")


class Probe(Asker):
    """Looks at the processes through the API; `seen` is (when the look began, the rows by kind and name)."""

    def __init__(self, cloud: Cloud, journal: Journal, pause: float) -> None:
        super().__init__(cloud, journal, pause)
        self.seen: tuple[float, Mapping[tuple[str, str], Mapping[str, Any]]] = (0.0, {})

    def turn(self) -> None:
        start = time.monotonic()
        try:
            status, answer = self.ask("GET", "/api/v1/tenants/default/processes")
        except (OSError, http.client.HTTPException) as error:
            self.journal.failed("api", self.idle_since, f"{type(error).__name__}: {error}")
            return
        if status != 200:
            self.journal.failed("api", start, f"{status} {answer}"[:200])
            return
        self.journal.answered("api", start)
        self.seen = (start, {(p["kind"], p["name"]): p for p in answer["items"]})


@dataclass
class Orders:
    """Orders that were not used yet, in the order of their time: ten a second."""

    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, count: int) -> list[dict[str, Any]]:
        with self._lock:
            first = self._next
            self._next += count
        luck = random.Random(first)
        after = START + DAYS * 86_400 + 1
        return [
            {
                "order": 100_000 + n,
                "at": iso(after + n // 10),
                "customer": n % CUSTOMERS,
                "amount": round(luck.expovariate(1 / 50) + 1, 2),
            }
            for n in range(first, first + count)
        ]


class Sender(Background):
    """Sends events until they are acknowledged and decided, some of them twice, and labels. `patient`: through the
    client's own retries; else each try is made here and written down."""

    def __init__(self, cloud: Cloud, journal: Journal, orders: Orders, seed: int, *, patient: bool) -> None:
        super().__init__(journal, 0.1)
        self.answers: dict[int, Mapping[str, Any]] = {}
        """By event: the decision that was acknowledged with it."""
        self.labels: dict[int, int] = {}
        self.repeated = 0
        self._orders = orders
        self._luck = random.Random(seed)
        self._patient = patient
        self._client = Client(f"http://127.0.0.1:{cloud.port}", cloud.token)

    def turn(self) -> None:
        batch = self._orders.take(self._luck.randrange(1, 8))
        self._note(batch, self._deliver(batch))
        if self._luck.random() < 0.2 and self._patient:
            self._label(self._luck.choice(batch)["order"])
        if self._luck.random() < 0.2:
            again = [{**b, "amount": 1.0} for b in batch]
            self._note(again, self._deliver(again))
            self.repeated += len(again)

    def _deliver(self, batch: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any] | None]:
        deadline = time.monotonic() + SENDING_SECONDS
        while True:
            start = time.monotonic()
            retry = SENDING_SECONDS if self._patient else 0.0
            try:
                answer = self._client.send("orders", batch, wait=True, retry_seconds=retry)
            except SkyriverError as error:
                self.journal.failed("event", start, f"{error.code} {error}"[:200])
                if error.http_status not in (429, 503) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            self.journal.answered("event", start)
            if answer["rejected"]:
                self.journal.wrong.append(f"events were rejected: {answer['rejected'][:2]}")
            found: Sequence[Mapping[str, Any] | None] = answer["decisions"]
            return found

    def _note(self, batch: Sequence[Mapping[str, Any]], decisions: Sequence[Mapping[str, Any] | None]) -> None:
        for event, decision in zip(batch, decisions, strict=True):
            if decision is None or decision["id"] != event["order"]:
                self.journal.wrong.append(f"order {event['order']} was answered with {decision}")
                continue
            before = self.answers.setdefault(event["order"], decision)
            if not same_decision(before, decision):
                self.journal.decided_twice.append(f"order {event['order']}: {before}, then {decision}")

    def _label(self, order: int) -> None:
        value = self._luck.randrange(2)
        answer = self._client.send_labels(
            "orders", [{"order": order, "returned": value}], retry_seconds=SENDING_SECONDS
        )
        if answer["accepted"] != 1:
            self.journal.wrong.append(f"a label was answered with {answer}")
        self.labels[order] = value

    def end(self, seconds: float = SENDING_SECONDS + 30) -> None:
        super().end(seconds)
        self._client.close()


def same_decision(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two answers tell of the same decision; features are named as long as they are computed."""
    return all(one[part] == other.get(part) for part in one if part != "features")
