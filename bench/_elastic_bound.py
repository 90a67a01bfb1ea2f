"""What the objective costs at least: a linear programme that knows the whole trace, for every scaler in the world.

Of any scaler's run, with S_t replicas ready in second t, take the work that is done in time, y_t of it in second t, and
the work l_t of second t that becomes late; Y, L and A are the sums of y, l and of what comes. Then

- it costs at least the sum of S_t + c_t (S_t - S_{t-1})+, where c_t is the start-up delay, for what becomes ready has
  been paid for as long before, and S_{-1} are the replicas that all start with. After a lead, whose seconds cost
  nothing, c_t is what of the delay lies behind it, so S begins as it likes;
- y_t <= S_t, and Y_t <= A_t - L_t, for nothing is done before it comes;
- Y_{t+deadline} >= A_t - L_t, for in time is by then; 0 <= l_t <= a_t; the last seconds are not judged;
- the sum of l_t times the requests in a unit of that second's work is at most what the objective allows.

So the run is one of the points over which the programme minimises that sum, and none that meets the objective is
cheaper. (It is a bound, not a plan: replicas may be split, and late work need not be done at all.)

In blocks of k seconds it stays one. Take the mean of S in a block, and Y, L and A at its end: Y grows by at most k
times the mean; a deadline that is rounded up to whole blocks is no stricter; the requests in a unit of a block's work
are at least those of its second with the fewest. And the mean of a block lies between two of its S, so the line through
all S passes through it within the block: the means are met one after the other, so they rise by no more than S does,
and in no second earlier than the second one of the block before, whose c_t is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from _elastic_world import Floats, Trace
from scipy import sparse
from scipy.optimize import linprog

MOST_BLOCKS = 5_760
"""A longer trace is taken in blocks of seconds: the programme ends within a minute."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """`came`, `per_work`: (B,) work and the fewest requests a unit of it; `due`: blocks that the deadline is long."""

    seconds: int
    due: int
    came: Floats
    per_work: Floats
    judged: int
    """Blocks, from the first on, whose lateness counts."""
    allowed: float
    """Requests."""

    @staticmethod
    def of(trace: Trace, *, share: float, deadline_s: int, seconds: int) -> Blocks:
        counts = slice(trace.lead_s, None)
        count = len(trace.work[counts]) // seconds  # what a shorter last one would cost is left out
        whole = slice(trace.lead_s, trace.lead_s + count * seconds)
        work, requests = (values[whole].reshape(count, seconds) for values in (trace.work, trace.requests))
        per_work = np.divide(requests, work, out=np.full_like(work, np.inf), where=work > 0).min(axis=1)
        judged_s, due = max(len(trace.work[counts]) - deadline_s, 0), -(-deadline_s // seconds)
        return Blocks(
            seconds=seconds,
            due=due,
            came=work.sum(axis=1),
            per_work=np.where(np.isfinite(per_work), per_work, 0.0),
            judged=max(min(judged_s // seconds, count - due), 0),
            allowed=(1 - share) * float(trace.requests[counts][:judged_s].sum()),
        )


def lowest_cost(trace: Trace, *, share: float, delay_s: int, deadline_s: int, block_s: int | None = None) -> float:
    """Replica-seconds."""
    seconds = block_s or -(-(trace.seconds - trace.lead_s) // MOST_BLOCKS)
    blocks = Blocks.of(trace, share=share, deadline_s=deadline_s, seconds=seconds)
    count, judged = len(blocks.came), blocks.judged
    same, none = sparse.identity(count, format="csr"), sparse.csr_matrix((count, count))
    growth = same - sparse.eye(count, k=-1, format="csr")
    due = sparse.eye(judged, count, k=blocks.due, format="csr")
    first, came = np.zeros(count), np.cumsum(blocks.came)
    start = np.full(count, float(delay_s))
    if trace.lead_s:
        earliest = np.arange(count) if seconds == 1 else (np.arange(count) - 1) * seconds + 1
        start = np.clip(earliest, 0.0, start)
    else:
        first[0] = trace.first()
    late = np.where(np.arange(count) < judged, blocks.came, 0.0)
    rows = [  # the columns are S and u of each block, and Y and L at its end
        ([growth, -same, none, none], first),  # u >= its S less the one before
        ([-seconds * same, none, growth, none], np.zeros(count)),  # y <= S
        ([none, none, same, same], came),  # Y <= A - L
        ([none[:judged], none[:judged], -due, -same[:judged]], -came[:judged]),  # Y at the deadline >= A - L
        ([none, none, none, growth], late),  # l <= a
        ([none, none, none, -growth], np.zeros(count)),  # l >= 0
        ([none[:1], none[:1], none[:1], sparse.csr_matrix(blocks.per_work) @ growth], np.array([blocks.allowed])),
    ]
    found = linprog(
        np.concatenate([np.full(count, seconds), start, np.zeros(2 * count)]),
        A_ub=sparse.vstack([sparse.hstack(columns) for columns, _ in rows], format="csr"),
        b_ub=np.concatenate([limits for _, limits in rows]),
        method="highs-ipm",
    )
    if not found.success:
        raise RuntimeError(f"the bound of {trace.name} was not found: {found.message}")
    return float(found.fun)
