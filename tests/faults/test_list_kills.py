"""Lists in a worker that is killed: what was answered is on them, and decides, over kills and checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.spec import AppSpec
from skyriver.data.log import RecordKind

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from worker_process import payment

START = 1_700_000_000_000_000
SECOND = 1_000_000


class Limit(sr.Event):
    channel: str
    at: sr.Time
    amount: float | None = sr.field(ge=0)


def declare() -> AppSpec:
    app = sr.App("risk")
    payments = app.stream("payments", harness.Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="0us")
    app.list("denied", of=payments, id="customer")
    app.list("limits", Limit, of=payments, id="channel")
    features = app.features("behaviour", payments, {"amount": payments.amount})

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    app.decide(
        payments,
        app.model("fraud", fit),
        {"block": "customer in denied", "ask": "amount > limits.amount"},
        otherwise="approve",
        fallback="review",
        fallback_by=("rules",),
    )
    return app.spec


@pytest.fixture
def worker(tmp_path: Path, kernels: Path) -> Iterator[Any]:
    found = harness.Worker(tmp_path / "w", kernels, declare())
    yield found
    found.close()


def keep(http: Any, name: str, *rows: dict[str, Any], how: str = "") -> dict[str, Any]:
    status, answer = http.ask("POST", f"/streams/payments/references/{name}{how}", list(rows))
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def decided(http: Any, first: int, second: int, *customers: int) -> list[str]:
    events = [
        payment(first + n, customer=customer, at=START + (second + n) * SECOND) for n, customer in enumerate(customers)
    ]
    status, answer = http.send_events(events)
    assert status == 200, answer
    return [decision["rule"] or decision["decision"] for decision in answer["decisions"]]


def test_lists_survive_kills_before_and_after_a_checkpoint(worker: Any) -> None:
    worker.start()
    with worker.connection() as http:
        assert keep(http, "denied", {"customer": 1}, {"customer": 2}) == {"accepted": 2}
        assert decided(http, 1, 0, 1, 2, 3) == ["block", "block", "approve"]
    worker.kill()  # there is no checkpoint: all is replayed
    worker.start()
    with worker.connection() as http:
        assert keep(http, "denied", {"customer": 2}, {"customer": 9}, how="?off")["news"] == 1
        assert decided(http, 4, 10, 1, 2) == ["block", "approve"]
        assert keep(http, "limits", {"channel": "c2", "amount": 5}) == {"accepted": 1}
    worker.wait_for(
        lambda report: (
            report.get("checkpoint_offset", 0) >= report.get("offset", 1)
            and [(each["name"], each["ids"]) for each in report["lists"]] == [("denied", 1), ("limits", 1)]
        )
    )
    with worker.connection() as http:
        soon = START + 30 * SECOND
        assert keep(http, "denied", {"customer": 3, "until": soon}, {"customer": 4, "note": "x"})["accepted"] == 2
    worker.kill()  # of the changes one part is in a checkpoint, the other behind it
    worker.start()
    with worker.connection() as http:
        many = [customer for _ in range(10) for customer in (1, 2, 3, 4)]
        expected = (
            ["block", "ask", "block", "block"] * 3
            + ["block", "ask", "block"]
            + ["block"]
            + ["block", "ask", "approve", "block"] * 6
        )
        found = decided(http, 10, 15, *many)
        assert found == expected, "many together, as a block"
        page = http.ask("GET", "/streams/payments/references/denied")[1]
        assert [row["customer"] for row in page["items"]] == [1, 4]
        assert (page["ids"], page["next"]) == (3, None)
        one = http.ask("GET", "/streams/payments/references/denied?id=2")[1]
        assert one["row"] is None
        assert [row["what"] for row in one["history"]] == ["off", "on"]
        assert one["history"][0]["at"] == START + 2 * SECOND
        assert http.ask("GET", "/streams/payments/references/limits?id=c%32")[1]["row"]["amount"] == 5.0
        told = [
            ("GET", "/streams/payments/references/denied?id=x", 422, "BAD_ID"),
            ("GET", "/streams/payments/references/denied?of=x", 422, "BAD_QUERY"),
            ("GET", "/streams/payments/references/allowed", 404, "UNKNOWN_REFERENCE"),
            ("POST", "/streams/payments/references/denied?all", 422, "BAD_QUERY"),
        ]
        for method, path, status, code in told:
            answer = http.ask(method, path, [] if method == "POST" else None)
            assert (answer[0], answer[1]["code"]) == (status, code)


def test_bad_rows_are_told_and_set_aside(worker: Any) -> None:
    worker.start()
    with worker.connection() as http:
        rows = [{"customer": 1}, {"customer": "x"}, {"customer": 2, "notes": 1}]
        told = keep(http, "denied", *rows, how="?check")
        assert (told["accepted"], told["news"]) == (1, 0)
        assert [(bad["index"], bad["reason"]) for bad in told["rejected"]] == [(1, "WRONG_TYPE"), (2, "UNKNOWN_FIELD")]
        assert decided(http, 1, 0, 1) == ["approve"], "a check takes nothing"
        status, problem = http.ask("POST", "/streams/payments/references/denied", rows)
        assert (status, problem["code"]) == (422, "REFERENCE_REFUSED")
        assert keep(http, "denied", *rows, how="?aside")["rejected"] == told["rejected"]
        assert decided(http, 2, 1, 1) == ["block"]
        letters = http.ask("GET", "/streams/payments/dead")[1]["items"]
        assert [letter["reason"] for letter in letters] == ["UNKNOWN_FIELD", "WRONG_TYPE"]
    assert [record.kind for record in harness.reader(worker).read()].count(RecordKind.REFERENCE) == 1
