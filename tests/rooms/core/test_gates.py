from collections.abc import Callable
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.spec import GateSpec, ModelSpec, TrainSpec

app = sr.App("shop")


class Order(sr.Event):
    order: int
    at: sr.Time
    buyer: int
    price: float
    country: str


class Person(sr.Event):
    person: int
    age: int
    good: int


orders = app.stream("orders", Order, id="order", time="at", key="buyer")
others = app.stream("others", Order, id="order", time="at", key="buyer")
back = app.labels("back", of=orders, delay="7d")
people = app.table("people", Person, id="person")
ours = app.features("ours", orders, {"price": orders.price})
theirs = app.features("theirs", people, {"age": people.age})
NIGHT = sr.Slice("night", orders.at.hour() <= 6)


@app.train(ours, label=back)
def fit(data: sr.TrainingData) -> Any:
    raise NotImplementedError


@app.train(theirs, label=people.good)
def fit_people(data: sr.TrainingData) -> Any:
    raise NotImplementedError


def model(name: str, **given: Any) -> ModelSpec:
    return app.model(name, given.pop("train", fit), **given)


def test_slices_and_their_rules_are_part_of_the_specification() -> None:
    gate = sr.Gate(auc=">= 0.6", each_slice={"auc": "> 0.5"}, slices={"country": {"brier": "<= 0.1"}}, latency="2ms")
    found = model("a", slices=[NIGHT, sr.Slice(by=orders.country, most=3, least=200)], gate=gate)
    assert [(s.name, s.by, s.most, s.least) for s in found.slices] == [
        ("night", "", 10, 0),
        ("country", "country", 3, 200),
    ]
    assert [(r.slice, r.metric, r.op, r.value) for r in found.gate.slices] == [
        ("", "auc", ">", 0.5),
        ("country", "brier", "<=", 0.1),
    ]
    assert (found.gate.latency_us, found.gate.size_bytes) == (2_000, 0)
    assert ModelSpec.model_validate(found.to_json()) == found
    assert model("b", train=fit_people, slices=[sr.Slice("young", people.age < 25)]).slices[0].name == "young"


def test_what_is_not_used_leaves_no_trace_in_the_digest() -> None:
    plain = ModelSpec(name="m", train=TrainSpec(function="fit", features="f", label="y"))
    assert {"slices", "description", "contact", "licence"}.isdisjoint(plain.to_json())
    assert GateSpec().to_json() == {"rules": [], "against": "", "tolerance": 0.0}


@pytest.mark.parametrize(
    ("declare", "code", "message"),
    [
        (lambda: sr.Slice("x"), "BAD_SLICE", "by a condition or by a field"),
        (lambda: sr.Slice("x", NIGHT.when, by="country"), "BAD_SLICE", "by a condition or by a field"),
        (lambda: sr.Slice("no name", NIGHT.when), "BAD_NAME", "no name"),
        (lambda: model("x", slices=[1]), "BAD_SLICE", "are no slices"),
        (lambda: model("x", slices=[NIGHT, NIGHT]), "DUPLICATE_NAME", "two slices 'night'"),
        (lambda: model("x", slices=[sr.Slice(f"s{n}", NIGHT.when) for n in range(21)]), "BAD_SLICE", "has 21 slices"),
        (lambda: model("x", slices=[sr.Slice(by="contry")]), "UNKNOWN_FIELD", "did you mean country?"),
        (lambda: model("x", slices=[sr.Slice(by="price")]), "BAD_SLICE", "too many values"),
        (lambda: model("x", slices=[sr.Slice(by="country", most=51)]), "BAD_SLICE", "most=51 is more than 50"),
        (lambda: model("x", slices=[sr.Slice("s", others.price > 1)]), "BAD_SLICE", "uses others"),
        (lambda: model("x", slices=[sr.Slice("s", sr.count(by="buyer", over="1d") > 1)]), "BAD_SLICE", "no feature of"),
        (lambda: model("x", slices=[sr.Slice("s", 1)]), "BAD_SLICE", "reads no field"),
        (lambda: model("x", slices=[sr.Slice("s", orders.country > 1)]), "BAD_FEATURE", "The slice s uses the text"),
        (lambda: model("x", train=None, onnx="m.onnx", slices=[NIGHT]), "BAD_SLICE", "a ready file"),
        (lambda: model("x", gate=sr.Gate(each_slice={"auc": ">= 1"})), "BAD_GATE", "the model has none"),
        (
            lambda: model("x", slices=[NIGHT], gate=sr.Gate(slices={"nigth": {"auc": ">= 1"}})),
            "BAD_GATE",
            "did you mean night?",
        ),
        (
            lambda: model("x", slices=[NIGHT], gate=sr.Gate(each_slice={"train_auc": ">= 1"})),
            "BAD_GATE",
            "'train_auc' is not measured on slices",
        ),
        (lambda: model("x", slices=[sr.Slice(by="order")]), "BAD_SLICE", "too many values"),
        (lambda: model("x", train=None, onnx="m.onnx", gate=sr.Gate(latency="1ms")), "BAD_GATE", "its latency"),
        (lambda: sr.Gate(each_slice={"auc": "high"}), "BAD_GATE", "auc='high' is not understood"),
        (lambda: sr.Gate(slices=[NIGHT]), "BAD_GATE", "rules of slices are not understood"),  # type: ignore[arg-type]
        (lambda: sr.Gate(latency="fast"), "BAD_DURATION", "'fast' is not a latency"),
        (lambda: sr.Gate(size="small"), "BAD_SIZE", "'small' is not a size of a file"),
        (lambda: model("x", description="x" * 2_001), "BAD_MODEL", "description="),
    ],
)  # fmt: skip
def test_what_is_refused(declare: Callable[[], object], code: str, message: str) -> None:
    with pytest.raises(sr.SkyriverError, match=message) as refused:
        declare()
    assert refused.value.code == code
    assert refused.value.next_action
