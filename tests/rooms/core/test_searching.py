from collections.abc import Callable
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.spec import AppSpec, SearchSpec


class Sale(sr.Event):
    sale: int
    at: sr.Time
    buyer: int
    price: float
    returned: bool


def _app(table: bool = False, gate: sr.Gate | None = None, **given: Any) -> sr.App:
    app = sr.App("shop")
    if table:
        sales = app.table("sales", Sale, id="sale")
        label: Any = sales.returned
    else:
        sales = app.stream("sales", Sale, id="sale", time="at", key="buyer")
        label = app.labels("late", of=sales, delay="2d")
    features = app.features("f", sales, {"a": sales.price})
    app.model("m", app.train(features, label=label, **given)(lambda data: None), gate=gate)
    return app


def test_a_search_is_data() -> None:
    space = {"leaves": sr.Int(8, 128, log=True), "rate": sr.Float(0.01, 0.3), "kind": sr.Choice("a", 1, True)}
    spec = sr.Search(space, metric="log_loss", minutes=10, money="2.5 EUR", patience=5).spec
    assert (spec.seconds, spec.trials, spec.currency) == (600.0, 0, "EUR")
    assert SearchSpec.model_validate(spec.to_json()) == spec
    assert sr.Search(space).spec.trials == 50
    assert sr.Search({"a": sr.Float(1, 10**23)}).spec.space[0].high == 1e23
    app = _app(search=sr.Search(space, trials=3), prequential=4)
    assert AppSpec.model_validate(app.spec.to_json()).digest() == app.spec.digest()


def test_specifications_without_it_stay_as_they_were() -> None:
    told = _app(gate=sr.Gate(auc=">= 0.5")).spec.to_json()["models"][0]
    assert not {"search", "prequential"} & told["train"].keys()
    assert not {"beats_baseline", "max_gap"} & told["gate"].keys()


def test_several_at_a_time_are_told_only_where_there_are_several() -> None:
    spec = sr.Search({"a": sr.Int(1, 9)}, parallel=3).spec
    assert (spec.parallel, spec.trials) == (3, 50)
    assert SearchSpec.model_validate(spec.to_json()) == spec
    assert "parallel" not in sr.Search({"a": sr.Int(1, 9)}).spec.to_json()


def _space(**space: Any) -> Callable[[], object]:
    return lambda: sr.Search(space, trials=3)


@pytest.mark.parametrize(
    ("declare", "code", "said"),
    [
        (_space(a=sr.Int(8, 4)), "BAD_SEARCH", "low=8 is not below high=4"),
        (_space(a=sr.Float(0, 1, log=True)), "BAD_SEARCH", "log=True needs low above 0"),
        (_space(a=sr.Float(float("nan"), 1)), "BAD_SEARCH", "no finite number"),
        *(
            (lambda n=n: sr.Search({"a": sr.Int(1, 9)}, parallel=n), "BAD_SEARCH", "parallel")
            for n in (0, -1, 65, 2.5, "two", True, None)
        ),
        (lambda: sr.Search({"a": sr.Int(1, 9)}, trials=4, parallel=8), "BAD_SEARCH", "some would have nothing to try"),
        (_space(a=sr.Int(1.5, 2)), "BAD_SEARCH", "1.5 is no whole number"),  # type: ignore[arg-type]
        (_space(a=sr.Choice("x", "x")), "BAD_SEARCH", "are not two or more different values"),
        (_space(a=sr.Int(1, 10**400)), "BAD_SEARCH", "no number that a float of 64 bits holds exactly"),
        (_space(a=sr.Int(1, 2**53 + 1)), "BAD_SEARCH", "no number that a float of 64 bits holds exactly"),
        (_space(a=sr.Float(0, 10**400)), "BAD_SEARCH", "no number that a float of 64 bits holds"),
        (_space(a=sr.Choice(float("nan"), 1.0)), "BAD_SEARCH", "a: nan is no finite number"),
        (_space(a=sr.Choice(1.0, float("-inf"))), "BAD_SEARCH", "a: -inf is no finite number"),
        (_space(a=5), "BAD_SEARCH", "5 is no sr.Int, sr.Float or sr.Choice"),
        (_space(seed=sr.Int(1, 2)), "BAD_SEARCH", "'seed' is no parameter to search"),
        (_space(), "BAD_SEARCH", "has no parameters"),
        (lambda: sr.Search({"a": sr.Int(1, 2)}, metric="auuc"), "BAD_SEARCH", "did you mean 'auc'?"),
        (
            lambda: sr.Search({"a": sr.Int(1, 2)}, minutes=0),
            "BAD_SEARCH",
            "minutes=0: with that nothing would be tried",
        ),
        (lambda: sr.Search({"a": sr.Int(1, 2)}, trials=-1), "BAD_SEARCH", "trials=-1"),
        (lambda: sr.Search({"a": sr.Int(1, 2)}, trials=True), "BAD_SEARCH", "trials=True"),
        (lambda: sr.Search({"a": sr.Int(1, 2)}, trials=2_000), "BAD_SEARCH", "is more than 1,000"),
        (lambda: sr.Search({"a": sr.Int(1, 2)}, money="2"), "BAD_SEARCH", "no amount above 0"),
        (lambda: sr.Search({"a": sr.Int(1, 2)}, money="0 EUR"), "BAD_SEARCH", "no amount above 0"),
        (lambda: _app(search={"a": 1}), "BAD_SEARCH", "is no sr.Search"),
        (lambda: _app(prequential=1), "BAD_SPLIT", "prequential=1 is no number of stretches"),
        (lambda: _app(prequential=51), "BAD_SPLIT", "prequential=51 is no number of stretches"),
        (lambda: _app(table=True, prequential=3), "BAD_SPLIT", "sales is a table"),
        (lambda: _app(gate=sr.Gate(prequential_auc=">= 0.5")), "BAD_GATE", "'prequential_auc' is not measured"),
        (lambda: sr.Gate(max_gap=-0.1), "BAD_GATE", "max_gap=-0.1 is less than 0"),
        (lambda: sr.Gate(beats_baseline="yes"), "BAD_GATE", "beats_baseline='yes'"),  # type: ignore[arg-type]
        (lambda: sr.App("a").model("m", onnx="m.onnx", gate=sr.Gate(max_gap=0.1)), "BAD_GATE", "measure its gap on"),
    ],
)
def test_what_cannot_be_meant_is_refused(declare: Callable[[], object], code: str, said: str) -> None:
    with pytest.raises(sr.SkyriverError) as caught:
        declare()
    assert caught.value.code == code
    assert said in caught.value.message
    assert caught.value.next_action


def test_a_parameter_that_is_there_twice_is_refused() -> None:
    one = {"name": "a", "kind": "int", "low": 1, "high": 2}
    with pytest.raises(ValueError, match="'a' is there twice"):
        SearchSpec.model_validate({"space": [one, one], "trials": 3})


def test_a_gate_may_name_what_is_validated_prequentially() -> None:
    assert _app(prequential=3, gate=sr.Gate(prequential_auc=">= 0.5")).spec.models[0].gate.rules
