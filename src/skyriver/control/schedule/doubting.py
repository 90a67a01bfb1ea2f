"""What a replay says beside what was measured in the same stretch, and why where these differ. Pure.

Of the past it is known what was answered, not what would have been asked. Who asks again only once he has his answer
asks no faster than he is answered: while all replicas are busy the queue is in his hands, and not in the history.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from skyriver.control.schedule.past import History, Outcome, Plan

TIMES: Final = 2.0
"""The replay and what was measured are taken to differ from so many times on,"""
LEAST: Final = 0.005
"""and where that is more than this share of the requests."""
FEW: Final = 20.0
"""Of so few requests a share says nothing."""
BUSY: Final = 0.75
"""Of all replicas that may be: from then on some wait for others."""


def doubt(history: History, plan: Plan, outcome: Outcome) -> str:
    """Why the late share of the replay of `plan`, which is declared, is not to be relied on; "" where it agrees with
    what was measured, or nothing was."""
    really, said = history.late, outcome.late
    if not differ(history, said):
        return ""
    told = (
        f"{_percent(really)} of {history.judged:,.0f} requests were really late, and the replay says {_percent(said)}:"
    )
    if really < said:
        return (
            f"{told} it takes requests to come by chance, and replicas to be as few as they may; take LATE and D for"
            " too high."
        )
    most = float(max(plan.most, 1))
    busiest = np.nanmax(history.work) / most
    if busiest >= BUSY:
        why = (
            f"up to {busiest * most:.2g} replicas' work was answered within 5 s, and {plan.most} may be. Who waits for"
            " an answer before he asks again asks no more than can be answered, so the queue was with those who asked,"
            " and is not in the history"
        )
    elif 0 < plan.latency_s < TIMES * history.service_s:
        why = (
            f"a request takes {history.service_s * 1e3:.3g} ms on the mean, and {plan.latency_s * 1e3:.3g} ms are"
            " declared: what else the machine did made single ones late, and the replay takes all to be alike"
        )
    else:
        why = (
            "replicas were slower at times, or started later than usual, or something else was declared then; the"
            " replay takes them to be as fast as on the mean"
        )
    return f"{told} {why}. LATE and D are too low for all declarations here; compare them, and do not rely on them."


def differ(history: History, said: float) -> bool:
    really = history.late
    if not math.isfinite(really) or 0 < history.judged < FEW:
        return False
    low, high = sorted((really, said))
    return high > TIMES * low and high - low > LEAST


def unseen(history: History, outcome: Outcome) -> float:
    """Share of the requests that was late, as measured, beyond what the replay of the present declaration says."""
    return max(0.0, history.late - outcome.late) if math.isfinite(history.late) else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
