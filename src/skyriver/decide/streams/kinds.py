"""Streams and their workers as kinds: one worker process a partition, with the model that its service releases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from skyriver.core.jobs import ENDED, new_job, next_number
from skyriver.core.names import digest
from skyriver.core.processes import PROCESS_TRANSITIONS, not_ready
from skyriver.core.resources import (
    Action,
    Delete,
    Kind,
    Pool,
    ProcessSpec,
    ProcessStatus,
    Put,
    Resource,
    Route,
    Server,
    Snapshot,
    Want,
    WantPool,
    WantRoute,
)
from skyriver.core.units import format_duration
from skyriver.decide.streams.dispatcher_kind import new_dispatcher
from skyriver.decide.streams.lateness import why_late
from skyriver.decide.streams.live import lasting, lasting_stream, live_settings

MATERIALISE_EVERY_US = 60_000_000
MATERIALISE_ROWS = 500_000
"""Rows that wait for the table at most, before a job is started sooner."""
KEPT_JOBS = 5
DEPLOYED = "DEPLOYED"
"""Why a worker is started again that nothing is wrong with."""
FIRST_RECORDS = 1
"""Records that a worker writes by itself into a new log: what it decides with."""

STREAM_TRANSITIONS: Mapping[tuple[str, str], str] = {
    (state, event): target
    for state in ("PENDING", "STARTING", "READY", "UPDATING", "DEGRADED")
    for event, target in (
        ("starting", "STARTING"),
        ("ready", "READY"),
        ("updating", "UPDATING"),
        ("degraded", "DEGRADED"),
    )
}


def _step_stream(snapshot: Snapshot, stream: Resource) -> Iterator[Action]:
    name = f"{stream.name}-0"
    worker = snapshot.find(stream.tenant, "worker", name)
    yield WantRoute(Route(stream.tenant, "stream", stream.name, ((stream.name, 100),)))
    if worker is None:
        yield Put(
            Resource(stream.tenant, "worker", name, spec={"partition": 0}, state="STARTING", parent=stream.ref), 0
        )
        return
    process = snapshot.processes.get(worker.process)
    # Also when the row is about to follow its process: a control plane that comes back must not take what works out of
    # the gateway because the one before it did not live to write it down.
    if process is not None and (worker.state == "READY" or (process.alive and process.report.get("ready"))):
        yield WantPool(Pool(stream.tenant, stream.name, (Server(process.name, process.socket),)))
    yield from new_dispatcher(snapshot, stream, process)  # before it is noted that the stream began
    yield from _judge(snapshot, stream, worker, process)
    if process is not None and process.report.get("ready"):
        yield from _materialise(snapshot, stream, process)


def _judge(snapshot: Snapshot, stream: Resource, worker: Resource, process: ProcessStatus | None) -> Iterator[Action]:
    report = process.report if process is not None else {}
    using = (report.get("model") or {}).get("version") or 0
    live = live_settings(snapshot, stream)
    wanted = (live.get("model") or {}).get("version") or 0
    arms = {what: (report.get(what) or {}).get("version") or 0 for what in ("canary", "shadow")}
    wanted_arms = {what: (live.get(what) or {}).get("version") or 0 for what in arms}
    changing = _coarse(report.get("features"), stream.status.get("features"), snapshot.now)
    status = {**stream.status, "model_version": using, "worker": worker.state, "features": changing, **arms}
    if (
        process is not None
        and report.get("generation") == stream.generation
        and _is_as_declared(snapshot, stream, process)
    ):
        status["generation"] = stream.generation
    if int(report.get("offset", 0)) > FIRST_RECORDS:
        status["began"] = True
    told: dict[str, str] = {}
    match worker.state:
        case "READY" if using == wanted and arms == wanted_arms and (rules := _rules_change(report, live)):
            event, told = "updating", _joined(rules, _own_trouble(report))
        case "READY" if using == wanted and arms == wanted_arms:
            event = "ready"
            besides: dict[str, str] = {}
            if not using and stream.spec.get("decide"):
                besides = _undecided(stream.spec["decide"])
            elif changing:
                besides = _features_change(stream, changing)
            told = _joined(_source_trouble(report), _overload(stream, report), besides)
        case "READY":
            event = "updating"
            message = str(report.get("message", ""))
            told = {
                "reason": "MODEL_CHANGES",
                "message": f"It goes from {_versions(using, arms)} to {_versions(wanted, wanted_arms)}."
                f" {message}".rstrip(),
                "next_action": str(report.get("next_action", "")),
            }
            if changing:
                told["message"] += " " + _features_change(stream, changing)["message"]
        case "LOST":
            event = "degraded"
            told = {"reason": worker.reason, "message": worker.message, "next_action": worker.next_action}
        case _:
            event = "starting"
            told = {"reason": worker.reason, "message": worker.message, "next_action": worker.next_action}
            told |= {k: str(report[k]) for k in ("reason", "message", "next_action") if report.get(k)}
    after = STREAM.move(stream, event, snapshot.now, status=status, **told)
    if after != stream:
        yield Put(after, stream.revision)


def _versions(main: int, arms: Mapping[str, int]) -> str:
    return " with ".join([f"version {main}", *(f"{version} as {what}" for what, version in arms.items() if version)])


def _rules_change(report: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, str]:
    """While a worker does not use the versions of rules yet that it is to use."""
    said = report.get("rules")
    if not said or not live.get("rules_version"):  # a worker of before rules had versions
        return {}
    trial, wanted = said.get("trial") or {}, live.get("trial") or {}
    using = (said.get("version"), trial.get("number"), trial.get("percent"))
    if using == (live["rules_version"], wanted.get("number"), wanted.get("percent")):
        return {}
    tried = f" with version {wanted['number']} beside" if wanted else ""
    message = f"Its rules go to version {live['rules_version']}{tried}."
    return {"reason": "RULES_CHANGE", "message": message, "next_action": ""}


def _own_trouble(report: Mapping[str, Any]) -> dict[str, str]:
    """What a worker says of itself."""
    told = {what: str(report.get(what, "")) for what in ("reason", "message", "next_action")}
    return told if told["message"] else {}


def _joined(*troubles: Mapping[str, str]) -> dict[str, str]:
    """One does not hide the other; the reason is that of the first."""
    there = [trouble for trouble in troubles if trouble]
    if not there:
        return {}
    texts = {what: " ".join(trouble[what] for trouble in there) for what in ("message", "next_action")}
    return {"reason": there[0]["reason"], **texts}


def _source_trouble(report: Mapping[str, Any]) -> dict[str, str]:
    """A stream whose broker is away is ready all the same: it takes events over HTTP."""
    source = report.get("source") or {}
    if source.get("state") != "DEGRADED":
        return {}
    message = f"Nothing comes from {source['name']}: {source['message']} Events over HTTP are taken."
    return {"reason": source["reason"], "message": message, "next_action": source["next_action"]}


def _overload(stream: Resource, report: Mapping[str, Any]) -> dict[str, str]:
    """It decides all the same, and not as its model would. Without numbers that change: a row is not written for each
    event."""
    pace = report.get("pace") or {}
    decide = stream.spec.get("decide")
    if not pace or not decide:
        return {}
    within = format_duration(int(pace["latency_us"]))
    if pace["step"] == "full":
        return _late(stream, within, pace)
    at = datetime.fromtimestamp(int(pace["since"]) / 1e6, UTC)
    cheaper = (report.get("cheaper") or {}).get("version")
    # A worker may use one still that is not declared any more.
    named = repr(decide["cheaper"]) if decide.get("cheaper") else "no longer declared"
    told = (
        f"events that cannot be decided within {within} get the fallback {decide['fallback']!r} without a score,"
        " with the reason SHED."
    )
    if pace["step"] == "threads":
        return _widened(stream, pace, at)
    if pace["step"] == "cheaper":
        told = f"version {cheaper}, {named}, scores in place of the released one."
    elif cheaper:
        told += f" Version {cheaper}, {named}, scores the others."
    action = f"`skyriver stream get {stream.name}` shows what comes and what can be decided."
    if decide.get("cheaper") and not cheaper:
        action += f" No version that it can use has the alias {decide['cheaper']!r}: `skyriver model alias` gives it."
    elif not cheaper:
        action += " A smaller model (compress=) decides more, a longer latency= sheds less."
    return {
        "reason": "SHEDDING" if pace["step"] == "shedding" else "CHEAPER_VERSION",
        "message": f"Since {at:%Y-%m-%d %H:%M:%S} UTC {told} Then {pace['why']}.",
        "next_action": action,
    }


def _widened(stream: Resource, pace: Mapping[str, Any], at: datetime) -> dict[str, str]:
    return {
        "reason": "MORE_THREADS",
        "message": f"Since {at:%Y-%m-%d %H:%M:%S} UTC every event is scored in up to {pace['threads']['most']} threads."
        f" Then {pace['why']}.",
        "next_action": f"None is needed: `skyriver stream get {stream.name}` shows what comes and what can be decided.",
    }


def _late(stream: Resource, within: str, pace: Mapping[str, Any]) -> dict[str, str]:
    """Nothing is shed, for that would not help."""
    since = int(pace.get("late_since", 0))
    if not since:
        return {}
    cause, action = why_late(pace)
    at = datetime.fromtimestamp(since / 1e6, UTC)
    return {
        "reason": "ANSWERS_LATE",
        "message": f"Since {at:%Y-%m-%d %H:%M:%S} UTC events are decided later than within {within}, by their model all"
        f" the same: {cause}.",
        "next_action": f"{action} Or declare a longer latency=."
        f" `skyriver stream get {stream.name}` shows what the worker's time goes to.",
    }


def _undecided(decide: Mapping[str, Any]) -> dict[str, str]:
    """A stream may begin before its model; nobody must take its fallback for the model's word."""
    return {
        "reason": "NO_VERSION",
        "message": f"Each event gets the fallback {decide['fallback']!r}: no version of {decide['model']} serves.",
        "next_action": f"`skyriver run {decide['model']}` trains one.",
    }


def _coarse(changing: Mapping[str, Any] | None, before: Mapping[str, Any] | None, now: int) -> dict[str, Any] | None:
    """What a worker tells of features that change, in steps: a row is not written for each event. `since` when they
    are in this state."""
    if changing is None:
        return None
    same = before is not None and all(before[k] == changing[k] for k in ("digest", "state"))
    return {
        "digest": changing["digest"],
        "state": changing["state"],
        "since": before["since"] if before is not None and same else now,
        "percent": 100 * int(changing["offset"]) // max(1, int(changing["end"])),
        "memory_mb": -(-int(changing["memory_mb"]) // 10) * 10,
        "disk_mb": -(-int(changing["disk_mb"]) // 10) * 10,
        "whole_from": changing.get("whole_from"),
    }


def _features_change(stream: Resource, changing: Mapping[str, Any]) -> dict[str, str]:
    """Of features that are built or folded beside those that decide, and what that costs."""
    cost = f"{changing['memory_mb']} MB of memory and {changing['disk_mb']} MB of disk"
    model = stream.spec["decide"]["model"]
    if changing["state"] == "ready":
        return {
            "reason": "FEATURES_READY",
            "message": "Its changed features are computed beside those that decide, until a version trained on them is"
            f" released; they take up to {cost}.",
            "next_action": f"`skyriver run {model}` trains one.",
        }
    if changing["state"] == "waiting":
        at = datetime.fromtimestamp(int(changing["whole_from"]) / 1e6, UTC)
        return {
            "reason": "FEATURES_WAIT",
            "message": "Its log has given up a part of what its changed features look back to. They are computed beside"
            f" those that decide, and may decide from {at:%Y-%m-%d %H:%M} UTC on, by its events' time; until then they"
            f" take up to {cost}.",
            "next_action": f"`skyriver run {model}` trains on them meanwhile. To have them sooner, declare a stream of"
            f" another name and load the history from the table {stream.name} there.",
        }
    how = (
        "compiled, to be built from its history then" if changing["state"] == "compiling" else "built from its history"
    )
    share = "" if changing["state"] == "compiling" else f", {changing['percent']}% of it"
    return {
        "reason": "FEATURES_BUILD",
        "message": f"Its changed features are {how}{share}, with up to {cost}; those of before go on deciding.",
        "next_action": f"`skyriver run {model}` trains on them meanwhile; the version decides once they are built.",
    }


def _materialise(snapshot: Snapshot, stream: Resource, process: ProcessStatus) -> Iterator[Action]:
    """Starts a job that brings the stream's tables up to date, now and then; forgets old ones."""
    table = snapshot.find(stream.tenant, "table", stream.name)
    app = snapshot.find(stream.tenant, *stream.parent.split("/", 1))
    if table is None or app is None:
        return
    jobs = [j for j in snapshot.children(stream, "job") if j.spec["kind"] == "materialise"]
    jobs.sort(key=lambda j: j.created_at)
    final = [j for j in jobs if j.state in ENDED]
    for old in final[:-KEPT_JOBS]:
        yield Delete(*old.key, old.revision)
    lane = f"table/{stream.name}"
    if any(j.spec.get("lane") == lane and j.state not in ENDED for j in snapshot.all(stream.tenant, "job")):
        return  # a load brings the tables up to date itself
    waiting = int(process.report.get("offset", 0)) - 1 - int(table.status.get("offset", -1))
    last = max((j.since for j in final), default=process.started_at)
    if waiting >= MATERIALISE_ROWS or (waiting > 0 and snapshot.elapsed(last) >= MATERIALISE_EVERY_US):
        prefix = f"{stream.name}-materialise"
        job = new_job(
            snapshot,
            app,
            kind="materialise",
            target=stream.name,
            name=f"{prefix}-{next_number(snapshot, stream.tenant, 'job', prefix)}",
            lane=lane,
            tables=(stream.name,),
            parent=stream.ref,
        )
        yield Put(job, 0)


def _step_worker(snapshot: Snapshot, worker: Resource) -> Iterator[Action]:
    stream = snapshot.find(worker.tenant, *worker.parent.split("/", 1))
    if stream is None:
        yield Delete(*worker.key, worker.revision)
        return
    name = worker.process
    config = _config(snapshot, stream)
    yield Want(ProcessSpec(name, "worker", worker.tenant, config, live=live_settings(snapshot, stream)))
    process = snapshot.processes.get(name)
    if process is None:
        return
    ready = process.alive and process.report.get("ready")
    if not _is_as_declared(snapshot, stream, process):
        if worker.state == "READY":
            message = "It is started again with what was deployed; what it acknowledged is kept."
            told = WORKER.move(worker, "starting", snapshot.now, reason=DEPLOYED, message=message)
            yield Put(told, worker.revision)
    elif not ready:
        yield from not_ready(WORKER, snapshot, worker, process, "What it acknowledged is kept.")
    elif worker.state != "READY":
        yield Put(WORKER.move(worker, "ready", snapshot.now, attempts=0), worker.revision)


def _config(snapshot: Snapshot, stream: Resource) -> dict[str, Any]:
    """What its worker is started with: another one is another worker."""
    return {
        "stream": lasting_stream(stream.spec["stream"]),
        "decide": lasting(stream.spec.get("decide")),
        "directory": f"{{home}}/streams/{stream.tenant}/{stream.name}",
        "objects": "{home}/objects",
        "kernel_cache": "{home}/cache/kernels",
        "queue": 10_000,
        **({"reads": True} if _is_read(snapshot, stream) else {}),
    }


def _is_as_declared(snapshot: Snapshot, stream: Resource, process: ProcessStatus) -> bool:
    """Whether it was started with what is declared now."""
    if stream.status.get("generation") == stream.generation and process.report.get("ready"):
        return True  # as it was found to be; what else its configuration rests on ends it soon enough
    return process.config_digest in ("", digest(_config(snapshot, stream)))


def _is_read(snapshot: Snapshot, stream: Resource) -> bool:
    """Whether some service reads its features by key."""
    asked = (service.spec.get("serve", {}).get("features") or {} for service in snapshot.all(stream.tenant, "service"))
    return any(features.get("stream") == stream.name for features in asked)


def _stream_waits(snapshot: Snapshot, stream: Resource) -> Iterator[str]:
    yield from (w.ref for w in snapshot.children(stream, "worker") if w.state != "READY")


STREAM = Kind("stream", "PENDING", STREAM_TRANSITIONS, frozenset(), _step_stream, _stream_waits)
WORKER = Kind("worker", "STARTING", PROCESS_TRANSITIONS, frozenset(), _step_worker)
