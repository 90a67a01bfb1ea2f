"""Simulated shadows, for rollout.py: the product's own judge of pairs, at 100 requests a second of which a tenth is
copied, for an hour, looked at every five seconds. Scores of the two versions are correlated, as those of the same
requests are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median

import numpy as np
from _document import Document, Goal
from numpy.typing import NDArray
from scipy.stats import norm

from skyriver.core.spec import ShadowSpec
from skyriver.release.canary import SHARES, SLOW, SLOWER_US
from skyriver.release.evidence import Pairs
from skyriver.release.guards import SLOWER, look
from skyriver.release.shadow import PAIRED, begin_shadow, judge_copies

SHADOW_GOALS = (
    Goal("shadow_false_rollback_share", "<=", 0.05, "of rollouts"),
    Goal("shadow_regression_caught_share", ">=", 0.95, "of rollouts"),
)
COPIES_A_SECOND, LOOK_S, SECONDS = 10, 5, 3_600
ERRORS, MEDIAN_US, SPREAD = 0.005, 3_000, 0.5
SPEC = ShadowSpec(over="1h", share=10, wait="1h")
_BOUNDS = norm.ppf(SHARES)
_USUAL_US = MEDIAN_US * np.exp(SPREAD * norm.ppf(SLOW))
_SLOW_US = max(SLOWER * _USUAL_US, _USUAL_US + SLOWER_US)


@dataclass(frozen=True, slots=True)
class Candidate:
    errors: float = ERRORS
    slower: float = 1.0
    shift: float = 0.0
    noise: float = 0.1
    """Of its scores around the champion's, in standard deviations of these."""


CASES: Mapping[str, Candidate] = {
    "as good": Candidate(),
    "as good, with other scores of the same distribution": Candidate(noise=1.0),
    "fails 2 points more": Candidate(errors=ERRORS + 0.02),
    "twice as slow": Candidate(slower=2.0),
    "scores higher by 0.3 standard deviations": Candidate(shift=0.3),
}


def simulate(case: str, seed: int) -> tuple[str, int]:
    """Why it was taken back ("": it was not), and after how many pairs."""
    rng, candidate = np.random.default_rng([seed, *case.encode()]), CASES[case]
    shadow, pairs = begin_shadow({}, 0), 0
    for now in range(LOOK_S, SECONDS + 1, LOOK_S):
        count = int(rng.poisson(COPIES_A_SECOND * LOOK_S))
        pairs += count
        shadow = {**shadow, "evidence": look(PAIRED, shadow["evidence"], _seen(rng, candidate, count))}
        shadow["candidate"] = {"answered": pairs, "failed": 0, "refused": 0}
        verdict = judge_copies(shadow, SPEC, (1, 2), now * 1_000_000)
        if verdict.what == "take_back":
            return verdict.reason, pairs
    return "", pairs


def _seen(rng: np.random.Generator, candidate: Candidate, count: int) -> dict[str, list[tuple[Pairs]]]:
    failed = (rng.random(count) < ERRORS, rng.random(count) < candidate.errors)
    both = ~(failed[0] | failed[1])
    latency = [MEDIAN_US * slower * np.exp(SPREAD * rng.standard_normal(count)) for slower in (1.0, candidate.slower)]
    before = rng.standard_normal(count)
    kept = np.sqrt(1 - candidate.noise**2)
    after = kept * before + candidate.noise * rng.standard_normal(count) + candidate.shift
    beyond = [_pairs(before < bound, after < bound, both) for bound in _BOUNDS]
    beyond += [_pairs(before > bound, after > bound, both) for bound in _BOUNDS]
    return {
        "errors": [_pairs(*failed, np.ones(count, np.bool_))],
        "latency": [_pairs(latency[0] >= _SLOW_US, latency[1] >= _SLOW_US, both)],
        "scores": beyond,
    }


def _pairs(champion: NDArray[np.bool_], candidate: NDArray[np.bool_], of: NDArray[np.bool_]) -> tuple[Pairs]:
    worse, better = int((candidate & ~champion & of).sum()), int((champion & ~candidate & of).sum())
    return (Pairs(int(of.sum()), worse, better),)


def measure_shadow(document: Document, runs: int) -> None:
    false, caught = [], []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for case in CASES:
            ended = list(pool.map(simulate, [case] * runs, range(runs), chunksize=5))
            back = [(reason, pairs) for reason, pairs in ended if reason]
            document.row(
                "skyriver",
                f"simulated in the shadow: {case}",
                rollouts=runs,
                taken_back=len(back),
                reasons={reason: sum(r == reason for r, _ in back) for reason in sorted({r for r, _ in back})},
                pairs_median=median(pairs for _, pairs in back) if back else None,
            )
            (false if case.startswith("as good") else caught).append(len(back) / runs)
    document.measured("shadow_false_rollback_share", max(false), note=f"the worst of {len(false)} kinds, {runs} each")
    document.measured(
        "shadow_regression_caught_share", min(caught), note=f"the least of {len(caught)} kinds, {runs} each"
    )
