"""Whatever is given for an argument of the decisions' interface is taken as it is meant, or refused in our words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import skyriver as sr
from skyriver.client.appfile import load_app, place
from skyriver.core.errors import InvalidInput
from skyriver.core.misread import made
from skyriver.core.spec import SinkSpec


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    amount: float
    country: str


class Declared:
    def __init__(self) -> None:
        self.app = sr.App("risk")
        self.payments = self.app.stream("payments", Payment, id="payment", time="at", key="customer")
        self.paid = self.app.labels("paid", of=self.payments, delay="1d")
        behaviour = self.app.features("behaviour", self.payments, {"mean": self.payments.amount * 2})

        @self.app.train(behaviour, label=self.paid)
        def fit(data: sr.TrainingData) -> Any: ...

        self.model = self.app.model("fraud", fit)

    def decide(self, **more: Any) -> Any:
        given = {"stream": self.payments, "model": self.model, "rules": {"block": "score > 0.5"}, "otherwise": "ok"}
        given |= more
        return self.app.decide(given.pop("stream"), given.pop("model"), given.pop("rules"), **given)


def _decide(name: str) -> Callable[[Any], object]:
    return lambda value: Declared().decide(**{name: value})


def _rule(name: str) -> Callable[[Any], object]:
    given = {"decision": "block", "when": "score > 0.5"}
    return lambda value: Declared().decide(rules=[sr.Rule(**given | {name: value})])


def _budget(name: str) -> Callable[[Any], object]:
    given = {"most": 3, "per": "1h", "overflow": "ok"}
    return lambda value: Declared().decide(budgets={"block": sr.Budget(**given | {name: value})})  # type: ignore[arg-type]


def _count(name: str) -> Callable[[Any], object]:
    given = {"decision": "block", "over": "1h"}
    return lambda value: Declared().decide(counters={"blocks": sr.Count(**given | {name: value})})  # type: ignore[arg-type]


def _costs(name: str) -> Callable[[Any], object]:
    given: dict[str, Any] = {"of": {"block": sr.Cost(1), "ok": sr.Cost(2)}}
    return lambda value: Declared().decide(costs=sr.Costs(**given | {name: value}))


def _cost(name: str) -> Callable[[Any], object]:
    return lambda value: Declared().decide(costs=sr.Costs({"block": sr.Cost(**{name: value}), "ok": sr.Cost()}))


def _example(name: str) -> Callable[[Any], object]:
    return lambda value: Declared().decide().example("block", **{name: value})


def _sink(name: str) -> Callable[[Any], object]:
    given = {"to": "shop", "on": "block"}
    return lambda value: Declared().decide().sink(**given | {name: value})


def _review(name: str) -> Callable[[Any], object]:
    def call(value: Any) -> object:
        declared = Declared()
        given: dict[str, Any] = {"label": declared.paid, "answers": {"yes": 1, "no": 0}, name: value}
        return declared.decide().review(given.pop("decision", "block"), **given)

    return call


def _list(name: str) -> Callable[[Any], object]:
    def call(value: Any) -> object:
        declared = Declared()
        given: dict[str, Any] = {"of": declared.payments, "id": "customer", "row": None, name: value}
        return declared.app.list(given.pop("name", "denied"), given.pop("row"), **given)

    return call


NEVER: tuple[Any, ...] = (b"x", object(), math.nan, math.inf, -1, 2.5, True, ("a", 5), {"a": object()}, {5: "x"}, [[]])
"""What no argument takes, unless its own row says so."""
CALLS: Mapping[str, tuple[Callable[[Any], object], tuple[Any, ...], tuple[Any, ...]]] = {
    # argument: how it is given, what it takes of NEVER, what else it refuses
    "rule decision": (_rule("decision"), (), ("", "Not a name", None, ["block"])),
    "rule when": (_rule("when"), (), (None, ["score"])),
    "rule name": (_rule("name"), (), ("Not a name", None)),
    "budget most": (_budget("most"), (), ("3", None, 2_000_000)),
    "budget per": (_budget("per"), (), (5, None, "", "0s", "-1h", "1 fortnight")),
    "budget overflow": (_budget("overflow"), (), ("", None)),
    "budget by": (_budget("by"), (), (None, "amount", "nothing")),
    "count decision": (_count("decision"), (), ("", None)),
    "count over": (_count("over"), (), (5, None, "0s", "400d")),
    "count by": (_count("by"), (), (None, "nothing")),
    "count most": (_count("most"), (), ("3", None, 0)),
    "costs of": (_costs("of"), (), ("block", None, [sr.Cost()], {"block": 5})),
    "costs capacity": (_costs("capacity"), (), ("200/1d", None, {"block": 200}, {"block": "200"}, {"block": "-1/1d"})),
    "costs unit": (_costs("unit"), (), (None, "x" * 17)),
    "cost each": (_cost("each"), (-1, 2.5), (None, ["amount"])),
    "cost positive": (_cost("positive"), (-1, 2.5), (None,)),
    "cost negative": (_cost("negative"), (-1, 2.5), (None,)),
    "strictest": (lambda value: sr.Strictest(value), (), ("", None)),
    "decide stream": (_decide("stream"), (), ("payments", None)),
    "decide model": (_decide("model"), (), ("fraud", None)),
    "decide rules": (_decide("rules"), (), ("score > 1", None, {"block": 5}, [("block", "score > 1")])),
    "decide otherwise": (_decide("otherwise"), (), ("", None)),
    "decide fallback": (_decide("fallback"), (), ("", "Not a name")),
    "decide fallback_by": (_decide("fallback_by"), (), ("rules", None, ["rules", "rules"], ["luck"])),
    "decide deadline": (_decide("deadline"), (), ("", 5)),
    "decide latency": (_decide("latency"), (), ("", 5, "1ms", "0s")),
    "decide share": (
        _decide("share"),
        (None,),
        ("0.99", 0.5, 1, 0.999, True),
    ),  # without a latency it is one of nothing
    "decide cheaper": (_decide("cheaper"), (), (None, "Not a name", "small")),  # of a latency alone
    "decide cpus": (_decide("cpus"), (1,), ("2", None, 0, 65, 1.5, True, 2)),  # more than one for a latency alone
    "decide costs": (_decide("costs"), (), ("1", {"block": 1})),
    "decide reasons": (_decide("reasons"), (), ("x", ["mean"], {"mean": 5}, {"nothing": "x"})),
    "decide budgets": (_decide("budgets"), (), ("3", [sr.Budget(3, "1h", "ok")], {"block": 3}, {"block": "3"})),
    "decide counters": (_decide("counters"), (), ("3", {"blocks": 3}, {"blocks": [sr.Count("block", "1h")]})),
    "decide combine": (_decide("combine"), (), ("strictest", None, ["block"])),
    "example decision": (lambda value: Declared().decide().example(value), (), ("", None)),
    "example amount": (_example("amount"), (-1, 2.5, True), ([1], ["a"])),
    "sink to": (_sink("to"), (), ("", None, "../x")),
    "sink on": (_sink("on"), (), ("", None, [], ["nothing"], ["block", 5])),
    "sink ordered": (_sink("ordered"), (), (None, "nothing")),
    "sink parked": (_sink("parked"), (), (None, "stop", "")),
    "sink parallel": (_sink("parallel"), (), ("8", None, 0, 257)),
    "sink tries": (_sink("tries"), (), ("8", None, 0)),
    "sink retry_for": (_sink("retry_for"), (), (5, None, "", "0s")),
    "sink approve": (_sink("approve"), (True,), ("yes", None, 1, 0)),
    "sink approve_within": (_sink("approve_within"), (), (5, None, "0s")),
    "sink unapproved": (_sink("unapproved"), (), (None, "keep")),
    "review decision": (_review("decision"), (), ("", None, "nothing")),
    "review label": (_review("label"), (), ("paid", None)),
    "review answers": (
        _review("answers"),
        (),
        (None, "yes", ["yes"], {"yes": 1}, {"yes": 1, "no": "0"}, {"yes": 1, 5: 0}),
    ),
    "review within": (_review("within"), (), (5, None, "0s")),
    "review lease": (_review("lease"), (), (5, None, "1s", "2d")),
    "review second_opinion": (_review("second_opinion"), (), ("", 1.5, ["amount > 1"])),
    "review expires": (_review("expires"), (), (5, "", "1h")),
    "review unanswered": (_review("unanswered"), (), (None, "yes")),
    "review most_waiting": (_review("most_waiting"), (), ("5", None, 0)),
    "review keep": (_review("keep"), (), (5, None, "0s")),
    "list name": (
        _list("name"),
        (),
        ("", None, "amount", "country", "score", "probability", "and", "missing", "labels"),
    ),
    "list row": (_list("row"), (), ("row", Payment(), int)),
    "list of": (_list("of"), (), ("payments", None, Payment)),
    "list id": (_list("id"), (), ("", None, "nothing", "amount", ["customer"])),
    "list time": (_list("time"), (), ("", None, ["at"])),
    "list until": (_list("until"), (), ("", None, "customer", ["until"])),
    "list by": (_list("by"), (), (None, "nothing", "country", ["customer"])),
}


@pytest.mark.parametrize("argument", CALLS)
def test_what_an_argument_cannot_be_is_refused_in_our_words(argument: str) -> None:
    call, taken, others = CALLS[argument]
    taken_ids = {(type(value), value) for value in taken}
    for value in (*NEVER, *others):
        if value.__hash__ is not None and not isinstance(value, tuple) and (type(value), value) in taken_ids:
            call(value)
            continue
        with pytest.raises(InvalidInput) as caught:
            call(value)
        error = caught.value
        assert error.message, value
        assert error.next_action, (value, error)
        for foreign in ("Input should be", "validation error", "Value error", "Extra inputs"):
            assert foreign not in str(error), (value, error)


def test_what_is_out_of_range_is_told_as_it_was_given() -> None:
    with pytest.raises(InvalidInput) as caught:
        _sink("retry_for")("500ms")
    assert caught.value.message == "sink 'shop': retry_for='500ms' is less than 1s."
    with pytest.raises(InvalidInput) as caught:
        _sink("approve")("yes")
    assert caught.value.message == "sink 'shop': approve='yes' is no truth, which is true or false."
    with pytest.raises(InvalidInput, match="sink: to is missing"):
        made(SinkSpec, "sink", "BAD_SINK", "Give it.", {})


def test_a_list_called_as_a_field_says_what_to_do() -> None:
    with pytest.raises(InvalidInput) as caught:
        _list("name")("amount")
    error = caught.value
    assert (error.code, error.where) == ("BAD_REFERENCE", "list amount of payments")
    assert error.message == "A list cannot be called 'amount': in rules that is a field of payments."
    assert "another name" in error.next_action


APP = """import skyriver as sr
app = sr.App("risk")
class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
app.list("denied", of=payments, id="customer")
paid = app.labels("paid", of=payments, delay="1d")
features = app.features("f", payments, {"n": sr.count(by="customer", over="1d")})
@app.train(features, label=paid)
def fit(data): ...
decisions = app.decide(payments, app.model("m", fit), [
    sr.Rule("block", "score > 1"),
    sr.Rule("block", "scor > 1", name="other"),
], otherwise="ok")
decisions.example("block", score=0.5)
decisions.review("block", label=paid, answers={"yes": 1, "no": 0}, second_opinion="n > 1")
"""


def test_the_line_of_each_declaration_is_known_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "risk.py"
    file.write_text(APP)
    app = load_app(file)
    lines = {of: int(found.removeprefix(f"{file}:")) for of, found in app.places.items()}
    assert lines == {
        "list denied of payments": 8,
        "rule 'block' of payments": 14,
        "rule 'other' of payments": 15,
        "costs of the decisions of payments": 13,
        "example 1 of the decisions of payments": 17,
        "review of block of payments": 18,
        "rule 'second opinion on block' of payments": 18,
    }
    before = app.spec.digest()
    file.write_text("\n\n" + APP)
    moved = load_app(file)
    assert moved.spec.digest() == before
    assert moved.places["rule 'other' of payments"] == f"{file}:17"
    assert sr.Rule("a", "b") == sr.Rule("a", "b")


def test_what_the_cloud_says_of_a_declaration_gets_its_line() -> None:
    places = {"rule 'a' of s": "app.py:3", "rule 'b' of s": "app.py:4"}
    one = InvalidInput("column 1: x", where="rule 'b' of s")
    place(one, places)
    assert (one.where, one.message) == ("app.py:4: rule 'b' of s", "column 1: x")
    details = ({"where": "rule 'a' of s", "message": "x"}, {"where": "rule 'b' of s", "message": "y"})
    many = InvalidInput("2 wrong:\n  - rule 'a' of s: x\n  - rule 'b' of s: y", details=details)
    place(many, places)
    assert many.message == "2 wrong:\n  - app.py:3: rule 'a' of s: x\n  - app.py:4: rule 'b' of s: y"
    assert [d["where"] for d in many.details] == ["app.py:3: rule 'a' of s", "app.py:4: rule 'b' of s"]


@pytest.mark.parametrize("call", ['sr.Rule("inspect", 5)', 'sr.Rule("", "score > 1")'])
def test_a_rule_that_is_none_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Also where the application's folder is the one that it is deployed from."""
    file = tmp_path / "risk.py"
    file.write_text(f"import skyriver as sr\n\nrules = [\n    {call},\n]\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        load_app(file)
    assert caught.value.where == f"{file}:4"


def test_a_list_called_as_a_field_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "risk.py"
    file.write_text(APP.replace('app.list("denied"', 'app.list("customer"'))
    with pytest.raises(InvalidInput) as caught:
        load_app(file)
    assert caught.value.where == f"{file}:8: list customer of payments"


@pytest.mark.parametrize("call", ['sr.Budget("3")', 'sr.Budget(3, "1h", "ok", "", 5)', "sr.Budget(3, pre='1h')"])
def test_a_call_with_too_few_or_too_many_arguments_says_which_there_are(tmp_path: Path, call: str) -> None:
    file = tmp_path / "risk.py"
    file.write_text(f"import skyriver as sr\n\n{call}\n")
    with pytest.raises(InvalidInput) as caught:
        load_app(file)
    assert caught.value.where == f"{file}:3"
    assert "There are most, per, overflow, by." in caught.value.next_action


def test_an_objective_of_decisions_is_in_the_specification_only_where_it_is_declared() -> None:
    plain = Declared().decide().spec
    assert not {"latency_us", "share"} & set(plain.to_json())
    declared = Declared().decide(latency="50ms", share=0.999).spec
    assert {what: declared.to_json()[what] for what in ("latency_us", "share")} == {
        "latency_us": 50_000,
        "share": 0.999,
    }
    assert Declared().decide(latency="50ms", cheaper="small").spec.to_json()["cheaper"] == "small"
    assert Declared().decide(latency="50ms", cpus=2).spec.to_json()["cpus"] == 2
    assert not {"cheaper", "cpus"} & set(declared.to_json())
    assert type(declared).model_validate(declared.to_json()) == declared
    with pytest.raises(InvalidInput, match="cpus=2 are for where a latency cannot be kept, and there is none"):
        Declared().decide(cpus=2)
    with pytest.raises(InvalidInput, match="deadline='60ms' leaves the model longer") as refused:
        Declared().decide(latency="50ms", deadline="60ms")
    assert refused.value.code == "BAD_DECISION"


@pytest.mark.parametrize("share", [0.99, 0.9])
def test_a_share_without_a_latency_is_refused(share: float) -> None:
    with pytest.raises(InvalidInput, match=rf"share={share} is a share of the events .* and there is none") as refused:
        Declared().decide(share=share)
    assert (refused.value.code, 'latency="50ms"' in refused.value.next_action) == ("BAD_DECISION", True)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"replicas": "2"}, "replicas='2' is no whole number"),
        ({"replicas": True}, "replicas=True is no whole number"),
        ({"replicas": (0, "2")}, "replicas=(0, '2') is no whole number"),
        ({"replicas": (False, 2)}, "replicas=(False, 2) is no whole number"),
        ({"latency": "50ms", "share": "0.9"}, "share='0.9' is no number"),
        ({"priority": True}, "priority=True is no whole number"),
    ],
    ids=str,
)
def test_what_is_no_number_is_not_taken_for_one(tmp_path: Path, given: dict[str, object], wrong: str) -> None:
    file = tmp_path / "risk.py"
    told = ", ".join(f"{name}={value!r}" for name, value in given.items())
    file.write_text(f"import skyriver as sr\n\nsr.Service({told})\n")
    with pytest.raises(InvalidInput) as caught:
        load_app(file)
    assert (caught.value.code, caught.value.where) == ("BAD_SERVICE", f"{file}:3")
    assert wrong in caught.value.message


@pytest.mark.parametrize(
    ("given", "code", "told", "action"),
    [
        ({"latency": "1ms"}, "BAD_DECISION", "latency='1ms' is less than 5ms", 'write latency="50ms".'),
        ({"latency": 20}, "BAD_DURATION", "20 is not a latency", 'write latency="20ms".'),
        ({"latency": "0s"}, "BAD_DECISION", "nothing is decided at once", 'write latency="50ms".'),
        ({"latency": "50ms", "share": 95}, "BAD_DECISION", "share=95 is no share of events", "write share=0.95."),
        ({"deadline": 5}, "BAD_DURATION", "5 is not a deadline", 'write deadline="5ms".'),
        (
            {"latency": "50ms", "deadline": "60ms"},
            "BAD_DECISION",
            "deadline='60ms' leaves the model longer than latency='50ms' leaves an event",
            'write deadline="50ms" or less, or a longer latency.',
        ),
    ],
    ids=str,
)
def test_an_objective_that_cannot_be_is_told_with_its_range(
    given: dict[str, Any], code: str, told: str, action: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Declared().decide(**given)
    assert caught.value.code == code
    assert told in caught.value.message
    assert caught.value.next_action.endswith(action)
