"""/predict by key: what is asked for, and what is answered of what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given as given_by
from hypothesis import strategies as st

from skyriver.core.errors import DeadlineExceeded, InvalidInput, NotFound, SkyriverError, Unavailable
from skyriver.core.spec import FieldSpec
from skyriver.release.signature import Signature, TensorSpec
from skyriver.serve.by_key import AskedByKey, ByKey, FromStream
from skyriver.serve.fields import PredictCodec
from skyriver.serve.reader import FeaturesFound, Place

STREAM = (
    FieldSpec(name="order", type="int"),
    FieldSpec(name="at", type="time"),
    FieldSpec(name="customer", type="int"),
    FieldSpec(name="shop", type="text", fill="web"),
    FieldSpec(name="amount", type="float", ge=0),
    FieldSpec(name="weight", type="float", nullable=True),
    FieldSpec(name="pieces", type="int", fill=1),
    FieldSpec(name="note", type="text"),
)
DECLARED = FromStream(
    Place("orders", "/run/w.sock", "d" * 64), ("customer", "shop"), ("amount", "weight", "pieces", "customer"), STREAM
)
ENTITY = {"customer": 17, "shop": "s1"}
ROW = {"entity": ENTITY, "event": {"amount": 80}}


def decoded(given: object, declared: FromStream = DECLARED) -> AskedByKey | None:
    return ByKey(declared).decode(json.dumps(given).encode())


def refused(given: object) -> SkyriverError:
    with pytest.raises(InvalidInput) as caught:
        decoded(given)
    return caught.value


def test_entity_and_event_are_one_row_for_the_worker() -> None:
    asked = decoded(ROW)
    assert asked is not None
    assert asked.single
    assert [json.loads(row) for row in asked.rows] == [{"customer": 17, "shop": "s1", "amount": 80}]


def test_rows_are_asked_together() -> None:
    asked = decoded({"rows": [ROW, {"entity": ENTITY, "event": {"amount": 1.5, "weight": None, "note": "x"}}]})
    assert asked is not None
    assert not asked.single
    assert json.loads(asked.rows[1]) == {"customer": 17, "shop": "s1", "amount": 1.5, "weight": None, "note": "x"}


def test_what_is_given_goes_to_the_worker_as_it_is() -> None:
    """It cleans once more, so a value that was scaled here would be scaled twice."""
    scaled = tuple(f.model_copy(update={"scale": 0.01}) if f.name == "amount" else f for f in STREAM)
    asked = decoded(ROW, replace(DECLARED, fields=scaled))
    assert asked is not None
    assert json.loads(asked.rows[0])["amount"] == 80
    large = decoded({"entity": ENTITY, "event": {"amount": 10**30}})
    assert large is not None
    assert json.loads(large.rows[0])["amount"] == 10**30


def test_without_event_fields_that_must_be_there_no_event_is_needed() -> None:
    asked = decoded({"entity": ENTITY}, replace(DECLARED, reads=("weight", "pieces")))
    assert asked is not None
    assert json.loads(asked.rows[0]) == ENTITY


@pytest.mark.parametrize(
    "given",
    [
        {"amount": 80, "orders_7d": 3},
        {"rows": [{"amount": 80}]},
        {"amount": "entity"},
        {"rows": "entity", "event": 3},
        ["entity"],
        "entity",
    ],
)
def test_what_has_neither_part_has_named_fields(given: object) -> None:
    assert decoded(given) is None


@pytest.mark.parametrize(
    ("given", "where", "reason"),
    [
        ({"entity": {"custmer": 17, "shop": "s1"}, "event": {"amount": 80}}, "entity.custmer", "UNKNOWN_FIELD"),
        ({"entity": {**ENTITY, "amount": 1}, "event": {"amount": 80}}, "entity.amount", "UNKNOWN_FIELD"),
        ({"entity": ENTITY, "event": {"amount": 80, "shop": "s1"}}, "event.shop", "UNKNOWN_FIELD"),
        ({"entity": ENTITY, "event": {"amount": 80, "colour": 1}}, "event.colour", "UNKNOWN_FIELD"),
        ({"entity": {"customer": 17}, "event": {"amount": 80}}, "entity.shop", "MISSING"),
        ({"entity": {"customer": None, "shop": "s1"}, "event": {"amount": 80}}, "entity.customer", "MISSING"),
        ({"event": {"amount": 80}}, "entity.customer", "MISSING"),
        ({"entity": ENTITY}, "event.amount", "MISSING"),
        ({"entity": ENTITY, "event": {"amount": None}}, "event.amount", "MISSING"),
        ({"entity": ENTITY, "event": {"amount": -1}}, "event.amount", "OUT_OF_RANGE"),
        ({"entity": {"customer": "17", "shop": "s1"}, "event": {"amount": 80}}, "entity.customer", "WRONG_TYPE"),
        ({"entity": ENTITY, "event": {"amount": 80, "note": 5}}, "event.note", "WRONG_TYPE"),
    ],
)
def test_a_wrong_value_is_named(given: dict[str, Any], where: str, reason: str) -> None:
    error = refused(given)
    assert (error.code, error.where, error.http_status) == ("INVALID_FIELD", where, 422)
    assert error.details[0]["reason"] == reason
    assert "customer, shop" in error.next_action
    in_rows = refused({"rows": [ROW, given]})
    assert (in_rows.where, in_rows.details[0]["row"]) == (f"row 1, {where}", 1)


@pytest.mark.parametrize(
    ("given", "code", "word"),
    [
        ({**ROW, "amount": 80}, "MIXED_FORMS", '"amount" stands beside entity'),
        ({"event": {"amount": 80}, "orders_7d": 3}, "MIXED_FORMS", "stands beside event"),
        ({"rows": [ROW, {"amount": 80}]}, "MIXED_FORMS", "row 1"),
        ({"rows": [{"amount": 80}, ROW]}, "MIXED_FORMS", "row 0"),
        ({"rows": [ROW], "entity": ENTITY}, "BAD_REQUEST", "stands beside"),
        ({"entity": 17, "event": {"amount": 80}}, "BAD_REQUEST", "entity is 17"),
        ({"entity": ENTITY, "event": [80]}, "BAD_REQUEST", "event is [80]"),
        ({"rows": [ROW, 3]}, "BAD_REQUEST", "row 1: 3"),
    ],
)
def test_a_request_of_another_form_is_refused_whole(given: object, code: str, word: str) -> None:
    error = refused(given)
    assert (error.code, error.http_status) == (code, 400)
    assert word in error.message


def test_a_worker_is_asked_for_so_many_rows_and_no_more() -> None:
    assert decoded({"rows": [ROW] * 64}) is not None
    assert refused({"rows": [ROW] * 65}).code == "TOO_MANY_ROWS"


def test_what_is_no_json_is_400() -> None:
    with pytest.raises(InvalidInput) as caught:
        ByKey(DECLARED).decode(b'{"entity": ')
    assert (caught.value.code, caught.value.http_status) == ("BAD_JSON", 400)


@pytest.mark.parametrize("given", [ROW, {"rows": [ROW]}, {"event": {"amount": 1}}])
def test_a_model_without_a_stream_says_that_it_is_not_asked_so(given: object) -> None:
    signature = Signature((TensorSpec("features", "FP32", (-1, 1)),), (TensorSpec("score", "FP32", (-1,)),))
    fields = (FieldSpec(name="amount", type="float"),)
    with pytest.raises(InvalidInput) as caught:
        PredictCodec("returns", 3, signature, fields, batching=True).decode(json.dumps(given).encode())
    assert (caught.value.code, caught.value.http_status) == ("NO_STREAM", 422)
    assert "returns:3" in caught.value.message


TOLD: dict[str, Any] = {
    "stream": "orders",
    "socket": "/run/w.sock",
    "features": "d" * 64,
    "keys": ["customer", "shop"],
    "reads": ["amount", "weight", "pieces", "customer"],
    "fields": [field.to_json() for field in STREAM],
    "on_unknown": "answer",
    "on_old": "refuse",
    "max_age_us": 0,
    "fallback": None,
}


def test_settings_are_those_that_the_control_plane_told() -> None:
    assert FromStream.of(TOLD) == DECLARED


@pytest.mark.parametrize("wrong", [{"keys": ["nobody"]}, {"reads": ["nothing"]}, {"fields": [3]}, {"max_age_us": "x"}])
def test_settings_that_are_no_settings_are_refused(wrong: dict[str, Any]) -> None:
    for told in (TOLD | wrong, {"stream": "orders"}):
        with pytest.raises(InvalidInput) as caught:
            FromStream.of(told)
        assert caught.value.code == "BAD_CONFIG"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["entity", "event", "rows", "customer", "shop", "amount", "pieces", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def outcome(given: object) -> AskedByKey | InvalidInput | None:
    try:
        return decoded(given)
    except InvalidInput as error:
        return error


@given_by(JSON)
def test_whatever_is_sent_is_a_request_or_refused(given: object) -> None:
    answer = outcome(given)
    if isinstance(answer, InvalidInput):
        assert json.loads(json.dumps(answer.to_problem()))["status"] in (400, 422)
    elif answer is not None:
        assert 1 <= len(answer.rows) <= 64
        assert all({"customer", "shop"} <= json.loads(row).keys() for row in answer.rows)


# What was found.

FEATURES = np.array([[1, 2], [3, 4]], np.float32)
TWO = AskedByKey((b'{"customer":17,"shop":"s1"}', b'{"customer":18,"shop":"s2"}'), single=False)


def found(*unknown: str, age_us: int | None = 5_000_000) -> FeaturesFound:
    return FeaturesFound(41, age_us, FEATURES, unknown or ("", ""))


def by_key(**policy: Any) -> ByKey:
    return ByKey(replace(DECLARED, **policy))


def test_the_model_answers_by_what_was_found() -> None:
    verdict = by_key().judge(TWO, found())
    assert verdict.features is FEATURES
    assert (verdict.instead, verdict.as_of) == (("", ""), {"offset": 41, "age_ms": 5_000})


def test_an_event_that_is_ahead_of_the_clock_is_no_time_ago() -> None:
    assert by_key().judge(TWO, found(age_us=-3)).as_of == {"offset": 41, "age_ms": 0}


def test_a_key_that_was_never_seen_is_answered_as_a_new_one_unless_told_otherwise() -> None:
    assert by_key().judge(TWO, found("", "shop")).instead == ("", "")


def test_an_unknown_key_can_be_refused() -> None:
    with pytest.raises(NotFound) as caught:
        by_key(on_unknown="refuse").judge(TWO, found("", "shop"))
    assert (caught.value.code, caught.value.where) == ("UNKNOWN_KEY", "row 1, entity.shop")
    assert 'shop "s2"' in caught.value.message


def test_an_unknown_key_can_have_the_fallback_while_others_are_answered() -> None:
    own = by_key(on_unknown="fallback", fallback=0.02)
    verdict = own.judge(TWO, found("customer", ""))
    assert verdict.features.tolist() == [[3, 4]]
    assert own.answers(verdict, [{"score": 0.7}]) == [
        {"score": 0.02, "fallback": "UNKNOWN_KEY"},
        {"score": 0.7},
    ]


@pytest.mark.parametrize("age_us", [5_000_001, None])
def test_what_is_too_old_is_refused_or_has_the_fallback(age_us: int | None) -> None:
    with pytest.raises(Unavailable) as caught:
        by_key(max_age_us=5_000_000).judge(TWO, found(age_us=age_us))
    assert caught.value.code == "STATE_OLD"
    own = by_key(max_age_us=5_000_000, on_old="fallback", fallback=0.02)
    verdict = own.judge(TWO, found(age_us=age_us))
    assert len(verdict.features) == 0
    assert own.answers(verdict, []) == [{"score": 0.02, "fallback": "STATE_OLD"}] * 2
    assert by_key(max_age_us=5_000_000).judge(TWO, found()).instead == ("", "")


def test_a_state_that_is_away_is_refused_or_has_the_fallback() -> None:
    away = Unavailable("It is away.", code="STATE_AWAY")
    with pytest.raises(Unavailable) as caught:
        by_key(on_unknown="fallback", fallback=0.02).judge(TWO, away)
    assert caught.value is away
    verdict = by_key(on_old="fallback", fallback=0.02).judge(TWO, away)
    assert (verdict.instead, verdict.as_of) == (("STATE_AWAY", "STATE_AWAY"), None)


@pytest.mark.parametrize("error", [DeadlineExceeded("Too late."), InvalidInput("Wrong.", code="OUT_OF_RANGE")])
def test_no_fallback_stands_for_what_is_the_fault_of_who_asks(error: SkyriverError) -> None:
    with pytest.raises(type(error)):
        by_key(on_old="fallback", fallback=0.02).judge(TWO, error)
