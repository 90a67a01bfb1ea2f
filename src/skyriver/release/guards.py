"""What a rollout watches: errors, refusals, slow answers, scores; and when it is taken back. Pure.

All guards together accuse a candidate that is as good as tolerated with a probability of at most `alpha`, over all
steps and all looks: the evidence of the rollout is the mean over its guards (see evidence.py). Where keys stay with
their version that holds for many keys, by simulation, and is not exact (see clusters.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from skyriver.release.evidence import OddsTest, PairedTest, mean_evidence, needed

if TYPE_CHECKING:
    from skyriver.core.spec import GuardsSpec

ALPHA: Final = 0.02

ERRORS: Final = OddsTest(worse=(2.0, 4.0, 8.0, 16.0, 64.0, 1024.0))
REFUSED: Final = OddsTest(worse=(1.5, 2.0, 4.0, 16.0, 64.0, 1024.0), tolerated=1.1)
"""Requests that are refused as wrong: callers make mistakes, and make them with both versions."""
SLOW: Final = OddsTest(worse=(2.0, 3.0, 6.0, 16.0, 64.0), tolerated=1.25, at_most=4.0)
"""Answers that are slower than what the champion's were before."""
SCORES: Final = OddsTest(worse=(1.5, 2.0, 4.0, 16.0), tolerated=1.2)
"""Scores beyond one of the champion's deciles 1, 5 and 9, to either side."""
METRIC: Final = OddsTest(worse=(1.25, 1.5, 2.0, 4.0, 16.0), tolerated=1.1)
"""Answers of which the application reports what is not wanted."""


Test = TypeVar("Test", OddsTest, PairedTest)


@dataclass(frozen=True, slots=True)
class Guard(Generic[Test]):
    """`bounds`: what makes an answer bad. One count is taken for each of them."""

    name: str
    test: Test
    bounds: tuple[str, ...] = ("bad",)


SCORE_BOUNDS: Final = ("below p10", "below p50", "below p90", "above p10", "above p50", "above p90")
STANDARD: Final = (
    Guard("errors", ERRORS),
    Guard("refusals", REFUSED),
    Guard("latency", SLOW),
    Guard("scores", SCORES, SCORE_BOUNDS),
)

SLOWER: Final = 1.5


@dataclass(frozen=True, slots=True)
class Rules:
    """What is watched. An answer is slow that takes `slower` times as long as most of the champion's."""

    guards: tuple[Guard[OddsTest], ...] = STANDARD
    slower: float = SLOWER
    metrics: tuple[tuple[str, bool], ...] = ()
    """Those that the application reports, and whether more of them is better; each has a guard of its name."""


AS_EVER: Final = Rules()


def rules_of(declared: GuardsSpec | None) -> Rules:
    if declared is None:
        return AS_EVER
    watched = tuple(
        _as_declared(guard, tolerated) for guard in STANDARD if (tolerated := getattr(declared, guard.name))
    )
    metrics = tuple((name, better == "higher is better") for name, better in sorted(declared.metrics.items()))
    guards = (*watched, *(Guard(name, METRIC) for name, _ in metrics))
    return Rules(guards, declared.latency or SLOWER, metrics)


def _as_declared(guard: Guard[OddsTest], tolerated: float) -> Guard[OddsTest]:
    """What is declared of the latency says which answers are slow, not how many may be."""
    return guard if guard.name == "latency" else replace(guard, test=_tolerating(guard.test, tolerated))


def _tolerating(test: OddsTest, tolerated: float) -> OddsTest:
    """What it looks for is as far above what is tolerated as it was."""
    times = tolerated / test.tolerated
    return replace(test, tolerated=tolerated, worse=tuple(odds * times for odds in test.worse))


SHOWN: Final = 0.05
"""More of its requests that fail is what a candidate must have had the chance to show before it gets more of them."""
USUAL: Final = 0.005
"""Share of requests that fail where all is well."""

Logs = Mapping[str, Sequence[Sequence[float]]]
"""The logarithms of the evidence so far: for each guard and each of its bounds, one for each odds ratio."""


@dataclass(frozen=True, slots=True)
class Breach:
    """The evidence against the candidate, and the guard that holds most of it."""

    guard: str
    bound: str
    evidence: float


def begin(guards: Sequence[Guard[Any]]) -> dict[str, list[list[float]]]:
    return {guard.name: [list(guard.test.start) for _ in guard.bounds] for guard in guards}


def look(
    guards: Sequence[Guard[Any]], logs: Logs, seen: Mapping[str, Sequence[tuple[Any, ...]]]
) -> dict[str, list[list[float]]]:
    """`logs` after one more look. `seen`: for each guard and each of its bounds what its test looks at
    since the look before; a guard that has none is as it was."""
    return {
        guard.name: [
            list(guard.test.look(before, *counted))
            for before, counted in zip(logs[guard.name], seen[guard.name], strict=True)
        ]
        if guard.name in seen
        else [list(before) for before in logs[guard.name]]
        for guard in guards
    }


def breach(guards: Sequence[Guard[Any]], logs: Logs, alpha: float = ALPHA) -> Breach | None:
    """What the candidate is taken back for; None while the evidence is below 1/alpha."""
    each = {guard.name: _of(guard, logs) for guard in guards}
    evidence = mean_evidence(list(each.values()))
    if evidence < -math.log(alpha):
        return None
    most = max(guards, key=lambda guard: each[guard.name])
    bounds = [mean_evidence(of_bound) for of_bound in logs[most.name]]
    return Breach(most.name, most.bounds[bounds.index(max(bounds))], math.exp(min(evidence, 700.0)))


def shown(guards: Sequence[Guard[Any]], logs: Logs) -> dict[str, float]:
    """How many times likelier what was seen is of a worse candidate, by guard, and by all of them
    together: below 1 it speaks for the candidate."""
    each = {guard.name: _of(guard, logs) for guard in guards}
    each["all"] = mean_evidence(list(each.values()))
    return {name: round(math.exp(min(log, 50.0)), 3) for name, log in each.items()}


def _of(guard: Guard[Any], logs: Logs) -> float:
    return mean_evidence([mean_evidence(of_bound) for of_bound in logs[guard.name]])


def least(percent: float, guards: Sequence[Guard[Any]] = STANDARD, alpha: float = ALPHA) -> int:
    """Answers of a candidate that gets `percent` of the requests after which one that fails SHOWN more of them would
    have been noticed."""
    worse = USUAL + SHOWN
    odds = worse / (1 - worse) / (USUAL / (1 - USUAL))
    return needed(USUAL, odds, ERRORS, percent / 100, evidence=len(guards) / alpha)
