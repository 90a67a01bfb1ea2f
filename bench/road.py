"""The road, as a newcomer walks it: how long, how big, and whether what it claims is true.

    python bench/road.py [--quick] [--clone]

Prints one JSON document; progress goes to stderr. Megabytes are 10^6 bytes. --quick leaves the fresh clone out unless
--clone asks for it. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _compare import compare
from _document import ROOT, Document, Goal, tell
from _processes import (
    SKYRIVER,
    Failed,
    MemoryWatch,
    clean_environment,
    cloud_home,
    free_port,
    memory,
    processes_of,
    run,
    workplace,
)
from onnx import TensorProto, helper, numpy_helper

GOALS = (
    Goal("total_seconds", "<=", 120, "s"),
    Goal("demo_seconds", "<=", 60, "s"),
    Goal("install_megabytes", "<=", 1250, "MB"),
    Goal("first_prediction_seconds", "<=", 10, "s"),
    Goal("help_seconds", "<=", 0.3, "s"),
    Goal("control_rss_megabytes", "<=", 150, "MB"),
    Goal("replica_rss_megabytes", "<=", 150, "MB"),
    Goal("worker_rss_megabytes", "<=", 400, "MB"),
    Goal("stream_equals_batch", ">=", 1, "0 or 1"),
    Goal("stream_equals_oracle", ">=", 1, "0 or 1"),
    Goal("auc", ">=", 0.86, ""),
    Goal("average_precision", ">=", 0.62, ""),
    Goal("card_precision_100", ">=", 0.27, ""),
    Goal("demo_failures", "<=", 0, "claims"),
)
QUALITY = ("auc", "average_precision", "card_precision_100")
CLONE = ("total_seconds", "demo_seconds", "install_megabytes")
IDLE_SECONDS = 5.0
"""How long the cloud is left alone before its memory is read."""


@dataclass(frozen=True, slots=True)
class Options:
    clone: bool
    full_seconds: float
    """How long the full-scale demo may take."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="no fresh clone; at most ten minutes in all")
    parser.add_argument("--clone", action="store_true", help="with --quick: the fresh clone all the same")
    given = parser.parse_args()
    options = Options(clone=given.clone or not given.quick, full_seconds=420 if given.quick else 1_200)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started here is ended
    document = Document("road", GOALS)
    document.part(["help_seconds"], lambda: measure_help(document))
    started = ["first_prediction_seconds", "control_rss_megabytes", "replica_rss_megabytes"]
    document.part(started, lambda: measure_first_prediction(document))
    if options.clone:
        document.part(CLONE, lambda: measure_clone(document))
    else:
        for name in ("total_seconds", "install_megabytes"):
            document.missed(name, "--quick leaves out the fresh clone", wanted=False)
        document.part(["demo_seconds"], lambda: measure_small_demo(document))
    of_full = ["worker_rss_megabytes", "stream_equals_batch", "stream_equals_oracle", *QUALITY, "demo_failures"]
    document.part(of_full, lambda: measure_full_demo(document, options))
    return 0 if document.print() else 1


# Starting


def measure_help(document: Document) -> None:
    ours = _median_seconds([SKYRIVER, "--help"])
    bare = _median_seconds([sys.executable, "-c", "pass"])
    document.row("skyriver", "skyriver --help, median of 10", seconds=ours)
    document.row("python", "control: an interpreter that does nothing, median of 10", seconds=bare)
    document.measured("help_seconds", ours)


def _median_seconds(command: list[str], times: int = 10) -> float:
    return round(statistics.median(run(command, timeout=60).check().seconds for _ in range(times)), 3)


def measure_first_prediction(document: Document) -> None:
    """The median of three fresh clouds; the memory of the last one, idle."""
    bare = _median_seconds([sys.executable, "-c", "import onnxruntime"], times=3)
    document.row("onnxruntime", "control: an interpreter that imports it, median of 3", seconds=bare)
    totals = [_first_prediction(document, last=attempt == 2) for attempt in range(3)]
    document.measured("first_prediction_seconds", round(statistics.median(totals), 2))


def _first_prediction(document: Document, *, last: bool) -> float:
    with cloud_home() as home:
        folder = home.parent / "app"
        write_application(folder)
        begun = time.perf_counter()
        command = [SKYRIVER, "--home", str(home)]
        up = run([*command, "up", "--port", str(free_port()), "--json"], timeout=60).check()
        deploy = run([*command, "deploy", str(folder / "app.py"), "-y", "--json"], timeout=60).check()
        answered = _until_answered(up.json(), {"features": [1.0, 2.0, 3.0, 4.0]}, "/predict/ready")
        total = time.perf_counter() - begun
        document.row(
            "skyriver",
            "from nothing to the first prediction of a ready ONNX model",
            total_seconds=round(total, 2),
            up_seconds=round(up.seconds, 2),
            deploy_seconds=round(deploy.seconds, 2),
            answer_seconds=round(answered, 3),
        )
        if last:
            time.sleep(IDLE_SECONDS)
            _measure_memory(document, home)
    return total


def write_application(folder: Path) -> None:
    """A logistic regression of four numbers, and the two lines that serve it."""
    folder.mkdir()
    weights = numpy_helper.from_array(np.array([0.5, -1, 0.25, 2], np.float32).reshape(4, 1), "weights")
    bias = numpy_helper.from_array(np.array([0.1], np.float32), "bias")
    nodes = [
        helper.make_node("Gemm", ["features", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4])]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])]
    graph = helper.make_graph(nodes, "ready", inputs, outputs, [weights, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    (folder / "ready.onnx").write_bytes(model.SerializeToString())
    (folder / "app.py").write_text(
        'import skyriver as sr\n\napp = sr.App("ready")\napp.model("ready", onnx="ready.onnx")\n'
    )


def _until_answered(cloud: Mapping[str, Any], row: Mapping[str, object], path: str, seconds: float = 60.0) -> float:
    """Asks until the answer is 200; the seconds that took. Raises Failed with the last answer past the deadline."""
    host, port = str(cloud["url"]).removeprefix("http://").split(":")
    headers = {"Authorization": f"Bearer {cloud['token']}", "Content-Type": "application/json"}
    begun, last = time.perf_counter(), "nothing"
    while time.perf_counter() < begun + seconds:
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        try:
            connection.request("POST", path, json.dumps(row), headers)
            response = connection.getresponse()
            last = f"{response.status} {response.read()[:300]!r}"
            if response.status == 200:
                return time.perf_counter() - begun
        except OSError as error:
            last = str(error)
        finally:
            connection.close()
        time.sleep(0.01)
    raise Failed(f"no prediction within {seconds:.0f} s; the last answer: {last}")


def _measure_memory(document: Document, home: Path) -> None:
    for what, module in (("control", "skyriver.wiring.control"), ("replica", "skyriver.wiring.replica")):
        found = [memory(pid) for pid in processes_of(home, module)]
        if len(found) != 1:
            raise Failed(f"{len(found)} processes of {module}")
        case = f"{what}, idle for {IDLE_SECONDS:.0f} s"
        document.row("skyriver", case, rss=found[0]["rss"], of_which_files=found[0]["files"], peak_rss=found[0]["peak"])
        document.measured(f"{what}_rss_megabytes", found[0]["rss"])


# The demo


def measure_small_demo(document: Document) -> None:
    with cloud_home() as home:
        done = run([SKYRIVER, "--home", str(home), "demo", "--json"], timeout=300)
        _take_small_demo(document, done.json(), "skyriver demo, in this installation")


def _take_small_demo(document: Document, demo: Mapping[str, Any], case: str) -> None:
    """Its seconds, and its quality for the case that the full scale does not come to an end."""
    _demo_row(document, demo, case)
    document.measured("demo_seconds", round(demo["seconds"]["total"], 1), broken="; ".join(demo["failures"]))
    _take_quality(document, demo, "of the small scale: the full one gave no figure")


def _take_quality(document: Document, demo: Mapping[str, Any], note: str = "") -> None:
    for name in QUALITY:
        document.measured(name, round(demo["metrics"][name], 4), note=note)


def _demo_row(document: Document, demo: Mapping[str, Any], case: str) -> None:
    document.row(
        "skyriver",
        case,
        seconds=_rounded(demo["seconds"]),
        metrics=_rounded({name: demo["metrics"][name] for name in QUALITY}),
        stream=_rounded(demo["stream"]),
        verify=demo["verify"],
        swap=_rounded(demo["swap"]),
        failures=demo["failures"],
    )


def _rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}


def measure_full_demo(document: Document, options: Options) -> None:
    with cloud_home() as home, MemoryWatch(home, "skyriver.wiring.worker") as watch:
        command = [SKYRIVER, "--home", str(home), "demo", "--scale", "full", "--keep", "--json"]
        demo = run(command, timeout=options.full_seconds).json()
        _demo_row(document, demo, "skyriver demo --scale full")
        document.measured("demo_failures", len(demo["failures"]), broken="; ".join(demo["failures"]))
        _take_quality(document, demo)
        verify = demo["verify"]
        document.measured("stream_equals_batch", int(verify["compared"] > 0 and not verify["different"]))
        time.sleep(IDLE_SECONDS)
        watch.look()
        _take_worker_memory(document, watch)
        tell("computing the features of the history twice ...")
        found = compare(home, home / "demo", home.parent)
        document.row("DuckDB", "its features of the full history beside ours", **found)
        document.measured("stream_equals_oracle", int(found["equal"]))


def _take_worker_memory(document: Document, watch: MemoryWatch) -> None:
    """The demo kills the worker half-way: the one that took the history in as it was last seen, and its successor."""
    if not watch.last:
        raise Failed("no stream worker was seen")
    for number, found in enumerate(watch.last.values(), 1):
        case = f"stream worker {number} of {len(watch.last)}, as last seen"
        document.row("skyriver", case, rss=found["rss"], of_which_files=found["files"], peak_rss=found["peak"])
    document.measured("worker_rss_megabytes", max(found["rss"] for found in watch.last.values()))


# From nothing


def measure_clone(document: Document) -> None:
    """`git clone` and `make demo` with pip, whose cache is empty; then the demo once more for its own figures."""
    with workplace() as work:
        temporary = work / "t"
        temporary.mkdir()
        environment = clean_environment(TMPDIR=str(temporary), PIP_CACHE_DIR=str(work / "pip"))
        clone = work / "c"
        wall, begun = time.time(), time.perf_counter()
        run(["git", "clone", "-q", str(ROOT), str(clone)], timeout=120).check()
        made = run(["make", "UV=", "demo"], timeout=900, cwd=clone, env=environment)
        total = time.perf_counter() - begun
        installed = clone / ".venv" / ".base"
        figures: dict[str, Any] = {"total_seconds": round(total, 1), "make_exit_code": made.code}
        if installed.exists():
            figures["installed_after_seconds"] = round(installed.stat().st_mtime - wall, 1)
            figures["megabytes"] = round(disk_megabytes(clone / ".venv"), 1)
            document.measured("install_megabytes", figures["megabytes"])
        document.row("skyriver", "git clone and make demo, with pip and an empty cache", **figures)
        made.check()
        document.measured("total_seconds", round(total, 1))
        again = run([".venv/bin/skyriver", "demo", "--json"], timeout=300, cwd=clone, env=environment)
        _take_small_demo(document, again.json(), "skyriver demo, in the fresh clone")


def disk_megabytes(folder: Path) -> float:
    """What the files take on disk, each once."""
    sizes = {}
    for path in folder.rglob("*"):
        found = path.lstat()
        sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(sizes.values()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
