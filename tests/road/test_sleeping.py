"""Services that sleep, on a whole cloud: what a client sees of a request that finds nobody awake."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx.parser
import pytest
from cloud_process import Cloud, kill, wait_for

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
price (float[n, 2] rooms_and_area) => (float[n, 1] price)
<float[2, 1] weight = {12.5, 2.0}, float[1] base = {40.0}>
{ scaled = MatMul(rooms_and_area, weight) price = Add(scaled, base) }
"""
APP = """\
import skyriver as sr

app = sr.App("prices")
app.model("price", onnx="model.onnx", serve=sr.Service(replicas=(0, 2), idle="{idle}"))
app.model("rent", onnx="model.onnx", serve=sr.Service(replicas=(0, 1), idle="1h"))
app.model("broken", onnx="model.onnx", serve=sr.Service(replicas=(0, 1), idle="1h"))
"""
FLAT = {"rooms_and_area": [3, 80]}
PRICE = 237.5
SECONDS = 300.0


class Prices:
    """The cloud, and who asks it for prices."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def deploy(self, idle: str) -> None:
        (self.cloud.folder / "prices.py").write_text(APP.format(idle=idle))
        self.cloud.command("deploy", self.cloud.folder / "prices.py", "-y").succeeded()

    def service(self, name: str = "price") -> dict[str, Any]:
        """Once there is a control plane that answers."""
        path = f"/api/v1/tenants/default/services/{name}"
        found: dict[str, Any] = wait_for(
            lambda: (told := self.cloud.ask("GET", path))[0] == 200 and told[1], "a control plane", SECONDS
        )
        return found

    def replicas(self, name: str = "price") -> list[str]:
        return [r["name"] for r in self.cloud.rows("replicas") if r["spec"]["model"] == name]

    def sleep(self, name: str = "price") -> None:
        """By hand, unless it does already; returns once none of its replicas is left."""
        if self.service(name)["state"] != "SCALED_TO_ZERO":
            wait_for(lambda: self.service(name)["state"] == "READY", f"{name} READY", SECONDS)
            self.cloud.command("service", "sleep", name).succeeded()
        wait_for(lambda: not self.replicas(name), f"{name} asleep", SECONDS)

    def predict(self, name: str = "price", **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.cloud.port, timeout=SECONDS)
        sent = {"Authorization": f"Bearer {self.cloud.token}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            connection.request("POST", f"/predict/{name}", json.dumps(FLAT), sent)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def activator(self) -> dict[str, Any]:
        found: dict[str, Any] = wait_for(
            lambda: next((p for p in self.cloud.rows("processes") if p["kind"] == "activator"), None), "an activator"
        )
        return found

    def report(self) -> dict[str, Any]:
        """As its file tells, whether the control plane is there or not."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(
                (self.cloud.home / "run" / "default.activator.activator.status.json").read_bytes()
            )
            return found
        return {}


class Asking:
    """Clients that ask at once, each once, or again where it is told to."""

    def __init__(self, count: int, ask: Callable[[], tuple[int, Any]]) -> None:
        self.answers: list[tuple[int, Any]] = []
        self._ask = ask
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        self.answers.append(self._ask())

    def statuses(self) -> Counter[int]:
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        return Counter(status for status, _ in self.answers)


@pytest.fixture(scope="module")
def prices(cloud: Cloud) -> Prices:
    onnx.save(onnx.parser.parse_model(MODEL), cloud.folder / "model.onnx")
    cloud.command("up", "--port", cloud.port).succeeded()
    made = Prices(cloud)
    made.deploy("1h")
    wait_for(lambda: made.service()["state"] == "READY", "price READY", SECONDS)
    return made


def test_a_request_wakes_a_sleeping_service_and_is_answered(prices: Prices) -> None:
    prices.sleep()
    assert prices.cloud.ask("GET", "/v2/models/price/ready") == (200, {"ready": True})
    assert prices.service()["state"] == "SCALED_TO_ZERO"
    assert "Asleep: it was put to sleep by hand." in " ".join(prices.cloud.command("ps").succeeded().out.split())
    status, answer = prices.predict()
    assert (status, answer["predictions"] if "predictions" in answer else answer["price"]) == (200, PRICE)
    wait_for(lambda: prices.service()["status"]["ready"] == {"1": 1}, "a replica", SECONDS)
    wait_for(lambda: prices.service()["state"] == "READY", "awake", SECONDS)
    wait_for(lambda: prices.activator()["report"]["forwarded"] >= 1, "the activator tells of it", SECONDS)


def test_two_hundred_at_once_are_all_answered(prices: Prices) -> None:
    prices.sleep()
    assert Asking(200, prices.predict).statuses() == {200: 200}


def test_by_hand_it_wakes_without_a_request(prices: Prices) -> None:
    prices.sleep()
    told = prices.cloud.command("service", "sleep", "price")
    assert (told.code, "ALREADY_ASLEEP" in told.err) == (6, True)
    prices.cloud.command("service", "wake", "price").succeeded()
    wait_for(lambda: prices.service()["state"] == "READY", "awake", SECONDS)
    wait_for(lambda: prices.report().get("waiting") == {}, "the activator tells that nobody waits", SECONDS)


def test_a_request_whose_deadline_comes_first_is_answered_504(prices: Prices) -> None:
    prices.sleep("rent")
    status, answer = prices.predict("rent", X_Request_Deadline=f"{time.time() + 0.05:.3f}")
    assert (status, answer["code"]) == (504, "DEADLINE_EXCEEDED")


def test_many_sleep_and_wake_at_once_and_apart(prices: Prices) -> None:
    prices.sleep()
    prices.sleep("rent")
    assert prices.predict("rent")[0] == 200
    assert prices.service()["state"] == "SCALED_TO_ZERO"
    prices.sleep("rent")
    both = [Asking(20, prices.predict), Asking(20, lambda: prices.predict("rent"))]
    assert [asking.statuses() for asking in both] == [{200: 20}, {200: 20}]


def test_the_control_plane_is_killed_while_requests_are_held(prices: Prices) -> None:
    prices.sleep()
    os.kill(prices.cloud.supervisor_pid(), signal.SIGSTOP)  # the next control plane might wake it before all are seen
    try:
        kill(prices.cloud.control_pid())
        asking = Asking(20, prices.predict)
        wait_for(lambda: prices.report().get("waiting") == {"price": 20}, "20 held", SECONDS)
    finally:
        os.kill(prices.cloud.supervisor_pid(), signal.SIGCONT)
    assert asking.statuses() == {200: 20}  # the supervisor starts another one, which finds who waits


def test_the_activator_is_killed_while_requests_are_held(prices: Prices) -> None:
    """What it held is told to have failed; whoever comes next, and whoever asks again, is answered."""
    prices.sleep()
    activator = prices.activator()["pid"]
    os.kill(prices.cloud.supervisor_pid(), signal.SIGSTOP)
    kill(prices.cloud.control_pid())  # nobody wakes it meanwhile
    try:
        held = Asking(10, prices.predict)
        wait_for(lambda: prices.report().get("waiting") == {"price": 10}, "10 held", SECONDS)
        kill(activator)
        statuses = held.statuses()  # 503 for those that were sent once more and found nobody
        assert (statuses.keys() <= {502, 503}, sum(statuses.values())) == (True, 10), statuses
    finally:
        os.kill(prices.cloud.supervisor_pid(), signal.SIGCONT)
    wait_for(lambda: prices.cloud.ask("GET", "/api/v1/whoami")[0] == 200, "a control plane", SECONDS)
    wait_for(lambda: prices.activator()["pid"] not in (0, activator) and prices.report(), "another one", SECONDS)

    def again() -> tuple[int, Any]:
        return wait_for(lambda: (found := prices.predict())[0] == 200 and found, "an answer", SECONDS)

    assert Asking(10, again).statuses() == {200: 10}


def test_a_model_that_cannot_be_read_is_told_at_once_and_nobody_hangs(prices: Prices) -> None:
    prices.sleep("broken")
    artifact = prices.cloud.ask("GET", "/api/v1/tenants/default/versions/broken:1")[1]["spec"]["artifact"]
    stored = [p for p in (prices.cloud.home / "objects").rglob("*") if p.is_file() and artifact[4:] in str(p.name)]
    kept = stored[0].read_bytes()
    stored[0].chmod(0o600)
    stored[0].write_bytes(b"no model" * 100)
    try:
        status, answer = prices.predict("broken")
        assert (status, answer["code"]) == (503, "WAKE_FAILED"), answer
        assert answer["detail"].startswith("broken cannot wake: ")
        begun = time.monotonic()
        assert prices.predict("broken")[0] == 503
        assert time.monotonic() - begun < 20
        assert prices.service("broken")["state"] == "DEGRADED"
    finally:
        stored[0].write_bytes(kept)  # it is tried again in a minute


def test_none_is_lost_while_it_goes_to_sleep_and_wakes_again_and_again(prices: Prices) -> None:
    """It sleeps after a second without a request; clients ask about once a second, so that many come just then."""
    prices.deploy("1s")
    luck, until = random.Random(7), time.monotonic() + 25
    answers: list[tuple[int, Any]] = []

    def ask_now_and_then(seed: int) -> None:
        own = random.Random(seed)
        while time.monotonic() < until:
            answers.append(prices.predict())
            time.sleep(own.uniform(0.6, 1.9))

    slept = 0
    clients = [threading.Thread(target=ask_now_and_then, args=(luck.random(),), daemon=True) for _ in range(2)]
    for client in clients:
        client.start()
    while time.monotonic() < until:
        slept += prices.service()["state"] == "SCALED_TO_ZERO"
        time.sleep(0.1)
    for client in clients:
        client.join(SECONDS)
    assert Counter(status for status, _ in answers) == {200: len(answers)}
    assert len(answers) > 5
    prices.deploy("1h")


def test_a_model_that_can_be_read_again_is_tried_again_by_itself(prices: Prices) -> None:
    """The one that could not be read two tests before; the minute that it takes has passed meanwhile, or nearly."""
    wait_for(lambda: prices.predict("broken")[0] == 200, "tried again", SECONDS)


def test_the_cloud_comes_back_with_what_slept_asleep(prices: Prices) -> None:
    prices.sleep()
    prices.cloud.command("down").succeeded()
    prices.cloud.command("up").succeeded()
    assert prices.service()["state"] == "SCALED_TO_ZERO"
    assert prices.predict()[0] == 200


def test_doctor_finds_nothing_wrong_with_a_service_that_sleeps(prices: Prices) -> None:
    for name in ("price", "rent", "broken"):
        prices.sleep(name)
    checks = json.loads(prices.cloud.command("doctor", "--json").out)["checks"]
    found = next(check for check in checks if check["name"] == "deployed")
    assert found["result"] == "ok", found
    assert Path(prices.cloud.home / "logs" / "default.activator.activator.log").exists()
