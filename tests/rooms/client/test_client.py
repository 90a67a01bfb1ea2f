"""The client mirrors the contract, blocking and on asyncio alike, and bears a cloud of which parts are away."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
import sys
import threading
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from skyriver.client import waiting
from skyriver.client.api import AsyncClient, Client
from skyriver.client.events import rows_as_json
from skyriver.client.flows import EventReader, ServerEvent, call, each
from skyriver.core import (
    contract,
    contract_advice,
    contract_alerts,
    contract_cards,
    contract_costs,
    contract_curves,
    contract_keys,
    contract_lineage,
    contract_prices,
    contract_requests,
    contract_reviews,
    contract_tenants,
    contract_tokens,
)
from skyriver.core.errors import Conflict, InvalidInput, JobFailed, NotFound, SkyriverError, Unavailable

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import Stage

CONTRACT = json.loads((Path(__file__).parents[3] / "docs" / "openapi.json").read_text())
URL = "http://127.0.0.1:1"

Act = Callable[[Any], Any]


class Asked(httpx.MockTransport):
    """Answers from a function and keeps what was asked."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self.requests: list[httpx.Request] = []

        def keep(request: httpx.Request) -> httpx.Response:
            request.read() if not isinstance(request.stream, httpx.AsyncByteStream) else None
            self.requests.append(request)
            return answer(request)

        super().__init__(keep)


async def _gather(value: Any) -> Any:
    if isinstance(value, AsyncIterator):
        return [item async for item in value]
    return await value


def run(kind: type[Any], transport: Any, act: Act) -> Any:
    """`act` on a client of this kind; what it gives, whole."""
    if kind is Client:
        with Client(URL, "sky_x", transport=transport) as client:
            found = act(client)
            return list(found) if isinstance(found, Iterator) else found

    async def on_asyncio() -> Any:
        async with AsyncClient(URL, "sky_x", transport=transport) as client:
            return await _gather(act(client))

    return asyncio.run(on_asyncio())


BOTH = pytest.mark.parametrize("kind", [Client, AsyncClient])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)


# It mirrors the contract

NAMES = [o["operationId"] for methods in CONTRACT["paths"].values() for o in methods.values()]
CONTRACTS = (
    contract,
    contract_advice,
    contract_alerts,
    contract_cards,
    contract_costs,
    contract_curves,
    contract_keys,
    contract_lineage,
    contract_prices,
    contract_requests,
    contract_reviews,
    contract_tenants,
    contract_tokens,
)
NO_ROWS = (
    "list_audit",
    "list_processes",
    "list_reviews",
    "list_deliveries",
    "list_rules",
    "list_tokens",
    "list_tenants",
    "list_requests",
    "list_keys",
    "list_alerts",
    "list_prices",
    "list_costs",
)
KINDS = [n.removeprefix("list_") for n in NAMES if n.startswith("list_") and n not in NO_ROWS]
CALLS: list[Act] = [
    *(lambda c, k=k: c.list(k) for k in KINDS),
    *(lambda c, k=k: c.get(k, "fraud:1") for k in KINDS),
    lambda c: c.deliveries("payments", state="parked", event=7),
    lambda c: c.delivery("payments", 7),
    *(lambda c, v=v: c.judge_delivery("payments", 7, v) for v in ("retry", "drop", "approve", "refuse")),
    *(lambda c, v=v: c.judge_deliveries("payments", v, [7, 8]) for v in ("approve", "refuse")),
    lambda c: c.retry_deliveries("payments", "bank"),
    lambda c: c.dispatcher_metrics("payments"),
    lambda c: c.upload_bytes(b"x"),
    lambda c: c.stream_now("payments"),
    lambda c: c.streams_now(),
    lambda c: c.deploy("shop", {}),
    lambda c: c.remove("shop"),
    *(lambda c, n=n: c.act(n.removeprefix("start_"), "x") for n in NAMES if n.startswith("start_")),
    lambda c: c.wait("x"),
    lambda c: c.audit(),
    lambda c: c.prices(),
    lambda c: c.costs(),
    lambda c: c.cost("fraud"),
    lambda c: c.advice("fraud"),
    lambda c: c.price("core_hour"),
    lambda c: c.audit_page(newest=True, target="shop"),
    lambda c: c.audit_row(7),
    lambda c: c.explain("version/fraud:1"),
    lambda c: c.card("fraud:1"),
    lambda c: c.tag("fraud", {"owner": "ana"}),
    lambda c: c.delete_model("churn"),
    lambda c: c.import_model("churn", Path(__file__), weights=[Path(__file__)], description="Who leaves."),
    lambda c: c.tag("fraud:1", {"owner": None}),
    lambda c: c.processes(),
    lambda c: c.objectives(),
    lambda c: c.logs("x"),
    lambda c: c.whoami(),
    lambda c: c.object("0" * 64),
    lambda c: c.live(),
    lambda c: c.openapi(),
    lambda c: c.rules("payments"),
    lambda c: c.rules_version("payments", 2),
    lambda c: c.add_rules("payments", []),
    lambda c: c.report_outcomes("fraud", [{"version": 2, "metric": "accepted", "yes": 1, "of": 2}]),
    *(lambda c, to=to: c.move_rules("payments", 2, to) for to in ("shadow", "canary", "promote", "drop")),
    lambda c: c.issue_token("ana", "reviewer"),
    lambda c: c.tokens(),
    lambda c: c.keys(),
    lambda c: c.alerts(),
    lambda c: c.alert("ops"),
    lambda c: c.test_alert("ops"),
    lambda c: c.key("ab12"),
    lambda c: c.rotate_key(sign_again=True),
    lambda c: c.curves("churn:1"),
    lambda c: c.lineage("version/fraud:1"),
    lambda c: c.revoke_token("ana"),
    lambda c: c.tenants(),
    lambda c: c.requests(status="5xx", of="fraud", since="1h", limit=5),
    lambda c: c.request("order-7/a"),
    lambda c: c.tenant_limits("default"),
    lambda c: c.limit_tenant("default", {"rate": "500/s", "concurrency": None}),
    lambda c: c.reviews("payments", state="OPEN", event="7"),
    lambda c: c.review("payments", 17),
    lambda c: c.review_stats("payments"),
    lambda c: c.claim_review("payments"),
    lambda c: c.renew_review("payments", 17),
    lambda c: c.release_review("payments", 17, claim=2),
    lambda c: c.decide_review("payments", 17, "block", "as before"),
    lambda c: c.escalate_review("payments", 17, "a customer of ours"),
]
ANYTHING = {
    "items": [],
    "next": None,
    "digest": "d",
    "operation": "o",
    "live": True,
    "state": "SUCCEEDED",
    "status": {},
    "revision": 1,
    "retried": 1,
    "text": "",
}


def operation_of(request: httpx.Request) -> str:
    for path, methods in CONTRACT["paths"].items():
        deep = ("/explain/", "/logs/", "/requests/", "/lineage/", "/curves/")
        part = ".+" if any(of in path for of in deep) else "[^/]+"
        if re.fullmatch(re.sub(r"{\w+}", part, path), request.url.path):
            found = methods.get(request.method.lower())
            if found is not None:
                known = {p["name"] for p in found.get("parameters", ()) if p["in"] == "query"}
                assert set(request.url.params) <= known, f"{path} has no {set(request.url.params) - known}"
                return str(found["operationId"])
    raise AssertionError(f"{request.method} {request.url.path} is not in the contract")


@BOTH
def test_every_operation_has_a_method_and_every_call_is_in_the_contract(kind: type[Any]) -> None:
    asked = Asked(lambda request: httpx.Response(200, json=ANYTHING))
    for act in CALLS:
        run(kind, asked, act)
    assert {operation_of(request) for request in asked.requests} == set(NAMES)


def test_both_clients_have_the_same_methods_and_all_are_described() -> None:
    def methods(kind: type[Any]) -> set[str]:
        return {n for n in dir(kind) if isinstance(inspect.getattr_static(kind, n), call | each)}

    assert methods(Client) == methods(AsyncClient) >= {"predict", "wait", "list"}
    for name in methods(Client):
        assert inspect.getattr_static(Client, name).__doc__, name


def test_every_answer_is_typed_as_the_contract_has_it() -> None:
    schemas = CONTRACT["components"]["schemas"]
    for name, schema in schemas.items():
        typed = next((getattr(known, name) for known in CONTRACTS if hasattr(known, name)), None)
        if typed is None:
            assert name.endswith("Request"), f"{name} is unknown to the client"
            continue
        assert set(typed.__annotations__) == set(schema["properties"]), name
    answered = {n for n in vars(contract) if n in schemas}
    assert {"Resource", "Deployed", "Explained", "AuditRow", "WhoAmI"} <= answered
    flow = typing.get_type_hints(inspect.getattr_static(Client, "whoami").flow)["return"]
    assert typing.get_args(flow)[-1] is contract.WhoAmI


# The real API answers both


class Bridge(httpx.BaseTransport):
    """The application in this process for a blocking client."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = dict(request.headers)
        got = self._stage.caller.request(request.method, str(request.url), headers=headers, content=request.read())
        return httpx.Response(got.status_code, headers=got.headers, content=got.content)


@contextmanager
def client_of(kind: type[Any], stage: Stage) -> Iterator[Callable[[Act], Any]]:
    token = stage.issue()["Authorization"].removeprefix("Bearer ")

    def do(act: Act) -> Any:
        if kind is Client:
            with Client("http://test", token, transport=Bridge(stage)) as client:
                found = act(client)
                return list(found) if isinstance(found, Iterator) else found

        async def on_asyncio() -> Any:
            async with AsyncClient("http://test", token, transport=stage.caller.transport) as client:
                return await _gather(act(client))

        return asyncio.run(on_asyncio())

    yield do


@BOTH
def test_a_deployment_and_what_is_told_of_it(kind: type[Any], tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    file = tmp_path / "bundle"
    file.write_bytes(b"x" * (3 << 20))
    told: list[tuple[int, int]] = []
    with client_of(kind, stage) as do:
        digest = do(lambda c: c.upload(file, lambda sent, total: told.append((sent, total))))
        assert told[-1] == (3 << 20, 3 << 20)
        assert do(lambda c: c.object(digest)) == file.read_bytes()
        plan = do(lambda c: c.deploy("shop", stage.body(), dry_run=True))
        assert not plan["applied"]
        done = do(lambda c: c.deploy("shop", stage.body(), plan_digest=plan["plan_digest"]))
        assert done["applied"]
        with pytest.raises(Conflict) as changed:
            do(lambda c: c.deploy("shop", stage.body(), plan_digest=plan["plan_digest"]))
        assert changed.value.code == "PLAN_CHANGED"
        assert [r["name"] for r in do(lambda c: c.list("apps"))] == ["shop"]
        assert do(lambda c: c.list("models", parent="app/none")) == []
        assert do(lambda c: c.get("apps", "shop"))["state"] == "DEPLOYED"
        assert [e["action"] for e in do(lambda c: c.audit())] == ["upload", "deploy"]
        assert [e["action"] for e in do(lambda c: c.audit(newest=True, since="1h"))] == ["deploy", "upload"]
        page = do(lambda c: c.audit_page(newest=True, target="shop", limit=1))
        assert [e["target"] for e in page["items"]] == ["app/shop"]
        assert do(lambda c: c.audit_page(newest=True, target="shop", cursor=page["next"])) == {
            "items": [],
            "next": None,
        }
        assert do(lambda c: c.audit_row(page["items"][0]["seq"])) == page["items"][0]
        with pytest.raises(NotFound, match="There is no audit row 999"):
            do(lambda c: c.audit_row(999))
        assert do(lambda c: c.explain("app/shop"))[0]["kind"] == "app"
        assert do(lambda c: c.whoami())["role"] == "admin"
        with pytest.raises(NotFound):
            do(lambda c: c.get("apps", "none"))
        operation = do(lambda c: c.act("verify", "orders"))
        row = stage.store.get("default", "operation", operation)
        stage.put(replace(row, state="FAILED", reason="BROKEN", message="It broke."))
        with pytest.raises(JobFailed, match="It broke"):
            do(lambda c: c.wait(operation))


# It bears a cloud of which parts are away


def refusing(times: int, *failures: Callable[[], httpx.Response]) -> Asked:
    """Fails in turn, `times` times, then answers."""
    left = list(failures) * times

    def answer(request: httpx.Request) -> httpx.Response:
        return left.pop(0)() if left else httpx.Response(200, json=ANYTHING)

    return Asked(answer)


def control_away() -> httpx.Response:
    return httpx.Response(503, json={"code": "CONTROL_AWAY", "detail": "away"})


def broken() -> httpx.Response:
    raise httpx.ReadError("the connection was reset")


def silent() -> httpx.Response:
    raise httpx.ReadTimeout("nothing came")


@BOTH
def test_a_change_is_repeated_with_its_key(kind: type[Any]) -> None:
    asked = refusing(1, control_away, broken, silent, control_away)
    assert run(kind, asked, lambda c: c.act("train", "fraud")) == "o"
    assert len(asked.requests) == 5
    [key] = {r.headers["idempotency-key"] for r in asked.requests}
    run(kind, asked, lambda c: c.act("train", "fraud"))
    assert asked.requests[-1].headers["idempotency-key"] != key, "another call has another key"


@BOTH
def test_it_gives_up_in_time(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting.repeated, "__defaults__", (0.3, 0.1))
    monkeypatch.setattr(waiting.answered, "__defaults__", (0.3, 0.1))
    for failure, code in ((control_away, "CONTROL_AWAY"), (broken, "CLOUD_AWAY"), (silent, "TIMED_OUT")):
        asked = refusing(1_000, failure)
        with pytest.raises(Unavailable) as given_up:
            run(kind, asked, lambda c: c.act("train", "fraud"))
        assert given_up.value.code == code
        assert 1 < len(asked.requests) < 10


@BOTH
@pytest.mark.parametrize("status", [409, 422, 404, 401, 500])
def test_a_refusal_is_not_repeated(kind: type[Any], status: int) -> None:
    asked = Asked(lambda request: httpx.Response(status, json={"code": "NO", "detail": "no"}))
    with pytest.raises(SkyriverError):
        run(kind, asked, lambda c: c.act("train", "fraud"))
    assert len(asked.requests) == 1


@BOTH
def test_a_prediction_is_not_repeated(kind: type[Any]) -> None:
    asked = refusing(1, control_away)
    with pytest.raises(Unavailable):
        run(kind, asked, lambda c: c.predict("fraud", {}))
    assert len(asked.requests) == 1


# Waiting


def operation(state: str, revision: int) -> dict[str, Any]:
    return {
        "name": "op",
        "state": state,
        "revision": revision,
        "status": {},
        "reason": "",
        "message": "",
        "next_action": "",
    }


def event(state: str, revision: int) -> str:
    return f": hello\n\nid: {revision}\nevent: state\ndata: {json.dumps(operation(state, revision))}\n\n"


def streamed(*events: str) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text="".join(events))


@BOTH
def test_waiting_goes_on_after_the_last_event_over_a_restart(kind: type[Any]) -> None:
    streams = [
        lambda: streamed(event("RUNNING", 5)),
        control_away,
        broken,
        lambda: streamed(event("RUNNING", 8), event("SUCCEEDED", 9)),
    ]
    asked = Asked(
        lambda r: (
            streams.pop(0)() if r.url.path.endswith("/events") else httpx.Response(200, json=operation("RUNNING", 6))
        )
    )
    told: list[int] = []
    done = run(kind, asked, lambda c: c.wait("op", told=lambda found: told.append(found["revision"])))
    assert done["revision"] == 9
    assert told == [5, 6, 8, 9]
    listened = [r.headers.get("last-event-id") for r in asked.requests if r.url.path.endswith("/events")]
    assert listened == [None, "6", "6", "6"]


@BOTH
@pytest.mark.parametrize(("status", "code"), [(429, "TOO_MANY_LISTENERS"), (404, "UNKNOWN_ROUTE")])
def test_where_it_cannot_listen_it_asks(kind: type[Any], status: int, code: str) -> None:
    looks = [operation("RUNNING", 1), operation("RUNNING", 2), operation("SUCCEEDED", 3)]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(status, json={"code": code, "detail": ""})
        return httpx.Response(200, json=looks.pop(0))

    asked = Asked(answer)
    assert run(kind, asked, lambda c: c.wait("op"))["revision"] == 3
    assert sum(r.url.path.endswith("/events") for r in asked.requests) == 1


@BOTH
def test_waiting_has_its_own_end(kind: type[Any]) -> None:
    asked = Asked(
        lambda r: (
            streamed(event("RUNNING", 1))
            if r.url.path.endswith("/events")
            else httpx.Response(200, json=operation("RUNNING", 1))
        )
    )
    with pytest.raises(Unavailable) as ended:
        run(kind, asked, lambda c: c.wait("op", timeout=0.2))
    assert ended.value.code == "NOT_FINISHED"


@BOTH
def test_an_operation_that_is_not_there_is_not_waited_for(kind: type[Any]) -> None:
    asked = Asked(lambda r: httpx.Response(404, json={"code": "NOT_FOUND", "detail": "none"}))
    with pytest.raises(NotFound):
        run(kind, asked, lambda c: c.wait("op"))


@BOTH
def test_a_cloud_that_is_gone_is_not_waited_for_for_ever(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AWAY_SECONDS", 0.1)
    with pytest.raises(Unavailable) as ended:
        run(kind, Asked(lambda r: broken()), lambda c: c.wait("op"))
    assert ended.value.code == "CLOUD_AWAY"


class _Silent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ended = threading.Event()
    left = False
    """Somebody listened to it for longer than they wanted to wait."""

    def do_GET(self) -> None:  # the base class's name
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        if self.path.endswith("/events"):
            _Silent.left |= not self.ended.wait(30)
        else:
            self.wfile.write(json.dumps(operation("RUNNING", 1)).encode())
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None: ...


def waited(url: str) -> None:
    with Client(url, "sky_x") as client:
        client.wait("op", timeout=0.3)


async def waited_on_asyncio(url: str) -> None:
    async with AsyncClient(url, "sky_x") as client:
        await client.wait("op", timeout=0.3)


@pytest.mark.parametrize("on_asyncio", [False, True])
def test_a_stream_without_a_sign_of_life_does_not_hold_a_wait(on_asyncio: bool) -> None:
    _Silent.ended.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Silent)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with pytest.raises(Unavailable, match="has not finished"):
            waited(url) if not on_asyncio else asyncio.run(waited_on_asyncio(url))
    finally:
        _Silent.ended.set()
        server.shutdown()
        serving.join()
        server.server_close()
    assert not _Silent.left


def test_events_come_in_any_pieces() -> None:
    data = b": hello\n\nid: 7\r\nevent: state\r\ndata: {\ndata: }\r\n\r\ndata:x\n\n"
    whole = [None, ServerEvent("7", "{\n}"), ServerEvent("", "x")]
    for size in range(1, len(data)):
        reader = EventReader()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [e for piece in pieces for e in reader.feed(piece)] == whole


def test_errors_keep_what_the_cloud_said() -> None:
    problem = {"code": "BAD", "detail": "wrong", "where": "field", "next_action": "mend it", "errors": [{"n": 1}]}
    with pytest.raises(InvalidInput) as refused:
        run(Client, Asked(lambda r: httpx.Response(422, json=problem)), lambda c: c.whoami())
    error = refused.value
    assert (error.code, error.message, error.where, error.next_action) == ("BAD", "wrong", "field", "mend it")
    assert error.details == ({"n": 1},)


# What it is given


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_end_of_a_tokens_line_does_not_count(kind: type[Any]) -> None:
    transport = Asked(lambda request: httpx.Response(200, json={"name": "admin"}))

    async def on_asyncio() -> None:
        async with AsyncClient(f"{URL} ", "sky_secret\n", transport=transport) as client:
            await client.whoami()

    if kind is Client:
        with Client(f"{URL} ", "sky_secret\n", transport=transport) as client:
            client.whoami()
    else:
        asyncio.run(on_asyncio())
    assert transport.requests[0].headers["Authorization"] == "Bearer sky_secret"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "token", ["", " \n", "sky_secret\nsky_secret", "sky secret", "sky_secr\u00e9t", "sky_secret\x00"]
)
def test_what_is_no_token_is_told_without_it(kind: type[Any], token: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        kind(URL, token)
    assert refused.value.code == "BAD_TOKEN"
    assert "secr" not in f"{refused.value.message}{refused.value.next_action}{refused.value.where}"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["127.0.0.1:7470", "", "localhost:7470", "ftp://a", "http://", "http://a:b", "//a"])
def test_what_is_no_address_is_told(kind: type[Any], url: str) -> None:
    with pytest.raises(InvalidInput, match="is no address of a cloud") as refused:
        kind(url, "sky_x")
    assert refused.value.code == "BAD_URL"
    assert "http://127.0.0.1:7470" in refused.value.next_action


def test_rows_of_a_program_as_json() -> None:
    at = datetime(2024, 3, 1, 8, 30, tzinfo=UTC)
    rows = [{"a": math.nan, "b": 1.5, "c": None, "d": True, "at": at, "day": at.date()}, {"n": np.float64(2), "l": [1]}]
    assert json.loads(rows_as_json(iter(rows))) == [
        {"a": None, "b": 1.5, "c": None, "d": True, "at": "2024-03-01T08:30:00+00:00", "day": "2024-03-01"},
        {"n": 2.0, "l": [1]},
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Decimal("1.5"), "Row 1: amount is a decimal.Decimal"),
        (np.int64(3), "Row 1: amount is a numpy.int64"),
        (np.float32(3), "Row 1: amount is a numpy.float32"),
        (math.inf, "Row 1: amount is inf, and not finite"),
        ({1, 2}, "Row 1: amount is a set"),
        ([math.nan], "Row 1: amount is a list"),
        (b"x", "Row 1: amount is a bytes"),
    ],
)
def test_a_value_that_json_has_not_is_named(value: object, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        rows_as_json([{"amount": 1}, {"amount": value}])
    assert words in refused.value.message
    assert (refused.value.code, refused.value.where) == ("NOT_JSON", "amount")


@BOTH
@pytest.mark.parametrize("rows", [{"payment": 1}, "payment", 7, None])
def test_rows_are_a_list(kind: type[Any], rows: Any) -> None:
    transport = Asked(lambda request: httpx.Response(200, json={}))
    calls: list[Act] = [
        lambda c: c.send("s", rows),
        lambda c: c.send_labels("s", rows),
        lambda c: c.send_references("s", "r", rows),
    ]
    for send in calls:
        with pytest.raises(InvalidInput, match="A list of rows is expected"):
            run(kind, transport, send)
    with pytest.raises(InvalidInput, match="Row 0 is a int, and not a dict"):
        run(kind, transport, lambda c: c.send("s", [7]))
    assert not transport.requests
