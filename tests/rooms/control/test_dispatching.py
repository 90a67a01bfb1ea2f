"""What is asked of a stream's dispatcher over the API: who may, what is written, and what is told where it is away."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.spec import StreamSpec
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting.deliveries import Deliveries
from skyriver.decide.acting.dispatching import Ask, Dispatch
from skyriver.decide.log.following import Decided, Step
from skyriver.decide.log.records import DecisionRecord

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Stage

SOCKET = "default.dispatcher.orders"
DELIVERIES = f"{BASE}/streams/orders/deliveries"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A cloud with a stream whose dispatcher, in memory, has three deliveries that await approval."""
    stage = Stage(tmp_path)
    admin = stage.issue(name="deployer")
    body = stage.body()
    assert stage.caller.put(f"{BASE}/apps/shop", json=body, headers=admin).status_code == 200
    stage.world.settle()
    stage.world.compute.report("default.worker.orders-0", ready=True, opened=0)
    stage.world.settle()
    stage.world.loop.run_pass()  # which sees the processes that the ones before started
    stream = StreamSpec.model_validate(body["spec"]["streams"][0])
    dispatch = Dispatch(SqliteFile(None), [Deliveries(stream, "default", random.Random(1))])
    dispatch.declare({"sinks": body["spec"]["decides"][0]["sinks"]})
    dispatch.open(0)
    for offset in range(3):
        record = DecisionRecord(offset, offset, Status.DECIDED, "call", 0.5, b"", "m", 1, "", "", Reason.NONE, 0, 0)
        dispatch.take(Step([Decided(record, {}, offset)], offset + 1), 0)

    def answer(method: str, path: str, headers: Mapping[str, str], given: Mapping[str, Any]) -> Any:
        ask = Ask(headers.get("x-actor", ""), {}, given, given, 1_000, headers.get("idempotency-key", ""))
        return dispatch.answer(method, path, ask)

    stage.asker.answers[SOCKET] = answer
    return stage


def test_a_dispatcher_is_a_row_and_a_process_of_its_stream(stage: Stage) -> None:
    row = stage.store.get("default", "dispatcher", "orders")
    assert (row.parent, row.spec["begin"]) == ("stream/orders", 0)
    stage.world.compute.report(SOCKET, ready=True, offset=12, sinks=[])
    stage.world.settle()
    viewer = stage.issue("viewer")
    now = stage.caller.get(f"{BASE}/now/streams/orders", headers=viewer).json()
    assert (now["dispatcher"]["state"], now["dispatcher"]["offset"]) == ("READY", 12)
    listed = stage.caller.get(f"{BASE}/processes", headers=viewer).json()["items"]
    assert "dispatcher" in {process["kind"] for process in listed}
    found = stage.caller.get(f"{BASE}/explain/dispatcher%2Forders", headers=viewer).json()["items"]
    assert [f["kind"] for f in found] == ["dispatcher"]


def test_deliveries_are_read_in_pages(stage: Stage) -> None:
    viewer = stage.issue("viewer")
    first = stage.caller.get(DELIVERIES, params={"limit": 2}, headers=viewer).json()
    rest = stage.caller.get(DELIVERIES, params={"limit": 2, "cursor": first["next"]}, headers=viewer).json()
    assert [d["number"] for d in first["items"] + rest["items"]] == [1, 2, 3]
    assert rest["next"] is None
    of_event = stage.caller.get(DELIVERIES, params={"event": "1"}, headers=viewer).json()["items"]
    assert [(d["number"], d["event"]) for d in of_event] == [(2, 1)]
    one = stage.caller.get(f"{DELIVERIES}/2", headers=viewer).json()
    assert (one["state"], one["body"]["id"]) == ("AWAITING_APPROVAL", "default/orders:1")
    text = stage.caller.get(f"{BASE}/streams/orders/dispatcher/metrics", headers=viewer).json()["text"]
    assert 'skyriver_deliveries{stream="orders",sink="callers",state="awaiting_approval"} 3\n' in text
    wrong = stage.caller.get(DELIVERIES, params={"state": "lost"}, headers=viewer)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "BAD_STATE")
    assert stage.caller.get(DELIVERIES, params={"states": "parked"}, headers=viewer).status_code == 422


def test_who_judges_is_known_and_stands_in_the_audit_trail(stage: Stage) -> None:
    operator = stage.issue("operator", name="ann")
    asked = {"json": {"reason": "seen"}, "headers": {**operator, "Idempotency-Key": "k"}}
    for _ in range(2):
        done = stage.caller.post(f"{DELIVERIES}/1/approve", **asked)
        assert (done.status_code, done.json()["state"], done.json()["judged_by"]) == (200, "WAITING", "ann")
    entries = [e for e in stage.store.audit("default") if e["action"] == "approve_delivery"]
    assert [(e["actor"], e["permission"], e["target"], e["details"]) for e in entries] == [
        ("ann", "decisions:approve", "stream/orders", {"path": "/deliveries/1/approve"})
    ], "what somebody wrote can be erased with the delivery, and not from here"
    assert done.json()["note"] == "seen"
    again = stage.caller.post(f"{DELIVERIES}/1/approve", json={}, headers=operator)
    assert (again.status_code, again.json()["code"]) == (409, "REFUSED_TRANSITION")
    refused = stage.caller.post(f"{DELIVERIES}/2/refuse", json={}, headers=operator)
    assert (refused.status_code, refused.json()["code"]) == (422, "NO_REASON")
    dropped = stage.caller.post(f"{DELIVERIES}/3/drop", json={"reason": "x"}, headers=operator)
    assert dropped.json()["state"] == "DROPPED"
    retried = stage.caller.post(f"{DELIVERIES}/retry", json={"sink": "callers"}, headers=operator)
    assert retried.json() == {"sink": "callers", "retried": 0, "waiting": 1, "held": 0, "awaiting_approval": 1}


def test_several_are_judged_at_once_and_each_has_its_audit_row(stage: Stage) -> None:
    operator = stage.issue("operator", name="ann")
    asked = {"json": {"numbers": [3, 1, 9], "reason": "seen"}, "headers": {**operator, "Idempotency-Key": "k"}}
    for _ in range(2):
        done = stage.caller.post(f"{DELIVERIES}/approve", **asked).json()
        assert (done["judged"], done["more"]) == ([3, 1], 0)
        assert [(left["number"], left["code"]) for left in done["left"]] == [(9, "NOT_FOUND")]
    entries = [e for e in stage.store.audit("default") if e["action"] == "approve_delivery"]
    assert [(e["actor"], e["details"]) for e in entries] == [
        ("ann", {"path": f"/deliveries/{number}/approve"}) for number in (3, 1, 9)
    ]
    states = [d["state"] for d in stage.caller.get(DELIVERIES, headers=operator).json()["items"]]
    assert states == ["WAITING", "AWAITING_APPROVAL", "WAITING"]


def test_all_of_a_sink_are_judged_once_for_a_key(stage: Stage) -> None:
    operator = stage.issue("operator", name="ann")

    def refuse(key: str, **body: Any) -> Any:
        asked = {"sink": "callers", "reason": "a mistake", **body}
        headers = {**operator, "Idempotency-Key": key}
        return stage.caller.post(f"{DELIVERIES}/refuse", json=asked, headers=headers)

    assert refuse("b", before="1969-12-31").json()["judged"] == []
    for _ in range(2):
        assert refuse("c", decision="call", before="2026-01-01T00:00:00").json()["judged"] == [1, 2, 3]
    entries = [e["details"] for e in stage.store.audit("default") if e["action"] == "refuse_delivery"]
    assert {"path": "/deliveries/2/refuse"} in entries
    assert "a mistake" not in repr(entries)
    for body, code in (
        ({"before": "soon"}, "BAD_TIME"),
        ({"numbers": [1]}, "BAD_REQUEST"),
        ({"sink": ""}, "BAD_REQUEST"),
        ({"sink": "nobody"}, "NOT_FOUND"),
        ({"decision": "cal"}, "UNKNOWN_DECISION"),
        ({"reason": " "}, "NO_REASON"),
    ):
        wrong = refuse(f"w{body}".replace(" ", ""), **body)
        assert (wrong.status_code in (404, 422), wrong.json()["code"]) == (True, code), body
        assert wrong.json()["next_action"]


@pytest.mark.parametrize("path", ["/1/approve", "/1/refuse", "/1/retry", "/1/drop", "/retry", "/approve", "/refuse"])
def test_a_viewer_judges_nothing(stage: Stage, path: str) -> None:
    body = {"sink": "callers"} if path in ("/retry", "/approve", "/refuse") else {"reason": "x"}
    answer = stage.caller.post(f"{DELIVERIES}{path}", json=body, headers=stage.issue("viewer"))
    assert answer.status_code == 403
    states = {d["state"] for d in stage.caller.get(DELIVERIES, headers=stage.issue()).json()["items"]}
    assert states == {"AWAITING_APPROVAL"}


def test_a_dispatcher_that_is_away_is_told_with_what_to_do(stage: Stage) -> None:
    admin = stage.issue()
    stage.world.compute.kill(SOCKET)
    stage.world.loop.run_pass()
    known = len(stage.store.audit("default", limit=1_000))
    stage.world.compute.kill(SOCKET)
    for method, path in (("GET", DELIVERIES), ("POST", f"{DELIVERIES}/1/approve")):
        del stage.asker.answers[SOCKET]
        answer = stage.caller.request(method, path, headers=admin, **({"json": {}} if method == "POST" else {}))
        assert (answer.status_code, answer.json()["code"]) in ((503, "DISPATCHER_AWAY"), (503, "PROCESS_AWAY"))
        assert answer.headers["retry-after"]
        stage.asker.answers[SOCKET] = lambda *_: {}
    assert len(stage.store.audit("default", limit=1_000)) - known <= 1


def test_a_stream_without_sinks_and_one_that_is_not_there(stage: Stage) -> None:
    admin = stage.issue()
    missing = stage.caller.get(f"{BASE}/streams/nothing/deliveries", headers=admin)
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    row = stage.store.get("default", "stream", "orders")
    decide = {k: v for k, v in row.spec["decide"].items() if k not in ("sinks", "reviews")}
    stage.put(replace(row, spec={**row.spec, "decide": decide}))
    stage.world.settle()
    bare = stage.caller.get(DELIVERIES, headers=admin)
    assert (bare.status_code, bare.json()["code"]) == (404, "NO_DISPATCHER")
