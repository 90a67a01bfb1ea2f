"""From an application's specification to the resources that carry it: the plan that `deploy` shows and does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from skyriver.control.environments import again, new_environment
from skyriver.core.environments import environment_name
from skyriver.core.errors import Conflict
from skyriver.core.jobs import ENDED
from skyriver.core.resources import Delete, Put, Resource, Snapshot, need
from skyriver.core.spec import AppSpec, FeatureSetSpec, ModelSpec, StreamSpec
from skyriver.core.units import SECOND, format_duration
from skyriver.data.operations import rejected_table, tables_of_stream
from skyriver.decide.streams.rules_kind import deployed_rules, retired_rules
from skyriver.features.plan import plan_features
from skyriver.observe.watching import new_watch, update_watch
from skyriver.release.operations import plan_import
from skyriver.release.registered import declared, is_registered, is_undeclared, released
from skyriver.serve.kinds import new_service, update_service

OWNED = ("stream", "model", "service", "watch", "task", "schedule")
"""Kinds that end with their application."""


@dataclass(frozen=True, slots=True)
class PlanLine:
    """`action` is create, update, keep or remove (only with prune; else orphan: no longer in the file), or warn."""

    action: str
    kind: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class DeployPlan:
    lines: tuple[PlanLine, ...]
    changes: tuple[Put | Delete, ...]
    operations: tuple[str, ...]
    """Operations that the deployment starts: a ready model file that must be checked and released."""


def plan_deploy(
    snapshot: Snapshot,
    tenant: str,
    app: AppSpec,
    code: Mapping[str, str],
    *,
    files: Mapping[str, str],
    environment: str = "",
    prune: bool,
) -> DeployPlan:
    """Idempotent: the same file again is a plan of `keep`. `code` is the bundle's digest and the application
    file's name in it; `files` are the digests of the files in it, by path; `environment` that of its lock.

    Raises Conflict (NAME_TAKEN) when a name belongs to another application of the tenant.
    """
    wanted = list(_resources(tenant, app, code, files, environment))
    lines: list[PlanLine] = []
    changes: list[Put | Delete] = []
    for resource in wanted:
        current = snapshot.find(*resource.key)
        if current is None:
            lines.append(PlanLine("create", resource.kind, resource.name, _detail(resource, app)))
            changes.append(Put(resource, 0))
        else:
            _refuse_foreign(current, resource, app)
            if resource.kind == "stream":
                _refuse_other_events(current, resource)
            after = _merge(current, resource)
            changed = sorted(k for k in after.spec if after.spec[k] != current.spec.get(k))
            adopted = after.parent != current.parent
            told = (_told(key, current.spec.get(key), after.spec[key]) for key in changed)
            detail = "; ".join(d for d in (", ".join(told), _detail(resource, app) if changed else "") if d)
            action = "update" if changed or adopted else "keep"
            lines.append(PlanLine(action, resource.kind, resource.name, detail))
            lines += _undone(current, after) if adopted else ()
            if changed or adopted:
                changes.append(Put(after, current.revision))
    for line, changed_rules in _rules(snapshot, wanted):
        lines.append(line)
        changes += changed_rules
    for line, built in _environment(snapshot, tenant, environment):
        lines.append(line)
        changes += [built] if built is not None else []
    for line, change in _orphans(snapshot, tenant, app, wanted, prune=prune):
        lines.append(line)
        if change is not None:
            changes += _removed(snapshot, change)
    operations = [r for model in app.models if model.onnx for r in _take_in(snapshot, tenant, model, wanted, lines)]
    changes += [Put(r, 0) for r in operations]
    return DeployPlan(tuple(lines), tuple(changes), tuple(r.name for r in operations if r.kind == "operation"))


def _resources(
    tenant: str, app: AppSpec, code: Mapping[str, str], files: Mapping[str, str], environment: str
) -> Iterator[Resource]:
    """All resources of the application as they should be declared."""
    parent = f"app/{app.name}"
    body = app.to_json()
    declared = {"spec": body, "code": dict(code), "spec_digest": app.digest(), "environment": environment}
    yield Resource(tenant, "app", app.name, spec=declared, state="DEPLOYED")
    for stream in app.streams:
        yield _stream(tenant, app, stream)
        for table in (*tables_of_stream(stream), rejected_table(stream.name)):
            yield Resource(tenant, "table", table, spec={"source": "stream"}, state="EMPTY", parent=parent)
    for plain in app.tables:
        for table in (plain.name, f"{plain.name}.dead"):
            yield Resource(tenant, "table", table, spec={"source": "files"}, state="EMPTY", parent=parent)
    for model in app.models:
        features = app.feature_set(model.train.features) if model.train else None
        spec = {
            "model": model.to_json(),
            "features": features.to_json() if features else None,
            "source": features.source if features else "",
            "streams": bool(features and features.source in {s.name for s in app.streams}),
            "file": files.get(model.onnx, ""),
        }
        yield Resource(tenant, "model", model.name, spec=spec, state="DECLARED", parent=parent)
        yield new_service(tenant, app.name, model.name, model.serve.to_json())
        if model.retrain is not None:
            yield new_watch(tenant, app.name, model.name, model.retrain.to_json())
    for job in app.jobs:
        yield Resource(tenant, "task", job.name, spec={"job": job.to_json()}, state="DECLARED", parent=parent)
        if job.schedule is not None:
            spec = {"cron": job.schedule.to_json()}
            yield Resource(tenant, "schedule", job.name, spec=spec, state="ACTIVE", parent=parent)


def _rules(snapshot: Snapshot, wanted: list[Resource]) -> Iterator[tuple[PlanLine, list[Put]]]:
    """Of streams whose rules change, or were promoted and stay."""
    for stream in wanted:
        if stream.kind != "stream":
            continue
        found = deployed_rules(snapshot, stream)
        if found.follows is not None:
            replaced = f"decides in place of {found.live.name}" if found.live is not None else "decides"
            yield PlanLine("create", "ruleset", found.follows.name, replaced), [*found.changes(snapshot.now)]
        elif found.stays and found.live is not None:
            told = "was promoted and decides; the file's rules are those of the deployment before"
            yield PlanLine("keep", "ruleset", found.live.name, told), []


def _environment(snapshot: Snapshot, tenant: str, lock: str) -> Iterator[tuple[PlanLine, Put | None]]:
    """The environment that the application's requirements are built into, shared by all with the same lock."""
    if not lock:
        return
    name = environment_name(lock)
    current = snapshot.find(tenant, "environment", name)
    if current is None:
        yield PlanLine("create", "environment", name, ""), Put(new_environment(snapshot, tenant, lock), 0)
    elif current.state == "FAILED":
        yield PlanLine("update", "environment", name, "built again"), again(snapshot, current)
    else:
        yield PlanLine("keep", "environment", name, ""), None


def _stream(tenant: str, app: AppSpec, stream: StreamSpec) -> Resource:
    decide = next((d for d in app.decides if d.stream == stream.name), None)
    features = None
    if decide is not None:
        train = app.model(decide.model).train
        features = app.feature_set(train.features) if train else None
    spec = {
        "stream": stream.to_json(),
        "features": features.to_json() if features else None,
        "decide": decide.model_copy(update={"examples": ()}).to_json() if decide else None,
    }
    return Resource(tenant, "stream", stream.name, spec=spec, state="PENDING", parent=f"app/{app.name}")


def _told(key: str, before: Any, after: Any) -> str:
    """What of a row's specification changes; of decisions which part."""
    if key != "decide" or not before or not after:
        return key
    parts = [part for part in sorted({*before, *after}) if before.get(part) != after.get(part)]
    return f"{key}: {', '.join(told for part in parts for told in _told_of(part, before, after))}"


def _told_of(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Of sinks and reviews each that changes, and what of it."""
    by = {"sinks": "to", "reviews": "decision"}.get(part)
    if by is None:
        yield part
        return
    was, now = ({own[by]: own for own in side.get(part, ())} for side in (before, after))
    for name in dict.fromkeys([*was, *now]):
        what = f"{part.removesuffix('s')} {name}"
        if name not in was or name not in now:
            yield f"{what} ({'new' if name in now else 'removed'})"
        elif was[name] != now[name]:
            keys = sorted({*was[name], *now[name]})
            other = (key.removesuffix("_us") for key in keys if was[name].get(key) != now[name].get(key))
            yield f"{what} ({', '.join(other)})"


def _detail(resource: Resource, app: AppSpec) -> str:
    """What a plan says of it beside its name."""
    if resource.kind == "service":
        return _asked_by(app, app.model(resource.name))
    return _cost(resource) if resource.kind == "stream" and resource.spec["features"] else ""


def _asked_by(app: AppSpec, model: ModelSpec) -> str:
    """By which keys, and what is answered then where the stream has no features for them."""
    asked = model.serve.features
    if asked is None or model.train is None:
        return ""
    old = f"older than {asked.max_age} or away" if asked.max_age else "away"
    does = {"answer": "answered as new", "refuse": "refused", "fallback": f"answered {asked.fallback}"}
    return (
        f"asked by {', '.join(app.feature_set(model.train.features).keys)} with features from {asked.stream};"
        f" unknown: {does[asked.on_unknown]}; {old}: {does[asked.on_old]}"
    )


def _cost(resource: Resource) -> str:
    """What the features of a stream that decides take."""
    stream = StreamSpec.model_validate(resource.spec["stream"])
    plan = plan_features(FeatureSetSpec.model_validate(resource.spec["features"]), stream)
    keys = [
        f"{least:,} bytes a {field}" if least == most else f"{least:,} to {most:,} bytes a {field}"
        for field, (least, most) in plan.key_bytes.items()
    ]
    keys += [f"{table.row_bytes:,} bytes a row of {table.name}" for table in plan.references]
    if not keys:
        return ""
    told = f"features take {', '.join(keys)} of memory"
    reach = -(-max(plan.edges, default=0) // (60 * SECOND)) * 60 * SECOND
    if plan.keys:
        told += f", {plan.row_bytes} bytes an event of disk for {format_duration(reach)}"
    if plan.references and (stream.retention_us or stream.retention_bytes):
        told += "; changed ones cannot be built once the log has given up its beginning, for they look up references"
    elif 0 < stream.retention_us < reach:
        wait = format_duration(reach - stream.retention_us)
        told += f"; changed ones wait {wait}, for the log keeps {format_duration(stream.retention_us)} of it"
    return told


def _undone(current: Resource, after: Resource) -> Iterator[PlanLine]:
    """Of a model from outside that is declared: what its names said without it."""
    if number := set(current.status.get("aliases", {}).items()) - set(after.status["aliases"].items()):
        [(alias, version)] = number
        told = f"named version {version}, which served nobody: `skyriver model alias {current.name} {alias} {version}`"
        yield PlanLine("warn", "alias", f"{current.name}@{alias}", f"{told} lets it take over, once the gate passed it")


def _refuse_foreign(current: Resource, wanted: Resource, app: AppSpec) -> None:
    if current.kind == "model" and is_undeclared(current):
        if is_registered(wanted):
            return
        raise Conflict(
            f"There is a model {current.name!r} already, whose versions came from outside.",
            code="NAME_TAKEN",
            next_action=f"Declare app.model({current.name!r}, registered=True), or choose another name.",
        )
    owner = current.parent or f"app/{current.name}"
    if owner != f"app/{app.name}":
        raise Conflict(
            f"There is a {current.kind} {current.name!r} already, of {owner}.",
            code="NAME_TAKEN",
            next_action="Choose another name in the application file.",
        )


def _refuse_other_events(current: Resource, wanted: Resource) -> None:
    """A stream's log holds events of one shape: rules of the border may change, fields, roles, labels and references
    may not."""

    def shape(resource: Resource) -> tuple[object, ...]:
        stream = resource.spec["stream"]
        fields = [(f["name"], f["type"]) for f in stream["fields"]]
        return fields, stream["id"], stream["time"], stream["key"], stream.get("log")

    def added_to(resource: Resource) -> tuple[list[object], list[object]]:
        stream = resource.spec["stream"]
        references = [
            (r["name"], r["id"], r["time"], [(f["name"], f["type"]) for f in r["fields"]])
            for r in stream.get("references", ())
        ]
        return [label["name"] for label in stream["labels"]], [*references]

    _refuse_other_lists(current, wanted)
    kept = all(
        after[: len(before)] == before for before, after in zip(added_to(current), added_to(wanted), strict=True)
    )
    words = ("fields", "id", "time", "key", "log")
    other = [word for word, a, b in zip(words, shape(current), shape(wanted), strict=True) if a != b]
    if other or not kept:
        what = " and ".join(other) or "labels, references or lists (new ones go behind those that are there)"
        raise Conflict(
            f"The stream {current.name} holds events with other {what}.",
            code="STREAM_CHANGED",
            next_action="Declare the changed events as a stream of another name, and load its history there;"
            " new labels and references may be added behind the others.",
        )


def _refuse_other_lists(current: Resource, wanted: Resource) -> None:
    """What rules ask of a list depends on the field that it is looked up by, and on when its rows end; what was decided
    by it is only told by its name, and computed again by what is declared."""
    after = {r["name"]: r for r in wanted.spec["stream"].get("references", ())}
    for before in current.spec["stream"].get("references", ()):
        now, was_list = after.get(before["name"], before), "until" in before
        if was_list and (now.get("by"), now.get("until")) != (before.get("by"), before["until"]):
            raise Conflict(
                f"The list {before['name']} of {current.name} is looked up by {before.get('by')!r}, its rows end by"
                f" {before['until']!r}, and decisions were made by that.",
                code="STREAM_CHANGED",
                where=current.ref,
                next_action=f"Leave `by` and `until` of {before['name']} as they are. Declare the changed list under"
                " another name, behind the others, load its rows there, and let the rules name it.",
            )


def _merge(current: Resource, wanted: Resource) -> Resource:
    if wanted.kind == "service":
        return update_service(current, wanted.spec["serve"])
    if wanted.kind == "watch":
        return update_watch(current, wanted.spec["retrain"])
    if wanted.kind == "model" and is_undeclared(current):
        return declared(current, wanted)
    return replace(current, spec=dict(wanted.spec))


def _orphans(
    snapshot: Snapshot, tenant: str, app: AppSpec, wanted: list[Resource], *, prune: bool
) -> Iterator[tuple[PlanLine, Delete | None]]:
    """What an earlier deployment made and the file no longer has. Tables stay: data is never pruned."""
    keys = {r.key for r in wanted}
    for kind in OWNED:
        for current in snapshot.all(tenant, kind):
            if current.parent == f"app/{app.name}" and current.key not in keys:
                if prune or kind in ("schedule", "watch"):  # what no file declares must not begin by itself
                    yield PlanLine("remove", kind, current.name, ""), Delete(*current.key, current.revision)
                else:
                    yield PlanLine("orphan", kind, current.name, "no longer in the file; --prune removes it"), None


def _removed(snapshot: Snapshot, gone: Delete) -> Iterator[Put | Delete]:
    model = snapshot.find(gone.tenant, "model", gone.name) if gone.kind == "model" else None
    if model is not None and is_registered(model):
        yield Put(released(snapshot, model), gone.expected)
        return
    yield gone
    if gone.kind == "stream":
        yield from retired_rules(snapshot, need(snapshot.find(gone.tenant, "stream", gone.name), "stream", gone.name))


def plan_removal(snapshot: Snapshot, tenant: str, name: str) -> DeployPlan:
    """An application goes with its streams, models, services and jobs; processes and routes end with them. Tables stay,
    and so do versions and what streams recorded: deploying it again finds them.

    Raises NotFound, and Conflict (APP_BUSY) while a job of it goes on.
    """
    app = need(snapshot.find(tenant, "app", name), "app", name)
    jobs = snapshot.all(tenant, "job")
    busy = [j.name for j in jobs if j.state not in ENDED and j.spec.get("app", {}).get("name") == name]
    if busy:
        raise Conflict(
            f"The job {busy[0]} of {name!r} goes on.",
            code="APP_BUSY",
            where=f"job/{busy[0]}",
            next_action=f"Wait for it: `skyriver explain {busy[0]}` shows how far it is.",
        )
    gone = [app, *(r for kind in OWNED for r in snapshot.children(app, kind))]
    lines = [
        PlanLine("keep", "model", r.name, "it came from outside, and serves no more")
        if r.kind == "model" and is_registered(r)
        else PlanLine("remove", r.kind, r.name, "")
        for r in gone
    ]
    lines += [PlanLine("keep", "table", r.name, "data is never removed") for r in snapshot.children(app, "table")]
    models = {r.name for r in gone if r.kind == "model"}
    versions = [v for v in snapshot.all(tenant, "version") if v.spec["model"] in models and v.state == "APPROVED"]
    lines += [PlanLine("keep", "version", v.name, "it can serve again") for v in versions]
    changes = [change for r in gone for change in _removed(snapshot, Delete(*r.key, r.revision))]
    return DeployPlan(tuple(lines), tuple(changes), ())


def _take_in(
    snapshot: Snapshot, tenant: str, model: ModelSpec, wanted: list[Resource], lines: list[PlanLine]
) -> list[Resource]:
    """The operation that makes a version of a ready model file, if it is new or changed."""
    row = next(r for r in wanted if r.kind == "model" and r.name == model.name)
    current = snapshot.find(*row.key)
    if current is not None and current.spec.get("file") == row.spec["file"]:
        return []
    lines.append(PlanLine("create", "version", f"{model.name}:?", f"from {model.onnx}"))
    return plan_import(replace(snapshot, resources=snapshot.rows.changed(wanted)), tenant, model.name, {}, {})
