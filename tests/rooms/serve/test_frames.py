"""Frames through a model give what single requests get, bit for bit, and refuse the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from onnx import TensorProto, helper

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.spec import FieldSpec
from skyriver.data.border_frame import clean_frame
from skyriver.serve.fields import PredictCodec
from skyriver.serve.frames import FrameScorer, Scored, fields_of
from skyriver.serve.runner import Runner

Build = Callable[..., bytes]


def asked_alone(runner: Runner, fields: Sequence[FieldSpec], row: dict[str, Any]) -> dict[str, Any] | None:
    """What `/predict` answers; None for an error."""
    codec = PredictCodec("m", 1, runner.signature, fields, batching=runner.batching)
    try:
        asked = codec.decode(json.dumps(row).encode())
        answer = json.loads(codec.encode(asked, [runner.run(run) for run in asked.runs]).body)
    except SkyriverError:
        return None
    return {name: value for name, value in answer.items() if name not in ("model", "version")}


def compared(model: bytes, fields: Sequence[FieldSpec], frame: pl.DataFrame) -> Scored:
    """Scored as a frame; each row is asked for alone too."""
    runner = Runner(model)
    scored = FrameScorer(runner, fields).score(clean_frame(frame, fields, first_row=1))
    shown = scored.outputs.with_columns(pl.col(pl.Float32).fill_nan(None)).to_dicts()  # JSON has no NaN
    answers = dict(zip(scored.rows.to_list(), shown, strict=True))
    for number, row in enumerate(frame.select(f.name for f in fields).to_dicts(), 1):
        given = {name: value for name, value in row.items() if value is not None and value == value}
        assert answers.get(number) == asked_alone(runner, fields, given), (number, row)
    assert sorted([*answers, *scored.bad["row"].to_list()]) == list(range(1, frame.height + 1))
    return scored


def test_columns_of_one_input(sums: bytes) -> None:
    fields = (
        FieldSpec(name="a", type="float", ge=0),
        FieldSpec(name="b", type="float", nullable=True),
        FieldSpec(name="c", type="int", fill=7),
    )
    luck = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "other": ["x"] * 3_000,
            "c": [None if n % 7 == 0 else 2**53 + n for n in range(3_000)],
            "b": [None if n % 5 == 0 else float(v) for n, v in enumerate(luck.normal(size=3_000) * 1e30)],
            "a": luck.random(3_000) - 0.01,
        }
    )
    scored = compared(sums, fields, frame)
    assert 0 < len(scored.bad) < 100
    assert set(scored.bad["reason"]) == {"OUT_OF_RANGE"}
    assert scored.outputs["score"].is_nan().sum() > 500, "a missing value reaches the model as NaN"


def test_a_value_that_the_tensor_cannot_hold_refuses_its_row(sums: bytes) -> None:
    fields = [FieldSpec(name=name, type="float") for name in "abc"]
    scored = compared(sums, fields, pl.DataFrame({"a": [1.0, 1e39, 2.0], "b": [1.0] * 3, "c": [1.0, 1.0, -1e300]}))
    assert scored.rows.to_list() == [1]
    assert [(b["row"], b["field"], b["message"]) for b in scored.bad.to_dicts()] == [
        (2, "a", "a is 1e39: the model takes FP32, which has no such value."),
        (3, "c", "c is -1e300: the model takes FP32, which has no such value."),
    ]


def test_an_input_a_field(mixed: bytes) -> None:
    fields = (
        FieldSpec(name="name", type="text", nullable=True),
        FieldSpec(name="age", type="int", nullable=True),
        FieldSpec(name="flag", type="bool"),
    )
    frame = pl.DataFrame(
        {"name": ["a", None, "c", "d"], "age": [1, 2, None, -4], "flag": [True, False, True, None]},
        schema_overrides={"age": pl.Int32},
    )
    scored = compared(mixed, fields, frame)
    assert scored.rows.to_list() == [1]
    assert scored.outputs.columns[-1] == "model_", "an answer has a model of its own"


def test_a_row_that_the_model_fails_on_fails_no_other(lookup: bytes) -> None:
    fields = (FieldSpec(name="index", type="int"),)
    scored = compared(lookup, fields, pl.DataFrame({"index": [0, 3, 99, 1]}))
    assert scored.rows.to_list() == [1, 2, 4]
    assert scored.bad["reason"].to_list() == ["MODEL_REFUSED_INPUT"]


@pytest.mark.parametrize(("given", "bad"), [(np.uint8, 3), (np.int8, 4)])
def test_whole_numbers_of_few_bits(make_model: Build, given: Any, bad: int) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(given))
    model = make_model(
        [helper.make_node("Cast", ["n"], ["same"], to=TensorProto.INT64)],
        [("n", kind, ["rows"])],
        [("same", TensorProto.INT64, ["rows"])],
    )
    scored = compared(model, (FieldSpec(name="n", type="int"),), pl.DataFrame({"n": [-129, -1, 0, 127, 128, 255, 256]}))
    assert len(scored.bad) == bad


def test_a_model_that_looks_across_rows_runs_row_by_row(across_rows: bytes) -> None:
    fields = [FieldSpec(name=name, type="float") for name in "ab"]
    scored = compared(across_rows, fields, pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [3.0, 4.0, 5.0]}))
    assert scored.outputs["y"].to_list() == [[1.0, 1.0]] * 3


def test_no_row_is_left(sums: bytes) -> None:
    fields = [FieldSpec(name=name, type="float", ge=0) for name in "abc"]
    scored = compared(sums, fields, pl.DataFrame({"a": [-1.0], "b": [1.0], "c": [1.0]}))
    assert scored.outputs.schema == {"score": pl.Float32()}


def test_fields_of_a_model_without_a_declaration(mixed: bytes, sums: bytes) -> None:
    assert [(f.name, f.type, f.nullable) for f in fields_of(Runner(mixed).signature)] == [
        ("name", "text", False),
        ("age", "int", False),
        ("flag", "bool", False),
    ]
    with pytest.raises(InvalidInput) as caught:
        fields_of(Runner(sums).signature)
    assert (caught.value.code, caught.value.where) == ("INPUTS_NOT_COLUMNS", "features")
