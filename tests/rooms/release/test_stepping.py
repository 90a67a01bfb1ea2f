"""What a look sees of streams that decide with the model."""

from __future__ import annotations

from typing import Any

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.release.canary import LOOK_US
from skyriver.release.stepping import begin_step, look_at

SERVICE = Resource("t", "service", "price", spec={"versions": {}}, state="READY")
STREAM = Resource("t", "stream", "events", spec={"decide": {"model": "price"}}, state="READY")
WORKER = Resource("t", "worker", "events-0", parent=STREAM.ref, state="READY")


def arm(
    name: str, version: int, events: int, scores: dict[int, int], percent: float = 10.0, **reasons: int
) -> dict[str, Any]:
    counts = [scores.get(place, 0) for place in range(20)]
    told = {"arm": name, "version": version, "percent": percent, "events": events}
    return {**told, "by_reason": reasons, "scores": counts}


def snapshot(now: int, *arms: dict[str, Any]) -> Snapshot:
    process = ProcessStatus(WORKER.process, alive=True, pid=7, report={"arms": list(arms)})
    return Snapshot({r.key: r for r in (SERVICE, STREAM, WORKER)}, {WORKER.process: process}, {}, now)


def looks(*seen: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The state after looks at these arms, one after the other."""
    canary = begin_step({}, 0, 0)
    for number, arms in enumerate(seen, 1):
        canary = look_at(snapshot(number * LOOK_US, *arms), canary, SERVICE, [STREAM], (1, 2))
    return canary


FAILED_NOW: dict[str, Any] = {
    "MODEL_FAILED": 20,
    "MODEL_LATE": 10,
    "SCORE_NOT_FINITE": 5,
    "MODEL_ASIDE": 5,
    "NO_HISTORY": 9,
}


def test_events_are_counted_from_the_first_look_on_and_failures_are_the_versions_own() -> None:
    released = [arm("released", 1, events, {3: events}) for events in (1_000, 1_900)]
    canaries = [
        arm("canary", 2, 100, {3: 90}, MODEL_FAILED=10),
        arm("canary", 2, 200, {3: 160}, **FAILED_NOW),
    ]
    compared = looks(*zip(released, canaries, strict=True))["compared"]
    assert compared["champion"] == {"answered": 900, "failed": 0, "refused": 0}
    assert compared["candidate"] == {"answered": 100, "failed": 30, "refused": 0}


def test_a_shadow_and_other_versions_are_no_arms_of_the_comparison() -> None:
    first = (arm("released", 1, 0, {}), arm("canary", 2, 0, {}), arm("shadow", 2, 0, {}))
    then = (arm("released", 7, 50, {}), arm("canary", 2, 10, {}), arm("shadow", 2, 500, {}))
    compared = looks(first, then)["compared"]
    assert (compared["champion"]["answered"], compared["candidate"]["answered"]) == (0, 10)


def test_an_arm_that_counts_anew_because_its_share_changed_is_no_step_back() -> None:
    """Even where it has more by the next look than it had before."""
    arms = [
        (arm("released", 1, 900, {}, 90), arm("canary", 2, 20, {2: 20}, 10)),
        (arm("released", 1, 950, {}, 90), arm("canary", 2, 50, {2: 50}, 10)),
        (arm("released", 1, 30, {}, 50), arm("canary", 2, 70, {5: 70}, 50)),
    ]
    compared = looks(*arms)["compared"]
    assert (compared["champion"]["answered"], compared["candidate"]["answered"]) == (50 + 30, 30 + 70)
