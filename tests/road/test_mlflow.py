"""Models from outside: brought by the command line and by MLflow's own client, named, tagged, judged, served."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from cloud_process import Cloud, write_lines
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


def test_a_file_is_taken_in_named_tagged_and_told_of(up: Cloud) -> None:
    told = up.command("model", "import", "churn", "churn.onnx", "--description", "Who leaves.").succeeded()
    assert "takes months FP32[-1, 1], calls FP32[-1, 1]" in told.err
    assert "It is churn:1." in told.err
    version = up.json("version", "get", "churn:1")
    assert (version["state"], version["spec"]["origin"]) == ("CANDIDATE", {"file": "churn.onnx"})
    assert version["status"]["signature"]["key"], "signed as every version"
    up.command("model", "alias", "churn", "good", 1).succeeded()
    up.command("model", "tag", "churn@good", "from=Ana", "why=a first try").succeeded()
    assert up.json("model", "tag", "churn", "team=growth")["status"]["tags"] == {"team": "growth"}
    assert up.json("version", "get", "churn@good")["status"]["tags"] == {"from": "Ana", "why": "a first try"}
    assert "#team" in up.command("explain", "churn").succeeded().out
    up.command("model", "untag", "churn:1", "wy").refused("NO_TAG", 3, "did you mean 'why'")
    up.command("model", "untag", "churn:1", "why").succeeded()
    edges = {(e["from"], e["how"]) for e in up.json("lineage", "churn:1")["items"]}
    assert ("file/churn.onnx", "read by") in edges
    assert "Who leaves." in up.command("version", "card", "churn:1").succeeded().out


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
    up.command("run", "churn").refused("NOT_TRAINABLE", 2, "come from outside")


def test_declared_by_an_application_it_is_judged_and_serves_once_it_is_named_champion(up: Cloud) -> None:
    up.command("deploy", "leaving.py", "-y").succeeded()
    assert up.json("version", "get", "churn:1")["state"] == "APPROVED"
    up.command("model", "alias", "churn", "champion", 1).succeeded()
    up.wait_ready()
    tensors = [{"name": n, "shape": [3, 1], "datatype": "FP32", "data": v.ravel().tolist()} for n, v in GIVEN.items()]
    status, answer = up.ask("POST", "/v2/models/churn/infer", {"inputs": tensors})
    assert status == 200, answer
    assert np.array(answer["outputs"][0]["data"], np.float32).tobytes() == scores(churn())
