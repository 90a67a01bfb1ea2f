"""A model that is asked over HTTP alone: its replicas count, the watch looks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import skyriver as sr
from skyriver.core.resources import ProcessStatus, Put, Resource, Snapshot
from skyriver.core.units import SECOND
from skyriver.observe.watching import WATCH, new_watch
from skyriver.release.profiled import ModelProfile, profile_model
from skyriver.serve.batching import Ask
from skyriver.serve.kinds import REPLICA
from skyriver.serve.prediction_log import PredictionLog
from skyriver.wiring.work.watch import columns_of
from skyriver.wiring.work.watch_requests import look_at_requests, rows_of

MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND
NOW = 1_000 * HOUR
Matrix = NDArray[np.float32]


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    x, scores = drawn(0, 20_000)
    return profile_model(("amount", "visits"), x, np.arange(20_000), scores)


def drawn(seed: int, n: int, dearer: float = 1.0) -> tuple[Matrix, Matrix]:
    luck = np.random.default_rng(seed)
    x = np.stack([dearer * luck.exponential(50, n), luck.poisson(3, n)], axis=1).astype(np.float32)
    return x, luck.beta(1, 20, n).astype(np.float32)


def log_of(profile: ModelProfile, x: Matrix, scores: Matrix, *, a_turn: int) -> list[float]:
    log = PredictionLog(profile, "p", "score", chance=np.random.default_rng(1).random)
    for at in range(0, len(x), a_turn):
        for row in range(at, at + a_turn):
            log.answered(
                [Ask({"features": x[row : row + 1]}, lambda result: None)], [{"score": scores[row : row + 1]}], 1
            )
        log.turn()
    counts: list[float] = log.report()["counts"]
    return counts


@pytest.mark.parametrize("a_turn", [50, 1_000])
@pytest.mark.parametrize(("dearer", "verdict"), [(1.0, "none"), (3.0, "drifted")])
def test_what_was_asked_is_compared_with_the_training_rows(
    profile: ModelProfile, dearer: float, verdict: str, a_turn: int
) -> None:
    counts = log_of(profile, *drawn(1, 10_000, dearer), a_turn=a_turn)
    asked = {"version": 3, "window_us": HOUR, "since": NOW - HOUR, "asked": [[1, counts], [2, counts]]}
    found = look_at_requests(asked, columns_of(profile), NOW)
    assert found["drift"]["verdict"] == verdict
    assert found["answered"]["rows"] == 20_000
    assert found["drift"]["rows"] <= found["answered"]["drawn"]
    if dearer != 1.0:
        assert [c["column"] for c in found["drift"]["columns"] if c["severity"] != "none"] == ["amount"]
    too_soon = look_at_requests({**asked, "since": NOW - HOUR + 1}, columns_of(profile), NOW)
    assert too_soon["drift"]["verdict"] == "unknown"


def test_rows_that_stand_for_many_weigh_no_more_than_were_drawn(profile: ModelProfile) -> None:
    counts = log_of(profile, *drawn(2, 10_000), a_turn=2_000)
    found = rows_of(columns_of(profile), counts)
    assert counts[0] == pytest.approx(10_000, abs=0.1)
    assert {name: round(c.rows, -1) for name, c in found.items()} == dict.fromkeys(
        ("amount", "visits", "its score"), pytest.approx(counts[0] ** 2 / counts[1], abs=20)
    )


# The kinds.

MODEL = Resource("t", "model", "m", spec={}, state="DECLARED", status={"aliases": {"champion": 1}}, parent="app/shop")
APP = Resource("t", "app", "shop", spec={"spec": {}, "code": {"bundle": "b", "main": "a.py"}}, state="DEPLOYED")
SERVICE = Resource("t", "service", "m", spec={"serve": {}, "versions": {"1": {"weight": 100}}}, state="READY")
SERVED: dict[str, Any] = {"model": "m", "version": 1, "artifact": "a", "profile": "p", "trained_at": NOW}
VERSION = Resource("t", "version", "m:1", spec={**SERVED, "features": {"digest": "d", "spec": None}}, state="APPROVED")
ASKED = Resource("t", "replica", "m-1-1", spec={"version": 1}, state="READY", parent=SERVICE.ref)


def looked(watch: Resource, now: int, counts: list[float], *more: Resource) -> tuple[Resource, list[Resource]]:
    """The watch after a pass, and what was made beside it."""
    report = {"log": {"profile": "p", "began": 5, "counts": counts}}
    process = ProcessStatus(ASKED.process, alive=True, report=report)
    rows = (watch, MODEL, APP, SERVICE, VERSION, ASKED, *more)
    snapshot = Snapshot({r.key: r for r in rows}, {process.name: process}, {}, now)
    made = [action.resource for action in WATCH.step(snapshot, watch) if isinstance(action, Put)]
    return next((r for r in made if r.kind == "watch"), watch), [r for r in made if r.kind != "watch"]


def test_it_is_looked_at_once_something_was_asked() -> None:
    watch = new_watch("t", "shop", "m", sr.Retrain(on="drift", window="4h").spec.to_json())
    watch, made = looked(watch, NOW, [10.0, 10.0, 10.0, 4.0])
    assert made == []
    watch, (operation, job) = looked(watch, NOW + HOUR // 2, [15.0, 15.0, 15.0, 6.0])
    assert (operation.spec["action"], job.spec["kind"]) == ("watch", "watch")
    asked = job.spec["inputs"]
    assert ("stream" in asked, asked["since"], asked["profile"]) == (False, NOW, "p")
    assert asked["asked"] == [[(NOW + HOUR // 2) // HOUR, [5.0, 5.0, 5.0, 2.0]]]


def test_the_row_is_written_with_each_look_and_not_between() -> None:
    watch = new_watch("t", "shop", "m", sr.Retrain(on="drift").spec.to_json())
    rows = []
    for minute in range(121):
        told, _ = looked(watch, NOW + minute * MINUTE, [10.0 + minute, 1.0, 1.0, 1.0])
        rows += [told] if told != watch else []
        watch = told
    assert [*dict.fromkeys((row.status["asked"]["at"] - NOW) // MINUTE for row in rows)] == [0, 60, 120]
    assert len(rows) == 4, "once more where it is known that the look's operation is gone"


def test_where_a_stream_decides_with_it_the_stream_is_looked_at() -> None:
    watch = new_watch("t", "shop", "m", sr.Retrain(on="drift").spec.to_json())
    stream = Resource("t", "stream", "orders", spec={"decide": {"model": "m"}})
    watch, (_, job) = looked(watch, NOW, [10.0, 10.0, 10.0, 4.0], stream)
    assert job.spec["inputs"]["stream"] == "orders"
    assert "asked" not in watch.status


@pytest.mark.parametrize(("on", "counts"), [("drift", True), ("7d", False), ("", False)])
def test_replicas_count_where_somebody_compares(on: str, counts: bool) -> None:
    watch = [new_watch("t", "shop", "m", sr.Retrain(on=on).spec.to_json())] if on else []
    rows = (SERVICE, VERSION, ASKED, *watch)
    actions = REPLICA.step(Snapshot({r.key: r for r in rows}, {}, {}, NOW), ASKED)
    (live,) = [action.process.live for action in actions if not isinstance(action, Put)]  # type: ignore[union-attr]
    assert live.get("log") == ({"profile": "p"} if counts else None)


def test_a_version_of_before_has_no_bins_to_count_by() -> None:
    old = replace(VERSION, spec={name: value for name, value in VERSION.spec.items() if name != "profile"})
    watch = new_watch("t", "shop", "m", sr.Retrain(on="drift").spec.to_json())
    rows = (SERVICE, old, ASKED, watch)
    (want,) = REPLICA.step(Snapshot({r.key: r for r in rows}, {}, {}, NOW), ASKED)
    assert "log" not in want.process.live  # type: ignore[union-attr]
