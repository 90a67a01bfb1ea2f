"""A real replica process on a Unix socket, as the gateway meets it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import random
import signal
import stat
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import counts, model_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from replica_process import DEADLINE, Answer, ReplicaProcess, UnixConnection, exchange, wait_for

from skyriver.serve.devices import CPU
from skyriver.serve.runner import RUNTIME
from skyriver.wiring.replica import machine_name

FIELDS = [
    {"name": "amount", "type": "float", "ge": 0},
    {"name": "night", "type": "bool"},
    {"name": "risk", "type": "float", "nullable": True},
]


def sums() -> bytes:
    """score[n] = sum of features[n, 3]."""
    return model_of(
        [helper.make_node("ReduceSum", ["features", "axes"], ["score"], keepdims=0)],
        [("features", TensorProto.FLOAT, ["n", 3])],
        [("score", TensorProto.FLOAT, ["n"])],
        {"axes": np.array([1], np.int64)},
    )


def counter() -> bytes:
    """Counts to `turns`, one by one: as slow as one wishes."""
    loop, constants = counts("times", "yes", {"yes": np.array(True)})
    squeeze = helper.make_node("Squeeze", ["turns"], ["times"])
    inputs = [("turns", TensorProto.INT64, [1])]
    return model_of([squeeze, *loop], inputs, [("count", TensorProto.INT64, [1])], constants)


def shared() -> bytes:
    """score[n] = sum of features[n, 3], with work for each row, and ten times as much for a run."""
    nodes = [
        helper.make_node("ReduceSum", ["features", "axes"], ["sums"], keepdims=0),
        helper.make_node("Unsqueeze", ["sums", "sides"], ["heights"]),
        helper.make_node("Mul", ["heights", "scaled"], ["spread"]),
        helper.make_node("MatMul", ["spread", "same"], ["spread_too"]),
        helper.make_node("ReduceSum", ["spread_too", "sides"], ["scores"], keepdims=0),
        helper.make_node("ReduceSum", ["features"], ["all"], keepdims=0),
        helper.make_node("Mul", ["all", "zero"], ["nothing"]),
        helper.make_node("Add", ["same", "nothing"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{n}", "same"], [f"m{n + 1}"]) for n in range(10)),
        helper.make_node("ReduceMax", ["m10"], ["one"], keepdims=0),
        helper.make_node("Mul", ["scores", "one"], ["score"]),
    ]
    same = np.eye(256, dtype=np.float32)
    return model_of(
        nodes,
        [("features", TensorProto.FLOAT, ["n", 3])],
        [("score", TensorProto.FLOAT, ["n"])],
        {
            "axes": np.array([1], np.int64),
            "sides": np.array([1, 2], np.int64),
            "scaled": same / 256,
            "same": same,
            "zero": np.array(0, np.float32),
        },
    )


def features(*rows: list[float | None]) -> dict[str, Any]:
    data = [value for row in rows for value in row]
    return {"inputs": [{"name": "features", "shape": [len(rows), 3], "datatype": "FP32", "data": data}]}


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaProcess]:
    process = ReplicaProcess(tmp_path_factory.mktemp("replica"), sums(), fields=FIELDS)
    try:
        yield process.start_and_wait()
    finally:
        process.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ReplicaProcess]]:
    made: list[ReplicaProcess] = []

    def make(model: bytes, **config: Any) -> ReplicaProcess:
        made.append(ReplicaProcess(tmp_path, model, **config))
        return made[-1]

    yield make
    for process in made:
        process.kill()


LOADED = {
    "skyriver": "our own",
    "httptools": "the parser",
    "uvloop": "the loop",
    "msgspec": "JSON",
    "numpy": "tensors",
    "onnxruntime": "the model",
    "cronsim": "declared times",
    "pydantic": "declared fields",
    "pydantic_core": "pydantic's",
    "annotated_types": "pydantic's",
    "typing_extensions": "pydantic's",
    "typing_inspection": "pydantic's",
}
"""What a replica loads beside Python's own, and what for."""


def test_it_loads_what_it_needs_and_nothing_else(
    start: Callable[..., ReplicaProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    process = start(sums(), fields=FIELDS).start_and_wait()
    assert process.ask("POST", "/v2/models/fraud/infer", features([1, 2, 3])).status == 200
    assert process.ask("POST", "/predict", {"amount": 2.5, "night": True, "risk": 1}).status == 200
    assert process.ask("GET", "/metrics").status == 200
    process.kill()
    names = {line.rpartition("|")[2].strip() for line in process.log.splitlines() if line.startswith("import time:")}
    loaded = {name.partition(".")[0] for name in names if not name.startswith("_")} - sys.stdlib_module_names
    loaded -= {"imported package", "sitecustomize", "org"}  # a title, the machine's own, Jython that pickle looks for
    assert loaded <= set(LOADED), loaded - set(LOADED)
    rooms = {name.split(".")[1] for name in names if name.startswith("skyriver.") and name.count(".") > 1}
    assert rooms <= {"core", "data", "release", "serve", "trust", "adapters", "wiring"}
    assert not {name for name in names if name.startswith(("onnx.", "polars", "numba", "PIL", "skyriver.release.onnx"))}


def test_it_says_that_it_is_ready(replica: ReplicaProcess) -> None:
    report = replica.report()
    assert (report["ready"], report["version"], report["token"]) == (True, 3, "secret")
    assert 0 < report["rss_mb"] <= 150
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert replica.ask("GET", path).status == 200
    assert replica.ask("GET", "/v2/models/fraud/versions/3/ready").json == {"ready": True}
    assert replica.ask("GET", "/v2").json["name"] == "skyriver"
    metadata = replica.ask("GET", "/v2/models/fraud").json
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 3]}]


def test_its_socket_is_its_owners_alone(replica: ReplicaProcess) -> None:
    assert stat.S_IMODE(replica.socket.stat().st_mode) == 0o600


@pytest.mark.parametrize("path", ["/v2/models/fraud/infer", "/v2/models/fraud/versions/3/infer"])
def test_the_open_inference_protocol(replica: ReplicaProcess, path: str) -> None:
    answer = replica.ask("POST", path, features([1, 2, 3], [4, None, 6]) | {"id": "42"})
    assert answer.status == 200
    assert answer.json == {
        "model_name": "fraud",
        "model_version": "3",
        "id": "42",
        "outputs": [{"name": "score", "shape": [2], "datatype": "FP32", "data": [6.0, None]}],
    }


@pytest.mark.parametrize("path", ["/predict", "/predict/fraud"])
def test_named_fields(replica: ReplicaProcess, path: str) -> None:
    row = {"amount": 2.5, "night": True, "risk": 1}
    assert replica.ask("POST", path, row).json == {"model": "fraud", "version": 3, "score": 4.5}
    many = replica.ask("POST", path, {"rows": [row, row | {"risk": None}]})
    assert many.json == {"model": "fraud", "version": 3, "predictions": [{"score": 4.5}, {"score": None}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/predict", {"amount": "2", "night": True}, 422, "INVALID_FIELD"),
        ("POST", "/predict", {"amount": 2}, 422, "INVALID_FIELD"),
        ("POST", "/predict", b"{", 400, "BAD_JSON"),
        ("POST", "/predict/other", {}, 404, "UNKNOWN_MODEL"),
        ("POST", "/v2/models/other/infer", {}, 404, "UNKNOWN_MODEL"),
        ("POST", "/v2/models/fraud/versions/2/infer", {}, 404, "UNKNOWN_VERSION"),
        ("GET", "/v2/models/fraud/nothing", None, 404, "UNKNOWN_ROUTE"),
        ("GET", "/", None, 404, "UNKNOWN_ROUTE"),
        ("GET", "/v2/models/fraud/infer", None, 405, "WRONG_METHOD"),
        ("POST", "/v2/models/fraud/infer", b"[]", 400, "BAD_REQUEST"),
        ("POST", "/v2/models/fraud/infer", {"inputs": []}, 400, "MISSING_INPUT"),
        ("POST", "/v2/models/fraud/infer", features([1, 2]), 400, "WRONG_SIZE"),
        ("POST", "/v2/repository/index", {}, 501, "NOT_SUPPORTED"),
        ("GET", "/v2/models/fraud/stats", None, 501, "NOT_SUPPORTED"),
    ],
)
def test_what_is_wrong_is_told(
    replica: ReplicaProcess, method: str, path: str, body: object, status: int, code: str
) -> None:
    answer = replica.ask(method, path, body)
    assert (answer.status, answer.json["code"]) == (status, code)
    if path.startswith("/v2"):
        assert answer.headers["content-type"] == "application/json"
        assert answer.json["error"]
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["status"] == status


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_packed_bodies_are_unpacked(replica: ReplicaProcess, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    headers = {"content-encoding": encoding}
    for path, body in (
        ("/v2/models/fraud/infer", features([1, 2, 3])),
        ("/predict", {"rows": [{"amount": 2.5, "night": True, "risk": 1}] * 1000}),
    ):
        plain = replica.ask("POST", path, body)
        answer = replica.ask("POST", path, pack(json.dumps(body).encode()), headers)
        assert (answer.status, answer.body) == (200, plain.body)
        wrong = replica.ask("POST", path, body, headers)
        assert (wrong.status, wrong.json["code"]) == (400, "BAD_ENCODING")


def test_bombs_leave_no_memory_behind(replica: ReplicaProcess) -> None:
    assert replica.child is not None
    bomb = gzip.compress(bytes(500_000_000), 1)
    before = resident_mb(replica.child.pid)
    for _ in range(3):
        answer = replica.ask("POST", "/v2/models/fraud/infer", bomb, {"content-encoding": "gzip"})
        assert (answer.status, answer.json["code"]) == (413, "BODY_TOO_LARGE")
    assert resident_mb(replica.child.pid) < before + 40
    assert replica.ask("GET", "/readyz").status == 200


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def test_a_deadline_that_is_over_is_told_and_nothing_is_run(replica: ReplicaProcess) -> None:
    for path, body in (
        ("/v2/models/fraud/infer", features([1, 2, 3])),
        ("/predict", {"amount": 2.5, "night": True, "risk": 1}),
    ):
        late = replica.ask("POST", path, body, {"x-request-deadline": f"{time.time() - 1:.3f}"})
        assert (late.status, late.json["code"]) == (504, "DEADLINE_EXCEEDED")
        assert replica.ask("POST", path, body, {"x-request-deadline": f"{time.time() + 60:.3f}"}).status == 200
        unread = replica.ask("POST", path, [], {"x-request-deadline": f"{time.time() - 1:.3f}"})
        assert unread.status == 504  # to refuse costs no look at the body
        wrong = replica.ask("POST", path, body, {"x-request-deadline": "soon"})
        assert wrong.json["code"] == "BAD_DEADLINE"
    timed = features([1, 2, 3]) | {"parameters": {"timeout": 30_000_000}}
    assert replica.ask("POST", "/v2/models/fraud/infer", timed).status == 200
    arrived = {"x-skyriver-arrived": f"{time.time() - 31:.3f}"}
    late = replica.ask("POST", "/v2/models/fraud/infer", timed, arrived)
    assert (late.status, late.json["code"]) == (504, "DEADLINE_EXCEEDED")
    assert replica.report()["errors"] == 0


def test_a_body_over_the_limit_is_refused_and_one_below_is_not(replica: ReplicaProcess) -> None:
    rows = json.dumps([0] * 3 * 1_500_000).encode()
    head = b'{"inputs": [{"name": "features", "shape": [%d, 3], "datatype": "FP32", "data": '
    body = head % 1_500_000 + rows + b"}]}"
    assert 13_000_000 < len(body) < 16 * 1024 * 1024
    assert replica.ask("POST", "/v2/models/fraud/infer", body).status == 200
    answer = replica.ask("POST", "/v2/models/fraud/infer", body + b" " * 4_000_000)
    assert (answer.status, answer.json["code"]) == (413, "BODY_TOO_LARGE")


def test_every_answer_belongs_to_its_question(replica: ReplicaProcess) -> None:
    """Eight clients at a time, in both protocols, one row or more: what they asked is what they are told."""
    wrong: list[str] = []

    def client(seed: int) -> None:
        source = random.Random(seed)
        with contextlib.closing(UnixConnection(replica.socket)) as connection:
            for _ in range(150):
                rows = [[float(source.randrange(1000)) for _ in range(3)] for _ in range(source.choice((1, 1, 1, 4)))]
                if source.random() < 0.5:
                    answer = exchange(connection, "POST", "/v2/models/fraud/infer", features(*rows))
                    scores = answer.json["outputs"][0]["data"]
                else:
                    named = [{"amount": a, "night": False, "risk": b} for a, _, b in rows]
                    rows = [[a, 0.0, b] for a, _, b in rows]
                    answer = exchange(connection, "POST", "/predict/fraud", {"rows": named})
                    scores = [prediction["score"] for prediction in answer.json["predictions"]]
                if scores != [sum(row) for row in rows]:
                    wrong.append(f"{rows}: {scores}")

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not wrong


def test_it_counts_what_it_does(replica: ReplicaProcess) -> None:
    before = replica.report()["requests"]
    assert replica.ask("POST", "/predict", {"amount": 1, "night": True}).status == 200
    wait_for(lambda: replica.report()["requests"] > before, "a report of the request")
    answer = replica.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'skyriver_requests_total{model="fraud",version="3",code="200"}' in answer.body.decode()
    assert "skyriver_batch_rows_count" in answer.body.decode()


def test_at_the_end_what_runs_is_answered(start: Callable[..., ReplicaProcess]) -> None:
    process = start(counter(), grace_s=DEADLINE)
    process.start_and_wait()
    assert process.child is not None
    turns = turns_of(process, 4.0)
    answers: list[Answer] = []
    client = threading.Thread(target=lambda: answers.append(process.ask("POST", "/predict", {"turns": turns})))
    client.start()
    # The long run is on its thread, and the loop goes on saying so.
    wait_for(
        lambda: b'\nskyriver_running_requests{model="fraud",version="3"} 1\n' in process.ask("GET", "/metrics").body,
        "the run",
    )
    process.child.send_signal(signal.SIGTERM)
    wait_for(lambda: refuses(process), "the end of accepting")
    assert not answers
    client.join(DEADLINE)
    assert answers[0].status == 200
    assert answers[0].json["count"] == turns
    assert answers[0].headers["connection"] == "close"
    assert process.child.wait(DEADLINE) == 0, process.log
    assert not process.socket.exists()
    assert process.report()["ready"] is False


def test_at_the_end_nothing_holds_it_up(start: Callable[..., ReplicaProcess]) -> None:
    process = start(counter(), grace_s=0.2).start_and_wait()
    assert process.child is not None
    turns = turns_of(process, 60.0)
    errors: list[Exception] = []

    def client() -> None:
        try:
            process.ask("POST", "/predict", {"turns": turns})
        except (OSError, http.client.HTTPException) as error:
            errors.append(error)

    asking = threading.Thread(target=client)
    asking.start()
    running = b'\nskyriver_running_requests{model="fraud",version="3"} 1\n'
    wait_for(lambda: running in process.ask("GET", "/metrics").body, "the run")
    process.child.terminate()
    assert process.child.wait(DEADLINE) == 0
    asking.join(DEADLINE)
    assert errors
    assert not process.socket.exists()


def turns_of(process: ReplicaProcess, seconds: float) -> int:
    """How many turns take so long, found by trying; also teaches the replica that this model is slow. By what the
    processor did: with a wait in it a few turns would seem to take long."""
    assert process.child is not None
    turns, clock = 50_000, Path(f"/proc/{process.child.pid}/stat")
    while True:
        before = cpu_seconds(clock)
        assert process.ask("POST", "/predict", {"turns": turns}).json["count"] == turns
        took = cpu_seconds(clock) - before
        if took > 0.1:
            return int(turns * seconds / took)
        turns *= 2


def cpu_seconds(stat: Path) -> float:
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def refuses(process: ReplicaProcess) -> bool:
    try:
        with contextlib.closing(UnixConnection(process.socket)) as connection:
            connection.connect()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def test_overload_is_answered_at_once(start: Callable[..., ReplicaProcess]) -> None:
    process = start(counter(), queue=2)
    process.start_and_wait()
    turns = turns_of(process, 1.0)
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(process.ask("POST", "/predict", {"turns": turns})))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    refused = wait_for(lambda: [a for a in answers if a.status == 503], "a refusal")
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].json["code"] == "OVERLOADED"
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted({a.status for a in answers}) == [200, 503]
    assert sum(a.status == 200 for a in answers) >= 3


def test_a_run_without_an_end_is_ended_and_others_are_answered(start: Callable[..., ReplicaProcess]) -> None:
    process = start(counter(), run_limit_s=2.0).start_and_wait()
    for _ in range(2):
        answer = process.ask("POST", "/predict", {"turns": 2**62})
        assert (answer.status, answer.json["code"]) == (504, "MODEL_TOO_SLOW")
        assert answer.json["next_action"]
        assert process.ask("POST", "/predict", {"turns": 7}).json["count"] == 7


def test_what_would_take_all_memory_fails_alone(start: Callable[..., ReplicaProcess]) -> None:
    """A few bytes of input ask for a tensor of 2^40 numbers."""
    grows = model_of(
        [helper.make_node("ConstantOfShape", ["size"], ["y"])],
        [("size", TensorProto.INT64, [1])],
        [("y", TensorProto.FLOAT, ["n"])],
        {},
    )
    process = start(grows).start_and_wait()
    assert process.child is not None
    before = resident_mb(process.child.pid)
    for size in (2**40, 2**62, 2**31):
        answer = process.ask("POST", "/predict", {"size": size})
        assert (answer.status, answer.json["code"]) in ((500, "MODEL_FAILED"), (422, "MODEL_REFUSED_INPUT"))
    large = process.ask("POST", "/predict", {"size": 2**27})
    assert (large.status, large.json["code"]) == (422, "ANSWER_TOO_LARGE")
    assert resident_mb(process.child.pid) < before + 100
    assert process.ask("POST", "/predict", {"size": 3}).json["y"] == [0.0, 0.0, 0.0]


def test_a_socket_left_behind_is_taken_over_and_one_in_use_is_not(start: Callable[..., ReplicaProcess]) -> None:
    process = start(sums())
    process.start_and_wait()
    process.kill()
    assert process.socket.exists()
    process.start_and_wait()
    first = process.child
    assert first is not None
    first.send_signal(signal.SIGSTOP)  # both tell of themselves in one file: it listens, and says nothing meanwhile
    second = process.start()
    assert second.wait(DEADLINE) == 6
    assert process.report()["reason"] == "ADDRESS_IN_USE"
    assert "failed" not in process.report()
    first.send_signal(signal.SIGCONT)
    assert process.ask("GET", "/livez").status == 200
    first.kill()
    first.wait(DEADLINE)


@pytest.mark.parametrize(
    ("model", "config", "reason"),
    [
        (b"no model", {}, "MODEL_UNREADABLE"),
        (sums(), {"fields": FIELDS[:2]}, "FIELDS_MISMATCH"),
        (sums(), {"fields": [{"name": "x"}]}, "BAD_CONFIG"),
        (sums(), {"artifact": "0" * 64}, "NOT_FOUND"),
    ],
)
def test_what_can_never_be_served_is_said_and_not_tried_again(
    start: Callable[..., ReplicaProcess], model: bytes, config: dict[str, Any], reason: str
) -> None:
    process = start(model, **config)
    assert process.start().wait(DEADLINE) == 3
    report = process.report()
    assert (report["ready"], report["failed"], report["reason"]) == (False, True, reason)
    assert report["message"]
    assert not process.socket.exists()


def test_the_batch_limit_follows_the_objective_while_it_answers(start: Callable[..., ReplicaProcess]) -> None:
    """And what it is told of threads and of runs that were measured before is not measured again: on a machine that is
    busy at its start, runs may seem to take as long for many rows as for one."""
    process = start(shared())
    live = process.status_file.parent / "live.json"
    machine = {"machine": machine_name(), "cores": 2, "latency_us": 10**6}
    known = {**machine, "threads": 2, "measured": {"1": [80, 9000.0], "2": [60, 12000.0]}}
    curve = {
        "machine": machine_name(),
        "runtime": RUNTIME,
        "device": CPU,
        "most": 256,
        "threads": 2,
        "batching": True,
        "max_batch": 64,
        "row_us": 110.0,
        "batch_us": 740.0,
        "fixed_us": 100.0,
        "each_us": 10.0,
    }
    live.write_text(json.dumps({"latency_us": 10**6, "cores": 2, "parallel": known, "curve": curve}))
    process.start_and_wait()
    report = process.report()
    large, threads = report["max_batch"], report["threads"]
    if len(os.sched_getaffinity(0)) > 1:
        assert (threads, report["parallel"]) == (2, known)
        assert report["curve"]["row_us"] == curve["row_us"]
    assert 0 < report["start_mb"] <= report["peak_mb"]
    wrong: list[object] = []
    over = threading.Event()

    def ask(number: float) -> None:
        with contextlib.closing(UnixConnection(process.socket)) as connection:
            while not over.is_set():
                body = json.dumps(features([number, 2, 3]))
                connection.request("POST", "/v2/models/fraud/infer", body)
                answer = connection.getresponse()
                told = answer.read()
                if answer.status != 200 or json.loads(told)["outputs"][0]["data"] != [number + 5]:
                    wrong.append(told)

    askers = [threading.Thread(target=ask, args=(float(number),)) for number in range(8)]
    for asker in askers:
        asker.start()
    try:
        live.with_suffix(".new").write_text(json.dumps({"latency_us": int(2 * report["row_us"]) + 1}))
        live.with_suffix(".new").replace(live)
        wait_for(lambda: process.report()["max_batch"] < large, "a smaller limit")
        live.with_suffix(".new").write_text(json.dumps({}))
        live.with_suffix(".new").replace(live)

        def is_calibrated() -> bool:
            told = process.report()
            return bool(told["max_batch"] == told["curve"]["max_batch"])

        wait_for(is_calibrated, "the limit that was calibrated")
    finally:
        over.set()
        for asker in askers:
            asker.join()
    assert not wrong
    assert process.child is not None
    assert process.child.poll() is None
