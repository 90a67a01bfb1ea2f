"""A shadow: a version answers copies of requests that the champion has answered, and nobody is sent its answers. Pure.

The champion's replicas send the copies and compare the answers; their reports say, for each guard and bound, of how
many pairs the candidate's answer alone was bad, and of how many the champion's alone. Both had the same requests, so
what makes requests hard is no evidence, and less of it is needed than where each answers its own (see evidence.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.spec import GuardsSpec, ShadowSpec
from skyriver.release.canary import LOOK_US
from skyriver.release.evidence import OddsTest, PairedTest, Pairs, pairs_needed
from skyriver.release.guards import ALPHA, SHOWN, USUAL, Breach, Guard, Logs, begin, breach, look, rules_of, shown
from skyriver.release.seen import odds, told_of_each, told_of_pairs
from skyriver.release.shadow_streams import look_at_streams
from skyriver.release.stepping import SIDES, Verdict, died, lives, processes_of, told_of_both

ALPHA_OF_SHADOW: Final = ALPHA / 2
"""The other half is what the steps behind it have; one that is as good is taken back by either with ALPHA at most."""
ERRORS: Final = PairedTest()
_USUALLY: Final = {"errors": USUAL, "refusals": 0.01, "scores": 0.5}
"""Of the champion's answers: where so many are bad, so many points are what is tolerated as a ratio of odds."""
_SLOW: Final = PairedTest(tolerated=0.02, at_most=4.0)


def paired_of(declared: GuardsSpec | None) -> tuple[Guard[PairedTest], ...]:
    """The guards, for pairs."""
    return tuple(
        Guard(guard.name, _SLOW if guard.name == "latency" else _tolerating(guard), guard.bounds)
        for guard in rules_of(declared).guards
        if guard.name == "latency" or guard.name in _USUALLY  # nobody has had the answers, to report of them
    )


def _tolerating(guard: Guard[OddsTest]) -> PairedTest:
    share, odds = _USUALLY[guard.name], guard.test.tolerated
    points = odds * share / (1 - share + odds * share) - share
    return PairedTest(points, tuple(bet for bet in ERRORS.bets if bet * (1 + points) < 1))


Paired = Sequence[Guard[PairedTest]]
PAIRED: Final = paired_of(None)
ENOUGH: Final = pairs_needed(USUAL, SHOWN, ERRORS, len(PAIRED) / ALPHA_OF_SHADOW)
"""Pairs after which a candidate that fails SHOWN more often would have been noticed."""
COPIES: Final = ("sent", "dropped", "unanswered")


def begin_shadow(shadow: Mapping[str, Any], now: int, guards: Paired = PAIRED) -> dict[str, Any]:
    """The state once copies are sent, or are waited for again: what was compared so far stays evidence."""
    nothing = {
        "looked": now,
        "processes": {},
        "copies": dict.fromkeys(COPIES, 0),
        **{side: {"answered": 0, "failed": 0, "refused": 0} for side in SIDES},
        "evidence": begin(guards),
        "agreement": {},
        "seen": {},
        "streams": {},
        "lives": {},
    }
    begun = {**nothing, **shadow, "since": now}
    return {**begun, "before": begun["candidate"]["answered"]}


def look_at_copies(
    snapshot: Snapshot,
    shadow: Mapping[str, Any],
    service: Resource,
    versions: tuple[int, int],
    guards: Paired = PAIRED,
    streams: Iterable[Resource] = (),
    *,
    pause_us: int = LOOK_US,
) -> dict[str, Any]:
    """The state after a look at what the replicas of `versions` (champion, candidate) report of their pairs, and what
    `streams` do that decide with the model; the same where it is too early for one."""
    if snapshot.now - shadow["looked"] < pause_us:
        return dict(shadow)
    reports = dict(_reports(processes_of(snapshot, service, versions[0]), versions[1]))
    known, evidence, seen = dict(shadow["processes"]), shadow["evidence"], dict(shadow.get("seen") or {})
    totals = {what: Counter(shadow[what]) for what in ("copies", *SIDES)}
    for process, report in reports.items():
        now = {"since": report["since"], **{what: report[what] for what in ("pairs", *totals)}}
        before = known.get(process)
        then = before if before is not None and before["since"] == now["since"] else None
        for what, total in totals.items():
            total.update({name: n - (then[what].get(name, 0) if then else 0) for name, n in now[what].items()})
        more = dict(_new_pairs(now["pairs"], then["pairs"] if then else {}))
        evidence = look(guards, evidence, more)
        seen = {guard: _and(seen.get(guard), pairs) for guard, pairs in more.items()}
        known[process] = now
    test = next((guard.test for guard in guards if guard.name == "scores"), None)
    by_stream = look_at_streams(snapshot, shadow["streams"], streams, versions, test)
    for name, of_stream in by_stream.items():
        both = max(0, of_stream["pairs"] - shadow["streams"].get(name, {"pairs": 0})["pairs"])
        for side in SIDES:
            totals[side]["answered"] += both
    return {
        **shadow,
        "streams": by_stream,
        "looked": snapshot.now,
        "processes": known,
        **{what: dict(total) for what, total in totals.items()},
        "evidence": evidence,
        "seen": seen,
        "agreement": _agreement(reports.values()) or shadow["agreement"],
        "lives": lives(snapshot, shadow["lives"], service, versions),
    }


def _and(before: Sequence[Sequence[int]] | None, more: Sequence[tuple[Pairs]]) -> list[list[int]]:
    """The pairs of each bound over all looks."""
    sums = before or [[0, 0, 0]] * len(more)
    return [
        [total + pairs.total, worse + pairs.worse, better + pairs.better]
        for (total, worse, better), (pairs,) in zip(sums, more, strict=True)
    ]


def _seen_by(found: Breach, shadow: Mapping[str, Any], versions: tuple[int, int]) -> Iterator[str]:
    """What the guard that accuses saw of copies, and in streams."""
    if told := told_of_pairs(found, shadow.get("seen", {}).get(found.guard, ()), versions):
        yield told
    for stream, state in shadow["streams"].items():
        if told := told_of_each(found, state.get("seen", {}) if found.guard == "scores" else {}, versions):
            yield f"in {stream} {told}"


def judge_copies(
    shadow: Mapping[str, Any], spec: ShadowSpec, versions: tuple[int, int], now: int, guards: Paired = PAIRED
) -> Verdict:
    """What is due."""
    if (found := breach(guards, _evidence(shadow), ALPHA_OF_SHADOW)) is not None:
        where = f" ({found.bound})" if found.bound != "bad" else ""
        return Verdict(
            "take_back",
            f"WORSE_{found.guard.upper()}",
            f"In the shadow of version {versions[0]}, version {versions[1]} is worse in {found.guard}{where}:"
            f" {'; '.join((*_seen_by(found, shadow, versions), told_of_both(shadow)))}. {odds(found.evidence)}"
            " Nobody was sent its answers.",
        )
    if (message := died(shadow["lives"], versions[1])) is not None:
        return Verdict("take_back", "VERSION_DIES", message)
    answered, spent = shadow["candidate"]["answered"] - shadow["before"], now - shadow["since"]
    if answered >= ENOUGH and spent >= spec.over_us:
        return Verdict("next")
    if answered < ENOUGH and spent >= spec.wait_us:
        return Verdict(
            "pause",
            "TOO_FEW_REQUESTS",
            f"Within {spec.wait} version {versions[1]} answered {answered:,} copies of requests; {ENOUGH:,} are needed"
            " to judge it by.",
        )
    return Verdict("wait")


def shadow_page(shadow: Mapping[str, Any], spec: ShadowSpec, guards: Paired = PAIRED) -> dict[str, Any]:
    """Where it stands: for whoever shows it, in `status["shown"]`."""
    return {
        "phase": "shadow",
        "percent": spec.share,
        "since": shadow["since"],
        "needed": ENOUGH,
        "answered_in_step": shadow["candidate"]["answered"] - shadow["before"],
        **{what: shadow[what] for what in ("copies", *SIDES, "agreement")},
        "evidence": shown(guards, _evidence(shadow)),
        "taken_back_at": round(1 / ALPHA_OF_SHADOW),
    }


def told_of_copies(found: Mapping[str, Any], spec: ShadowSpec, to: int) -> str:
    """A `shadow_page` in a sentence. `to`: the version that takes over."""
    dropped = f"; {found['copies']['dropped']:,} copies were dropped" if found["copies"]["dropped"] else ""
    return (
        f"Version {to} answers copies of {spec.share}% of the requests, for {spec.over} at least;"
        f" {found['answered_in_step']:,} of {found['needed']:,} that it needs. {told_of_both(found)}{dropped}."
    )


def _evidence(shadow: Mapping[str, Any]) -> Logs:
    """Of copies and of streams together."""
    logs = dict(shadow["evidence"])
    for of_stream in shadow["streams"].values():
        if "scores" in logs and of_stream["logs"]:
            pairs = zip(logs["scores"], of_stream["logs"], strict=True)
            logs["scores"] = [[a + b for a, b in zip(*of_bound, strict=True)] for of_bound in pairs]
    return logs


def _reports(processes: Iterable[ProcessStatus], version: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for process in processes:
        report = process.report.get("shadow")
        if report and int(report["version"]) == version:
            yield process.name, report


def _new_pairs(
    now: Mapping[str, Sequence[Sequence[int]]], then: Mapping[str, Sequence[Sequence[int]]]
) -> Iterator[tuple[str, list[tuple[Pairs]]]]:
    for guard, bounds in now.items():
        before = then.get(guard) or [[0, 0, 0]] * len(bounds)
        yield (
            guard,
            [
                (Pairs(*(n - b for n, b in zip(new, old, strict=True))),)
                for new, old in zip(bounds, before, strict=True)
            ],
        )


def _agreement(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How far the answers are apart, over all that the replicas which are there have compared."""
    together: dict[str, Counter[int]] = {"differences": Counter(), **{side: Counter() for side in SIDES}}
    for report in reports:
        for what, counts in (("differences", report["differences"]), *report["latency_us"].items()):
            for bucket, count in counts:
                together[what][bucket] += count
    found: dict[str, Any] = {}
    if (differences := together["differences"]).total():
        found["score_difference"] = {
            name: round(_quantile(differences, share) / 1e6, 6)
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
        }
    for side in SIDES:
        if together[side].total():
            found[f"{side}_us"] = {name: _quantile(together[side], s) for name, s in (("p50", 0.5), ("p99", 0.99))}
    return found


def _quantile(counts: Counter[int], share: float) -> int:
    """The bucket at which so much is reached."""
    buckets = sorted(counts)
    reached = accumulate(counts[bucket] for bucket in buckets)
    return next(b for b, sum_ in zip(buckets, reached, strict=True) if sum_ >= share * counts.total())
