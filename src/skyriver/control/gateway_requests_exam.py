"""The part of the gateway's exam about single requests: their ids, deadlines, limits, and second tries."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from skyriver.control.gateway_rules import ID_PATTERN
from skyriver.control.gateway_stage import (
    DEADLINE,
    OTHER_TOKEN,
    TOKEN,
    Client,
    Reply,
    Stage,
    pool,
    send,
    table,
    upstream,
    wait_for,
)
from skyriver.core.resources import RequestLimit, Route, Server


def check_ids(stage: Stage) -> None:
    with upstream(stage, "one") as one:
        stage.gateway.apply(table(pool("fraud:1", one)))
        told = send(stage, "/predict/fraud", X_Request_Id="order-7:2/a")
        assert told.headers["x-request-id"] == "order-7:2/a"
        assert _sent(told, "x-request-id") == ["order-7:2/a"]
        made = set()
        for odd in (None, "", "a b", "x" * 129, 'a"b', "a;b", "\xe9"):
            told = send(stage, "/predict/fraud") if odd is None else send(stage, "/predict/fraud", X_Request_Id=odd)
            identity = told.headers["x-request-id"]
            assert re.fullmatch(ID_PATTERN, identity), identity
            assert identity != odd
            assert _sent(told, "x-request-id") == [identity]
            made.add(identity)
        assert len(made) == 7, "two requests have one id"
        for path, token in (("/livez", None), ("/predict/fraud", None), ("/predict/none", TOKEN), ("/api/v1/x", TOKEN)):
            assert send(stage, path, token=token, X_Request_Id="mine").headers["x-request-id"] == "mine", path


def _sent(told: Reply, name: str) -> list[str]:
    return [value for known, value in told.body["headers"] if known == name]


def check_deadlines(stage: Stage) -> None:
    with upstream(stage, "one") as one:
        stage.gateway.apply(table(pool("fraud:1", one)))
        before = time.time()
        told = send(stage, "/predict/fraud", X_Skyriver_Arrived="1", X_Request_Deadline=f"{before + 60:.3f}")
        assert told.status == 200
        (arrived,) = _sent(told, "x-skyriver-arrived")
        assert before - 0.01 <= float(arrived) <= time.time() + 0.01
        assert "." in arrived
        for later in (f"{before + 60:.0f}", f"{before + 60:.9f}", "99999999999", f"{before + 600:.1f}"):
            assert send(stage, "/predict/fraud", X_Request_Deadline=later).status == 200, later
        one.seen.clear()
        for over in ("0", "1700000000", "1700000000.5", f"{before - 0.5:.3f}"):
            late = send(stage, "/predict/fraud", X_Request_Deadline=over)
            assert (late.status, late.code) == (504, "DEADLINE_EXCEEDED"), over
        for wrong in ("", "soon", "-1", "1e12", "1.2.3", "nan", "2026-01-01T00:00:00Z", "9" * 12, "1767225600x5"):
            refused = send(stage, "/predict/fraud", X_Request_Deadline=wrong)
            assert (refused.status, refused.code) == (400, "BAD_DEADLINE"), wrong
        assert one.seen == [], "a server got what nobody waits for"
        began = time.monotonic()
        late = send(stage, "/predict/fraud?hold", X_Request_Deadline=f"{time.time() + 0.3:.3f}")
        assert late.status == 504
        assert 0.2 < time.monotonic() - began < DEADLINE / 2


def check_rate_limits(stage: Stage) -> None:
    with upstream(stage, "one") as one, upstream(stage, "two") as two, contextlib.closing(Client(stage)) as client:
        other = Route("acme", "model", "spam", (("spam:1", 100),))
        pools = (pool("fraud:1", one), pool("spam:1", two))
        stage.gateway.apply(table(*pools, routes=(other,), limit=RequestLimit(per_second=5)))
        refused = _refused_of(client, "/predict/fraud", 30)
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.send("/predict/spam").status == 200, "another model has another limit"
        versions = _refused_of(client, "/v2/models/fraud/versions/1/infer", 30)
        assert versions.code == "RATE_LIMITED", "a version by its number goes around the limit"
        # Who goes on sending too much gets what he may have.
        began, answers = time.monotonic(), 0
        while time.monotonic() - began < 2.5:
            answers += client.send("/predict/fraud").status == 200
        assert 5 <= answers <= 30, answers
        stage.gateway.apply(table(*pools, routes=(other,)))
        assert all(client.send("/predict/fraud").status == 200 for _ in range(30))
        stage.gateway.apply(table(*pools, routes=(other,), limits=(("acme", RequestLimit(per_second=5)),)))
        assert _refused_of(client, "/predict/fraud", 30).code == "RATE_LIMITED"
        assert _refused_of(client, "/predict/spam", 30).code == "RATE_LIMITED"
        assert client.send("/api/v1/x").code == "CONTROL_AWAY", "limits are of models and streams"
        assert send(stage, "/predict/fraud", token=OTHER_TOKEN).status == 404, "another tenant has another limit"


def _refused_of(client: Client, path: str, count: int) -> Reply:
    """The first of `count` requests that is not answered with 200. A machine on which they take so long that a limit of
    five a second may let them all through tries again."""
    for _ in range(10):
        began = time.monotonic()
        for _ in range(count):
            reply = client.send(path)
            if reply.status != 200:
                return reply
        assert time.monotonic() - began > count / 10, f"{count} requests at once were let through"
    raise AssertionError(f"{count} requests were let through ten times")


def check_concurrency_limits(stage: Stage) -> None:
    with upstream(stage, "one") as one:
        for kind in ("limit", "limits"):
            one.release.clear()
            two = RequestLimit(at_once=2)
            limited = table(
                pool("fraud:1", one), **({"limit": two} if kind == "limit" else {"limits": (("acme", two),)})
            )
            stage.gateway.apply(limited)
            with _held(stage, 2):
                refused = send(stage, "/predict/fraud")
                assert (refused.status, refused.code) == (429, "TOO_MANY_AT_ONCE"), kind
                assert int(refused.headers["retry-after"]) >= 1
                stage.gateway.apply(table(pool("fraud:1", one)))
                assert send(stage, "/predict/fraud").status == 200, "a limit that was taken back still holds"
                stage.gateway.apply(limited)
                assert send(stage, "/predict/fraud").status == 429, "what was under way is not counted any more"
                one.release.set()
            wait_for("there is room again", lambda: send(stage, "/predict/fraud").status == 200)


@contextmanager
def _held(stage: Stage, count: int) -> Iterator[None]:
    """So many requests are under way meanwhile; all are answered in the end."""
    replies: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: replies.append(send(stage, "/predict/fraud?hold")), daemon=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    wait_for("they run", lambda: sum(stage.gateway.sessions().values()) == count)
    yield
    for thread in threads:
        thread.join(DEADLINE)
    assert [reply.status for reply in replies] == [200] * count


def check_second_tries(stage: Stage) -> None:
    """What may come twice is sent once more when its server ended without an answer; the rest may have been done."""
    events, labels = "/streams/fraud/events", "/streams/fraud/labels"
    streams = Route("acme", "stream", "fraud", (("fraud", 100),))
    with (
        upstream(stage, "one") as one,
        upstream(stage, "two") as two,
        upstream(stage, "three") as three,
        contextlib.closing(Client(stage)) as client,
    ):
        servers = (one, two, three)
        stage.gateway.apply(table(pool("fraud:1", *servers), pool("fraud", *servers), routes=(streams,)))
        for method, path in (("GET", "/v2/models/fraud"), ("POST", "/predict/fraud"), ("POST", events)):
            one.seen.clear()
            for _ in range(6):  # on a connection that is used again, and servers' that are
                answered = client.send(f"{path}?drop=one", method=method)
                assert (answered.status, answered.body["upstream"] != "one") == (200, True), (path, answered)
                assert answered.body["body"] == "{}", path
            assert len(one.seen) > 0, "nothing was dropped"
        for path, times in (("/predict/fraud", 2), (events, 2), (labels, 1)):
            for server in servers:
                server.seen.clear()
            failed = send(stage, f"{path}?drop")
            assert (failed.status, failed.code) == (502, "UPSTREAM_FAILED"), path
            assert sum(len(server.seen) for server in servers) == times, path


def check_protocol(stage: Stage) -> None:
    """What the Open Inference Protocol asks of a server, of no model."""
    with upstream(stage, "one") as one:
        stage.gateway.apply(table(pool("fraud:1", one)))
        for path in ("/v2", "/v2/", "http://exam/v2"):
            told = send(stage, path, method="GET", body=b"", Host="exam")
            assert (told.status, told.body["name"]) == (200, "skyriver"), path
            assert told.body["extensions"] == ["binary_tensor_data"]
            assert send(stage, path, method="GET", body=b"", token=None, Host="exam").status == 401
        for part in ("repository/index", "logging", "trace/setting", "systemsharedmemory/status", "models/stats"):
            for method in ("GET", "POST"):
                refused = send(stage, f"/v2/{part}", method=method)
                assert (refused.status, refused.code) == (501, "NOT_SUPPORTED"), part
                assert part in refused.body["error"], refused.body
        assert send(stage, "/v2/models/fraud/stats", method="GET").body["upstream"] == "one"
        asked = '/predict/a"b\\c<%41>%[src]' + "x" * 300
        unknown = send(stage, asked)
        assert (unknown.status, unknown.code) == (404, "UNKNOWN_ROUTE")
        assert asked[:200] in unknown.body["detail"]
        assert asked[:201] not in unknown.body["detail"]
        stats = Route("acme", "model", "stats", (("stats:1", 100),))
        stage.gateway.apply(table(pool("stats:1", one), routes=(stats,)))
        assert send(stage, "/v2/models/stats").body["upstream"] == "one", "a model may be called so"
        told = send(stage, "http://exam/predict/stats?a=/b", Host="exam")
        assert (told.status, told.body["path"]) == (200, "/predict/stats?a=/b")


def check_leaving(stage: Stage) -> None:
    """A server learns that whoever asked has left."""
    with upstream(stage, "one") as one:
        stage.gateway.apply(table(pool("fraud:1", one)))
        head = f"POST /predict/fraud?watch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
        for leave in (socket.SHUT_RDWR, socket.SHUT_WR):
            one.seen.clear()
            one.left.clear()
            with socket.create_connection(stage.address, timeout=DEADLINE) as connection:
                connection.sendall(f"{head}content-length: 2\r\n\r\n{{}}".encode())
                wait_for("the server has it", lambda: bool(one.seen))
                assert not one.left
                connection.shutdown(leave)
                wait_for("the server sees the end", lambda: bool(one.left))
            assert len(one.seen) == 1, "it was sent again"
        assert send(stage, "/predict/fraud").status == 200


def check_stand_in(stage: Stage) -> None:
    """One server may stand in several pools, hold what comes there, and give its place in one of them to another."""
    two = Route("acme", "model", "other", (("other:1", 100),))
    with upstream(stage, "holder") as holder, upstream(stage, "replica") as replica:
        holds = Server(holder.name, str(holder.path), holds=True)
        stage.gateway.apply(table(pool("fraud:1", holds), pool("other:1", holds), routes=(two,)))
        replies: list[Reply] = []

        def ask() -> None:
            replies.append(send(stage, "/predict/fraud?hold"))

        asking = [threading.Thread(target=ask, daemon=True) for _ in range(20)]
        for thread in asking:
            thread.start()
        wait_for("all are held", lambda: stage.gateway.sessions() == {"holder": 20})
        stage.gateway.apply(table(pool("fraud:1", replica), pool("other:1", holds), routes=(two,)))
        for _ in range(5):
            assert send(stage, "/predict/fraud").body["upstream"] == "replica"
            assert send(stage, "/predict/other").body["upstream"] == "holder"
        assert not replies
        holder.release.set()
        for thread in asking:
            thread.join(DEADLINE)
        assert [(reply.status, reply.body["upstream"]) for reply in replies] == [(200, "holder")] * 20
        stage.gateway.apply(table(pool("fraud:1", holds), pool("other:1", holds), routes=(two,)))
        assert send(stage, "/predict/fraud").body["upstream"] == "holder"
