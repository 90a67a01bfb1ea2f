"""What keeps services and streams from doing what they should while it lasts, as the causes that an incident may have:
it is so now, however long ago it began. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from skyriver.core.resources import Resource, Snapshot
from skyriver.observe.attainment import short_of
from skyriver.observe.incidents import Change
from skyriver.observe.of_streams import told_of_shedding
from skyriver.observe.sight import Sight, subject_of


def standing(sight: Sight) -> Iterator[Change]:
    """A service that is granted less than it needs by the machine ("pool") or by what it declares ("most"); a stream
    that sheds ("sheds"), or scores by its cheaper version ("cheaper")."""
    snapshot = sight.snapshot
    for scaling in snapshot.rows.every("scaling"):
        service = snapshot.find(scaling.tenant, "service", scaling.name)
        short = short_of(snapshot, service) if service is not None else None
        if service is None or short is None:
            continue
        # and of its replicas: each that is asked more than it can answer looks slow by itself
        for row in (service, *snapshot.children(service, "replica")):
            yield Change(subject_of(row), short.kind, sight.seconds, short.told, short.next_action, stands=True)
    for stream in snapshot.rows.every("stream"):
        yield from _of_stream(snapshot, stream, sight.seconds)


def _of_stream(snapshot: Snapshot, stream: Resource, seconds: float) -> Iterator[Change]:
    for worker in snapshot.children(stream, "worker"):
        process = snapshot.processes.get(worker.process)
        report = process.report if process is not None and process.alive and process.report.get("ready") else {}
        pace = report.get("pace") or {}
        if pace.get("shed") or pace.get("step") == "shedding":
            told, action = told_of_shedding(stream, pace)
            yield Change(subject_of(stream), "sheds", seconds, told, action, stands=True)
        elif pace.get("step") == "cheaper":
            told = f"{stream.name} is scored by its cheaper version, for more comes than the released one can score."
            action = f"`skyriver stream get {stream.name}` shows what comes and what can be decided."
            yield Change(subject_of(stream), "cheaper", seconds, told, action, stands=True)
