"""Loading a model, and finding out whether its rows may share a run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper

from skyriver.core.errors import Internal, InvalidInput
from skyriver.release.signature import Signature, TensorSpec
from skyriver.serve.runner import Runner


def test_the_signature_in_the_words_of_the_protocol(mixed: bytes) -> None:
    signature = Runner(mixed).signature
    assert signature.inputs == (
        TensorSpec("name", "BYTES", (-1, 1)),
        TensorSpec("age", "INT64", (-1, 1)),
        TensorSpec("flag", "BOOL", (-1,)),
    )
    assert Signature.from_json(signature.to_json()) == signature


def test_outputs_come_by_name(sums: bytes) -> None:
    outputs = Runner(sums).run({"features": np.array([[1, 2, 3], [4, 5, 6]], np.float32)})
    assert outputs["score"].tolist() == [6.0, 15.0]


@pytest.mark.parametrize(
    ("model", "batching"), [("sums", True), ("lookup", True), ("mixed", True), ("across_rows", False), ("fixed", False)]
)
def test_rows_share_a_run_only_where_that_changes_no_answer(
    model: str, batching: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyriver.serve.runner.LONG_ROW_S", 60.0)  # however slow this machine is
    assert Runner(request.getfixturevalue(model)).batching is batching


def test_a_model_that_gives_one_answer_for_all_rows_does_not_batch(make_model: Callable[..., bytes]) -> None:
    nodes = [helper.make_node("ReduceMax", ["x"], ["y"], keepdims=1)]
    model = make_model(nodes, [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["m"])])
    assert not Runner(model).batching


def test_a_warm_up_learns_the_cost(sums: bytes) -> None:
    runner = Runner(sums)
    assert runner.expected_us(100) == 0
    assert runner.warm_up()
    assert 0 < runner.expected_us(1) <= runner.expected_us(1000)


def test_the_expected_cost_of_a_run_is_never_below_the_least_seen(sums: bytes) -> None:
    runner = Runner(sums)
    for _ in range(50):
        runner.note(256, 10_000_000)  # 10 ms whatever the rows
    assert runner.expected_us(1) >= 5_000


def test_values_that_the_model_cannot_take_are_the_callers_fault(lookup: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        Runner(lookup).run({"index": np.array([9], np.int64)})
    assert caught.value.code == "MODEL_REFUSED_INPUT"
    assert "Gather" not in str(caught.value)  # its inside is nobody's business


def test_a_model_that_breaks_is_ours(make_model: Callable[..., bytes]) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    model = make_model(
        nodes,
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT, [None, None])],
        {"shape": np.array([-1, 4], np.int64)},
    )
    with pytest.raises((Internal, InvalidInput)) as caught:
        Runner(model).run({"x": np.zeros(3, np.float32)})
    assert caught.value.code in ("MODEL_FAILED", "MODEL_REFUSED_INPUT")


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        Runner(b"no model at all")
    assert caught.value.code == "MODEL_UNREADABLE"


def test_only_tensors_are_served(make_model: Callable[..., bytes]) -> None:
    zipmap = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    graph = helper.make_graph(
        [zipmap],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_value_info(
                "y",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
                ),
            )
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(InvalidInput) as caught:
        Runner(model.SerializeToString())
    assert caught.value.code == "MODEL_UNSUPPORTED"
    assert "zipmap" in caught.value.next_action


@pytest.mark.parametrize("side", ["input", "output"])
def test_bf16_is_refused_with_what_to_do_instead(side: str) -> None:
    kinds = {"input": TensorProto.FLOAT, "output": TensorProto.FLOAT, side: TensorProto.BFLOAT16}
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=kinds["output"])],
        "model",
        [helper.make_tensor_value_info("x", kinds["input"], ["n", 2])],
        [helper.make_tensor_value_info("y", kinds["output"], ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(InvalidInput) as caught:
        Runner(model.SerializeToString())
    assert (caught.value.code, "bfloat16" in caught.value.message) == ("MODEL_UNSUPPORTED", True)
    assert f"an {side} of FP32 and a Cast" in caught.value.next_action
