"""What this machine has for elastic services, and how they share it: what is taken, who asks, what each is granted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skyriver.control.admission import held_by_jobs
from skyriver.control.schedule.pool import Ask, Grants, Scarce, share
from skyriver.control.schedule.usage import UNDECLARED_CORES, Usage
from skyriver.core.jobs import Capacity
from skyriver.core.resources import Resource, Snapshot
from skyriver.core.rows import are_same
from skyriver.core.spec import ServiceSpec
from skyriver.observe.demand import Measured
from skyriver.serve.sizing import memory_of
from skyriver.serve.sleeping import is_asleep, rest_of
from skyriver.wiring.holders import holders

if TYPE_CHECKING:
    from skyriver.control.schedule.scaling import Fleet
    from skyriver.control.schedule.tables import Floats

OVERLOAD = "Until there is room requests wait longer than they should, and what finds no room to wait is refused (503)."


@dataclass(frozen=True, slots=True)
class Granted:
    """To one service, while not all that is wanted fits the machine."""

    asked: int
    replicas: int
    scarce: Scarce
    price: float
    """Of the pool, an hour of a core or MB."""
    opportunity: float
    """What a replica costs the others an hour, in the unit of its own price."""
    above: int
    """Other services of a higher priority that want more than their least."""
    holders: str = ""
    """Of what is scarce, in a sentence."""
    ahead: int = 0
    """Other services of at least its priority that were granted more than their least: with a higher one it would get
    of theirs. What is least, or fixed, no priority takes."""

    def status(self) -> dict[str, Any]:
        told = {"asked": self.asked, "granted": self.replicas, "scarce": self.scarce, "price": self.price}
        return {**told, "higher_priority": self.above, "ahead": self.ahead, "holders": self.holders}

    def lines(self, currency: str, cheaper: str = "") -> list[list[str]]:
        """(rule, sentence) each; `cheaper`: how what takes less is rolled out."""
        unit = currency or "core-hours"
        per = ("core", self.price) if self.scarce == "cores" else ("GB of memory", 1_000 * self.price)
        best = f"{per[1]:.3g} {unit} an hour and {per[0]}, the worth of the best replica that is not granted."
        priced = ["price", f"The pool's price is {best}"]
        if self.replicas >= self.asked:
            return [["pool", f"All {self.asked} that are wanted are granted, while others do without."], priced]
        first = f" Of a higher priority, and so before it: {self.above} of the others." if self.above else ""
        told = f"{self.asked} are wanted and {self.replicas} granted: the machine's {self.scarce} do not do for all."
        told = told.replace("memory do not", "memory does not")
        return [["pool", f"{told}{first}{self.holders}"], priced, ["degraded", f"{OVERLOAD} {cheaper}".strip()]]


@dataclass(frozen=True, slots=True)
class _Asked:
    ask: Ask
    price: float
    """Of a replica; 0 where it has none."""
    fleet: Fleet


class MachinePool:
    """Of one machine; all that scale services on it ask the same one, in turn. It knows the services there are.

    Replicas that are there whatever is asked (fixed ones, and the least of an elastic service) hold the cores that
    somebody declared, else what is measured. One that comes on top holds a core: it comes because it will be busy.
    """

    def __init__(self, capacity: Capacity, peaks: Mapping[str, float] | None = None) -> None:
        """`peaks`: what `remember` gave."""
        self._capacity = capacity
        self._usage = Usage(peaks)
        self._asked: dict[str, _Asked] = {}
        self._services: Sequence[Resource] = ()
        self._fixed: Sequence[_Fixed] = ()

    def note(self, measured: Mapping[str, Measured], second: float) -> None:
        """What services took, elastic or not, since they were looked at last."""
        for name, seen in measured.items():
            if not seen.stale:
                self._usage.note(name, seen.cores, second)

    def remember(self) -> dict[str, float]:
        """JSON, from which another one goes on."""
        return self._usage.remember()

    def grant(
        self, snapshot: Snapshot, fleet: Fleet, asks: Mapping[str, tuple[Ask, float]]
    ) -> tuple[dict[str, int], dict[str, Granted]]:
        """Replicas of the `asks`, by tenant/name with what a replica costs an hour; and, while not all fits, of each
        why. They are all of the `fleet`; services of other fleets are granted what they are at their own look."""
        others = {
            name: asked
            for name, asked in self._asked.items()
            if asked.fleet is not fleet and name not in asks and _is_there(snapshot, name)
        }
        self._asked = {**others, **{name: self._of(name, ask, price, fleet) for name, (ask, price) in asks.items()}}
        wishes = {name: asked.ask for name, asked in self._asked.items()}
        # Cores are shared by the system when a job begins; who is asked now does not lose a replica to it.
        jobs = held_by_jobs(snapshot, self._capacity)
        left = self._capacity.less(self._taken(snapshot, wishes)).less(Capacity(0.0, jobs.memory_mb))
        grants = share(wishes, left.cpus, left.memory_mb, self._curves)
        replicas = {name: grants.replicas[name] for name in asks}
        return replicas, self._told(grants, asks) if grants.scarce else {}

    def _of(self, name: str, ask: Ask, price: float, fleet: Fleet) -> _Asked:
        known = self._asked.get(name)
        if known is not None and known.ask is ask and known.price == price and known.fleet is fleet:
            return known
        return _Asked(ask, price, fleet)

    def _taken(self, snapshot: Snapshot, wishes: Mapping[str, Ask]) -> Capacity:
        """By services whose replicas do not follow the load, looked for when a row of a service has changed; less what
        the least of those that do asks for and does not take.

        What is measured counts in whole cores, by the nearest: two idle services keep nobody from a core that they take
        a twentieth of, nor does a service lose a replica because its first one has become busy."""
        services = snapshot.rows.every("service")
        if not are_same(services, self._services):
            self._services, self._fixed = services, _fixed_of(services)
            self._usage.keep(f"{service.tenant}/{service.name}" for service in services)
        declared = sum(f.replicas * f.cpus for f in self._fixed if f.cpus)
        measured = sum(f.replicas * self._usage.held(f.name) for f in self._fixed if not f.cpus)
        asked = 0.0
        for name, ask in wishes.items():
            if ask.least and ask.cores == UNDECLARED_CORES:
                asked += ask.least * ask.cores
                measured += ask.least * self._usage.held(name)
        return Capacity(declared + math.floor(measured + 0.5) - asked, sum(f.memory_mb for f in self._fixed))

    def _spared(self, name: str, ask: Ask) -> float:
        """Cores that the least of an elastic service does not take of those that it asks for."""
        return ask.least * max(0.0, ask.cores - self._usage.held(name)) if ask.cores == UNDECLARED_CORES else 0.0

    def _curves(self, services: Mapping[str, tuple[int, int]]) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for fleet in {id(asked.fleet): asked.fleet for asked in self._asked.values()}.values():
            of = {name: span for name, span in services.items() if self._asked[name].fleet is fleet}
            if of:
                found |= fleet.curves(of)
        return found

    def _told(self, grants: Grants, names: Mapping[str, Any]) -> dict[str, Granted]:
        more = [asked.ask.priority for asked in self._asked.values() if asked.ask.wish > asked.ask.least]
        above = {priority: sum(other > priority for other in more) for priority in {*more}}
        held = self._held(grants)
        has = self._capacity.cpus if grants.scarce == "cores" else float(self._capacity.memory_mb)
        tenants = {name.partition("/")[0] for name in names}
        holding = {tenant: holders(tenant, held, grants.scarce, has) for tenant in tenants}
        over = {n: a.ask.priority for n, a in self._asked.items() if grants.replicas[n] > a.ask.least}
        ahead = {priority: sum(other >= priority for other in over.values()) for priority in {*more}}
        found = {}
        for name in names:
            ask, price = self._asked[name].ask, self._asked[name].price
            size = ask.cores if grants.scarce == "cores" else ask.memory_mb
            worth = grants.price * size / (1.0 if price else ask.cores)
            first = above.get(ask.priority, 0)
            of = grants.replicas[name], grants.scarce, grants.price, worth, first, holding[name.partition("/")[0]]
            others = ahead.get(ask.priority, 0) - (name in over)
            found[name] = Granted(ask.wish, *of, ahead=max(others, 0))
        return found

    def _held(self, grants: Grants) -> dict[str, float]:
        """Cores or MB, whichever is scarce, of each service."""
        if grants.scarce == "memory":
            held = {name: grants.replicas[name] * asked.ask.memory_mb for name, asked in self._asked.items()}
            return held | {fixed.name: float(fixed.memory_mb) for fixed in self._fixed}
        held = {n: grants.replicas[n] * a.ask.cores - self._spared(n, a.ask) for n, a in self._asked.items()}
        return held | {f.name: f.replicas * (f.cpus or self._usage.held(f.name)) for f in self._fixed}


def ask_of(service: Resource, spec: ServiceSpec, wish: int, before: int, *, fresh: bool) -> Ask:
    """Of an elastic service with `before` replicas; of one whose measurements are not `fresh` they stay."""
    if is_asleep(rest_of(service)):
        return Ask(0, 0, spec.cpus, spec.memory_mb, spec.priority)
    if not fresh:
        wish, least = before, before
    else:
        least = spec.awake
    return Ask(wish, least, spec.cpus, spec.memory_mb, spec.priority, before)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A service that is awake, with as many replicas whatever is asked."""

    name: str
    replicas: int
    cpus: float | None
    """Of each, declared; None: nobody did."""
    memory_mb: int
    """Of all of them."""


def _fixed_of(services: Sequence[Resource]) -> Sequence[_Fixed]:
    found = []
    for service in services:
        serve = service.spec["serve"]
        declared = serve.get("replicas", 1)
        count = declared if isinstance(declared, int) else declared[1]
        if service.spec.get("versions") and not _is_elastic(serve) and not is_asleep(rest_of(service)):
            cpus = serve.get("cpus", UNDECLARED_CORES)
            declares = cpus if cpus != UNDECLARED_CORES else None
            name = f"{service.tenant}/{service.name}"
            found.append(_Fixed(name, count, declares, count * memory_of(service)))
    return found


def _is_there(snapshot: Snapshot, name: str) -> bool:
    """Whether the service, by tenant/name, is still one that follows the load."""
    tenant, _, of = name.partition("/")
    service = snapshot.find(tenant, "service", of)
    return service is not None and _is_elastic(service.spec["serve"])


def _is_elastic(serve: Mapping[str, Any]) -> bool:
    declared = serve.get("replicas", 1)
    return not isinstance(declared, int) and declared[1] > max(declared[0], 1)
