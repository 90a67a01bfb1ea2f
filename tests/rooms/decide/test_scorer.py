from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from skyriver.core.errors import InvalidInput
from skyriver.decide.decision import scorer as module
from skyriver.decide.decision.scorer import Ended, OnnxScorer

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from worker_process import endless_model_bytes


def model_file(path: Path, features: int | None = 3, *, output: str = "score", flat: bool = True) -> Path:
    """score = sigmoid(sum of the features)."""
    nodes = [
        helper.make_node("ReduceSum", ["features", "axis"], ["total"], keepdims=0 if flat else 1),
        helper.make_node("Sigmoid", ["total"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features if features else "f"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path


def test_rows_are_scored(tmp_path: Path) -> None:
    scorer = OnnxScorer.load(model_file(tmp_path / "m.onnx"), 3)
    scores = scorer.score(np.array([[0, 0, 0], [1, 1, 1], [np.nan, 0, 0]], np.float32))
    assert scores.dtype == np.float32
    assert scores[:2] == pytest.approx([0.5, 0.95257413])
    assert np.isnan(scores[2])


def test_one_row_is_scored_as_among_others_and_its_score_stays(tmp_path: Path) -> None:
    scorer = OnnxScorer.load(model_file(tmp_path / "m.onnx"), 3)
    rows = np.array([[1, 2, 3], [np.nan, 0, 0], [-1, 0.5, 0]], np.float32)
    alone = [scorer.score(rows[place : place + 1]) for place in range(3)]
    assert all(score.shape == (1,) and score.dtype == np.float32 for score in alone)
    assert np.array_equal(np.concatenate(alone), scorer.score(rows), equal_nan=True)


@pytest.mark.parametrize("count", [1, 2, module.BOUND_ROWS, module.BOUND_ROWS + 1])
def test_few_rows_are_scored_through_buffers_of_their_own_with_the_same_bits(tmp_path: Path, count: int) -> None:
    path = model_file(tmp_path / "m.onnx")
    scorer = OnnxScorer.load(path, 3)
    assert module.BOUND_ROWS >= 8
    bound = scorer._bound[count - 1] if count <= module.BOUND_ROWS else None
    plain = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    luck = np.random.default_rng(count)
    for _ in range(3):
        rows = luck.normal(0, 2, (count, 3)).astype(np.float32)
        rows[0, 0] = np.nan
        expected = plain.run(["score"], {"features": rows})[0]
        scores = scorer.score(rows)
        assert np.array_equal(scores, expected, equal_nan=True)
        if bound is not None:
            assert np.array_equal(bound._scores, expected, equal_nan=True), "they were not used"
            assert not np.shares_memory(scores, bound._scores)


@pytest.mark.parametrize(
    ("model", "features", "why"),
    [
        ({"features": 3}, 4, "the stream computes 4"),
        ({"output": "probability"}, 3, "not 'features' and 'score'"),
        ({"flat": False}, 3, r"shape \[1, 1\]"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    tmp_path: Path, model: dict[str, object], features: int, why: str
) -> None:
    path = model_file(tmp_path / "m.onnx", **model)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=why) as caught:
        OnnxScorer.load(path, features)
    assert caught.value.code == "MODEL_REFUSED"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InvalidInput, match="cannot be loaded"):
        OnnxScorer.load(path, 3)


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_without_end_is_ended_and_the_next_one_is_well(tmp_path: Path, count: int) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(endless_model_bytes(3))
    scorer = OnnxScorer.load(path, 3)
    rows = np.full((count, 3), 10, np.float32)
    assert scorer.score(rows).tolist() == [10.0] * count
    ending = threading.Timer(0.05, scorer.end)
    ending.start()
    with pytest.raises(Ended):
        scorer.score(rows * 1000)
    ending.join()
    assert scorer.score(rows).tolist() == [10.0] * count


def test_a_model_that_does_not_get_done_when_it_is_tried_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOAD_S", 0.2)
    path = tmp_path / "m.onnx"
    path.write_bytes(endless_model_bytes(3, begins_at=-5_000))
    with pytest.raises(InvalidInput, match=r"not done within 0\.2 s"):
        OnnxScorer.load(path, 3)
