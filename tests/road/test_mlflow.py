"""Models from outside: brought by the command line and by MLflow's own client, named, tagged, judged, served."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from cloud_process import Cloud, wait_for, write_lines
from onnx import TensorProto, helper
from onnx_models import model_of

APP = """\
import skyriver as sr

app = sr.App("leaving")
app.model("churn", registered=True, gate=sr.Gate(size="1MB"))
"""


def churn(slope: float = 0.7) -> bytes:
    """score = sigmoid(slope * months - 0.3 * calls)."""
    nodes = [
        helper.make_node("Concat", ["months", "calls"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Sigmoid", ["y"], ["score"]),
    ]
    inputs = [(name, TensorProto.FLOAT, ["n", 1]) for name in COLUMNS]
    weights = np.array([[slope], [-0.3]], np.float32)
    return model_of(nodes, inputs, [("score", TensorProto.FLOAT, ["n", 1])], {"w": weights})


COLUMNS = ("months", "calls")
ROWS = np.array([[0.1, 2.0], [3.5, -1.25], [1e-3, 1e3]], np.float32)
GIVEN = {name: ROWS[:, [place]] for place, name in enumerate(COLUMNS)}


def scores(model: bytes) -> bytes:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return bytes(session.run(None, GIVEN)[0].tobytes())


@pytest.fixture(scope="module")
def up(cloud: Cloud) -> Cloud:
    cloud.command("up", "--port", cloud.port).succeeded()
    (cloud.folder / "churn.onnx").write_bytes(churn())
    (cloud.folder / "leaving.py").write_text(APP)
    return cloud


def row_of(up: Cloud, kinds: str, name: str) -> Any:
    status, found = up.ask("GET", f"/api/v1/tenants/default/{kinds}/{name}")
    assert status == 200, found
    return found


def test_a_file_is_taken_in_named_tagged_and_told_of(up: Cloud) -> None:
    told = up.command("model", "import", "churn", "churn.onnx", "--description", "Who leaves.").succeeded()
    assert "takes months FP32[-1, 1], calls FP32[-1, 1]" in told.err
    assert "It is churn:1." in told.err
    version = row_of(up, "versions", "churn:1")
    assert (version["state"], version["spec"]["origin"]) == ("CANDIDATE", {"file": "churn.onnx"})
    assert version["status"]["signature"]["key"], "signed as every version"
    up.command("model", "alias", "churn", "good", 1).succeeded()
    up.command("model", "tag", "churn@good", "from=Ana", "why=a first try").succeeded()
    assert up.json("model", "tag", "churn", "team=growth")["status"]["tags"] == {"team": "growth"}
    assert row_of(up, "versions", "churn:1")["status"]["tags"] == {"from": "Ana", "why": "a first try"}
    assert "#team" in up.command("explain", "churn").succeeded().out
    up.command("model", "untag", "churn:1", "wy").refused("NO_TAG", 3, "did you mean 'why'")
    up.command("model", "untag", "churn:1", "why").succeeded()
    edges = {(e["from"], e["how"]) for e in row_of(up, "lineage", "churn:1")["items"]}
    assert ("file/churn.onnx", "read by") in edges
    assert "Who leaves." in row_of(up, "versions", "churn:1/card")["markdown"]


def test_a_file_that_is_no_model_is_refused_and_leaves_nothing(up: Cloud) -> None:
    (up.folder / "model.pkl").write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.")
    up.command("model", "import", "pickled", "model.pkl").refused("ONNX_FOREIGN_FORMAT", 100, "pickle")
    assert not [v for v in up.rows("versions") if v["name"].startswith("pickled")]
    up.command("model", "import", "churn", "nowhere.onnx").refused("NO_MODEL_FILE", 3)


def test_rows_are_scored_by_a_version_that_serves_nobody(up: Cloud) -> None:
    rows = write_lines(up.folder / "rows.jsonl", [dict(zip(COLUMNS, row, strict=True)) for row in ROWS.tolist()])
    up.command("predict", "churn@good", rows, "--to", "scored.jsonl").succeeded()
    lines = (up.folder / "scored.jsonl").read_text().splitlines()
    assert np.array([json.loads(line)["score"] for line in lines], np.float32).tobytes() == scores(churn())
    up.command("predict", "churn", "months=1", "calls=2").refused("UNDECLARED", 6, "it serves nobody", "churn:1 FILE")
    up.command("run", "churn").refused("NOT_TRAINABLE", 2, "come from outside")


def test_declared_by_an_application_it_is_judged_and_serves_once_it_is_named_champion(up: Cloud) -> None:
    up.command("deploy", "leaving.py", "-y").succeeded()
    assert row_of(up, "versions", "churn:1")["state"] == "APPROVED"
    up.command("model", "alias", "churn", "champion", 1).succeeded()
    up.wait_ready()
    tensors = [{"name": n, "shape": [3, 1], "datatype": "FP32", "data": v.ravel().tolist()} for n, v in GIVEN.items()]
    status, answer = up.ask("POST", "/v2/models/churn/infer", {"inputs": tensors})
    assert status == 200, answer
    assert np.array(answer["outputs"][0]["data"], np.float32).tobytes() == scores(churn())


# MLflow's own client


@pytest.fixture
def mlflow(up: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, as a user has it who knows the address and a token."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", up.token.strip())
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        import mlflow

        mlflow.set_tracking_uri(f"http://127.0.0.1:{up.port}")
        yield mlflow
        mlflow.set_tracking_uri(None)


def log(mlflow: Any, up: Cloud, model: bytes, name: str, **files: bytes) -> str:
    """A logged model of a run: what `mlflow.onnx.log_model` does, which needs pandas beside it."""
    client = mlflow.MlflowClient()
    folder = up.folder / f"logged-{name}"
    folder.mkdir()
    for file, data in {
        "model.onnx": model,
        "MLmodel": b"flavors: {python_function: {loader_module: evil}}",
        **files,
    }.items():
        (folder / file).write_bytes(data)
    run = mlflow.active_run().info
    made = client.create_logged_model(run.experiment_id, name=name, source_run_id=run.run_id)
    client.log_model_artifacts(made.model_id, str(folder))
    assert client.finalize_logged_model(made.model_id, "READY").status == "READY"
    return str(made.model_id)


def test_experiments_and_runs_are_logged_and_searched(mlflow: Any, up: Cloud) -> None:
    client = mlflow.MlflowClient()
    mlflow.set_experiment("tries")
    with mlflow.start_run(run_name="deep") as run:
        mlflow.log_param("depth", 3)
        mlflow.log_params({"kind": "tree", "rate": 0.1})
        mlflow.log_metric("auc", 0.5, step=1)
        mlflow.log_metrics({"auc": 0.75, "loss": float("nan")}, step=2)
        mlflow.set_tag("team", "growth")
        mlflow.log_text("as it went", "notes/one.txt")
    with mlflow.start_run(run_name="flat"):
        mlflow.log_metric("auc", 0.4)
    found = client.get_run(run.info.run_id)
    assert found.data.params == {"depth": "3", "kind": "tree", "rate": "0.1"}
    assert found.data.metrics["auc"] == 0.75
    assert found.data.tags["team"] == "growth"
    assert (found.info.status, found.info.run_name) == ("FINISHED", "deep")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "auc")] == [(1, 0.5), (2, 0.75)]
    asked = "metrics.auc > 0.45 and params.kind = 'tree' and tags.team LIKE 'gr%'"
    assert [r.info.run_name for r in client.search_runs([run.info.experiment_id], asked)] == ["deep"]
    ordered = client.search_runs([run.info.experiment_id], order_by=["metrics.auc ASC"], max_results=1)
    assert ([r.info.run_name for r in ordered], bool(ordered.token)) == (["flat"], True)
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/one.txt") == "as it went"
    assert [file.path for file in client.list_artifacts(run.info.run_id, "notes")] == ["notes/one.txt"]
    with pytest.raises(mlflow.MlflowException, match="cannot become '4'"):
        client.log_param(run.info.run_id, "depth", 4)
    with pytest.raises(mlflow.MlflowException, match="There is no run 'nope'"):
        client.get_run("nope")


def test_a_model_is_logged_registered_named_and_loaded_by_its_name(mlflow: Any, up: Cloud) -> None:
    client, model = mlflow.MlflowClient(), churn(0.25)
    mlflow.set_experiment("tries")
    with mlflow.start_run() as run:
        logged = log(mlflow, up, model, "net")
    made = mlflow.register_model(f"models:/{logged}", "net", tags={"why": "better"})
    assert (made.version, made.status, made.tags["skyriver.state"]) == ("1", "READY", "CANDIDATE")
    client.set_registered_model_alias("net", "best", made.version)
    named = client.get_model_version_by_alias("net", "best")
    assert (named.version, named.tags["why"], named.aliases) == ("1", "better", ["best"])
    folder = Path(mlflow.artifacts.download_artifacts("models:/net@best", dst_path=str(up.folder)))
    assert scores((folder / "model.onnx").read_bytes()) == scores(model), "to the bit"
    assert "evil" not in (folder / "MLmodel").read_text(), "what is told of it is of its signed record"
    version = row_of(up, "versions", "net:1")
    assert version["spec"]["origin"]["logged_model"] == logged
    assert version["status"]["signature"]["key"]
    client.create_model_version("net", f"models:/{logged}", run.info.run_id)
    assert {v.version for v in client.search_model_versions("name = 'net'")} == {"1", "2"}
    edges = {(e["from"], e["how"]) for e in row_of(up, "lineage", "net:2")["items"]}
    assert (f"run/{run.info.run_id}", "logged") in edges
    assert [m.name for m in client.search_registered_models("name = 'net'")] == ["net"]


def test_weights_beside_a_model_are_put_into_it_and_pickles_are_only_kept(mlflow: Any, up: Cloud) -> None:
    client = mlflow.MlflowClient()
    whole = onnx.load_from_string(churn(0.5))
    onnx.save_model(whole, up.folder / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    beside = {"w.data": (up.folder / "w.data").read_bytes(), "requirements.txt": b"onnx"}
    mlflow.set_experiment("tries")
    with mlflow.start_run():
        logged = log(mlflow, up, (up.folder / "m.onnx").read_bytes(), "heavy", **beside)
        (up.folder / "model.pkl").write_bytes(b"\x80\x04}.")
        mlflow.log_artifact(str(up.folder / "model.pkl"), "pickled")
        run = mlflow.active_run().info.run_id
    version = mlflow.register_model(f"models:/{logged}", "heavy").version
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/heavy/{version}"))
    assert scores((folder / "model.onnx").read_bytes()) == scores(churn(0.5))
    with pytest.raises(mlflow.MlflowException, match="other formats are kept as files, and never loaded here"):
        client.create_model_version("heavy", f"runs:/{run}/pickled")
    kept = mlflow.artifacts.download_artifacts(f"runs:/{run}/pickled/model.pkl")
    assert Path(kept).read_bytes() == b"\x80\x04}."


def test_champion_is_what_serves_whoever_names_it(mlflow: Any, up: Cloud) -> None:
    """churn:1 serves (see above); a second version is registered, and takes over when it is named."""
    client, better = mlflow.MlflowClient(), churn(0.9)
    assert client.get_model_version_by_alias("churn", "champion").version == "1"
    mlflow.set_experiment("tries")
    with mlflow.start_run():
        logged = log(mlflow, up, better, "churn")
    version = client.create_model_version("churn", f"models:/{logged}").version
    assert client.get_model_version("churn", version).tags["skyriver.state"] == "APPROVED"
    client.set_registered_model_alias("churn", "champion", version)
    wait_for(lambda: client.get_model_version_by_alias("churn", "champion").version == version, "it took over")
    row = dict(zip(COLUMNS, ROWS[1].tolist(), strict=True))
    status, answer = up.ask("POST", "/predict/churn", row)
    assert (status, answer["version"]) == (200, int(version))
    with pytest.raises(mlflow.MlflowException, match="serves already"):
        client.set_registered_model_alias("churn", "champion", version)
    with pytest.raises(mlflow.MlflowException, match="names the version that serves"):
        client.delete_registered_model_alias("churn", "champion")


def test_who_may_only_look_may_only_look(mlflow: Any, up: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    token = up.json("token", "create", "reader", "--role", "viewer")["token"]
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    client = mlflow.MlflowClient()
    assert client.get_model_version_by_alias("net", "best").version == "1"
    with pytest.raises(mlflow.MlflowException, match="lacks the permission models:write"):
        client.create_experiment("mine")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sky_nobody")
    with pytest.raises(mlflow.MlflowException, match="UNAUTHENTICATED"):
        client.search_experiments()
