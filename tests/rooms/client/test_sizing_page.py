"""How large replicas are, and why."""

from __future__ import annotations

from typing import Any

import skyriver as sr
from skyriver.client.sizing_page import lines

REPORT = {"alive": True, "ready": True, "version": 1, "max_batch": 98, "row_us": 10_100.0, "peak_mb": 109.4}
CURVE = {"fixed_us": 10_000.0, "each_us": 100.0}


def told(sizing: dict[str, Any], report: dict[str, Any] | None = None, **serve: Any) -> dict[str, str]:
    spec = {"serve": sr.Service(**serve).to_json(), "versions": {"1": {"weight": 100}}}
    processes = {"price-1-1": {**REPORT, **CURVE, **(report or {})}}
    return dict(lines({"spec": spec, "status": {"sizing": sizing}, "processes": processes}))


def test_batch_and_threads() -> None:
    parallel = {
        "machine": "Xeon, 2 cores",
        "cores": 2,
        "threads": 2,
        "measured": {"1": [900, 1200.0], "2": [500, 2100.5]},
    }
    found = told({"1": {"parallel": parallel}}, cpus=2.0, latency="50ms")
    assert found == {
        "batch": "Up to 98 rows share a run: 19.8 ms, and 10.1 ms for one alone. Who comes during one waits for two,"
        " which has to be within 50 ms.",
        "threads": "2 of at most 2: with 1 a row takes 0.9 ms, and 1,200 rows a second are possible; with 2 a row takes"
        " 0.5 ms, and 2,100.5 rows a second are possible. Measured on Xeon, 2 cores.",
    }
    alone = told({}, {"max_batch": 1}, latency="50ms")["batch"]
    assert alone.startswith("Each row has a run for itself (10.1 ms)")
    assert told({}) == {}


def test_an_objective_that_cannot_be_kept_says_nothing_of_runs() -> None:
    slow = {"row_us": 38_000.0, "fixed_us": 0.0, "each_us": 38_000.0, "max_batch": 256}
    assert told({}, slow, latency="1ms") == {}
    assert told({}, {**slow, "max_batch": 98}, latency="50ms")["batch"] == (
        "Up to 98 rows share a run: 3,724 ms, and 38 ms for one alone. Who comes during one waits for two, which is"
        " more than the wanted 50 ms."
    )


def test_threads_that_were_not_tried() -> None:
    parallel = {"machine": "Xeon", "cores": 4, "threads": 1, "measured": {"1": [900_000, 123_456.7]}}
    assert told({"1": {"parallel": {**parallel, "untried_load_s": 5.04}}}, cpus=4.0)["threads"] == (
        "1 of at most 4: others are not tried, for the model takes 5.04 s to load, each time; with 1 a row takes 900"
        " ms, and 123,457 rows a second are possible. Measured on Xeon."
    )


def test_memory() -> None:
    needs = {"1": {"memory_mb": 144, "start_mb": 96}}
    assert told(needs)["memory"] == (
        "144 MB are set aside for a replica, by what was measured with a margin; the most that a replica held is"
        " 109 MB."
    )
    assert told(needs, memory_mb=2_000)["memory"].endswith("109 MB: 144 would do.")
    assert told(needs, memory_mb=120)["memory"].endswith("109 MB: 144 would leave it a margin.")
    assert told(needs, memory_mb=256)["memory"].endswith("held is 109 MB.")
