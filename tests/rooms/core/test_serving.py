"""Declaring that a model is asked by the keys of its features."""

from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import AppSpec, FromStreamSpec, ServiceSpec


class Order(sr.Event):
    order: int
    at: sr.Time
    customer: int
    amount: float


class Row(sr.Event):
    number: int
    amount: float
    late: bool


def declare(
    features: dict[str, Any] | None = None,
    *,
    decides: str = "same",
    of: str = "orders",
    keyless: bool = False,
    **options: Any,
) -> AppSpec:
    """`decides`: by which features the stream decides: the "same", "other" ones, or "nothing"."""
    app = sr.App("shop")
    orders = app.stream("orders", Order, id="order", time="at", key="customer")
    others = app.stream("others", Order, id="order", time="at", key="customer")
    returned = app.labels("returned", of=orders, delay="2d")
    count = sr.count(by="customer", over="7d")
    plain = {"amount": orders.amount} if keyless else {"amount": orders.amount, "orders_7d": count}
    habits = app.features("habits", orders, features or plain)
    counted = app.features("counted", orders, {"orders_7d": count})

    @app.train(habits, label=returned)
    def fit(data: object) -> object:
        return data

    @app.train(counted, label=returned)
    def fit_counted(data: object) -> object:
        return data

    stream = {"orders": orders, "others": others}[of]
    model = app.model("returns", fit, serve=sr.Service(features=sr.FromStream(stream, **options)))
    if decides == "same":
        app.decide(orders, model, {"call": "score > 0.5"}, otherwise="ship")
    if decides == "other":
        app.decide(orders, app.model("counts", fit_counted), {"call": "score > 0.5"}, otherwise="ship")
    return app.spec


def refused(*arguments: Any, **options: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        declare(*arguments, **options)
    assert caught.value.next_action
    return caught.value


def test_what_is_declared_is_in_the_specification() -> None:
    spec = declare(on_unknown="fallback", max_age="5m", on_old="fallback", fallback=0.02)
    features = spec.model("returns").serve.features
    assert features == FromStreamSpec(
        stream="orders", on_unknown="fallback", max_age="5m", on_old="fallback", fallback=0.02
    )
    assert features.max_age_us == 300_000_000
    assert AppSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.feature_set("habits").keys == ("customer",)


def test_unless_told_otherwise_a_new_key_is_answered_and_a_state_that_is_away_is_refused() -> None:
    features = declare().model("returns").serve.features
    assert features is not None
    assert features.to_json() == {"stream": "orders", "on_unknown": "answer", "on_old": "refuse"}


def test_a_service_without_it_is_written_as_before() -> None:
    assert "features" not in ServiceSpec().to_json()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"on_unknown": "guess"}, "BAD_SERVICE", "on_unknown='guess'"),
        ({"on_old": "answer"}, "BAD_SERVICE", "on_old='answer'"),
        ({"max_age": "5"}, "BAD_DURATION", "'5' is not an age"),
        ({"max_age": 300}, "BAD_SERVICE", "max_age=300"),
        ({"max_age": "0s"}, "BAD_SERVICE", "max_age='0s'"),
        ({"on_old": "fallback"}, "BAD_SERVICE", "needs a fallback"),
        ({"on_unknown": "fallback"}, "BAD_SERVICE", "needs a fallback"),
        ({"fallback": 0.5}, "BAD_SERVICE", "never answered"),
        ({"on_old": "fallback", "fallback": "0.5"}, "BAD_SERVICE", "fallback='0.5'"),
        ({"on_old": "fallback", "fallback": float("nan")}, "BAD_SERVICE", "fallback=nan"),
    ],
)
def test_a_policy_that_is_none_is_refused(options: dict[str, Any], code: str, words: str) -> None:
    error = refused(**options)
    assert error.code == code
    assert words in error.message


def test_the_model_s_features_must_be_those_of_the_stream() -> None:
    error = refused(of="others")
    assert (error.code, "trained on features of orders, not of others" in error.message) == ("BAD_SERVICE", True)


def test_features_without_a_key_cannot_be_asked_by_one() -> None:
    assert "they have no key" in refused(keyless=True).message


def test_a_feature_is_not_called_as_a_part_of_such_a_request() -> None:
    assert "'event'" in refused({"event": sr.count(by="customer", over="7d")}).message


@pytest.mark.parametrize(("decides", "words"), [("nothing", "decides nothing"), ("other", "decides with counts")])
def test_a_stream_must_compute_the_features(decides: str, words: str) -> None:
    error = refused(decides=decides)
    assert (error.code, words in error.message) == ("BAD_SERVICE", True)
    assert "app.decide(orders" in error.next_action


def test_another_model_of_the_same_features_can_be_asked_too() -> None:
    """The stream decides with one, and who asks by key asks the other."""
    app = sr.App("shop")
    orders = app.stream("orders", Order, id="order", time="at", key="customer")
    returned = app.labels("returned", of=orders, delay="2d")
    habits = app.features("habits", orders, {"orders_7d": sr.count(by="customer", over="7d")})

    @app.train(habits, label=returned)
    def fit(data: object) -> object:
        return data

    app.decide(orders, app.model("returns", fit), {"call": "score > 0.5"}, otherwise="ship")
    app.model("offers", fit, serve=sr.Service(features=sr.FromStream(orders)))
    assert app.spec.model("offers").serve.features is not None


def test_a_ready_file_has_no_features() -> None:
    app = sr.App("shop")
    orders = app.stream("orders", Order, id="order", time="at", key="customer")
    with pytest.raises(InvalidInput) as caught:
        app.model("price", onnx="price.onnx", serve=sr.Service(features=sr.FromStream(orders)))
    assert "ready file" in caught.value.message


@pytest.mark.parametrize("what", ["orders", None, "table"])
def test_what_is_no_stream_is_refused(what: str | None) -> None:
    app = sr.App("shop")
    stream: Any = app.table("rows", Row, id="number") if what == "table" else what
    with pytest.raises(InvalidInput) as caught:
        sr.FromStream(stream)
    assert (caught.value.code, "no stream" in caught.value.message) == ("BAD_SERVICE", True)
