"""What a user asks of a stream's past, checked before a job begins: the stretch, the version, the rules, one event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from skyriver.core.errors import Conflict, InvalidInput, NotFound
from skyriver.core.jobs import new_job, new_operation, next_number
from skyriver.core.misread import misread
from skyriver.core.names import ModelRef, nearest
from skyriver.core.resources import Resource, Snapshot, need
from skyriver.core.spec import BudgetSpec, CounterSpec, DecisionRule, FeatureSetSpec, StreamSpec
from skyriver.data.border_values import parse_time
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.decide.streams.rules_kind import texts_of_rules, version_of, versions_of
from skyriver.trust.signing import proofs_of

_BOUNDS = ("budgets", "counters", "combine")
KEPT = 10
"""Replays of a stream whose rows are kept; those of older ones are removed by the next."""
MOST_BY = 5
_FORM = '{"decision": "block", "when": "score >= 0.9"}'


@dataclass(frozen=True, slots=True)
class DecisionBounds:
    """What rules are held to beside themselves."""

    budgets: tuple[BudgetSpec, ...] = ()
    counters: tuple[CounterSpec, ...] = ()
    combine: tuple[str, ...] = ()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> DecisionBounds:
        """From JSON. Raises ValidationError, TypeError."""
        return cls(
            tuple(map(BudgetSpec.model_validate, told.get("budgets") or ())),
            tuple(map(CounterSpec.model_validate, told.get("counters") or ())),
            tuple(map(str, told.get("combine") or ())),
        )


def plan_replay(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Decide a stretch of a stream's past again, as it was or by another version or other rules, and compare; with
    `offset`, compute the decision on one event again. Nothing but the job's own result is written."""
    stream = need(snapshot.find(tenant, "stream", target), "stream", target)
    app = need(snapshot.find(tenant, *stream.parent.split("/", 1)), "app", stream.parent)
    if not stream.spec.get("decide"):
        raise InvalidInput(
            f"{target} declares no decisions, so there is nothing to decide again.",
            code="NO_DECISIONS",
            next_action="Declare them with app.decide.",
        )
    asked = _one_event(params) if "offset" in params else _stretch(snapshot, stream, params)
    word = "recompute" if "offset" in params else "replay"
    name = f"{target}-{word}-{next_number(snapshot, tenant, 'job', f'{target}-{word}')}"
    job = new_job(
        snapshot,
        app,
        kind="replay",
        target=target,
        name=name,
        lane=f"job/{name}",
        params=asked,
        inputs={"gone": _gone(snapshot, tenant, target), "signed": proofs_of(snapshot.all(tenant, "version"))},
        title="replay",
        parent=f"operation/{name}",
    )
    return [new_operation(snapshot, tenant, name, action="replay", target=target, jobs=[name]), job]


def _one_event(params: Mapping[str, Any]) -> dict[str, Any]:
    offset = params["offset"]
    if type(offset) is not int or offset < 0 or len(params) > 1:
        raise InvalidInput(
            "An event is asked for by its offset alone, a whole number.",
            code="BAD_PARAMETER",
            next_action="`skyriver explain decision ID --recompute` finds it by the event's id.",
        )
    return {"offset": offset}


def _stretch(snapshot: Snapshot, stream: Resource, params: Mapping[str, Any]) -> dict[str, Any]:
    known = ("from", "to", "model", "rules", "by")
    if unknown := [name for name in params if name not in known]:
        raise InvalidInput(
            f"A replay knows no parameter {unknown[0]!r}.", code="BAD_PARAMETER", next_action=f"It knows {known}."
        )
    start, end = (_time(params.get(name), f"--{name}") for name in ("from", "to"))
    if start is not None and end is not None and start >= end:
        raise InvalidInput(
            f"The stretch ends ({params['to']}) before it begins ({params['from']}).",
            code="EMPTY_STRETCH",
            next_action="Give a --to after --from; it is not part of the stretch.",
        )
    own = StreamSpec.model_validate(stream.spec["stream"])
    declared = stream.spec.get("features")
    model = _version(snapshot, stream, params.get("model"))
    told = (model or {}).get("features") or declared
    features = FeatureSetSpec.model_validate(told) if told else None
    rules = _rules(snapshot, params.get("rules"), stream, own, features)
    by = params.get("by") or []
    names = [f.name for f in own.fields] + [f.name for f in (features.features if features is not None else ())]
    if not isinstance(by, list) or len(by) > MOST_BY or len({str(name) for name in by}) < len(by):
        raise InvalidInput(
            f"{by!r} is nothing to compare by.",
            code="BAD_PARAMETER",
            where="--by",
            next_action=f"Give at most {MOST_BY} different fields or features.",
        )
    for name in by:
        if name not in names:
            near = get_close_matches(str(name), names, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise InvalidInput(
                f"{stream.name} has no field and no feature {name!r} to compare by.",
                code="UNKNOWN_FIELD",
                where="--by",
                next_action=f"{hint}There are {', '.join(dict.fromkeys(names))}.",
            )
    name = f"{model['name']}:{model['version']}" if model is not None else ""
    return {"start": start, "end": end, "model": model, "model_name": name, "rules": rules, "by": by}


def _time(text: object, option: str) -> int | None:
    if text in (None, ""):
        return None
    at = parse_time(text) if isinstance(text, str) else None
    if at is None:
        raise InvalidInput(
            f"{option} {text} is no time.",
            code="BAD_TIME",
            next_action="Write 2026-01-31 or 2026-01-31T12:30:00, in UTC unless it says otherwise.",
        )
    return at


def _version(snapshot: Snapshot, stream: Resource, text: object) -> dict[str, Any] | None:
    """As the live settings tell a version."""
    if text in (None, ""):
        return None
    ref = ModelRef.parse(str(text))
    if not ref.version:
        raise InvalidInput(
            f"--model {text} names no version.", code="BAD_PARAMETER", next_action=f"Write it as {ref.model}:3."
        )
    name = f"{ref.model}:{ref.version}"
    version = need(snapshot.find(stream.tenant, "version", name), "version", name)
    features = version.spec.get("features")
    source = ((features or {}).get("spec") or {}).get("source", stream.name)
    if features is None or source != stream.name:
        reads = f"features of {source}" if features is not None else "inputs of its own"
        raise Conflict(
            f"{name} cannot decide {stream.name}: it reads {reads}, and not what {stream.name} computes.",
            code="MODEL_OF_OTHER_FEATURES",
            next_action=f"Name a version that was trained on features of {stream.name}.",
        )
    return {
        "name": ref.model,
        "version": ref.version,
        "artifact": version.spec["artifact"],
        "features_digest": features["digest"],
        "features": features.get("spec"),
    }


def _version_of_rules(snapshot: Snapshot, stream: Resource, number: int) -> list[list[str]]:
    versions = {version_of(rules): rules for rules in versions_of(snapshot, stream)}
    if number not in versions:
        raise NotFound(
            f"There is no version {number} of the rules of {stream.name}.",
            code="NO_RULES",
            next_action=f"`skyriver rules list {stream.name}` shows what there is.",
        )
    return texts_of_rules(versions[number].spec["rules"])


def _rules(
    snapshot: Snapshot, told: object, stream: Resource, own: StreamSpec, features: FeatureSetSpec | None
) -> dict[str, Any] | None:
    """Raises InvalidInput (BAD_RULE) as a deployment does."""
    if told is None:
        return None
    if type(told) is int:
        told = {"rules": _version_of_rules(snapshot, stream, told)}
    decide = stream.spec["decide"]
    if not isinstance(told, Mapping) or not isinstance(told.get("rules"), list) or not told["rules"]:
        raise _bad_rules("It names no rules.")
    _check_keys(told, ("rules", "otherwise", "fallback", *_BOUNDS), "of them")
    rules = [_rule(rule) for rule in told["rules"]]
    found = {"rules": rules, **{word: told.get(word) or decide[word] for word in ("otherwise", "fallback")}}
    if wrong := next((word for word in ("otherwise", "fallback") if not isinstance(found[word], str)), None):
        raise _bad_rules(f"{wrong} is no decision.")
    by_rules = "rules" in (decide.get("fallback_by") or ())
    # Rules that come alone go with what is declared now: counters that they read may not have been there then.
    bounded = told if any(word in told for word in _BOUNDS) else {word: decide.get(word) for word in _BOUNDS}
    bounds = _bounds(bounded)
    compile_rules(
        [tuple(rule) for rule in rules],
        found["otherwise"],
        found["fallback"],
        own,
        features,
        without_score=by_rules,
        budgets=bounds.budgets,
        counters=bounds.counters,
        combine=bounds.combine,
    )
    if bounded is told or any(bounded.values()):
        found["bounds"] = {word: list(bounded.get(word) or ()) for word in _BOUNDS}
    return found


def _bounds(told: Mapping[str, Any]) -> DecisionBounds:
    try:
        return DecisionBounds.of(told)
    except ValidationError as error:
        raise _bad_rules(f"Of its budgets and counters, {misread(error)}.") from error
    except TypeError as error:
        raise _bad_rules("Its budgets, counters and order are lists.") from error


def _rule(rule: object) -> list[str]:
    if isinstance(rule, Mapping):
        _check_keys(rule, tuple(DecisionRule.model_fields), f"of the rule {rule!r:.80}")
        parts: Sequence[object] = [
            rule.get("decision"),
            rule.get("when"),
            *([rule["name"]] if rule.get("name") else []),
        ]
    else:
        parts = rule if isinstance(rule, list) else []
    if len(parts) not in (2, 3) or not all(isinstance(part, str) and part for part in parts):
        raise _bad_rules(f"{rule!r:.80} is no rule.")
    return [str(part) for part in parts]


def _check_keys(told: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    if unknown := [key for key in told if key not in known]:
        raise _bad_rules(f"{unknown[0]!r} {what} is not known{nearest(unknown[0], known)}.")


def _bad_rules(why: str) -> InvalidInput:
    return InvalidInput(
        f"The rules cannot be taken. {why}",
        code="BAD_RULES",
        where="--rules",
        next_action=f'Write {{"rules": [...], "otherwise": ..., "fallback": ...}}, each rule as {_FORM}.',
    )


def _gone(snapshot: Snapshot, tenant: str, target: str) -> list[str]:
    """Digests of the rows of all but the newest replays of this stream, the one to come among them."""
    replays = [
        job for job in snapshot.all(tenant, "job") if job.spec["kind"] == "replay" and job.spec["target"] == target
    ]
    kept: set[str] = set()
    gone: set[str] = set()
    for place, job in enumerate(sorted(replays, key=lambda job: job.created_at, reverse=True)):
        rows = {row["digest"] for row in job.status.get("outputs", {}).get("artifacts", {}).values()}
        (kept if place < KEPT - 1 else gone).update(rows)
    return sorted(gone - kept)
