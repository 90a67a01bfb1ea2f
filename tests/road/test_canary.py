"""A version that takes over by steps, on a whole cloud, under load."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx.parser
import pytest
from cloud_process import Cloud, wait_for

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
price (float[n, 2] rooms_and_area) => (float[n, 1] score)
<float[2, 1] weight = {0.125, 0.02}, float[1] base = {BASE}>
{ scaled = MatMul(rooms_and_area, weight) score = Add(scaled, base) }
"""
FAILING = """
<ir_version: 10, opset_import: ["" : 21]>
price (float[n, 2] rooms_and_area) => (float[n, 1] score)
<
  float[2, 1] weight = {0.125, 0.02}, float[1] base = {0.5}, float[3] some = {1, 2, 3},
  float[1] most = {140}, int64[1] axes = {1}
>
{
  scaled = MatMul(rooms_and_area, weight)
  area = ReduceMax<keepdims=1>(rooms_and_area, axes)
  large = Greater(area, most)
  place = Cast<to=7>(large)
  three = Constant<value_int=7>()
  beyond = Mul(place, three)
  one = Gather(some, beyond)
  same = Mul(scaled, one)
  score = Add(same, base)
}
"""
APP = """\
import skyriver as sr

app = sr.App("prices")
app.model("price", onnx="model.onnx", rollout=sr.Canary([20, 50, 100], every="1s", guards=sr.Guards(latency=False)))
"""
"""On a machine that does much else some are slow by chance, and that is not what is looked at here."""
SHADOWED = APP.replace('every="1s"', 'every="1s", shadow=sr.Shadow("1s", share=50)')
SECONDS = 300.0


class Load:
    """Clients that ask without a pause, over connections that stay open."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._stop = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[tuple[int, int]] = Counter()
        self.threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(4)]

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.copy().items() if status != 200)

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._cloud.port, timeout=SECONDS)
        headers = {"Authorization": f"Bearer {self._cloud.token}"}
        asked = number
        while not self._stop.is_set():
            asked += 4
            body = json.dumps({"rooms_and_area": [1 + asked % 5, 20 + asked % 130]})
            try:
                connection.request("POST", "/predict/price", body, headers)
                answer = connection.getresponse()
                told = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                self.statuses[0] += 1
                connection.close()
                continue
            self.statuses[answer.status] += 1
            self.versions[told.get("version", 0), answer.status] += 1
        connection.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self.threads:
                thread.join(SECONDS)


def rollout(cloud: Cloud) -> dict[str, Any]:
    rows: list[dict[str, Any]] = cloud.rows("rollouts")
    return max(rows, key=lambda row: int(row["name"].rpartition("-")[2]))


def deploy(cloud: Cloud, model: str, app: str = APP) -> None:
    (cloud.folder / "model.onnx").write_bytes(onnx.parser.parse_model(model).SerializeToString())
    (cloud.folder / "prices.py").write_text(app)
    cloud.command("deploy", cloud.folder / "prices.py", "-y").succeeded()


@pytest.fixture
def prices(cloud: Cloud) -> Cloud:
    cloud.command("up", "--port", cloud.port).succeeded()
    deploy(cloud, MODEL.replace("BASE", "0.5"))
    wait_for(lambda: rollout(cloud)["state"] == "DONE", "the first version", SECONDS)
    return cloud


def test_under_load_a_good_version_takes_over_and_a_bad_one_is_taken_back(prices: Cloud) -> None:
    load = Load(prices)
    with load.running():
        deploy(prices, MODEL.replace("BASE", "0.5001"))
        assert rollout(prices)["state"] in ("CANARY", "PROMOTING", "DONE"), "who deploys does not wait for its end"
        wait_for(lambda: rollout(prices)["state"] == "DONE", "version 2 to take over", SECONDS)
        assert set(load.statuses) == {200}, load.statuses

        deploy(prices, MODEL.replace("BASE", "4.5"))
        wait_for(lambda: rollout(prices)["state"] == "ROLLED_BACK", "version 3 to be taken back", SECONDS)
        assert rollout(prices)["reason"] == "WORSE_SCORES"
        assert set(load.statuses) == {200}, load.statuses

        deploy(prices, FAILING)
        wait_for(lambda: rollout(prices)["state"] == "ROLLED_BACK", "version 4 to be taken back", SECONDS)
        found = rollout(prices)
        assert found["reason"] == "WORSE_REFUSALS", found
        wait_for(lambda: not any(n.startswith("price-4-") for n in prices.processes()), "all answers of version 4")
        failed = load.failed
        assert 0 < failed < 100, load.statuses
        deploy(prices, MODEL.replace("BASE", "4.0"), SHADOWED)
        wait_for(lambda: rollout(prices)["state"] == "ROLLED_BACK", "version 5 to be taken back", SECONDS)
        assert rollout(prices)["reason"] == "WORSE_SCORES"
        assert rollout(prices)["status"]["shown"]["copies"]["sent"] > 0
        deploy(prices, MODEL.replace("BASE", "0.5002"), SHADOWED)
        wait_for(lambda: rollout(prices)["state"] == "DONE", "version 6 to take over", SECONDS)
        assert load.failed == failed, load.statuses
    seen = {version for version, status in load.versions if status == 200}
    assert 5 not in seen, "nobody is sent the answers of a shadow"
    assert 6 in seen
    told = prices.command("rollout", "get", found["name"]).succeeded()
    assert "Version 4 is worse than version 2 in refusals" in " ".join(told.out.split())
    assert prices.command("rollout", "promote", found["name"]).code == 6
