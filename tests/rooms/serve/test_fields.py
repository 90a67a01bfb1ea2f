"""/predict: named fields in, named answers out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.spec import FieldSpec
from skyriver.release.signature import Signature, TensorSpec
from skyriver.serve.fields import PredictCodec
from skyriver.serve.runner import Runner

SCORER = Signature((TensorSpec("features", "FP32", (-1, 3)),), (TensorSpec("score", "FP32", (-1,)),))
FIELDS = (
    FieldSpec(name="amount", type="float", ge=0),
    FieldSpec(name="night", type="bool"),
    FieldSpec(name="risk", type="float", nullable=True),
)


def codec(signature: Signature = SCORER, fields: Any = FIELDS, batching: bool = True) -> PredictCodec:
    return PredictCodec("fraud", 3, signature, fields, batching=batching)


def refused(given: object, of: PredictCodec) -> SkyriverError:
    with pytest.raises(SkyriverError) as caught:
        of.decode(json.dumps(given).encode())
    return caught.value


def test_one_object_is_one_row_in_the_order_of_the_fields() -> None:
    asked = codec().decode(b'{"risk": null, "night": true, "amount": 12}')
    assert asked.single
    np.testing.assert_array_equal(asked.runs[0]["features"], np.array([[12, 1, np.nan]], np.float32))
    answer = codec().encode(asked, [{"score": np.array([0.5], np.float32)}]).body
    assert json.loads(answer) == {"model": "fraud", "version": 3, "score": 0.5}


def test_rows_are_one_run_with_one_answer_each() -> None:
    asked = codec().decode(b'{"rows": [{"amount": 1, "night": true}, {"amount": 2, "night": false, "risk": 0.5}]}')
    assert (asked.rows, len(asked.runs)) == (2, 1)
    answer = codec().encode(asked, [{"score": np.array([[0.5], [np.nan]], np.float32)}]).body
    assert json.loads(answer) == {"model": "fraud", "version": 3, "predictions": [{"score": 0.5}, {"score": None}]}


def test_without_batching_each_row_is_a_run() -> None:
    one_by_one = codec(batching=False)
    asked = one_by_one.decode(b'{"rows": [{"amount": 1, "night": true}, {"amount": 2, "night": false}]}')
    assert [run["features"].shape for run in asked.runs] == [(1, 3), (1, 3)]
    answer = one_by_one.encode(asked, [{"score": np.array([[k]], np.float32)} for k in (1, 2)]).body
    assert json.loads(answer)["predictions"] == [{"score": 1}, {"score": 2}]


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"amount": "12", "night": True}, "amount", "WRONG_TYPE"),
        ({"amount": -1, "night": True}, "amount", "OUT_OF_RANGE"),
        ({"night": True}, "amount", "MISSING"),
        ({"amount": None, "night": True}, "amount", "MISSING"),
        ({"amount": 1, "night": 1}, "night", "WRONG_TYPE"),
        ({"amount": 1, "night": True, "amuont": 2}, "amuont", "UNKNOWN_FIELD"),
    ],
)
def test_a_wrong_field_is_named_with_value_and_rule(row: dict[str, object], field: str, reason: str) -> None:
    error = refused(row, codec())
    assert isinstance(error, InvalidInput)
    assert (error.code, error.where) == ("INVALID_FIELD", field)
    assert error.details[0]["reason"] == reason
    assert error.details[0]["value"] == row.get(field)
    assert error.to_problem()["status"] == 422
    in_rows = refused({"rows": [{"amount": 1, "night": True}, row]}, codec())
    assert in_rows.where == f"row 1, {field}"
    assert in_rows.details[0]["row"] == 1


@pytest.mark.parametrize(
    ("row", "told", "reasons"),
    [
        (
            {"amuont": 2, "night": True},
            '"amuont" is no field of it: is "amount" meant? amount is missing.',
            ["UNKNOWN_FIELD", "MISSING"],
        ),
        (
            {"colour": "red"},
            '"colour" is no field of it. amount and night are missing.',
            ["UNKNOWN_FIELD", *["MISSING"] * 2],
        ),
        ({}, "amount and night are missing.", ["MISSING", "MISSING"]),
        (
            {"amount": "12", "nigth": True},
            'amount is \'12\': it must be a number. "nigth" is no field of it: is "night" meant? night is missing.',
            ["WRONG_TYPE", "UNKNOWN_FIELD", "MISSING"],
        ),
    ],
)
def test_a_misspelt_field_is_named_beside_those_that_are_missing(
    row: dict[str, object], told: str, reasons: list[str]
) -> None:
    error = refused(row, codec())
    assert error.message == told
    assert [detail["reason"] for detail in error.details] == reasons
    assert error.next_action == "Send fraud its fields: amount, night, risk."
    in_rows = refused({"rows": [{"amount": 1, "night": True}, row, {"night": True}]}, codec())
    assert in_rows.message == told
    assert [detail["row"] for detail in in_rows.details] == [*[1] * len(reasons), 2]


def test_of_inputs_as_of_fields_both_are_named(mixed: bytes) -> None:
    error = refused({"agee": 7, "flag": True}, codec(Runner(mixed).signature, None))
    assert error.message.startswith("'agee' is not one of the model's inputs: ")
    assert error.message.endswith(" name and age are missing.")


def test_a_million_names_are_as_soon_refused_as_one() -> None:
    error = refused({f"field{number}": number for number in range(100_000)}, codec())
    assert "Others are no fields of it either. amount and night are missing." in error.message
    assert len(error.details) == 20


def test_all_wrong_rows_are_told_up_to_a_limit() -> None:
    error = refused({"rows": [{"amount": -1, "night": True}] * 50}, codec())
    assert [detail["row"] for detail in error.details] == list(range(20))


def test_a_long_value_is_not_sent_back_whole() -> None:
    error = refused({"amount": "x" * 10_000, "night": True}, codec())
    assert len(json.dumps(error.to_problem())) < 1000


@pytest.mark.parametrize(
    "given",
    [3, [], {"rows": {}}, {"rows": [3]}, {"rows": []}, {"rows": [{"amount": 1, "night": True}], "amount": 1}],
)
def test_what_is_no_request_is_400(given: object) -> None:
    error = refused(given, codec())
    assert (error.code, error.http_status) == ("BAD_REQUEST", 400)


def test_a_number_that_the_model_cannot_hold_is_refused_not_made_infinite() -> None:
    error = refused({"rows": [{"amount": 1, "night": True}, {"amount": 1e200, "night": True}]}, codec())
    assert (error.code, error.where) == ("WRONG_VALUE", "amount")
    assert "1e200" in error.message


def test_declared_fields_may_be_inputs_of_their_own(mixed: bytes) -> None:
    runner = Runner(mixed)
    fields = (
        FieldSpec(name="age", type="int", ge=0),
        FieldSpec(name="name", type="text", fill="nobody"),
        FieldSpec(name="flag", type="bool"),
    )
    predict = codec(runner.signature, fields)
    asked = predict.decode(b'{"rows": [{"age": 7, "flag": true}, {"age": 8, "flag": false, "name": "Ada"}]}')
    assert json.loads(predict.encode(asked, [runner.run(asked.runs[0])]).body) == {
        "model": "fraud",
        "version": 3,
        "predictions": [
            {"same": "nobody", "older": 8, "model_": False},
            {"same": "Ada", "older": 9, "model_": True},
        ],
    }


def test_missing_has_no_value_among_whole_numbers(mixed: bytes) -> None:
    fields = (
        FieldSpec(name="age", type="int", nullable=True),
        FieldSpec(name="name", type="text"),
        FieldSpec(name="flag", type="bool"),
    )
    error = refused({"name": "Ada", "flag": True}, codec(Runner(mixed).signature, fields))
    assert (error.code, error.where) == ("WRONG_VALUE", "age")


@pytest.mark.parametrize(
    ("signature", "types"),
    [
        (SCORER, ("float", "float")),
        (SCORER, ("float", "float", "text")),
        (Signature((TensorSpec("f", "INT64", (-1, 3)),), ()), ("int", "int", "float")),
        (Signature((TensorSpec("f", "BYTES", (-1, 2)),), ()), ("text", "text")),
        (Signature((TensorSpec("f", "FP32", (-1, 2, 2)),), ()), ("float", "float")),
        (Signature((TensorSpec("f", "FP32", (5, 2)),), ()), ("float", "float")),
        (Signature((TensorSpec("f0", "FP32", (-1,)), TensorSpec("f1", "FP32", (-1, 4))), ()), ("float", "float")),
        (Signature((TensorSpec("f0", "FP32", (-1,)), TensorSpec("f1", "BYTES", (-1,))), ()), ("float", "float")),
    ],
)
def test_fields_that_do_not_fit_the_model_are_refused_at_start(signature: Signature, types: tuple[Any, ...]) -> None:
    fields = tuple(FieldSpec(name=f"f{n}", type=kind) for n, kind in enumerate(types))
    with pytest.raises(InvalidInput) as caught:
        codec(signature, fields)
    assert caught.value.code == "FIELDS_MISMATCH"


# Without a declaration, the inputs are the fields.

IMPORTED = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,)), TensorSpec("t", "BYTES", (-1, 1))),
    (TensorSpec("y", "FP32", (-1, 2)),),
)


def test_inputs_are_given_for_one_row() -> None:
    predict = codec(IMPORTED, None)
    asked = predict.decode(b'{"x": [1, null], "n": 3, "t": "a"}')
    run = asked.runs[0]
    np.testing.assert_array_equal(run["x"], np.array([[1, np.nan]], np.float32))
    assert (run["n"].tolist(), run["t"].tolist()) == ([3], [["a"]])
    answer = json.loads(predict.encode(asked, [{"y": np.array([[1, 2]], np.float32)}]).body)
    assert answer == {"model": "fraud", "version": 3, "y": [1, 2]}


def test_rows_of_inputs_share_a_run() -> None:
    rows = [{"x": [k, k], "n": k, "t": ["a"]} for k in range(3)]
    asked = codec(IMPORTED, None).decode(json.dumps({"rows": rows}).encode())
    assert len(asked.runs) == 1
    assert asked.runs[0]["x"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert asked.runs[0]["t"].shape == (3, 1)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"x": [1, 2], "n": 3}, "t", "MISSING"),
        ({"x": [1, 2], "n": 3, "t": "a", "u": 1}, "u", "UNKNOWN_FIELD"),
        ({"x": [1], "n": 3, "t": "a"}, "x", "WRONG_TYPE"),
        ({"x": 1, "n": 3, "t": "a"}, "x", "WRONG_TYPE"),
        ({"x": ["1", 2], "n": 3, "t": "a"}, "x", "WRONG_TYPE"),
        ({"x": [1, 2], "n": 3.5, "t": "a"}, "n", "WRONG_TYPE"),
        ({"x": [1, 2], "n": None, "t": "a"}, "n", "WRONG_TYPE"),
        ({"x": [1, 2], "n": [3], "t": "a"}, "n", "WRONG_TYPE"),
        ({"x": [1, 2], "n": 3, "t": 4}, "t", "WRONG_TYPE"),
    ],
)
def test_a_wrong_input_is_named(row: dict[str, object], field: str, reason: str) -> None:
    error = refused(row, codec(IMPORTED, None))
    assert (error.code, error.where) == ("INVALID_FIELD", field)
    assert error.details[0]["reason"] == reason


def test_rows_of_different_shapes_are_refused() -> None:
    free = Signature((TensorSpec("x", "FP32", (-1, -1)),), ())
    error = refused({"rows": [{"x": [1]}, {"x": [1, 2]}]}, codec(free, None))
    assert error.code == "WRONG_SHAPE"


def test_a_model_without_a_free_axis_takes_whole_tensors() -> None:
    signature = Signature((TensorSpec("x", "FP32", (2, 2)),), (TensorSpec("y", "FP32", ()),))
    predict = codec(signature, None, batching=False)
    asked = predict.decode(b'{"x": [[1, 2], [3, 4]]}')
    assert asked.runs[0]["x"].shape == (2, 2)
    assert json.loads(predict.encode(asked, [{"y": np.array(2.5, np.float32)}]).body)["y"] == 2.5


def test_an_input_called_rows_is_not_mistaken() -> None:
    signature = Signature((TensorSpec("rows", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))
    asked = codec(signature, None).decode(b'{"rows": [1, 2]}')
    assert asked.single
    assert asked.runs[0]["rows"].tolist() == [[1, 2]]


# Plain floats are read by a shorter way, which must not show.

PLAIN = (FieldSpec(name="a", type="float"), FieldSpec(name="b", type="float", nullable=True, unit="EUR"))
WIDE = Signature((TensorSpec("features", "FP32", (-1, 2)),), ())
ONE = Signature((TensorSpec("features", "FP32", (-1, 1)),), ())
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "1", "x"]),
    st.lists(st.integers(), max_size=1),
)
rows_of_values = st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3)


def outcome(of: PredictCodec, body: bytes) -> object:
    try:
        asked = of.decode(body)
    except SkyriverError as error:
        return error.to_problem()
    return asked.single, asked.rows, [run["features"].tobytes() for run in asked.runs]


@given(st.one_of(rows_of_values, st.fixed_dictionaries({"rows": st.lists(rows_of_values, max_size=3)})))
@example({"a": 1e300})
@example({"a": 10**400})
def test_the_short_way_gives_what_the_long_one_gives(given: dict[str, object]) -> None:
    short, long = codec(WIDE, PLAIN), codec(WIDE, PLAIN)
    assert short._quick is not None
    long._quick = None
    body = json.dumps(given).encode()
    assert outcome(short, body) == outcome(long, body)


@pytest.mark.parametrize(
    "body", [b'{"a": NaN}', b'{"a": 1, "a": 2}', b' {"rows": [{"a": 1}]}', b'{"a": 1} ', b"{", b"3"]
)
def test_odd_bodies_go_the_long_way(body: bytes) -> None:
    short, long = codec(WIDE, PLAIN), codec(WIDE, PLAIN)
    long._quick = None
    assert outcome(short, body) == outcome(long, body)


def test_a_single_field_is_a_column_too() -> None:
    asked = codec(ONE, PLAIN[:1]).decode(b'{"rows": [{"a": 1}, {"a": 2.5}]}')
    assert asked.runs[0]["features"].tolist() == [[1.0], [2.5]]


def test_fields_with_rules_go_the_long_way() -> None:
    for ruled in (
        FieldSpec(name="a", type="float", ge=0),
        FieldSpec(name="a", type="float", fill=0.0),
        FieldSpec(name="a", type="float", scale=0.01),
        FieldSpec(name="a", type="int"),
        FieldSpec(name="rows", type="float"),
    ):
        assert codec(ONE, (ruled,))._quick is None
