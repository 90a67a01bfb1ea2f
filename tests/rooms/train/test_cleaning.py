"""Fitted cleaning: on the training rows alone, and the same numbers in NumPy as in the ONNX graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper
from pydantic import ValidationError

from skyriver.core.spec import CleanSpec
from skyriver.release.onnx_check import check_onnx
from skyriver.train.cleaning import Cleaning, fit_cleaning
from skyriver.train.evaluate import score

NAN = float("nan")
SPECS = st.builds(
    CleanSpec,
    fill=st.sampled_from([None, "median", "mean"]),
    clip=st.sampled_from([None, (0.0, 1.0), (0.1, 0.8), (0.001, 0.999)]),
    scale=st.booleans(),
)
VALUES = st.one_of(
    st.floats(-1e6, 1e6, width=32), st.sampled_from([NAN, 0.0, -0.0, 1e-38, 3e38, float("inf"), float("-inf")])
)


def copies(width: int) -> bytes:
    """A model whose score is its first input's last column."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["features", "place"], ["column"], axis=1),
            helper.make_node("Squeeze", ["column", "axis"], ["score"]),
        ],
        "copies",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("place", TensorProto.INT64, [1], [width - 1]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


@settings(max_examples=150, deadline=None)
@given(
    spec=SPECS,
    train=arrays(np.float32, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-1e4, 1e4, width=32)),
    missing=arrays(np.bool_, (12, 3)),
    rows=arrays(np.float32, st.tuples(st.integers(1, 12), st.just(3)), elements=VALUES),
)
def test_the_graph_gives_the_same_numbers(
    spec: CleanSpec, train: np.ndarray, missing: np.ndarray, rows: np.ndarray
) -> None:
    cleaning = fit_cleaning(spec, np.where(missing[: len(train)], np.float32(NAN), train))
    model = cleaning.before(copies(3))
    with np.errstate(all="ignore"):  # infinities less infinities
        expected = np.ascontiguousarray(cleaning.apply(rows)[:, 2])
    found = score(model, rows)
    same = np.isnan(expected) & np.isnan(found) | (expected == found)
    assert same.all(), (expected, found)
    check_onnx(model)  # and it may be released
    if spec.fill is not None:
        assert np.isfinite(found[np.isnan(rows[:, 2])]).all()


def test_what_is_fitted_is_of_the_rows_that_are_there() -> None:
    x = np.array([[1, NAN], [2, NAN], [3, NAN], [NAN, NAN], [1_000, NAN]], np.float32)
    cleaning = fit_cleaning(CleanSpec(fill="median", clip=(0.0, 0.75)), x)
    assert cleaning.high is not None
    assert cleaning.high.tolist() == [252.25, float("inf")]
    assert cleaning.fill is not None
    assert cleaning.fill.tolist() == [2.5, 0.0], "a feature that is always missing is filled with 0"
    assert cleaning.apply(x)[:, 0].tolist() == [1.0, 2.0, 3.0, 2.5, 252.25]


def test_scaled_rows_have_mean_0_and_deviation_1() -> None:
    x = np.array([[1, 5], [3, 5], [NAN, 5], [8, 5]], np.float32)
    scaled = fit_cleaning(CleanSpec(fill="mean", scale=True), x).apply(x)
    assert scaled.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert scaled.std(axis=0) == pytest.approx([1, 0], abs=1e-6), "what never changes is not divided by 0"


def test_without_a_declaration_nothing_is_done() -> None:
    x = np.array([[1, NAN]], np.float32)
    cleaning = fit_cleaning(None, x)
    assert cleaning == Cleaning()
    assert cleaning.apply(x) is x
    assert cleaning.before(copies(2)) == copies(2)


def test_the_model_stays_what_it_was_behind_the_steps() -> None:
    model = onnx.load_from_string(Cleaning(fill=np.zeros(2, np.float32)).before(copies(2)))
    assert [node.op_type for node in model.graph.node] == ["IsNaN", "Where", "Gather", "Squeeze"]
    assert [value.name for value in model.graph.input] == ["features"]


@pytest.mark.parametrize("clip", [(0.9, 0.1), (-0.1, 0.5), (0.5, 1.5)])
def test_shares_that_are_none_are_refused(clip: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="two shares from 0 to 1"):
        CleanSpec(clip=clip)
