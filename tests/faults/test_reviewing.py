"""People review decisions while the dispatcher and the worker are killed: no case is lost or held twice, and each
answer is one label of the log."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from dispatcher_process import DispatcherProcess
from kills.reviewing import People
from worker_process import DEADLINE, Worker, declare, payment, reader, until

from skyriver.adapters.processes.starting import socket_path
from skyriver.core.errors import Conflict, SkyriverError, Unavailable
from skyriver.core.spec import DecideSpec, ReviewSpec, SinkSpec
from skyriver.data.log import RecordKind
from skyriver.decide.log.records import decode_label
from skyriver.wiring.home import Home

REVIEW = ReviewSpec(
    decision="review",
    label="fraud",
    answers={"block": 1.0, "approve": 0.0},
    within_us=3_600_000_000,
    lease_us=3_000_000_000,  # nobody's ends, however long the machine takes over kills and starts
    second_share=0.3,
)


@pytest.fixture
def worker(tmp_path: Path, kernels: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path / "w", kernels, declare())
    yield worker
    worker.close()


@pytest.fixture
def dispatcher(worker: Worker) -> Iterator[DispatcherProcess]:
    decide = worker.app.decides[0].model_copy(update={"reviews": (REVIEW,)})
    DecideSpec.model_validate(decide.to_json())
    sink = SinkSpec(to="blocked", on=("block",))
    live = {
        "reviews": [REVIEW.to_json()],
        "sinks": [sink.to_json()],
        "decide": decide.to_json(),
        "features": worker.features.to_json(),
    }
    sockets = Home.at(worker.directory).sockets
    sockets.mkdir(mode=0o700, parents=True)
    socket_path(sockets, "t.worker.payments-0").symlink_to(worker.directory / "s")
    dispatcher = DispatcherProcess(worker, live)
    yield dispatcher
    dispatcher.close()


def labels_of(worker: Worker) -> list[tuple[Any, float]]:
    return [
        (label.subject_id, label.value)
        for record in reader(worker).read()
        if record.kind is RecordKind.LABEL
        for label in (decode_label(record.payload),)
    ]


def test_from_the_event_to_the_label(worker: Worker, dispatcher: DispatcherProcess) -> None:
    worker.start()
    dispatcher.start()
    with worker.connection() as http:
        http.send_events([payment(1, amount=70.0), payment(2, amount=60.0), payment(3, amount=10.0)])
        assert until(lambda: dispatcher.ask("GET", "/reviews")["total"] == 2)
        dearest = dispatcher.ask("POST", "/reviews/claim", actor="ana")
        assert (dearest["event"], dearest["values"]["amount"], dearest["rule"]) == (1, 70.0, "review")
        with pytest.raises(Conflict) as refused:
            dispatcher.ask("POST", f"/reviews/{dearest['id']}/decide", actor="ben", answer="block", reason="no")
        assert refused.value.code == "NOT_YOURS"
        said = {"answer": "block", "reason": "as last week"}
        done = dispatcher.ask("POST", f"/reviews/{dearest['id']}/decide", actor="ana", **said)
        if done["state"] == "SECOND":
            dispatcher.ask("POST", "/reviews/claim", actor="ben", case=dearest["id"])
            dispatcher.ask("POST", f"/reviews/{dearest['id']}/decide", actor="ben", **said)
        assert until(lambda: labels_of(worker) == [(1, 1.0)])
        assert until(lambda: dispatcher.ask("GET", "/reviews/stats")["labels"]["unsent"] == 0)
        [delivery] = dispatcher.ask("GET", "/deliveries")["items"]
        assert (delivery["decision"], delivery["event"], delivery["id"]) == (
            "block",
            1,
            f"t/payments:{dearest['id']}:review",
        )
        http.ask("POST", "/streams/payments/labels", {"payment": 1, "fraud": 0})
        assert until(lambda: dispatcher.ask("GET", f"/reviews/{dearest['id']}")["truth"] == 0.0)
    assert dispatcher.stop() == 0


def test_an_answer_waits_for_its_worker(worker: Worker, dispatcher: DispatcherProcess) -> None:
    worker.start()
    dispatcher.start()
    with worker.connection() as http:
        http.send_events([payment(1, amount=70.0)])
    assert until(lambda: dispatcher.ask("GET", "/reviews")["total"] == 1)
    worker.kill()
    case = dispatcher.ask("POST", "/reviews/claim", actor="ana")["id"]
    done = dispatcher.ask("POST", f"/reviews/{case}/decide", actor="ana", answer="approve", reason="known")
    if done["state"] == "SECOND":
        dispatcher.ask("POST", "/reviews/claim", actor="ben")
        dispatcher.ask("POST", f"/reviews/{case}/decide", actor="ben", answer="approve", reason="known")
    assert dispatcher.ask("GET", "/reviews/stats")["labels"]["unsent"] == 1
    worker.start()
    assert until(lambda: labels_of(worker) == [(1, 0.0)])


class AtOnce:
    """A desk without a cloud; everybody may decide what was escalated."""

    def __init__(self, dispatcher: DispatcherProcess) -> None:
        self._dispatcher = dispatcher

    def claim(self, who: str, step: int) -> int:
        return int(self._asked("/reviews/claim", who, key=f"{who}-{step}")["id"])

    def decide(self, who: str, case: int, answer: str, reason: str) -> str:
        return str(self._asked(f"/reviews/{case}/decide", who, answer=answer, reason=reason)["state"])

    def _asked(self, path: str, who: str, *, key: str = "", **body: Any) -> Any:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                return self._dispatcher.ask("POST", path, actor=who, key=key, senior=True, **body)
            except Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.02)


@pytest.mark.parametrize("seed", range(int(os.environ.get("FAULT_ROUNDS", "1"))))
def test_no_case_and_no_answer_is_lost_by_kills(worker: Worker, dispatcher: DispatcherProcess, seed: int) -> None:
    luck = random.Random(seed)
    worker.start()
    dispatcher.start()
    people = People(AtOnce(dispatcher), luck)
    sent = 0
    for _ in range(5):
        with worker.connection() as http:
            amounts = [luck.choice([60.0, 70.0, 80.0, 10.0]) for _ in range(25)]
            status, _ = http.send_events([payment(sent + n, amount=amount) for n, amount in enumerate(amounts)])
            assert status == 200
            sent += len(amounts)
        for _ in range(luck.randint(3, 12)):
            people.step()
        victim = luck.choice(["dispatcher", "dispatcher", "worker", "both"])
        if victim in ("worker", "both"):
            worker.kill()
        if victim in ("dispatcher", "both"):
            dispatcher.kill()
            dispatcher.start(wait=False)
        for _ in range(luck.randint(2, 6)):
            people.step()
        if victim in ("worker", "both"):
            worker.start()
    expected = reviewed(worker)
    assert until(lambda: dispatcher.ask("GET", "/reviews", limit=1)["total"] + closed(dispatcher) == len(expected))
    for _ in range(3 * len(expected) + 20):
        people.step()
    assert until(lambda: dispatcher.ask("GET", "/reviews/stats")["labels"] == {"unsent": 0, "refused": 0})
    check(worker, dispatcher, people, expected)


def reviewed(worker: Worker) -> set[Any]:
    from skyriver.decide.log.blocks import decisions_of

    return {d.id for record in reader(worker).read() for d in decisions_of(record) if d.decision == "review"}


def closed(dispatcher: DispatcherProcess) -> int:
    return int(dispatcher.ask("GET", "/reviews", state="CLOSED", limit=1)["total"])


def check(worker: Worker, dispatcher: DispatcherProcess, people: People, expected: set[Any]) -> None:
    items = dispatcher.ask("GET", "/reviews", limit=1_000)["items"]
    items += dispatcher.ask("GET", "/reviews", state="CLOSED", limit=1_000)["items"]
    assert {item["event"] for item in items} == expected, "each decision has one case"
    assert len(items) == len(expected)
    said: Counter[int] = Counter()
    outcomes = {}
    for item in items:
        case = dispatcher.ask("GET", f"/reviews/{item['id']}")
        if case["state"] in ("DECIDED", "ESCALATED"):
            told = {opinion["by"]: opinion["answer"] for opinion in case["opinions"]}
            assert told == {by: word for (number, by), word in people.said.items() if number == case["id"]}
        said[len(case["opinions"])] += 1
        if case["state"] == "DECIDED":
            outcomes[case["event"]] = case["answers"][case["outcome"]]
    assert len(outcomes) > 20
    assert said[2] + said[3] > 5, "some were looked at twice"
    labels = labels_of(worker)
    assert dict(labels) == outcomes
    assert len(labels) == len(outcomes), "each answer is one label"
    with pytest.raises(SkyriverError):
        dispatcher.ask("POST", f"/reviews/{items[-1]['id']}/decide", actor="stranger", answer="block", reason="x")
