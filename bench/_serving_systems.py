"""What is measured: the product in three forms, the bare loop, and the peers; each started, checked, and ended."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _document import ROOT
from _environments import PEERS, peer_python
from _processes import SKYRIVER, Failed, clean_environment, cloud_home, free_port, processes_of, run, workplace
from _serving_models import CASES, TOLERANCE, TREES_1, Case, Models
from _serving_wrk import descendants

BENCH = Path(__file__).parent
START_SECONDS = 120.0


@dataclass(frozen=True)
class System:
    """One that runs."""

    name: str
    workers: str
    """How many of what, in words."""
    port: int
    pids: Callable[[], list[int]]
    path: Callable[[Case], str] = lambda case: f"/v2/models/{case.model}/infer"
    token: str = ""
    cases: tuple[Case, ...] = CASES

    def url(self, case: Case) -> str:
        return f"http://127.0.0.1:{self.port}{self.path(case)}"

    def ask(self, case: Case, body: bytes, seconds: float = 30.0) -> tuple[int, bytes]:
        headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {self.token}"} if self.token else {}
        )
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request("POST", self.path(case), body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def check(system: System, models: Models) -> None:
    """Its answers are those of ONNX Runtime. Waits until it answers at all. Raises Failed."""
    for case in system.cases:
        wanted, found = models.scores(case), _scores(_until_answered(system, case, models.body(case)))
        right = len(found) == len(wanted) and all(abs(a - b) < TOLERANCE for a, b in zip(found, wanted, strict=True))
        if not right:
            raise Failed(f"{system.name} answers {found[:3]} for {case} instead of {wanted[:3]}")


def _until_answered(system: System, case: Case, body: bytes) -> bytes:
    deadline, last = time.monotonic() + START_SECONDS, "nothing"
    while time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            status, answer = system.ask(case, body)
            last = f"{status} {answer[:200]!r}"
            if status == 200:
                return answer
        time.sleep(0.1)
    raise Failed(f"{system.name} did not answer within {START_SECONDS:.0f} s; its last answer: {last}")


def _scores(answer: bytes) -> list[float]:
    found = json.loads(answer)
    values: list[float] = found["outputs"][0]["data"]
    return values


@contextmanager
def started(command: list[str], folder: Path, env: Mapping[str, str]) -> Iterator[int]:
    """Its pid; it and all below it are ended. What it prints stands in `folder`/log."""
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=dict(env), start_new_session=True
        )
    try:
        yield child.pid
    finally:
        below = descendants(child.pid)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(15)
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()


@contextmanager
def _process(
    name: str, workers: str, command: list[str], models: Models, port: int, env: Mapping[str, str], **more: Any
) -> Iterator[System]:
    with workplace() as folder, started(command, folder, env) as pid:
        system = System(name, workers, port, lambda: descendants(pid), **more)
        try:
            check(system, models)
        except Failed as error:
            raise Failed(f"{error}; it says: {(folder / 'log').read_text(errors='replace')[-400:]}") from error
        yield system


def product_environment() -> dict[str, str]:
    """The product of this checkout, wherever the installed one lies."""
    return clean_environment(PYTHONPATH=str(ROOT / "src"))


@contextmanager
def bare(models: Models, workers: int) -> Iterator[System]:
    """Granian, msgspec and ONNX Runtime are the product's own dependencies, so its environment has them."""
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", "rsgi", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers), "--loop", "uvloop", "--log-level", "warning", "bare_granian:app"]
    env = clean_environment(PYTHONPATH=str(PEERS), PEER_MODELS=str(models.folder))
    with _process("bare Granian", _many(workers, "worker"), command, models, port, env) as system:
        yield system


@contextmanager
def replica(models: Models) -> Iterator[System]:
    """`skyriver serve`, which serves one model: the trees."""
    port = free_port()
    command = [SKYRIVER, "serve", str(models.path("trees")), "--port", str(port)]
    only = tuple(case for case in CASES if case.model == "trees")
    env = product_environment()
    with _process("skyriver replica", "1 process, no gateway", command, models, port, env, cases=only) as system:
        yield system


@contextmanager
def logged(models: Models, log: str) -> Iterator[System]:
    """A replica that reports as those of a cloud do, with a log of its predictions ("on") or without ("off")."""
    port = free_port()
    command = [sys.executable, str(BENCH / "_logged_replica.py"), str(port), str(models.path("trees")), log]
    only = tuple(case for case in CASES if case.model == "trees")
    env = product_environment()
    with _process("skyriver replica", "1 process, no gateway", command, models, port, env, cases=only) as system:
        yield system


@contextmanager
def gateway(models: Models, replicas: int) -> Iterator[System]:
    """A cloud, as a user has it: `skyriver up` and `deploy`; asked through the gateway, with a token."""
    with cloud_home() as home:
        cloud = start_cloud(home, models, dict.fromkeys(("trees", "mlp"), f"replicas={replicas}"))
        port = int(str(cloud["url"]).rpartition(":")[2])
        name = _many(replicas, "replica") + " of each model behind HAProxy, token checked"
        system = System("skyriver", name, port, lambda: processes_of(home), token=str(cloud["token"]))
        check(system, models)
        yield system


def start_cloud(home: Path, models: Models, services: Mapping[str, str], *options: str) -> dict[str, Any]:
    """What `skyriver up` tells. `services`: a model's name and the arguments of its `sr.Service`; `options` are of
    `up`."""
    folder = home.parent / "app"
    folder.mkdir()
    lines = ["import skyriver as sr", "", 'app = sr.App("bench")']
    for name, service in services.items():
        shutil.copy(models.path(name), folder)
        lines.append(f'app.model("{name}", onnx="{name}.onnx", serve=sr.Service({service}))')
    (folder / "app.py").write_text("\n".join(lines) + "\n")
    told = product(home, "up", "--port", str(free_port()), *options)
    product(home, "deploy", str(folder / "app.py"), "-y")
    return told


def product(home: Path, *arguments: str, timeout: float = 120.0) -> dict[str, Any]:
    """The document that a command prints. Raises Failed."""
    command = [SKYRIVER, "--home", str(home), *arguments, "--json"]
    return run(command, timeout=timeout, env=product_environment()).check().json()


TRITON_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 256
input [{{ name: "features" data_type: TYPE_FP32 dims: [ 30 ] }}]
output [{{ name: "score" data_type: TYPE_FP32 dims: [ 1 ] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{ }}
"""


@contextmanager
def triton(models: Models) -> Iterator[System]:
    """The server out of PyTriton's wheel, with an ordinary model repository: its Python backend, one instance a model,
    dynamic batching without a delay."""
    packages = _packages("triton")
    server = packages / "pytriton" / "tritonserver"
    with workplace() as folder:
        backend, version = folder / "backends" / "python", f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copytree(server / "backends" / "python", backend)
        shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
        for name in ("trees", "mlp"):
            own = folder / "models" / name / "1"
            own.mkdir(parents=True)
            shutil.copy(models.path(name), own / "model.onnx")
            shutil.copy(PEERS / "triton_model.py", own / "model.py")
            (own.parent / "config.pbtxt").write_text(TRITON_CONFIG.format(name=name))
        port = free_port()
        command = [str(server / "bin" / "tritonserver"), f"--model-repository={folder / 'models'}"]
        command += [f"--backend-directory={folder / 'backends'}", "--http-address=127.0.0.1", f"--http-port={port}"]
        command += ["--allow-grpc=false", "--allow-metrics=false"]
        env = clean_environment(LD_LIBRARY_PATH=str(packages / "nvidia_pytriton.libs"), PEER_PACKAGES=str(packages))
        workers = "1 instance a model (Python backend), dynamic batching, no gateway, no token"
        with _process("Triton", workers, command, models, port, env) as system:
            yield system


RAY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "state",
}


@contextmanager
def ray_serve(models: Models, replicas: int, *, haproxy: bool) -> Iterator[System]:
    port, python = free_port(), peer_python("rayserve")
    command = [python, str(PEERS / "ray_serving.py"), str(models.path("trees")), str(port), str(replicas)]
    name = "Ray Serve, HAProxy mode" if haproxy else "Ray Serve, default"
    with workplace() as files:
        env = clean_environment(RAY_SERVE_ENABLE_HA_PROXY="1" if haproxy else "0", RAY_USAGE_STATS_ENABLED="0")
        for variable, file in RAY_FILES.items():
            env[variable] = str(files / file)
        with _process(name, _many(replicas, "replica"), command, models, port, env, cases=(TREES_1,)) as system:
            yield system


@contextmanager
def litserve(models: Models, workers: int) -> Iterator[System]:
    port, python = free_port(), peer_python("litserve")
    command = [python, str(PEERS / "litserve_server.py"), str(models.path("trees")), str(port), str(workers)]
    more: dict[str, Any] = {"path": lambda case: "/predict", "cases": (TREES_1,)}
    with _process("LitServe", _many(workers, "worker"), command, models, port, clean_environment(), **more) as system:
        yield system


@contextmanager
def bentoml(models: Models, workers: int) -> Iterator[System]:
    port, python = free_port(), peer_python("bentoml")
    command = [python, "-m", "bentoml", "serve", "bentoml_service:Scoring", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--working-dir", str(PEERS)]
    env = clean_environment(
        PEER_MODEL=str(models.path("trees")), PEER_WORKERS=str(workers), BENTOML_DO_NOT_TRACK="True", DO_NOT_TRACK="1"
    )
    more: dict[str, Any] = {"path": lambda case: "/infer", "cases": (TREES_1,)}
    with _process(
        "BentoML", f"{_many(workers, 'worker')}, no access log", command, models, port, env, **more
    ) as system:
        yield system


def _packages(name: str) -> Path:
    """Where the packages of a peer's environment lie."""
    folder = Path(peer_python(name)).parents[1] / "lib"
    return next(folder.glob("python*")) / "site-packages"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"
