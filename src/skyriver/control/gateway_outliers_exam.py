"""The part of the gateway's exam about servers that answer much slower than their siblings, or fail."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skyriver.control.gateway_stage import Client, Stage, Upstream, pool, send, table, upstream, wait_for
from skyriver.control.outliers import LOOK_SECONDS

USUAL = 0.03
"""So long that a busy machine's own delays do not make one of four alike look slow."""
SLOW = 0.3
PATIENCE = 60.0


def check_slow_servers(stage: Stage) -> None:
    with _four(stage) as servers, _load(stage):
        slow = servers[3]
        assert _look(stage, 1.5) == {}, "one of four alike is out"
        slow.delay = SLOW
        began = time.monotonic()
        _until(stage, "the slow one is out", lambda out: out.get("d") == 0)
        took = time.monotonic() - began
        # The load may be slow to show it where the machine is busy; the judgement needs no more than the window.
        assert took < PATIENCE / 2, took
        wait_for("what was on its way is answered", lambda: stage.gateway.sessions()["d"] == 0)
        count = len(slow.seen)
        time.sleep(2 * SLOW)
        assert len(slow.seen) <= count, "it still gets requests"
        slow.delay = USUAL
        _until(stage, "it is back", lambda out: not out)
        count = len(slow.seen)
        _until(stage, "it gets requests again", lambda out: len(slow.seen) > count + 10)


def check_failing_servers(stage: Stage) -> None:
    with _four(stage) as servers, _load(stage):
        failing = servers[0]
        failing.status, failing.delay = 500, 0.0
        _until(stage, "the failing one is out", lambda out: out.get("a") == 0)
        failing.status, failing.delay = 200, USUAL
        _until(stage, "it is back", lambda out: not out)
        for server in servers:
            server.status = 503
        assert _look(stage, 1.5) == {}, "all fail alike: taking one out helps nobody"


def check_half_stays(stage: Stage) -> None:
    with _four(stage) as servers, _load(stage):
        for server in servers[1:]:
            server.delay = SLOW
        for _ in range(12):
            assert len(_look(stage, LOOK_SECONDS)) <= 2
    with _four(stage) as servers, _load(stage):
        a, b = servers[:2]
        b.delay = SLOW
        two = table(pool("fraud:1", a, b))
        stage.gateway.apply(two)
        _until(stage, "one of two is out", lambda out: out.get("b") == 0)
        stage.gateway.apply(table(pool("fraud:1", b)))
        _until(stage, "the only one is in again", lambda out: not out)
        assert send(stage, "/predict/fraud").body["upstream"] == "b"


def check_last_server(stage: Stage) -> None:
    """One that is out is better than none, before anybody looks again."""
    with upstream(stage, "b") as b:
        with upstream(stage, "a") as a:
            a.delay, b.delay = USUAL, SLOW
            stage.gateway.apply(table(pool("fraud:1", a, b)))
            with _load(stage):
                _until(stage, "one of two is out", lambda out: out.get("b") == 0)
        told = [send(stage, "/predict/fraud") for _ in range(6)]
        # The first ones, that find the other dead, may be told to come again.
        assert [reply.status for reply in told[2:]] == [200] * 4, told
        assert {reply.body["upstream"] for reply in told[2:]} == {"b"}
        stage.gateway.apply(table(pool("fraud:2", b), split=(("fraud:1", 50), ("fraud:2", 50))))
        assert send(stage, "/predict/fraud").body["upstream"] == "b"


@contextmanager
def _four(stage: Stage) -> Iterator[list[Upstream]]:
    with contextlib.ExitStack() as all_of_them:
        servers = [all_of_them.enter_context(upstream(stage, name)) for name in "abcd"]
        for server in servers:
            server.delay = USUAL
        stage.gateway.apply(table(pool("fraud:1", *servers)))
        yield servers


@contextmanager
def _load(stage: Stage) -> Iterator[None]:
    """Eight clients, whatever they are answered."""
    over = threading.Event()

    def run() -> None:
        with contextlib.closing(Client(stage)) as client:
            while not over.is_set():
                if client.send("/predict/fraud").status == 503:
                    over.wait(0.01)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)


def _look(stage: Stage, seconds: float) -> dict[str, int]:
    """Looks for so long as a supervisor does; everybody who was out meanwhile."""
    out: dict[str, int] = {}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        out |= stage.gateway.look()
        time.sleep(LOOK_SECONDS)
    return out


def _until(stage: Stage, what: str, condition: Callable[[dict[str, int]], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition(dict(stage.gateway.look())):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(LOOK_SECONDS)
