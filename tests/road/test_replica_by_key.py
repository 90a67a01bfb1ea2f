"""A real replica that reads features from a real worker: the stream's own bits, and no wait that a worker could cause.

The model answers with the features that it was given.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from onnx import TensorProto, helper

import skyriver as sr
from skyriver.core.spec import AppSpec, FeatureSetSpec
from skyriver.decide.log.blocks import decisions_of
from skyriver.features.backfill import backfill
from skyriver.features.plan import plan_features
from skyriver.release.places import place_of
from skyriver.serve.read_format import MOST_ROWS

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from onnx_models import model_of
from replica_process import Answer, ReplicaProcess, UnixConnection, exchange, wait_for

SLOW_S = 30.0
"""Twenty times what a replica waits for a worker: these tests share their machine."""


BUILD_S = 600.0
"""State is built beside everything else that the machine does."""
PAUSE_S = 0.01
"""Between two questions: who asks without end takes the processors from the worker that builds."""


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    channel: str
    amount: float | None = sr.field(ge=0, le=10_000)


def declare(*, more: bool = False) -> AppSpec:
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer", durability="process")
    frauds = app.labels("fraud", of=payments, delay="0us")
    found: dict[str, object] = {
        "mean_1d": sr.mean("amount", by="customer", over="1d"),
        "ratio": payments.amount / sr.mean("amount", by="customer", over="1d"),
        "count_1d": sr.count(by="customer", over="1d"),
        "largest_1h": sr.maximum("amount", by="channel", over="1h"),
    }
    if more:
        found["count_1h"] = sr.count(by="channel", over="1h")
    features = app.features("behaviour", payments, found)

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    app.decide(payments, app.model("fraud", fit), {"block": "score >= 0.9"}, otherwise="approve")
    return app.spec


def same_again(features: int) -> bytes:
    return model_of(
        [helper.make_node("Identity", ["features"], ["score"])],
        [("features", TensorProto.FLOAT, ["n", features])],
        [("score", TensorProto.FLOAT, ["n", features])],
        {},
    )


class Asked(ReplicaProcess):
    """A replica with the live settings that a control plane would write."""

    def __init__(
        self, directory: Path, worker: harness.Worker, features: FeatureSetSpec | None = None, **config: Any
    ) -> None:
        directory.mkdir()
        self.sharing: dict[str, Any] | None = None
        self.features = features or worker.features
        self.worker = worker
        names = self.features.names
        fields = [{"name": name, "type": "float", "nullable": True} for name in names]
        super().__init__(directory, same_again(len(names)), fields=fields, **config)
        self.digest = plan_features(self.features, worker.stream).digest
        self._live = directory / "live.json"
        self.tell()

    def tell(self, **policy: Any) -> None:
        told = {
            "stream": "payments",
            "socket": str(self.worker.directory / "s"),
            "features": self.digest,
            "keys": list(self.features.keys),
            "reads": list(self.features.columns()),
            "fields": [field.to_json() for field in self.worker.stream.fields],
            "on_unknown": "answer",
            "on_old": "refuse",
            "max_age_us": 0,
            "fallback": None,
            **policy,
        }
        temporary = self._live.with_suffix(".new")
        shares = {"sharing": self.sharing} if self.sharing is not None else {}
        temporary.write_text(json.dumps({"from_stream": told, **shares}))
        temporary.replace(self._live)

    def once(self, *rows: dict[str, Any], deadline_s: float | None = None) -> Answer:
        headers = {"X-Request-Deadline": f"{time.time() + deadline_s:.6f}"} if deadline_s is not None else {}
        return self.ask("POST", "/predict", rows[0] if len(rows) == 1 else {"rows": list(rows)}, headers)

    def by_key(self, *rows: dict[str, Any]) -> Answer:
        """On a machine that does much else a worker that is there may be slow, too."""
        return wait_for(lambda: b"STATE_AWAY" not in (answer := self.once(*rows)).body and answer, "its worker")  # type: ignore[no-any-return]

    def follows(self, holds: Callable[[], object]) -> None:
        """Live settings are looked at once a second."""
        wait_for(holds, "what was told")


def row(customer: int, amount: float | None = 10.0, channel: str | None = None) -> dict[str, Any]:
    entity = {"customer": customer, "channel": channel or f"c{customer % 3}"}
    return {"entity": entity, "event": {"amount": amount}}


def bits(values: list[float | None]) -> bytes:
    """JSON has no NaN and no infinity: both are null."""
    found = np.array([np.nan if value is None else value for value in values], np.float32)
    return found.tobytes()


def as_answered(features: bytes) -> bytes:
    found = np.frombuffer(features, np.float32).copy()
    found[~np.isfinite(found)] = np.nan
    return found.tobytes()


@pytest.fixture
def worker(tmp_path: Path, kernels: Path) -> Iterator[harness.Worker]:
    found = harness.Worker(tmp_path / "w", kernels, declare(), reads=True)
    found.start()
    yield found
    found.close()


@pytest.fixture
def replica(tmp_path: Path, worker: harness.Worker) -> Iterator[Asked]:
    found = Asked(tmp_path / "r", worker)
    try:
        found.start_and_wait()
        yield found
    finally:
        found.kill()


def decided(worker: harness.Worker) -> dict[int, bytes]:
    """The features that events were decided by, by their ids."""
    log = harness.reader(worker)
    return {int(d.id): d.features for record in log.read(0) for d in decisions_of(record)}


def test_right_after_an_event_its_own_features_are_answered_bit_for_bit(worker: harness.Worker, replica: Asked) -> None:
    luck = np.random.default_rng(7)
    answers: dict[int, Any] = {}
    with worker.connection() as http:
        for number in range(60):
            customer, amount = int(luck.integers(0, 5)), round(float(luck.exponential(50)), 2)
            assert http.send_events(harness.payment(number, customer=customer, amount=amount))[0] == 200
            answer = replica.by_key(row(customer, amount))
            assert answer.status == 200, answer.body
            answers[number] = answer.json
    expected = decided(worker)
    for number, answer in answers.items():
        assert bits(answer["score"]) == as_answered(expected[number]), number
        assert answer["as_of"]["age_ms"] < 60_000
    offsets = [answer["as_of"]["offset"] for answer in answers.values()]
    assert offsets == sorted(set(offsets))
    last = [*harness.reader(worker).read(0)][-1]
    assert offsets[-1] == last.offset + last.count - 1, "the decision is in the log"


def test_of_any_key_the_features_are_those_that_the_history_gives(
    worker: harness.Worker, replica: Asked, kernels: Path
) -> None:
    """The oracle is the backfill: of an event of the same moment that adds nothing but itself to a count."""
    luck = np.random.default_rng(8)
    begin = time.time_ns() // 1000 - 1_000_000
    rows = []
    for number in range(80):
        amount = None if luck.random() < 0.2 else round(float(luck.exponential(50)), 2)
        customer = int(luck.integers(0, 6))
        rows.append(harness.payment(number, customer=customer, amount=amount, at=begin + number * 1_000))  # type: ignore[arg-type]
    with worker.connection() as http:
        assert http.send_events(rows)[0] == 200
    asked = [row(customer, 33.3) for customer in range(8)]
    answer = replica.by_key(*asked)
    assert answer.status == 200, answer.body
    plan = plan_features(worker.features, worker.stream)
    for one, found in zip(asked, answer.json["predictions"], strict=True):
        event = {**rows[-1], "payment": 1_000, **one["entity"], "amount": None}
        frame = pl.DataFrame([*rows, event], infer_schema_length=None).with_columns(
            pl.col("amount").cast(pl.Float64),
            _offset=pl.int_range(pl.len(), dtype=pl.Int64),
            _effective=pl.col("at"),
            _late=pl.lit(False),
        )
        frame = frame.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))
        expected = dict(zip(plan.names, backfill(plan, kernels, [frame]).features[-1], strict=True))
        expected["count_1d"] -= 1
        own = dict(zip(plan.names, found["score"], strict=True))
        for name in ("mean_1d", "count_1d", "largest_1h"):
            assert bits([own[name]]) == as_answered(expected[name].tobytes()), (one, name)
        if own["mean_1d"]:  # of nothing it is 0
            exact = np.float32(33.3 / float(backfill(plan, kernels, [frame], exact=True).exact[-1][0]))
            assert bits([own["ratio"]]) == exact.tobytes()


def test_the_answer_is_that_to_its_features_as_named_fields(worker: harness.Worker, replica: Asked) -> None:
    with worker.connection() as http:
        http.send_events(harness.payment(1, customer=4, amount=20.0))
    answer = replica.by_key(row(4, 30.0), row(99, 30.0)).json
    assert (answer["model"], answer["version"]) == ("fraud", 3)
    names = worker.features.names
    rows = [dict(zip(names, found["score"], strict=True)) for found in answer["predictions"]]
    assert rows[0] == {"mean_1d": 20.0, "ratio": 1.5, "count_1d": 1.0, "largest_1h": 20.0}
    assert rows[1]["count_1d"] == 0.0
    named = replica.ask("POST", "/predict", {"rows": rows}).json
    assert named["predictions"] == answer["predictions"]
    assert "as_of" not in named


def test_the_key_of_an_entity_chooses_the_version_that_answers(
    worker: harness.Worker, replica: Asked, tmp_path: Path
) -> None:
    share = {"champion": 3, "version": 4, "percent": 50, "key": "entity", "field": "customer", "number": True, "at": 0}
    other = Asked(tmp_path / "other", worker, version=4)
    try:
        other.start_and_wait()
        for asked, sockets in ((other, []), (replica, [str(other.socket)])):
            asked.sharing = {**share, "sockets": sockets}
            asked.tell()
            asked.follows(lambda asked=asked: asked.report().get("sharing", {}).get("percent") == 50)  # type: ignore[misc]
        for customer in range(30):
            for _ in range(2):
                answer = replica.by_key(row(customer)).json
                assert answer["version"] == (4 if place_of(customer, 4) < 50 else 3)
                assert "as_of" in answer
        assert replica.by_key(*[row(customer) for customer in range(30)]).json["version"] == 3
        wrong = next(n for n in range(30) if place_of(n, 4) < 50)
        assert replica.once(row(wrong, -5.0)).json["code"] == "INVALID_FIELD"
        wait_for(lambda: sum(p[2] for p in other.report()["sharing"]["places"]) == 1, "what was refused")
    finally:
        other.kill()


WRONG: list[tuple[object, int, str]] = [
    ({"entity": {"custmer": 1}, "event": {}}, 422, "INVALID_FIELD"),
    ({"entity": {"customer": 1, "channel": "c1"}, "event": {"amount": -5}}, 422, "INVALID_FIELD"),
    ({**row(1), "mean_1d": 3}, 400, "MIXED_FORMS"),
    ({"rows": [row(1), {"mean_1d": 3}]}, 400, "MIXED_FORMS"),
    ({"rows": [row(1)] * (MOST_ROWS + 1)}, 422, "TOO_MANY_ROWS"),
    ({"rows": [row(1, channel="x" * 5_000)]}, 422, "INVALID_FIELD"),
    ({"mean_1d": 3, "event": 1}, 400, "MIXED_FORMS"),
]


def test_what_is_wrong_with_a_request_is_one_clear_error(replica: Asked) -> None:
    for given, status, code in WRONG:
        answer = replica.ask("POST", "/predict", given)
        assert (answer.status, answer.json["code"]) == (status, code), given
        assert answer.json["next_action"]
    assert replica.by_key(row(1)).status == 200, "others are not touched by it"


def test_what_only_the_worker_refuses_is_told_as_it_says_it(worker: harness.Worker, replica: Asked) -> None:
    """Its border may be another one than the replica was told."""
    fields = [f.to_json() | {"ge": None, "le": None} for f in worker.stream.fields]
    replica.tell(fields=fields)
    replica.follows(lambda: replica.by_key(row(1, 20_000.0)).json["code"] == "OUT_OF_RANGE")
    with ThreadPoolExecutor(8) as pool:
        asked = [row(n, 20_000.0 if n % 4 == 0 else 5.0) for n in range(32)]
        found = [answer.status for answer in pool.map(replica.by_key, asked)]
    assert found == [422, 200, 200, 200] * 8


def test_while_the_worker_is_away_it_says_so_at_once_and_comes_back_by_itself(
    worker: harness.Worker, replica: Asked
) -> None:
    with worker.connection() as http:
        http.send_events(harness.payment(1, customer=4, amount=20.0))
    before = replica.by_key(row(4))
    worker.kill()
    began = time.monotonic()
    away = replica.once(row(4))
    assert (away.status, away.json["code"], away.headers["retry-after"]) == (503, "STATE_AWAY", "1")
    assert time.monotonic() - began < SLOW_S
    named = dict.fromkeys(worker.features.names, 1.0)
    assert replica.ask("POST", "/predict", named).status == 200, "named fields need no stream"
    wait_for(lambda: replica.report()["requests"] >= 3, "its report")
    assert (replica.report()["overloaded"], replica.report()["errors"]) == (0, 0), "no fault of the version's"
    worker.start()
    after = replica.by_key(row(4))
    assert (after.status, after.json["score"]) == (200, before.json["score"])


def test_a_worker_that_stands_still_keeps_nobody_waiting(worker: harness.Worker, replica: Asked) -> None:
    before = replica.by_key(row(4)).json["score"]
    worker.processes[-1].send_signal(signal.SIGSTOP)
    try:
        for _ in range(2):
            began = time.monotonic()
            slow = replica.once(row(4))
            assert (slow.status, slow.json["code"]) == (503, "STATE_AWAY")
            assert time.monotonic() - began < SLOW_S
        late = replica.once(row(4), deadline_s=0.05)
        assert (late.status, late.json["code"]) == (504, "DEADLINE_EXCEEDED")
    finally:
        worker.processes[-1].send_signal(signal.SIGCONT)
    assert replica.by_key(row(4)).json["score"] == before, "the answer of a body before is not taken for this one's"


def test_policies_are_the_application_s_and_may_change_while_it_serves(worker: harness.Worker, replica: Asked) -> None:
    with worker.connection() as http:
        http.send_events(harness.payment(1, customer=4, amount=20.0, at=time.time_ns() // 1000 - 300_000_000))
    replica.tell(on_unknown="refuse")
    replica.follows(lambda: replica.by_key(row(5)).status == 404)
    unknown = replica.by_key(row(4), row(5)).json
    assert (unknown["code"], unknown["where"]) == ("UNKNOWN_KEY", "row 1, entity.customer")
    assert replica.by_key(row(4)).status == 200
    replica.tell(on_unknown="fallback", on_old="fallback", fallback=0.25)
    replica.follows(lambda: replica.by_key(row(5)).status == 200)
    first, second = replica.by_key(row(4), row(5)).json["predictions"]
    assert (len(first["score"]), second) == (4, {"score": 0.25, "fallback": "UNKNOWN_KEY"})
    replica.tell(max_age_us=100_000_000)
    replica.follows(lambda: replica.by_key(row(4)).json.get("code") == "STATE_OLD")
    old = replica.by_key(row(4))
    assert (old.status, "had its last event" in old.json["detail"]) == (503, True)
    replica.tell(max_age_us=100_000_000, on_old="fallback", fallback=0.25)
    replica.follows(lambda: replica.by_key(row(4)).status == 200)
    answer = replica.by_key(row(4)).json
    assert (answer["score"], answer["fallback"]) == (0.25, "STATE_OLD")
    assert answer["as_of"]["age_ms"] >= 300_000
    with worker.connection() as http:
        http.send_events(harness.payment(2, customer=5, amount=20.0))
    assert "fallback" not in replica.by_key(row(5)).json, "the state is young again"
    worker.kill()
    away = replica.once(row(4)).json
    assert (away["score"], away["fallback"], away["as_of"]) == (0.25, "STATE_AWAY", None)
    metrics = replica.ask("GET", "/metrics").body.decode()
    for reason in ("UNKNOWN_KEY", "STATE_OLD", "STATE_AWAY"):
        assert f'skyriver_fallback_rows_total{{model="fraud",version="3",reason="{reason}"}}' in metrics
    assert "skyriver_feature_read_seconds_count" in metrics


def test_a_stream_without_events_knows_nobody_and_has_no_age(replica: Asked) -> None:
    answer = replica.by_key(row(4)).json
    assert answer["as_of"]["age_ms"] is None
    assert answer["score"][2] == 0.0


def test_while_features_change_each_version_is_answered_by_its_own_or_told_to_wait(
    tmp_path: Path, worker: harness.Worker, replica: Asked
) -> None:
    before, after = worker.features, declare(more=True).feature_sets[0]
    worker.release(1, trained_on=before)
    newer = Asked(tmp_path / "newer", worker, after)
    seen: dict[str, set[str]] = {"old": set(), "new": set()}
    done = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(newer.kill)
        newer.start_and_wait()
        with worker.connection() as http:
            for number in range(20):
                http.send_events(harness.payment(number, customer=number % 4, amount=number * 1.5))
        expected = replica.by_key(row(1)).json["score"]
        refused = newer.by_key(row(1))
        assert (refused.status, refused.json["code"]) == (503, "FEATURES_NOT_BUILT")

        def ask(name: str, whom: Asked) -> None:
            with contextlib.closing(UnixConnection(whom.socket)) as connection:
                while not done.is_set():
                    answer = exchange(connection, "POST", "/predict", row(1))
                    done.wait(PAUSE_S)
                    if answer.json.get("code") == "STATE_AWAY":
                        continue  # it was slow
                    if answer.status == 200:
                        assert answer.json["score"][:4] == expected
                        seen[name].add("")
                    else:
                        seen[name].add(answer.json["code"])

        pool = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(done.set)
        asking = [pool.submit(ask, "old", replica), pool.submit(ask, "new", newer)]
        worker.release(2, trained_on=after)
        wait_for(lambda: "" in seen["new"], "the changed features", BUILD_S)
        wait_for(lambda: "FEATURES_NOT_BUILT" in seen["old"], "those of before are let go", BUILD_S)
        done.set()
        for one in asking:
            one.result()
    assert seen == {"old": {"", "FEATURES_NOT_BUILT"}, "new": {"", "FEATURES_NOT_BUILT"}}


def test_a_flood_of_reads_changes_no_decision_and_waits_in_its_own_queue(
    worker: harness.Worker, replica: Asked
) -> None:
    done = threading.Event()
    statuses: set[int] = set()
    body = {"features": replica.digest, "rows": [{"customer": n % 9, "channel": "c1"} for n in range(MOST_ROWS)]}

    def flood() -> None:
        """As many replicas would: each one body at a time."""
        with worker.connection() as http:
            while not done.is_set():
                http.request("POST", "/internal/features", json.dumps(body), {})
                answer = http.getresponse()
                answer.read()
                statuses.add(answer.status)

    answered: list[int] = []

    def by_key() -> None:
        with contextlib.closing(UnixConnection(replica.socket)) as connection:
            while not done.is_set():
                if exchange(connection, "POST", "/predict", row(len(answered) % 9)).status == 200:
                    answered.append(1)

    with ThreadPoolExecutor(28) as pool:
        floods = [pool.submit(flood) for _ in range(24)]
        asking = pool.submit(by_key)
        with worker.connection() as http:
            for number in range(0, 2_000, 50):
                sent = [
                    harness.payment(n, customer=n % 9, amount=round(n * 0.37 % 90, 2))
                    for n in range(number, number + 50)
                ]
                status, answer = http.send_events(sent)
                assert (status, answer["accepted"]) == (200, 50)
        try:
            wait_for(lambda: answered, "an answer by key in the flood")
        finally:
            done.set()
        for one in (*floods, asking):
            one.result()
    assert statuses == {200, 429}, "24 bodies of 64 rows are more than may wait"
    report = worker.verify(harness.reader(worker))
    assert (report.decisions, report.compared, report.equal) == (2_000, 2_000, 2_000)
