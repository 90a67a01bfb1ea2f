"""Overload of a stream's worker: whether its decisions will come later than declared, and what is done about it then.

Theory of operation
===================
Declared is an objective: a share of the events is decided within a latency. Ten times a second is looked at what waits,
what comes, and what a turn takes (`Cost`). At the horizon there will wait

    lag = waiting + (rate in - rate out) * horizon        (events; a wait of lag / rate out)

and when that wait breaks the objective at CONFIRM looks in a row, or all that was begun meanwhile was begun too late,
the next step of the ladder is taken (`advance`). The first one is more threads, where there may be some: it costs no
score. The last one is shedding: an event whose deadline cannot be met any
more is not scored but gets the fallback, the others go on being scored. A step is taken back once what came was well
within the capacity of the step below for a hold.

What an event costs is more than its turn: it is read and answered by the same thread, which labels want too. So a
capacity counts all of that (`Cost.rate`), and what it would be if nothing were scored says what a step can bring
(`helps`): where reading and answering is what takes the time, events are late with a score or without one.

Between going up (more than the capacity comes) and going down (less than HEADROOM of it, all through the hold) lies
what keeps a constant load from moving anything. The least wait of a look, not the mean, says that a queue stands: a
burst that is worked off is none (Nichols and Jacobson, Controlling Queue Delay, 2012). What a turn takes is followed as
round-trip times are (Jacobson, Congestion Avoidance and Control, 1988), with its size. Pure: time comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist

from skyriver.core.units import SECOND

LOOK_US = 100_000
CONFIRM = 2
"""Looks in a row at which the forecast must break the objective: one may be chance."""
SETTLE_US = 5 * LOOK_US
"""So long a step has to show what it brings, before the next one up."""
LEAST_HOLD_US = 10 * SECOND
HOLDS = 20
"""Latencies that a hold lasts at least."""
HEADROOM = 0.8
"""Of a capacity: what comes is well within it."""
GAIN = 4
"""Times as many events a second, without scoring any, that make it worth to shed whoever sends them."""
OVER = 1.1
"""Of a capacity: more comes than that. Those who wait for their answers never send more than is answered."""

TRIED = 10
"""Turns by which more threads show what they bring."""
FASTER = 1.1
"""Times as many events that they must bring, where the objective is broken all the same."""
VAIN_US = 60 * SECOND
"""So long they are not taken again if they do not: others use the cores."""

FORGET = 0.1
"""The weight of the newest turn."""
KNOWN = 8
"""Turns after which one that takes much longer than expected counts as twice as long: a disk that hangs once is none of
the model's."""
FIRST_ROWS = 16
"""Events of a turn, as long as none was larger. Then at most twice as many as there were."""
SPREAD = 0.1
"""Of their mean size: turns that differ by less do not tell what a row costs and what a turn."""
GUESSED = 2
"""Turns that a guess is worth."""
_NORMAL = 1.2533
"""The standard deviation of a normal distribution by its mean absolute one."""


class Step(StrEnum):
    FULL = "full"
    """The released version scores every event."""
    THREADS = "threads"
    """It does, in more threads."""
    CHEAPER = "cheaper"
    """The cheaper version does."""
    SHED = "shedding"
    """Events whose deadline cannot be met get the fallback."""


@dataclass(frozen=True, slots=True)
class Objective:
    """`share` of the events are decided within `latency_us` of their arrival at the worker, for which scoring may take
    so many cores."""

    latency_us: int
    share: float
    cpus: int = 1

    @property
    def horizon_us(self) -> int:
        return max(SECOND, self.latency_us)

    @property
    def hold_us(self) -> int:
        return max(LEAST_HOLD_US, HOLDS * self.latency_us)


@dataclass(frozen=True, slots=True)
class Around:
    """What the thread does besides turns of events."""

    each_us: float = 0.0
    """That reading and answering an event takes."""
    besides: float = 0.0
    """The share of the time that labels and the like take."""
    besides_us: float = 0.0
    """Of a turn, that they take at most."""

    def rate(self, rows: int, us: float) -> float:
        """Events a second, in turns of so many that take so long."""
        alone = max(1.0, us + self.each_us * rows)
        besides = min(self.besides_us, alone * self.besides / max(0.01, 1 - self.besides))
        return rows * SECOND / (alone + besides)


class Cost:
    """What turns take by their size: a straight line through the last ones, and how far these lie beside it."""

    __slots__ = ("_largest", "_n", "_nn", "_nt", "_off", "_quantile", "_t", "turns")

    def __init__(self, share: float) -> None:
        self.keep(share)
        self._n = self._t = self._nn = self._nt = self._off = 0.0
        self._largest = 0.0
        self.turns = 0

    def keep(self, share: float) -> None:
        """What was learnt stays."""
        self._quantile = NormalDist().inv_cdf(share) * _NORMAL

    def guess(self) -> Cost:
        """Of turns that were not tried yet: as these, until some of them have told."""
        found = copy(self)
        found.turns = min(GUESSED, self.turns)
        return found

    @property
    def rows(self) -> float:
        """Events of the last turns, on the average."""
        return self._n

    def note(self, rows: int, us: int) -> None:
        took = float(us)
        if self.turns >= KNOWN:
            took = min(took, 2 * self.us(rows) + 1_000)
        weight = max(FORGET, 1 / (self.turns + 1))
        off = abs(took - self.us(rows)) if self.turns else 0.0
        self._n += weight * (rows - self._n)
        self._t += weight * (took - self._t)
        self._nn += weight * (rows * rows - self._nn)
        self._nt += weight * (rows * took - self._nt)
        self._off += weight * (off - self._off)
        self._largest = max(float(rows), 0.99 * self._largest)
        self.turns += 1

    def us(self, rows: int) -> float:
        """That a turn of so many events takes."""
        each, turn = self._line()
        return turn + each * rows

    def bound_us(self, rows: int) -> float:
        """Within which the objective's share of such turns is done."""
        return self.us(rows) + self._quantile * self._off

    def rows_within(self, us: float, most: int) -> int:
        """The largest turn that is done so soon, of at most twice what was seen; 0: none is."""
        most = min(most, max(FIRST_ROWS, int(2 * self._largest)))
        if not self.turns or self.bound_us(most) <= us:
            return most
        each, _ = self._line()
        return max(0, int((us - self.bound_us(0)) / each)) if each > 0 else 0

    def target_us(self, latency_us: int) -> float:
        """Within which events are decided: the latency, or where not even one event alone is done in half of it, four
        times what that takes. A wish that is out of reach must not make a worker do less than it can."""
        alone = self.bound_us(1)
        return latency_us if alone <= latency_us / 2 else 4 * alone

    def batch(self, latency_us: int, most: int, besides_us: float = 0) -> int:
        """The turn's events with which that is kept where all else of it takes so long: half of the time is for what
        came while another turn was under way."""
        return max(1, self.rows_within(self.target_us(latency_us) / 2 - besides_us, most))

    def rate(self, latency_us: int, most: int, around: Around) -> float:
        """Events a second in turns of that size; 0 while nothing is known."""
        return around.rate(rows := self.batch(latency_us, most), self.us(rows)) if self.turns else 0.0

    def _line(self) -> tuple[float, float]:
        """Microseconds that each event takes, and the turn beside them."""
        if not self.turns:
            return 0.0, 0.0
        even = self._t / self._n
        spread = self._nn - self._n * self._n
        if spread <= (SPREAD * self._n) ** 2:
            return even, 0.0
        each = min(even, max(0.0, (self._nt - self._n * self._t) / spread))
        return each, self._t - each * self._n


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look sees. Rates are events a second, 0 where nothing is known."""

    at: int
    """Monotonic microseconds."""
    waiting: int
    standing_us: int
    """The least time that an event had waited when its turn began, since the last look; 0 where nothing waits."""
    rate_in: float
    rate_out: float
    """The capacity, with the step that is taken."""
    rate_below: float
    """That of the step below."""
    within_us: float
    """Within which events are to be decided (`Cost.target_us`)."""
    shed: int = 0
    """Events since the last look."""
    rate_free: float = 0.0
    """The capacity if nothing were scored; 0: not known, or without bound."""
    came: float = 0.0
    """As `rate_in`, over a longer time."""


@dataclass(frozen=True, slots=True)
class State:
    """`place` in the ladder, `since` when; `breaks`: looks in a row that broke the objective; `uneasy_at`: the last
    look at which the step below would not have done. `helps`: less scoring would; `late_since`, `late_at`: the first
    and the last look at which the objective was broken though it would not (0: it was not, for a hold)."""

    place: int = 0
    since: int = 0
    breaks: int = 0
    uneasy_at: int = 0
    helps: bool = True
    late_since: int = 0
    late_at: int = 0


def forecast_us(seen: Seen, horizon_us: int) -> float:
    """How long what comes at the horizon will have to wait; 0 where nothing is known of the capacity."""
    if not seen.rate_out:
        return 0.0
    lag = seen.waiting + (seen.rate_in - seen.rate_out) * horizon_us / SECOND
    return max(0.0, lag) / seen.rate_out * SECOND


def helps(seen: Seen) -> bool:
    """Whether it brings something to score less: what is done grows by GAIN, or more comes than can be scored, and that
    is well within what can be without. Else reading and answering is what takes the time, and those who wait for their
    answers would send more, to be as late as before."""
    over = OVER * seen.rate_out < seen.came <= HEADROOM * seen.rate_free
    return not seen.rate_free or seen.rate_free >= GAIN * seen.rate_out or over


def advance(state: State, seen: Seen, objective: Objective, ladder: Sequence[Step]) -> State:
    """At most one step, up or down."""
    wait = forecast_us(seen, objective.horizon_us)
    broken = wait > seen.within_us or seen.standing_us > seen.within_us
    breaks = state.breaks + 1 if broken else 0
    top, does_help = state.place == len(ladder) - 1, helps(seen)
    below_does = bool(seen.rate_below) and seen.rate_in <= HEADROOM * seen.rate_below
    in_vain = top and not does_help
    calm = not seen.shed and (in_vain or (not broken and (below_does or not seen.rate_in)))
    state = replace(_noted(state, seen, objective, breaks, does_help), breaks=breaks, helps=does_help)
    settled = not state.place or seen.at - state.since >= SETTLE_US
    if not top and settled and breaks >= CONFIRM and does_help:
        return replace(state, place=state.place + 1, since=seen.at, breaks=0, uneasy_at=seen.at)
    uneasy_at = state.uneasy_at if calm else seen.at
    if state.place and min(seen.at - state.since, seen.at - uneasy_at) >= objective.hold_us:
        return replace(state, place=state.place - 1, since=seen.at, breaks=0, uneasy_at=seen.at)
    return replace(state, uneasy_at=uneasy_at)


def _noted(state: State, seen: Seen, objective: Objective, breaks: int, does_help: bool) -> State:
    """With since when the objective is broken by what no step mends."""
    if breaks >= CONFIRM and not does_help:
        return replace(state, late_since=state.late_since or seen.at, late_at=seen.at)
    over = state.late_since and seen.at - state.late_at >= objective.hold_us
    return replace(state, late_since=0) if over else state
