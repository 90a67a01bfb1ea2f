"""A canary: a version gets a small share of the requests, then more, while it is compared with the champion. Pure.

What the two answer is counted where it is answered: by replicas, and by the workers of streams that decide with the
model. Each of these is a *source* of its own, for their answers are of different kinds; their evidence is one. Counts
only grow, but for a process that was started anew: what it counts then is what it did since. Where keys stay with their
version, answers are judged by the places of their keys (see clusters.py).
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Final

from skyriver.release.clusters import clustered
from skyriver.release.evidence import Counted, OddsTest
from skyriver.release.guards import ALPHA, AS_EVER, Breach, Guard, Logs, Rules, begin, breach, look, shown
from skyriver.release.seen import TOLD_AS_TOTALS

LOOK_US: Final = 500_000
"""Between two looks."""
LEAST_KNOWN: Final = 200
"""Answers of the champion before it is known which are slow, and which scores are low and high."""
SLOW: Final = 0.95
SLOWER_US: Final = 2_000
"""An answer is slow that takes some times as long as SLOW of the champion's, and so much longer at least: who is
asked seldom finds caches cold, and a millisecond is nobody's harm."""
WHOLE: Final = 10_000
"""All keys, in hundredths of a percent."""
SHARES: Final = (0.1, 0.5, 0.9)
"""Of the champion's scores: the bounds below which the candidate may have more, and above which."""

Histogram = Sequence[Sequence[int]]
"""[bucket, how many], in the order of the buckets; of latencies a bucket is its lower bound, in microseconds."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What one process has counted of one version since it began to count, which `started` names: when it was started
    (wall microseconds), or, of a stream, with which share."""

    answered: int
    failed: int
    refused: int = 0
    """Of wrong requests, which are not among the answered ones."""
    started: int = 0
    latency: Histogram = ()
    scores: Histogram = ()
    metrics: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By what the application reports: of how many answers it did, and of how many what is not wanted."""
    places: Sequence[Tally] = ()
    """The same by hundredths of the keys, in their order, where a key stays with its version. All versions have their
    counts of one share, from the moment in which it was given to them."""
    share: int = 0
    """Which that is of the keys, in hundredths of a percent; the champion has the others."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where answers are counted: the tallies by process, of the champion and of the candidate."""

    name: str
    champion: Mapping[str, Tally] = field(default_factory=dict)
    candidate: Mapping[str, Tally] = field(default_factory=dict)

    @property
    def by_key(self) -> bool:
        return any(tally.places for side in (self.champion, self.candidate) for tally in side.values())


def begun(now: int, rules: Rules = AS_EVER) -> dict[str, Any]:
    """The state of a comparison that begins, as it stands in the rollout's row."""
    return {
        "looked": now,
        "sources": {},
        "champion": {"answered": 0, "failed": 0, "refused": 0},
        "candidate": {"answered": 0, "failed": 0, "refused": 0},
        "evidence": begin(rules.guards),
        "seen": {},
    }


def looked(state: Mapping[str, Any], sources: Iterable[Source], now: int, rules: Rules = AS_EVER) -> dict[str, Any]:
    """`state` after a look at what was answered since the one before. What a source counted before it was first looked
    at is no part of the comparison."""
    evidence = state["evidence"]
    totals = {side: dict(state[side]) for side in ("champion", "candidate")}
    kept: dict[str, Any] = {}
    by_key: dict[str, Any] = {}
    seen = state.get("seen") or {}
    for source in sources:
        before = state["sources"].get(source.name)
        bounds = (before or {}).get("bounds") or {}
        counted = {side: _counted(getattr(source, side), bounds) for side in totals}
        if before is not None:
            since = {side: _since(counted[side], before[side], state["looked"]) for side in totals}
            for side, more in since.items():
                totals[side]["answered"] += more["errors"][0]
                totals[side]["failed"] += more["errors"][1]
                totals[side]["refused"] += more["refusals"][1]
            seen = _and(seen, since)
            if not source.by_key:
                evidence = look(rules.guards, evidence, _seen(since["champion"], since["candidate"]))
        found = bounds | _bounds(source.champion.values(), bounds, rules.slower)
        if found != bounds:  # what is beyond them is counted from now on
            counted = {side: _counted(getattr(source, side), found) for side in totals}
        kept[source.name] = {"bounds": found, **counted}
        if source.by_key or "places" in (before or {}):  # a worker that is away for a look takes no evidence along
            kept[source.name]["places"] = _by_places(source, found, (before or {}).get("places"), rules.guards)
            if source.champion or source.candidate:
                by_key[source.name] = _judged(source, (state.get("by_key") or {}).get(source.name), now)
    told = {"by_key": by_key, "evidence": evidence, "seen": seen}
    return {"looked": now, "sources": {**state["sources"], **kept}, **totals, **told}


def accused(state: Mapping[str, Any], rules: Rules = AS_EVER, alpha: float = ALPHA) -> Breach | None:
    return breach(rules.guards, _evidence(state, rules), alpha)


def evidence_of(state: Mapping[str, Any], rules: Rules = AS_EVER) -> dict[str, float]:
    """By guard, for a person."""
    return shown(rules.guards, _evidence(state, rules))


def _evidence(state: Mapping[str, Any], rules: Rules) -> Logs:
    """Of all sources together."""
    each = [state["evidence"], *(source["places"]["now"] for source in state["sources"].values() if "places" in source)]
    return {
        guard.name: [
            [sum(logs) for logs in zip(*of_bound, strict=True)]
            for of_bound in zip(*(logs[guard.name] for logs in each), strict=True)
        ]
        for guard in rules.guards
    }


def _judged(source: Source, before: Mapping[str, Any] | None, now: int) -> dict[str, Any]:
    """Of a source by key: the candidate's `share` of which this look took evidence, None where it took none, and when a
    look last took some (`at`; 0: none did)."""
    if (share := _share(source)) is not None:
        return {"share": share, "at": now}
    return {"share": None, "at": before["at"] if before else 0}


def _share(source: Source) -> int | None:
    """The candidate's; None: not every process knows of the same yet, or each side knows of another."""
    sides = (source.champion, source.candidate)
    champion, candidate = (sorted({tally.share for tally in side.values()}) for side in sides)
    known = len(champion) == len(candidate) == 1 and champion[0] + candidate[0] == WHOLE
    return candidate[0] if known else None


def _by_places(
    source: Source, bounds: Mapping[str, Any], before: Mapping[str, Any] | None, guards: Sequence[Guard[OddsTest]]
) -> dict[str, Any]:
    """The evidence of a source by key: `kept` of the shares before, `now` with that of the present share, which
    `share` names. It is of all that was answered with a share; where one look may add so much only, `whole` is what it
    would be without that."""
    share = _share(source)
    before = before or {"share": [], "kept": begin(guards), "now": begin(guards)}
    if share is None:
        return dict(before)
    same = before["share"][1:] == [[share]]
    kept: Logs = before["kept"] if same else before["now"]
    champion, candidate = (
        [_of(place, bounds) for place in _places(side.values())] for side in (source.champion, source.candidate)
    )
    whole: Logs = {
        guard.name: [
            list(
                clustered(
                    replace(guard.test, at_most=math.inf),
                    logs,
                    *(_of_bound(side, guard.name, number) for side in (champion, candidate)),
                )
            )
            for number, logs in enumerate(kept[guard.name], start=1)
        ]
        for guard in guards
    }
    cut = [guard for guard in guards if guard.test.at_most < math.inf]
    bounded: Logs = {
        guard.name: [
            [log + min(math.log(guard.test.at_most), after - then) for log, after, then in zip(*of_bound, strict=True)]
            for of_bound in zip(
                before["now"][guard.name],
                whole[guard.name],
                before.get("whole", before["now"])[guard.name] if same else kept[guard.name],
                strict=True,
            )
        ]
        for guard in cut
    }
    now = {**whole, **bounded}
    return {
        "share": [[WHOLE - share], [share]],
        "kept": kept,
        "now": now,
        "whole": {guard.name: whole[guard.name] for guard in cut},
    }


def _places(tallies: Iterable[Tally]) -> list[Tally]:
    """Those of all processes together, place by place."""
    each = [tally.places for tally in tallies if tally.places]
    return [
        Tally(
            sum(place.answered for place in same),
            sum(place.failed for place in same),
            sum(place.refused for place in same),
            latency=[bucket for place in same for bucket in place.latency],
            scores=[bucket for place in same for bucket in place.scores],
        )
        for same in zip(*each, strict=True)
    ]


def _of_bound(places: Iterable[Mapping[str, list[int]]], guard: str, number: int) -> list[Counted]:
    """Of each place; none where the guard's bounds are not known yet."""
    return [Counted(place[guard][0], place[guard][number]) for place in places if guard in place]


def _bounds(champion: Iterable[Tally], known: Mapping[str, Any], slower: float) -> dict[str, Any]:
    """Those that are not known and can be told by now."""
    tallies = list(champion)
    found: dict[str, Any] = {}
    if "latency" not in known and (slow := quantiles((t.latency for t in tallies), (SLOW,))):
        found["latency"] = [slow_from(slow[0], slower)]
    if "scores" not in known and (beyond := quantiles((t.scores for t in tallies), SHARES)):
        found["scores"] = beyond
    return found


def slow_from(usual: int, slower: float) -> int:
    """`usual`: what SLOW of the champion's answers took."""
    return max(round(slower * usual), usual + SLOWER_US)


def quantiles(histograms: Iterable[Histogram], shares: Sequence[float]) -> list[int]:
    """The buckets at which so much is reached; none while too little is known."""
    together: Counter[int] = Counter()
    for histogram in histograms:
        for bucket, count in histogram:
            together[bucket] += count
    total = together.total()
    if total < LEAST_KNOWN:
        return []
    buckets = sorted(together)
    reached = list(accumulate(together[bucket] for bucket in buckets))
    return [next(b for b, sum_ in zip(buckets, reached, strict=True) if sum_ >= share * total) for share in shares]


def _counted(tallies: Mapping[str, Tally], bounds: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """For each process and guard: how many in all, and how many were bad by each bound of the guard."""
    return {process: _of(tally, bounds) for process, tally in tallies.items()}


def _of(tally: Tally, bounds: Mapping[str, Any]) -> dict[str, list[int]]:
    counts = {"started": [tally.started], "errors": [tally.answered, tally.failed]}
    counts["refusals"] = [tally.answered + tally.refused, tally.refused]
    counts |= {name: list(told) for name, told in tally.metrics.items()}
    if "latency" in bounds:
        counts["latency"] = [
            _all(tally.latency),
            *(_of_those(tally.latency, operator.gt, b) for b in bounds["latency"]),
        ]
    if "scores" in bounds:
        below = [_of_those(tally.scores, operator.lt, bound) for bound in bounds["scores"]]
        above = [_of_those(tally.scores, operator.gt, bound) for bound in bounds["scores"]]
        counts["scores"] = [_all(tally.scores), *below, *above]
    return counts


def _all(histogram: Histogram) -> int:
    return sum(count for _, count in histogram)


def _of_those(histogram: Histogram, which: Callable[[int, int], bool], bound: int) -> int:
    return sum(count for bucket, count in histogram if which(bucket, bound))


def _since(
    now: Mapping[str, Mapping[str, list[int]]], before: Mapping[str, Mapping[str, list[int]]], looked: int
) -> dict[str, list[int]]:
    """What all processes together counted since the look `before`, at `looked`, by guard. Of a process that was there
    and was not seen then, or a guard whose bounds were not known, it is not known how much was counted since."""
    added: dict[str, list[int]] = {"errors": [0, 0], "refusals": [0, 0]}
    for process, counts in now.items():
        then = before.get(process)
        if then is None and counts["started"][0] <= looked:
            continue
        anew = then is None or counts["started"] != then["started"] or counts["refusals"][0] < then["refusals"][0]
        for guard, values in counts.items():
            if guard == "started" or (then is not None and not anew and guard not in then):
                continue
            from_none = anew or then is None or values[0] < then[guard][0]  # counts by places are of one share
            base = [0] * len(values) if from_none or then is None else then[guard]
            so_far = added.get(guard) or [0] * len(values)
            added[guard] = [s + n - b for s, n, b in zip(so_far, values, base, strict=True)]
    return added


def _and(
    seen: Mapping[str, Mapping[str, list[int]]], since: Mapping[str, Mapping[str, list[int]]]
) -> dict[str, dict[str, list[int]]]:
    """By guard and side, what was counted over all looks: to tell of. The totals have the rest."""
    after = {guard: dict(sides) for guard, sides in seen.items()}
    for side, more in since.items():
        for guard in more.keys() - set(TOLD_AS_TOTALS):
            sides = after.setdefault(guard, {})
            before = sides.get(side) or [0] * len(more[guard])
            sides[side] = [b + m for b, m in zip(before, more[guard], strict=True)]
    return after


def _seen(
    champion: Mapping[str, Sequence[int]], candidate: Mapping[str, Sequence[int]]
) -> dict[str, list[tuple[Counted, Counted]]]:
    return {
        guard: [
            (Counted(champion[guard][0], bad), Counted(candidate[guard][0], worse))
            for bad, worse in zip(champion[guard][1:], candidate[guard][1:], strict=True)
        ]
        for guard in champion.keys() & candidate.keys()
    }
