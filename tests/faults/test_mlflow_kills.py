"""kill -9 of the control plane while MLflow's clients log: what was acknowledged is there, and nothing is half."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from cloud_process import DEADLINE, Cloud, kill, wait_for

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
BEFORE, AFTER = 15, 30
"""Batches that are acknowledged before the kill, and in all."""
PIECE = 64 * 1024
LARGE = bytes(range(256)) * (4 * 1024 * 16)


@pytest.fixture
def up(tmp_path: Path, kernels: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path, kernels=kernels)
    try:
        cloud.command("up", "--port", cloud.port).succeeded()
        yield cloud
    finally:
        cloud.close()


def sent(up: Cloud, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """Its answer; sent again, as MLflow's clients do, while nobody gives one."""

    def answer() -> list[dict[str, Any]]:
        try:
            status, found = up.ask(method, path, body)
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return []
        assert status in (200, 502, 503, 504), found
        return [found] if status == 200 else []

    [found] = wait_for(answer, f"{method} {path} is answered")
    return dict(found)


def test_what_was_acknowledged_is_there_when_the_control_plane_is_killed_in_the_middle(up: Cloud) -> None:
    run = sent(up, "POST", f"{API}/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    small = {f"small{n}": f"file {n}".encode() for n in range(3)}
    for name, data in small.items():
        sent(up, "PUT", f"{FILES}/runs/{run}/{name}", data)
    acknowledged: list[int] = []
    some = threading.Event()

    def log() -> None:
        for n in range(AFTER):
            metrics = [{"key": "auc", "value": n, "timestamp": n, "step": n}]
            params = [{"key": f"p{n}", "value": str(n)}]
            sent(up, "POST", f"{API}/runs/log-batch", {"run_id": run, "metrics": metrics, "params": params})
            acknowledged.append(n)
            if n == BEFORE:
                some.set()

    logging = threading.Thread(target=log)
    uploading = http.client.HTTPConnection("127.0.0.1", up.port, timeout=60)
    uploading.putrequest("PUT", f"{FILES}/runs/{run}/large")
    uploading.putheader("Authorization", f"Bearer {up.token}")
    uploading.putheader("Content-Length", str(len(LARGE)))
    uploading.endheaders()
    for begin in range(0, len(LARGE) // 2, PIECE):
        uploading.send(LARGE[begin : begin + PIECE])
    wait_for(lambda: list((up.home / "uploads").iterdir()), "the upload is on its way")
    logging.start()
    assert some.wait(DEADLINE)
    first = up.control_pid()
    kill(first)
    uploading.close()
    logging.join(5 * DEADLINE)  # each batch has DEADLINE
    assert acknowledged == list(range(AFTER))
    assert up.control_pid() != first
    found = sent(up, "GET", f"{API}/runs/get?run_id={run}")["run"]["data"]
    assert {pair["key"]: pair["value"] for pair in found["params"]} == {f"p{n}": str(n) for n in range(AFTER)}
    history = sent(up, "GET", f"{API}/metrics/get-history?run_id={run}&metric_key=auc")["metrics"]
    assert [point["step"] for point in history] == list(range(AFTER)), "each once, also what was sent twice"
    listed = {file["path"] for file in sent(up, "GET", f"{API}/artifacts/list?run_id={run}")["files"]}
    assert listed == set(small), "of half a file nothing"
    assert list((up.home / "uploads").iterdir()) == []
    sent(up, "PUT", f"{FILES}/runs/{run}/large", LARGE)
    for name, data in {**small, "large": LARGE}.items():
        assert fetched(up, f"{FILES}/runs/{run}/{name}") == data, name


def fetched(up: Cloud, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=60)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {up.token}"})
        return connection.getresponse().read()
    finally:
        connection.close()
