"""MLflow's routes in this process: who may, what is written and audited, what is refused, and in which words."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyriver.adapters.memory.keys import MemoryKeys
from skyriver.control import bodies
from skyriver.control.api import create_api
from skyriver.control.late import routes_of
from skyriver.control.mlflow import filters, records, registry, room, shown
from skyriver.control.mlflow.refusals import is_mlflow
from skyriver.core.curves import Curves
from skyriver.core.resources import Resource
from skyriver.release.manifest import VersionManifest, scoring_signature
from skyriver.trust.signing import signed_version

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Caller, Stage

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
Headers = dict[str, str]


class Client:
    """One caller of one stage."""

    def __init__(self, stage: Stage, headers: Headers) -> None:
        self.stage, self.headers = stage, headers

    def ask(self, method: str, path: str, /, **fields: Any) -> httpx.Response:
        how: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        return self.stage.caller.request(method, path, headers=self.headers, **how)

    def get(self, path: str, /, **fields: Any) -> dict[str, Any]:
        return self._good(self.ask("GET", f"{API}/{path}", **fields))

    def post(self, path: str, /, **fields: Any) -> dict[str, Any]:
        return self._good(self.ask("POST", f"{API}/{path}", **fields))

    def send(self, method: str, path: str, /, **fields: Any) -> dict[str, Any]:
        return self._good(self.ask(method, f"{API}/{path}", **fields))

    def refused(self, word: str, method: str, path: str, /, **fields: Any) -> str:
        answer = self.ask(method, path if path.startswith("/") else f"{API}/{path}", **fields)
        assert answer.status_code >= 400, answer.text
        assert set(answer.json()) == {"error_code", "message"}
        assert answer.json()["error_code"] == word, answer.text
        return str(answer.json()["message"])

    def run(self, experiment: str = "0", **fields: Any) -> str:
        return str(self.post("runs/create", experiment_id=experiment, **fields)["run"]["info"]["run_id"])

    def keep(self, path: str, data: bytes) -> None:
        assert self.stage.caller.put(f"{FILES}/{path}", content=data, headers=self.headers).status_code == 200

    def logged(self, **files: bytes) -> str:
        found = self.post("logged-models", experiment_id="0", name="net")["model"]["info"]["model_id"]
        for name, data in files.items():
            self.keep(f"models/{found}/{name.replace('_', '.')}", data)
        return str(found)

    @staticmethod
    def _good(answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def client(stage: Stage, admin: Headers) -> Client:
    return Client(stage, admin)


def audit(stage: Stage) -> list[str]:
    return [entry["action"] for entry in stage.store.audit("default", limit=1_000)]


def version(model: str, number: int, artifact: str, **more: Any) -> Resource:
    manifest = VersionManifest(
        model=model,
        version=number,
        artifact=artifact,
        bytes=5,
        features=None,
        source=None,
        code="",
        spec_digest="",
        split=None,
        metrics={"auc": 0.75},
        champion_metrics=None,
        signature=scoring_signature(2),
        trained_at=1_700_000_000_000_000,
        job=f"{model}-import-1",
        origin=more.pop("origin", {}),
    )
    given = {"state": "CANDIDATE", **more}
    return Resource("default", "version", f"{model}:{number}", spec={**manifest.to_json(), "fields": None}, **given)


# Who may, and what leaves a trace


def test_each_route_says_who_may_and_what_it_writes_and_none_is_in_our_contract(stage: Stage) -> None:
    routes = [r for r in routes_of(stage.api) if is_mlflow(r.path)]
    assert len(routes) >= 55
    for route in routes:
        extra: Mapping[str, Any] = route.openapi_extra or {}
        assert extra["x-writes"] == "nothing" or extra["x-permission"].endswith(":write"), route.path
        assert not (route.methods <= {"GET"} and extra["x-writes"] != "nothing")
    recorded = {r.path.removeprefix(f"{API}/") for r in routes if (r.openapi_extra or {})["x-writes"] == "recorded"}
    logged = {"metric", "parameter", "batch", "inputs"}
    assert recorded == {
        *(f"runs/log-{word}" for word in logged),
        "runs/outputs",
        "runs/set-tag",
        "runs/delete-tag",
        "logged-models/{model_id}/params",
        "logged-models/{model_id}/tags",
        "logged-models/{model_id}/tags/{tag_key}",
    }
    assert not [path for path in stage.api.openapi()["paths"] if is_mlflow(path)]


def test_who_has_no_token_or_may_only_look_is_told_so_in_mlflows_form(stage: Stage) -> None:
    Client(stage, {}).refused("UNAUTHENTICATED", "GET", "experiments/search")
    viewer = Client(stage, stage.issue("viewer"))
    assert viewer.get("experiments/search")["experiments"]
    told = viewer.refused("PERMISSION_DENIED", "POST", "runs/create", experiment_id="0")
    assert "models:write" in told
    viewer.refused("PERMISSION_DENIED", "PUT", f"{FILES}/runs/x/y")
    assert stage.store.rows("default", "run") == []


def test_a_tenant_sees_its_own(stage: Stage, client: Client) -> None:
    other = Client(stage, stage.issue("admin", "globex", "theirs"))
    run = client.run()
    client.post("registered-models/create", name="net")
    for word, method, path, fields in (
        ("RESOURCE_DOES_NOT_EXIST", "GET", "runs/get", {"run_id": run}),
        ("RESOURCE_DOES_NOT_EXIST", "POST", "runs/log-metric", {"run_id": run, "key": "a", "value": 1}),
        ("RESOURCE_DOES_NOT_EXIST", "GET", "registered-models/get", {"name": "net"}),
    ):
        other.refused(word, method, path, **fields)
    assert other.post("runs/search", experiment_ids=["0"])["runs"] == []
    assert other.get("registered-models/search")["registered_models"] == []


def test_what_is_made_and_ended_is_audited_and_the_steps_between_are_not(stage: Stage, client: Client) -> None:
    run = client.run(run_name="first")
    before = len(audit(stage))
    passes = stage.store.revision()
    for step in range(20):
        client.post("runs/log-metric", run_id=run, key="auc", value=0.5 + step / 100, step=step, timestamp=step)
    client.post("runs/log-batch", run_id=run, params=[{"key": "a", "value": "1"}], tags=[{"key": "t", "value": "x"}])
    assert stage.store.revision() > passes
    assert len(audit(stage)) == before, "the run's row says what was logged, and who wrote it last"
    assert stage.store.get("default", "run", run).updated_by == "admin-token"
    explained = stage.caller.get(f"{BASE}/explain/run/{run}", headers=client.headers).json()["items"]
    assert [(item["kind"], item["state"]) for item in explained] == [("run", "RUNNING")]
    client.post("runs/update", run_id=run, status="FINISHED", end_time=99)
    assert audit(stage)[before:] == ["update_run"]
    info = client.get("runs/get", run_id=run)["run"]["info"]
    assert (info["status"], info["end_time"], info["run_name"]) == ("FINISHED", 99, "first")


def test_each_route_that_says_so_leaves_one_audit_row(stage: Stage, client: Client) -> None:
    digest = stage.objects.put(b"model")
    number, run, gone = client.post("experiments/create", name="e")["experiment_id"], client.run(), client.run()
    client.post("runs/delete", run_id=gone)
    logged = client.logged(model_onnx=b"model")
    for name in ("net", "empty"):
        client.post("registered-models/create", name=name)
    stage.put(version("net", 1, digest))
    named = {"name": "net", "version": "1"}
    examples: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "experiments/create", {"name": "more"}),
        ("POST", "experiments/set-experiment-tag", {"experiment_id": number, "key": "a", "value": "b"}),
        ("POST", "experiments/delete-experiment-tag", {"experiment_id": number, "key": "a"}),
        ("POST", "experiments/update", {"experiment_id": number, "new_name": "f"}),
        ("POST", "experiments/delete", {"experiment_id": number}),
        ("POST", "experiments/restore", {"experiment_id": number}),
        ("POST", "runs/create", {"experiment_id": number}),
        ("POST", "runs/update", {"run_id": run, "status": "FAILED"}),
        ("POST", "runs/delete", {"run_id": run}),
        ("POST", "runs/restore", {"run_id": run}),
        ("POST", "logged-models", {"experiment_id": "0"}),
        ("PATCH", f"logged-models/{logged}", {"status": "LOGGED_MODEL_READY"}),
        ("POST", "registered-models/create", {"name": "other"}),
        ("PATCH", "registered-models/update", {"name": "net", "description": "d"}),
        ("POST", "registered-models/set-tag", {"name": "net", "key": "a", "value": "b"}),
        ("DELETE", "registered-models/delete-tag", {"name": "net", "key": "a"}),
        ("DELETE", "registered-models/delete", {"name": "empty"}),
        ("POST", "registered-models/alias", {**named, "alias": "good"}),
        ("DELETE", "registered-models/alias", {"name": "net", "alias": "good"}),
        ("PATCH", "model-versions/update", {**named, "description": "d"}),
        ("POST", "model-versions/set-tag", {**named, "key": "a", "value": "b"}),
        ("DELETE", "model-versions/delete-tag", {**named, "key": "a"}),
        ("DELETE", f"{FILES}/models/{logged}/model.onnx", {}),
        ("DELETE", f"logged-models/{logged}", {}),
    ]
    for method, path, fields in examples:
        known = len(audit(stage))
        answer = client.ask(method, path if path.startswith("/") else f"{API}/{path}", **fields)
        assert answer.status_code == 200, (path, answer.text)
        assert len(audit(stage)) == known + 1, path
    routes = [r for r in routes_of(stage.api) if is_mlflow(r.path)]
    audited = {(m, r.path) for r in routes for m in r.methods if (r.openapi_extra or {})["x-writes"] == "audited"}
    seen = {(m, _template(path, logged)) for m, path, _ in examples}
    assert audited - seen == {("POST", f"{API}/model-versions/create"), ("PUT", f"{FILES}/{{path:path}}")}


def _template(path: str, logged: str) -> str:
    if path.startswith(FILES):
        return f"{FILES}/{{path:path}}"
    return f"{API}/{path.replace(logged, '{model_id}')}"


# Runs


def test_what_was_logged_comes_back_whole(client: Client) -> None:
    number = client.post("experiments/create", name="tries", tags=[{"key": "a", "value": "b"}])["experiment_id"]
    assert client.get("experiments/get-by-name", experiment_name="tries")["experiment"]["experiment_id"] == number
    run = client.run(number, tags=[{"key": "mlflow.runName", "value": "deep"}], start_time=5)
    for step, value in ((1, 0.5), (2, "NaN"), (3, 0.75)):
        client.post("runs/log-metric", run_id=run, key="auc", value=value, step=step, timestamp=10 + step)
    client.post("runs/log-parameter", run_id=run, key="depth", value="3")
    client.post("runs/log-inputs", run_id=run, datasets=[{"dataset": {"name": "d", "digest": "1"}}])
    found = client.get("runs/get", run_id=run)["run"]
    assert found["info"]["run_name"] == "deep"
    assert found["data"]["params"] == [{"key": "depth", "value": "3"}]
    assert found["data"]["metrics"] == [{"key": "auc", "value": 0.75, "timestamp": 13, "step": 3}]
    assert found["inputs"]["dataset_inputs"][0]["dataset"]["name"] == "d"
    history = client.get("metrics/get-history", run_id=run, metric_key="auc")["metrics"]
    assert [point["value"] for point in history] == [0.5, "NaN", 0.75]
    asked = {"experiment_ids": [number], "filter": "metrics.auc > 0.7 and params.depth = '3'"}
    assert [r["info"]["run_id"] for r in client.post("runs/search", **asked)["runs"]] == [run]
    client.post("runs/delete", run_id=run)
    assert client.post("runs/search", experiment_ids=[number])["runs"] == []
    assert len(client.post("runs/search", experiment_ids=[number], run_view_type="ALL")["runs"]) == 1
    client.refused("INVALID_STATE", "POST", "runs/log-metric", run_id=run, key="auc", value=1)
    client.post("runs/restore", run_id=run)
    assert client.get("runs/get", run_id=run)["run"]["info"]["lifecycle_stage"] == "active"


def test_what_is_wrong_is_told_in_one_sentence_and_nothing_is_done(stage: Stage, client: Client) -> None:
    run = client.run()
    client.post("runs/log-parameter", run_id=run, key="depth", value="3")
    before = stage.store.revision()
    wrong: list[tuple[str, str, dict[str, Any], str]] = [
        ("INVALID_PARAMETER_VALUE", "runs/log-parameter", {"key": "depth", "value": "4"}, "cannot become '4'"),
        ("INVALID_PARAMETER_VALUE", "runs/log-metric", {"key": "auc", "value": "good"}, "'good' is no number"),
        ("INVALID_PARAMETER_VALUE", "runs/log-metric", {"key": "", "value": 1}, "cannot name a metric"),
        ("INVALID_PARAMETER_VALUE", "runs/log-metric", {"key": "a", "value": 1, "step": "x"}, "no whole number"),
        ("INVALID_PARAMETER_VALUE", "runs/log-batch", {"metrics": [{}] * 1_001}, "at most 1,000"),
        ("INVALID_PARAMETER_VALUE", "runs/log-batch", {"params": [{"key": "a", "value": 3}]}, "no key with a text"),
        ("INVALID_PARAMETER_VALUE", "runs/update", {"status": "DONE"}, "no state of a run"),
        ("INVALID_PARAMETER_VALUE", "runs/log-model", {"model_json": "{}"}, "MLflow 3"),
    ]
    for word, path, fields, told in wrong:
        assert told in client.refused(word, "POST", path, **{"run_id": run, **fields})
    for path, fields in (
        ("experiments/create", {"name": "Default"}),
        ("registered-models/create", {"name": "Net"}),
        ("experiments/create", {"name": "x", "artifact_location": "s3://bucket"}),
        ("experiments/create", {}),
    ):
        assert client.ask("POST", f"{API}/{path}", **fields).status_code == 400
    assert stage.store.revision() == before
    assert "runs, logged models" in client.refused("ENDPOINT_NOT_FOUND", "POST", "/api/3.0/mlflow/traces/search")
    broken = stage.caller.post(f"{API}/runs/create", content=b"{", headers=client.headers)
    assert broken.json()["error_code"] == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("runs/search", '{"experiment_ids": ["0"], "max_results": 1e999}'),
        ("runs/search", '{"experiment_ids": ["0"], "max_results": NaN}'),
        ("runs/search", '{"experiment_ids": ["0"], "max_results": []}'),
        ("runs/search", '{"experiment_ids": ["0"], "filter": []}'),
        ("runs/log-metric", '{"run_id": "RUN", "key": "a", "value": 1, "step": 1e999}'),
        ("runs/log-metric", '{"run_id": "RUN", "key": "a", "value": 1, "step": "NaN"}'),
        ("runs/log-metric", '{"run_id": "RUN", "key": "a", "value": 1, "timestamp": Infinity}'),
        ("runs/log-metric", '{"run_id": "RUN", "key": "a", "value": 1' + "0" * 400 + "}"),
        ("runs/log-metric", '{"run_id": "RUN", "key": "a", "value": ' + "1" * 5_000 + "}"),
        ("runs/outputs", '{"run_id": "RUN", "models": [{"model_id": "m", "step": "NaN"}]}'),
        ("runs/outputs", '{"run_id": "RUN", "models": [{"model_id": "m", "step": 1e999}]}'),
        ("runs/log-inputs", '{"run_id": "RUN", "datasets": [{"dataset": {"name": NaN}}]}'),
        ("runs/log-inputs", '{"run_id": "RUN", "datasets": [{"a": ' + "[" * 3_000 + "]" * 3_000 + "}]}"),
        ("runs/set-tag", '{"run_id": "RUN", "key": "a", "value": "\\ud800"}'),
        ("logged-models/search", '{"experiment_ids": ["0"], "order_by": [{"field_name": 3}]}'),
        ("runs/create", "[" * 200_000),
        ("runs/create", "[" * 200_000 + "]" * 200_000),
        ("runs/create", "\xff"),
        ("runs/create", '{"user_id": "' + "x" * 2_000_000 + '"}'),
    ],
    ids=range(19),
)
def test_no_number_and_no_nesting_is_an_error_of_ours(client: Client, path: str, body: str) -> None:
    run = client.run()
    before = client.stage.store.revision()
    sent = body.replace("RUN", run).encode("latin-1")
    answer = client.stage.caller.post(f"{API}/{path}", content=sent, headers=client.headers)
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE", answer.text
    assert client.stage.store.revision() == before
    assert client.get("runs/get", run_id=run)


def test_a_run_holds_so_much_and_a_tenant_so_many(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = client.run()
    many = [{"key": f"m{n}", "value": n, "timestamp": 1, "step": 0} for n in range(records.MOST_METRICS)]
    client.post("runs/log-batch", run_id=run, metrics=many)
    one_more = {"run_id": run, "key": "more", "value": 1}
    assert "log_artifact" in client.refused("RESOURCE_LIMIT_EXCEEDED", "POST", "runs/log-metric", **one_more)
    params = [{"key": f"p{n}", "value": "x" * 200} for n in range(300)]
    client.refused("RESOURCE_LIMIT_EXCEEDED", "POST", "runs/log-batch", run_id=run, params=params)
    for step in range(60):
        client.post("runs/log-metric", run_id=run, key="m0", value=step, step=step, timestamp=step)
    assert len(client.get("metrics/get-history", run_id=run, metric_key="m0")["metrics"]) <= 7
    monkeypatch.setattr(records, "MOST", {**records.MOST, "run": 2})
    other = client.run()
    assert "Delete runs" in client.refused("RESOURCE_LIMIT_EXCEEDED", "POST", "runs/create", experiment_id="0")
    client.post("runs/delete", run_id=other)
    client.run()
    client.refused("RESOURCE_DOES_NOT_EXIST", "GET", "runs/get", run_id=other)


def test_the_trainings_of_this_cloud_are_runs_that_nobody_writes(stage: Stage, client: Client) -> None:
    assert stage.caller.put(f"{BASE}/apps/shop", json=stage.body(), headers=client.headers).status_code == 200
    spec = {"kind": "train", "target": "comes_back", "params": {"trees": 9}}
    stage.put(Resource("default", "job", "comes_back-run-1-train", spec=spec, state="RUNNING"))
    experiment = client.get("experiments/get-by-name", experiment_name="skyriver/comes_back")["experiment"]
    [run] = client.post("runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
    assert (run["info"]["run_id"], run["info"]["status"]) == ("comes_back-run-1", "RUNNING")
    assert run["data"]["params"] == [{"key": "trees", "value": "9"}]
    curves = Curves()
    for step, loss in ((1, 0.5), (2, 0.25), (3, math.nan)):
        curves.tell(step, {"loss": loss, "auc": 0.1}, 1_000 + step)
    digest = stage.objects.put(json.dumps({**curves.document(), "now": {}}).encode())
    made = version("comes_back", 1, stage.objects.put(b"trees"), state="APPROVED")
    split = {"train": [0, 0, 1, 1], "test": [0, 0, 1, 1]}
    stage.put(replace(made, spec={**made.spec, "split": split, "job": "comes_back-run-1-compress", "curve": digest}))
    run = client.get("runs/get", run_id="comes_back-run-1")["run"]
    assert run["info"]["status"] == "FINISHED"
    values = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert (values["auc"], values["loss"]) == (0.75, "NaN")
    history = client.get("metrics/get-history", run_id="comes_back-run-1", metric_key="loss")["metrics"]
    told = [(metric["step"], metric["value"], metric["timestamp"]) for metric in history]
    assert told == [(1, 0.5, 1_001), (2, 0.25, 1_002), (3, "NaN", 1_003)]
    assert {"key": "skyriver.version", "value": "comes_back:1"} in run["data"]["tags"]
    found = client.get("model-versions/get", name="comes_back", version="1")["model_version"]
    assert found["run_id"] == "comes_back-run-1"
    for path, fields in (
        ("runs/log-metric", {"run_id": "comes_back-run-1", "key": "auc", "value": 1}),
        ("runs/delete", {"run_id": "comes_back-run-1"}),
        ("runs/create", {"experiment_id": experiment["experiment_id"]}),
        ("experiments/delete", {"experiment_id": experiment["experiment_id"]}),
        ("experiments/create", {"name": "skyriver/comes_back"}),
    ):
        assert "nobody" in (told := client.refused("INVALID_STATE", "POST", path, **fields)) or "trainings" in told


# Files and versions


def test_files_are_kept_by_their_paths_and_no_path_leads_out(client: Client) -> None:
    run = client.run()
    client.keep(f"runs/{run}/a/b.txt", b"one")
    client.keep(f"runs/{run}/a/b.txt", b"two")
    client.keep(f"runs/{run}/c.pkl", b"\x80\x04.")
    listed = client.ask("GET", FILES, path=f"runs/{run}").json()["files"]
    assert listed == [{"path": "a", "is_dir": True}, {"path": "c.pkl", "is_dir": False, "file_size": 3}]
    assert client.get("artifacts/list", run_id=run, path="a")["files"][0]["path"] == "a/b.txt"
    assert client.ask("GET", f"{FILES}/runs/{run}/a/b.txt").content == b"two"
    for path in (f"runs/{run}/a/%2e%2e/x", f"runs/{run}/..%2f..%2fetc", "runs", "other/x/y", f"runs/{run}/"):
        answer = client.stage.caller.put(f"{FILES}/{path}", content=b"x", headers=client.headers)
        assert answer.status_code in (400, 404), (path, answer.text)
    assert client.ask("DELETE", f"{FILES}/runs/{run}/a").status_code == 200
    client.refused("RESOURCE_DOES_NOT_EXIST", "GET", f"{FILES}/runs/{run}/a/b.txt")


def test_a_version_gives_its_model_and_what_it_is_and_only_as_it_was_signed(tmp_path: Path) -> None:
    keys = MemoryKeys()
    stage = Stage(tmp_path, keys=keys)
    client = Client(stage, stage.issue())
    client.post("registered-models/create", name="net")
    row = stage.put(signed_version(keys, version("net", 1, stage.objects.put(b"model"), origin={"run": "r"})))
    uri = client.get("model-versions/get-download-uri", name="net", version="1")["artifact_uri"]
    assert uri == "mlflow-artifacts:/versions/net/1"
    assert [f["path"] for f in client.ask("GET", FILES, path="versions/net/1").json()["files"]] == [
        "MLmodel",
        "model.onnx",
    ]
    assert client.ask("GET", f"{FILES}/versions/net/1/model.onnx").content == b"model"
    told = json.loads(client.ask("GET", f"{FILES}/versions/net/1/MLmodel").content)
    assert told["flavors"]["python_function"]["loader_module"] == "mlflow.onnx"
    assert json.loads(told["signature"]["inputs"])[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 2]}
    written = stage.caller.put(f"{FILES}/versions/net/1/model.onnx", content=b"x", headers=client.headers)
    assert written.json()["error_code"] == "INVALID_STATE"
    stage.put(replace(row, spec={**row.spec, "artifact": stage.objects.put(b"another")}))
    for file in ("model.onnx", "MLmodel"):
        assert "BAD_SIGNATURE" in client.refused("INVALID_STATE", "GET", f"{FILES}/versions/net/1/{file}")


def test_registering_waits_for_the_check_and_tells_what_came_of_it(stage: Stage, client: Client) -> None:
    logged = client.logged(model_onnx=b"model", weights_data=b"w", conda_yaml=b"x", MLmodel=b"x")
    client.post("registered-models/create", name="net")
    asked = {"name": "net", "source": f"models:/{logged}", "run_id": "r1", "model_id": logged, "description": "d"}
    answers: list[httpx.Response] = []

    def register(**more: Any) -> threading.Thread:
        call = lambda: answers.append(client.ask("POST", f"{API}/model-versions/create", **asked, **more))  # noqa: E731
        thread = threading.Thread(target=call)
        thread.start()
        while not [j for j in stage.store.rows("default", "job") if j.state in ("PENDING", "QUEUED", "STARTING")]:
            pass
        stage.world.run(seconds=1)
        return thread

    thread = register(tags=[{"key": "q", "value": "1"}, {"key": "skyriver.state", "value": "copied"}])
    [job] = stage.store.rows("default", "job")
    assert [file["name"] for file in job.spec["inputs"]["files"]] == ["model.onnx", "weights.data"]
    assert job.spec["params"]["origin"] == {"source": f"models:/{logged}", "run": "r1", "logged_model": logged}
    spec = {**version("net", 1, stage.objects.put(b"model")).spec, "origin": job.spec["params"]["origin"]}
    made = {"resources": [{"kind": "version", "name": "net", "state": "CANDIDATE", "spec": spec}]}
    stage.world.compute.report(job.process, outcome="succeeded", outputs=made)
    stage.world.settle()
    thread.join()
    found = answers.pop().json()["model_version"]
    assert (found["name"], found["version"], found["status"], found["run_id"]) == ("net", "1", "READY", "r1")
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    assert (tags["q"], tags["skyriver.state"]) == ("1", "CANDIDATE")
    thread = register()
    told = {"reason": "ONNX_INVALID", "message": "It is no model.", "next_action": "Export it again."}
    stage.world.compute.report("default.job.net-import-2", outcome="failed", **told)
    stage.world.settle()
    thread.join()
    assert answers.pop().json() == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "It is no model. Export it again. (ONNX_INVALID)",
    }


def test_what_cannot_be_a_version_is_said_before_anything_begins(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("registered-models/create", name="net")
    pickled, two = client.logged(model_pkl=b"\x80\x04."), client.logged(a_onnx=b"a", b_onnx=b"b")
    for source, told in (
        (f"models:/{pickled}", "NOT_ONNX"),
        (f"models:/{two}", "which one is the model"),
        ("s3://bucket/model", "NO_URL"),
        ("file:///etc/passwd", "NO_URL"),
        ("mlflow-artifacts://elsewhere/models/x", "NO_URL"),
    ):
        assert told in client.refused(
            "INVALID_PARAMETER_VALUE", "POST", "model-versions/create", name="net", source=source
        )
    for name, source in (("other", f"models:/{two}/a.onnx"), ("net", "models:/m-none"), ("net", "runs:/none/x")):
        client.refused("RESOURCE_DOES_NOT_EXIST", "POST", "model-versions/create", name=name, source=source)
    assert stage.store.rows("default", "job") == []
    monkeypatch.setattr(registry, "CHECKED_SECONDS", 0.0)
    asked = {"name": "net", "source": f"models:/{two}/a.onnx"}
    assert "net-import-1" in client.refused("INVALID_STATE", "POST", "model-versions/create", **asked)


def test_names_are_ours_and_champion_of_a_served_model_is_a_rollout_of_what_passed(
    stage: Stage, client: Client
) -> None:
    assert stage.caller.put(f"{BASE}/apps/shop", json=stage.body(), headers=client.headers).status_code == 200
    stage.put(version("comes_back", 1, "a" * 64, state="APPROVED", status={"settled": "good"}))
    stage.put(version("comes_back", 2, "b" * 64, state="REJECTED", status={"settled": "bad"}))
    named = {"name": "comes_back", "version": "2"}
    client.post("registered-models/alias", **named, alias="tried")
    assert client.get("registered-models/alias", name="comes_back", alias="tried")["model_version"]["version"] == "2"
    told = client.refused("INVALID_STATE", "POST", "registered-models/alias", **named, alias="champion")
    assert "never passed the gate" in told
    client.post("registered-models/alias", name="comes_back", version="1", alias="champion")
    [rollout] = stage.store.rows("default", "rollout")
    assert rollout.spec["to"] == 1
    client.refused("RESOURCE_DOES_NOT_EXIST", "GET", "registered-models/alias", name="comes_back", alias="champion")
    for word, method, path, fields in (
        ("INVALID_STATE", "DELETE", "registered-models/delete", {"name": "comes_back"}),
        ("INVALID_STATE", "DELETE", "model-versions/delete", named),
        ("INVALID_PARAMETER_VALUE", "POST", "model-versions/transition-stage", named),
        ("INVALID_PARAMETER_VALUE", "POST", "registered-models/rename", {"name": "comes_back", "new_name": "x"}),
        ("RESOURCE_ALREADY_EXISTS", "POST", "registered-models/create", {"name": "comes_back"}),
    ):
        client.refused(word, method, path, **fields)
    logged = client.logged(model_onnx=b"model")
    asked = {"name": "comes_back", "source": f"models:/{logged}"}
    assert "TRAINED_HERE" in client.refused("INVALID_STATE", "POST", "model-versions/create", **asked)
    latest = client.post("registered-models/get-latest-versions", name="comes_back")["model_versions"]
    assert [v["version"] for v in latest] == ["2"]
    found = client.get("model-versions/search", filter="name = 'comes_back' and tags.`skyriver.state` = 'APPROVED'")
    assert [v["version"] for v in found["model_versions"]] == ["1"]


def test_logged_models_are_found_by_what_was_logged_of_them(client: Client) -> None:
    run = client.run()
    made = {"experiment_id": "0", "source_run_id": run, "params": [{"key": "depth", "value": "3"}]}
    one = client.post("logged-models", **made, name="one")["model"]["info"]["model_id"]
    two = client.post("logged-models", **made, name="two")["model"]["info"]["model_id"]
    client.post("runs/outputs", run_id=run, models=[{"model_id": one, "step": 0}])
    client.post("runs/log-metric", run_id=run, key="auc", value=0.9, step=0, timestamp=1, model_id=one)
    client.post(f"logged-models/{one}/params", params=[{"key": "more", "value": "x"}])
    client.send("PATCH", f"logged-models/{one}/tags", tags=[{"key": "a", "value": "b"}])
    found = client.send("PATCH", f"logged-models/{one}", status="LOGGED_MODEL_READY")["model"]
    assert found["info"]["status"] == "LOGGED_MODEL_READY"
    assert [m["key"] for m in found["data"]["metrics"]] == ["auc"]
    assert client.get("runs/get", run_id=run)["run"]["outputs"]["model_outputs"] == [{"model_id": one, "step": 0}]
    search = {"experiment_ids": ["0"], "order_by": [{"field_name": "name", "ascending": False}]}
    assert [m["info"]["name"] for m in client.post("logged-models/search", **search)["models"]] == ["two", "one"]
    by_metric = client.post("logged-models/search", experiment_ids=["0"], filter="metrics.auc > 0.5")["models"]
    assert [m["info"]["model_id"] for m in by_metric] == [one]
    client.send("DELETE", f"logged-models/{one}/tags/a")
    client.send("DELETE", f"logged-models/{two}")
    assert len(client.post("logged-models/search", experiment_ids=["0"])["models"]) == 1


def test_what_is_in_a_deleted_experiment_is_deleted_with_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    number = client.post("experiments/create", name="tries")["experiment_id"]
    run, kept = client.run(number), client.run()
    client.post("logged-models", experiment_id=number, name="net")
    client.post("experiments/delete", experiment_id=number)
    assert client.post("runs/search", experiment_ids=[number])["runs"] == []
    assert client.get("runs/get", run_id=run)["run"]["info"]["lifecycle_stage"] == "deleted"
    assert client.post("logged-models/search", experiment_ids=[number])["models"] == []
    client.refused("INVALID_STATE", "POST", "runs/log-metric", run_id=run, key="auc", value=1)
    client.refused("INVALID_STATE", "POST", "runs/create", experiment_id=number)
    client.post("experiments/restore", experiment_id=number)
    assert len(client.post("runs/search", experiment_ids=[number])["runs"]) == 1
    client.post("experiments/delete", experiment_id=number)
    monkeypatch.setattr(records, "MOST", {**records.MOST, "run": 2})
    client.run()
    client.refused("RESOURCE_DOES_NOT_EXIST", "GET", "runs/get", run_id=run)
    assert client.get("runs/get", run_id=kept)["run"]["info"]["lifecycle_stage"] == "active"


def test_tags_by_our_own_route(stage: Stage, client: Client) -> None:
    client.post("registered-models/create", name="net")
    path = f"{BASE}/models/net/tags"

    def tag(body: Any, path: str = path) -> httpx.Response:
        return stage.caller.request("PATCH", path, json=body, headers=client.headers)

    assert tag({"tags": {"a": "1", "b": "2"}}).json()["status"]["tags"] == {"a": "1", "b": "2"}
    assert tag({"tags": {"a": None, "never": None}}).json()["status"]["tags"] == {"b": "2"}
    assert client.get("registered-models/get", name="net")["registered_model"]["tags"] == [{"key": "b", "value": "2"}]
    for body, status in (
        ({}, 422),
        ({"tags": {}}, 422),
        ({"tags": {"skyriver.x": "1"}}, 422),
        ({"tags": {"a": 1}}, 422),
    ):
        assert tag(body).status_code == status
    assert tag({"tags": {"k": "x" * 5_000, "l": "x" * 5_000, "m": "x" * 5_000, "n": "x" * 5_000}}).status_code == 429
    assert tag({"tags": {"a": "1"}}, f"{BASE}/versions/net:1/tags").status_code == 404


def test_only_uploads_have_bodies_without_a_limit(
    stage: Stage, admin: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_LIMIT", 1_000)
    data = b" " * 1_001
    artifacts = "/api/2.0/mlflow-artifacts/artifacts"
    for method, path in (
        ("PATCH", "/api/2.0/mlflow/logged-models/objects"),
        ("PUT", f"{BASE}/apps/objects"),
    ):
        answer = stage.caller.request(method, path, content=data, headers=admin)
        assert "over 1,000 bytes" in answer.text, path
    assert stage.caller.post(f"{BASE}/objects", content=data, headers=admin).status_code == 201
    run = stage.caller.post("/api/2.0/mlflow/runs/create", json={}, headers=admin).json()["run"]["info"]["run_id"]
    assert stage.caller.put(f"{artifacts}/runs/{run}/objects", content=data, headers=admin).status_code == 200


def test_a_search_makes_documents_of_its_page_alone_and_each_row_is_found_once(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for name in ("run", "logged_model", "registered_model", "model_version"):
        real = getattr(shown, name)
        counted = lambda *given, of=real, what=name, **more: (made.append(what), of(*given, **more))[1]  # noqa: E731
        monkeypatch.setattr(shown, name, counted)
    for number in range(1, 6):
        run = client.run(start_time=number)
        client.post("runs/log-metric", run_id=run, key="auc", value=number)
        logged = client.logged()
        client.post(f"logged-models/{logged}/params", params=[{"key": "n", "value": str(number)}])
        client.post("registered-models/create", name=f"net{number}")
        stage.put(version("net1", number, "0" * 64))
    made.clear()
    asked = {"experiment_ids": ["0"] * 1_000, "filter": "metrics.auc > 1", "order_by": ["metrics.auc"]}
    found = client.post("runs/search", **asked, max_results=2)
    assert [run["data"]["metrics"][0]["value"] for run in found["runs"]] == [2, 3]
    found = client.post("runs/search", **asked, max_results=2, page_token=found["next_page_token"])
    assert [run["data"]["metrics"][0]["value"] for run in found["runs"]] == [4, 5]
    assert "next_page_token" not in found
    order = [{"field_name": "params.n", "ascending": False}]
    asked = {"experiment_ids": ["0"] * 1_000, "filter": "params.n != '5'", "order_by": order, "max_results": 1}
    [one] = client.post("logged-models/search", **asked)["models"]
    assert one["data"]["params"] == [{"key": "n", "value": "4"}]
    asked = {"filter": "name LIKE 'net%' AND tags.`mlflow.prompt.is_prompt` != 'true'", "order_by": ["name DESC"]}
    [model] = client.get("registered-models/search", **asked, max_results=1)["registered_models"]
    assert model["name"] == "net5"
    asked = {"filter": "name = 'net1' AND tags.skyriver.state = 'CANDIDATE'", "order_by": ["version_number"]}
    [one] = client.get("model-versions/search", **asked, max_results=1)["model_versions"]
    assert one["version"] == "1"
    assert sorted(made) == ["logged_model", "model_version", "registered_model", *["run"] * 4]


def test_all_rows_of_a_tenant_have_so_many_characters_and_what_is_deleted_makes_room(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [{"key": f"p{n}", "value": "x" * 5_000} for n in range(8)]
    runs = [client.run() for _ in range(3)]
    client.post("runs/log-batch", run_id=runs[0], params=long)
    assert room.pieces(stage.store.get("default", "run", runs[0])) == 11
    monkeypatch.setattr(room, "MOST_CHARACTERS", 14 * room.PIECE)
    before = stage.store.revision()
    for path, more in (("runs/log-batch", {"run_id": runs[1], "params": long}), ("runs/create", {})):
        if path == "runs/create":
            client.run()  # the last one for which there is room
            before = stage.store.revision()
        told = client.refused("RESOURCE_LIMIT_EXCEEDED", "POST", path, **{"experiment_id": "0", **more})
        assert "Delete runs" in told
        assert stage.store.revision() == before
    client.post("runs/log-parameter", run_id=runs[1], key="little", value="fits into its piece")
    client.refused("RESOURCE_LIMIT_EXCEEDED", "POST", "logged-models", experiment_id="0", name="net")
    other = Client(stage, stage.issue("developer", "elsewhere"))
    other.post("runs/log-batch", run_id=other.run(), params=long)
    client.post("runs/delete", run_id=runs[0])
    client.post("runs/log-batch", run_id=runs[1], params=long)
    client.refused("RESOURCE_DOES_NOT_EXIST", "GET", "runs/get", run_id=runs[0])
    assert client.get("runs/get", run_id=runs[2])


def test_a_page_ends_before_it_is_too_long(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "HEAVIEST", 3 * room.PIECE)
    runs = {client.run() for _ in range(7)}
    client.post("runs/log-batch", run_id=min(runs), params=[{"key": "a", "value": "x" * 5_000}])
    client.post("runs/log-batch", run_id=max(runs), params=[{"key": f"p{n}", "value": "x" * 5_000} for n in range(5)])
    seen: list[str] = []
    token, pages = "", 0
    while token is not None:
        found = client.post("runs/search", experiment_ids=["0"], page_token=token)
        seen += [run["info"]["run_id"] for run in found["runs"]]
        token, pages = found.get("next_page_token"), pages + 1
    assert (set(seen), len(seen)) == (runs, 7)
    assert 3 <= pages <= 5


def test_files_of_a_tenant_have_so_many_bytes_whatever_is_deleted(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.api = create_api(replace(stage.cloud, artifact_bytes=1_000))
    stage.caller = Caller(stage.api)
    client = Client(stage, stage.issue())
    run = client.run()
    client.keep(f"runs/{run}/a", b"x" * 400)
    client.keep(f"runs/{run}/a", b"x" * 400)  # sent again
    for size in (601, 5_000):
        answer = stage.caller.put(f"{FILES}/runs/{run}/b", content=b"y" * size, headers=client.headers)
        assert answer.json()["error_code"] == "RESOURCE_LIMIT_EXCEEDED"
        assert "artifact_bytes" in answer.json()["message"]
    assert client.get("artifacts/list", run_id=run)["files"] == [{"path": "a", "is_dir": False, "file_size": 400}]
    assert list(tmp_path.glob("tmp*")) == []
    assert client.ask("DELETE", f"{FILES}/runs/{run}/a").status_code == 200
    client.keep(f"runs/{run}/b", b"y" * 600)
    answer = stage.caller.put(f"{FILES}/runs/{run}/c", content=b"", headers=client.headers)
    assert "TOO_MANY_BYTES" in answer.text
    other = Client(stage, stage.issue("developer", "elsewhere"))
    other.keep(f"runs/{other.run()}/a", b"x" * 600)
