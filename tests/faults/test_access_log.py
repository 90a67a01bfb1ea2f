"""What a running HAProxy tells of requests, and that nothing it tells to can hold a request up."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

from skyriver.adapters.haproxy.access_log import FILE, SOCKET, AccessLog, Receiver, Recorded
from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.adapters.haproxy.process import recorded as running
from skyriver.control.gateway_stage import (
    OTHER_TOKEN,
    TOKEN,
    Client,
    Stage,
    Upstream,
    pool,
    send,
    table,
    upstream,
    wait_for,
)
from skyriver.control.request_log import RequestQuery
from skyriver.core.contract_requests import RequestLine
from skyriver.core.resources import RequestLimit


@dataclass
class Recording:
    stage: Stage
    gateway: HaproxyGateway
    logs: Path
    one: Upstream
    port: int

    def another(self, recorded: Recorded) -> HaproxyGateway:
        """The gateway with another choice of what is recorded; the one before takes no request any more."""
        folder = self.stage.sockets
        before = running(folder / "gateway")
        gateway = HaproxyGateway(
            folder / "gateway", port=self.port, control_socket=folder / "control.sock", recorded=recorded
        )
        gateway.start()
        wait_for("the one before is gone", lambda: before is not None and not before.identity.alive())
        return gateway

    @contextlib.contextmanager
    def receiver(self) -> Iterator[None]:
        over = threading.Event()
        receiver = Receiver(self.stage.sockets / "gateway", AccessLog(self.logs))
        thread = threading.Thread(target=receiver.run, args=(over.wait,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(60)

    def find(self, **query: Any) -> list[RequestLine]:
        return AccessLog(self.logs).find(RequestQuery(**query))

    def line(self, name: str) -> RequestLine:
        wait_for(f"{name} is recorded", lambda: self.find(id=name) != [])
        [found] = self.find(id=name)
        return found


@pytest.fixture
def recording() -> Iterator[Recording]:
    with tempfile.TemporaryDirectory(prefix="sky") as name, contextlib.ExitStack() as ending:
        folder, port = Path(name), free_port()
        (folder / "logs").mkdir()
        gateway = HaproxyGateway(folder / "gateway", port=port, control_socket=folder / "control.sock")
        gateway.start()
        ending.callback(gateway.stop)
        stage = Stage(gateway, ("127.0.0.1", port), folder / "control.sock", folder, lambda: None)
        one = ending.enter_context(upstream(stage, "one"))
        gateway.apply(table(pool("fraud:1", one)))
        yield Recording(stage, gateway, folder / "logs", one, port)


def test_what_became_of_a_request_is_found_by_its_id(recording: Recording) -> None:
    stage = recording.stage
    with recording.receiver():
        recording.one.delay = 0.05
        before = time.time()
        answer = send(stage, "/predict/fraud?secret=1", body=b'{"amount": 4711}', X_Request_Id="order-7")
        assert (answer.status, answer.headers["x-request-id"]) == (200, "order-7")
        line = recording.line("order-7")
        assert (line["tenant"], line["of"], line["asks"], line["method"]) == ("acme", "model/fraud", "predict", "POST")
        assert (line["status"], line["code"], line["server"], line["end"]) == (200, "", "one", "--")
        assert before - 1 <= line["time"] <= time.time()
        assert line["answer_ms"] is not None
        assert line["total_ms"] is not None
        assert 45 <= line["answer_ms"] <= line["total_ms"] <= 60_000
        assert line["bytes_in"] > 16
        assert line["bytes_out"] > 100
        made = send(stage, "/v2/models/fraud/infer").headers["x-request-id"]
        assert recording.line(made)["asks"] == "predict", "an id that the gateway made is found as well"
        text = (recording.logs / FILE).read_text()
        for word in (TOKEN, "secret", "4711", "Bearer"):
            assert word not in text


def test_times_are_of_the_request_and_not_of_its_connection(recording: Recording) -> None:
    with recording.receiver(), contextlib.closing(Client(recording.stage)) as client:
        client.send("/predict/fraud", X_Request_Id="first")
        time.sleep(1.1)
        asked = time.time()
        client.send("/predict/fraud", X_Request_Id="second")
        took = time.time() - asked
        line = recording.line("second")
        assert asked - 0.5 <= line["time"] <= asked + took + 0.5
        assert line["total_ms"] is not None
        assert line["total_ms"] < 1_000 * (took + 1)


def test_a_refusal_says_why(recording: Recording) -> None:
    stage = recording.stage
    with recording.receiver():
        assert send(stage, "/predict/fraud", token=None, X_Request_Id="nobody").status == 401
        assert send(stage, "/predict/spam", X_Request_Id="unknown").status == 404
        assert send(stage, "/predict/fraud", token=OTHER_TOKEN, X_Request_Id="other").status == 404
        assert send(stage, "/api/v1/tenants/acme/jobs", method="GET", body=b"", X_Request_Id="away").status == 503
        assert send(stage, '/predict/a"b\\c', X_Request_Id="strange").status == 404
        recording.gateway.apply(table(pool("fraud:1", recording.one), limit=RequestLimit(per_second=1)))
        wait_for("it is limited", lambda: send(stage, "/predict/fraud", X_Request_Id="limited").status == 429)
        recording.gateway.apply(table(pool("fraud:1")))
        assert send(stage, "/predict/fraud", X_Request_Id="empty").status == 503
        with socket.create_connection(stage.address) as raw:
            raw.sendall(b"no HTTP\r\n\r\n")
            assert b"400" in raw.recv(100)
        told = {name: recording.line(name) for name in ("nobody", "unknown", "other", "away", "strange", "empty")}
        codes = {name: line["code"] for name, line in told.items()}
        assert codes == {
            "nobody": "UNAUTHENTICATED",
            "unknown": "UNKNOWN_ROUTE",
            "other": "UNKNOWN_ROUTE",
            "away": "CONTROL_AWAY",
            "strange": "UNKNOWN_ROUTE",
            "empty": "NO_CAPACITY",
        }
        assert (told["nobody"]["tenant"], told["other"]["tenant"]) == ("", "globex")
        assert (told["away"]["of"], told["away"]["asks"], told["away"]["server"]) == ("control", "jobs", "control")
        assert told["strange"]["of"] == 'model/a"b\\c'
        wait_for("the limit is told", lambda: "RATE_LIMITED" in {one["code"] for one in recording.find(id="limited")})
        wait_for("what is no HTTP is told", lambda: any(one["status"] == 400 for one in recording.find(id="")))
        refused = send(stage, "/predict/fraud", token=None)
        assert "x-skyriver-code" not in refused.headers


def test_probes_are_not_recorded(recording: Recording) -> None:
    with recording.receiver():
        for path in ("/livez", "/v2/health/ready"):
            send(recording.stage, path, token=None, method="GET", body=b"", X_Request_Id="probe")
        send(recording.stage, "/predict/fraud", X_Request_Id="last")
        recording.line("last")
        assert recording.find(id="probe") == []


def test_nobody_listens_and_requests_go_on(recording: Recording) -> None:
    """Without a receiver, and with one that does not read, the ring loses its oldest lines."""
    with contextlib.closing(Client(recording.stage)) as client:
        for number in range(200):
            assert client.send("/predict/fraud", X_Request_Id=f"away-{number}").status == 200
    path = recording.stage.sockets / "gateway" / SOCKET
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        deaf.settimeout(120)
        held, _ = deaf.accept()
        with held, contextlib.closing(Client(recording.stage)) as client:
            for number in range(2_000):  # three times what a socket and half of the ring hold
                assert client.send("/predict/fraud", X_Request_Id=f"deaf-{number}-{'x' * 60}").status == 200
    with recording.receiver():
        send(recording.stage, "/predict/fraud", X_Request_Id="heard")
        assert recording.line("heard")["status"] == 200


def test_errors_alone_or_nothing(recording: Recording) -> None:
    stage = recording.stage
    with recording.receiver():
        recording.another("errors")
        send(stage, "/predict/fraud", X_Request_Id="well")
        send(stage, "/predict/spam", X_Request_Id="wrong")
        recording.one.status = 500
        send(stage, "/predict/fraud", X_Request_Id="failed")
        assert recording.line("failed")["status"] == 500
        assert recording.line("wrong")["code"] == "UNKNOWN_ROUTE"
        assert recording.find(id="well") == []
        recording.another("off")
        assert send(stage, "/predict/spam", X_Request_Id="unseen").status == 404
        recording.another("all")
        send(stage, "/predict/spam", X_Request_Id="seen")
        recording.line("seen")
        assert recording.find(id="unseen") == []
