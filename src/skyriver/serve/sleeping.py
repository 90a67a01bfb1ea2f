"""Services that sleep: when one goes to sleep, when it wakes, and what is told of it. Pure.

A service of `(0, n)` replicas has none while nobody asks. Its place in the gateway is then the activator's (serve.
activator), which holds what comes and says so in its report; that report wakes the service, with the next pass. It is a
level, not an event: a control plane that was away finds it when it is back. When nobody has asked for long enough,
and when somebody is expected, is decided elsewhere and stands in the row `scaling` (serve.scaling_kind).

`status["rest"]` of a service: nothing while it is awake; else whether it is asleep or waking, since when and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND, format_duration, format_span
from skyriver.serve.scaling_kind import sleep_of, to_wake

ACTIVATOR = "activator"
"""Kind and name of the row: a tenant has one, while a service of it may sleep."""

WOKE_US = 15 * SECOND
RESTS = 20
"""Of a service, that are kept."""
IDLE = "IDLE"
ON_REQUEST = "ON_REQUEST"
REQUEST = "REQUEST"
FORECAST = "FORECAST"
RELEASE = "RELEASE"
DECLARED = "DECLARED"

_ASLEEP = {ON_REQUEST: "Asleep: it was put to sleep by hand."}
_WAKING = {
    REQUEST: "Waking: a request waits for it.",
    FORECAST: "Waking: on most days before somebody asked at about this time.",
    ON_REQUEST: "Waking: it was woken by hand.",
    RELEASE: "Waking: another version is being released.",
    DECLARED: "Waking: it is no longer declared to sleep.",
}


def activator_of(snapshot: Snapshot, tenant: str) -> ProcessStatus | None:
    return snapshot.processes.get(f"{tenant}.{ACTIVATOR}.{ACTIVATOR}")


def somebody_holds(snapshot: Snapshot, tenant: str) -> bool:
    """Whether the activator is there to hold a request."""
    activator = activator_of(snapshot, tenant)
    return activator is not None and activator.alive and bool(activator.report.get("ready"))


def waiting(snapshot: Snapshot, service: Resource) -> int:
    """Requests that the activator holds for the service."""
    activator = activator_of(snapshot, service.tenant)
    if activator is None or not activator.alive:
        return 0
    return int((activator.report.get("waiting") or {}).get(service.name, 0))


def rest_of(service: Resource) -> Mapping[str, Any]:
    return service.status.get("rest") or {}


def is_asleep(rest: Mapping[str, Any]) -> bool:
    return rest.get("state") == "asleep"


def rests(service: Resource, serve: ServiceSpec) -> bool:
    """Whether the activator may have to stand in for it."""
    return serve.sleeps or bool(rest_of(service))


def asleep(why: str, now: int, idle: str = "") -> dict[str, Any]:
    """`idle`: nobody asked for so long."""
    return {"state": "asleep", "why": why, "since": now, **({"idle": idle} if idle else {})}


def waking(why: str, now: int, replicas: int = 1) -> dict[str, Any]:
    """`replicas`: that start at once."""
    return {"state": "waking", "why": why, "since": now, **({"replicas": replicas} if replicas > 1 else {})}


def rest_after(
    snapshot: Snapshot, service: Resource, serve: ServiceSpec, members: Iterable[Resource], *, serves: bool
) -> Mapping[str, Any]:
    """What its rest is from this pass on. `members`: its replicas that are not on their way out; `serves`: whether one
    of them does."""
    rest = rest_of(service)
    settled = [int(v["weight"]) for v in service.spec.get("versions", {}).values()] == [100]
    if is_asleep(rest):
        if not serve.sleeps:
            return waking(DECLARED, snapshot.now)
        if not settled:
            return waking(RELEASE, snapshot.now)
        if held := waiting(snapshot, service):
            return waking(REQUEST, snapshot.now, to_wake(snapshot, service, serve, held))
        expected = _is_expected(snapshot, service, serve, since=int(rest["since"]))
        return waking(FORECAST, snapshot.now) if expected else rest
    if serve.sleeps and settled and _is_idle(snapshot, service, serve, members):
        return asleep(IDLE, snapshot.now, serve.idle or format_span(idle_us(snapshot, service, serve)))
    if rest and not serves and rest["why"] in (REQUEST, FORECAST):
        needed = to_wake(snapshot, service, serve, waiting(snapshot, service))
        return {**rest, "replicas": needed} if needed > waking_with(rest) else rest
    return {} if serves else rest


def waking_with(rest: Mapping[str, Any]) -> int:
    return int(rest.get("replicas", 1))


def woke_after(snapshot: Snapshot, service: Resource, rest: Mapping[str, Any]) -> Mapping[str, Any]:
    """With how many replicas it woke and when, for as long as these stay whatever is decided: who decides needs some
    looks to see what they have to do."""
    before = rest_of(service)
    if before and not rest and not is_asleep(before) and waking_with(before) > 1:
        return {"at": snapshot.now, "replicas": waking_with(before)}
    woke: Mapping[str, Any] = service.status.get("woke") or {}
    return woke if woke and not rest and snapshot.elapsed(int(woke["at"])) < WOKE_US else {}


def rests_after(
    snapshot: Snapshot, service: Resource, serve: ServiceSpec, rest: Mapping[str, Any], there: int
) -> list[dict[str, Any]]:
    """When it slept and woke lately, and why, newest at the end; `rest`: from this pass on, with `there` replicas. By
    what was kept last, and not by the rest before: that of one who was put to sleep or woken by hand is there already.
    """
    kept: list[dict[str, Any]] = list(service.status.get("rests", ()))
    last = kept[-1] if kept else {"to": "awake", "at": 0}
    if rest:
        to = "asleep" if is_asleep(rest) else "waking"
        if (last["to"], last["at"]) == (to, rest["since"]):
            return kept
        why = told_of(service.name, rest, serve)["message"]
        count = {"from": there, "replicas": 0} if is_asleep(rest) else {"from": 0, "replicas": waking_with(rest)}
        return [*kept, {"at": rest["since"], "to": to, "why": why, **count}][-RESTS:]
    if last["to"] == "asleep":  # woken at once, while its replicas were still there
        woke = {
            "at": snapshot.now,
            "to": "waking",
            "why": told_of(service.name, waking(ON_REQUEST, 0), serve)["message"],
        }
        kept, last = [*kept, {**woke, "from": 0, "replicas": there}][-RESTS:], woke
    return kept if last["to"] == "awake" else [*kept[:-1], {**kept[-1], "to": "awake", "ready_at": snapshot.now}]


def woken_since(service: Resource, at: int) -> list[Mapping[str, Any]]:
    """Of the times that a request woke it, as they are kept, those since `at`."""
    kept: Iterable[Mapping[str, Any]] = service.status.get("rests", ())
    return [r for r in kept if r["to"] != "asleep" and r["at"] >= at and r["why"] == _WAKING[REQUEST]]


def idle_us(snapshot: Snapshot, service: Resource, serve: ServiceSpec) -> int:
    """Without a request, before it goes to sleep: what it declares, or else what was decided."""
    return serve.idle_us if serve.idle else int(sleep_of(snapshot, service).get("idle_us", serve.idle_us))


def _is_expected(snapshot: Snapshot, service: Resource, serve: ServiceSpec, since: int = 0) -> bool:
    """Whether somebody is expected to ask about now. Who let it sleep in the midst of that, by hand say, meant it."""
    sleep = {} if serve.idle else sleep_of(snapshot, service)
    return max(int(sleep.get("at", 0)), since) <= snapshot.now < int(sleep.get("until", 0)) and since <= sleep["at"]


def _is_idle(snapshot: Snapshot, service: Resource, serve: ServiceSpec, members: Iterable[Resource]) -> bool:
    """Whether nobody has asked for long enough, and somebody is there who would hold the next request."""
    if not somebody_holds(snapshot, service.tenant) or waiting(snapshot, service):
        return False
    if _is_expected(snapshot, service, serve):
        return False
    last = service.since
    for member in members:
        process = snapshot.processes.get(member.process)
        if process is None or not process.alive:
            continue
        # One that does not tell is starting, or of a release before: nothing is known of its requests. Nor is of those
        # that came since it told last: where the machine is busy, a burst is there for seconds before that is told.
        unknown = snapshot.elapsed(int(process.report.get("told_at", snapshot.now)))
        last = max(last, int(process.report.get("active_at", snapshot.now)) + unknown)
    return snapshot.elapsed(last) >= idle_us(snapshot, service, serve)


def replicas_wanted(rest: Mapping[str, Any], awake: int, *, there: int, held: bool, at_once: int) -> int:
    """Of each version; `awake` of them once it is. Those that are `there` stay until requests are held. The first one
    wakes alone, unless more wait than it can do; others beside it would take its cores while somebody waits, so no more
    than `at_once` start before one serves."""
    if is_asleep(rest):
        return 0 if held else there
    return min(waking_with(rest), at_once) if rest else awake


def told_of(name: str, rest: Mapping[str, Any], serve: ServiceSpec, trouble: str = "") -> dict[str, str]:
    """Why it sleeps or wakes; `trouble`: what keeps it from waking."""
    if is_asleep(rest):
        message = _ASLEEP.get(
            rest["why"], f"Asleep: nobody asked for {rest.get('idle') or serve.idle or format_duration(serve.idle_us)}."
        )
        action = f"The next request wakes it; `skyriver service wake {name}` does so now."
        return {"reason": str(rest["why"]), "message": message, "next_action": action}
    if rest:
        return {"reason": "WAKING", "message": f"{_WAKING[rest['why']]} {trouble}".strip(), "next_action": ""}
    return {}
