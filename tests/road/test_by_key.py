"""A model that is asked by a customer's number, as a user has it: its features come from the stream, as of now."""

from __future__ import annotations

import time
from typing import Any

import pytest
from cloud_process import SHOP, Cloud, history, iso, kill, wait_for, write_csv, write_lines

PLAIN = SHOP.replace("replicas=2", "replicas=1")
PREDICT = "/predict/comes_back"


def declared(*policy: str) -> str:
    """The shop, whose model is asked by key."""
    asked = f"sr.FromStream({', '.join(('orders', *policy))})"
    return PLAIN.replace("replicas=1", f"replicas=1, features={asked}")


def by_key(customer: object, amount: float | None = 80.0) -> dict[str, Any]:
    return {"entity": {"customer": customer}, "event": {"amount": amount}}


def deploy(cloud: Cloud, app: str) -> str:
    cloud.app.write_text(app)
    return cloud.command("deploy", "shop.py", "-y").succeeded().err


@pytest.fixture(scope="module")
def asked(cloud: Cloud) -> Cloud:
    """Its model serves."""
    cloud.command("up", "--port", cloud.port).succeeded()
    plan = " ".join(deploy(cloud, declared()).split())
    asked = "asked by customer with features from orders; unknown: answered as new; away: refused"
    assert f"+ create service comes_back {asked}" in plan
    cloud.command("table", "load", "orders", write_csv(cloud.folder / "a.csv", history())).succeeded()
    cloud.json("run")
    cloud.wait_ready()
    return cloud


def ask(cloud: Cloud, body: dict[str, Any]) -> tuple[int, Any]:
    """On a machine that does much else a worker that is there may be slow, too."""
    found: list[tuple[int, Any]] = []

    def told() -> bool:
        found.append(cloud.ask("POST", PREDICT, body))
        return found[-1][1].get("code") != "STATE_AWAY"

    wait_for(told, "the stream's worker")
    return found[-1]


def send(cloud: Cloud, first: int, customer: int) -> None:
    """Three orders of now."""
    rows = [{"order": first + n, "at": iso(time.time()), "customer": customer, "amount": 10.0 + n} for n in range(3)]
    assert cloud.json("send", "orders", write_lines(cloud.folder / "live.jsonl", rows))["accepted"] == 3


def test_it_answers_what_the_stream_decided_by(asked: Cloud) -> None:
    send(asked, 500_000, 2)
    decision = asked.ask("GET", "/streams/orders/decisions/500002")[1]
    status, answer = ask(asked, by_key(2, 12.0))
    assert status == 200, answer
    assert answer["score"] == decision["score"]
    assert answer["as_of"]["offset"] >= decision["event_offset"]
    assert 0 <= answer["as_of"]["age_ms"] < 60_000
    assert ask(asked, decision["features"])[1]["score"] == answer["score"]
    many = ask(asked, {"rows": [by_key(2, 12.0), by_key(10**6)]})[1]
    assert many["predictions"][0] == {"score": answer["score"]}
    shown = asked.command("predict", "comes_back", "--data", '{"entity": {"customer": 2}, "event": {"amount": 12}}')
    assert f"score = {answer['score']:.6f}" in shown.succeeded().out
    asked.command("predict", "comes_back", "--data", '{"entity": {"custmer": 2}}').refused(
        "INVALID_FIELD", 2, "custmer", "customer"
    )


def test_nobody_outside_asks_the_worker_itself(asked: Cloud) -> None:
    status, answer = asked.ask("POST", "/internal/features", {"features": "0" * 64, "rows": [{"customer": 2}]})
    assert (status, answer["code"]) == (404, "UNKNOWN_ROUTE")
    assert asked.ask("POST", "/streams/orders/../../internal/features", {})[1]["code"] == "BAD_PATH"


def test_while_the_worker_is_away_it_says_so_and_comes_back_by_itself(asked: Cloud) -> None:
    before = ask(asked, by_key(2))
    seen = []

    def back() -> bool:
        seen.append(asked.ask("POST", PREDICT, by_key(2)))
        return seen[-1][0] == 200

    kill(asked.processes()["orders-0"])
    wait_for(back, "the worker")
    assert {answer["code"] for status, answer in seen[:-1]} <= {"STATE_AWAY"}
    assert seen[-1][1]["score"] == before[1]["score"]


def test_another_policy_needs_no_other_replica_and_who_was_erased_is_not_known(asked: Cloud) -> None:
    replica = asked.processes()["comes_back-1-1"]
    send(asked, 600_000, 7)
    deploy(asked, declared('on_unknown="refuse"'))
    wait_for(lambda: ask(asked, by_key(10**6))[0] == 404, "the policy")
    status, answer = ask(asked, {"rows": [by_key(7), by_key(10**6)]})
    assert (status, answer["code"], answer["where"]) == (404, "UNKNOWN_KEY", "row 1, entity.customer")
    assert ask(asked, by_key(7))[0] == 200
    asked.command("erase", "orders", 7, "-y").succeeded()
    status, answer = ask(asked, by_key(7))
    assert (status, answer["code"]) == (404, "UNKNOWN_KEY")
    assert asked.processes()["comes_back-1-1"] == replica


def test_who_no_longer_declares_it_is_asked_by_named_fields_alone(asked: Cloud) -> None:
    deploy(asked, PLAIN)
    wait_for(lambda: ask(asked, by_key(2))[1].get("code") == "NO_STREAM", "the declaration")
    named = {"amount": 80.0, "orders_7d": 3, "mean_7d": 40.0, "returned_14d": 0.5}
    assert ask(asked, named)[0] == 200
