"""`skyriver serve`: from a model file to an answer, and what is no such file."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import Shape, counts, model_of
from PIL import Image

SKYRIVER = str(Path(sys.executable).parent / "skyriver")
DEADLINE = 120.0


def write(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    constants: dict[str, Any] | None = None,
) -> Path:
    path.write_bytes(model_of(nodes, inputs, outputs, constants))
    return path


def doubles(path: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    return write(path, nodes, [("x", TensorProto.FLOAT, ["n", 3])], [("y", TensorProto.FLOAT, ["n", 3])])


class Served:
    def __init__(self, file: Path, *options: str) -> None:
        command = [SKYRIVER, "serve", str(file), "--port", "0", "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate(timeout=DEADLINE)[1])
        self.told: dict[str, Any] = json.loads(line)

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.told["url"] + path, timeout=DEADLINE) as answer:
            return json.load(answer)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        errors = self.process.communicate(timeout=DEADLINE)[1]
        return self.process.returncode, errors


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(file: Path, *options: str) -> Served:
        started.append(Served(file, *options))
        return started[-1]

    yield start
    for served in started:
        served.process.kill()
        served.process.communicate(timeout=DEADLINE)


def typed(line: str) -> str:
    """What a person sees who types it."""
    shell = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=DEADLINE, check=True)
    return shell.stdout


def test_from_a_file_to_an_answer(serve: Callable[..., Served], tmp_path: Path) -> None:
    file = doubles(tmp_path / "My Model (2).onnx")
    serve(file).end()  # of a fresh checkout, the first one compiles its source
    served = serve(file)
    assert served.cpu_seconds < 2.0  # the time on a machine that does nothing else; measured: 0.7
    told = served.told
    assert told["model"] == "my-model-2"
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert json.loads(typed(told["curl"])) == {"model": "my-model-2", "version": 1, "y": [1.0, 1.0, 1.0]}
    assert served.get("/v2/models/my-model-2")["parameters"]["device"] == "cpu"
    assert served.get("/readyz") == {"ready": True}
    assert served.end() == (0, "")


def test_it_says_where_it_listens_and_what_to_try(tmp_path: Path) -> None:
    command = [SKYRIVER, "serve", str(doubles(tmp_path / "m.onnx")), "--port", "0", "--name", "mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert lines[0].startswith("mine answers at http://127.0.0.1:")
    assert "x FP32[-1, 3]" in lines[1]
    assert "curl -s http://127.0.0.1:" in lines[3]
    assert (rest, errors) == ("", "Ended.\n")


def test_it_does_what_a_gateway_would_do_to_answers(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve(doubles(tmp_path / "m.onnx"))
    rows = {"rows": [{"x": [1, 2, 3]}] * 200}
    request = urllib.request.Request(f"{served.told['url']}/predict", json.dumps(rows).encode())
    request.add_header("X-Request-Id", "r-17")
    request.add_header("Accept-Encoding", "gzip")
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        body = answer.read()
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["x-request-id"] == "r-17"
    assert len(body) < 1000
    assert json.loads(gzip.decompress(body))["predictions"][199] == {"y": [2, 4, 6]}
    request = urllib.request.Request(f"{served.told['url']}/predict/other", b"{}", {"X-Request-Id": "r-18"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=DEADLINE)
    with caught.value as error:
        assert (error.code, error.headers["x-request-id"]) == (404, "r-18")


def test_a_picture_is_sent_as_a_file(serve: Callable[..., Served], tmp_path: Path) -> None:
    """mean[n] = the mean of each picture's values."""
    nodes = [
        helper.make_node("Cast", ["photo"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1, 2, 3], keepdims=0),
    ]
    inputs = [("photo", TensorProto.UINT8, ["n", "h", "w", 3])]
    served = serve(write(tmp_path / "m.onnx", nodes, inputs, [("mean", TensorProto.FLOAT, ["n"])]))
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(tmp_path / "photo.png")
    ask = f"curl -s {served.told['url']}/predict/m -F photo=@{shlex.quote(str(tmp_path / 'photo.png'))}"
    assert json.loads(typed(ask))["mean"] == 7.0
    (tmp_path / "photo.png").write_bytes((tmp_path / "photo.png").read_bytes()[:60])
    assert json.loads(typed(ask))["code"] == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("kind", "shape", "told"),
    [
        (TensorProto.FLOAT, ["n", 3, 32, 32], "python3 -c"),
        (TensorProto.FLOAT, [1, 2], "[0.5, 0.5]"),
        (TensorProto.FLOAT, [2, 2], "[[0.5, 0.5], [0.5, 0.5]]"),
        (TensorProto.FLOAT, ["n", "length"], "[0.5]"),
        (TensorProto.INT64, ["n"], '"x": 0'),
        (TensorProto.STRING, ["n", 1], '"x": "text"'),
        (TensorProto.BOOL, [], '"x": true'),
        (TensorProto.FLOAT, ["n", 0], '"x": []'),
    ],
)
def test_the_line_to_try_works_whatever_the_inputs_are(
    serve: Callable[..., Served], tmp_path: Path, kind: int, shape: Shape, told: str
) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    served = serve(write(tmp_path / "m.onnx", nodes, [("x", kind, shape)], [("y", kind, shape)]))
    assert told in served.told["curl"]
    assert "y" in json.loads(typed(served.told["curl"]))


def failed(*arguments: str) -> tuple[int, dict[str, Any]]:
    command = [SKYRIVER, "serve", *arguments, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert "Traceback" not in ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout or ended.stderr)
    return ended.returncode, document


def test_what_cannot_be_served_is_one_error_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": "model"}))
    for path, status, code in (
        (tmp_path / "nowhere.onnx", 3, "NO_MODEL_FILE"),
        (tmp_path, 2, "NOT_A_FILE"),
        (tmp_path / "m.pkl", 2, "ONNX_FOREIGN_FORMAT"),
    ):
        returned, error = failed(str(path))
        assert (returned, error["code"]) == (status, code)
        assert error["next_action"]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    file = str(doubles(tmp_path / "m.onnx"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, error = failed(file, "--port", str(port))
    assert (status, error["code"]) == (6, "ADDRESS_IN_USE")
    assert f"--port {port + 1}" in error["next_action"]
    for wrong, code in ((["--host", "192.0.2.7"], "CANNOT_LISTEN"), (["--device", "cuda:7"], "DEVICE_MISSING")):
        status, error = failed(file, "--port", "0", *wrong)
        assert (status, error["code"]) == (2, code)
        assert error["next_action"]
    assert failed(file, "--name", "No Name")[1]["code"] == "BAD_NAME"


def endless(path: Path) -> Path:
    """count = how often its loop turned: as often as `turns` says, or for ever where `turns` is at least 1."""
    loop, constants = counts("most", "first", {"most": np.array(2**62)})
    nodes = [
        helper.make_node("Cast", ["go_on"], ["goes"], to=TensorProto.BOOL),
        helper.make_node("Squeeze", ["goes"], ["first"]),
        *loop,
    ]
    inputs = [("go_on", TensorProto.FLOAT, [1])]
    return write(path, nodes, inputs, [("count", TensorProto.INT64, [1])], constants)


def test_a_model_that_never_ends_holds_nothing_up(serve: Callable[..., Served], tmp_path: Path) -> None:
    started = time.monotonic()
    served = serve(endless(tmp_path / "m.onnx"))  # its made-up row never ends either
    assert time.monotonic() - started < DEADLINE
    answer = typed(f"curl -s {served.told['url']}/predict/m -d {shlex.quote(json.dumps({'go_on': 0}))}")
    assert json.loads(answer)["count"] == 0
    asking = subprocess.Popen(["curl", "-s", f"{served.told['url']}/predict/m", "-d", '{"go_on": 1}'])
    assert served.get("/readyz") == {"ready": True}
    assert served.process.poll() is None
    served.process.send_signal(signal.SIGINT)
    time_left = time.monotonic() + DEADLINE
    while served.process.poll() is None and time.monotonic() < time_left:
        served.process.send_signal(signal.SIGINT)  # a second time: at once
        time.sleep(0.1)
    assert served.process.returncode in (0, 130)
    asking.wait(DEADLINE)
