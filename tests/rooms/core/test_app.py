"""Declaring an application: what is understood, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.events import Reference, Source
from skyriver.core.expr import Label, render
from skyriver.core.spec import AppSpec


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    note: str | None
    amount: float = sr.field(ge=0, unit="EUR")


def declare() -> tuple[sr.App, Source, Label]:
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="7d")
    return app, payments, frauds


def test_the_specification_survives_json_and_its_digest_is_stable() -> None:
    app, payments, frauds = declare()
    features = app.features(
        "behaviour",
        payments,
        {
            "amount": payments.amount,
            "night": (payments.at.hour() <= 6) | (payments.at.hour() >= 22),
            "ratio": payments.amount / sr.mean("amount", by="customer", over="7d"),
            "risk": sr.mean(frauds, by="customer", over="28d"),
        },
    )

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> object:
        return data

    model = app.model("fraud", fit, gate=sr.Gate(average_precision=">= 0.6"))
    app.decide(payments, model, {"block": "score >= 0.9"}, otherwise="approve")
    spec = app.spec
    again = AppSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.digest() == spec.digest()
    assert [f.name for f in spec.streams[0].fields] == ["payment", "at", "customer", "note", "amount"]
    assert spec.streams[0].field("note").nullable
    assert spec.feature_set("behaviour").columns() == ("amount", "at")
    assert fit("called as a plain function") == "called as a plain function"


def test_how_a_training_is_spread_is_declared_and_unsaid_by_default() -> None:
    app, payments, frauds = declare()
    features = app.features("f", payments, {"x": payments.amount})

    @app.train(features, label=frauds)
    def alone(data: sr.TrainingData) -> None: ...

    @app.train(features, label=frauds, workers=2, exact=True, gpus=1)
    def together(ctx: Any) -> None: ...

    app.model("one", alone)
    app.model("many", together)
    one, many = (app.spec.model(name).to_json()["train"] for name in ("one", "many"))
    assert not {"workers", "exact", "gpus"} & one.keys(), "a specification from before has the digest it had"
    assert (many["workers"], many["exact"], many["gpus"]) == (2, True, 1)


def test_a_label_declared_after_the_stream_belongs_to_it() -> None:
    app, _, _ = declare()
    assert [label.name for label in app.spec.streams[0].labels] == ["fraud"]


class Shop(sr.Event):
    shop: int
    since: sr.Time
    risk: float | None
    name: str


def declare_shops() -> tuple[sr.App, Source, Reference]:
    app, payments, _ = declare()
    return app, payments, app.reference("shops", Shop, of=payments, id="shop", time="since")


def test_a_reference_belongs_to_its_stream() -> None:
    app, payments, _ = declare()
    before = app.spec.digest()
    assert "references" not in app.spec.streams[0].to_json()
    shops = app.reference("shops", Shop, of=payments, id="shop", time="since")
    risk = sr.lookup(shops.risk, by="customer")
    app.features("behaviour", payments, {"risk": payments.amount * risk})
    spec = app.spec
    assert spec.digest() != before
    assert AppSpec.model_validate_json(spec.model_dump_json()) == spec
    assert [(r.name, r.id, r.time) for r in spec.streams[0].references] == [("shops", "shop", "since")]
    assert [render(n) for n in spec.feature_set("behaviour").lookups()] == ["lookup(shops.risk, by customer)"]


def test_a_stream_that_lingers_and_one_that_does_not() -> None:
    app = sr.App("risk")
    app.stream("payments", Payment, id="payment", time="at", key="customer", linger="2ms")
    assert app.spec.streams[0].linger_us == 2_000
    assert AppSpec.model_validate(app.spec.to_json()) == app.spec
    plain, _, _ = declare()
    assert plain.spec.streams[0].linger_us == 0
    assert "linger_us" not in plain.spec.streams[0].to_json()  # as before there was such


REFUSED: dict[str, tuple[str, str, Callable[[], object]]] = {}


def refused(code: str, words: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    def note(declare: Callable[[], object]) -> Callable[[], object]:
        REFUSED[declare.__name__] = (code, words, declare)
        return declare

    return note


def test_a_list_is_a_reference_with_an_end() -> None:
    app, payments, _ = declare_shops()

    class Limit(sr.Event):
        who: int
        amount: float
        until: sr.Time | None

    app.list("denied", of=payments, id="customer")
    app.list("limits", Limit, of=payments, id="who", time="since", by="customer")
    _, denied, limits = app.spec.streams[0].references
    assert [(f.name, f.type, f.nullable) for f in denied.fields] == [
        ("customer", "int", False),
        ("note", "text", True),
        ("at", "time", False),
        ("until", "time", True),
    ]
    assert (denied.id, denied.time, denied.until, denied.by) == ("customer", "at", "until", "customer")
    assert [f.name for f in limits.fields] == ["who", "amount", "until", "since"]
    assert (limits.id, limits.time, limits.until, limits.by) == ("who", "since", "until", "customer")


@refused("BAD_REFERENCE", "The list 'limits' cannot be looked up by 'who'")
def a_list_that_no_field_is_looked_up_in() -> None:
    app, payments, _ = declare_shops()

    class Limit(sr.Event):
        who: int

    app.list("limits", Limit, of=payments, id="who")


@refused("BAD_FIELD", "'until' cannot be the until")
def a_list_whose_rows_always_end() -> None:
    app, payments, _ = declare_shops()

    class Limit(sr.Event):
        customer: int
        until: sr.Time

    app.list("limits", Limit, of=payments, id="customer")


@refused("UNKNOWN_FIELD", "payments has no field 'costumer'")
def a_list_of_a_field_that_is_not_there() -> None:
    app, payments, _ = declare_shops()
    app.list("denied", of=payments, id="costumer")


@refused("DUPLICATE_NAME", "has a reference 'shops' already")
def a_list_that_is_a_reference_already() -> None:
    app, payments, _ = declare_shops()
    app.list("shops", of=payments, id="customer")


@refused("BAD_EXAMPLE", "denied of an example holds [1]")
def an_example_whose_rows_hold_lists() -> None:
    app, payments, _ = declare_shops()
    app.list("denied", of=payments, id="customer")
    features = app.features("other", payments, {"amount": payments.amount})
    disputes = app.labels("dispute", of=payments, delay="1d")

    @app.train(features, label=disputes)
    def fit(data: sr.TrainingData) -> Any: ...

    decisions = app.decide(payments, app.model("other", fit), {"block": "customer in denied"}, otherwise="approve")
    decisions.example("block", denied=[[1]])  # type: ignore[list-item]


@refused("BAD_DURATION", "'7 parsecs' is not a window")
def a_window_that_is_none() -> None:
    sr.mean("amount", by="customer", over="7 parsecs")


@refused("LABEL_LEAK", "reads the label 'malignant'")
def a_label_among_the_features() -> None:
    class Patient(sr.Event):
        patient: int
        radius: float
        malignant: int

    app = sr.App("diagnosis")
    patients = app.table("patients", Patient, id="patient")
    features = app.features("all", patients, {"radius": patients.radius, "truth": patients.malignant})
    app.train(features, label=patients.malignant)


@refused("LABEL_LEAK", "takes the label 'fraud' by name")
def a_label_taken_by_its_name() -> None:
    app, payments, _ = declare()
    app.features("x", payments, {"risk": sr.mean("fraud", by="customer", over="7d")})


@refused("LABEL_LEAK", "is also a field")
def a_field_with_the_name_of_the_label() -> None:
    class Told(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        fraud: int

    app = sr.App("risk")
    told = app.stream("told", Told, id="payment", time="at", key="customer")
    app.labels("fraud", of=told, delay="7d")


@refused("UNKNOWN_FIELD", "has no field 'amonut'")
def a_misspelt_field() -> None:
    _, payments, _ = declare()
    _ = payments.amonut


@refused("UNKNOWN_FIELD", "by='client' is not a field")
def an_unknown_key() -> None:
    app, payments, _ = declare()
    app.features("x", payments, {"n": sr.count(by="client", over="1d")})


@refused("BAD_FEATURE", "Feature x uses the text note as a number")
def a_text_that_is_added_beside_the_question_whether_it_is_missing() -> None:
    app, payments, _ = declare()
    app.features("f", payments, {"x": payments.note.is_missing() + payments.note})


@refused("BAD_FEATURE", "uses the text note as a number")
def a_text_that_is_compared_with_a_field() -> None:
    app, payments, _ = declare()
    app.features("f", payments, {"x": payments.note == payments.note})


@refused("BAD_FEATURE", "amount is no text, and 'web' is one")
def a_number_that_is_compared_with_a_text() -> None:
    app, payments, _ = declare()
    app.features("f", payments, {"x": payments.amount == "web"})


@refused("BAD_EXPRESSION", "`(amount + 1)` is no field that could be the text 'web'")
def a_sum_that_is_compared_with_a_text() -> None:
    _, payments, _ = declare()
    _ = (payments.amount + 1) == "web"


@refused("BAD_FEATURE", "channel is never 'wbe'")
def a_text_that_a_field_never_is() -> None:
    class Call(sr.Event):
        call: int
        at: sr.Time
        channel: str = sr.field(one_of=("web", "shop"))

    app = sr.App("risk")
    calls = app.stream("calls", Call, id="call", time="at", key="call")
    app.features("f", calls, {"x": calls.channel == "wbe"})


@refused("BAD_FEATURE", "uses the text note as a number")
def a_text_as_a_number() -> None:
    app, payments, _ = declare()
    app.features("x", payments, {"note": payments.note})


@refused("BAD_EXPRESSION", "has no truth value")
def python_and_between_features() -> None:
    _, payments, _ = declare()
    _ = payments.amount > 1 and payments.amount < 2


@refused("BAD_EXPRESSION", "which of its rows is meant")
def a_field_of_a_reference_alone() -> None:
    app, payments, shops = declare_shops()
    app.features("x", payments, {"risk": shops.risk})


@refused("BAD_EXPRESSION", "lookup('risk') is not understood")
def a_lookup_by_name() -> None:
    sr.lookup("risk", by="customer")  # type: ignore[arg-type]


@refused("UNKNOWN_FIELD", "shops has no field 'rsik'")
def a_misspelt_field_of_a_reference() -> None:
    _ = declare_shops()[2].rsik


@refused("UNKNOWN_FIELD", "by='terminal' is not a field of payments")
def a_lookup_by_an_unknown_field() -> None:
    app, payments, shops = declare_shops()
    app.features("x", payments, {"risk": sr.lookup(shops.risk, by="terminal")})


@refused("BAD_FEATURE", "looked up by shop, of type int, and note is of type text")
def a_lookup_by_a_field_of_another_type() -> None:
    app, payments, shops = declare_shops()
    app.features("x", payments, {"risk": sr.lookup(shops.risk, by="note")})


@refused("BAD_FEATURE", "uses the text shops.name as a number")
def a_text_that_is_looked_up() -> None:
    app, payments, shops = declare_shops()
    app.features("x", payments, {"name": sr.lookup(shops.name, by="customer")})


@refused("BAD_FEATURE", "uses payments, but 'x' is computed from others")
def a_lookup_in_another_stream() -> None:
    app, _, shops = declare_shops()
    others = app.stream("others", Payment, id="payment", time="at", key="customer")
    app.features("x", others, {"risk": sr.lookup(shops.risk, by="customer")})


@refused("BAD_REFERENCE", "'labels' cannot name a reference")
def a_reference_with_the_name_of_a_table() -> None:
    app, payments, _ = declare()
    app.reference("labels", Shop, of=payments, id="shop", time="since")


@refused("DUPLICATE_NAME", "has a reference 'shops' already")
def a_reference_twice() -> None:
    app, payments, _ = declare_shops()
    app.reference("shops", Shop, of=payments, id="shop", time="since")


def trained(app: sr.App, payments: Source, frauds: Label, name: str) -> Any:
    def fit(data: sr.TrainingData) -> str:
        return name

    features = app.features(name, payments, {"amount": payments.amount})
    return app.train(features, label=frauds)(fit)


@refused("DUPLICATE_NAME", "another function trained.<locals>.fit already")
def two_functions_of_one_name() -> None:
    app, payments, frauds = declare()
    trained(app, payments, frauds, "one")
    trained(app, payments, frauds, "other")


def test_one_function_may_be_declared_twice() -> None:
    app, payments, frauds = declare()
    fit = trained(app, payments, frauds, "one")
    other = app.features("other", payments, {"double": payments.amount * 2})
    first = app.model("first", fit)
    second = app.model("second", app.train(other, label=frauds)(fit))
    assert [made.train and made.train.features for made in (first, second)] == ["one", "other"]


@refused("BAD_MODEL", "'fit.onnx' is no training function")
def a_file_in_place_of_a_function() -> None:
    sr.App("shop").model("m", "fit.onnx")  # type: ignore[arg-type]


@refused("BAD_FIELD", "'risk' cannot be the id")
def an_id_of_a_reference_that_may_be_missing() -> None:
    app, payments, _ = declare()
    app.reference("shops", Shop, of=payments, id="risk", time="since")


@refused("BAD_NAME", "cannot name an application")
def a_name_with_spaces() -> None:
    sr.App("My App")


@refused("BAD_FIELD", "cannot be the key")
def a_key_that_may_be_missing() -> None:
    app = sr.App("risk")
    app.stream("payments", Payment, id="payment", time="at", key="note")


@refused("BAD_GATE", "is not understood")
def a_gate_that_says_nothing() -> None:
    sr.Gate(average_precision="good")


@refused("BAD_STREAM", "linger='1s' is too long")
def a_stream_that_lingers_for_long() -> None:
    sr.App("risk").stream("payments", Payment, id="payment", time="at", key="customer", linger="1s")


@refused("BAD_STREAM", "disorder='1000d' is more than 31d: an event that is late")
def a_stream_that_takes_events_of_years_ago_as_of_now() -> None:
    sr.App("risk").stream("payments", Payment, id="payment", time="at", key="customer", disorder="1000d")


@refused("BAD_DURATION", "half_life='30d' is longer than the window over='7d'")
def a_half_life_longer_than_its_window() -> None:
    sr.decayed_mean("amount", by="customer", over="7d", half_life="30d")


@refused("BAD_FEATURE", "Feature x: the key 'note' may be missing")
def a_window_of_a_key_that_may_be_missing() -> None:
    app, payments, _ = declare()
    app.features("f", payments, {"x": sr.count(by="note", over="7d")})


@refused("BAD_DURATION", "Feature x: count(by customer, over 60000d): the window is longer than 100 years")
def a_window_of_centuries() -> None:
    app, payments, _ = declare()
    app.features("f", payments, {"x": sr.count(by="customer", over="60000d")})


@refused("BAD_LABEL", "label=<stream payments> is neither a label nor a column of payments")
def a_stream_as_a_label() -> None:
    app, payments, _ = declare()
    app.train(app.features("f", payments, {"x": payments.amount}), label=payments)  # type: ignore[arg-type]


@refused("BAD_GATE", "The gate's metric 'auuc' is not measured: did you mean auc?")
def a_gate_with_a_metric_that_nobody_measures() -> None:
    app, payments, frauds = declare()

    @app.train(app.features("f", payments, {"x": payments.amount}), label=frauds)
    def fit(data: sr.TrainingData) -> None: ...

    app.model("m", fit, gate=sr.Gate(auuc=">= 0.6"))


def spread(function: Callable[..., object], **given: Any) -> None:
    app, payments, frauds = declare()
    app.train(app.features("f", payments, {"x": payments.amount}), label=frauds, **given)(function)


@refused("BAD_TRAINING", "workers=True is no number from 1 to 64")
def workers_that_are_no_number() -> None:
    spread(lambda ctx: None, workers=True)


@refused("BAD_TRAINING", "workers=65 is no number from 1 to 64")
def more_workers_than_there_may_be() -> None:
    spread(lambda ctx: None, workers=65)


@refused("BAD_TRAINING", "exact=True is of a training on workers")
def exact_without_workers() -> None:
    spread(lambda data: None, exact=True)


@refused("BAD_TRAINING", "A training on workers is called once")
def a_search_on_workers() -> None:
    spread(lambda ctx: None, workers=2, search=sr.Search({"rate": sr.Float(0.1, 0.3)}, trials=3))


@refused("BAD_TRAINING", "gpus=2: each worker of a training has one GPU, or none")
def several_gpus_for_a_worker() -> None:
    spread(lambda ctx: None, workers=2, gpus=2)


@refused("BAD_TRAINING", "gpus=1 is of each worker of a training, and none are declared")
def a_gpu_without_workers() -> None:
    spread(lambda data: None, gpus=1)


@refused("BAD_TRAINING", "exact='yes' is neither True nor False")
def exact_in_words() -> None:
    spread(lambda ctx: None, workers=2, exact="yes")


@refused("BAD_TRAINING", "<lambda> cannot be called with a ctx alone")
def a_training_on_workers_that_takes_more() -> None:
    spread(lambda ctx, data: None, workers=2)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    code, words, declared = REFUSED[name]
    with pytest.raises(InvalidInput) as caught:
        declared()
    assert caught.value.code == code
    assert words in caught.value.message


def declare_model(**given: Any) -> tuple[sr.App, Source, Any]:
    app, payments, frauds = declare()
    features = app.features("behaviour", payments, {"amount": payments.amount, "night": payments.at.hour() <= 6})
    fit = app.train(features, label=frauds)(lambda data: data)
    return app, payments, app.model("fraud", fit, **given)


def test_words_for_reasons_are_of_the_models_features() -> None:
    app, payments, model = declare_model()
    words = {"amount": "more than before"}
    app.decide(payments, model, {"block": "score >= 0.9"}, otherwise="approve", reasons=words)
    assert app.spec.decides[0].reasons == words
    assert AppSpec.model_validate_json(app.spec.model_dump_json()) == app.spec


@pytest.mark.parametrize(
    ("reasons", "why"),
    [
        ({"amuont": "x"}, "did you mean 'amount'"),
        ({"customer": "x"}, "no feature of the model"),
        ({"amount": ""}, "1 to 200 characters"),
        ({"amount": "x" * 201}, "1 to 200 characters"),
        ({"amount": 7}, "1 to 200 characters"),
    ],
)
def test_words_for_what_is_no_feature_are_refused(reasons: Any, why: str) -> None:
    app, payments, model = declare_model()
    with pytest.raises(InvalidInput, match=why) as caught:
        app.decide(payments, model, {"block": "score >= 0.9"}, otherwise="approve", reasons=reasons)
    assert caught.value.code == "BAD_DECISION"


def test_how_a_model_is_calibrated_is_declared_and_unsaid_by_default() -> None:
    assert "calibrate" not in declare_model()[0].spec.models[0].to_json(), "digests of before stay"
    assert declare_model(calibrate=None)[0].spec.models[0].to_json()["calibrate"] is None
    assert declare_model(calibrate="platt")[0].spec.models[0].calibrate == "platt"
    with pytest.raises(InvalidInput, match="calibrate='beta' is not known"):
        declare_model(calibrate="beta")
