"""How many replicas each elastic service is to have: the cheapest way to keep its objective. Pure.

Every `tick_s` seconds `Fleet.decide` is told what was measured of all services, and says how many replicas each is to
have. It minimises c(S) + D(S): what S replicas cost, starts included, and what the requests cost that would then be
late, at the price of a late request at which the objective just holds. Neither is a formula of queues: both are what
the candidates (`candidates`) would have cost, and been late, on the service's own demand (`demand`). Around that stand
the rules that hold whatever was learnt:

floor      never fewer than the demand of the last two minutes (or of the hold) needs, and what waits within a start-up
           or the latency, FLOOR_S at most;
queue      for a latency shorter than a tick, which no replay by ticks sees: room for requests that meet by chance;
headroom   raised by a tenth at most once a lead time, while more is late than the objective allows and than the replay
           foresaw; lowered slowly while less than half of the allowed is;
hold       down only to the highest wish of the last `hold_s`;
step       at most twice as many and four more at a time;
stale      without fresh measurements nothing changes.

"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from skyriver.control.schedule.candidates import (
    BANK,
    BASES,
    FACTORS,
    Accounts,
    Tick,
    at_places,
    choose,
    costs,
    factors,
    late_prices,
    of_base,
    own_part,
    places,
    replay,
    shares_late,
)
from skyriver.control.schedule.chance import servers
from skyriver.control.schedule.demand import (
    WINDOWS,
    Demand,
    Pace,
    lead_ticks,
    observe,
    turn_of,
)
from skyriver.control.schedule.moments import Moment
from skyriver.control.schedule.tables import Flags, Floats, Small, Table, Whole

TICK_S: Final = 5.0
LEAST_HOLD_S: Final = 300.0
FLOOR_S: Final = 10.0
SLACK: Final = 0.2
"""Of what would be done before it is late: so much may wait without more replicas."""
RAISE, MOST_HEADROOM = 1.1, 4.0
LOWER, LEAST_HEADROOM = 0.9999, 0.95
"""LOWER is of a second."""
UNFORESEEN: Final = 1.5
WISHES: Final = 32
"""Blocks of wishes that are kept: more than are in a hold."""
PATIENCE_S: Final = 600.0
"""Of a service, before its headroom is lowered."""
ACCOUNT_HALF_LIFE_S: Final = 7_200.0
LONG_AGO: Final = -1e12
"""Second."""
ABSURD: Final = 1_000.0
"""Times what its replicas can do: a measurement that says so lies."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one service."""

    share: float
    """Of requests that are to be in time."""
    latency_s: float = 0.0
    """In which they are to be answered; 0: only that they are."""
    least: int = 1
    most: int = 1
    hold_s: float | None = None
    """Before there are fewer; None: LEAST_HOLD_S or twice the start-up, whichever is longer."""
    price: float = 0.0
    """Money an hour of a replica; 0 where the machine is one's own."""
    cores: float = 1.0
    """Of a replica."""


@dataclass(slots=True)
class Ticks:
    """(N,) each, in the order of `Fleet.names`: what was measured since the tick before."""

    work: Floats
    """Replica-seconds of work that came."""
    requests: Floats
    judged: Floats
    """That were answered or given up; of these `late` were too late, or not answered well."""
    late: Floats
    backlog: Floats
    """Replica-seconds of work that waits."""
    ready: Floats
    pending: Floats
    """Replicas that start, and are not overdue."""
    start_s: Floats
    """From asking for a replica to its first answer, seconds."""
    service_s: Floats
    """Of a replica, that a request takes."""
    fresh: Flags
    """Whether this is measured; else only `ready` and `pending` are looked at."""


@dataclass(slots=True)
class Steering(Table):
    """What the rules around the candidates keep."""

    headroom: Floats
    raised: Floats
    """Second of the last raise."""
    begun: Floats
    """Second of the first decision; NaN before it."""
    late: Floats
    judged: Floats
    foreseen: Floats
    came: Floats
    """The four: faded; late of judged requests, and foreseen of the work that came."""
    asked: Floats
    """Requests that came, faded."""
    wishes: Small
    """(N, WISHES) highest of each block."""
    block: Whole
    wanted: Whole
    limited: Flags
    """It may not have as many as it wants, by what is declared or granted: what is late then says nothing of its
    headroom."""

    @classmethod
    def starting(cls, n: int, tick_s: float) -> Steering:
        return cls(
            headroom=np.ones(n),
            raised=np.full(n, LONG_AGO),
            begun=np.full(n, np.nan),
            late=np.zeros(n),
            judged=np.zeros(n),
            foreseen=np.zeros(n),
            came=np.zeros(n),
            asked=np.zeros(n),
            wishes=np.zeros((n, WISHES), np.float32),
            block=np.full(n, -1),
            wanted=np.zeros(n, np.int64),
            limited=np.zeros(n, np.bool_),
        )


@dataclass(slots=True)
class Declared(Table):
    """`Rules`, as arrays."""

    share: Floats
    latency_s: Floats
    least: Whole
    most: Whole
    hold_s: Floats
    """NaN: none is declared."""
    price: Floats
    cores: Floats

    @classmethod
    def of(cls, rules: Sequence[Rules]) -> Declared:
        values = [replace(one, hold_s=math.nan) if one.hold_s is None else one for one in rules]

        def column(name: str, kind: type) -> Any:
            return np.array([getattr(one, name) for one in values], kind)

        whole = {name: column(name, np.int64) for name in ("least", "most")}
        return cls(**{each.name: column(each.name, np.float64) for each in fields(cls)} | whole)


@dataclass(frozen=True, slots=True)
class Terms:
    """What may be left out, to measure what it is worth."""

    bases: tuple[int, ...] = tuple(range(BASES))
    forecast: bool = True
    headroom: bool = True
    floor: bool = True
    queue: bool = True


@dataclass(slots=True)
class _Last:
    """(N,) of the last tick."""

    bases: Small
    """(N, BASES)."""
    candidate: Whole
    growth: Small
    came: Floats
    queue: Floats
    floor: Floats
    wish: Floats
    held: Floats
    there: Floats
    fresh: Flags
    start_s: Floats
    hold_s: Floats
    requests: Floats
    """A second, on the mean of the last hour."""
    wanted: Whole
    asked: Whole
    """That the service would have without others; `wanted` is what it was granted."""


@dataclass(frozen=True, slots=True)
class Decided:
    """How the number of one service came about; demand is in replicas."""

    rules: Rules
    bases: Sequence[float]
    """(BASES,) demand that candidates start from."""
    candidate: int
    """Number of the chosen one in the bank."""
    late: Sequence[float]
    """(FACTORS,) share of the work that each candidate of the chosen base would have finished too late."""
    costs: Sequence[float]
    """(FACTORS,) mean replicas that each would have had, starts included."""
    own: float
    """Share of the demand behind `late` that is the service's own; the rest stands in for it."""
    growth: float
    """That is forecast, and in the bases: 1 is none."""
    came: float
    queue: float
    headroom: float
    floor: float
    wish: float
    held: float
    there: float
    fresh: bool
    start_s: float
    hold_s: float
    requests: float
    wanted: int
    asked: int


_G = factors()
_WISH_AGES: Final = ((np.arange(WISHES)[:, None] - np.arange(WISHES)) % WISHES).astype(np.int8)
"""By where the newest is, in blocks."""
_LAST: Final = tuple(each.name for each in fields(_Last))
_REMEMBERED: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("demand", ("slots", "slot", "mean", "errors")),
    ("accounts", ("late", "cost", "came", "ticked", "chosen")),
    ("steering", ("headroom", "late", "judged", "foreseen", "came", "asked")),
)
_RECENT: Final = tuple(
    (name, tuple(each.name for each in fields(table) if each.name not in {*kept, "within"}))
    for (name, kept), table in zip(_REMEMBERED, (Demand, Accounts, Steering), strict=True)
)
"""What is learnt anew within minutes: it is only worth remembering where nobody was away for so long. `within` follows
from the rest."""


class Fleet:
    """All elastic services of a cloud. `tick_s`: between two decisions."""

    def __init__(self, tick_s: float = TICK_S, terms: Terms | None = None) -> None:
        self.tick_s, self.terms = tick_s, terms or Terms()
        self.names: list[str] = []
        self._row_of: dict[str, int] = {}
        self.demand, self.accounts = Demand.starting(0, tick_s), Accounts.starting(0, tick_s)
        self.steering = Steering.starting(0, tick_s)
        self._declared = Declared.of(())
        self._rules: dict[str, Rules] = {}
        self._decided: _Last | None = None
        self._may = np.array([b in self.terms.bases for b in range(BASES)])

    def add(
        self, name: str, rules: Rules, remembered: Mapping[str, Any] | None = None, now: Moment | None = None
    ) -> None:
        """`remembered`: what `remember` said of it; what cannot be read is learnt anew. `now`: when it goes on."""
        self.add_all({name: (rules, remembered)}, now)

    def add_all(
        self, services: Mapping[str, tuple[Rules, Mapping[str, Any] | None]], now: Moment | None = None
    ) -> None:
        """At once: one by one each would copy what is known of all the others."""
        if not services:
            return
        first = len(self.names)
        self.names += services
        self._row_of = {name: row for row, name in enumerate(self.names)}
        for table in self._tables():
            table.append(table.starting(len(services), self.tick_s))
        self._declared.append(Declared.of([rules for rules, _ in services.values()]))
        self._rules |= {name: rules for name, (rules, _) in services.items()}
        self._decided = None
        for row, (name, (_, remembered)) in enumerate(services.items(), first):
            self.demand.turn[row] = turn_of(name)
            if remembered:
                self._recall(row, remembered, now)

    def change(self, name: str, rules: Rules) -> None:
        """Another declaration of the same service: what was learnt of its demand stays."""
        row, declared = self._row_of[name], Declared.of([rules])
        self._rules[name] = rules
        for each in fields(declared):
            getattr(self._declared, each.name)[row] = getattr(declared, each.name)[0]

    def remove(self, name: str) -> None:
        self.remove_all([name])

    def remove_all(self, names: Collection[str]) -> None:
        """At once, as `add_all`."""
        if not names:
            return
        rows = [self._row_of[name] for name in names]
        gone = {*names}
        self.names = [name for name in self.names if name not in gone]
        self._row_of = {name: row for row, name in enumerate(self.names)}
        for name in gone:
            del self._rules[name]
        for table in (*self._tables(), self._declared):
            table.delete(rows)
        self._decided = None

    def decide(self, ticks: Ticks, second: float, wall: float) -> Whole:
        """(N,) replicas that are to be there, within least and most. `second` is of a clock that nobody sets."""
        declared, steering = self._declared, self.steering
        if not self.names:
            return np.zeros(0, np.int64)
        there = ticks.ready + ticks.pending
        fresh = ticks.fresh & _plausible(ticks, declared.most, self.tick_s)
        came = np.where(fresh, ticks.work, 0.0) / self.tick_s
        start_s = np.where(np.isfinite(ticks.start_s) & (ticks.start_s > 0), ticks.start_s, 0.0)
        hold_s = np.where(np.isnan(declared.hold_s), np.maximum(LEAST_HOLD_S, 2 * start_s), declared.hold_s)
        pace = Pace.of(self.tick_s, second, wall, hold_s, start_s, self.terms.forecast)
        seen = observe(self.demand, came, fresh, pace)
        bases = seen.bases
        deadline_s, lead = np.maximum(declared.latency_s, 0.0), lead_ticks(start_s, self.tick_s)
        late = replay(self.accounts, bases, seen.now, Tick(self.tick_s, came, fresh, lead, start_s, deadline_s))
        self._learn(ticks, fresh, late, second, start_s)
        allowed, n = 1.0 - declared.share, np.arange(len(self.names))
        candidate = choose(self.accounts, self.demand.mean, allowed, self._may, self.tick_s)
        base, factor = np.divmod(candidate, FACTORS)
        chosen = bases[n, base].astype(np.float64) * _G[base, factor]
        recent = _recent(seen.means, hold_s)
        queue = self._queue(np.maximum(chosen, recent), np.where(fresh, ticks.service_s, 0.0), allowed)
        waits = np.where(fresh, ticks.backlog, 0.0) - there * deadline_s * SLACK
        soon = np.maximum(np.maximum(start_s, self.tick_s), np.minimum(np.maximum(deadline_s, 1.0), FLOOR_S))
        floor = recent + np.maximum(waits, 0.0) / soon if self.terms.floor else 0.0 * recent
        # A candidate that rounds up to one replica says nothing of how busy that one is.
        need = np.maximum(chosen, recent) * queue * steering.headroom
        wish = np.maximum(np.ceil(np.maximum(need, floor) - 1e-4), 1.0)
        held = self._hold(wish, there, pace)
        wanted = np.where(wish >= there, wish, np.minimum(there, np.maximum(held, wish)))
        wanted = np.minimum(wanted, 2 * there + 4)
        wanted = np.clip(np.where(fresh, wanted, np.maximum(steering.wanted, 1)), declared.least, declared.most)
        steering.wanted, steering.limited = wanted.astype(np.int64), wish > declared.most
        requests = self.demand.mean * steering.asked / np.maximum(steering.came, 1e-9)
        self._decided = _Last(
            bases=bases,
            candidate=candidate,
            growth=seen.growth,
            came=came,
            queue=queue,
            floor=floor,
            wish=wish,
            held=held,
            there=there,
            fresh=fresh,
            start_s=start_s,
            hold_s=hold_s,
            requests=requests,
            wanted=steering.wanted,
            asked=steering.wanted,
        )
        return steering.wanted

    def fresh(self) -> Flags:
        """(N,) whether it was decided by measurements; else the number of before stands."""
        assert self._decided is not None
        return self._decided.fresh

    def limit(self, granted: Whole) -> None:
        """What was decided last is granted only so far, (N,)."""
        assert self._decided is not None
        steering = self.steering
        steering.limited |= granted < self._decided.asked
        steering.wanted = self._decided.wanted = granted

    def curves(self, services: Mapping[str, tuple[int, int]]) -> dict[str, Floats]:
        """By (n, m) of services: what their replicas n + 1 to m spare each an hour, of the cost of late requests at the
        price at which the objective just holds; in money, or core-hours where a replica has no price."""
        if self._decided is None:
            return {name: np.zeros(m - n) for name, (n, m) in services.items()}
        rows, k = np.array([self._row_of[name] for name in services]), np.arange(len(services))
        own = self.accounts
        some = replace(own, late=own.late[rows], cost=own.cost[rows], came=own.came[rows], ticked=own.ticked[rows])
        mean, told, declared = self.demand.mean[rows], self._decided, self._declared
        base, factor = np.divmod(told.candidate[rows], FACTORS)
        late = shares_late(some, mean, self.tick_s)[k, base].astype(np.float64)
        cost = costs(some, mean, self.tick_s)[k, base].astype(np.float64)
        price = np.where(declared.price > 0, declared.price, declared.cores)[rows]
        late_price = price * late_prices(late, cost, factor)
        needed = told.bases[rows, base] * told.queue[rows] * self.steering.headroom[rows]
        counts = np.array([m - n + 1 for n, m in services.values()])
        row, ends = np.repeat(k, counts), np.cumsum(counts)
        firsts = np.array([n for n, _ in services.values()])
        number = np.arange(len(row)) + (firsts - ends + counts)[row]
        share = at_places(late, row, places(base[row], number / np.maximum(needed, 1e-9)[row]))
        worth = -np.diff(share) * late_price[row[1:]]
        return {
            name: worth[end - count : end - 1]
            for name, end, count in zip(services, ends.tolist(), counts.tolist(), strict=True)
        }

    def _learn(self, ticks: Ticks, fresh: Flags, late: Small, second: float, start_s: Floats) -> None:
        """Headroom, from what was late beyond what the replay foresaw."""
        steering, n = self.steering, np.arange(len(fresh))
        fade = np.where(fresh, 0.5 ** (self.tick_s / ACCOUNT_HALF_LIFE_S), 1.0)
        # What is late because there may be no more replicas says nothing of how many are needed.
        telling = fresh & ~steering.limited
        now_late, judged = (np.where(telling, of, 0.0) for of in (ticks.late, ticks.judged))
        seen = self.tick_s * late[n, np.maximum(self.accounts.chosen, 0)]
        steering.late = steering.late * fade + now_late
        steering.judged = steering.judged * fade + judged
        steering.foreseen = steering.foreseen * fade + seen
        steering.came = steering.came * fade + np.where(fresh, ticks.work, 0.0)
        steering.asked = steering.asked * fade + np.where(fresh, ticks.requests, 0.0)
        steering.begun = np.where(np.isnan(steering.begun), second, steering.begun)
        if not self.terms.headroom:
            return
        share = steering.late / np.maximum(steering.judged, 1.0)
        foreseen = steering.foreseen / np.maximum(steering.came, 1e-9)
        allowed = 1.0 - self._declared.share
        more = (share > allowed) & (share > UNFORESEEN * foreseen) & (now_late > 0)
        more &= second - steering.raised >= start_s + 2 * self.tick_s
        less = (share < 0.5 * allowed) & (second - steering.begun >= PATIENCE_S) & fresh
        steering.headroom = np.where(more, np.minimum(steering.headroom * RAISE, MOST_HEADROOM), steering.headroom)
        lowered = np.maximum(steering.headroom * LOWER**self.tick_s, LEAST_HEADROOM)
        steering.headroom = np.where(less & ~more, lowered, steering.headroom)
        steering.raised = np.where(more, second, steering.raised)

    def _queue(self, load: Floats, service_s: Floats, allowed: Floats) -> Floats:
        """The factor by which replicas must exceed the work, so that requests that meet by chance do not wait longer
        than the latency; 1 where one replica does."""
        latency = self._declared.latency_s
        short = (latency > 0) & (latency < self.tick_s) & (service_s > 0) & (load > 0)
        factor = np.ones(len(load))
        if not self.terms.queue or not short.any():
            return factor
        needed = servers(load[short], latency[short], service_s[short], allowed[short])
        factor[short] = np.where(needed <= 1, 1.0, needed / load[short])
        return factor

    def _hold(self, wish: Floats, there: Floats, pace: Pace) -> Floats:
        """The highest wish of the hold, this one too. At first there are as many as somebody wanted before."""
        steering, n, number = self.steering, np.arange(len(wish)), pace.block
        gone = np.minimum(number - steering.block, WISHES)
        for row in np.flatnonzero(gone > 1):
            steering.wishes[row, np.arange(number[row] - gone[row] + 1, number[row]) % WISHES] = 0.0
        new, at = np.flatnonzero(gone), number % WISHES
        steering.wishes[new, at[new]] = 0.0
        begun = steering.block < 0
        steering.wishes[begun, at[begun]] = there[begun]
        steering.block = number
        steering.wishes[n, at] = np.maximum(steering.wishes[n, at], wish)
        within = _WISH_AGES[at] <= pace.within[:, None]
        held: Floats = np.where(within, steering.wishes, np.float32(0)).max(1).astype(np.float64)
        return held

    def _tables(self) -> tuple[Table, ...]:
        return self.demand, self.accounts, self.steering

    def remember(self, name: str, now: Moment | None = None) -> dict[str, Any]:
        """What was learnt of it, for a file; bounded. With `now` whoever goes on within MOST_AWAY_S
        decides as this one would have."""
        row = self._row_of[name]
        packed = {table: getattr(self, table).pack(row, names) for table, names in _REMEMBERED}
        told: dict[str, Any] = {"tick_s": self.tick_s, **packed}
        if now is not None:
            recent = {table: getattr(self, table).pack(row, names) for table, names in _RECENT}
            told |= {"second": now.second, "wall": now.wall, "recent": recent}
        return told

    def _recall(self, row: int, remembered: Mapping[str, Any], now: Moment | None) -> None:
        try:
            if remembered["tick_s"] != self.tick_s:
                return
            for table, names in _REMEMBERED:
                getattr(self, table).unpack(row, names, remembered[table])
            then = remembered.get("second", math.inf), remembered.get("wall", math.inf)
            if now is not None and now.follows(*then):
                for table, names in _RECENT:
                    getattr(self, table).unpack(row, names, remembered["recent"][table])
            self.accounts.chosen[row] = np.clip(self.accounts.chosen[row], -1, BANK - 1)
        except (KeyError, TypeError, ValueError):
            for begun in self._tables():
                fresh = begun.starting(1, self.tick_s)
                for each in fields(begun):
                    getattr(begun, each.name)[row] = getattr(fresh, each.name)[0]
            self.demand.turn[row] = turn_of(self.names[row])

    def decided(self, name: str) -> Decided | None:
        """Of the last decision; None before the first, and after services were added or removed."""
        if self._decided is None:
            return None
        row, own = self._row_of[name], self.accounts
        told = {each: getattr(self._decided, each)[row].tolist() for each in _LAST}
        base = told["candidate"] // FACTORS
        late, cost = of_base(own, row, base, self.demand.mean[row].item(), self.tick_s)
        headroom = self.steering.headroom[row].item()
        own_share = own_part(own, row, self.demand.mean[row].item(), self.tick_s)
        return Decided(rules=self._rules[name], late=late, costs=cost, own=own_share, headroom=headroom, **told)


def _recent(means: Floats, hold_s: Floats) -> Floats:
    """The demand of the last two minutes, or of no more than the hold: what it is there for is over then. `means`: of
    WINDOWS."""
    recent: Floats = means[np.arange(len(hold_s)), np.searchsorted(WINDOWS[1:], hold_s, side="right")]
    return recent


def _plausible(ticks: Ticks, most: Whole, tick_s: float) -> Flags:
    """Whether what was measured in so many seconds can be so."""
    could = ABSURD * np.maximum(most, 1)
    told = np.stack([ticks.work, ticks.requests, ticks.judged, ticks.late, ticks.backlog, ticks.service_s])
    with np.errstate(invalid="ignore"):
        sane = np.isfinite(told) & (told >= 0)
        fits = (ticks.work <= could * tick_s) & (ticks.backlog <= could * TICK_S) & (ticks.late <= ticks.judged + 1e-9)
    plausible: Flags = sane.all(axis=0) & fits
    return plausible
