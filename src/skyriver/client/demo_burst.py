"""The demo's burst: more requests than one replica answers in time, what is decided about it, and what that costs."""

from __future__ import annotations

import http.client
import json
import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from skyriver.client import scaling_page
from skyriver.client.api import Client
from skyriver.core.errors import Internal, NotFound

ROWS = 20_000
"""Of a request, as binary tensors: what a client sends costs it little beside what it costs a replica to answer."""
CLIENTS = 8
TIMES = 5
"""The objective is so many times what one request takes alone: with CLIENTS at once one replica cannot keep it."""
SHARE = 0.95
HOLD = "3s"
PATIENCE_S = 90.0
LOOK_S = 0.1


@dataclass
class Burst:
    """CLIENTS that ask without pause, as long as the block lasts."""

    url: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    """(when, seconds, status)."""

    def __enter__(self) -> Burst:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _run(self) -> None:
        connection = self.connect()
        while not self._stop.is_set():
            self.ask(connection)
        connection.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)

    def ask(self, connection: http.client.HTTPConnection) -> float:
        """Seconds. Status 0 is no answer."""
        began = time.perf_counter()
        try:
            connection.request("POST", self.path, self.body, self.headers)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            connection.close()
            status = 0
        now = time.perf_counter()
        self.answers.append((now, now - began, status))
        return now - began

    def alone(self, times: int = 9) -> float:
        """What one request takes while nothing else is asked, seconds: the quickest of some."""
        connection = self.connect()
        took = min(self.ask(connection) for _ in range(times))
        connection.close()
        self.answers.clear()
        return took


def burst_of(client: Client, token: str, model: str, features: int) -> Burst:
    """Each request asks for ROWS rows of so many features."""
    data = array("f", [1.0] * (ROWS * features)).tobytes()
    size = {"binary_data_size": len(data)}
    tensor = {"name": "features", "datatype": "FP32", "shape": [ROWS, features], "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return Burst(client.url, f"/v2/models/{model}/infer", head + data, headers)


def declaration(latency_ms: int) -> str:
    return f'serve=sr.Service(replicas=(1, 2), latency="{latency_ms}ms", share={SHARE}, hold="{HOLD}")'


def wait_for_replicas(client: Client, model: str, count: int) -> Mapping[str, Any]:
    """The change that made it so many, once so many serve. Raises Internal."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        changes = _changes(client, model)
        ready: Mapping[str, int] = client.get("services", model)["status"].get("ready", {})
        if changes and changes[-1]["to"] == count == max(ready.values(), default=0):
            return changes[-1]
        time.sleep(LOOK_S)
    raise Internal(f"{model} has not {count} replicas within {PATIENCE_S:.0f} s: {_changes(client, model)}.")


def wait_for_first_look(client: Client, model: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            client.get("scalings", model)
        except NotFound:
            time.sleep(LOOK_S)
        else:
            return
    raise Internal(f"Nobody decided on the replicas of {model} within {PATIENCE_S:.0f} s.")


def _changes(client: Client, model: str) -> Sequence[Mapping[str, Any]]:
    try:
        found: Sequence[Mapping[str, Any]] = client.get("scalings", model)["status"]["changes"]
    except NotFound:
        return ()
    return [change for change in found if change["from"] != change["to"]]  # the others tell what was refused


def told(change: Mapping[str, Any]) -> str:
    """Why, and at what price; without D where nothing came, of which something could be late."""
    unit, (cost, late_cost, _) = scaling_page.costs_of(change)
    costs = f"c + D = {cost} + {late_cost}" if late_cost else f"c = {cost}"
    return f"{change['why']} {costs} {unit}" if cost else str(change["why"])


def lateness(burst: Burst, latency_s: float, begun: float, two: float, end: float) -> str:
    """What was too late while one replica served, and from a second after `two` did until `end`; whether that keeps the
    objective."""
    (one_late, one), (late, answers) = _late(burst, latency_s, begun, two), _late(burst, latency_s, two + 1, end)
    told = f"too late: {one_late:,} of {one:,} answers with one, {late:,} of {answers:,} answers with two"
    if late <= (1 - SHARE) * answers:
        return told
    return (
        f"{told}: more than the {1 - SHARE:.0%} that may, for two replicas and who asks share the cores of this machine"
    )


def _late(burst: Burst, latency_s: float, begin: float, end: float) -> tuple[int, int]:
    """Of the answers between two moments: how many took longer, and how many there were."""
    took = [seconds for now, seconds, _ in burst.answers if begin <= now < end]
    return sum(seconds > latency_s for seconds in took), len(took)
