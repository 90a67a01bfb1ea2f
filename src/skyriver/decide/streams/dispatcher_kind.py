"""A stream's dispatcher as a kind: the process that acts on decisions, one a stream that declares sinks or reviews."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from skyriver.core.processes import PROCESS_TRANSITIONS, not_ready
from skyriver.core.resources import Action, Delete, Kind, ProcessSpec, ProcessStatus, Put, Resource, Snapshot, Want
from skyriver.decide.streams.live import DISPATCHED, lasting_stream

DISPATCHER_TRANSITIONS = {**PROCESS_TRANSITIONS, ("READY", "ready"): "READY"}
"""What it says of receivers that are away changes while it is ready."""


def new_dispatcher(snapshot: Snapshot, stream: Resource, worker: ProcessStatus | None) -> Iterator[Action]:
    """Where the stream declares something to dispatch, and has no dispatcher yet: one that begins with the first
    decision of a new stream, and with the next one of a stream that has decided before, also where it was deleted and
    is declared again over its log. What its log holds was acted on by somebody else, or by nobody: it must not come
    now."""
    if not _declared(stream) or snapshot.find(stream.tenant, "dispatcher", stream.name) is not None:
        return
    report = worker.report if worker is not None else {}
    # Of a new row: where the log ended when its worker opened it, which workers of earlier releases do not tell.
    begin = report.get("offset") if stream.status.get("began") else report.get("opened", report.get("offset"))
    if begin is None:
        return  # its worker tells soon
    begin = int(begin)
    yield Put(
        Resource(stream.tenant, "dispatcher", stream.name, spec={"begin": begin}, state="STARTING", parent=stream.ref),
        0,
    )


def _declared(stream: Resource) -> dict[str, Any]:
    decide = stream.spec.get("decide") or {}
    return {what: decide[what] for what in DISPATCHED if decide.get(what)}


def _reviewed(stream: Resource) -> dict[str, Any]:
    """What cases of review are opened by."""
    decide = stream.spec["decide"]
    return {"decide": decide, "features": stream.spec.get("features")} if decide.get("reviews") else {}


def _step(snapshot: Snapshot, dispatcher: Resource) -> Iterator[Action]:
    stream = snapshot.find(dispatcher.tenant, *dispatcher.parent.split("/", 1))
    if stream is None or not _declared(stream):
        yield Delete(*dispatcher.key, dispatcher.revision)
        return
    config = {
        "stream": lasting_stream(stream.spec["stream"]),
        "directory": f"{{home}}/streams/{dispatcher.tenant}/{stream.name}",
        "begin": dispatcher.spec["begin"],
    }
    live = {**_declared(stream), **_reviewed(stream), "began": bool(dispatcher.status.get("began"))}
    yield Want(ProcessSpec(dispatcher.process, "dispatcher", dispatcher.tenant, config, live=live))
    process = snapshot.processes.get(dispatcher.process)
    if process is None:
        return
    if process.alive and process.report.get("ready"):
        yield from _ready(snapshot, dispatcher, process)
    else:
        yield from not_ready(DISPATCHER, snapshot, dispatcher, process, "What it has to do is kept.")


def _ready(snapshot: Snapshot, dispatcher: Resource, process: ProcessStatus) -> Iterator[Action]:
    """READY with a reason where something of it does not go on: a receiver that is away, say."""
    told = {what: str(process.report.get(what, "")) for what in ("reason", "message", "next_action")}
    status = {**dispatcher.status, "began": True}
    after = DISPATCHER.move(dispatcher, "ready", snapshot.now, attempts=0, status=status, **told)
    if after != dispatcher:
        yield Put(after, dispatcher.revision)


DISPATCHER = Kind("dispatcher", "STARTING", DISPATCHER_TRANSITIONS, frozenset(), _step)
