"""Rows of references in a worker that is killed: those that were acknowledged are there, with the same bits."""

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
MINUTE = 60_000_000


class Channel(sr.Event):
    channel: str
    at: sr.Time
    risk: float | None = sr.field(ge=0, le=1)


def declare(*, more: bool = False) -> AppSpec:
    app = sr.App("risk")
    payments = app.stream("payments", harness.Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="0us")
    channels = app.reference("channels", Channel, of=payments, id="channel", time="at")
    found: dict[str, object] = {
        "amount": payments.amount,
        "risk": sr.lookup(channels.risk, by="channel"),
        "mean_1d": sr.mean("amount", by="channel", over="1d"),
    }
    if more:
        found["safe"] = 1 - sr.lookup(channels.risk, by="channel")
    features = app.features("behaviour", payments, found)

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    app.decide(payments, app.model("fraud", fit), {"block": "score >= 0.9"}, otherwise="approve")
    return app.spec


@pytest.fixture
def worker(tmp_path: Path, kernels: Path) -> Iterator[Any]:
    found = harness.Worker(tmp_path / "w", kernels, declare())
    yield found
    found.close()


def tell(http: Any, *rows: tuple[str, int, float | None]) -> None:
    """(channel, minutes after the start, risk)."""
    body = [{"channel": channel, "at": START + minute * MINUTE, "risk": risk} for channel, minute, risk in rows]
    status, answer = http.ask("POST", "/streams/payments/references/channels", body)
    assert (status, answer) == (200, {"accepted": len(rows)})


def pay(http: Any, number: int, minute: int) -> dict[str, Any]:
    """The features of a payment in channel c1."""
    status, answer = http.send_events([payment(number, customer=1, at=START + minute * MINUTE)])
    assert status == 200, answer
    found: dict[str, Any] = answer["decisions"][0]["features"]
    return found


def test_rows_survive_kills_before_and_after_a_checkpoint(worker: Any) -> None:
    worker.start()
    with worker.connection() as http:
        tell(http, ("c1", 0, 0.25), ("c1", 30, 0.5), ("c2", 0, 1.0))
        assert pay(http, 1, 10)["risk"] == 0.25
    worker.kill()  # there is no checkpoint: all is replayed
    worker.start()
    with worker.connection() as http:
        assert pay(http, 2, 29)["risk"] == 0.25
        assert pay(http, 3, 30)["risk"] == 0.5
        tell(http, ("c1", 60, 0.75), ("c1", 20, 0.125))
    worker.wait_for(
        lambda report: (
            report.get("checkpoint_offset", 0) >= report.get("offset", 1) and report.get("reference_rows") == 5
        )
    )
    with worker.connection() as http:
        tell(http, ("c1", 90, None))
    worker.kill()  # of the rows that wait, two are in a checkpoint and one behind it
    worker.start()
    with worker.connection() as http:
        assert [pay(http, 4 + n, minute)["risk"] for n, minute in enumerate((59, 60, 90))] == [0.5, 0.75, None]
        status, problem = http.ask(
            "POST", "/streams/payments/references/channels", [{"channel": "c1", "at": START, "risk": 2}]
        )
        assert (status, problem["code"], problem["where"]) == (422, "REFERENCE_REFUSED", "risk")
        status, problem = http.ask("POST", "/streams/payments/references/shops", [])
        assert (status, problem["code"]) == (404, "UNKNOWN_REFERENCE")
    assert worker.wait_for(lambda report: report.get("events") == 6)["reference_rows"] == 6
    log = harness.reader(worker)
    assert sum(record.kind is RecordKind.REFERENCE for record in log.read()) == 6
    verified = worker.verify(log)
    assert (verified.compared, verified.different) == (6, 0)


def test_changed_features_that_look_up_rows_are_built_beside(worker: Any) -> None:
    worker.start()
    with worker.connection() as http:
        tell(http, ("c1", 0, 0.25), ("c1", 30, 0.5))
        assert pay(http, 1, 10)["risk"] == 0.25
        before = worker.features
        worker.app = declare(more=True)
        worker.release(1, trained_on=before)  # what is declared is built, what was trained decides
        worker.wait_for(lambda report: (report.get("features") or {}).get("state") == "ready")
        assert pay(http, 2, 10) == {"amount": 10.0, "risk": 0.25, "mean_1d": 10.0}
        worker.release(2, trained_on=worker.features)
        worker.wait_for(lambda report: (report.get("model") or {}).get("version") == 2)
        found, last = pay(http, 3, 10), pay(http, 4, 30)
    assert (found["risk"], found["safe"]) == (0.25, 0.75)
    assert (last["risk"], last["safe"]) == (0.5, 0.5)
    verified = worker.verify(harness.reader(worker))
    assert (verified.feature_sets, verified.compared, verified.different) == (2, 4, 0)
