"""What is planned, what is shared, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.expr import Aggregate, Binary, Column, Constant, Lookup, Node
from skyriver.core.spec import (
    AppSpec,
    FeatureSetSpec,
    FeatureSpec,
    FieldSpec,
    LabelSpec,
    ReferenceSpec,
    StreamSpec,
    TableSpec,
)
from skyriver.features.codegen import kernel_source
from skyriver.features.plan import EVER, FeaturePlan, check_features, plan_features

DAY = 86_400_000_000


def stream(*fields: FieldSpec, labels: tuple[LabelSpec, ...] = ()) -> StreamSpec:
    own = (FieldSpec(name="id", type="int"), FieldSpec(name="at", type="time"), FieldSpec(name="k", type="int"))
    return StreamSpec(name="s", fields=(*own, *fields), id="id", time="at", key="k", labels=labels)


def features(*nodes: Node) -> FeatureSetSpec:
    return FeatureSetSpec(
        name="f", source="s", features=tuple(FeatureSpec(name=f"f{i}", expr=n) for i, n in enumerate(nodes))
    )


def aggregate(kind: Any = "mean", **more: Any) -> Aggregate:
    return Aggregate(kind=kind, **({"by": "k", "over_us": DAY} | more))


def plan(*nodes: Node, **field: Any) -> FeaturePlan:
    return plan_features(features(*nodes), stream(FieldSpec(**({"name": "x", "type": "float"} | field))))


def shift(**field: Any) -> int:
    return plan(aggregate(column="x"), **field).values[0].shift


def test_the_grid_follows_the_declared_range() -> None:
    assert shift() == 40
    assert shift(ge=0, le=1000) == 40
    assert shift(le=2.0**22) == 40
    assert shift(le=2.0**22 + 1) == 39
    assert shift(ge=-1e9) == 62 - 30
    assert shift(lt=2.0**30) == 32
    assert shift(type="int", one_of=(5, 2**40)) == 22
    assert plan(aggregate(column="x"), le=2.0**30).limits == {"x": 2.0**30}


def test_aggregates_of_one_window_share_state_and_edges_share_cursors() -> None:
    late = LabelSpec(name="late", delay_us=7 * DAY)
    spec = features(
        aggregate("count", over_us=7 * DAY),
        aggregate("mean", over_us=7 * DAY, column="x"),
        aggregate("sum", over_us=7 * DAY, column="x"),
        aggregate("mean", over_us=DAY, delay_us=7 * DAY, label="late"),
    )
    found = plan_features(spec, stream(FieldSpec(name="x", type="float"), labels=(late,)))
    assert found.edges == (7 * DAY, 8 * DAY)
    assert [(w.over_us, w.delay_us, len(w.sums)) for w in found.keys[0].windows] == [(7 * DAY, 0, 1), (DAY, 7 * DAY, 1)]
    assert found.row_width == 5  # time, offset, slots, x, checksum: 40 bytes an event
    assert found.columns == ("x",)


def test_the_digest_follows_meaning() -> None:
    one = plan(aggregate(column="x"))
    assert plan(aggregate(column="x"), unit="EUR", ge=0.0).digest == one.digest
    assert plan(aggregate("sum", column="x")).digest != one.digest
    assert plan(aggregate(column="x"), le=2.0**30).digest != one.digest
    assert plan(aggregate(column="x"), nullable=True).digest != one.digest


@pytest.mark.parametrize(
    ("node", "field", "code"),
    [
        (aggregate(column="x"), {"le": 2.0**63}, "RANGE_TOO_WIDE"),
        (aggregate(column="x"), {"le": float("inf")}, "RANGE_TOO_WIDE"),
        (aggregate(column="x"), {"fill": 1e7}, "RANGE_TOO_WIDE"),
        (aggregate(column="x"), {"type": "text"}, "BAD_FEATURE"),
        (aggregate(column="x"), {"type": "time"}, "BAD_FEATURE"),
        (aggregate(column="z"), {}, "UNKNOWN_FIELD"),
        (aggregate("count", by="z"), {}, "UNKNOWN_FIELD"),
        (aggregate("count", by="x"), {}, "BAD_FEATURE"),
        (aggregate("count", by="x"), {"type": "int", "nullable": True}, "BAD_FEATURE"),
        (aggregate("count", column="x"), {}, "BAD_FEATURE"),
        (aggregate("mean"), {}, "BAD_FEATURE"),
        (aggregate("count", delay_us=5), {}, "BAD_FEATURE"),
        (aggregate("count", over_us=2**62), {}, "BAD_DURATION"),
        (aggregate("sum", label="late"), {}, "UNKNOWN_FIELD"),
        (aggregate("std", column="x"), {"le": 2.0**63}, "RANGE_TOO_WIDE"),
        (aggregate("since", column="x"), {}, "BAD_FEATURE"),
        (aggregate("last"), {}, "BAD_FEATURE"),
        (aggregate("last", column="x"), {"type": "text"}, "BAD_FEATURE"),
        (aggregate("distinct", column="x", max_events=5), {}, "BAD_FEATURE"),
        (aggregate("distinct", column="k"), {}, "BAD_FEATURE"),
        (aggregate("distinct", column="k", max_events=65_537), {}, "TOO_LARGE"),
        (aggregate("distinct", column="k", max_events=5, approximate=True), {}, "BAD_FEATURE"),
        (aggregate("minimum", column="x"), {}, "BAD_FEATURE"),
        (aggregate("minimum", column="x", max_events=5, approximate=True), {}, "BAD_FEATURE"),
        (aggregate("mean", column="x", max_events=5), {}, "BAD_FEATURE"),
        (aggregate("mean", column="x", half_life_us=5), {}, "BAD_FEATURE"),
        (aggregate("decayed_mean", column="x"), {}, "BAD_FEATURE"),
        (aggregate("decayed_mean", column="x", half_life_us=DAY // 61), {}, "BAD_DURATION"),
        (Column(name="z"), {}, "UNKNOWN_FIELD"),
        (Column(name="x"), {"type": "text"}, "BAD_FEATURE"),
        (Constant(value=float("inf")), {}, "BAD_FEATURE"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(node: Node, field: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        plan(node, **field)
    assert raised.value.code == code
    assert "f0" in raised.value.message


def test_a_label_keeps_its_own_delay() -> None:
    late = LabelSpec(name="late", delay_us=DAY)
    with pytest.raises(InvalidInput) as raised:
        plan_features(features(aggregate("sum", label="late", delay_us=5)), stream(labels=(late,)))
    assert raised.value.code == "LABEL_LEAK"


SHOPS = ReferenceSpec(
    name="shops",
    fields=(
        FieldSpec(name="shop", type="int"),
        FieldSpec(name="since", type="time"),
        FieldSpec(name="risk", type="float"),
        FieldSpec(name="name", type="text"),
    ),
    id="shop",
    time="since",
)


def looking(*nodes: Node, **field: Any) -> FeaturePlan:
    source = stream(FieldSpec(**({"name": "x", "type": "float"} | field)))
    return plan_features(features(*nodes), source.model_copy(update={"references": (SHOPS,)}))


def lookup(column: str = "risk", by: str = "k", reference: str = "shops") -> Lookup:
    return Lookup(reference=reference, column=column, by=by)


def test_what_is_looked_up_is_kept_once() -> None:
    found = looking(lookup(), lookup("since"), lookup(by="id"), aggregate("count"))
    assert [(r.name, r.fields, r.field_places, r.row_bytes) for r in found.references] == [
        ("shops", ("risk", "since"), (2, 1), 64)
    ]
    assert found.key_columns == ("k", "id")
    assert found.reach == EVER
    assert found.digest != looking(lookup()).digest
    assert looking(aggregate("count")).digest == plan(aggregate("count")).digest
    assert kernel_source(looking(aggregate("count"))) == kernel_source(plan(aggregate("count")))


@pytest.mark.parametrize(
    ("node", "field", "code"),
    [
        (lookup(reference="malls"), {}, "UNKNOWN_REFERENCE"),
        (lookup("rsik"), {}, "UNKNOWN_FIELD"),
        (lookup("name"), {}, "BAD_FEATURE"),
        (lookup(by="z"), {}, "UNKNOWN_FIELD"),
        (lookup(by="x"), {}, "BAD_FEATURE"),
        (lookup(by="x"), {"type": "text"}, "BAD_FEATURE"),
        (lookup(by="x"), {"type": "int", "nullable": True}, "BAD_FEATURE"),
    ],
)
def test_a_lookup_that_cannot_be_is_refused(node: Lookup, field: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        looking(node, **field)
    assert caught.value.code == code
    with pytest.raises(InvalidInput):
        plan(lookup())


@pytest.mark.parametrize("kind", ["minimum", "distinct", "last", "decayed_mean"])
def test_of_a_label_there_are_sums_only(kind: str) -> None:
    late = LabelSpec(name="late", delay_us=DAY)
    options = {"minimum": {"max_events": 5}, "distinct": {"max_events": 5}, "decayed_mean": {"half_life_us": DAY}}
    node = aggregate(kind, label="late", delay_us=DAY, **options.get(kind, {}))
    with pytest.raises(InvalidInput, match="labels come late"):
        plan_features(features(node), stream(labels=(late,)))


def test_what_is_alike_shares_a_trail() -> None:
    extremes = [aggregate("minimum", column="x", over_us=over * DAY, max_events=9) for over in (30, 1, 7)]
    found = plan(*extremes, aggregate("minimum", column="x", over_us=7 * DAY, approximate=True))
    exact, about = found.trails
    assert (exact.spans, exact.pane_us, exact.nodes) == ((DAY, 7 * DAY, 30 * DAY), 1, 9)
    assert (about.spans, about.pane_us, about.nodes) == ((60,), 7 * DAY // 60, 60)
    assert found.edges == (30 * DAY,)
    assert found.row_width == 4  # time, offset, slots, checksum: values of trails are in the state
    assert found.key_bytes == {"k": (8 * (2 + 4 + 2) + 16, 8 * (2 + 4 + 2) + 16 + 56 * 69)}


def test_what_is_said_without_what_came_later_keeps_its_digest() -> None:
    """Models are bound to it: with another one they would not be used any more."""
    assert plan(aggregate(column="x")).digest.startswith("eb897039eb8457c1")


def test_size_and_depth_are_limited() -> None:
    deep: Node = Column(name="x")
    for _ in range(65):
        deep = Binary(kind="+", left=deep, right=Constant(value=1.0))
    with pytest.raises(InvalidInput, match="deep"):
        plan(deep)
    many = features(*(Constant(value=float(i)) for i in range(2_001)))
    with pytest.raises(InvalidInput, match="2001 different parts"):
        plan_features(many, stream())
    ends = features(*(aggregate("count", over_us=i + 1) for i in range(65)))
    with pytest.raises(InvalidInput, match="65 different ends of windows"):
        plan_features(ends, stream())


def test_an_application_is_checked_as_a_whole() -> None:
    table = TableSpec(name="t", fields=(FieldSpec(name="id", type="int"),), id="id")
    of_table = FeatureSetSpec(name="f", source="t", features=(FeatureSpec(name="c", expr=aggregate("count")),))
    with pytest.raises(InvalidInput, match="needs a stream"):
        check_features(AppSpec(name="a", tables=(table,), feature_sets=(of_table,)))
    with pytest.raises(InvalidInput, match="not declared"):
        check_features(AppSpec(name="a", feature_sets=(of_table,)))
    check_features(AppSpec(name="a"))


def test_what_the_application_declares_is_what_is_planned() -> None:
    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        shop: str
        amount: float = sr.field(ge=0)

    app = sr.App("shop")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    fraud = app.labels("fraud", of=payments, delay="7d")
    found = app.features(
        "behaviour",
        payments,
        {"night": payments.at.hour() <= 6, "risk": sr.mean(fraud, by="shop", over="1d")},
    )
    planned = plan_features(found.spec, app.spec.stream("payments"))
    assert (planned.columns, planned.times, planned.key_fields) == ((), ("at",), ("shop",))
    assert planned.names == ("night", "risk")
    assert [(label.name, label.index, label.delay_us) for label in planned.labels] == [("fraud", 0, 7 * DAY)]
