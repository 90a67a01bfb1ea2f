"""A service's own history once more, under other declarations: what it would have cost, and what would have been late.

The same functions decide as live: `scaling.Fleet` on replicas, `sleeping` on sleep. Around them stands a service in
steps of five seconds: replicas start for as long as they were measured to, work waits in the order in which it came.
What waits longer than the latency is late; and for a latency that is shorter than a step, what would meet by chance: of
M/M/n the share that waits for longer (Erlang 1917). Pure.

The pieces of a history are replayed side by side, each after an hour of what came before it, and twice: the second
time each begins with what the ones before it had learnt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skyriver.control.schedule.chance import by_chance
from skyriver.control.schedule.history import TICK_S
from skyriver.control.schedule.lanes import Told, fleet_of, lanes_of, run
from skyriver.control.schedule.past import History, Outcome, Plan, Total, late_by_start
from skyriver.control.schedule.sleeping import (
    LEAST_IDLE_S,
    UNSEEN_S,
    Habits,
    Seen,
    Terms,
    idle_after,
    observe,
    wakes_at,
)
from skyriver.control.schedule.tables import Flags


def replay(history: History, plans: Sequence[Plan], told: Told = lambda share: None) -> list[Outcome]:
    """In the order of `plans`."""
    sums = {plan: Total.of(history) for plan in plans}
    awake = {plan: _awake(history, plan) for plan in sums}
    elastic = [plan for plan in sums if plan.is_elastic]
    for plan, total in sums.items():
        if not plan.is_elastic:
            _steady(history, plan, awake[plan], total)
    if elastic:
        lanes = lanes_of(history, elastic, awake, sums)
        first = run(history, lanes, fleet_of(lanes), None, lambda share: told(share / 2))
        run(history, lanes, fleet_of(lanes, first), sums, lambda share: told((1 + share) / 2))
    known = np.isfinite(history.work)
    came = float(history.work[known].sum()) * TICK_S
    return [
        Outcome(
            replicas=sums[plan].replicas / max(int(known.sum()), 1),
            late=sums[plan].late / (came * plan.slower) if came else 0.0,
            most=sums[plan].most,
            there=sums[plan].there,
            too_late=sums[plan].too_late,
            late_price=sums[plan].late_price,
        )
        for plan in plans
    ]


def _awake(history: History, plan: Plan) -> Flags:
    """(T,) whether it is, by the rule of services that sleep; a look at least every half minute."""
    ticks = len(history.work)
    if plan.least:
        return np.ones(ticks, bool)
    came, known = np.nan_to_num(history.work) > 0, np.isfinite(history.work)
    following = np.append(np.flatnonzero(came), ticks)
    upcoming = following[np.searchsorted(following, np.arange(ticks))]
    requests = np.nan_to_num(history.work) * TICK_S / max(history.service_s, 1e-9)
    terms = Terms(plan.share, plan.wake_s or plan.latency_s, plan.idle_s)
    # As live: it begins with a start that it does not know yet, and learns of each that it sees.
    habits, awake = Habits(), np.zeros(ticks, bool)
    observe(habits, Seen(float(history.begins), 0.0, start_s=history.start_s))
    up, last, idle_s, at = True, float(history.begins), 0.0, 0
    while at < ticks:
        now = float(history.begins + (at + 1) * TICK_S)
        if not known[at]:
            awake[at], at = up, at + 1
            continue
        if came[at]:
            held, up, last, idle_s = float(not up), True, now, 0.0
            observe(habits, Seen(now, last, float(requests[at]), held, history.start_s if held else None))
            awake[at], at = True, at + 1
            continue
        observe(habits, Seen(now, last))
        step = min(int(upcoming[at]) - at, int(UNSEEN_S / 2) // TICK_S)
        if now - last >= LEAST_IDLE_S:
            idle_s = idle_s or idle_after(habits, terms).seconds
            warming = wakes_at(habits, terms, now)
            up = (up and now - last < idle_s) or (warming is not None and warming.at <= now < warming.until)
            step = min(step, max(1, int(np.ceil((last + idle_s - now) / TICK_S)))) if now - last < idle_s else step
        else:
            step = 1
        awake[at : at + step], at = up, at + max(1, step)
    return awake


def _steady(history: History, plan: Plan, awake: Flags, total: Total) -> None:
    """Of a number of replicas that stays, while it is awake."""
    known, n = np.isfinite(history.work), float(plan.most)
    came = np.nan_to_num(history.work) * TICK_S * plan.slower
    capacity = np.where(awake, n * TICK_S, 0.0)
    deadline = np.full(len(came), plan.latency_s)
    late = np.zeros(len(came))
    allowed_s, service_s = plan.wake_s or plan.latency_s, history.service_s * plan.slower
    begun = np.flatnonzero(awake & ~np.append(True, awake[:-1]))
    for tick in range(int(np.ceil(history.start_s / TICK_S))):
        at, left_s = begun[begun + tick < len(came)] + tick, history.start_s - tick * TICK_S
        capacity[at] = n * max(0.0, TICK_S - left_s)
        deadline[at] = np.maximum(allowed_s, deadline[at])
        late[at] = late_by_start(came[at], left_s, allowed_s, service_s if tick == 0 else 0.0)
    surplus = np.cumsum(came - capacity)
    backlog = surplus - np.minimum(np.minimum.accumulate(surplus), 0.0)
    late = np.maximum(late, np.clip(backlog - n * deadline, 0.0, came))
    late = np.maximum(late, came * by_chance(came / TICK_S, np.full(len(came), n), plan.latency_s, service_s))
    total.put(0, n * awake, np.minimum(late, came))
    total.late += float(total.too_late[known].sum())
    total.replicas += float(total.there[known].sum())
    total.most = plan.most
