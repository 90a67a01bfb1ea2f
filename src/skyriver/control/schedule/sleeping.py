"""When a service of (0, n) replicas sleeps, and when it is woken before anybody asks. Pure, and plain Python.

Everything is counted in seconds of keeping one replica: so much of money is its price times that. A waking costs a
start, and what the requests are worth that are late by it. Without history a service is kept for as long as a waking
costs (the break-even of ski rental: at most twice the optimum in hindsight; Karlin et al. 1988). With ENOUGH_GAPS it
is kept for what would have cost least on its own gaps, within half and twice the break-even: at most TIMES the optimum
on any gaps, whatever was learnt, and LEAST_IDLE_S a gap (advice with a bound: Purohit, Svitkina, Kumar 2018).

A wake before a request that the days before foretell is the same bet the other way round. It is made where a late
request costs more than the waiting; what it costs in a day where nobody comes is at most one waking and one warming,
which ends once nobody has come in its time, nor for as long as the service is kept after a request.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, Final

from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND

BINS: Final = 40
LEAST_IDLE_S: Final = 15.0
"""No service sleeps sooner; what is shorter is no gap, for looks and reports are seconds apart."""
MOST_GAP_S: Final = 7 * 86_400.0
HALF_LIFE_S: Final = 7 * 86_400.0
"""Of a gap's weight."""
EDGES: Final = tuple(LEAST_IDLE_S * (MOST_GAP_S / LEAST_IDLE_S) ** (n / (BINS - 1)) for n in range(BINS))
"""Lower ends, seconds; the last one is open."""
ENOUGH_GAPS: Final = 20.0
TRUST: Final = 2.0
"""History moves the break-even by this factor at most."""
TIMES: Final = 1 + TRUST
WORTH_S: Final = 300.0
"""Of the requests that a waking makes late, before the objective has said what each is worth: keeping for so long."""
DOUBLINGS: Final = 10
"""Of that, at most, while wakings alone miss the objective."""
START_S: Final = 3.0
"""A start, before one was seen."""
UNSEEN_S: Final = 60.0
"""After nobody looked for so long it is not known what came."""

DAY_S: Final = 86_400
SLOT_S: Final = 300
SLOTS: Final = DAY_S // SLOT_S
EARLY_S: Final = 60
"""Slots begin a minute before the round five: what is scheduled comes at round times, give or take seconds."""
DAYS: Final = 14
LEAST_DAYS: Final = 3
"""On which somebody came in a slot, before anything is foretold by it."""
LOOK_S: Final = 5.0
MOST_WRONG: Final = 3
RESTS_S: Final = 7 * 86_400.0
"""After MOST_WRONG warmings in a row for which nobody came."""
NO_OBJECTIVE_S: Final = 300.0
"""Who says neither how soon an answer is to come nor how long a waking may take sleeps after so long."""
_TODAY_AND: Final = (1 << (DAYS + 1)) - 1


@dataclass(frozen=True, slots=True)
class Terms:
    """What is declared of one service."""

    share: float = 0.99
    """Of requests that are to be in time."""
    allowed_s: float = 0.0
    """In which a request is answered that finds nobody awake; 0: none is late."""
    idle_s: float | None = None
    """Declared: it wins over what is computed."""


def terms_of(spec: ServiceSpec) -> Terms:
    """What decides about sleep goes by it, live and in a replay."""
    allowed_us = spec.wake_us or spec.latency_us
    idle_s = spec.idle_us / SECOND if spec.idle else None
    return Terms(spec.share, allowed_us / SECOND, idle_s if idle_s or allowed_us else NO_OBJECTIVE_S)


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one look."""

    second: float
    """Of the wall clock: habits are of times of day."""
    last: float
    """When somebody asked last; 0: nobody did."""
    requests: float = 0.0
    """Since the look before."""
    held: float = 0.0
    """That wait for a service that sleeps or wakes."""
    start_s: float | None = None
    """That a replica took which has become ready."""
    worth_s: float | None = None
    """What a late request is worth, by who decides on replicas."""


@dataclass(frozen=True, slots=True)
class Warming:
    """It is awake from `at` until `until`, whoever comes."""

    at: float
    until: float
    days: int
    """On so many of the last `of` days somebody came."""
    of: int
    stays_s: float
    """Where nobody comes."""


@dataclass(frozen=True, slots=True)
class Idle:
    seconds: float
    rule: str
    """"declared", "break-even" or "history"."""
    wake_s: float
    """What a waking costs."""
    late_s: float
    """Of that, what the late requests are worth."""


@dataclass(slots=True)
class Habits:
    """Of one service; bounded, whatever comes."""

    counts: list[float] = field(default_factory=lambda: [0.0] * BINS)
    sums: list[float] = field(default_factory=lambda: [0.0] * BINS)
    """Gaps of each bin, and their seconds; faded."""
    requests: float = 0.0
    faded: float = 0.0
    """When `counts`, `sums` and `requests` were."""
    begun: float = 0.0
    """The first look."""
    looked: float = 0.0
    last: float = 0.0
    start_s: float = START_S
    late: float = 1.0
    """Requests that a waking keeps waiting, on the mean."""
    worth_s: float = 0.0
    """Of one late request; 0: not known, and WORTH_S of all together."""
    days: list[int] = field(default_factory=lambda: [0] * SLOTS)
    """Of each slot, a bit for every day on which a stretch of requests began in it: the lowest is `day`."""
    day: int = 0
    warming: Warming | None = None
    wrong: int = 0
    """Warmings in a row for which nobody came."""
    wasted: float = 0.0
    """Seconds of them, on `wasted_day`."""
    wasted_day: int = 0
    rests_until: float = 0.0
    searched: int = field(default=0, compare=False)
    """The slot in which `warming` was last looked for: once each is enough."""


def observe(habits: Habits, seen: Seen) -> None:
    """Looks at the service once more."""
    now = seen.second
    blind = not habits.looked or not 0 <= now - habits.looked <= UNSEEN_S
    if habits.looked > now + UNSEEN_S:  # the clock was wrong, then or now
        habits.begun, habits.last, habits.faded, habits.warming = now, 0.0, now, None
        habits.days, habits.day, habits.rests_until = [0] * SLOTS, 0, 0.0
    habits.begun, habits.looked = habits.begun or now, now
    if seen.start_s is not None and seen.start_s > 0:
        habits.start_s += 0.3 * (seen.start_s - habits.start_s)
    if seen.worth_s is not None and math.isfinite(seen.worth_s) and seen.worth_s > 0:
        worth = min(max(seen.worth_s, 1.0), float(DAY_S))
        before = habits.worth_s or WORTH_S / habits.late
        habits.worth_s = math.exp(0.98 * math.log(before) + 0.02 * math.log(worth))
    habits.requests += max(0.0, seen.requests)
    last = min(seen.last, now)
    gap = last - habits.last
    came = last > 0 and gap > 0
    if came and not blind and (not habits.last or gap >= LEAST_IDLE_S):
        _note_stretch(habits, last, gap if habits.last else 0.0)
        if seen.held:
            habits.late += 0.2 * (min(seen.held, 1e4) - habits.late)
    if came:
        habits.last = last
    _judge(habits, now, blind)


def _note_stretch(habits: Habits, begins: float, gap: float) -> None:
    """One that begins after a gap."""
    fade = 0.5 ** (max(0.0, begins - habits.faded) / HALF_LIFE_S)
    habits.counts = [count * fade for count in habits.counts]
    habits.sums = [total * fade for total in habits.sums]
    habits.requests *= fade
    habits.faded = begins
    if gap:
        at = max(0, bisect_right(EDGES, gap) - 1)
        habits.counts[at] += 1.0
        habits.sums[at] += min(gap, MOST_GAP_S)
    day, slot = _slot_of(begins)
    by = day - habits.day
    if by > 0:
        habits.days = [(bits << by) & _TODAY_AND if by <= DAYS else 0 for bits in habits.days]
        habits.day = day
    if by >= 0:
        habits.days[slot] |= 1


def _judge(habits: Habits, now: float, blind: bool) -> None:
    """Whether somebody came for whom it was warmed, once that is over."""
    warming = habits.warming
    if warming is None or now < warming.until:
        return
    habits.warming = None
    if blind:
        return
    if habits.last >= warming.at:
        habits.wrong = 0
        return
    day = _slot_of(warming.at)[0]
    habits.wasted = warming.stays_s + (habits.wasted if habits.wasted_day == day else 0.0)
    habits.wasted_day = day
    habits.wrong += 1
    if habits.wrong >= MOST_WRONG:
        habits.wrong, habits.rests_until = 0, now + RESTS_S


def idle_after(habits: Habits, terms: Terms) -> Idle:
    """Seconds without a request after which it goes to sleep, and by which rule."""
    late, once_s = late_by_waking(habits, terms), late_cost_s(habits, terms)
    known = sum(habits.counts) >= ENOUGH_GAPS
    for doublings in range(DOUBLINGS + 1):
        # The implied price of a late request is the one at which the objective holds.
        late_s = once_s * 2**doublings
        wake_s = habits.start_s + late_s
        idle_s, wakes = _cheapest(habits, wake_s) if known else (max(wake_s, LEAST_IDLE_S), 0.0)
        if late * wakes <= (1 - terms.share) * max(habits.requests, 1.0):
            break
    if terms.idle_s is not None:
        return Idle(terms.idle_s, "declared", wake_s, late_s)
    return Idle(idle_s, "history" if known else "break-even", wake_s, late_s)


def late_by_waking(habits: Habits, terms: Terms) -> float:
    """Requests that a waking makes late."""
    return habits.late if 0 < terms.allowed_s < habits.start_s else 0.0


def late_cost_s(habits: Habits, terms: Terms) -> float:
    """What they are worth, before the objective asks for more."""
    late = late_by_waking(habits, terms)
    return (late * habits.worth_s if habits.worth_s else WORTH_S) if late else 0.0


def _cheapest(habits: Habits, wake_s: float) -> tuple[float, float]:
    """(threshold, wakings by it) that would have cost least on the gaps there were."""
    least, most = max(wake_s / TRUST, LEAST_IDLE_S), max(wake_s * TRUST, LEAST_IDLE_S)
    kept_s, longer = 0.0, sum(habits.counts)
    best, best_cost, wakes = max(wake_s, LEAST_IDLE_S), math.inf, 0.0
    for edge, count, total in zip(EDGES, habits.counts, habits.sums, strict=True):
        if edge > most:
            break
        cost = kept_s + longer * (edge + wake_s)
        if edge >= least and cost < best_cost:
            best, best_cost, wakes = edge, cost, longer
        kept_s, longer = kept_s + total, longer - count
    return best, max(wakes, 0.0)


def wakes_at(habits: Habits, terms: Terms, now: float) -> Warming | None:
    """The next time that it is woken before somebody asks, by the days before; None where that does not pay, or where
    it has failed too often. One that has begun stays until it is over: `habits` remember it."""
    if habits.warming is not None and habits.warming.at <= now and terms.idle_s is None:
        return habits.warming
    if terms.idle_s is not None or not late_by_waking(habits, terms) or now < habits.rests_until:
        habits.warming, habits.searched = None, 0
        return None
    day, slot = _slot_of(now)
    if habits.searched == day * SLOTS + slot:
        return habits.warming
    habits.warming, habits.searched = None, day * SLOTS + slot
    lead_s, idle = 1.5 * habits.start_s + LOOK_S, idle_after(habits, terms)
    stays_s = max(lead_s + SLOT_S, habits.start_s + idle.seconds)
    for ahead in range(1, SLOTS + 1):
        of_day, at = divmod(slot + ahead, SLOTS)
        if habits.days[at].bit_count() < LEAST_DAYS:
            continue
        begins = float((day + of_day) * DAY_S + at * SLOT_S - EARLY_S)
        if habits.wasted_day == day + of_day and habits.wasted >= idle.wake_s:
            continue
        days, of = _days(habits, day + of_day, at, begins)
        comes = days / (of + 1)
        waits_s = (1 - comes) * stays_s + comes * SLOT_S / 2
        if days >= LEAST_DAYS and comes * idle.late_s > waits_s:
            habits.warming = Warming(begins - lead_s, begins + SLOT_S, days, of, stays_s)
            return habits.warming
    return None


def _days(habits: Habits, day: int, slot: int, begins: float) -> tuple[int, int]:
    """(on how many of the days before somebody came in the slot, of how many that were looked at)."""
    by = day - habits.day
    bits = habits.days[slot] << by if 0 <= by <= DAYS else 0
    before = (bits >> 1) & (_TODAY_AND >> 1)
    days = before.bit_count()
    return days, max(days, min(DAYS, int((begins - habits.begun) // DAY_S)))


def _slot_of(second: float) -> tuple[int, int]:
    day, rest = divmod(int(second) + EARLY_S, DAY_S)
    return day, rest // SLOT_S


def pack(habits: Habits) -> dict[str, Any]:
    """JSON, from which `unpack` makes the same again."""
    plain = ("requests", "faded", "begun", "looked", "last", "start_s", "late", "worth_s", "day", "wrong")
    told = {name: getattr(habits, name) for name in (*plain, "wasted", "wasted_day", "rests_until")}
    warming = habits.warming
    return {
        **told,
        "counts": list(habits.counts),
        "sums": list(habits.sums),
        "days": [[slot, bits] for slot, bits in enumerate(habits.days) if bits],
        "warming": None if warming is None else [warming.at, warming.until, warming.days, warming.of, warming.stays_s],
    }


def unpack(told: Any) -> Habits:
    """What cannot be read is learnt anew."""
    try:
        days = [0] * SLOTS
        for slot, bits in told["days"]:
            days[int(slot)] = int(bits) & _TODAY_AND
        numbers = ("requests", "faded", "begun", "looked", "last", "start_s", "late", "worth_s")
        habits = Habits(
            counts=[_number(count) for count in told["counts"]],
            sums=[_number(total) for total in told["sums"]],
            days=days,
        )
        for name in (*numbers, "wasted", "rests_until"):
            setattr(habits, name, _number(told[name]))
        for name in ("day", "wrong", "wasted_day"):
            setattr(habits, name, int(told[name]))
        if told["warming"] is not None:
            at, until, seen, of, stays_s = told["warming"]
            habits.warming = Warming(_number(at), _number(until), int(seen), int(of), _number(stays_s))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return Habits()
    fits = len(habits.counts) == len(habits.sums) == BINS and habits.start_s > 0 and habits.late > 0
    return habits if fits else Habits()


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(number)
    return number
