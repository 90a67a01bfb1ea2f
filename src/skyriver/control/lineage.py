"""Where a thing comes from and what came of it: from data and code over jobs and versions to what serves and decides.

Computed from the rows that there are, a pure function of them: nothing is written down for it, so nothing can be
forgotten or differ. What a row does not tell (a job of long ago that was removed) is a path that ends there.
A node is `kind/name`; a table `table/NAME@VERSION`, the decisions of a stream `decisions/STREAM`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain, pairwise
from typing import Any

from skyriver.core.contract_lineage import Edge
from skyriver.core.errors import NotFound
from skyriver.core.resources import Resource, Snapshot

MOST = 2_000
"""Edges of one answer, the nearest first."""


def lineage(snapshot: Snapshot, tenant: str, name: str) -> list[Edge]:
    """Edges from `name` (or `kind/name`) up to data and code and down to decisions, the nearest first, each from what
    was before to what came of it. Raises NotFound."""
    edges = list(dict.fromkeys(_edges(snapshot, tenant)))
    edges += _growth(edges)
    rows = {row.ref for kind in _KINDS for row in snapshot.all(tenant, kind)}
    nodes = rows.union(*(edge[:2] for edge in edges))
    starts = {node for node in nodes if name in (node, *_names(node))}
    if not starts:
        near = get_close_matches(name, {word for node in nodes for word in _names(node)}, n=1)
        raise NotFound(
            f"Nothing of the name {name!r} is known{f' (did you mean {near[0]!r}?)' if near else ''}.",
            where=name,
            next_action="Name a table, stream, job, model's version, rollout or service: `skyriver ps` shows what there"
            " is; a decision is STREAM/ID.",
        )
    up = _reach(starts, [(after, before, how) for before, after, how in edges])
    down = _reach(starts, edges)
    found = [_told(before, after, how, "up") for after, before, how in up]
    return [*found, *(_told(*edge, "down") for edge in down)][:MOST]


_KINDS = ("table", "stream", "job", "version", "rollout", "service", "model")
Triple = tuple[str, str, str]
"""(what was before, what came of it, how)."""


def _names(node: str) -> tuple[str, ...]:
    """What a node may be called: `orders@5` also `orders`, and a digest by its beginning is itself."""
    kind, _, name = node.partition("/")
    plain = name.partition("@")[0]
    return (name, plain, f"{kind}/{plain}")


def _told(before: str, after: str, how: str, way: str) -> Edge:
    return {"from": before, "to": after, "how": how, "way": way}


def _reach(starts: Iterable[str], edges: Sequence[Triple]) -> list[Triple]:
    """All edges that lead on from `starts`, breadth first; each once."""
    leading: dict[str, list[Triple]] = {}
    for edge in edges:
        leading.setdefault(edge[0], []).append(edge)
    found: list[Triple] = []
    seen, front = set(starts), sorted(starts)
    while front:
        step = [edge for node in front for edge in leading.get(node, ())]
        found += step
        front = [node for node in dict.fromkeys(edge[1] for edge in step) if node not in seen]
        seen.update(front)
    return found


def _edges(snapshot: Snapshot, tenant: str) -> Iterator[Triple]:
    return chain(
        chain.from_iterable(_of_job(job) for job in snapshot.all(tenant, "job")),
        chain.from_iterable(_of_version(version) for version in snapshot.all(tenant, "version")),
        chain.from_iterable(_of_rollout(rollout) for rollout in snapshot.all(tenant, "rollout")),
        chain.from_iterable(_of_service(service) for service in snapshot.all(tenant, "service")),
        chain.from_iterable(_of_stream(snapshot, stream) for stream in snapshot.all(tenant, "stream")),
    )


def _growth(edges: Iterable[Triple]) -> list[Triple]:
    """A table only grows, so each version holds what those before it held."""
    versions: dict[str, set[int]] = {}
    for node in chain.from_iterable(edge[:2] for edge in edges):
        table, at, number = node.rpartition("@")
        if at and node.startswith("table/") and number.isdecimal():
            versions.setdefault(table, set()).add(int(number))
    return [
        (f"{table}@{before}", f"{table}@{after}", "grew to")
        for table, numbers in sorted(versions.items())
        for before, after in pairwise(sorted(numbers))
    ]


def _of_job(job: Resource) -> Iterator[Triple]:
    spec = job.spec
    if bundle := (spec.get("code") or {}).get("bundle"):
        yield f"code/{bundle}", job.ref, "ran in"
    inputs: Mapping[str, Any] = spec.get("inputs") or {}
    for file in inputs.get("files") or ():
        yield f"file/{file.get('name') or file['digest']}", job.ref, "read by"
    for needed in spec.get("needs") or ():
        yield f"job/{needed}", job.ref, "needed by"
    scored = inputs.get("version")
    if spec.get("kind") == "predict" and scored:
        yield f"version/{scored['model']}:{scored['version']}", job.ref, "scored in"
    outputs: Mapping[str, Any] = job.status.get("outputs") or {}
    for name, made in (outputs.get("tables") or {}).items():
        yield job.ref, f"table/{name}@{made['version']}", "wrote"
    if curve := outputs.get("curve"):
        yield job.ref, f"curve/{curve}", "told"
    for created in job.status.get("created") or ():
        yield job.ref, created, "made"


def _of_version(version: Resource) -> Iterator[Triple]:
    spec = version.spec
    job = f"job/{spec.get('job')}"
    if source := spec.get("source"):
        # Read by the job that trained it; what it says of itself stays when that row is gone.
        yield f"table/{source['name']}@{source['table_version']}", version.ref, "trained on"
        if source.get("labels_version") is not None:
            yield f"table/{source['name']}.labels@{source['labels_version']}", version.ref, "labelled by"
        for name, number in (source.get("reference_versions") or {}).items():
            yield f"table/{name}@{number}", version.ref, "looked up in"
    if code := spec.get("code"):
        yield f"code/{code}", version.ref, "code of"
    if curve := spec.get("curve"):
        yield f"curve/{curve}", version.ref, "told before"
    if run := (spec.get("origin") or {}).get("run"):
        yield f"run/{run}", version.ref, "logged"
    if copied := (spec.get("origin") or {}).get("version"):
        yield f"version/{copied}", version.ref, "copied to"
    if spec.get("job"):
        yield job, version.ref, "made"


def _of_rollout(rollout: Resource) -> Iterator[Triple]:
    yield f"version/{rollout.spec['model']}:{rollout.spec['to']}", rollout.ref, "released by"
    if rollout.state == "DONE":
        yield rollout.ref, f"service/{rollout.spec['model']}", "took over"


def _of_service(service: Resource) -> Iterator[Triple]:
    for version, how in sorted((service.spec.get("versions") or {}).items()):
        share = f"serves {how['weight']}% in" if how.get("weight") else "stands by in"
        yield f"version/{service.name}:{version}", service.ref, share


def _of_stream(snapshot: Snapshot, stream: Resource) -> Iterator[Triple]:
    decides = f"decisions/{stream.name}"
    for table in (stream.name, f"{stream.name}.labels"):
        kept = snapshot.find(stream.tenant, "table", table)
        if kept is not None and kept.status.get("version") is not None:
            yield stream.ref, f"table/{table}@{kept.status['version']}", "kept in"
    model = (stream.spec.get("decide") or {}).get("model")
    if model:
        yield stream.ref, decides, "decided in"
        yield f"service/{model}", decides, "scores"
    if (number := stream.status.get("model_version")) and model:
        yield f"version/{model}:{number}", decides, "decides"
