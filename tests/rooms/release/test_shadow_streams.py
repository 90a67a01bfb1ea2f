"""Versions that score beside in a stream: evidence of two counts, without knowing which events are in both."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.spec import ShadowSpec
from skyriver.release.canary import LOOK_US
from skyriver.release.evidence import PairedTest, Pairs
from skyriver.release.shadow import begin_shadow, judge_copies, look_at_copies
from skyriver.release.shadow_streams import least_pairs

SERVICE = Resource("t", "service", "price", spec={"versions": {}}, state="READY")
STREAM = Resource("t", "stream", "events", spec={"decide": {"model": "price"}}, state="READY")
WORKER = Resource("t", "worker", "events-0", parent=STREAM.ref, state="READY")
SPEC = ShadowSpec(over="10s", wait="1h")


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=12))
def test_no_pairs_that_could_be_behind_the_counts_give_less_evidence(events: list[tuple[bool, bool, bool]]) -> None:
    """Of each event: whether the champion's score is bad, the candidate's, and whether the candidate gave one."""
    test = PairedTest(0.05)
    scored = [(old, new) for old, new, given_ in events if given_]
    true = Pairs(len(scored), sum(new and not old for old, new in scored), sum(old and not new for old, new in scored))
    told = least_pairs(
        sum(old for old, _, _ in events), sum(new for _, new in scored), before=len(events), total=len(scored)
    )
    least, truth = test.look(test.start, told), test.look(test.start, true)
    assert all(a <= b + 1e-12 for a, b in zip(least, truth, strict=True))


def bins(scores: Any) -> list[int]:
    return np.bincount(np.clip((np.asarray(scores) * 20).astype(int), 0, 19), minlength=20).tolist()  # type: ignore[no-any-return]


def played(shift: float, looks: int = 12, events: int = 1_000, *, restarts: bool = False) -> dict[str, Any]:
    """The state after a stream in which the candidate scores so much higher."""
    rng = np.random.default_rng(3)
    shadow, total = begin_shadow({}, 0), [np.zeros(20, np.int64), np.zeros(20, np.int64)]
    for number in range(1, looks + 1):
        champion = rng.beta(2, 2, events)
        candidate = np.clip(champion + rng.normal(0, 0.02, events) + shift, 0, 1)
        total = [counts + bins(of) for counts, of in zip(total, (champion, candidate), strict=True)]
        if restarts and number == looks // 2:
            total = [np.zeros(20, np.int64), np.zeros(20, np.int64)]
        arms = [
            {"arm": arm, "version": version, "scores": counts.tolist()}
            for (arm, version), counts in zip((("released", 1), ("shadow", 2)), total, strict=True)
        ]
        process = ProcessStatus(WORKER.process, alive=True, pid=7, report={"arms": arms})
        rows = {r.key: r for r in (SERVICE, STREAM, WORKER)}
        snapshot = Snapshot(rows, {WORKER.process: process}, {}, number * LOOK_US)
        shadow = look_at_copies(snapshot, shadow, SERVICE, (1, 2), streams=[STREAM])
    return shadow


def test_scores_that_are_as_high_are_no_evidence_and_count_as_answers() -> None:
    shadow = played(0.0)
    assert judge_copies(shadow, SPEC, (1, 2), 11_000_000).what == "next"
    assert shadow["candidate"]["answered"] == 11_000, "since its bounds were known"


def test_scores_that_are_higher_take_it_back() -> None:
    verdict = judge_copies(played(0.2), SPEC, (1, 2), 0)
    assert (verdict.what, verdict.reason) == ("take_back", "WORSE_SCORES")
    assert "in events 28% of version 2's 11,000 scores are above the 90% point of version 1's" in verdict.message
    assert "The evidence is over 1,000,000,000 to 1 against chance." in verdict.message


def test_an_arm_that_counts_anew_is_no_step_back() -> None:
    assert judge_copies(played(0.0, restarts=True), SPEC, (1, 2), 11_000_000).what == "next"
