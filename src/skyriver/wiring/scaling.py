"""What a tick of scaling decides for all elastic services, as rows: the same for the live thread and the simulator.

Loads numpy, so the control plane loads it only once a service is elastic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

import numpy as np

from skyriver.control.schedule.explaining import Explained, explain
from skyriver.control.schedule.moments import Moment
from skyriver.control.schedule.pool import Ask
from skyriver.control.schedule.scaling import Decided, Fleet, Rules, Ticks
from skyriver.control.schedule.tables import Whole
from skyriver.core.prices import Prices
from skyriver.core.resources import Limits, Put, Resource, Snapshot
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND
from skyriver.observe.attainment import NOBODY
from skyriver.observe.cheaper import rolls_out_cheaper
from skyriver.observe.demand import LOOK_S, DemandMeter, Measurable, Measured
from skyriver.serve.scaling_kind import SCALINGS, new_scaling, scaling_of
from skyriver.serve.sleeping import rest_of
from skyriver.wiring.pooling import Granted, MachinePool, ask_of

HOUR_S: Final = 3_600
CHANGES: Final = 20
"""Of a row, that are kept."""
_REFUSES: Final = ("pool: ", "limits: ")
BLIND_LOOKS: Final = 3
"""In a row without measurements, before it is said."""
REFRESH_US, SOON_US = 60 * SECOND, 10 * SECOND
"""A row whose number stands is written anew, with what is measured now, after these: the shorter one where there are
few."""
SOME: Final = 240
"""Services of which each is written anew as seldom as of more."""
LEAST_REFRESHES: Final = 20
"""Of such rows, that a look may write, however few there are."""
_TICKS: Final = ("work", "requests", "judged", "late", "backlog", "ready", "pending", "start_s", "queue_s", "possible")
_COLUMNS = attrgetter(*_TICKS)
_TOLD: Final = (
    *("requests", "late", "work", "backlog", "ready", "pending", "start_s", "work_s", "alone_s", "batch", "fastest_s"),
)


class Scaling:
    """`look` is called by one thread, every `look_s`, and decides on the services that are looked at so often. What it
    knows is bounded by the services there are."""

    def __init__(
        self,
        remembered: Mapping[str, Any] | None = None,
        look_s: float = LOOK_S,
        pool: MachinePool | None = None,
    ) -> None:
        """`pool`: what there is for all; None: as much as anybody wants."""
        remembered = remembered or {}
        self._pool = pool
        self.look_s = look_s
        self._meter = DemandMeter(remembered.get("measured"), look_s)
        self._learnt: Mapping[str, Any] = remembered.get("learnt") or {}
        self._fleet = Fleet(look_s)
        self.measured: Mapping[str, Measured] = {}
        """By the last look."""
        self._kept: Measurable | None = None
        """That the fleet is of, at the prices that hold."""
        self._prices: Prices | None = None
        self._rules: dict[str, Rules] = {}
        self._asks: dict[str, tuple[tuple[int, int, bool, Resource], Ask]] = {}
        self._may_refresh = 0
        """Rows whose number stands, that this look still writes."""
        self._blind: dict[str, int] = {}
        self._told_otherwise: set[str] = set()
        """By declarations that came after what their rows say."""

    def remember(self, now: Moment | None = None) -> dict[str, Any]:
        """JSON, from which another one goes on; with `now` as this one would have, while it is recent."""
        return {
            "measured": self._meter.remember(),
            "learnt": {name: self._fleet.remember(name, now) for name in self._fleet.names},
        }

    def look(self, snapshot: Snapshot, second: float, prices: Prices, *, unseen_s: float = 0.0) -> list[Put]:
        """The rows that change. `second` is monotonic; `unseen_s`: so long ago processes were looked at last."""
        measured = self.measured = self._meter.look(snapshot, second, unseen_s=unseen_s)
        services = self._meter.services
        self._keep(services, prices, Moment(second, snapshot.now / SECOND))
        if not services:
            return []
        wanted = self._fleet.decide(self._ticks(measured), second, snapshot.now / SECOND)
        rows = {name: scaling_of(snapshot, service) for name, (service, _) in services.items()}
        granted = self._granted(snapshot, rows, wanted)
        self._may_refresh = max(LEAST_REFRESHES, math.ceil(len(services) * self.look_s * SECOND / REFRESH_US))
        puts = []
        for name, replicas in zip(self._fleet.names, self._fleet.steering.wanted.tolist(), strict=True):
            put = self._row(snapshot, name, rows[name], measured[name], replicas, granted.get(name))
            if put is not None:
                puts.append(put)
        return puts

    def _granted(self, snapshot: Snapshot, rows: Mapping[str, Resource | None], wanted: Whole) -> Mapping[str, Granted]:
        """Of the pool, where it does not do for all; the fleet then knows it."""
        if self._pool is None:
            return {}
        asks, services = {}, self._meter.services
        for name, wish, fresh in zip(self._fleet.names, wanted.tolist(), self._fleet.fresh().tolist(), strict=True):
            service, spec = services[name]
            of = wish, _before(service, spec, rows[name]), fresh, service
            known = self._asks.get(name)
            if known is None or known[0] != of:
                known = of, ask_of(service, spec, wish, of[1], fresh=fresh)
                self._asks[name] = known
            asks[name] = known[1], self._rules[name].price
        replicas, granted = self._pool.grant(snapshot, self._fleet, asks)
        # one that sleeps asks for none, and is decided on all the same
        limits = [
            min(w, max(replicas[n], services[n][1].awake)) for n, w in zip(replicas, wanted.tolist(), strict=True)
        ]
        self._fleet.limit(np.array(limits, np.int64))
        return granted

    def _keep(self, services: Measurable, prices: Prices, now: Moment) -> None:
        """The fleet is of these services, by what they declare now."""
        if services is self._kept and prices is self._prices:
            return
        gone = [name for name in self._fleet.names if name not in services]
        self._fleet.remove_all(gone)
        for name in gone:
            self._blind.pop(name, None)
            self._asks.pop(name, None)
            self._told_otherwise.discard(name)
        rules = {name: rules_of(spec, prices) for name, (_, spec) in services.items()}
        new = {name: (of, self._learnt.get(name)) for name, of in rules.items() if name not in self._rules}
        self._fleet.add_all(new, now)
        for name, of in rules.items():
            if name not in new and of != self._rules[name]:
                self._fleet.change(name, of)
                self._told_otherwise.add(name)
        self._rules, self._kept, self._prices = rules, services, prices

    def _ticks(self, measured: Mapping[str, Measured]) -> Ticks:
        of = [measured[name] for name in self._fleet.names]
        columns = np.array([_COLUMNS(each) for each in of], np.float64).T
        told = dict(zip(_TICKS, columns, strict=True))
        service_s = told.pop("queue_s") * told.pop("possible")  # the room for chance is not worth more than it can do
        fresh = np.array([not each.stale for each in of], bool)
        return Ticks(**told, service_s=service_s, fresh=fresh)

    def _row(
        self,
        snapshot: Snapshot,
        name: str,
        row: Resource | None,
        seen: Measured,
        replicas: int,
        granted: Granted | None,
    ) -> Put | None:
        service, spec = self._meter.services[name]
        anew = name in self._told_otherwise
        if service.status.get("rests"):  # it may have woken with another number than is decided
            was, has = _told(service, row, _before(service, spec, row), replicas)
            anew = anew or was != has
        if row is not None and not seen.stale and not anew and self._stands(row, replicas, granted, snapshot.now):
            self._blind[name] = 0
            return None
        prices = self._prices
        assert prices is not None
        decided = self._fleet.decided(name)
        if seen.stale or decided is None or not decided.fresh:
            self._blind[name] = self._blind.get(name, 0) + 1
            why = seen.stale or "What is measured cannot be."
            return _blind(snapshot, row, why) if row is not None and self._blind[name] >= BLIND_LOOKS else None
        self._blind[name] = 0
        before = _before(service, spec, row)
        was, has = _told(service, row, before, replicas)
        cheaper = rolls_out_cheaper(snapshot, service) if granted is not None else ""
        status = status_of(snapshot.now, seen, decided, spec, prices, granted, cheaper)
        if (
            refused := _refused(decided, status) or (row.status.get("refused") if row is not None else None)
        ) is not None:
            status["refused"] = refused
        kept = dict(row.spec) if row is not None else {}
        if row is not None and "sleep" in row.status and spec.sleeps:  # wiring.sleepers decides on that
            status["sleep"] = row.status["sleep"]
        else:
            kept.pop("sleep", None)
        if row is None:
            made = new_scaling(service, replicas, {}, snapshot.now)
            return Put(replace(made, status={**status, "changes": changes_after({}, was, has, status)}), 0)
        if replicas == before and row.state == "ACTIVE" and not anew and not _is_news(row.status, status):
            return None
        self._told_otherwise.discard(name)
        status["changes"] = changes_after(row.status, was, has, status)
        after = SCALINGS.move(row, "decided", snapshot.now, spec={**kept, "replicas": replicas}, status=status)
        return Put(after, row.revision)

    def _stands(self, row: Resource, replicas: int, granted: Granted | None, now: int) -> bool:
        """Nothing is to be written of it yet, whatever is measured: most rows in most looks. A thousand that were
        written in one look are not written anew in one look."""
        same = row.state == "ACTIVE" and row.spec["replicas"] == replicas
        if not same or _is_limited(row.status) != (granted is not None and granted.replicas < granted.asked):
            return False
        due = min(REFRESH_US, max(SOON_US, len(self._fleet.names) * REFRESH_US // SOME))
        if now - row.status.get("at", 0) < due or self._may_refresh <= 0:
            return True
        self._may_refresh -= 1
        return False


def _before(service: Resource, spec: ServiceSpec, row: Resource | None) -> int:
    return int(row.spec["replicas"] if row is not None else service.status.get("wanted", spec.awake))


def _told(service: Resource, row: Resource | None, before: int, replicas: int) -> tuple[int, int]:
    """How many the history has it at last, and how many it has now. What is decided of one that sleeps or wakes is not
    what it has: that is told with the first look once it is awake, from the number with which it woke."""
    rests, woke = service.status.get("rests"), service.status.get("woke") or {}
    if rest_of(service):
        return before, before
    if not rests:
        return before, replicas
    changes: Sequence[Mapping[str, Any]] = row.status.get("changes", ()) if row is not None else ()
    is_newer = not changes or int(rests[-1]["at"]) > int(changes[-1]["at"])
    was = int(rests[-1]["replicas"]) if is_newer else int(changes[-1]["to"])
    return was, max(replicas, int(woke.get("replicas", 0)))


def _refused(decided: Decided, status: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is wanted and not had now: kept with the row for who asks why something was late then."""
    by = "pool" if decided.wanted < decided.asked else "most" if _is_at_most(decided) else ""
    wish = decided.asked if by == "pool" else round(decided.wish)
    return {"at": status["at"], "by": by, "wish": wish, "had": decided.wanted} if by else None


def _is_at_most(decided: Decided) -> bool:
    return decided.wish > decided.wanted and decided.wanted == decided.rules.most


def rules_of(spec: ServiceSpec, prices: Prices) -> Rules:
    hold_us = spec.hold_us
    hour = prices.per_second(Limits(spec.cpus, spec.memory_mb)) * HOUR_S
    return Rules(
        share=spec.share,
        latency_s=spec.latency_us / SECOND,
        least=spec.least,
        most=spec.most,
        hold_s=None if hold_us is None else hold_us / SECOND,
        price=float(hour),
        cores=spec.cpus,
    )


def status_of(
    now: int,
    seen: Measured,
    decided: Decided,
    spec: ServiceSpec,
    prices: Prices,
    granted: Granted | None = None,
    cheaper: str = "",
) -> dict[str, Any]:
    """What is told of a decision; `granted`: of the pool, where it does not do for all; `cheaper`: what can be done."""
    told = explain(decided, granted.opportunity if granted is not None else 0.0)
    lines = [list(line) for line in told.lines]
    if granted is not None:
        lines += granted.lines(prices.currency if decided.rules.price else "", cheaper)
    lines += [["replicas", note] for note in seen.notes]
    if impossible := spec.cannot_keep(seen.fastest_s * SECOND):
        lines.append(["impossible", f"{impossible}."])
    return {
        "at": now,
        "lines": lines,
        "choices": [
            {
                "replicas": choice.replicas,
                "cost": _known(choice.cost),
                "late_share": _known(choice.late_share),
                "late_cost": _known(choice.late_cost),
                "sum": _known(choice.total),
            }
            for choice in told.choices
        ],
        "chosen": told.replicas,
        "late_price": _known(told.late_price),
        "unit": prices.currency if told.unit == "money" else told.unit,
        "cores": spec.cpus,
        "came": _short(decided.came),
        "wish": round(decided.wish),
        "prices": f"{prices.source}, as of {prices.as_of}",
        "why": _why(decided, told, seen.waiting),
        "measured": {what: _short(getattr(seen, what)) for what in _TOLD},
        **({"pool": granted.status()} if granted is not None else {}),
    }


def _why(decided: Decided, told: Explained, waiting: float) -> str:
    """The rule that made the number, and what it went by. `waiting`: requests, also under way."""
    rules = {rule for rule, _ in told.lines}
    comes = f"{decided.came:.2f} replicas' work comes now" if decided.came >= NOBODY else "next to nothing comes now"
    if decided.wanted < decided.asked:
        return f"pool: {decided.asked} are wanted, and the machine does not do for all services."
    if _is_at_most(decided):
        return f"limits: {decided.wish:.0f} are wanted, and at most {decided.rules.most} are declared."
    if decided.came < NOBODY and decided.there <= decided.wanted <= max(decided.rules.least, 1):
        awake = " while it is awake" if not decided.rules.least else ""
        asks = f"{waiting:,.0f} wait, what one takes is not known yet" if waiting else "nobody asks now"
        return f"demand: {asks}, and {decided.wanted} is the least{awake}."
    if decided.wanted < decided.there:
        return f"hold: {decided.held:.0f} would have done within the last {decided.hold_s:,.0f} s."
    if decided.wish < decided.wanted:
        return f"hold: {decided.wish:.0f} would do, and {decided.held:.0f} were wanted within {decided.hold_s:,.0f} s."
    if math.ceil(decided.floor - 1e-4) >= decided.wish and decided.floor > decided.came:
        return f"floor: {decided.floor:.2f} are needed for the last two minutes' demand and what waits."
    if "headroom" in rules and decided.headroom > 1:
        return f"headroom: {comes}, and more was late than was foreseen."
    if "queue" in rules:
        return f"queue: {comes}, and requests that meet by chance must not wait for long."
    return f"demand: {comes}."


def changes_after(before: Mapping[str, Any], was: int, now: int, status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The last ones, newest at the end. That more are wanted than it may have is one as well, once for each number."""
    kept: Sequence[dict[str, Any]] = before.get("changes", ())
    refused = (status.get("refused") or {}).get("at") == status["at"] and status["why"].startswith(_REFUSES)
    is_told = bool(kept) and kept[-1]["to"] == now and kept[-1]["why"].startswith(_REFUSES)
    if was == now and (not refused or is_told):
        return list(kept)
    chosen: Mapping[str, Any] = next((c for c in status["choices"] if c["replicas"] == now), {})
    price = {what: chosen.get(what) for what in ("cost", "late_cost", "sum")}
    unit = {"unit": status["unit"], "cores": status.get("cores", 1.0)}
    change = {"at": status["at"], "from": was, "to": now, "why": status["why"], **price, **unit}
    return [*kept, change][-CHANGES:]


def _blind(snapshot: Snapshot, row: Resource, why: str) -> Put | None:
    told = {
        "reason": "NO_MEASUREMENTS",
        "message": f"It stays at {row.spec['replicas']} replicas. {why}",
        "next_action": f"It goes on by itself; `skyriver explain {row.name}` tells how its replicas are.",
    }
    if row.state == "HOLDING" and row.message == told["message"]:
        return None
    return Put(SCALINGS.move(row, "blind", snapshot.now, **told), row.revision)


def _is_news(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether what is measured or said is worth a write, while the number stands."""
    told = any(before.get(what) != after[what] for what in ("measured", "choices", "unit"))
    return told or _is_limited(before) != _is_limited(after)


def _is_limited(status: Mapping[str, Any]) -> bool:
    pool = status.get("pool")
    return pool is not None and pool["granted"] < pool["asked"]


def _known(value: float) -> float | None:
    """None where it is no number: nothing came yet, say, so nothing is a share of it."""
    return value if math.isfinite(value) else None


def _short(value: float) -> float:
    """To two digits: what differs by less is the same."""
    return float(f"{value:.2g}")
