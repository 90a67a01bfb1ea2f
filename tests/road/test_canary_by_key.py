"""A version that takes over by the keys of requests, on a whole cloud: a key never goes back and forth."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter, defaultdict
from typing import Any

import onnx.parser
from cloud_process import Cloud, wait_for

from skyriver.data.keys import key_of
from skyriver.release.places import place_of

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
price (float[n, 2] rooms_and_area) => (float[n, 1] score)
<float[2, 1] weight = {0.125, 0.02}, float[1] base = {BASE}>
{ scaled = MatMul(rooms_and_area, weight) score = Add(scaled, base) }
"""
APP = """\
import skyriver as sr

app = sr.App("prices")
app.model(
    "price",
    onnx="model.onnx",
    serve=sr.Service(replicas=2),
    rollout=sr.Canary([20, 60, 100], every="4s", key="X-Customer", guards=sr.Guards(latency=False)),
)
"""
SECONDS = 300.0
KEYS = 400
PAUSE = 0.05
"""In the first step, which goes on after some hundred answers of the candidate: who looks comes while it lasts."""


class Load:
    """Four clients that ask for one customer after the other, over connections that stay open; of eleven requests one
    has no key. What each key met is kept in its order. `pause` is between two requests of a client."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._stop = threading.Event()
        self.pause = 0.0
        self.statuses: Counter[int] = Counter()
        self.met: dict[str, list[int]] = defaultdict(list)
        self.without: set[int] = set()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(4)]

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._cloud.port, timeout=SECONDS)
        own, asked = [f"customer {n}" for n in range(number, KEYS, 4)], number
        while not self._stop.is_set():
            asked += 1
            key = own[asked % len(own)] if asked % 11 else ""
            headers = {"Authorization": f"Bearer {self._cloud.token}"} | ({"X-Customer": key} if key else {})
            body = json.dumps({"rooms_and_area": [1 + asked % 5, 20 + asked % 130]})
            connection.request("POST", "/predict/price", body, headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            self.statuses[answer.status] += 1
            if key:
                seen = self.met[key]
                if seen[-1:] != [told.get("version")]:
                    seen.append(told.get("version"))
            else:
                self.without.add(told.get("version"))
            self._stop.wait(self.pause)
        connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(SECONDS)


def rollout(cloud: Cloud) -> dict[str, Any]:
    rows: list[dict[str, Any]] = cloud.rows("rollouts")
    return max(rows, key=lambda row: int(row["name"].rpartition("-")[2]))


def deploy(cloud: Cloud, base: str) -> None:
    (cloud.folder / "model.onnx").write_bytes(onnx.parser.parse_model(MODEL.replace("BASE", base)).SerializeToString())
    (cloud.folder / "prices.py").write_text(APP)
    cloud.command("deploy", cloud.folder / "prices.py", "-y").succeeded()


def test_a_key_stays_with_its_version_and_moves_once(cloud: Cloud) -> None:
    cloud.command("up", "--port", cloud.port).succeeded()
    deploy(cloud, "0.5")
    wait_for(lambda: rollout(cloud)["state"] == "DONE", "the first version", SECONDS)
    places = {f"customer {n}": place_of(key_of(f"customer {n}"), 2) for n in range(KEYS)}
    with Load(cloud) as load:
        wait_for(lambda: len(load.met) == KEYS, "all keys", SECONDS)
        load.pause = PAUSE
        deploy(cloud, "0.5001")

        def at_first_step() -> bool:
            mine = {key for key, versions in load.met.items() if versions[-1] == 2}
            return mine == {key for key, place in places.items() if place < 20}

        wait_for(at_first_step, "the keys of the first step to be with version 2", SECONDS)
        assert load.without == {1}, "who has no key stays with the champion"
        shown = rollout(cloud)
        assert (shown["state"], shown["status"]["shown"]["by_key"]) == ("CANARY", True)
        load.pause = 0.0
        wait_for(lambda: rollout(cloud)["state"] == "DONE", "version 2 to take over", SECONDS)
        wait_for(lambda: all(versions[-1] == 2 for versions in load.met.values()), "all keys to follow", SECONDS)
    assert set(load.statuses) == {200}, load.statuses
    assert {tuple(versions) for versions in load.met.values()} == {(1, 2)}, "a key went back"
    judged = rollout(cloud)["status"]["canary"]["compared"]
    assert judged["sources"]["replicas"]["places"]["share"] == [[4_000], [6_000]]
    assert judged["candidate"]["answered"] > 0

    with Load(cloud) as load:
        deploy(cloud, "4.5")
        wait_for(lambda: rollout(cloud)["state"] == "ROLLED_BACK", "version 3 to be taken back", SECONDS)
        assert rollout(cloud)["reason"] == "WORSE_SCORES"
        wait_for(lambda: all(versions[-1] == 2 for versions in load.met.values()), "all keys to be back", SECONDS)
    assert set(load.statuses) == {200}, load.statuses
    assert {tuple(versions) for versions in load.met.values()} <= {(2,), (2, 3, 2)}
