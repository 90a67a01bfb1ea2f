"""What the control plane tells a worker to decide with: its live settings, from the rows of its stream, of its model's
service and of the versions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from skyriver.core.errors import InvalidInput
from skyriver.core.resources import Resource, Snapshot
from skyriver.core.spec import IN_TIME, AppSpec
from skyriver.decide.streams.rules_kind import rules_settings
from skyriver.trust.signing import proofs_of

BOUNDS = ("budgets", "counters", "combine")
"""What is declared beside the rules, where it is; it comes and changes with them."""
UNDECISIVE = ("examples", "costs", "reasons")
"""What decides nothing."""
OBJECTIVE = ("latency_us", "share", "cheaper", "cpus")
"""Within what time how many events are decided, and by which version and how many cores when that is not kept."""
DISPATCHED = ("sinks", "reviews")
"""What is declared of decisions that the stream's dispatcher does, not its worker."""
DISPATCHED_STEP = 4_096
EXPLAINED = 50
"""Versions of a model whose decisions a worker can explain: the last ones."""
UNKNOWN = "undecided"
"""Of a worker that has no live settings, and a log that tells of none."""
LIMITS = ("retention_us", "retention_bytes", "local_bytes")
"""Of a stream's log; a worker takes changed ones without a restart."""


def live_settings(snapshot: Snapshot, stream: Resource) -> dict[str, Any]:
    """Weights of the service become arms: of two versions with a weight the older one is released and the newer one
    is its canary, for its percent of the keys, whichever weighs more; so a key stays with its version while the weights
    move, and over them all. A version with `shadow` scores beside, and decides nothing."""
    table = snapshot.find(stream.tenant, "table", stream.name)
    materialised = int(table.status.get("offset", -1)) if table is not None else None
    keep = {limit: stream.spec["stream"][limit] for limit in LIMITS if limit in stream.spec["stream"]}
    told = {
        "began": bool(stream.status.get("began")),
        "generation": stream.generation,
        "materialised": materialised,
        "keep": keep,
    }
    if (dispatched := dispatched_of(snapshot, stream)) is not None:
        told["dispatched"] = dispatched
    decide = stream.spec.get("decide")
    if not decide:
        return {"model": None, "features": None, "rules": [], "otherwise": "", "fallback": "", **told}
    name = decide["model"]
    service = snapshot.find(stream.tenant, "service", name)
    versions: Mapping[str, Any] = service.spec.get("versions", {}) if service is not None else {}
    weighty = sorted((v for v in versions if versions[v]["weight"] > 0), key=int)
    if len(weighty) > 2:  # an arm for each is not built: the two that weigh most
        weighty = sorted(sorted(weighty, key=lambda v: (versions[v]["weight"], int(v)))[-2:], key=int)
    shadow = max((v for v in versions if versions[v].get("shadow")), key=int, default="")
    canary = None
    if len(weighty) == 2 and (canary := _model(snapshot, stream, name, weighty[1])) is not None:
        total = sum(versions[v]["weight"] for v in weighty)
        canary["percent"] = round(100 * versions[weighty[1]]["weight"] / total, 2)
    cheaper = _cheaper(snapshot, stream, decide)
    return {
        "model": _model(snapshot, stream, name, weighty[0]) if weighty else None,
        "canary": canary,
        "shadow": _model(snapshot, stream, name, shadow) if shadow else None,
        "features": stream.spec.get("features"),
        **rules_settings(snapshot, stream),
        "otherwise": decide["otherwise"],
        "fallback": decide["fallback"],
        "fallback_by": list(decide.get("fallback_by") or ()),
        "deadline_us": decide.get("deadline_us") or 0,
        "explain": _explained_by(snapshot, stream, decide),
        "signed": proofs_of(_loaded(snapshot, stream, name, {*versions, *([cheaper] if cheaper else ())})),
        **{what: decide[what] for what in BOUNDS if what in decide},
        **_objective(decide),
        **({"cheaper": _model(snapshot, stream, name, cheaper)} if cheaper else {}),
        **told,
    }


def _cheaper(snapshot: Snapshot, stream: Resource, decide: Mapping[str, Any]) -> str:
    """The number of the version that scores where the latency cannot be kept; "": none is named, or has the name."""
    return str(_aliases(snapshot, stream.tenant, decide["model"]).get(decide.get("cheaper", ""), ""))


def _aliases(snapshot: Snapshot, tenant: str, name: str) -> Mapping[str, Any]:
    model = snapshot.find(tenant, "model", name)
    return model.status.get("aliases", {}) if model is not None else {}


def check_cheaper(snapshot: Snapshot, tenant: str, app: AppSpec) -> list[tuple[str, str]]:
    """(stream, why nothing cheaper would score), a warning: of models without any version yet, of which none can have
    the alias, and where the released one has it. Raises InvalidInput (NO_CHEAPER) where there are versions, and none
    has it."""
    missing = []
    for decide in app.decides:
        aliases = _aliases(snapshot, tenant, decide.model)
        if decide.cheaper and aliases.get(decide.cheaper, 0) == aliases.get("champion"):
            told = (
                f"{decide.cheaper!r} is version {aliases[decide.cheaper]} of {decide.model}, which is the released one"
            )
            other = f"`skyriver model alias {decide.model} {decide.cheaper} VERSION`"
            missing.append((decide.stream, f"{told}: nothing is cheaper; {other} gives it to a smaller one"))
        if not decide.cheaper or decide.cheaper in aliases:
            continue
        versions = _versions_of(snapshot, tenant, decide.model)
        number = _smaller(snapshot, tenant, decide.model, versions)
        give = f"`skyriver model alias {decide.model} {decide.cheaper} {number}`"
        if versions:
            known = f"there are {', '.join(sorted(aliases))}" if aliases else "none has any"
            raise InvalidInput(
                f"The decisions of {decide.stream}: cheaper={decide.cheaper!r} is no alias of a version of"
                f" {decide.model}; {known}.",
                code="NO_CHEAPER",
                where=f"stream/{decide.stream}",
                next_action=f"Give it to a smaller version first: {give}; or name an alias that is known.",
            )
        missing.append(
            (decide.stream, f"no version of {decide.model} can be {decide.cheaper!r} yet: once one is, {give}")
        )
    return missing


def _smaller(snapshot: Snapshot, tenant: str, name: str, versions: Sequence[Resource]) -> str:
    """The number of one that could stand in: the newest that may serve and does not; else a word in its place."""
    service = snapshot.find(tenant, "service", name)
    serving: Mapping[str, Any] = service.spec.get("versions", {}) if service is not None else {}
    numbers = [v.name.rpartition(":")[2] for v in versions if v.state == "APPROVED"]
    return next((n for n in reversed(numbers) if not serving.get(n, {}).get("weight")), "VERSION")


def _objective(decide: Mapping[str, Any]) -> dict[str, Any]:
    latency_us = decide.get("latency_us")
    if not latency_us:
        return {}
    cpus = {"cpus": decide["cpus"]} if decide.get("cpus", 1) > 1 else {}
    return {"objective": {"latency_us": latency_us, "share": decide.get("share", IN_TIME), **cpus}}


def _loaded(snapshot: Snapshot, stream: Resource, name: str, asked: Set[str]) -> list[Resource]:
    """The versions whose files a worker may load: the last ones, those that are asked and those that got requests."""
    model = snapshot.find(stream.tenant, "model", name)
    served = {str(entry["version"]) for entry in model.status.get("history", ())} if model is not None else set()
    versions = _versions_of(snapshot, stream.tenant, name)
    named = served | asked
    return [v for v in versions[:-EXPLAINED] if v.name.rpartition(":")[2] in named] + versions[-EXPLAINED:]


def _versions_of(snapshot: Snapshot, tenant: str, name: str) -> list[Resource]:
    versions = [v for v in snapshot.all(tenant, "version") if v.name.rpartition(":")[0] == name]
    return sorted(versions, key=lambda v: int(v.name.rpartition(":")[2]))


def _explained_by(snapshot: Snapshot, stream: Resource, decide: Mapping[str, Any]) -> dict[str, Any]:
    """What tells why a decision was made: the files of the model's last versions, and words for its features."""
    versions = _versions_of(snapshot, stream.tenant, decide["model"])
    artifacts = {v.name.rpartition(":")[2]: v.spec["artifact"] for v in versions[-EXPLAINED:]}
    return {"artifacts": artifacts, "texts": dict(decide.get("reasons") or {})}


def dispatched_of(snapshot: Snapshot, stream: Resource) -> int | None:
    """Up to (excluding) which offset the stream's decisions were read for its sinks and reviews, in coarse steps: a
    worker's settings are not written for each decision. None: nobody reads them, or the log is kept whole."""
    dispatcher = snapshot.find(stream.tenant, "dispatcher", stream.name)
    kept = stream.spec["stream"]
    if dispatcher is None or not (kept.get("retention_us") or kept.get("retention_bytes")):
        return None
    process = snapshot.processes.get(dispatcher.process)
    report = process.report if process is not None else {}
    return max(int(dispatcher.spec["begin"]), int(report.get("offset", 0)) // DISPATCHED_STEP * DISPATCHED_STEP)


def _model(snapshot: Snapshot, stream: Resource, name: str, number: str) -> dict[str, Any] | None:
    version = snapshot.find(stream.tenant, "version", f"{name}:{number}")
    if version is None:
        return None
    features = version.spec.get("features")
    return {
        "name": name,
        "version": int(number),
        "artifact": version.spec["artifact"],
        "features_digest": features["digest"] if features else "",
        "features": features.get("spec") if features else None,
    }


def lasting_stream(stream: Mapping[str, Any]) -> dict[str, Any]:
    """As `lasting`: how long its log is kept comes with the live settings."""
    return {what: value for what, value in stream.items() if what not in LIMITS}


def lasting(decide: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a worker is started with of it. The rules come with its live settings, as the features, the deadline, the
    fallback and what stands in for it do: changed ones need no new worker, for which events would have to wait.
    Examples, costs and words for reasons decide nothing."""
    if not decide:
        return None
    kept = {
        what: value for what, value in decide.items() if what not in (*UNDECISIVE, *BOUNDS, *DISPATCHED, *OBJECTIVE)
    }
    return {**kept, "rules": [], "otherwise": UNKNOWN, "fallback": UNKNOWN, "fallback_by": [], "deadline_us": 0}
