"""What a look decides of services that may sleep, as rows: after how long without a request, and when somebody is
expected. It needs no numpy: a cloud whose services have one replica or none never loads that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from skyriver.control.schedule.sleeping import (
    DAYS,
    MOST_WRONG,
    NO_OBJECTIVE_S,
    Habits,
    Idle,
    Seen,
    Terms,
    Warming,
    idle_after,
    late_by_waking,
    observe,
    pack,
    terms_of,
    unpack,
    wakes_at,
)
from skyriver.core.declared import service_spec
from skyriver.core.prices import Prices
from skyriver.core.resources import Limits, Put, Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND, format_span, utc_time
from skyriver.serve.scaling_kind import new_scaling, scaling_of, sleep_of
from skyriver.serve.sizing import sized
from skyriver.serve.sleeping import waiting

HOUR_S: Final = 3_600
NEWS: Final = 1.1
"""Times as long or as short, before it is written anew."""


@dataclass(slots=True)
class _Kept:
    """Of one service."""

    habits: Habits
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(pid, requests) of its processes, at the look before."""
    started_at: int = 0
    """When the last replica was asked for whose start is known."""
    said_at: int = 0
    """When a late request was last said to be worth something."""


class Sleepers:
    """`look` is called by one thread, every few seconds. What it knows is bounded by the services there are."""

    def __init__(self, remembered: Any = None) -> None:
        self._learnt: Mapping[str, Any] = remembered if isinstance(remembered, dict) else {}
        self._of: dict[str, _Kept] = {}

    def remember(self) -> dict[str, Any]:
        """JSON, from which another one goes on."""
        return {name: pack(kept.habits) for name, kept in self._of.items()}

    def look(self, snapshot: Snapshot, prices: Prices) -> list[Put]:
        """The rows that change."""
        puts, seen = [], set()
        for service, spec in sleeping_services(snapshot):
            name = f"{service.tenant}/{service.name}"
            seen.add(name)
            kept = self._of.setdefault(name, _Kept(unpack(self._learnt.get(name))))
            row = scaling_of(snapshot, service)
            observe(kept.habits, _seen(snapshot, service, spec, kept, row, prices))
            if (put := _row(snapshot, service, spec, row, kept.habits, prices)) is not None:
                puts.append(put)
        self._of = {name: kept for name, kept in self._of.items() if name in seen}
        return puts


def sleeping_services(snapshot: Snapshot) -> Iterator[tuple[Resource, ServiceSpec]]:
    """Those that may sleep, and that have a version."""
    for service in snapshot.rows.every("service"):
        declared = service.spec["serve"].get("replicas")
        if isinstance(declared, int | None) or declared[0] or not service.spec.get("versions"):
            continue
        yield service, sized(service, service_spec(service.spec["serve"]))


def _seen(
    snapshot: Snapshot,
    service: Resource,
    spec: ServiceSpec,
    kept: _Kept,
    row: Resource | None,
    prices: Prices,
) -> Seen:
    held, last, asked = waiting(snapshot, service), 0, 0
    replicas = snapshot.children(service, "replica")
    before, kept.counts = kept.counts, {}
    for replica in replicas:
        process = snapshot.processes.get(replica.process)
        told = process.report.get("requests") if process is not None and process.alive else None
        if process is None or not isinstance(told, int) or told <= 0:
            continue  # one that nobody asked tells when it was started
        pid, known = before.get(replica.process, (0, 0))
        asked += max(0, told - known) if pid in (0, process.pid) else told
        kept.counts[replica.process] = (process.pid, told)
        last = max(last, int(process.report.get("active_at", 0)))
    if held:
        last = snapshot.now
    status: Mapping[str, Any] = row.status if row is not None and spec.elastic else {}
    worth_s = None
    if status.get("at", 0) > kept.said_at:
        kept.said_at = int(status["at"])
        worth_s = _worth_s(status, _hourly(spec, prices))
    return Seen(snapshot.now / SECOND, last / SECOND, asked, held, _start_s(replicas, kept), worth_s)


def _start_s(replicas: Sequence[Resource], kept: _Kept) -> float | None:
    """Of the newest replica that has become ready, once; of one that never died, for its `since` is that."""
    fresh = [r for r in replicas if r.state == "READY" and r.created_at > kept.started_at]
    if not fresh:
        return None
    newest = max(fresh, key=lambda replica: replica.created_at)
    kept.started_at = newest.created_at
    took = (newest.since - newest.created_at) / SECOND
    return took if "dead_pid" not in newest.status and 0 < took < HOUR_S else None


def _worth_s(status: Mapping[str, Any], hourly: float) -> float | None:
    """What a late request is worth by who decides on replicas, in seconds of keeping one."""
    price, unit = status.get("late_price"), status.get("unit")
    if not price:
        return None
    if unit == "replica-hours":
        return float(price) * HOUR_S
    return float(price) / hourly * HOUR_S if hourly else None


def _hourly(spec: ServiceSpec, prices: Prices) -> float:
    return float(prices.per_second(Limits(spec.cpus, spec.memory_mb))) * HOUR_S


def _row(
    snapshot: Snapshot,
    service: Resource,
    spec: ServiceSpec,
    row: Resource | None,
    habits: Habits,
    prices: Prices,
) -> Put | None:
    """Of a service whose replicas follow the load it is there once these were decided on."""
    terms = terms_of(spec)
    idle = idle_after(habits, terms)
    warming = wakes_at(habits, terms, snapshot.now / SECOND)
    sleep: dict[str, Any] = {"idle_us": round(idle.seconds) * SECOND, "rule": idle.rule}
    if warming is not None:
        sleep |= {"at": round(warming.at) * SECOND, "until": round(warming.until) * SECOND}
    told = {"sleep": lines_of(spec, terms, habits, idle, warming, prices)}
    if row is None:
        if spec.elastic:
            return None
        made = new_scaling(service, spec.most, told, snapshot.now)
        return Put(replace(made, spec={**made.spec, "sleep": sleep}), 0)
    status = {**row.status, **told} if spec.elastic else told
    if not _is_news(sleep_of(snapshot, service), sleep) and status.keys() == row.status.keys():
        return None
    return Put(replace(row, spec={**row.spec, "sleep": sleep}, status=status), row.revision)


def _is_news(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    if any(before.get(what) != after.get(what) for what in ("rule", "at", "until")):
        return True
    return not 1 / NEWS <= after["idle_us"] / max(int(before["idle_us"]), 1) <= NEWS


def lines_of(
    spec: ServiceSpec, terms: Terms, habits: Habits, idle: Idle, warming: Warming | None, prices: Prices
) -> list[list[str]]:
    """(rule, sentence) each, for people."""
    late = late_by_waking(habits, terms)
    costs = f"a waking costs what {_span(idle.wake_s)} of a replica do ({_span(habits.start_s)} of starting"
    costs += f", and {late:.2g} late worth {_span(idle.late_s)})" if late else ", and nobody is late by it)"
    if hourly := _hourly(spec, prices):
        costs += f", at {hourly:.4g} {prices.currency} an hour"
    sleeps = {
        "declared": f"After {spec.idle} without a request, as declared with idle=; {costs}."
        if spec.idle
        else f"After {_span(NO_OBJECTIVE_S)} without a request: neither latency= nor wake= says what one is worth.",
        "break-even": f"After {_span(idle.seconds)} without a request: {costs}, and there are few gaps to go by yet.",
        "history": f"After {_span(idle.seconds)} without a request, which would have cost least on its own"
        f" {sum(habits.counts):.0f} gaps: {costs}.",
    }
    lines = [["sleep", sleeps[idle.rule]]]
    if warming is not None:
        lines.append(
            [
                "wake",
                f"At {utc_time(warming.at * SECOND)} UTC, before anybody asks: on {warming.days} of the last"
                f" {warming.of} days somebody did within the minutes after that. It stays until"
                f" {utc_time(warming.until * SECOND)} UTC.",
            ]
        )
    elif habits.rests_until > habits.looked:
        lines.append(
            [
                "wake",
                f"Not before somebody asks: nobody came for the last {MOST_WRONG} times that it was awake for them.",
            ]
        )
    elif idle.rule != "declared" and late:
        lines.append(
            ["wake", f"With the first request: no time of day of the last {DAYS} days foretells one that pays."]
        )
    return lines


def _span(seconds: float) -> str:
    return format_span(round(seconds * SECOND))
