"""Where a canary stands: what its version and the champion answered, by the processes there are; what is due. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from skyriver.core.outcomes import outcomes_of
from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.spec import CanarySpec
from skyriver.release.canary import LOOK_US, WHOLE, Source, Tally, accused, begun, evidence_of, looked
from skyriver.release.guards import ALPHA, AS_EVER, Rules, least, rules_of
from skyriver.release.seen import odds, told_of_each

REPLICAS: Final = "replicas"
NO_SCORE: Final = ("MODEL_FAILED", "SCORE_NOT_FINITE", "MODEL_LATE", "MODEL_ASIDE")
"""Why a stream decided without the version's score, where that is the version's doing."""
DEATHS: Final = 2
"""Of a candidate's processes, more than of the champion's, after which it is taken back: one may have been killed."""
_REMEMBERED: Final = 10
SIDES: Final = ("champion", "candidate")


@dataclass(frozen=True, slots=True)
class Verdict:
    what: Literal["wait", "next", "pause", "take_back"]
    reason: str = ""
    message: str = ""


def begin_step(canary: Mapping[str, Any], step: int, now: int, rules: Rules = AS_EVER) -> dict[str, Any]:
    """The state once the candidate gets the share of `step`: what it answered so far stays evidence."""
    compared = canary.get("compared") or begun(now, rules)
    return {**canary, "step": step, "since": now, "before": compared["candidate"]["answered"], "compared": compared}


def look_at(
    snapshot: Snapshot,
    canary: Mapping[str, Any],
    service: Resource,
    streams: Iterable[Resource],
    versions: tuple[int, int],
    *,
    pause_us: int = LOOK_US,
    rules: Rules = AS_EVER,
    by_key: bool = False,
) -> dict[str, Any]:
    """The state after a look at what `versions` (champion, candidate) answered; the same where it is too early for one.
    `streams`: which decide with the model; `by_key`: over HTTP a key stays with its version, too."""
    compared = canary["compared"]
    if snapshot.now - compared["looked"] < pause_us:
        return dict(canary)
    of_replicas = _replicas_by_key if by_key else _replicas
    sources = [of_replicas(snapshot, service, versions), *(_arms(snapshot, stream, versions) for stream in streams)]
    if rules.metrics:
        sources.append(_outcomes(snapshot, service, versions, rules.metrics))
    return {
        **canary,
        "compared": looked(compared, sources, snapshot.now, rules),
        "lives": lives(snapshot, canary.get("lives") or {}, service, versions),
    }


def lives(snapshot: Snapshot, known: Mapping[str, Any], service: Resource, versions: tuple[int, int]) -> dict[str, Any]:
    """By process of each side, under which numbers it was seen alive; and how one of the candidate last ended."""
    after: dict[str, Any] = {side: dict(known.get(side) or {}) for side in SIDES}
    for side, version in zip(SIDES, versions, strict=True):
        for process in processes_of(snapshot, service, version):
            if process.alive:
                pids = after[side].get(process.name, ())
                after[side][process.name] = [*dict.fromkeys([*pids, process.pid])][-_REMEMBERED:]
    replicas = [r for r in snapshot.children(service, "replica") if int(r.spec["version"]) == versions[1]]
    ends = [replica.status["last_end"] for replica in replicas if replica.status.get("last_end")]
    return {**after, "last_end": ends[-1]} if ends else after


def died(known: Mapping[str, Any], version: int) -> str | None:
    """Why a version is taken back whose processes end; None while they do not more often than the champion's."""
    before, deaths = (sum(len(pids) - 1 for pids in known.get(side, {}).values()) for side in SIDES)
    if deaths - before < DEATHS:
        return None
    last = f" The last time: {known['last_end']}" if known.get("last_end") else ""
    return f"Processes of version {version} ended {deaths} times as it answered.{last}"


def judge(canary: Mapping[str, Any], spec: CanarySpec, versions: tuple[int, int], now: int) -> Verdict:
    """What is due."""
    compared = canary["compared"]
    if (breach := accused(compared, rules_of(spec.guards), alpha_of(spec))) is not None:
        where = f" ({breach.bound})" if breach.bound != "bad" else ""
        seen = told_of_each(breach, compared.get("seen", {}).get(breach.guard, {}), versions)
        return Verdict(
            "take_back",
            f"WORSE_{breach.guard.upper()}",
            f"Version {versions[1]} is worse than version {versions[0]} in {breach.guard}{where}:"
            f" {'; '.join(filter(None, (seen, told_of_both(compared))))}. {odds(breach.evidence)}",
        )
    if (message := died(canary.get("lives") or {}, versions[1])) is not None:
        return Verdict("take_back", "VERSION_DIES", message)
    answered, enough = (
        compared["candidate"]["answered"] - canary["before"],
        least(spec.steps[canary["step"]], rules_of(spec.guards).guards, alpha_of(spec)),
    )
    spent = now - canary["since"]
    if answered >= enough and spent >= spec.every_us:
        return _unless_unjudged(canary, spec, now)
    if answered < enough and spent >= spec.wait_us:
        return Verdict(
            "pause",
            "TOO_FEW_REQUESTS",
            f"Within {spec.wait} version {versions[1]} answered {answered:,} requests of step {canary['step'] + 1}; the"
            f" step needs {enough:,} to judge it by.",
        )
    return Verdict("wait")


def _unless_unjudged(canary: Mapping[str, Any], spec: CanarySpec, now: int) -> Verdict:
    """The next step is due, unless where keys stay with their version the last look took no evidence of this one."""
    share = round(100 * spec.steps[canary["step"]])
    untold = {
        source: told["at"] if told["share"] is None else 0
        for source, told in canary["compared"].get("by_key", {}).items()
        if told["share"] != share
    }
    if not untold:
        return Verdict("next")
    if now - max(canary["since"], *untold.values()) < spec.wait_us:
        return Verdict("wait")
    return Verdict(
        "pause",
        "NOT_JUDGED",
        f"Within {spec.wait} step {canary['step'] + 1} could not be judged by {', '.join(sorted(untold))}: not every"
        " process there tells this step's share of the keys.",
    )


def alpha_of(spec: CanarySpec) -> float:
    """What the steps may take of ALPHA: a shadow before them has its half."""
    return ALPHA / 2 if spec.shadow is not None else ALPHA


def page(canary: Mapping[str, Any], spec: CanarySpec) -> dict[str, Any]:
    """Where it stands: for whoever shows it, in `status["shown"]`."""
    step, compared = canary["step"], canary["compared"]
    return {
        "step": step + 1,
        "steps": len(spec.steps),
        "percent": spec.steps[step],
        **({"by_key": True} if spec.key else {}),
        "since": canary["since"],
        "needed": least(spec.steps[step], rules_of(spec.guards).guards, alpha_of(spec)),
        "answered_in_step": compared["candidate"]["answered"] - canary["before"],
        **{side: compared[side] for side in SIDES},
        "evidence": evidence_of(compared, rules_of(spec.guards)),
        "taken_back_at": round(1 / alpha_of(spec)),
    }


def told(found: Mapping[str, Any], spec: CanarySpec, to: int) -> str:
    """A `page` in a sentence. `to`: the version that takes over."""
    answered, enough = found["answered_in_step"], found["needed"]
    of_step = (
        f"{answered:,} answers of the {enough:,} that the step needs" if answered < enough else f"{answered:,} answers"
    )
    of = "keys" if spec.key else "requests"
    return (
        f"Step {found['step']} of {found['steps']}: version {to} gets {found['percent']}% of the {of}, for"
        f" {spec.every} at least; {of_step}. {told_of_both(found)}."
    )


def seen_by(canary: Mapping[str, Any]) -> str:
    """Once it has given its last answer."""
    candidate = canary["compared"]["candidate"]
    return f"In all {candidate['answered'] + candidate['refused']:,} requests saw it."


def answers(snapshot: Snapshot, service: Resource, version: int) -> bool:
    """Whether a process of the version is there, which may answer yet."""
    return any(process.alive for process in processes_of(snapshot, service, version))


def told_of_both(compared: Mapping[str, Any]) -> str:
    of_each = []
    for side in SIDES:
        refused = f" and refused {compared[side]['refused']:,}" if compared[side]["refused"] else ""
        of_each.append(
            f"{side} failed {compared[side]['failed']:,} of {compared[side]['answered']:,} requests{refused}"
        )
    return "; ".join(of_each)


def _replicas(snapshot: Snapshot, service: Resource, versions: tuple[int, int]) -> Source:
    return Source(
        REPLICAS,
        *({p.name: _tally(p) for p in processes_of(snapshot, service, version) if p.report} for version in versions),
    )


def _replicas_by_key(snapshot: Snapshot, service: Resource, versions: tuple[int, int]) -> Source:
    """As `_replicas`, judged by what had a key. What the candidate did not answer is told by who passed it on."""
    sides: tuple[dict[str, Tally], dict[str, Tally]] = ({}, {})
    for side, version in zip(sides, versions, strict=True):
        for process in processes_of(snapshot, service, version):
            if process.report:
                tally = _tally_by_key(process, versions[1])
                side[process.name] = replace(tally, share=WHOLE - tally.share) if side is sides[0] else tally
    for process in processes_of(snapshot, service, versions[0]):
        lost = _sharing(process, versions[1]).get("lost")
        if lost:
            sides[1][f"{process.name}, lost"] = Tally(
                0, 0, places=[Tally(n, n) for n in lost], share=_share(process, versions[1])
            )
    return Source(REPLICAS, *sides)


def _tally_by_key(process: ProcessStatus, candidate: int) -> Tally:
    """Of what is not counted by places it is known how much it was, and no more."""
    places = [
        Tally(answered, failed, refused, latency=latency, scores=scores)
        for answered, failed, refused, latency, scores in _sharing(process, candidate).get("places", ())
    ]
    return replace(
        _tally(process),
        latency=[bucket for place in places for bucket in place.latency],
        scores=[bucket for place in places for bucket in place.scores],
        places=places,
        share=_share(process, candidate),
    )


def _sharing(process: ProcessStatus, candidate: int) -> Mapping[str, Any]:
    sharing: Mapping[str, Any] = process.report.get("sharing") or {}
    return sharing if sharing.get("version") == candidate else {}


def _share(process: ProcessStatus, candidate: int) -> int:
    return 100 * int(_sharing(process, candidate).get("percent", 0))


def processes_of(snapshot: Snapshot, service: Resource, version: int) -> Iterator[ProcessStatus]:
    for replica in snapshot.children(service, "replica"):
        process = snapshot.processes.get(replica.process)
        if int(replica.spec["version"]) == version and process is not None:
            yield process


def _tally(process: ProcessStatus) -> Tally:
    report, counted = process.report, process.report.get("counted") or {}
    failed = sum(int(report.get(what, 0)) for what in ("errors", "overloaded", "expired"))
    refused = int(report.get("refused", 0))
    answered = int(report.get("requests", 0)) - refused
    return Tally(
        answered, failed, refused, process.started_at, counted.get("latency_us", ()), counted.get("scores", ())
    )


def _outcomes(
    snapshot: Snapshot, service: Resource, versions: tuple[int, int], metrics: Iterable[tuple[str, bool]]
) -> Source:
    """What the application has reported of the two versions' answers."""
    told = outcomes_of(snapshot, service.tenant, service.name)
    sides = []
    for version in versions:
        of_version = {}
        for name, more_is_better in metrics:
            counts = told.get(str(version), {}).get(name, {"yes": 0, "of": 0})
            of_version[name] = [counts["of"], counts["of"] - counts["yes"] if more_is_better else counts["yes"]]
        sides.append({"application": Tally(0, 0, metrics=of_version)})
    return Source("outcomes", *sides)


def _arms(snapshot: Snapshot, stream: Resource, versions: tuple[int, int]) -> Source:
    """A worker counts by the records of its log, over its restarts; arms whose share changed begin anew."""
    sides: tuple[dict[str, Tally], dict[str, Tally]] = ({}, {})
    for worker in snapshot.children(stream, "worker"):
        process = snapshot.processes.get(worker.process)
        for arm in (process.report.get("arms") or ()) if process is not None else ():
            if arm["arm"] != "shadow" and arm["version"] in versions:
                failed = sum(int(arm["by_reason"].get(reason, 0)) for reason in NO_SCORE)
                places = [Tally(events, without, scores=scores) for events, without, scores in arm.get("places") or ()]
                sides[versions.index(arm["version"])][worker.process] = Tally(
                    int(arm["events"]),
                    failed,
                    started=round(100 * arm["percent"]),
                    share=round(100 * arm["percent"]),
                    scores=[bucket for place in places for bucket in place.scores],
                    places=places,
                )
    return Source(f"stream/{stream.name}", *sides)
