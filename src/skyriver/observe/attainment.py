"""Whether a service keeps its objective now, why not, and what to do: in plain words. Pure but for what is counted."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from skyriver.core.contract import Objective
from skyriver.core.declared import service_spec
from skyriver.core.ranges import MOST_REPLICAS
from skyriver.core.resources import Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND, format_span, utc_time
from skyriver.observe.cheaper import rolls_out_cheaper
from skyriver.observe.demand import Measured
from skyriver.observe.objectives import LEAST_BAD, Ring
from skyriver.serve.objective import told_if_impossible
from skyriver.serve.scaling_kind import scaling_of
from skyriver.serve.sleeping import is_asleep, rest_of, woken_since

STEP_S: Final = 10
STEPS: Final = 30
WINDOW_S: Final = STEP_S * STEPS
NOBODY: Final = 0.005
"""Replicas' work; what is told of less is 0.00."""

State = Literal["kept", "missed", "few", "idle"]
"""few: more was late than may be, and less than LEAST_BAD requests: nothing to judge by yet."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Of the last `seconds`."""

    judged: int
    missed: int
    seconds: float
    unreached: int = 0
    """Of the missed ones, those that no replica had."""
    limited: int = 0
    """Not of the judged ones: a tenant's or a route's limit refused them."""
    waiting: int = 0
    """That wait or are under way now."""


@dataclass(slots=True)
class _Known:
    """Of one service, by monotonic seconds."""

    began: float
    """Of the first look."""
    blind: float
    """Of the last look that told nothing, as the first one does."""
    is_blind: bool = True
    waiting: float = 0.0
    reached: Ring | None = None
    """Those that a replica or the activator had; and `unreached` those that none did. None: there were none yet."""
    unreached: Ring | None = None
    limited: Ring | None = None


class Attainment:
    """What of the requests of each service was in time, lately. One thread notes, others may ask meanwhile."""

    def __init__(self) -> None:
        self._of: dict[str, _Known] = {}
        self._second = 0.0
        self._lock = threading.Lock()

    def note(self, measured: Mapping[str, Measured], second: float) -> None:
        """By tenant/name; `second`: monotonic. What is stale says nothing, not that nobody asked."""
        with self._lock:
            self._second = second
            for name, seen in measured.items():
                known = self._of.get(name)
                if known is None:
                    known = self._of[name] = _Known(second, second)
                known.is_blind, known.waiting = bool(seen.stale), seen.waiting
                if seen.stale:
                    known.blind = second
                elif seen.answered:
                    known.reached = known.reached or Ring(STEP_S, STEPS)
                    known.reached.add(second, int(seen.answered), int(seen.missed))

    def note_refused(self, unreached: Mapping[str, int], limited: Mapping[str, int], second: float) -> None:
        """What the gateway answered itself, of services that are looked at: requests that no replica had, and what a
        limit refused."""
        with self._lock:
            self._second = second
            for name, count in unreached.items():
                if (known := self._of.get(name)) is not None:
                    known.unreached = known.unreached or Ring(STEP_S, STEPS)
                    known.unreached.add(second, count, count)
            for name, count in limited.items():
                if (known := self._of.get(name)) is not None:
                    known.limited = known.limited or Ring(STEP_S, STEPS)
                    known.limited.add(second, count, count)

    def keep(self, names: set[str]) -> None:
        """Of no others anything is known any more."""
        with self._lock:
            self._of = {name: known for name, known in self._of.items() if name in names}

    def of(self, name: str) -> Counted | None:
        """None: nobody has looked at it yet, or nothing is counted and whether somebody asks is not known."""
        with self._lock:
            known = self._of.get(name)
            if known is None:
                return None
            judged, missed = self._lately(known.reached)
            (unreached, _), (limited, _) = self._lately(known.unreached), self._lately(known.limited)
            judged, missed = judged + unreached, missed + unreached
            if not judged and not limited and known.is_blind:
                return None
            since = known.began if judged or limited else known.blind
            seconds = min(float(WINDOW_S), max(self._second - since, 1.0))
            return Counted(judged, missed, seconds, unreached, limited, int(known.waiting))

    def _lately(self, ring: Ring | None) -> tuple[int, int]:
        return ring.over(self._second, STEPS) if ring is not None else (0, 0)


def objective_of(snapshot: Snapshot, service: Resource, counted: Counted | None) -> Objective | None:
    """None of one that declares none, or of which nothing is known."""
    spec = service_spec(service.spec["serve"])
    if counted is None or not service.spec.get("versions") or not (spec.latency_us or spec.elastic):
        return None
    state, asleep = state_of(counted, spec.share), is_asleep(rest_of(service))
    if state == "idle" and not counted.limited and not _ready(service) and not asleep:
        return None  # whoever asks it may be in no record
    because, action = _because(snapshot, service, spec, counted) if state == "missed" else ("", "")
    return {
        "name": service.name,
        "state": state,
        "latency": spec.latency,
        "share": spec.share,
        "judged": counted.judged,
        "missed": counted.missed,
        "within_s": round(counted.seconds, 1),
        "message": _message(state, counted, spec, asleep=asleep),
        "because": because,
        "next_action": action,
    }


def _ready(service: Resource) -> int:
    return max((service.status.get("ready") or {}).values(), default=0)


def state_of(counted: Counted, share: float) -> State:
    if not counted.judged:
        return "idle"
    if counted.missed <= (1 - share) * counted.judged + 1e-9:
        return "kept"
    return "missed" if counted.missed >= LEAST_BAD else "few"


def _message(state: State, counted: Counted, spec: ServiceSpec, *, asleep: bool) -> str:
    within = f" within {spec.latency}" if spec.latency else ""
    lately = f"in the last {_span(counted.seconds)}"
    requests = f"{counted.judged:,} request{'s' if counted.judged != 1 else ''}"
    share = counted.missed / max(counted.judged, 1)
    missed, may = percent(share, of=share), percent(1 - spec.share)
    unreached = f"; {counted.unreached:,} reached no replica" if counted.unreached else ""
    limited = f"{counted.limited:,} {'were' if counted.limited != 1 else 'was'} refused by a limit of requests (429)"
    more = f" Besides, {limited}." if counted.limited else ""
    match state:
        case "idle" if counted.waiting:
            wait = f"{counted.waiting:,} request{'s wait' if counted.waiting != 1 else ' waits'}"
            return f"{wait}, and none was answered {lately}."
        case "idle" if counted.limited:
            return f"No request was let through {lately}: {limited}."
        case "idle":
            return f"Nobody asked {lately}."
        case "kept":
            kept, must = percent(1 - counted.missed / counted.judged), percent(spec.share)
            return f"The objective is kept: {kept} of {requests} were answered{within} {lately} ({must} must be).{more}"
        case "few":
            late = f"{counted.missed} of {requests} were not answered{within} {lately}"
            return f"{late} ({may} may){unreached}: too few to judge the objective by.{more}"
        case "missed":
            late = f"{missed} of {requests} were not answered{within} {lately}"
            was = "Asleep; before that the objective was" if asleep else "The objective is"
            return f"{was} missed: {late} ({may} may){unreached}.{more}"


def percent(share: float, *, of: float | None = None) -> str:
    """To two digits of what is missing to nothing or to all, or those `of` something."""
    off = min(share, 1 - share) if of is None else of
    if off <= 1e-9:
        return "100%" if share > 0.5 else "0%"
    told = f"{100 * share:.{max(0, 1 - math.floor(math.log10(100 * off)))}f}"
    return f"{told.rstrip('0').rstrip('.') if '.' in told else told}%"


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


def _because(snapshot: Snapshot, service: Resource, spec: ServiceSpec, counted: Counted) -> tuple[str, str]:
    """(why, what to do): the first of what may be wrong, the surest first."""
    if impossible := told_if_impossible(snapshot, service, spec):
        return impossible["message"], impossible["next_action"]
    scaling = scaling_of(snapshot, service)
    asleep = is_asleep(rest_of(service))
    if asleep and spec.elastic:  # nothing is added to it, nor wanted for it
        lately = _refused_lately(snapshot, service, spec, scaling)
        return lately or _of_wakes(snapshot, service, spec) or ("", "")
    if service.message and (service.state == "DEGRADED" or not _ready(service)) and not asleep:
        return service.message, service.next_action
    if scaling is None or not spec.elastic:
        if (woken := _of_wakes(snapshot, service, spec)) is not None:
            return woken
        has = f"It has {spec.most} replica{'s' if spec.most != 1 else ''}, however much comes."
        more = min(2 * spec.most + 2, MOST_REPLICAS)
        if more == spec.most:
            return has, _declare_more(service.name, spec, more)
        tries = f"`skyriver service replay {service.name} --replicas 1..{more}` tries what more would do"
        return has, f"{tries}; replicas=({spec.least}, {more}) lets them follow the load."
    if scaling.state == "HOLDING":
        return scaling.message, scaling.next_action
    if (short := short_of(snapshot, service)) is not None:
        return short.told, short.next_action
    if (refused := _refused_lately(snapshot, service, spec, scaling)) is not None:
        return refused
    return _of_replicas(snapshot, service, spec, scaling, counted)


def _declare_more(name: str, spec: ServiceSpec, wish: int) -> str:
    """As far as it may be declared."""
    if spec.most >= MOST_REPLICAS:
        return f"Declare a longer latency= for {name}, or a smaller model: no service has more than {MOST_REPLICAS}."
    more = min(wish, MOST_REPLICAS)
    return f"Declare replicas=({spec.least}, {more}) for {name}, a longer latency=, or a smaller model."


def _refused_lately(
    snapshot: Snapshot, service: Resource, spec: ServiceSpec, scaling: Resource | None
) -> tuple[str, str] | None:
    """(why, what to do) of one that is not short of replicas any more, and was while it was asked."""
    refused: Mapping[str, Any] = scaling.status.get("refused") or {} if scaling is not None else {}
    if not refused or snapshot.now - int(refused["at"]) > WINDOW_S * SECOND:
        return None
    name, wish, at = service.name, refused["wish"], f"at {utc_time(refused['at'])[-8:]} UTC"
    if refused["by"] == "most":
        told = f"{wish} replicas were wanted for {name} {at}, and at most {refused['had']} were declared."
        return told, _declare_more(name, spec, wish) if spec.most < wish else ""
    told = f"{wish} replicas were wanted for {name} {at}, and the machine had room for {refused['had']}."
    return told, f"`skyriver service history {name}` has when that was."


@dataclass(frozen=True, slots=True)
class Short:
    kind: Literal["pool", "most"]
    told: str
    next_action: str


def short_of(snapshot: Snapshot, service: Resource) -> Short | None:
    """Of one that wants more replicas than it may have: the machine has no more, or no more are declared."""
    spec, scaling = service_spec(service.spec["serve"]), scaling_of(snapshot, service)
    if scaling is None:
        return None
    status: Mapping[str, Any] = scaling.status
    pool: Mapping[str, Any] = status.get("pool") or {}
    name, most = service.name, spec.most
    if pool and pool["granted"] < pool["asked"]:
        does = "does" if pool["scarce"] == "memory" else "do"
        why = f"The machine's {pool['scarce']} {does} not do for all: {name} has {pool['granted']} of {pool['asked']}"
        why = f"{why} replicas that it needs.{pool.get('holders', '')}"
        action = _make_room(name, str(pool["scarce"]), is_first=not pool.get("ahead", True))
        return Short("pool", why, f"{rolls_out_cheaper(snapshot, service)} {action}".strip())
    wish = int(status.get("wish", 0))
    if wish > most and int(scaling.spec["replicas"]) >= most:
        why = f"{wish} replicas are wanted for {name}, and at most {most} are declared."
        return Short("most", why, _declare_more(name, spec, wish))
    return None


def _of_wakes(snapshot: Snapshot, service: Resource, spec: ServiceSpec) -> tuple[str, str] | None:
    """(why, what to do) of one that requests woke lately, longer than these may take."""
    woken = woken_since(service, snapshot.now - WINDOW_S * SECOND)
    took = [int(r["ready_at"]) - int(r["at"]) for r in woken if "ready_at" in r]
    allowed_us = spec.wake_us or spec.latency_us
    if not allowed_us or max(took, default=0) <= allowed_us:
        return None
    times = f"{len(took)} times, in up to" if len(took) > 1 else "once, in"
    told = f"Requests woke it {times} {format_span(max(took))}, for which they waited"
    without = " and ".join(f"{what}=" for what in ("wake", "idle") if getattr(spec, what))
    awake = f"replicas={1 if spec.most == 1 else (1, spec.most)}{f' without {without}' if without else ''}"
    never = f"or {awake} for {service.name}, which never sleeps then."
    if spec.wake:
        return f"{told}: longer than wake={spec.wake!r}.", f"Declare a longer wake=, {never}"
    return f"{told}.", f"Declare wake=, which those that wake it may take in place of latency=, {never}"


def _make_room(name: str, scarce: str, *, is_first: bool) -> str:
    """`is_first`: all that others have over their least they have after it."""
    if not is_first:
        return f"Declare a higher priority or a smaller model for {name}, or add {scarce}."
    what = "cpus=" if scarce == "cores" else "memory_mb="
    return (
        f"No priority helps, for others have only what is theirs at least: declare less of it ({what}, replicas=) for"
        f" them, a smaller model for {name}, or add {scarce}."
    )


def _of_replicas(
    snapshot: Snapshot, service: Resource, spec: ServiceSpec, scaling: Resource, counted: Counted
) -> tuple[str, str]:
    ready = _ready(service)
    wanted = int(service.status.get("wanted", ready))
    start_s = float((scaling.status.get("measured") or {}).get("start_s", 0.0))
    notes = [sentence for rule, sentence in scaling.status.get("lines", ()) if rule == "replicas"]
    if notes:
        return " ".join(notes), f"`skyriver logs {service.name}` has the replicas' last words."
    if wanted > ready:
        why = f"{wanted} replicas are wanted and {ready} serve{'s' if ready == 1 else ''} yet."
        return why, f"It goes on by itself: a replica is ready {start_s:.1f} s after it was asked for."
    if 2 * counted.unreached > counted.missed:
        action = f"`skyriver request list --of model/{service.name} --status 5xx` shows them."
        return "Most of these came when none served, or when all had as many as they may have.", action
    if (woken := _of_wakes(snapshot, service, spec)) is not None:
        return woken
    changes = scaling.status.get("changes") or ({"from": 0, "to": 0, "at": 0},)
    last = changes[-1]
    if last["to"] > last["from"] and int(scaling.status.get("at", 0)) - int(last["at"]) < WINDOW_S * SECOND:
        why = f"It had {last['from']} replicas before the {last['to']} of now: more came than these answered in time."
        return why, "It goes on by itself: more are added while too much is late."
    if float(scaling.status.get("came", 1.0)) < NOBODY:
        return (
            "More was late than was foreseen.",
            "Nobody asks now; more replicas are added when too much is late again.",
        )
    return "More was late than was foreseen.", "It goes on by itself: more replicas are added while too much is late."
