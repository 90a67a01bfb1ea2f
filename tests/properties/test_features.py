"""Safety of features, as properties over random streams.

Any cut of the log into batches, any restart from a snapshot, and any place where the computation began gives the same
bits; and each number is what its definition, written as a loop, gives.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import skyriver as sr
from skyriver.features.given import Given
from skyriver.features.kernel import Kernel, load_kernel
from skyriver.features.plan import FeaturePlan, plan_features
from skyriver.features.reading import Reader, load_reader
from skyriver.features.side import disk_side, memory_side
from skyriver.features.state import EventBatch, FeatureState

WIDE = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
DELAYS = {"slow": 7, "quick": 0}
SPANS = (4, 10, 25)
LONGEST = 7 + 25


class Event(sr.Event):
    id: int
    at: sr.Time
    a: int
    b: int
    c: int
    d: int
    x: float = sr.field(ge=-1e9, le=1e9)
    y: float | None


class Wide(sr.Event):
    v: bool
    id: int
    u: float | None
    at: sr.Time


class Narrow(sr.Event):
    id: int
    at: sr.Time
    w: int | None


@pytest.fixture(scope="module")
def plan() -> FeaturePlan:
    app = sr.App("test")
    stream = app.stream("events", Event, id="id", time="at", key="a")
    slow = app.labels("slow", of=stream, delay="7us")
    quick = app.labels("quick", of=stream, delay="0us")
    features: dict[str, object] = {"x": stream.x}
    for by, spans in (("a", SPANS), ("b", SPANS[1:]), ("c", SPANS[:1])):
        for span in spans:
            over = f"{span}us"
            features[f"count__{by}__{span}"] = sr.count(by=by, over=over)
            features[f"sum_x__{by}__{span}"] = sr.sum("x", by=by, over=over)
            features[f"mean_y__{by}__{span}"] = sr.mean("y", by=by, over=over)
            features[f"count_slow__{by}__{span}"] = sr.count(slow, by=by, over=over)
            features[f"mean_slow__{by}__{span}"] = sr.mean(slow, by=by, over=over)
            features[f"sum_quick__{by}__{span}"] = sr.sum(quick, by=by, over=over)
    p = app.reference("p", Wide, of=stream, id="id", time="at")
    q = app.reference("q", Narrow, of=stream, id="id", time="at")
    for field, bys in ((p.u, ("a", "d")), (p.v, ("a",)), (q.w, ("b",))):
        for by in bys:
            features[f"look__{field.reference}_{field.name}__{by}"] = sr.lookup(field, by=by)
    return plan_features(app.features("set", stream, features).spec, app.spec.stream("events"))


@pytest.fixture(scope="module")
def kernel(plan: FeaturePlan, pytestconfig: pytest.Config) -> Kernel:
    assert pytestconfig.cache is not None
    return load_kernel(plan, pytestconfig.cache.mkdir("kernels"))


@pytest.fixture(scope="module")
def reader(plan: FeaturePlan, pytestconfig: pytest.Config) -> Reader:
    assert pytestconfig.cache is not None
    return load_reader(plan, pytestconfig.cache.mkdir("kernels"))


# A record is (0, step of time, a, b, x, y) of an event, (1, how far back its subject, label, value) of a label, or
# (2, reference, id, its time after the last event's, value) of a row of a reference.
NUMBERS = st.one_of(st.integers(-50, 50).map(lambda i: i / 8), st.floats(-1e9, 1e9))
EVENTS = st.tuples(
    st.just(0),
    st.sampled_from([0, 0, 1, 1, 2, 3, 6, 12, 40]),
    st.integers(-2, 2),
    st.integers(0, 1),
    NUMBERS,
    st.one_of(st.just(float("nan")), NUMBERS.map(lambda v: max(min(v, 4e6), -4e6))),
)
LABELS = st.tuples(
    st.just(1), st.integers(1, 12), st.integers(0, 1), st.one_of(st.just(float("nan")), st.integers(-9, 9).map(float))
)
ROWS = st.tuples(
    st.just(2),
    st.sampled_from("pq"),
    st.integers(-2, 2),
    st.integers(-15, 15),
    st.one_of(st.just(float("nan")), st.integers(-9, 9).map(float)),
)
STREAMS = st.lists(st.one_of(EVENTS, EVENTS, LABELS, ROWS), max_size=60)


def log_of(records: list[Any]) -> list[dict[str, Any]]:
    """With times and subjects instead of steps; labels before the first event are of nobody."""
    found: list[dict[str, Any]] = []
    now, events = 1_000_000, 0
    for record in records:
        if record[0] == 0:
            now, events = now + record[1], events + 1
            keys = {"a": record[2], "b": record[3], "c": record[2] * record[3], "d": record[2] - record[3]}
            found.append({"t": now, **keys, "x": record[4], "y": record[5]})
        elif record[0] == 2:
            value = record[4]
            found.append({"row": record[1], "id": record[2], "at": now + record[3], "u": value, "w": -value})
            found[-1]["v"] = float(record[3] % 2)
        else:
            of = events - record[1]
            found.append({"of": max(of, -1), "label": record[2], "value": record[3]})
    return found


def batch_of(log: list[dict[str, Any]], offset: int, dropped: int = 0) -> EventBatch:
    """`dropped`: so many events of the log were never folded, rows begin after them."""

    def numbers(name: str, dtype: type, none: float = 0) -> Any:
        return np.array([r.get(name, none) for r in log], dtype)

    rows = [r for r in log if "row" in r]
    values = np.full((len(rows), 2), np.nan)
    for place, r in enumerate(rows):
        values[place] = (r["u"], r["v"]) if r["row"] == "p" else (r["w"], np.nan)
    places = iter(range(len(rows)))
    subject_row = [next(places) if "row" in r else r.get("of", -1) - dropped for r in log]
    return EventBatch(
        kind=np.array([9 if "row" in r else 2 if "of" in r else 1 for r in log], np.uint8),
        effective=numbers("t", np.int64),
        offset=np.arange(offset, offset + len(log)),
        columns={"x": numbers("x", np.float64), "y": numbers("y", np.float64)},
        keys={name: numbers(name, np.int64) for name in ("a", "b", "c", "d")},
        subject_row=np.array(subject_row, np.int64),
        label=np.array([r["row"] == "q" if "row" in r else r.get("label", 0) for r in log], np.uint8),
        value=numbers("value", np.float64),
        given=Given(np.array([r["id"] for r in rows], np.int64), np.array([r["at"] for r in rows], np.int64), values),
    )


def is_event(record: dict[str, Any]) -> bool:
    return "t" in record and "asks" not in record


def fold(state: FeatureState, log: list[dict[str, Any]], offset: int = 0, dropped: int = 0) -> Any:
    events = sum(map(is_event, log))
    out = np.empty((events, len(state.plan.names)), np.float32)
    exact = np.empty((events, len(state.plan.names)), np.float64)
    assert state.fold(batch_of(log, offset, dropped), out, exact) == events
    return exact


def fresh(plan: FeaturePlan, kernel: Kernel) -> FeatureState:
    return FeatureState(plan, memory_side(plan), kernel)


def grid(value: float, shift: int) -> Fraction:
    return Fraction(round(Fraction(value) * 2**shift), 2**shift)


def looked_up(before: list[dict[str, Any]], event: dict[str, Any], reference: str, field: str, by: str) -> float:
    """What the newest row says whose time has come; of several with one time the last one in the log."""
    rows = [r for r in before if r.get("row") == reference and r["id"] == event[by] and r["at"] <= event["t"]]
    newest = max((r["at"] for r in rows), default=0)
    return next((float(r[field]) for r in reversed(rows) if r["at"] == newest), float("nan"))


def by_definition(log: list[dict[str, Any]], name: str, upto: int) -> float:
    """The feature of the event at place `upto`, or of what is asked there, straight from DESIGN 6."""
    event = log[upto]
    if name == "x":
        return float(event["x"])
    what, by, span_text = name.split("__")
    if what == "look":
        return looked_up(log[:upto], event, *by.split("_"), span_text)
    kind, _, column = what.partition("_")
    delay, span = DELAYS.get(column, 0), int(span_text)
    inside = [
        number
        for number, (place, r) in enumerate((p, r) for p, r in enumerate(log) if is_event(r))
        if place <= upto and r[by] == event[by] and event["t"] - delay - span < r["t"] <= event["t"] - delay
    ]
    if kind == "count":
        return float(len(inside))
    events = [r for r in log if is_event(r)]
    values: list[Fraction] = []
    for number in inside:
        if column in DELAYS:
            known = [r["value"] for r in log[:upto] if r.get("of") == number and list(DELAYS)[r["label"]] == column]
            values.append(grid(known[-1], 40) if known and known[-1] == known[-1] else Fraction(0))
        elif events[number][column] == events[number][column]:
            values.append(grid(events[number][column], 40 if column == "y" else 32))
    total = float(sum(values, Fraction(0)))
    return total if kind == "sum" else (total / len(values) if values else 0.0)


@WIDE
@given(STREAMS)
def test_every_feature_is_what_its_definition_gives(plan: FeaturePlan, kernel: Kernel, records: list[Any]) -> None:
    log = log_of(records)
    found = fold(fresh(plan, kernel), log)
    places = [place for place, r in enumerate(log) if is_event(r)]
    expected = [[by_definition(log, name, place) for name in plan.names] for place in places]
    np.testing.assert_array_equal(found, np.array(expected).reshape(found.shape))


@WIDE
@given(STREAMS, st.lists(st.integers(0, 60), max_size=6))
def test_any_cut_into_batches_gives_the_same_bits(
    plan: FeaturePlan, kernel: Kernel, records: list[Any], cuts: list[int]
) -> None:
    log = log_of(records)
    whole, state = fold(fresh(plan, kernel), log), fresh(plan, kernel)
    borders = [0, *sorted(min(c, len(log)) for c in cuts), len(log)]
    parts = [fold(state, log[a:b], a) for a, b in pairwise(borders)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@WIDE
@given(STREAMS, st.integers(0, 60))
def test_a_value_does_not_depend_on_where_the_computation_began(
    plan: FeaturePlan, kernel: Kernel, records: list[Any], start: int
) -> None:
    log = log_of(records)
    whole = fold(fresh(plan, kernel), log)
    start = min(start, len(log))
    dropped = sum(map(is_event, log[:start]))
    rows = [r for r in log[:start] if "row" in r]  # a row is current for as long as no other one comes
    late = fold(fresh(plan, kernel), [*rows, *log[start:]], start - len(rows), dropped)
    times = [r["t"] for r in log if is_event(r)]
    warm = [i for i in range(dropped, len(times)) if not dropped or times[i] - times[dropped - 1] >= LONGEST]
    np.testing.assert_array_equal(late[[i - dropped for i in warm]], whole[warm])


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
    np.testing.assert_array_equal(np.concatenate([before, fold(again, log[cut:], cut)]), whole)


@settings(WIDE, max_examples=25)
@given(STREAMS, st.integers(0, 60), st.booleans())
def test_a_side_log_on_disk_survives_the_process(
    plan: FeaturePlan, kernel: Kernel, tmp_path: Path, records: list[Any], cut: int, released: bool
) -> None:
    log = log_of(records)
    whole = fold(fresh(plan, kernel), log)
    cut = min(cut, len(log))
    state = FeatureState(plan, disk_side(plan, tmp_path / "side"), kernel)
    before = fold(state, log[:cut])
    saved, mark = state.snapshot(), state.mark()
    state.side.flush()
    if released:
        state.side.release(mark)
    fold(state, log[cut:], cut)
    state.side.close()
    again = FeatureState(plan, disk_side(plan, tmp_path / "side"), kernel)
    again.restore(saved)
    np.testing.assert_array_equal(np.concatenate([before, fold(again, log[cut:], cut)]), whole)
    again.side.close()


def asked_of(state: FeatureState, reader: Reader, asked: list[dict[str, Any]]) -> tuple[Any, Any]:
    def numbers(name: str, dtype: type) -> Any:
        return np.array([a[name] for a in asked], dtype)

    known = np.empty((len(state.plan.keys), len(asked)), np.bool_)
    out = np.empty((len(asked), len(state.plan.names)), np.float32)
    exact = np.empty((len(asked), len(state.plan.names)), np.float64)
    keys = {name: numbers(name, np.int64) for name in ("a", "b", "c", "d")}
    reader.read(state, {name: numbers(name, np.float64) for name in ("x", "y")}, keys, known, out, exact)
    np.testing.assert_array_equal(out, exact.astype(np.float32))
    return exact, known


@WIDE
@given(STREAMS, st.integers(0, 60))
def test_what_is_read_is_as_of_the_last_event_and_counts_nothing_of_its_own(
    plan: FeaturePlan, kernel: Kernel, reader: Reader, records: list[Any], cut: int
) -> None:
    log = log_of(records)
    whole, state = fold(fresh(plan, kernel), log), fresh(plan, kernel)
    before = fold(state, log[:cut])
    saved = state.snapshot()
    asked = [
        {"t": state.now, "asks": True, "a": a, "b": b, "c": a * b, "d": a - b, "x": 0.5, "y": float("nan")}
        for a in range(-3, 4)
        for b in (0, 1, 7)
    ]
    found, known = asked_of(state, reader, asked)
    expected = [[by_definition([*log[:cut], one], name, len(log[:cut])) for name in plan.names] for one in asked]
    np.testing.assert_array_equal(found, np.array(expected))
    events = [r for r in log[:cut] if is_event(r)]
    for place, table in enumerate(plan.keys):
        held = {r[table.field] for r in events if state.now - r["t"] < table.last_edge}
        assert known[place].tolist() == [one[table.field] in held for one in asked]
    assert state.snapshot() == saved
    np.testing.assert_array_equal(np.concatenate([before, fold(state, log[cut:], cut)]), whole)


@WIDE
@given(STREAMS)
def test_the_event_folded_last_reads_its_own_features(
    plan: FeaturePlan, kernel: Kernel, reader: Reader, records: list[Any]
) -> None:
    log, state = log_of(records), fresh(plan, kernel)
    for place, record in enumerate(log):
        out = fold(state, log[place : place + 1], place)
        if is_event(record):
            found, known = asked_of(state, reader, [record])
            assert found.tobytes() == out.tobytes()
            assert known.all()
