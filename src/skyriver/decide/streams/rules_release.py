"""What can be asked of versions of rules: a candidate, its trial, its promotion; how it compares. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from skyriver.core.contract import RulesCompared, RulesVersion
from skyriver.core.errors import Conflict, InvalidInput, NotFound, SkyriverError
from skyriver.core.misread import misread
from skyriver.core.resources import Put, Resource, Snapshot, need
from skyriver.core.spec import AppSpec, DecisionRule
from skyriver.decide.rules.ruleset import rules_of
from skyriver.decide.streams.checking import check_decisions
from skyriver.decide.streams.rules_gate import check_move, gate_refused, refusal
from skyriver.decide.streams.rules_kind import (
    GIVEN,
    RULES,
    TUNED,
    deployed_rules,
    live_of,
    new_version,
    tried_of,
    version_of,
    versions_of,
)

_A_RULE = 'Write each rule as {"decision": "block", "when": "score >= 0.9"}, with a "name" or without.'


@dataclass(frozen=True, slots=True)
class RulesMove:
    """`to`: shadow, canary, promote or drop. `percent`: of the keys, for a canary; `anyway`: why, past the gate."""

    to: str
    why: str = ""
    percent: float = 0.0
    anyway: str = ""


def list_rules(snapshot: Snapshot, stream: Resource) -> list[RulesVersion]:
    return [_view(snapshot, stream, version) for version in _versions(snapshot, stream)]


def get_rules(snapshot: Snapshot, stream: Resource, number: int) -> RulesVersion:
    """Raises NotFound."""
    return _view(snapshot, stream, _one(_versions(snapshot, stream), stream, number))


def plan_candidate(
    snapshot: Snapshot,
    stream: Resource,
    rules: Sequence[Mapping[str, Any]],
    *,
    why: str,
    gain: Mapping[str, Any] | None,
    actor: str,
) -> tuple[list[Put], RulesVersion]:
    """A version that decides nothing yet, checked as a deployment checks its rules. Raises what `check_decisions` does,
    InvalidInput (BAD_RULE, BAD_SINK, BAD_BUDGET, BAD_COUNTER, BAD_GAIN), Conflict (SAME_RULES)."""
    versions = _versions(snapshot, stream)
    given, app = _rules(rules), _app_of(snapshot, stream)
    _check_alone(app, stream.name, given)
    warnings = check_decisions(_beside(app, stream.name, given))
    live = live_of(versions)
    if live is not None and live.spec["rules"] == given:
        raise Conflict(
            f"These are the rules that decide: version {version_of(live)}.",
            code="SAME_RULES",
            where=live.ref,
            next_action="Change one of them.",
        )
    if gain is not None and not float(gain["low"]) <= float(gain["value"]) <= float(gain["high"]):
        raise InvalidInput(
            "The gain does not lie within its interval.",
            code="BAD_GAIN",
            where="gain",
            next_action="Give `low`, `value` and `high` in this order, or leave the gain out.",
        )
    number, origin = version_of(versions[-1]) + 1, GIVEN if gain is None else TUNED
    row = new_version(stream, number, given, origin=origin, why=why, state="CANDIDATE", since=snapshot.now)
    never = [f"{name} {told}" for name, told in warnings if name.endswith(f" of {stream.name}")]
    row = replace(
        row,
        spec={**row.spec, "gain": dict(gain) if gain is not None else None, "warnings": never},
        status={"history": [_step("CANDIDATE", snapshot.now, actor, why)]},
        created_by=actor,
    )
    first = [Put(v, 0) for v in versions if not v.revision]
    return [*first, Put(row, 0)], _view(snapshot, stream, row)


def plan_move(
    snapshot: Snapshot, stream: Resource, number: int, move: RulesMove, *, actor: str
) -> tuple[list[Put], RulesVersion]:
    """Raises NotFound, Conflict (REFUSED_TRANSITION, TRIAL_RUNNING, GATE_REFUSED), InvalidInput (NO_REASON), and what
    `check_decisions` raises where the rules do not fit the application any more: it may have been deployed since they
    were checked."""
    versions = _versions(snapshot, stream)
    version = _one(versions, stream, number)
    compared = _compared(snapshot, stream, version)
    status = {**version.status, "compared": compared}
    check_move(stream.name, version, move.to)  # what cannot be is refused before the gate is asked
    if move.to in ("shadow", "canary"):
        _refuse_second_trial(versions, version)
        status["percent"] = move.percent if move.to == "canary" else 0.0
    if move.to != "drop":
        _check_fits(snapshot, stream, version)
    live = live_of(versions)
    why_not = refusal(version, live, compared, move.to)
    if why_not and not move.anyway.strip():
        raise gate_refused(stream.name, version, live, move.to, why_not, anyway=move.anyway)
    history = [*status.get("history", ()), _step(_AFTER[move.to], snapshot.now, actor, move.why)]
    if why_not:
        history[-1] |= {"gate": why_not, "anyway": move.anyway}
    told = {"reason": "GATE_PASSED_BY", "message": f"{why_not} All the same: {move.anyway}"} if why_not else {}
    moved = RULES.move(version, move.to, snapshot.now, status={**status, "history": history[-100:]}, **told)
    changes = [Put(moved, version.revision)]
    if move.to == "promote" and live is not None:
        message = f"Version {number} was promoted."
        past = [*live.status.get("history", ()), _step("REPLACED", snapshot.now, actor, message)]
        before = RULES.move(live, "replaced", snapshot.now, reason="PROMOTED_ANOTHER", message=message)
        changes.append(Put(replace(before, status={**before.status, "history": past[-100:]}), live.revision))
    return changes, _view(snapshot, stream, moved)


_AFTER = {"shadow": "SHADOW", "canary": "CANARY", "promote": "LIVE", "drop": "DROPPED"}


def with_rules(app: AppSpec, stream: str, rules: Sequence[Mapping[str, Any]]) -> AppSpec:
    """The application with other rules on a stream. Raises InvalidInput where what else it declares does not fit."""
    body = app.to_json()
    for decide in body["decides"]:
        if decide["stream"] == stream:
            decide["rules"] = list(rules)
    try:
        return AppSpec.model_validate(body)
    except ValidationError as error:
        raise InvalidInput(
            f"The rules do not fit what is declared beside them: {misread(error)}.",
            code="BAD_RULE",
            next_action="Change the rules, or deploy what is declared beside them anew.",
        ) from error


def _check_alone(app: AppSpec, stream: str, rules: Sequence[Mapping[str, Any]]) -> None:
    """The rules themselves, before what is declared beside them: a mistake in them is told as what it is. Raises
    InvalidInput (BAD_RULE)."""
    if not rules:
        raise InvalidInput("The list of rules is empty.", code="BAD_RULE", where="rules", next_action=_A_RULE)
    for decide in app.decides:
        if decide.stream == stream:
            train = app.model(decide.model).train
            parsed = tuple(DecisionRule.model_validate(rule) for rule in rules)
            alone = decide.model_copy(update={"rules": parsed, "budgets": (), "combine": ()})
            rules_of(alone, app.stream(stream), app.feature_set(train.features) if train is not None else None)


def _beside(app: AppSpec, stream: str, rules: Sequence[Mapping[str, Any]]) -> AppSpec:
    """`with_rules`, of rules that somebody gives by hand."""
    try:
        return with_rules(app, stream, rules)
    except InvalidInput as error:
        if error.code in ("BAD_SINK", "BAD_BUDGET", "BAD_COUNTER"):
            error.next_action += (
                " Let a rule decide what it is for, or first deploy the application without it:"
                " a candidate changes rules alone."
            )
        raise


def check_standing(snapshot: Snapshot, tenant: str, app: AppSpec) -> None:
    """Rules that were promoted and stay, and such that are tried, must fit what is deployed around them: they go on
    deciding, or being compared. Raises InvalidInput."""
    for decide in app.decides:
        stream = snapshot.find(tenant, "stream", decide.stream)
        if stream is None:
            continue
        found = deployed_rules(snapshot, replace(stream, spec={**stream.spec, "decide": decide.to_json()}))
        if found.stays and found.live is not None:
            action = (
                "Change the rules in the file too, and they decide; or promote another version:"
                f" `skyriver rules list {decide.stream}`."
            )
            _check_stands(app, stream, found.live, "was promoted, would stay", action)
        tried = tried_of(versions_of(snapshot, stream))
        if tried is not None:
            action = (
                f"Leave what it reads as it is, or end its trial: `skyriver rules drop {decide.stream}"
                f" {version_of(tried)}`."
            )
            _check_stands(app, stream, tried, f"is in {tried.state}, would go on", action)


def _check_stands(app: AppSpec, stream: Resource, version: Resource, how: str, next_action: str) -> None:
    try:
        check_decisions(with_rules(app, stream.name, version.spec["rules"]))
    except SkyriverError as error:
        what = f"Version {version_of(version)} of the rules of {stream.name}, which {how}, and does not fit"
        raise InvalidInput(
            f"{what}: {error.message}",
            code=error.code,
            where=f"{error.where}, version {version_of(version)}",  # not the file's rule of that name
            next_action=next_action,
        ) from error


def _app_of(snapshot: Snapshot, stream: Resource) -> AppSpec:
    app = need(snapshot.find(stream.tenant, *stream.parent.split("/", 1)), "app", stream.parent)
    return AppSpec.model_validate(app.spec["spec"])


def _check_fits(snapshot: Snapshot, stream: Resource, version: Resource) -> None:
    try:
        check_decisions(with_rules(_app_of(snapshot, stream), stream.name, version.spec["rules"]))
    except InvalidInput as error:
        what = f"Version {version_of(version)} of the rules of {stream.name} does not fit what is deployed now"
        raise InvalidInput(
            f"{what}: {error.message}",
            code=error.code,
            where=error.where,
            next_action="Deploy what it reads again, or make a version that fits:"
            f" `skyriver rules add {stream.name} FILE`. What decides now goes on.",
            details=error.details,
        ) from error


def _rules(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_rule(place, rule) for place, rule in enumerate(rules, 1)]


def _rule(place: int, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return DecisionRule.model_validate(given).to_json()
    except ValidationError as error:
        raise InvalidInput(
            f"rule {place}, {dict(given)!r:.80}: {misread(error, DecisionRule)}.",
            code="BAD_RULE",
            next_action=_A_RULE,
        ) from error


def _step(state: str, at: int, actor: str, why: str) -> dict[str, Any]:
    return {"state": state, "at": at, "by": actor, "why": why}


def _versions(snapshot: Snapshot, stream: Resource) -> list[Resource]:
    versions = versions_of(snapshot, stream)
    if not stream.spec.get("decide"):
        raise NotFound(
            f"Nothing is decided on {stream.name}: it has no rules.",
            code="NO_DECISIONS",
            where=stream.ref,
            next_action="Declare what is: app.decide(...), and deploy.",
        )
    return versions


def _one(versions: Sequence[Resource], stream: Resource, number: int) -> Resource:
    found = next((v for v in versions if version_of(v) == number), None)
    if found is None:
        raise NotFound(
            f"There is no version {number} of the rules of {stream.name}.",
            next_action=f"`skyriver rules list {stream.name}` shows what there is.",
        )
    return found


def _refuse_second_trial(versions: Sequence[Resource], version: Resource) -> None:
    tried = tried_of(versions)
    if tried is not None and tried.name != version.name:
        raise Conflict(
            f"Version {version_of(tried)} is in {tried.state}, and one version at a time is tried.",
            code="TRIAL_RUNNING",
            where=tried.ref,
            next_action="Promote or drop it first.",
        )


def _report(snapshot: Snapshot, stream: Resource) -> Mapping[str, Any]:
    """What the stream's worker says of the rules that it uses."""
    worker = next(iter(snapshot.children(stream, "worker")), None)
    process = snapshot.processes.get(worker.process) if worker is not None else None
    return (process.report.get("rules") or {}) if process is not None else {}


def _view(snapshot: Snapshot, stream: Resource, version: Resource) -> RulesVersion:
    report, number = _report(snapshot, stream), version_of(version)
    trial = report.get("trial") or {}
    percent = float(version.status.get("percent") or 0.0) if version.state in ("SHADOW", "CANARY") else 0.0
    tried = (trial.get("number"), trial.get("percent")) == (number, percent)
    return {
        "name": version.name,
        "stream": stream.name,
        "version": number,
        "state": version.state,
        "reason": version.reason,
        "message": version.message,
        "since": version.since,
        "rules": version.spec["rules"],
        "warnings": version.spec.get("warnings", ()),
        "origin": version.spec["origin"],
        "why": version.spec["why"],
        "gain": version.spec["gain"],
        "percent": percent,
        "in_use": report.get("version") == number if version.state == "LIVE" else tried and bool(trial),
        "compared": _compared(snapshot, stream, version),
        "history": version.status.get("history", ()),
    }


def _compared(snapshot: Snapshot, stream: Resource, version: Resource) -> RulesCompared | None:
    """With the rules that decide now, by the worker's word; of what is not tried any more, what was known last."""
    if version.state not in ("SHADOW", "CANARY"):
        return version.status.get("compared")
    report = _report(snapshot, stream)
    trial = report.get("trial")
    if not trial or trial["number"] != version_of(version) or trial["live_rules"] != report.get("digest"):
        return None
    return compare(int(report.get("version") or 0), trial["said"])


def compare(live: int, said: Mapping[str, Sequence[tuple[str, str, int]]]) -> RulesCompared:
    """Of what a worker counted: both words of each event, by whose rules decided it."""
    both: Counter[tuple[str, str]] = Counter()
    decided: dict[str, Counter[str]] = {"live": Counter(), "trial": Counter()}
    for who, rows in said.items():
        for word, other, count in rows:
            both[word, other] += count
            decided[who][word if who == "live" else other] += count
    events = sum(both.values())
    pairs = sorted(both.items(), key=lambda pair: (pair[0][0] == pair[0][1], -pair[1], pair[0]))
    return {
        "live": live,
        "events": events,
        "differed": sum(count for (word, other), count in both.items() if word != other),
        "said": [
            {"live": word, "candidate": other, "events": count, "per_1000": round(1000 * count / events, 3)}
            for (word, other), count in pairs
        ],
        "decided_by_live": dict(decided["live"]),
        "decided_by_candidate": dict(decided["trial"]),
    }
