"""A shadow in streams: the version scores beside, in the same process, each event that the released one decides. Pure.

A worker counts the scores of both in bins, each by itself: how many are beyond a bound is known of each, and not on
which events both are. So the pairs are taken as if they agreed as seldom as these counts allow. Of all pairs that are
possible these give the least evidence, which is therefore evidence as well (see evidence.py).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from skyriver.core.resources import Resource, Snapshot
from skyriver.release.canary import SHARES, quantiles
from skyriver.release.evidence import PairedTest, Pairs

Bins = Sequence[int]


def least_pairs(champion: int, candidate: int, before: int, total: int) -> Pairs:
    """`total` events had a score of the candidate, `candidate` of them a bad one; of `before` that the champion scored,
    `champion` were bad: where the candidate gave no score, the champion's is taken as a good one."""
    of_both = min(champion, total, before)
    better = min(of_both, total - candidate)
    return Pairs(total, max(0, candidate - of_both + better), better)


def look_at_streams(
    snapshot: Snapshot,
    known: Mapping[str, Any],
    streams: Iterable[Resource],
    versions: tuple[int, int],
    test: PairedTest | None,
) -> dict[str, Any]:
    """By stream what it shows: its bounds, its counts when they were known (`base`), the evidence (`logs`, as of the
    guard of scores), the events that both scored since (`pairs`), and how many scores of each were bad (`seen`).
    `test`: of scores, where they are watched."""
    found = dict(known)
    for stream in streams:
        bins = dict(_bins(snapshot, stream, versions))
        before = known.get(stream.name)
        if before is None or set(before["base"]) != set(bins) or not _grown(before["base"], bins):
            before = _begun(bins)
        if before is not None:
            found[stream.name] = _since(before, bins, test)
    return found


def _begun(bins: Mapping[str, tuple[Bins, Bins]]) -> dict[str, Any] | None:
    """None while it is not known what is beyond the champion's scores."""
    told = [[[place, count] for place, count in enumerate(champion) if count] for champion, _ in bins.values()]
    bounds = quantiles(told, SHARES)
    return {"bounds": bounds, "base": {name: [[*old], [*new]] for name, (old, new) in bins.items()}} if bounds else None


def _since(state: Mapping[str, Any], bins: Mapping[str, tuple[Bins, Bins]], test: PairedTest | None) -> dict[str, Any]:
    old, new = ([_less(both[side], state["base"][name][side]) for name, both in bins.items()] for side in (0, 1))
    sides = [[sum(counts) for counts in zip(*of_side, strict=True)] for of_side in (old, new)]
    before, total = map(sum, sides)
    logs, seen = [], {"champion": [before], "candidate": [total]}
    for beyond, bound in ((beyond, bound) for beyond in (operator.lt, operator.gt) for bound in state["bounds"]):
        champion, candidate = (sum(n for place, n in enumerate(side) if beyond(place, bound)) for side in sides)
        seen["champion"].append(champion)
        seen["candidate"].append(candidate)
        if test is not None:
            logs.append(list(test.look(test.start, least_pairs(champion, candidate, before, total))))
    return {**state, "logs": logs, "pairs": total, "seen": seen}


def _less(now: Bins, then: Bins) -> list[int]:
    return [n - t for n, t in zip(now, then, strict=True)]


def _grown(base: Mapping[str, Sequence[Bins]], bins: Mapping[str, tuple[Bins, Bins]]) -> bool:
    pairs = ((now, then) for name, both in bins.items() for now, then in zip(both, base[name], strict=True))
    return all(min(_less(now, then)) >= 0 for now, then in pairs)


def _bins(snapshot: Snapshot, stream: Resource, versions: tuple[int, int]) -> Iterator[tuple[str, tuple[Bins, Bins]]]:
    """Of each worker that has both arms."""
    for worker in snapshot.children(stream, "worker"):
        process = snapshot.processes.get(worker.process)
        arms = (process.report.get("arms") or ()) if process is not None else ()
        told = {(arm["arm"], arm["version"]): arm["scores"] for arm in arms}
        both = told.get(("released", versions[0])), told.get(("shadow", versions[1]))
        if both[0] is not None and both[1] is not None:
            yield worker.process, (both[0], both[1])
