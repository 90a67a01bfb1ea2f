"""A model that is asked by a customer's number: its features come from the stream, as they are now."""

from __future__ import annotations

import time
from typing import Any

import pytest
from cloud_process import SHOP, Cloud, history, iso, write_csv, write_lines

DECLARED = "serve=sr.Service(replicas=2, features=sr.FromStream(orders{}))"
KEYED = SHOP.replace("serve=sr.Service(replicas=2)", DECLARED.format(""))


def by_key(customer: object, amount: float | None = 80.0) -> dict[str, Any]:
    return {"entity": {"customer": customer}, "event": {"amount": amount}}


def policies(*options: str) -> str:
    return KEYED.replace("FromStream(orders)", f"FromStream({', '.join(('orders', *options))})")


@pytest.fixture(scope="module")
def asked(cloud: Cloud) -> Cloud:
    """Its model serves."""
    cloud.app.write_text(KEYED)
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "shop.py", "-y").succeeded()
    cloud.command("table", "load", "orders", write_csv(cloud.folder / "a.csv", history())).succeeded()
    cloud.json("run")
    cloud.wait_ready()
    return cloud


def test_it_answers_what_the_stream_decided_by(asked: Cloud) -> None:
    now = [{"order": 500_000 + n, "at": iso(time.time()), "customer": n % 3, "amount": 10.0 + n} for n in range(9)]
    asked.json("send", "orders", write_lines(asked.folder / "live.jsonl", now))
    decided = asked.ask("GET", "/streams/orders/decisions/500008")[1]
    status, answer = asked.ask("POST", "/predict/comes_back", by_key(2, 18.0))
    assert status == 200, answer
    assert answer["score"] == decided["score"]
    print(answer, decided)
    many = asked.ask("POST", "/predict/comes_back", {"rows": [by_key(2, 18.0), by_key(10**6)]})[1]
    print(many)
    assert many["predictions"][0]["score"] == answer["score"]
