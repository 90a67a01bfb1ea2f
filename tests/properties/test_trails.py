"""What sums cannot tell, as properties over random streams: deviations, extremes, different and last values, and
decayed means. Each number is what its definition, written as a loop over all events, gives; and cuts into batches,
restarts and the place where the computation began do not show.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import skyriver as sr
from skyriver.data.keys import codes_of_values
from skyriver.features.kernel import Kernel, load_kernel
from skyriver.features.plan import FeaturePlan, plan_features
from skyriver.features.reading import Reader, load_reader
from skyriver.features.side import memory_side
from skyriver.features.state import EventBatch, FeatureState

WIDE = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SPANS = (4, 10, 25)
PANED, PANE, HALF = 170, 3, 20
"""A window of 57 panes of 3 us, and a half-life."""
FEW = 3
"""So few events that streams have more."""
DELAY = 7
LONGEST = 174


class Event(sr.Event):
    id: int
    at: sr.Time
    a: int
    b: int
    x: float = sr.field(ge=-1e9, le=1e9)
    y: float | None
    shop: str | None


@pytest.fixture(scope="module")
def plan() -> FeaturePlan:
    app = sr.App("test")
    stream = app.stream("events", Event, id="id", time="at", key="a")
    slow = app.labels("slow", of=stream, delay="7us")
    features: dict[str, object] = {}
    for by, spans in (("a", SPANS), ("b", SPANS[1:2])):
        for span in spans:
            over: dict[str, Any] = {"by": by, "over": f"{span}us"}
            features[f"std__x__{by}__{span}"] = sr.std("x", **over)
            features[f"std__y__{by}__{span}"] = sr.std("y", **over)
            features[f"std__slow__{by}__{span}"] = sr.std(slow, **over)
            features[f"minimum__y__{by}__{span}"] = sr.minimum("y", **over)
            features[f"maximum__x__{by}__{span}"] = sr.maximum("x", **over)
            features[f"fewest__y__{by}__{span}"] = sr.minimum("y", max_events=FEW, **over)
            features[f"last__y__{by}__{span}"] = sr.last("y", **over)
            features[f"since____{by}__{span}"] = sr.since(**over)
            features[f"distinct__shop__{by}__{span}"] = sr.distinct("shop", **over)
            features[f"few__b__{by}__{span}"] = sr.distinct("b", max_events=FEW, **over)
    paned: dict[str, Any] = {"by": "b", "over": f"{PANED}us"}
    features[f"about__y__b__{PANED}"] = sr.maximum("y", approximate=True, **paned)
    features[f"decayed__x__b__{PANED}"] = sr.decayed_mean("x", half_life=f"{HALF}us", **paned)
    features[f"decayed__y__b__{PANED}"] = sr.decayed_mean("y", half_life=f"{HALF}us", **paned)
    return plan_features(app.features("set", stream, features).spec, app.spec.stream("events"))


@pytest.fixture(scope="module")
def kernel(plan: FeaturePlan, pytestconfig: pytest.Config) -> Kernel:
    assert pytestconfig.cache is not None
    return load_kernel(plan, pytestconfig.cache.mkdir("kernels"))


@pytest.fixture(scope="module")
def reader(plan: FeaturePlan, pytestconfig: pytest.Config) -> Reader:
    assert pytestconfig.cache is not None
    return load_reader(plan, pytestconfig.cache.mkdir("kernels"))


# A record is (0, step of time, a, b, x, y, shop) of an event or (1, how far back its subject, value) of a label.
NUMBERS = st.one_of(st.integers(-5, 5).map(lambda i: i / 8), st.floats(-1e9, 1e9))
EVENTS = st.tuples(
    st.just(0),
    st.sampled_from([0, 0, 1, 1, 2, 3, 6, 12, 40]),
    st.integers(-2, 2),
    st.integers(0, 5),
    NUMBERS,
    st.one_of(st.just(float("nan")), NUMBERS.map(lambda v: max(min(v, 4e6), -4e6))),
    st.sampled_from([None, "", "a", "b", "c", "d", "e"]),
)
LABELS = st.tuples(st.just(1), st.integers(1, 12), st.one_of(st.just(float("nan")), st.integers(-9, 9).map(float)))
STREAMS = st.lists(st.one_of(EVENTS, EVENTS, EVENTS, LABELS), max_size=60)


def log_of(records: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    now, events = -100, 0
    for record in records:
        if record[0] == 0:
            now, events = now + record[1], events + 1
            found.append({"t": now} | dict(zip(("a", "b", "x", "y", "shop"), record[2:], strict=True)))
        else:
            found.append({"of": max(events - record[1], -1), "value": record[2]})
    return found


def batch_of(log: list[dict[str, Any]], offset: int, dropped: int = 0) -> EventBatch:
    def numbers(name: str, dtype: type, none: float = 0) -> Any:
        return np.array([r.get(name, none) for r in log], dtype)

    return EventBatch(
        kind=np.array([2 if "of" in r else 1 for r in log], np.uint8),
        effective=numbers("t", np.int64),
        offset=np.arange(offset, offset + len(log)),
        columns={"x": numbers("x", np.float64), "y": numbers("y", np.float64)},
        keys={name: numbers(name, np.int64) for name in ("a", "b")},
        subject_row=numbers("of", np.int64, -1) - dropped,
        label=np.zeros(len(log), np.uint8),
        value=numbers("value", np.float64),
        codes={"shop": codes_of_values([r.get("shop") for r in log]), "b": numbers("b", np.int64)},
    )


def fold(state: FeatureState, log: list[dict[str, Any]], offset: int = 0, dropped: int = 0) -> Any:
    events = sum("of" not in r for r in log)
    out = np.empty((events, len(state.plan.names)), np.float32)
    exact = np.empty((events, len(state.plan.names)), np.float64)
    assert state.fold(batch_of(log, offset, dropped), out, exact) == events
    return exact


def fresh(plan: FeaturePlan, kernel: Kernel) -> FeatureState:
    return FeatureState(plan, memory_side(plan), kernel)


def grid(value: float, shift: int) -> Fraction:
    return Fraction(round(Fraction(value) * 2**shift), 2**shift)


def deviation(values: list[Fraction]) -> float:
    n = len(values)
    if n < 2:
        return 0.0
    return math.sqrt(float(n * sum(v * v for v in values) - sum(values) ** 2)) / n


def by_definition(log: list[dict[str, Any]], name: str, upto: int) -> float:
    """The feature of the event at place `upto`, or of what is asked there, straight from DESIGN 6."""
    kind, column, by, span_text = name.split("__")
    event, span, t = log[upto], int(span_text), log[upto]["t"]
    log = [r for r in log[: upto + 1] if "asks" not in r]
    delay, shift = DELAY if column == "slow" else 0, 32 if column == "x" else 40
    if kind in ("about", "decayed"):  # whole panes
        inside = [r for r in log if r.get(by) == event[by] and r["t"] // PANE > t // PANE - -(-span // PANE)]
    else:
        inside = [r for r in log if r.get(by) == event[by] and t - delay - span < r["t"] <= t - delay]
    known = [r[column] for r in inside if column in r and r[column] is not None and r[column] == r[column]]
    match kind:
        case "std" if column == "slow":
            return deviation([grid(v, 40) for v in labels_of(log, inside, upto)])
        case "std":
            return deviation([grid(v, shift) for v in known])
        case "minimum":
            return min(known, default=math.nan)
        case "maximum" | "about":
            return max(known, default=math.nan)
        case "fewest":
            return min(known[-FEW:], default=math.nan)
        case "distinct":
            return len(set(known))
        case "few":
            return min(len(set(known)), FEW)
        case "last":
            before = [r["y"] for r in inside if r is not event and r["y"] == r["y"]]
            return before[-1] if before else math.nan
        case "since":
            times = [r["t"] for r in inside if r is not event]
            return (t - times[-1]) / 1e6 if times else math.nan
        case _:
            return decayed(
                [(t // PANE - r["t"] // PANE, grid(r[column], shift)) for r in inside if r[column] == r[column]]
            )


def labels_of(log: list[dict[str, Any]], subjects: list[dict[str, Any]], upto: int) -> list[float]:
    events = [r for r in log if "of" not in r]
    found = []
    for number, event in enumerate(events):
        if any(event is r for r in subjects):
            values = [r["value"] for r in log[:upto] if r.get("of") == number]
            found.append(values[-1] if values and values[-1] == values[-1] else 0.0)
    return found


def decayed(values: list[tuple[int, Fraction]]) -> float:
    above = below = 0.0
    for age in sorted({age for age, _ in values}, reverse=True):
        mine = [v for a, v in values if a == age]
        weight = 2.0 ** (-age * PANE / HALF)
        above, below = above + weight * float(sum(mine)), below + weight * len(mine)
    return above / below if below else 0.0


@WIDE
@given(STREAMS)
def test_every_feature_is_what_its_definition_gives(plan: FeaturePlan, kernel: Kernel, records: list[Any]) -> None:
    log = log_of(records)
    found = fold(fresh(plan, kernel), log)
    places = [place for place, r in enumerate(log) if "of" not in r]
    for column, name in enumerate(plan.names):
        expected = np.array([by_definition(log, name, place) for place in places], np.float64)
        if name.startswith("std"):  # the difference of the squares' sums is exact, then it is rounded some times
            np.testing.assert_allclose(found[:, column], expected, rtol=1e-14, atol=0, err_msg=name)
        else:
            np.testing.assert_array_equal(found[:, column], expected, err_msg=name)


@WIDE
@given(STREAMS, st.lists(st.integers(0, 60), max_size=6))
def test_any_cut_into_batches_gives_the_same_bits(
    plan: FeaturePlan, kernel: Kernel, records: list[Any], cuts: list[int]
) -> None:
    log = log_of(records)
    whole, state = fold(fresh(plan, kernel), log), fresh(plan, kernel)
    borders = [0, *sorted(min(c, len(log)) for c in cuts), len(log)]
    parts = [fold(state, log[a:b], a) for a, b in pairwise(borders)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@WIDE
@given(STREAMS)
def test_one_event_at_a_time_gives_the_same_bits(plan: FeaturePlan, kernel: Kernel, records: list[Any]) -> None:
    log = log_of(records)
    whole, state = fold(fresh(plan, kernel), log), fresh(plan, kernel)
    parts = [fold(state, log[a : a + 1], a) for a in range(len(log))]
    assert np.concatenate([whole[:0], *parts]).tobytes() == whole.tobytes()


@WIDE
@given(STREAMS, st.integers(0, 60))
def test_a_value_does_not_depend_on_where_the_computation_began(
    plan: FeaturePlan, kernel: Kernel, records: list[Any], start: int
) -> None:
    log = log_of(records)
    whole = fold(fresh(plan, kernel), log)
    start = min(start, len(log))
    dropped = sum("of" not in r for r in log[:start])
    late = fold(fresh(plan, kernel), log[start:], start, dropped)
    times = [r["t"] for r in log if "of" not in r]
    warm = [i for i in range(dropped, len(times)) if not dropped or times[i] - times[dropped - 1] >= LONGEST]
    assert late[[i - dropped for i in warm]].tobytes() == whole[warm].tobytes()


@WIDE
@given(STREAMS, st.integers(0, 60), st.integers(0, 60))
def test_a_restart_from_any_snapshot_gives_the_same_bits(
    plan: FeaturePlan, kernel: Kernel, records: list[Any], cut: int, lost: int
) -> None:
    log = log_of(records)
    whole = fold(fresh(plan, kernel), log)
    cut, lost = sorted((min(cut, len(log)), min(lost, len(log))))
    state = fresh(plan, kernel)
    before = fold(state, log[:cut])
    saved = state.snapshot()
    fold(state, log[cut:lost], cut)
    again = FeatureState(plan, state.side, kernel)
    again.restore(saved)
    assert again.snapshot() == saved
    assert np.concatenate([before, fold(again, log[cut:], cut)]).tobytes() == whole.tobytes()


@WIDE
@given(STREAMS, st.integers(0, 60))
def test_what_is_read_is_as_of_the_last_event_and_counts_nothing_of_its_own(
    plan: FeaturePlan, kernel: Kernel, reader: Reader, records: list[Any], cut: int
) -> None:
    log = log_of(records)
    whole, state = fold(fresh(plan, kernel), log), fresh(plan, kernel)
    before = fold(state, log[:cut])
    saved = state.snapshot()
    asked = [{"t": state.now, "asks": True, "a": a, "b": b} for a in range(-3, 3) for b in range(7)]
    known = np.empty((len(plan.keys), len(asked)), np.bool_)
    out, found = (np.empty((len(asked), len(plan.names)), dtype) for dtype in (np.float32, np.float64))
    nothing = np.full(len(asked), np.nan)
    keys = {name: np.array([one[name] for one in asked], np.int64) for name in ("a", "b")}
    reader.read(state, {"x": nothing, "y": nothing}, keys, known, out, found)
    np.testing.assert_array_equal(out, found.astype(np.float32))
    for column, name in enumerate(plan.names):
        expected = [by_definition([*log[:cut], one], name, len(log[:cut])) for one in asked]
        if name.startswith("std"):
            np.testing.assert_allclose(found[:, column], expected, rtol=1e-14, atol=0, err_msg=name)
        else:
            np.testing.assert_array_equal(found[:, column], expected, err_msg=name)
    assert state.snapshot() == saved
    after = fold(state, log[cut:], cut)
    assert np.concatenate([before, after]).tobytes() == whole.tobytes()


@WIDE
@given(STREAMS)
def test_the_event_folded_last_reads_its_own_features_save_those_of_the_events_before_it(
    plan: FeaturePlan, kernel: Kernel, reader: Reader, records: list[Any]
) -> None:
    log, state = log_of(records), fresh(plan, kernel)
    same = [place for place, name in enumerate(plan.names) if not name.startswith(("last", "since"))]
    for place, record in enumerate(log):
        exact = fold(state, log[place : place + 1], place)
        if "of" in record:
            continue
        known = np.empty((len(plan.keys), 1), np.bool_)
        out, found = (np.empty((1, len(plan.names)), dtype) for dtype in (np.float32, np.float64))
        columns = {name: np.array([record[name]], np.float64) for name in ("x", "y")}
        reader.read(
            state, columns, {name: np.array([record[name]], np.int64) for name in ("a", "b")}, known, out, found
        )
        assert found[:, same].tobytes() == exact[:, same].tobytes()
        assert known.all()
