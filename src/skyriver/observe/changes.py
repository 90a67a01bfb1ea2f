"""What changed in a cloud, as the causes that an incident may have: rows compared between two looks. Bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from skyriver.core.resources import Key, Resource
from skyriver.observe.incidents import HORIZON, Change
from skyriver.observe.sight import CLOCK, CONTROL, GATEWAY, MACHINE, Sight, row_of, subject_of
from skyriver.observe.signs import explains

KEPT: Final = 2_000
LIST_MOVED: Final = 0.5
_PROCESSES: Final = frozenset({"replica", "worker", "dispatcher", "activator"})
_TAKING_OVER: Final = frozenset({"SHADOW", "CANARY", "PROMOTING", "DONE"})
"""A version that was taken back is no cause any more."""
LIMITS: Final = ("rate", "concurrency")
"""Of a tenant, at the gateway."""
_HEAVY: Final = frozenset({"train", "search", "compress", "tune", "load", "replay", "task"})
"""Jobs that take cores, memory and disk from others."""


class Changes:
    """Those of the last HORIZON seconds. The first look takes what rows say of when they changed last."""

    def __init__(self) -> None:
        self._rows: Mapping[Key, Resource] | None = None
        self._known: dict[str, Any] = {}
        self._kept: deque[Change] = deque(maxlen=KEPT)

    @property
    def recent(self) -> tuple[Change, ...]:
        return tuple(self._kept)

    def note(self, change: Change) -> None:
        self._kept.append(change)

    def look(self, sight: Sight) -> None:
        rows = sight.snapshot.resources
        before, first = self._rows or {}, self._rows is None
        for key, row in rows.items():
            was = before.get(key)
            if was is not None and was.revision == row.revision:
                continue
            at = sight.seconds
            if first:  # a control plane that has just begun; what it does not see is what happened while none was there
                age = (sight.snapshot.now - max(row.since, row.created_at)) / 1e6
                if not 0 <= age <= HORIZON:
                    continue
                at -= age
            self._kept.extend(_of_row(row, was, at))
            if row.kind == "tenant":
                self._kept.extend(_of_tenant(row, was, at))
        gone = [row for key, row in before.items() if key not in rows and row.kind == "token"]
        self._kept.extend(
            Change(
                GATEWAY,
                "config",
                sight.seconds,
                f"The token {row.name} was revoked",
                "`skyriver token create` makes another.",
                row.tenant,
            )
            for row in gone
        )
        self._kept.extend(self._of_machine(sight, first=first))
        self._rows = rows
        while self._kept and self._kept[0].at < sight.seconds - HORIZON:
            self._kept.popleft()

    def _of_machine(self, sight: Sight, *, first: bool) -> Iterator[Change]:
        known: dict[str, Any] = {f"restarts {name}": max(ends, default=0) for name, ends in sight.machine.ends.items()}
        known["clock"] = sight.clock_step_at
        for kind in _PROCESSES:
            processes = ((row, sight.snapshot.processes.get(row.process)) for row in sight.snapshot.rows.every(kind))
            known |= {f"pid {subject_of(row)}": process.pid for row, process in processes if process and process.pid}
        for stream in sight.snapshot.rows.every("stream"):
            process = sight.snapshot.processes.get(f"{stream.tenant}.worker.{stream.name}-0")
            report = process.report if process is not None and process.report.get("ready") else {}
            known |= {f"list {subject_of(stream)} {each['name']}": each["ids"] for each in report.get("lists", ())}
        for name, value in known.items():
            was = self._known.get(name)
            if first or was is None or was == value:
                continue
            what, _, of = name.partition(" ")
            if what == "restarts" and value > was:
                where = CONTROL if of == "control" else GATEWAY
                yield Change(where, "death", sight.seconds, f"The {of} ended and was started again", "It goes on.")
            elif what == "pid":
                told = f"The {of.partition(':')[2].replace('/', ' ')} ended and was started again"
                name = row_of(of)[2]
                yield Change(of, "death", sight.seconds, told, f"`skyriver logs {name}` has its last words.")
            elif what == "clock":
                step = sight.clock_step_us / 1e6
                told = f"The machine's clock was set by {step:+,.0f} s"
                yield Change(CLOCK, "clock", sight.seconds, told, "Keep it by NTP: `timedatectl status`.")
            elif what == "list" and abs(value - was) >= LIST_MOVED * max(value, was):
                subject, _, listed = of.rpartition(" ")
                told = f"The list {listed} went from {was:,} ids to {value:,}"
                action = f"`skyriver list get {listed}` shows who is on it."
                yield Change(subject, "list", sight.seconds, told, action)
        self._known = known


def _of_row(row: Resource, was: Resource | None, at: float) -> Iterator[Change]:
    subject, who = subject_of(row), f" by {row.updated_by}" if row.updated_by not in ("", "reconcile", "system") else ""
    moved = was is None or was.state != row.state
    if row.kind == "app" and (was is None or was.generation != row.generation or was.spec != row.spec):
        yield Change(subject, "deploy", at, f"The application {row.name} was deployed{who}", explains(row.name))
    elif row.kind == "rollout" and row.state in _TAKING_OVER and (moved or _step(row) != _step(was)):
        model = row.spec["model"]
        told = f"The rollout {row.name} of version {row.spec['to']} went to {row.state}{_step(row)}"
        word = f"rollback {model}" if row.state == "DONE" else f"rollout abort {row.name}"
        action = f"`skyriver {word}` lets the version before serve again."
        if not int(row.status.get("from") or 0):
            action = f"`skyriver explain {model}` tells what it takes; there is no version before."
        yield Change(subject, "rollout", at, told, action)
    elif row.kind in _PROCESSES and moved and row.state in ("LOST", "FAILED"):
        action = f"`skyriver logs {row.name}` has its last words."
        yield Change(
            subject, "death", at, f"The {row.kind} {row.name} went to {row.state}. {row.message}".rstrip(" ."), action
        )
    elif row.kind == "ruleset" and moved:
        told = f"Version {row.spec['version']} of the rules of {row.spec['stream']} went to {row.state}{who}"
        action = f"`skyriver rules list {row.spec['stream']}` shows them all."
        yield Change(f"{row.tenant}:{row.parent}", "rules", at, told, action)
    elif row.kind == "service" and was is not None and was.spec.get("serve") != row.spec.get("serve"):
        yield Change(subject, "config", at, f"The service {row.name} is declared otherwise{who}", explains(row.name))
    elif row.kind == "job" and moved and row.state == "RUNNING" and row.spec.get("kind") in _HEAVY:
        told = f"The job {row.name} began on this machine"
        yield Change(MACHINE, "job", at, told, f"`skyriver job cancel {row.name}` ends it.", row.tenant)


def _of_tenant(row: Resource, was: Resource | None, at: float) -> Iterator[Change]:
    """Its limits, with how to set them back; the first ones make its row. What a row that was changed since had before
    is not known to a control plane that has just begun."""
    before, is_known = (was.spec, True) if was is not None else ({}, row.generation == 1)
    moved = [what for what in LIMITS if before.get(what) != row.spec.get(what)]
    if not moved:
        return
    who = f" by {row.updated_by}" if row.updated_by not in ("", "system") else ""
    if not is_known:
        limits = ", ".join(f"{what} {row.spec[what]}" for what in moved)
        told = f"The tenant {row.name} was changed{who}: its limits are {limits} now"
        action = f"`skyriver audit list --target tenant/{row.name}` shows what was done."
        yield Change(GATEWAY, "limits", at, told, action, row.name)
        return
    how = ", ".join(f"{what} {before.get(what) or 'none'} to {row.spec.get(what) or 'none'}" for what in moved)
    back = " ".join(f"--{what} {before.get(what) or 'none'}" for what in moved)
    told = f"The limits of the tenant {row.name} were changed{who}: {how}"
    yield Change(GATEWAY, "limits", at, told, f"`skyriver tenant limit {row.name} {back}` sets them back.", row.name)


def _step(row: Resource | None) -> str:
    step = row.status.get("step") if row is not None else None
    return f", step {step + 1}" if step is not None else ""
