"""Where a key stays with its version: what its answers are worth, over the steps of a rollout."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.spec import CanarySpec
from skyriver.release.canary import Source, Tally, accused, begun, evidence_of, looked
from skyriver.release.clusters import clustered, dispersion
from skyriver.release.evidence import Counted, OddsTest, mean_evidence
from skyriver.release.stepping import begin_step, judge, look_at

TEST = OddsTest(worse=(2.0, 4.0))


def test_places_as_far_apart_as_draws_are_worth_all_their_answers() -> None:
    rng = np.random.default_rng(7)
    places = [(1000.0, float(bad)) for bad in rng.binomial(1000, 0.1, 400)]
    assert dispersion([places]) == pytest.approx(1.0, abs=0.15)
    # Of the same counts, each answer given ten times.
    assert dispersion([[(10 * n, 10 * bad) for n, bad in places]]) == pytest.approx(10, rel=0.15)


def test_what_the_two_versions_differ_by_is_no_dispersion() -> None:
    rng = np.random.default_rng(3)
    good, bad = ([(500.0, float(x)) for x in rng.binomial(500, share, 50)] for share in (0.1, 0.5))
    assert dispersion([good, bad]) < 1.5
    assert dispersion([good + bad]) > 20


def test_without_badness_or_without_enough_places_nothing_is_said() -> None:
    kept = (0.5, 0.25)
    none, some = [Counted(100, 0)] * 20, [Counted(100, 3)] * 4
    assert clustered(TEST, kept, none, none) == kept
    assert clustered(TEST, kept, some, some) == kept
    assert clustered(TEST, kept, [], some) == kept
    assert clustered(TEST, kept, [Counted(0, 0)] * 50, [Counted(100, 100)] * 50) == kept


def test_the_same_answers_again_are_no_more_evidence() -> None:
    rng = np.random.default_rng(1)
    good, worse = rng.binomial(200, 0.05, 50), rng.binomial(200, 0.15, 50)

    def evidence(times: int) -> float:
        sides = [[Counted(200 * times, int(bad) * times) for bad in side] for side in (good, worse)]
        return mean_evidence(clustered(TEST, TEST.start, *sides))

    first, again, often = evidence(1), evidence(4), evidence(64)
    assert first > math.log(1000)
    assert again < 3 * first
    assert often == pytest.approx(again, rel=0.3)


def test_one_heavy_key_does_not_speak_for_all() -> None:
    good = [Counted(100, 5)] * 50
    heavy = [Counted(100, 5)] * 49 + [Counted(100_000, 90_000)]
    assert mean_evidence(clustered(TEST, TEST.start, good, heavy)) < math.log(2)


def run(seed: int, *, shift: float = 0.0, keys: int = 3_000) -> str:
    """A rollout by key, of scores that are the keys' own for the most part: how it ended."""
    rng = np.random.default_rng(seed)
    activity = np.cumsum(rng.lognormal(0, 1, keys))
    own, place = rng.normal(0, 1, keys), rng.integers(0, 100, keys)
    spec = CanarySpec(steps=(5, 50), every="10m", wait="1h")
    canary, answered = begin_step({}, 0, 0), np.zeros((100, 64), int)
    for minute in range(1, 60):
        share = spec.steps[canary["step"]]
        who = np.searchsorted(activity, rng.random(3_000) * activity[-1])
        scores = own[who] + rng.normal(0, 1, len(who)) + shift * (place[who] < share)
        np.add.at(answered, (place[who], np.clip(scores * 6 + 32, 0, 63).astype(int)), 1)
        of_places = [Tally(int(n.sum()), 0, scores=[[b, int(c)] for b, c in enumerate(n) if c]) for n in answered]
        sides = [
            Tally(
                sum(place.answered for place in of_side),
                0,
                started=percent,
                share=100 * percent,
                scores=[bucket for place in of_side for bucket in place.scores],
                places=of_side,
            )
            for percent, of_side in (
                (100 - share, [Tally(0, 0)] * share + of_places[share:]),
                (share, of_places[:share] + [Tally(0, 0)] * (100 - share)),
            )
        ]
        now = minute * 60_000_000
        source = Source("stream/s", {"w": sides[0]}, {"w": sides[1]})
        canary = {**canary, "compared": looked(canary["compared"], [source], now)}
        verdict = judge(canary, spec, (1, 2), now)
        if verdict.what == "take_back":
            return verdict.reason
        if verdict.what == "next":
            if canary["step"] == 1:
                return "done"
            canary, answered = begin_step(canary, 1, now), np.zeros((100, 64), int)
    return "waits"


def test_a_version_that_is_as_good_takes_over_by_key_and_a_worse_one_does_not() -> None:
    assert [run(seed) for seed in range(20)] == ["done"] * 20
    assert [run(seed, shift=0.5) for seed in range(3)] == ["WORSE_SCORES"] * 3


def arm(name: str, version: int, percent: float, bad: int) -> dict[str, Any]:
    """Each place has 100 events, `bad` of them without a score."""
    places = [[100, bad, [[4, 100 - bad]]] for _ in range(100)]
    reasons = {"MODEL_FAILED": 60 * bad, "MODEL_LATE": 40 * bad, "BUDGET_SPENT": 5}
    return {"arm": name, "version": version, "percent": percent, "events": 10_000, "by_reason": reasons} | (
        {"places": places} if name != "shadow" else {}
    )


def stream_at(now: int, *arms: dict[str, Any]) -> tuple[Snapshot, Resource, Resource]:
    service, stream = Resource("t", "service", "m", spec={"model": "m"}), Resource("t", "stream", "s")
    worker = Resource("t", "worker", "s-0", parent=stream.ref)
    process = ProcessStatus(worker.process, True, pid=4, report={"arms": list(arms)})
    rows = {row.key: row for row in (service, stream, worker)}
    return Snapshot(rows, {process.name: process}, {}, now), service, stream


def test_the_arms_of_a_stream_are_a_source() -> None:
    shadow = arm("shadow", 3, 0, 50)

    def look(canary: dict[str, Any], now: int, *arms: dict[str, Any]) -> dict[str, Any]:
        found, service, stream = stream_at(now, *arms, shadow)
        return look_at(found, canary, service, [stream], (1, 2), pause_us=0)

    canary = begin_step({}, 0, 0)
    canary = look(canary, 1)  # neither version is there yet
    canary = look(canary, 2, arm("released", 1, 90.0, 1), arm("canary", 2, 10.0, 1))
    compared = canary["compared"]
    assert compared["candidate"] == {"answered": 10_000, "failed": 100, "refused": 0}
    assert accused(compared) is None
    canary = look(canary, 3, arm("released", 1, 90.0, 1), arm("canary", 2, 10.0, 9))
    breach = accused(canary["compared"])
    assert breach is not None
    assert breach.guard == "errors"


def test_evidence_is_kept_when_the_share_changes_and_counting_begins_anew() -> None:
    state = begun(0)

    def look(percent: int, bad: int, now: int) -> float:
        nonlocal state
        champion, candidate = (
            Tally(10_000, 100 * of_bad, started=share, share=100 * share, places=[Tally(100, of_bad)] * 100)
            for share, of_bad in ((100 - percent, 2), (percent, bad))
        )
        state = looked(state, [Source("stream/s", {"w": champion}, {"w": candidate})], now)
        return evidence_of(state)["errors"]

    first = look(10, 3, 1)
    assert look(10, 3, 2) == first, "nothing came"
    assert 1 < first < 1e6
    assert look(20, 3, 3) > first, "that of both shares"
    mixed = Source("stream/s", {"w": Tally(1, 0, started=70, share=70, places=[Tally(0, 0)] * 100)}, {})
    before = evidence_of(state)
    state = looked(state, [Source("stream/s")], 4)
    assert evidence_of(state) == before, "a worker that is away takes none along"
    state = looked(state, [mixed], 5)
    assert evidence_of(state) == before, "not all know of the next share yet"


def test_evidence_grows_with_what_is_seen() -> None:
    growing = [
        mean_evidence(clustered(TEST, TEST.start, [Counted(n, n // 20)] * 50, [Counted(n, n // 5)] * 50))
        for n in (20, 40, 80, 160)
    ]
    assert all(more > less for less, more in pairwise(growing))
