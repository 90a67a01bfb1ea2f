"""What is measured of replicas and kept for those that come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.resources import UNDECLARED_MB, ProcessStatus, Resource, Snapshot
from skyriver.serve.sizing import allowed_mb, live_sizing, memory_of, sized, sizing_after, starts_at_once, with_margin

MEASURED = {"machine": "m", "cores": 2, "latency_us": 50_000, "threads": 2, "measured": {"1": [9, 9], "2": [5, 16]}}

CURVE = {"machine": "m", "runtime": "1.32.0", "device": "cpu", "most": 256, "threads": 1, "batching": True}
CURVE |= {"max_batch": 8, "row_us": 100.0, "batch_us": 900.0, "fixed_us": 90.0, "each_us": 10.0}


def service(sizing: dict[str, Any] | None = None, versions: str = "1", **serve: Any) -> Resource:
    spec = {"serve": sr.Service(**serve).to_json(), "versions": {v: {"weight": 100} for v in versions}}
    status = {"sizing": sizing} if sizing is not None else {}
    return Resource("t", "service", "price", spec=spec, status=status, state="READY")


def after(row: Resource, *reports: dict[str, Any], version: int = 1) -> dict[str, Any]:
    replicas = [
        Resource("t", "replica", f"price-{version}-{n}", {"version": version}, state="READY", parent="service/price")
        for n in range(1, len(reports) + 1)
    ]
    processes = {
        r.process: ProcessStatus(r.process, True, pid=7, report={"ready": True, **report})
        for r, report in zip(replicas, reports, strict=True)
    }
    snapshot = Snapshot({r.key: r for r in (row, *replicas)}, processes, {}, 10)
    return sizing_after(snapshot, row, replicas)


def test_memory_is_the_most_that_was_held_and_a_margin() -> None:
    assert (with_margin(100.0), with_margin(1_000.0)) == (144, 1_264)
    found = after(service(), {"peak_mb": 100.0, "start_mb": 90.0}, {"peak_mb": 180.0, "start_mb": 95.0})
    assert found == {"1": {"memory_mb": 240, "start_mb": 96}}
    again = after(service(found), {"peak_mb": 50.0, "start_mb": 40.0})
    assert again == found  # what was held once may be held again
    assert after(service(found)) == found  # asleep, say
    assert after(service(found, versions="2")) == {}  # another version is another model
    assert after(service(found, versions="12"), {"peak_mb": 300.0}, version=2)["2"] == {"memory_mb": 384}


def test_how_many_start_at_once_goes_by_the_cores_that_replicas_tell_of() -> None:
    found = after(service(replicas=(0, 8)), {"machine_cores": 4})
    assert found == {"1": {"machine_cores": 4}}
    assert after(service(found), {"machine_cores": "9"}, {"machine_cores": None}, {"machine_cores": -1}) == found
    assert after(service(found), {"machine_cores": 2}) == {"1": {"machine_cores": 2}}
    assert starts_at_once(service(found, replicas=(0, 8))) == 3
    assert starts_at_once(service({"1": {"machine_cores": 1}}, replicas=(0, 8))) == 1
    assert starts_at_once(service({"1": {"memory_mb": 9}}, replicas=(0, 8))) == 8


@pytest.mark.parametrize("wrong", [{}, {"peak_mb": "9"}, {"peak_mb": float("nan")}, {"peak_mb": None}, {"peak_mb": -5}])
def test_what_cannot_be_is_not_kept(wrong: dict[str, Any]) -> None:
    assert after(service(), wrong) == {}


def test_what_a_run_takes_is_kept_and_righted_only_where_it_was_measured_at_a_busy_moment() -> None:
    found = after(service(), {"curve": CURVE})
    assert found == {"1": {"curve": CURVE}}
    assert live_sizing(service(found), "1") == {"curve": CURVE}
    assert live_sizing(service(found), "2") == {}
    slower, near, faster = ({**CURVE, "row_us": 100.0 * t, "batch_us": 900.0 * t} for t in (3.0, 0.9, 0.5))
    assert after(service(found), {"curve": slower}, {"curve": near}) == found  # replicas do not take turns
    assert after(service(found), {"curve": {**faster, "batch_us": 1_200.0}}) == found  # by no more than chance
    assert after(service(found), {"curve": faster}, {"curve": CURVE}) == {"1": {"curve": faster}}
    apart = {**faster, "batching": False}
    for told in ((apart, CURVE), (CURVE, apart)):  # that rows may share a run was tried
        assert after(service({"1": {"curve": apart}}), *({"curve": one} for one in told)) == found
    assert after(service(found), {"curve": {**slower, "machine": "another"}})["1"]["curve"]["machine"] == "another"
    assert after(service(found), {"curve": {**slower, "runtime": "9.9"}})["1"]["curve"]["runtime"] == "9.9"


def test_what_a_run_takes_is_kept_of_the_threads_that_are() -> None:
    two = {"cpus": 2.0, "latency": "50ms"}
    found = after(service(**two), {"parallel": MEASURED, "curve": CURVE}, {"curve": {**CURVE, "threads": 2}})
    assert found == {"1": {"parallel": MEASURED, "curve": {**CURVE, "threads": 2}}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"row_us": None},
        {"batch_us": float("nan")},
        {"fixed_us": -1},
        {"each_us": "9"},
        {"max_batch": 0},
        {"max_batch": 2.5},
        {"threads": None},
        {"batching": 1},
    ],
    ids=str,
)
def test_a_curve_that_cannot_be_is_not_kept(wrong: dict[str, Any]) -> None:
    assert after(service(), {"curve": {**CURVE, **wrong}}) == after(service(), {"curve": "none"}) == {}
    kept = {"1": {"curve": {**CURVE, **wrong}}}
    assert after(service(kept), {"curve": CURVE}) == {"1": {"curve": CURVE}}


def test_what_is_declared_is_what_is_set_aside() -> None:
    kept = {"1": {"memory_mb": 144, "start_mb": 96}, "2": {"memory_mb": 240, "start_mb": 96}}
    assert memory_of(service(kept, memory_mb=2_000)) == 2_000
    assert memory_of(service(kept)) == 240
    assert memory_of(service()) == UNDECLARED_MB
    declared = sr.Service(memory_mb=2_000)
    assert sized(service(kept, memory_mb=2_000), declared) is declared
    row = service(kept)
    assert sized(row, sr.Service()).memory_mb == 240
    assert sized(row, sr.Service()) is sized(row, sr.Service())
    assert sized(replace(row, status={}), sr.Service()).memory_mb == UNDECLARED_MB


def test_nobody_is_told_of_memory_that_a_model_needs_to_begin_with() -> None:
    assert allowed_mb(service({"1": {"start_mb": 96}}), "1") == UNDECLARED_MB
    assert allowed_mb(service({"1": {"start_mb": 800}}), "1") == 1_600
    assert allowed_mb(service({"1": {"start_mb": 800}}, memory_mb=900), "1") == 900


def test_threads_are_measured_once_for_what_is_declared() -> None:
    two = {"cpus": 2.0, "latency": "50ms"}
    found = after(service(**two), {"parallel": MEASURED}, {"parallel": {**MEASURED, "threads": 1}})
    assert found == {"1": {"parallel": MEASURED}}  # the first one's: they do not take turns
    assert live_sizing(service(found, **two), "1") == {"latency_us": 50_000, "cores": 2, "parallel": MEASURED}
    assert after(service(found, cpus=4.0, latency="50ms"), {"parallel": MEASURED}) == found
    four = {**MEASURED, "cores": 4, "threads": 4}
    assert after(service(found, cpus=4.0, latency="50ms"), {"parallel": four})["1"]["parallel"] == four
    moved = {**MEASURED, "machine": "another", "threads": 1}
    assert after(service(found, **two), {"parallel": moved})["1"]["parallel"] == moved


def test_a_machine_with_fewer_cores_than_are_declared_is_measured_once_too() -> None:
    eight = {"cpus": 8.0, "latency": "50ms"}
    found = after(service(**eight), {"parallel": MEASURED})
    assert found == {"1": {"parallel": MEASURED}}
    more = {**MEASURED, "cores": 4, "threads": 4}
    assert after(service(found, **eight), {"parallel": more}, {"parallel": MEASURED}) == {"1": {"parallel": more}}
    assert after(service({"1": {"parallel": more}}, **eight), {"parallel": MEASURED}) == {"1": {"parallel": more}}


@pytest.mark.parametrize(
    "wrong", [{"cores": 16}, {"cores": "2"}, {"cores": 0}, {"cores": None}, {"latency_us": 1}], ids=str
)
def test_threads_that_were_measured_for_something_else_are_not_kept(wrong: dict[str, Any]) -> None:
    assert after(service(cpus=8.0, latency="50ms"), {"parallel": {**MEASURED, **wrong}}) == {}


@pytest.mark.parametrize(
    ("serve", "live"),
    [
        ({}, {}),
        ({"cpus": 1.9}, {}),
        ({"cpus": 0.5}, {}),
        ({"cpus": 2.5}, {"cores": 2}),
        ({"latency": "1s"}, {"latency_us": 10**6}),
    ],
)
def test_a_replica_is_told_what_there_is_to_tell(serve: dict[str, Any], live: dict[str, Any]) -> None:
    assert live_sizing(service(**serve), "1") == live


def test_a_row_of_a_release_that_knew_none_of_it() -> None:
    old = replace(service(), spec={"serve": {"replicas": 1}, "versions": {"1": {"weight": 100}}})
    assert (live_sizing(old, "1"), live_sizing(None, "1"), memory_of(old)) == ({}, {}, UNDECLARED_MB)
