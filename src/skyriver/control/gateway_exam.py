"""The exam of the `Gateway` port: what its docstring says, met as a client and as the control plane meet it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from skyriver.control.gateway_outliers_exam import (
    check_failing_servers,
    check_half_stays,
    check_last_server,
    check_slow_servers,
)
from skyriver.control.gateway_requests_exam import (
    check_concurrency_limits,
    check_deadlines,
    check_ids,
    check_leaving,
    check_protocol,
    check_rate_limits,
    check_second_tries,
    check_stand_in,
)
from skyriver.control.gateway_rules import BODY_LIMIT
from skyriver.control.gateway_stage import (
    DEADLINE,
    OTHER_TOKEN,
    TOKEN,
    Client,
    Load,
    Reply,
    Stage,
    Upstream,
    digest_of,
    pool,
    send,
    table,
    upstream,
    wait_for,
)
from skyriver.core.errors import InvalidInput
from skyriver.core.resources import RequestLimit, Route, RouteTable, Server

Make = Callable[[], AbstractContextManager[Stage]]


def check_gateway(make: Make) -> None:
    """Raises AssertionError naming what does not hold. Each check begins with a gateway of its own."""
    for check in (
        check_open_paths,
        check_tokens,
        check_read_only,
        check_control,
        check_routes,
        check_forwarding,
        check_capacity,
        check_weights,
        check_swap_under_load,
        check_swap_before_the_body,
        check_draining,
        check_stand_in,
        check_protocol,
        check_second_tries,
        check_leaving,
        check_ids,
        check_deadlines,
        check_rate_limits,
        check_concurrency_limits,
        check_sizes,
        check_slow_servers,
        check_failing_servers,
        check_half_stays,
        check_last_server,
        check_restart,
        check_refused_tables,
    ):
        with make() as stage:
            check(stage)


def check_open_paths(stage: Stage) -> None:
    for path in ("/livez", "/v2/health/live", "/v2/health/ready"):
        for token in (None, "nobody's", TOKEN):
            assert send(stage, path, method="GET", body=b"", token=token).status == 200, path


def check_tokens(stage: Stage) -> None:
    paths = ("/", "/livez/x", "/api/v1/x", "/predict/fraud", "/streams/payments/events", "/v2/models/fraud/infer")
    for path in paths:
        refused = send(stage, path, token=None)
        assert (refused.status, refused.code) == (401, "UNAUTHENTICATED"), path
        assert refused.headers["www-authenticate"] == "Bearer"
    with upstream(stage, "one") as one:
        stage.gateway.apply(table(pool("fraud:1", one)))
        assert send(stage, "/predict/fraud").status == 200
        for wrong in ("Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", f"Bearer {digest_of(TOKEN)}", TOKEN):
            assert send(stage, "/predict/fraud", token=None, Authorization=wrong).status == 401, wrong
        assert send(stage, "/predict/fraud", token=None, Authorization=f"bearer {TOKEN}").status == 200
        without = table(pool("fraud:1", one))
        stage.gateway.apply(RouteTable(without.routes, without.pools, without.tokens[1:]))
        assert send(stage, "/predict/fraud").status == 401, "a token that was taken back still works"


def check_read_only(stage: Stage) -> None:
    with upstream(stage, "one") as one, upstream(stage, "worker") as worker:
        streams = (Route("acme", "stream", "fraud", (("fraud", 100),)),)
        writes = table(pool("fraud:1", one), pool("fraud", worker), routes=streams)
        looks = replace(writes, read_only=(digest_of(TOKEN),))
        stage.gateway.apply(writes)
        assert send(stage, "/streams/fraud/events").status == 200
        worker.seen.clear()
        stage.gateway.apply(looks)
        _check_looks(stage, worker)
        stage.kill()
        stage.gateway.start()
        _check_looks(stage, worker)
        stage.gateway.apply(replace(looks, read_only=(digest_of(OTHER_TOKEN),)))
        assert send(stage, "/streams/fraud/events").status == 200, "it is another token that only looks"
        stage.gateway.apply(looks)
        assert send(stage, "/streams/fraud/events").status == 403
        stage.gateway.apply(writes)
        assert send(stage, "/streams/fraud/events").status == 200


def _check_looks(stage: Stage, worker: Upstream) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", "ODD"):
        for path in ("/streams/fraud/events", "/streams/fraud/references/denied?off", "/streams/none/labels"):
            refused = send(stage, path, method=method)
            assert (refused.status, refused.code) == (403, "NOT_ALLOWED"), (method, path)
            assert "operator" in refused.body["next_action"]
    for target in ("http://x/streams/fraud/events", "//streams/fraud/events", "/%73treams/fraud/events"):
        for rest in ("content-length: 2\r\n\r\n{}", "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"):
            request = f"POST {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n{rest}"
            assert b" 40" in _raw(stage, request.encode()).splitlines()[0], target
    assert worker.seen == [], "a worker got what the token may not send"
    assert send(stage, "/streams/fraud/decisions/7", method="GET", body=b"").body["upstream"] == "worker"
    assert send(stage, "/streams/fraud", method="HEAD", body=b"").status == 200
    worker.seen.clear()
    assert send(stage, "/predict/fraud").body["upstream"] == "one", "predictions change nothing"
    assert send(stage, "/api/v1/x").code == "CONTROL_AWAY", "the control plane looks at roles itself"


def check_control(stage: Stage) -> None:
    stage.gateway.apply(table())
    away = send(stage, "/api/v1/tenants/acme")
    assert (away.status, away.code) == (503, "CONTROL_AWAY")
    assert int(away.headers["retry-after"]) >= 1
    with upstream(stage, "control", stage.control_socket) as control:
        told = send(stage, "/api/v1/tenants/acme?x=1", x_skyriver_tenant="globex")
        assert told.status == 200
        assert (told.body["upstream"], told.body["path"]) == ("control", "/api/v1/tenants/acme?x=1")
        assert ["authorization", f"Bearer {TOKEN}"] in told.body["headers"], "the control plane needs the token"
        assert _tenants(told) == ["acme"]
        _check_streams(stage, control)
    assert send(stage, "/api/v1/tenants/acme").code == "CONTROL_AWAY"


def _check_streams(stage: Stage, control: Upstream) -> None:
    """Pieces go through as they come, both ways."""
    uploaded = send(stage, "/api/v1/bundles", body=(b"x" * 50_000 for _ in range(20)))
    assert len(uploaded.body["body"]) == 1_000_000
    with contextlib.closing(http.client.HTTPConnection(*stage.address, timeout=DEADLINE)) as connection:
        connection.request("GET", "/api/v1/events?stream", headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        assert response.status == 200
        assert response.read(9) == b"data: 1\n\n"
        control.release.set()
        assert response.read() == b"data: 2\n\n"


def check_routes(stage: Stage) -> None:
    with (
        upstream(stage, "first") as first,
        upstream(stage, "second") as second,
        upstream(stage, "worker") as worker,
        upstream(stage, "theirs") as theirs,
    ):
        routes = (
            Route("acme", "stream", "fraud", (("fraud", 100),)),
            Route("globex", "model", "spam", (("spam:1", 100),)),
        )
        stage.gateway.apply(
            table(
                pool("fraud:1", first),
                pool("fraud:2", second),
                pool("fraud", worker),
                pool("spam:1", theirs, tenant="globex"),
                routes=routes,
            )
        )
        for path, name in (
            ("/v2/models/fraud", "first"),
            ("/v2/models/fraud/infer", "first"),
            ("/predict/fraud", "first"),
            ("/predict/fraud?x=/y", "first"),
            ("/v2/models/fraud/versions/1/infer", "first"),
            ("/v2/models/fraud/versions/2/infer", "second"),
            ("/v2/models/fraud/versions/2", "second"),
            ("/streams/fraud", "worker"),
            ("/streams/fraud/events?wait=decision", "worker"),
        ):
            told = send(stage, path)
            assert told.status == 200, (path, told)
            assert (told.body["upstream"], told.body["path"]) == (name, path)
        for path in (
            "/",
            "/internal/history",
            "/internal/features",
            "/v2/models",
            "/v2/models/",
            "/v2/models/none/infer",
            "/v2/models/spam/infer",
            "/v2/models/fraud/versions/3/infer",
            "/v2/models/fraud/versions/02/infer",
            "/v2/models/fraud%2Fversions%2F2/infer",
            "/v2/models/fraud:2/infer",
            "/predict/FRAUD",
            "/predict/fraud|0",
            "/predict/",
            "/streams/spam/events",
        ):
            refused = send(stage, path)
            assert (refused.status, refused.code) == (404, "UNKNOWN_ROUTE"), path
        for path in ("/streams/fraud/../../internal/history", "/streams/fraud/%2e%2E/x", "/v2/models/./fraud"):
            assert send(stage, path).code == "BAD_PATH", path
        assert send(stage, "/predict/spam", token=OTHER_TOKEN).body["upstream"] == "theirs"
        assert send(stage, "/predict/fraud", token=OTHER_TOKEN).status == 404
        assert not any("internal" in path for one in (first, second, worker, theirs) for path in one.seen)


def check_forwarding(stage: Stage) -> None:
    with upstream(stage, "one") as one:
        stage.gateway.apply(table(pool("fraud:1", one)))
        body = b"x" * 300_000
        headers = {"X_Skyriver_Tenant": "globex", "x_skyriver_other": "1", "X_Request_Id": "7", "Upgrade": "h2c"}
        told = send(stage, "/predict/fraud?a=b%20c", method="PUT", body=body, **headers)
        assert told.status == 200
        assert (told.body["method"], told.body["path"]) == ("PUT", "/predict/fraud?a=b%20c")
        assert told.body["body"] == body.decode()
        assert _tenants(told) == ["acme"]
        assert ["x-request-id", "7"] in told.body["headers"]
        names = {name for name, _ in told.body["headers"]}
        assert not names & {"authorization", "upgrade", "x-skyriver-other"}, names
        with contextlib.closing(Client(stage)) as client:
            for _ in range(3):
                assert client.send("/predict/fraud").status == 200


def _tenants(told: Reply) -> list[str]:
    return [value for name, value in told.body["headers"] if name == "x-skyriver-tenant"]


def check_capacity(stage: Stage) -> None:
    def none_up(path: str) -> None:
        assert any(refused_at_once(path) for _ in range(10)), "clients wait for a process that is not there"

    def refused_at_once(path: str) -> bool:
        """A busy machine may take its time once, and not each time."""
        began = time.monotonic()
        refused = send(stage, path)
        assert (refused.status, refused.code) == (503, "NO_CAPACITY"), path
        assert int(refused.headers["retry-after"]) >= 1
        return time.monotonic() - began < 1

    gone = Server("gone", str(stage.sockets / "gone.sock"))
    stage.gateway.apply(table(pool("fraud:1"), split=()))
    none_up("/predict/fraud")
    none_up("/v2/models/fraud/versions/1/infer")
    stage.gateway.apply(table(split=(("fraud:1", 100),)))
    none_up("/predict/fraud")
    stage.gateway.apply(table(pool("fraud:1", Server("unplaced", ""))))
    none_up("/predict/fraud")
    stage.gateway.apply(table(pool("fraud:1", gone)))
    none_up("/predict/fraud")
    none_up("/predict/fraud")
    with upstream(stage, "one") as one:
        # A server whose process is dead costs nobody a request while another is up, in its pool or its route.
        stage.gateway.apply(table(pool("fraud:1", gone, one)))
        for _ in range(20):
            assert send(stage, "/predict/fraud").body["upstream"] == "one"
        stage.gateway.apply(
            table(pool("fraud:1", gone), pool("fraud:2", one), split=(("fraud:1", 50), ("fraud:2", 50)))
        )
        answers = Counter(send(stage, "/predict/fraud").status for _ in range(20))
        assert answers[200] >= 19, answers  # the first that finds it dead may be told to come again
    none_up("/predict/fraud")
    with upstream(stage, "gone"):  # the process is back
        wait_for("the server is used again", lambda: send(stage, "/predict/fraud").status == 200)


def check_weights(stage: Stage) -> None:
    with upstream(stage, "old") as old, upstream(stage, "new") as new, contextlib.closing(Client(stage)) as client:
        pools = (pool("fraud:1", old), pool("fraud:2", new))

        def shares(old_weight: int, count: int) -> int:
            stage.gateway.apply(table(*pools, split=(("fraud:1", old_weight), ("fraud:2", 100 - old_weight))))
            return Counter(client.send("/predict/fraud").body["upstream"] for _ in range(count))["new"]

        assert shares(100, 50) == 0
        assert 60 <= shares(75, 400) <= 140  # 100 expected, 8.7 the deviation
        assert shares(0, 50) == 50


def check_swap_under_load(stage: Stage) -> None:
    """Servers, splits and versions change; who has left the table and has no request left is ended."""
    load = Load(stage)
    with contextlib.ExitStack() as last:
        ends: dict[int, contextlib.ExitStack] = {}

        def begin(turn: int) -> Upstream:
            ends[turn] = last.enter_context(contextlib.ExitStack())
            return ends[turn].enter_context(upstream(stage, f"server{turn}"))

        old = begin(0)
        stage.gateway.apply(table(pool("fraud:1", old)))
        last.callback(load.end)
        load.begin()
        version = 1
        for turn in range(1, 7):
            before = load.done
            new = begin(turn)
            if turn % 2:  # another replica of the same version
                both = table(pool(f"fraud:{version}", old, new), split=((f"fraud:{version}", 100),))
            else:  # a new version, by a canary
                split = ((f"fraud:{version}", 60), (f"fraud:{version + 1}", 40))
                both = table(pool(split[0][0], old), pool(split[1][0], new), split=split)
                version += 1
            stage.gateway.apply(both)
            stage.gateway.apply(table(pool(f"fraud:{version}", new), split=((f"fraud:{version}", 100),)))
            wait_for("the old server has drained", partial(_gone, stage, old.name))
            ends[turn - 1].close()
            wait_for("the load goes on", partial(load.reached, before + 40))
            old = new
        load.end()
        assert not load.failed, f"{len(load.failed)} of {load.done} requests failed, the first: {load.failed[0]}"


def _gone(stage: Stage, name: str) -> bool:
    return name not in stage.gateway.sessions()


def check_swap_before_the_body(stage: Stage) -> None:
    """A request whose head came before its server left and whose body comes after is not refused."""
    head = f"POST /predict/fraud HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 2\r\n\r\n"
    with (
        socket.create_connection(stage.address, timeout=DEADLINE) as connection,
        upstream(stage, "old") as old,
        upstream(stage, "new") as new,
    ):
        stage.gateway.apply(table(pool("fraud:1", old)))
        connection.sendall(head.encode())
        time.sleep(0.2)  # the head is read: nothing tells when
        stage.gateway.apply(table(pool("fraud:2", new), split=(("fraud:2", 100),)))
        connection.sendall(b"{}")
        answer = _answer(connection)
        assert b" 200 " in answer.splitlines()[0], answer


def check_draining(stage: Stage) -> None:
    with upstream(stage, "old") as old, upstream(stage, "new") as new:
        stage.gateway.apply(table(pool("fraud:1", old)))
        assert dict(stage.gateway.sessions()) == {"old": 0}
        replies: list[Reply] = []
        running = threading.Thread(target=lambda: replies.append(send(stage, "/predict/fraud?hold")), daemon=True)
        running.start()
        wait_for("the request runs", lambda: stage.gateway.sessions() == {"old": 1})
        after = table(pool("fraud:1", new))
        stage.gateway.apply(after)
        stage.gateway.apply(after)
        assert stage.gateway.sessions() == {"old": 1, "new": 0}, "the same table again changed something"
        for _ in range(5):
            assert send(stage, "/predict/fraud").body["upstream"] == "new"
        # Wanted again while it drains, it takes requests again; and leaves again.
        stage.gateway.apply(table(pool("fraud:1", old)))
        assert send(stage, "/predict/fraud").body["upstream"] == "old"
        stage.gateway.apply(after)
        assert send(stage, "/predict/fraud").body["upstream"] == "new"
        assert not replies
        old.release.set()
        running.join(DEADLINE)
        assert replies[0].status == 200
        assert replies[0].body["upstream"] == "old"
        wait_for("a drained server is forgotten", lambda: stage.gateway.sessions() == {"new": 0})


def check_sizes(stage: Stage) -> None:
    with upstream(stage, "one") as one, upstream(stage, "control", stage.control_socket) as control:
        stage.gateway.apply(table(pool("fraud:1", one)))
        for path, expected in (("/predict/fraud", b" 413 "), ("/streams/x/events", b" 413 ")):
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
            answer = _raw(stage, f"{head}content-length: {BODY_LIMIT + 1}\r\n\r\n".encode())
            assert expected in answer.splitlines()[0], answer
            assert b'"BODY_TOO_LARGE"' in answer
        head = f"POST /predict/fraud HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
        for wrong in (
            "content-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
            "content-length: -1\r\n\r\n",
            "no colon\r\n\r\n",
        ):
            answer = _raw(stage, (head + wrong).encode())
            assert b" 400 " in answer.splitlines()[0], answer
        assert one.seen == []
        assert control.seen == []


def _raw(stage: Stage, data: bytes) -> bytes:
    with socket.create_connection(stage.address, timeout=DEADLINE) as connection:
        connection.sendall(data)
        return _answer(connection)


def _answer(connection: socket.socket) -> bytes:
    answer = b""
    while b"}" not in answer and (piece := connection.recv(1 << 16)):
        answer += piece
    return answer


def check_restart(stage: Stage) -> None:
    with upstream(stage, "one") as one, upstream(stage, "two") as two, upstream(stage, "worker") as worker:
        wanted = table(
            pool("fraud:1", one),
            pool("fraud:2", two),
            pool("payments", worker),
            split=(("fraud:1", 0), ("fraud:2", 100)),
            routes=(Route("acme", "stream", "payments", (("payments", 100),)),),
        )
        assert stage.gateway.table() == RouteTable(), "a table that nobody applied"
        stage.gateway.apply(wanted)
        stage.gateway.start()  # it runs already
        assert stage.gateway.table() == wanted

        def same() -> bool:
            return (
                send(stage, "/predict/fraud").body["upstream"] == "two"
                and send(stage, "/v2/models/fraud/versions/1/infer").body["upstream"] == "one"
                and send(stage, "/streams/payments/events").body["upstream"] == "worker"
                and send(stage, "/predict/fraud", token=None).status == 401
            )

        assert same()
        for end in (stage.kill, stage.gateway.stop):
            end()
            with contextlib.suppress(ConnectionError), contextlib.closing(Client(stage)) as client:
                assert client.send("/livez").status != 200, "it still answers"
            assert stage.gateway.table() == wanted, "another table while it is away"
            stage.gateway.start()
            assert same(), "another table than before its end"
        stage.gateway.apply(wanted)
        assert same()
        stage.gateway.stop()
        stage.gateway.stop()


def check_refused_tables(stage: Stage) -> None:
    with upstream(stage, "one") as one:
        stage.gateway.apply(table(pool("fraud:1", one)))
        long = Server("long", str(stage.sockets / ("x" * 108)))
        odd = Server("odd", "/tmp/a b")
        for wrong in (
            table(pool("fraud:1", one), split=(("fraud:1", 99),)),
            table(pool("fraud:1", one), pool("fraud:1")),
            table(pool("fraud:1", long)),
            table(pool("fraud:1", odd)),
            table(pool("fraud:1", Server("a b", str(one.path)))),
            table(pool("fraud 1", one)),
            table(routes=(Route("acme", "model", "a\nb", ()),)),
            RouteTable(tokens=(("z" * 64, "acme"),)),
            RouteTable(tokens=((digest_of(TOKEN), "a c"),)),
            RouteTable(tokens=((digest_of(TOKEN), "acme"),), read_only=(digest_of(OTHER_TOKEN),)),
            table(pool("fraud:1", one), limit=RequestLimit(per_second=-1)),
            table(pool("fraud:1", one), limit=RequestLimit(at_once=1_000_001)),
            table(pool("fraud:1", one), limits=(("a c", RequestLimit()),)),
            table(pool("fraud:1", one), limits=(("acme", RequestLimit()), ("acme", RequestLimit()))),
            RouteTable(tokens=((digest_of(TOKEN), "acme"),), read_only=(digest_of(TOKEN), digest_of(TOKEN))),
        ):
            refused = False
            try:
                stage.gateway.apply(wrong)
            except InvalidInput:
                refused = True
            assert refused, wrong
        assert send(stage, "/predict/fraud").body["upstream"] == "one", "a refused table changed something"
