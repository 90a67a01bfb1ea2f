"""Several HAProxy behind one address: added, removed and killed under load."""

import contextlib
import http.client
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port

from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.adapters.haproxy.process import Running, recorded
from skyriver.control.gateway_stage import TOKEN, Client, Stage, pool, send, table, upstream, wait_for
from skyriver.core.resources import RequestLimit


class Gateways:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()

    def start(self, count: int | None = None) -> HaproxyGateway:
        gateway = HaproxyGateway(
            self.home / "gateway", port=self.port, control_socket=self.home / "control.sock", count=count
        )
        gateway.start()
        return gateway

    def run(self, number: int) -> Running:
        run = recorded(self.home / "gateway", number)
        assert run is not None
        return run

    def stage(self, gateway: HaproxyGateway) -> Stage:
        return Stage(gateway, ("127.0.0.1", self.port), self.home / "control.sock", self.home, lambda: None)


@pytest.fixture
def gateways() -> Iterator[Gateways]:
    with tempfile.TemporaryDirectory(prefix="sky") as name:
        gateways = Gateways(Path(name))
        yield gateways
        gateways.start(1).stop()


class Callers:
    """Clients that each send one request after the other, every tenth on a connection of its own, and send a request
    again once when it gets no answer. A connection that was closed while nothing was under way takes no request: it is
    sent on a new one, as every client does (RFC 9112, 9.3.1), and counts as sent once."""

    def __init__(self, stage: Stage, tries: int) -> None:
        self.done = 0
        self.lost: list[object] = []
        self._stage = stage
        self._tries = tries
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(6)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        wait_for("they are answered", lambda: self.done > 50)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def more(self, count: int) -> None:
        wanted = self.done + count
        wait_for("they go on being answered", lambda: self.done > wanted)

    def _run(self) -> None:
        client = Client(self._stage)
        while not self._over.is_set():
            for tries_left in reversed(range(self._tries)):
                try:
                    try:
                        reply = client.send("/predict/fraud")
                    except BrokenPipeError:  # nothing of it went out
                        client.close()
                        client = Client(self._stage)
                        reply = client.send("/predict/fraud")
                    break
                except (OSError, http.client.HTTPException) as error:
                    client.close()
                    client = Client(self._stage)
                    if not tries_left:
                        self.lost.append(error)
                        return
            if reply.status != 200:
                self.lost.append(reply)
            self.done += 1
            if not self.done % 10:
                client.close()
                client = Client(self._stage)
        client.close()


def test_they_share_the_address_and_serve_one_table(gateways: Gateways) -> None:
    gateway = gateways.start(2)
    stage = gateways.stage(gateway)
    with upstream(stage, "one") as one, upstream(stage, "two") as two:
        gateway.apply(table(pool("fraud:1", one)))
        control = gateways.start()  # another process that was not told how many there are
        assert gateways.run(1).pid != gateways.run(2).pid
        for _ in range(40):
            assert send(stage, "/predict/fraud").body["upstream"] == "one"
        control.apply(table(pool("fraud:1", two)))
        for _ in range(40):
            assert send(stage, "/predict/fraud").body["upstream"] == "two"
        threads = [threading.Thread(target=send, args=(stage, "/predict/fraud?hold"), daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for("requests of both are counted", lambda: control.sessions().get("two") == 8)
        two.release.set()
        for thread in threads:
            thread.join(60)
        wait_for("drained servers are forgotten by both", lambda: control.sessions() == {"two": 0})
        assert gateway.look() == {}
        again = [gateways.run(number) for number in (1, 2)]
        gateways.start()
        assert [gateways.run(number) for number in (1, 2)] == again
        stopped = [gateways.run(number).identity for number in (1, 2)]
        gateway.stop()
        assert not any(identity.alive() for identity in stopped)


def test_added_and_removed_under_load_no_request_is_lost(gateways: Gateways) -> None:
    gateway = gateways.start()
    stage = gateways.stage(gateway)
    with upstream(stage, "one") as one:
        gateway.apply(table(pool("fraud:1", one)))
        with Callers(stage, tries=1) as callers:
            for _ in range(3):
                gateways.start(3)
                callers.more(100)
                leaving = gateways.run(3).identity
                gateways.start(1)
                callers.more(100)
                wait_for("the third is gone", lambda gone=leaving: not gone.alive())
                assert recorded(gateways.home / "gateway", 3) is None
        assert callers.lost == []


def test_one_of_two_killed_under_load_loses_nobody_who_tries_twice(gateways: Gateways) -> None:
    begun = time.monotonic()
    gateway = gateways.start(2)
    starting = time.monotonic() - begun  # both of them: well below a second, unless the machine does much else
    stage = gateways.stage(gateway)
    with upstream(stage, "one") as one:
        gateway.apply(table(pool("fraud:1", one)))
        with Callers(stage, tries=2) as callers:
            for number in (1, 2, 1):
                os.kill(gateways.run(number).pid, signal.SIGKILL)
                callers.more(50)
                began = time.monotonic()
                gateways.start()
                assert time.monotonic() - began < max(10, 5 * starting)
                callers.more(50)
        assert callers.lost == []
        gateway.apply(table())
        assert all(send(stage, "/predict/fraud").status == 503 for _ in range(20)), "one has another table"


def test_each_has_its_part_of_a_limit(gateways: Gateways) -> None:
    gateway = gateways.start(2)
    stage = gateways.stage(gateway)
    with upstream(stage, "one") as one, contextlib.ExitStack() as clients:
        gateway.apply(table(pool("fraud:1", one), limit=RequestLimit(per_second=20)))
        connections = [clients.enter_context(contextlib.closing(Client(stage))) for _ in range(16)]
        answers: list[int] = []
        began = time.monotonic()
        for _ in range(10):  # a machine that answers less than twenty a second has to refuse none
            if 429 in answers:
                break
            answers += [connection.send("/predict/fraud").status for _ in range(10) for connection in connections]
            assert 10 <= answers.count(200) <= 20 * (time.monotonic() - began + 1)
        assert 429 in answers
        gateways.start(1)
        gateway.apply(table(pool("fraud:1", one), limit=RequestLimit(per_second=20)))
        run = gateways.run(1)
        assert (gateways.home / "gateway" / "routes.map").read_text().count("acme/model/fraud/limits 20:0") == 1
        assert run.identity.alive()


def test_the_token_is_asked_for_by_all(gateways: Gateways) -> None:
    gateway = gateways.start(2)
    stage = gateways.stage(gateway)
    gateway.apply(table())
    assert {send(stage, "/predict/fraud", token=None).status for _ in range(20)} == {401}
    assert {send(stage, "/predict/fraud", token=TOKEN).status for _ in range(20)} == {503}
