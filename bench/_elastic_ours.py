"""The product's own controller (`skyriver.control.schedule.scaling`) as a scaler of the simulated world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from _elastic_world import SLOT_S, Seen, Trace, Whole

from skyriver.control.schedule.candidates import BASES
from skyriver.control.schedule.explaining import Explained, explain
from skyriver.control.schedule.scaling import TICK_S, Fleet, Rules, Terms, Ticks

MOST = 100_000
MIDNIGHT = 24 * 86_400.0
"""By the wall's clock, of the day that counts."""
VARIANTS: Mapping[str, Terms] = {
    "without forecast": Terms(forecast=False),
    "without headroom": Terms(headroom=False),
    "without floor": Terms(floor=False),
    **{f"base {base} alone": Terms(bases=(base,)) for base in range(BASES)},
}
"""Ours without one of its terms."""


class Ours:
    """A service for each share, of its own; the start-up delay is what it would measure."""

    def __init__(self, trace: Trace, shares: Sequence[float], delay_s: int, deadline_s: int, terms: Terms) -> None:
        self.lanes = len(shares)
        self._fleet = Fleet(terms=terms)
        for number, share in enumerate(shares):
            self._fleet.add(str(number), Rules(share=share, latency_s=deadline_s, most=MOST))
        self._begun = MIDNIGHT - trace.lead_s
        if len(trace.before):
            slots = self._fleet.demand.slots
            last = int(self._begun // SLOT_S)
            slots[:, (last - len(trace.before) + np.arange(len(trace.before))) % slots.shape[1]] = trace.before
            self._fleet.demand.slot[:] = last - 1
        self._start_s = np.full(self.lanes, float(delay_s))
        self._late = np.zeros(self.lanes)
        self._work = self._requests = self._judged = 0.0

    def second(self, seen: Seen) -> Whole | None:
        self._work += seen.came
        self._requests += seen.requests
        self._judged += seen.judged
        self._late += seen.late
        if (seen.second + 1) % int(TICK_S):
            return None
        every = np.ones(self.lanes)
        ticks = Ticks(
            work=every * self._work,
            requests=every * self._requests,
            judged=every * self._judged,
            late=self._late.copy(),
            backlog=seen.backlog.copy(),
            ready=seen.ready.astype(float),
            pending=seen.pending.astype(float),
            start_s=self._start_s,
            service_s=every,
            fresh=every > 0,
        )
        self._work = self._requests = self._judged = 0.0
        self._late[:] = 0
        return self._fleet.decide(ticks, seen.second + 1.0, self._begun + seen.second + 1.0)


class Told(Ours):
    """Of one objective; keeps what was explained of each decision: (second, `Explained`)."""

    def __init__(self, trace: Trace, share: float, delay_s: int, deadline_s: int) -> None:
        super().__init__(trace, (share,), delay_s, deadline_s, Terms())
        self.explained: list[tuple[int, Explained]] = []

    def second(self, seen: Seen) -> Whole | None:
        wanted = super().second(seen)
        decided = self._fleet.decided("0") if wanted is not None else None
        if decided is not None and decided.fresh:
            self.explained.append((seen.second + 1, explain(decided)))
        return wanted


def scaler(trace: Trace, shares: Sequence[float], *, delay_s: int, deadline_s: int, variant: str = "") -> Ours:
    """A lane a share. `variant`: one of VARIANTS; "": the whole controller."""
    return Ours(trace, shares, delay_s, deadline_s, VARIANTS[variant] if variant else Terms())


def deciding(services: int, short: int) -> Callable[[int], object]:
    """What decides once for so many services, given the decision's number; `short` of them have a latency shorter than
    a tick, and so need room for requests that meet by chance."""
    rng = np.random.default_rng(1)
    fleet = Fleet()
    latencies = np.where(rng.permutation(services) < short, 0.05, 10.0).tolist()
    rules = {str(number): (Rules(share=0.99, latency_s=s, most=64), None) for number, s in enumerate(latencies)}
    fleet.add_all(rules)
    every, service_s = np.ones(services), rng.uniform(0.005, 0.04, services)

    def decide(number: int) -> object:
        work = rng.gamma(2, 5, services)
        ticks = Ticks(work, work, work, work * 0.001, 0 * every, 3 * every, 0 * every, 2 * every, service_s, every > 0)
        return fleet.decide(ticks, TICK_S * (number + 1), MIDNIGHT + TICK_S * number)

    return decide
