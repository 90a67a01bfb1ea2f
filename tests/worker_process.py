"""A stream's worker as a real process, for the tests that need one."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import onnx
from onnx import TensorProto, helper

import skyriver as sr
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.segments.log import SegmentReader
from skyriver.core.spec import AppSpec, FeatureSetSpec, StreamSpec
from skyriver.decide.replay.verify import VerifyReport, verify_stream
from skyriver.features.plan import plan_features

DEADLINE = 300.0
"""For a machine that does much else; nobody waits who need not."""
PATIENCE = 600.0
"""Features are built by a process that lets all others go first: where they never rest it takes minutes."""
HURRIED = """
import importlib, json, runpy, sys

module, changed = sys.argv[1], json.loads(sys.argv[2])
for name, value in changed.items():
    of, _, constant = name.rpartition(".")
    assert type(getattr(importlib.import_module(of), constant)) is type(value), name
    setattr(importlib.import_module(of), constant, value)
sys.argv[:] = sys.argv[3:]
runpy.run_module(module, run_name="__main__")
"""


def module_command(module: str, config: Path, changed: Mapping[str, int | float]) -> list[str]:
    """What starts a module of `wiring`; with these constants changed, so that a test need not wait as users do."""
    if not changed:
        return [sys.executable, "-m", module, str(config)]
    return [sys.executable, "-c", HURRIED, module, json.dumps(changed), module, str(config)]


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    channel: str
    amount: float = sr.field(ge=0, le=10_000)


def declare(durability: str = "process", *, more: bool = False, source: Any = None, log: Any = None) -> AppSpec:
    """Few features, for each kernel is compiled; with `more`, another set of them."""
    app = sr.App("risk")
    payments = app.stream(
        "payments",
        Payment,
        id="payment",
        time="at",
        key="customer",
        durability=durability,  # type: ignore[arg-type]
        source=source,
        log=log,
    )
    frauds = app.labels("fraud", of=payments, delay="0us")
    found: dict[str, object] = {
        "amount": payments.amount,
        "mean_1d": sr.mean("amount", by="customer", over="1d"),
        "frauds_30d": sr.sum(frauds, by="channel", over="30d"),
    }
    if more:
        found["count_1h"] = sr.count(by="customer", over="1h")
    features = app.features("behaviour", payments, found)

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    model = app.model("fraud", fit)
    app.decide(payments, model, {"block": "score >= 0.9", "review": "score >= 0.5"}, otherwise="approve")
    return app.spec


def model_bytes(features: int, factor: float = 0.01) -> bytes:
    """score = amount * factor, whatever the other features."""
    first = helper.make_node("Gather", ["features", "zero"], ["amount"], axis=1)
    scale = helper.make_node("Mul", ["amount", "factor"], ["score"])
    graph = helper.make_graph(
        [first, scale],
        "amount",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("zero", TensorProto.INT64, [], [0]),
            helper.make_tensor("factor", TensorProto.FLOAT, [], [factor]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def slow_model_bytes(features: int, loops: int) -> bytes:
    """score = amount, after `loops` products of 256 x 256 numbers."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "square"], ["product"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Mul", ["product", "nothing"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [256, 256]),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["features", "zero"], ["amount"], axis=1),
        helper.make_node("Loop", ["loops", "yes", "square"], ["last"], body=body),
        helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        helper.make_node("Add", ["amount", "sum"], ["score"]),
    ]
    square = [0.0] * (256 * 256)
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("zero", TensorProto.INT64, [], [0]),
            helper.make_tensor("loops", TensorProto.INT64, [], [loops]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
            helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("square", TensorProto.FLOAT, [256, 256], square),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def heavy_model_bytes(features: int, loops: int) -> bytes:
    """score = amount / 100, after `loops` products of 256 x 256 numbers with each row."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "square"], ["after"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["n", 256]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["n", 256]),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["column"], axis=1),
        helper.make_node("MatMul", ["column", "wide"], ["begun"]),
        helper.make_node("Loop", ["loops", "yes", "begun"], ["last"], body=body),
        helper.make_node("ReduceSum", ["last", "axis"], ["nothing"], keepdims=1),
        helper.make_node("Mul", ["column", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "nothing"], ["both"]),
        helper.make_node("Squeeze", ["both", "axis"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "heavy",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("first", TensorProto.INT64, [1], [0]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("wide", TensorProto.FLOAT, [1, 256], [0.0] * 256),
            helper.make_tensor("loops", TensorProto.INT64, [], [loops]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
            helper.make_tensor("factor", TensorProto.FLOAT, [], [0.01]),
            helper.make_tensor("square", TensorProto.FLOAT, [256, 256], [0.0] * (256 * 256)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def endless_model_bytes(features: int, begins_at: float = 5_000.0) -> bytes:
    """score = amount, after a million steps for each unit of it above `begins_at`."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes_on"]), helper.make_node("Identity", ["before"], ["after"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["n"]),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["features", "zero"], ["amount"], axis=1),
        helper.make_node("ReduceMax", ["amount"], ["most"], keepdims=0),
        helper.make_node("Sub", ["most", "begins_at"], ["above"]),
        helper.make_node("Relu", ["above"], ["units"]),
        helper.make_node("Mul", ["units", "million"], ["steps"]),
        helper.make_node("Cast", ["steps"], ["loops"], to=TensorProto.INT64),
        helper.make_node("Loop", ["loops", "yes", "amount"], ["score"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("zero", TensorProto.INT64, [], [0]),
            helper.make_tensor("begins_at", TensorProto.FLOAT, [], [begins_at]),
            helper.make_tensor("million", TensorProto.FLOAT, [], [1e6]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class StartedProcesses:
    """What the control plane would keep of a process that tests start, end and start again."""

    directory: Path
    processes: list[subprocess.Popen[bytes]]
    prefix: ClassVar[str] = ""
    """Of its files' names."""

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.processes[-1].send_signal(signal.SIGTERM)
        return self.processes[-1].wait(DEADLINE)

    def kill(self) -> None:
        self.processes[-1].kill()
        self.processes[-1].wait(DEADLINE)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE)

    def report(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.file("status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def wait_for(self, held: Callable[[dict[str, Any]], object], seconds: float = PATIENCE) -> dict[str, Any]:
        """The report, once this holds for it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            report = self.report()
            if held(report):
                return report
            if self.processes[-1].poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"{self.report()}\n{self.printed()[-4000:]}")

    def printed(self) -> str:
        return self.file("log.txt").read_text()

    def file(self, name: str) -> Path:
        return self.directory / f"{self.prefix}{name}"


@dataclass
class Worker(StartedProcesses):
    """What the control plane would keep of one worker."""

    directory: Path
    kernels: Path
    app: AppSpec
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    queue: int = 10_000
    reads: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    """What its processes have beside ours."""
    changed: dict[str, int | float] = field(default_factory=dict)
    """Constants of its processes, by module and name."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.objects = DirectoryObjects(self.directory / "objects")
        self.release(1)

    @property
    def stream(self) -> StreamSpec:
        return self.app.streams[0]

    @property
    def features(self) -> FeatureSetSpec:
        return self.app.feature_sets[0]

    @property
    def log_directory(self) -> Path:
        return self.directory / "stream" / "log"

    def release(
        self,
        version: int,
        *,
        factor: float = 0.01,
        features: int = 0,
        digest: str | None = None,
        trained_on: FeatureSetSpec | None = None,
    ) -> None:
        """Writes the live settings, as a rollout would; `digest` of the features that it was trained on, if known, or
        these features themselves."""
        spec = trained_on or self.features
        model = self.model(version, data=model_bytes(features or len(spec.features), factor))
        if digest is not None:
            model["features_digest"] = digest
        if trained_on is not None:
            model["features_digest"] = plan_features(trained_on, self.stream).digest
            model["features"] = trained_on.to_json()
        self.write_live(model)

    def model(self, version: int, *, factor: float = 0.01, data: bytes | None = None) -> dict[str, Any]:
        """A version, as live settings name it."""
        data = model_bytes(len(self.features.features), factor) if data is None else data
        return {"name": "fraud", "version": version, "artifact": self.objects.put(data)}

    def write_live(self, model: dict[str, Any] | None, **more: Any) -> None:
        decide = self.app.decides[0]
        rules = [[r.decision, r.when] for r in decide.rules]
        live = {"model": model, "rules": rules, "otherwise": decide.otherwise, "fallback": decide.fallback}
        live |= {"features": self.features.to_json(), **more}
        temporary = self.directory / "live.new"
        temporary.write_text(json.dumps(live))
        temporary.replace(self.directory / "live.json")

    def start(self, *, wait: bool = True) -> subprocess.Popen[bytes]:
        token = f"token-{len(self.processes)}"
        process = {
            "name": "t.worker.payments-0",
            "tenant": "t",
            "home": str(self.directory),
            "socket": str(self.directory / "s"),
            "status_file": str(self.directory / "status.json"),
            "live_file": str(self.directory / "live.json"),
            "token": token,
            "work_dir": str(self.directory),
        }
        config = {
            "stream": self.stream.to_json(),
            "decide": self.app.decides[0].to_json(),
            "directory": str(self.directory / "stream"),
            "objects": str(self.directory / "objects"),
            "kernel_cache": str(self.kernels),
            "queue": self.queue,
            "reads": self.reads,
        }
        path = self.directory / "config.json"
        path.write_text(json.dumps({"process": process, "config": config}))
        with (self.directory / "log.txt").open("ab") as out:
            command = module_command("skyriver.wiring.worker", path, self.changed)
            started = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **self.environment})
        self.processes.append(started)
        if wait:
            self.wait_for(lambda report: report.get("token") == token and report.get("ready"))
        return started

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        connection = Connection(self.directory / "s")
        try:
            yield connection
        finally:
            connection.close()

    def verify(self, reader: Any, **more: Any) -> VerifyReport:
        return verify_stream(reader, self.stream, self.features, self.kernels, lambda *_: None, **more)


class Connection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("worker", timeout=DEADLINE)
        self._path = path
        self.answered_with: Any = {}
        """The headers of the last answer."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """`body` is sent as it is if bytes, else as JSON. The answer's JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self.request(method, path, data, headers or {})
        response = self.getresponse()
        text = response.read()
        self.answered_with = response.headers
        return response.status, json.loads(text) if text.startswith((b"{", b"[")) else {"text": text.decode()}

    def send_events(self, events: object, *, wait: bool = True) -> tuple[int, dict[str, Any]]:
        return self.ask("POST", "/streams/payments/events" + ("?wait=decision" if wait else ""), events)


def reader(worker: Worker) -> SegmentReader:
    return SegmentReader(worker.log_directory)


def until(held: Callable[[], object]) -> bool:
    """Whether it holds before the deadline."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if held():
            return True
        time.sleep(0.01)
    return False


def digest_of(worker: Worker, features: FeatureSetSpec) -> str:
    return plan_features(features, worker.stream).digest


def payment(number: int, *, customer: int = 1, amount: float = 10.0, at: int | None = None) -> dict[str, Any]:
    """An event of now, unless `at` (microseconds) is given."""
    when = at if at is not None else time.time_ns() // 1000
    return {"payment": number, "at": when, "customer": customer, "channel": f"c{customer % 3}", "amount": amount}
