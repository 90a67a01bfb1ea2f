"""Services and replicas as kinds: how many processes serve which version, and who gets the requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from skyriver.core.declared import service_spec
from skyriver.core.jobs import ENDED, Capacity
from skyriver.core.processes import how_it_ended
from skyriver.core.resources import (
    Action,
    Delete,
    Kind,
    Pool,
    ProcessSpec,
    Put,
    RequestLimit,
    Resource,
    Route,
    Server,
    Snapshot,
    Want,
    WantPool,
    WantRoute,
)
from skyriver.core.units import parse_rate
from skyriver.release.registered import is_registered
from skyriver.release.rollouts import champion
from skyriver.serve.activator_kind import ENDING, new_activator
from skyriver.serve.from_stream import live_of_replica, stream_waited_for
from skyriver.serve.logged import log_of_replica
from skyriver.serve.objective import told_if_impossible, told_if_larger
from skyriver.serve.scaling_kind import decided
from skyriver.serve.sharing import shared, sharing_of_replica
from skyriver.serve.sizing import live_sizing, sizing_after, starts_at_once
from skyriver.serve.sleeping import (
    activator_of,
    is_asleep,
    replicas_wanted,
    rest_after,
    rests,
    rests_after,
    somebody_holds,
    told_of,
    woke_after,
)
from skyriver.trust.signing import proof_of

GIVE_UP_STARTS = 5
"""Starts in a row that ended before ready, after which a replica is FAILED."""
DRAIN_LIMIT_US = 60_000_000
RETRY_FAILED_US = 60_000_000
"""After which a replica that was given up is tried once more: what broke it may be mended."""

SERVICE_TRANSITIONS: Mapping[tuple[str, str], str] = {
    (state, event): target
    for state in ("PENDING", "STARTING", "READY", "UPDATING", "DEGRADED", "SCALED_TO_ZERO")
    for event, target in (
        ("no_version", "PENDING"),
        ("starting", "STARTING"),
        ("ready", "READY"),
        ("updating", "UPDATING"),
        ("degraded", "DEGRADED"),
        ("asleep", "SCALED_TO_ZERO"),
    )
}

REPLICA_TRANSITIONS: Mapping[tuple[str, str], str] = {
    ("STARTING", "ready"): "READY",
    ("STARTING", "seen"): "STARTING",
    ("STARTING", "lost"): "LOST",
    ("STARTING", "failed"): "FAILED",
    ("STARTING", "drain"): "DRAINING",
    ("READY", "seen"): "READY",
    ("READY", "lost"): "LOST",
    ("READY", "failed"): "FAILED",
    ("READY", "drain"): "DRAINING",
    ("LOST", "lost"): "LOST",
    ("LOST", "starting"): "STARTING",
    ("LOST", "ready"): "READY",
    ("LOST", "failed"): "FAILED",
    ("LOST", "drain"): "DRAINING",
    ("FAILED", "drain"): "DRAINING",
    ("FAILED", "starting"): "STARTING",
    ("DRAINING", "drained"): "STOPPED",
}


def _step_service(snapshot: Snapshot, before: Resource, machine: Capacity | None = None) -> Iterator[Action]:
    service = _without_expired(before, snapshot.now)
    versions: Mapping[str, Any] = service.spec.get("versions", {})
    replicas = snapshot.children(service, "replica")
    serve = service_spec(service.spec["serve"])
    yield from new_activator(snapshot, service, serve)
    members = [r for r in replicas if r.state not in ENDING]
    rest = rest_after(snapshot, service, serve, members, serves=any(serves(snapshot, r) for r in members))
    held = somebody_holds(snapshot, service.tenant)
    woke = woke_after(snapshot, service, rest)
    there = max(Counter(r.spec["version"] for r in members).values(), default=0)
    awake = max(decided(snapshot, service, serve, there), int(woke.get("replicas", 0)))
    count = replicas_wanted(rest, awake, there=len(members), held=held, at_once=starts_at_once(service))
    yield from _fit_replicas(snapshot, service, versions, replicas, count)

    leaving = {r.name for r in _surplus(versions, replicas, count)}
    serving = [r for r in replicas if serves(snapshot, r) and r.name not in leaving]
    ready = {v: [r for r in serving if str(r.spec["version"]) == v] for v in versions}
    stand_in = _stand_in(snapshot, service) if rest or rests(service, serve) else ()
    for version, of_version in ready.items():
        servers = tuple(_server(snapshot, r) for r in of_version) or stand_in
        yield WantPool(Pool(service.tenant, f"{service.name}:{version}", servers))
    split = _split(service, versions)
    limit, steady = _limit(service.spec["serve"]), _steady(snapshot, service, split)
    yield WantRoute(Route(service.tenant, "model", service.name, split, limit=limit, steady=steady))

    sizing = sizing_after(snapshot, service, members)
    told_rests = rests_after(snapshot, service, serve, rest, len(members))
    full = next((v for v, w in versions.items() if w["weight"] == 100), "")
    broken = {v: r.message for v in versions for r in replicas if str(r.spec["version"]) == v and r.state == "FAILED"}
    status = {
        **{k: v for k, v in service.status.items() if k not in ("rest", "rests", "sizing", "wanted", "woke")},
        "ready": {v: len(of_version) for v, of_version in ready.items()},
        "routed": full if full and (ready.get(full) or is_asleep(rest)) else "",
        "broken": broken,
        **({"rest": rest} if rest else {}),
        **({"rests": told_rests} if told_rests else {}),
        **({"wanted": count} if serve.elastic else {}),
        **({"woke": woke} if woke else {}),
        **({"sizing": sizing} if sizing else {}),
    }
    if not versions:
        event, told = "no_version", _no_version(snapshot, service)
    elif is_asleep(rest):
        event, told = "asleep", told_of(service.name, rest, serve)
    else:
        event, told = _judge(versions, ready, count, broken)
        if event == "degraded" and serve.elastic and not any(map(_is_troubled, members)):
            event, told = "ready", {}  # those that are missing have only just been asked for
        if event == "ready":
            told = told_if_impossible(snapshot, service, serve) or told_if_larger(service.name, serve, machine)
        if event == "starting" and rest:
            told = told_of(service.name, rest, serve, " ".join(r.message for r in members if r.state == "LOST"))
    after = SERVICE.move(service, event, snapshot.now, status=status, **told)
    if after != before:
        yield Put(after, before.revision)


def _is_troubled(replica: Resource) -> bool:
    return replica.state in ("LOST", "FAILED") or replica.attempts > 0


def _without_expired(service: Resource, now: int) -> Resource:
    """Without the versions that were kept ready, once that is over."""
    versions = service.spec.get("versions", {})
    kept = {v: told for v, told in versions.items() if now < told.get("until", now + 1)}
    return service if kept == versions else replace(service, spec={**service.spec, "versions": kept})


def _split(service: Resource, versions: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Where keys stay with their version, the champion's replicas get all requests, and pass on what is not theirs."""
    weighty = {v: int(told["weight"]) for v, told in sorted(versions.items()) if told["weight"]}
    if len(weighty) > 1 and (by_key := shared(service)):
        weighty = {v: 100 for v in weighty if v != by_key}
    return tuple((f"{service.name}:{v}", weight) for v, weight in weighty.items())


def _steady(snapshot: Snapshot, service: Resource, split: Sequence[tuple[str, int]]) -> str:
    """The champion's pool, while another version has a share beside it."""
    model = snapshot.find(service.tenant, "model", service.name)
    pool = f"{service.name}:{champion(model) if model is not None else 0}"
    return pool if len(split) > 1 and pool in dict(split) else ""


def _limit(serve: Mapping[str, Any]) -> RequestLimit:
    """Services of releases that knew no limits have none."""
    return RequestLimit(
        per_second=parse_rate(serve["limit"]) if serve.get("limit") else 0, at_once=serve.get("concurrency", 0)
    )


def _stand_in(snapshot: Snapshot, service: Resource) -> tuple[Server, ...]:
    """The activator, where the service has no replica that serves."""
    activator = activator_of(snapshot, service.tenant)
    return (Server(activator.name, activator.socket, holds=True),) if activator is not None else ()


def _no_version(snapshot: Snapshot, service: Resource) -> dict[str, str]:
    """Why none serves: a training or a check of its file that failed, one that served before the model was removed, or
    there was none yet."""
    name = service.name
    of_model = (v for v in snapshot.all(service.tenant, "version") if v.spec["model"] == name and v.state == "APPROVED")
    approved = max((int(v.spec["version"]) for v in of_model), default=0)
    model = snapshot.find(service.tenant, "model", name)
    is_file = model is not None and bool((model.spec.get("model") or {}).get("onnx"))
    makes = ("import" if is_file else "train", name)
    trainings = [o for o in snapshot.all(service.tenant, "operation") if (o.spec["action"], o.spec["target"]) == makes]
    last = max(trainings, key=lambda o: (o.created_at, o.name), default=None)
    if model is not None and is_registered(model):
        message = (
            "No version of the model was named champion yet." if approved else "The gate passed no version of it yet."
        )
        brings = f"`skyriver model import {name} FILE` brings one, "
        action = f"{'' if approved else brings}`skyriver model alias {name} champion {approved or 1}` lets it serve."
    elif approved:
        message = f"No version serves; {name}:{approved} passed the gate earlier."
        action = f"`skyriver rollback {name}:{approved}` makes it serve again; `skyriver run {name}` trains another."
    elif last is not None and last.state == "FAILED":
        message = f"No version of the model is released yet: {last.name} failed, {last.reason}."
        again = "mend the file and deploy it again" if is_file else f"`skyriver run {name}` trains again"
        action = f"`skyriver explain {last.name}` tells why; {again}."
    elif is_file:
        message, action = "The model's file is not checked yet.", "`skyriver deploy` takes it in."
    else:
        message, action = "No version of the model is released yet.", "`skyriver run` trains one."
    return {"reason": "NO_VERSION", "message": message, "next_action": action}


def _judge(
    versions: Mapping[str, Any], ready: Mapping[str, list[Resource]], count: int, broken: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    serving = [v for v, w in versions.items() if w["weight"]]
    if sum("until" not in told for told in versions.values()) > 1 or not serving:
        return "updating", {}
    have = sum(len(ready[v]) for v in serving)
    if have >= count:
        return "ready", {}
    if have or any(v in broken for v in serving):
        why = "; ".join(broken[v] for v in serving if v in broken)
        return "degraded", {"reason": "REPLICAS_MISSING", "message": f"{have} of {count} replicas serve. {why}".strip()}
    return "starting", {}


def _fit_replicas(
    snapshot: Snapshot, service: Resource, versions: Mapping[str, Any], replicas: Sequence[Resource], count: int
) -> Iterator[Action]:
    """Makes missing replica rows, drains those that are too many or of a version that is gone."""
    for version in versions:
        source = snapshot.find(service.tenant, "version", f"{service.name}:{version}")
        have = [r for r in replicas if str(r.spec["version"]) == version and r.state not in ENDING]
        if source is not None:
            # A number that is still draining is not used again before its row is gone.
            free = (n for n in range(1, 10_000) if f"{service.name}-{version}-{n}" not in {r.name for r in replicas})
            for _ in range(count - len(have)):
                yield Put(_new_replica(snapshot, service, source, next(free)), 0)
    for replica in _surplus(versions, replicas, count):
        yield Put(REPLICA.move(replica, "drain", snapshot.now), replica.revision)


def _surplus(versions: Mapping[str, Any], replicas: Sequence[Resource], count: int) -> list[Resource]:
    """Replicas to be drained: of a version that is gone, or more than `count` of one; of these first what does not
    serve, then the youngest."""
    surplus = []
    for version in {str(r.spec["version"]) for r in replicas}:
        have = [r for r in replicas if str(r.spec["version"]) == version and r.state not in ENDING]
        have.sort(key=lambda r: (r.state != "READY", r.created_at, r.name))
        surplus += have[count if version in versions else 0 :]
    return surplus


def _new_replica(snapshot: Snapshot, service: Resource, version: Resource, number: int) -> Resource:
    return Resource(
        tenant=service.tenant,
        kind="replica",
        name=f"{service.name}-{version.spec['version']}-{number}",
        spec={
            "model": service.name,
            "version": int(version.spec["version"]),
            "artifact": version.spec["artifact"],
            "fields": version.spec.get("fields"),
            "objects": "{home}/objects",
        },
        state="STARTING",
        parent=service.ref,
        since=snapshot.now,
    )


def serves(snapshot: Snapshot, replica: Resource) -> bool:
    """READY, or its process is and the row is about to follow: a control plane that comes back must not take what
    works out of the gateway because the one before it did not live to write it down."""
    process = snapshot.processes.get(replica.process)
    ready = process is not None and process.alive and bool(process.report.get("ready"))
    return replica.state == "READY" or (ready and replica.state in ("STARTING", "LOST"))


def _server(snapshot: Snapshot, replica: Resource) -> Server:
    name = replica.process
    return Server(name, snapshot.processes[name].socket if name in snapshot.processes else "")


def _step_replica(snapshot: Snapshot, replica: Resource) -> Iterator[Action]:
    name = replica.process
    process = snapshot.processes.get(name)
    if snapshot.find(replica.tenant, *replica.parent.split("/", 1)) is None and replica.state not in ENDING:
        yield Put(REPLICA.move(replica, "drain", snapshot.now), replica.revision)  # its service was removed
        return
    model = replica.parent.partition("/")[2]
    version = snapshot.find(replica.tenant, "version", f"{model}:{replica.spec['version']}")
    live = live_of_replica(snapshot, replica) | copies_of_replica(snapshot, replica)
    service = snapshot.find(replica.tenant, *replica.parent.split("/", 1))
    passed_to = _sockets(snapshot, service, shared(service)) if service is not None else ()
    live |= sharing_of_replica(snapshot, service, replica, passed_to)
    live |= live_sizing(service, str(replica.spec["version"]))
    live |= {"proof": proof_of(version), **log_of_replica(snapshot, version)} if version is not None else {}
    want = Want(ProcessSpec(name, "replica", replica.tenant, replica.spec, live=live))
    match replica.state:
        case "DRAINING":
            # Its server is out of the gateway's table already; it ends once no request is under way.
            busy = snapshot.sessions.get(name, 0)
            if busy and snapshot.elapsed(replica.since) < DRAIN_LIMIT_US:
                yield want
            else:
                yield Put(REPLICA.move(replica, "drained", snapshot.now), replica.revision)
        case "STOPPED":
            if process is None or not process.alive:
                yield Delete(*replica.key, replica.revision)
        case "FAILED":
            if snapshot.elapsed(replica.since) >= RETRY_FAILED_US:
                yield Put(REPLICA.move(replica, "starting", snapshot.now, attempts=0), replica.revision)
        case _:
            yield want
            yield from _follow(snapshot, replica)


def copies_of_replica(snapshot: Snapshot, replica: Resource) -> dict[str, Any]:
    """Of its live settings: where copies of its requests go, while another version is its shadow."""
    service = snapshot.find(replica.tenant, *replica.parent.split("/", 1))
    versions = service.spec.get("versions", {}) if service is not None else {}
    version = next((v for v, told in versions.items() if told.get("copies")), "")
    own = versions.get(str(replica.spec["version"]), {})
    if service is None or not version or not own.get("weight"):
        return {}
    told, sockets = versions[version], _sockets(snapshot, service, version)
    share, slower = told["copies"], told["slower"]
    return {"shadow": {"version": int(version), "share": share, "slower": slower, "sockets": sockets}}


def _sockets(snapshot: Snapshot, service: Resource, version: str) -> list[str]:
    """Of the replicas of `version` that serve."""
    there = [r for r in snapshot.children(service, "replica") if version and str(r.spec["version"]) == version]
    return sorted(_server(snapshot, r).socket for r in there if serves(snapshot, r))


def _follow(snapshot: Snapshot, replica: Resource) -> Iterator[Action]:
    process = snapshot.processes.get(replica.process)
    if process is None:
        return
    report = process.report
    if report.get("failed"):
        told = {"reason": str(report.get("reason", "FAILED")), "message": str(report.get("message", ""))}
        # Also of one that was ready before the cloud was down: nobody may be sent to a process that has given up.
        yield Put(REPLICA.move(replica, "failed", snapshot.now, **told), replica.revision)
        return
    if not process.alive:
        if replica.status.get("dead_pid") != process.pid:
            attempts = replica.attempts + 1
            ended = how_it_ended(process.exit_code, out_of_memory=process.out_of_memory)
            status = {**replica.status, "dead_pid": process.pid, "last_end": ended}
            if attempts >= GIVE_UP_STARTS:
                message = f"It ended {attempts} times before it was ready. The last time: {ended}"
                told = {"reason": "CRASH_LOOP", "message": message, "next_action": "It is tried again in a minute."}
                yield Put(REPLICA.move(replica, "failed", snapshot.now, status=status, **told), replica.revision)
                return
            told = {"reason": "PROCESS_DIED", "message": ended, "next_action": "It is started again."}
            lost = REPLICA.move(replica, "lost", snapshot.now, attempts=attempts, status=status, **told)
            yield Put(lost, replica.revision)
        return
    if replica.state == "LOST" and not report.get("ready"):
        yield Put(REPLICA.move(replica, "starting", snapshot.now), replica.revision)
    elif report.get("ready") and replica.state != "READY":
        yield Put(REPLICA.move(replica, "ready", snapshot.now, attempts=0), replica.revision)


def new_service(tenant: str, app: str, model: str, serve: Mapping[str, Any]) -> Resource:
    return Resource(
        tenant=tenant,
        kind="service",
        name=model,
        spec={"model": model, "serve": dict(serve), "versions": {}},
        state="PENDING",
        parent=f"app/{app}",
    )


def update_service(service: Resource, serve: Mapping[str, Any]) -> Resource:
    """The service with another declaration; which versions serve is the rollouts' business and stays."""
    return replace(service, spec={**service.spec, "serve": dict(serve)})


def _service_waits(snapshot: Snapshot, service: Resource) -> Iterator[str]:
    """Replicas that do not serve, a stream that its features cannot be read from; without a version, what is under way
    to make one."""
    yield from stream_waited_for(snapshot, service)
    yield from (r.ref for r in snapshot.children(service, "replica") if r.state not in ("READY", *ENDING))
    if not service.spec.get("versions"):
        operations = snapshot.all(service.tenant, "operation")
        yield from (o.ref for o in operations if o.spec["target"] == service.name and o.state not in ENDED)


def service_kind(machine: Capacity | None) -> Kind:
    """`machine`: what there is for all; None: not known."""

    def step(snapshot: Snapshot, service: Resource) -> Iterator[Action]:
        return _step_service(snapshot, service, machine)

    return Kind("service", "PENDING", SERVICE_TRANSITIONS, frozenset(), step, _service_waits)


SERVICE = service_kind(None)
REPLICA = Kind("replica", "STARTING", REPLICA_TRANSITIONS, frozenset(), _step_replica)
