"""What the cases of a stream tell of its queue and of the people who answer them.

No more than the numbers allow: a share comes with its counts and a 95% interval (Wilson's), a kappa or a change only
from LEAST cases on. A case that is kept no longer leaves its counts (`case_sums`), not its times and pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from skyriver.core.units import SECOND
from skyriver.decide.acting.cases import LANES
from skyriver.decide.acting.database import Transaction

LEAST = 20
"""Cases, below which a kappa or a change of a rate would say more of chance than of people."""
RECENT_US = 7 * 86_400 * SECOND
_Z = 1.959964
CONFUSION = ("true_positives", "false_positives", "true_negatives", "false_negatives")
Pairs = dict[tuple[str, str], dict[tuple[float, float], int]]
"""Of two people, by name: how often each pair of values."""
_DAY_US = 86_400 * SECOND

_DECIDED = "state = 'DECIDED'"


def stats(do: Transaction, now: int) -> dict[str, Any]:
    """As `skyriver.core.contract_reviews.ReviewStats` has it, but for what the caller adds."""
    twice = _answered_twice(do)
    return {
        "lanes": [_lane(do, lane, now) for lane in LANES],
        "closed": _closed(do),
        "reviewers": _reviewers(do, now, twice),
        "pairs": [{"a": a, "b": b, **kappa(table)} for (a, b), table in sorted(twice.items())],
        "before": _before(do),
    }


def _lane(do: Transaction, lane: str, now: int) -> dict[str, Any]:
    [(waiting, held, oldest)] = do.run(
        "SELECT COUNT(*), COALESCE(SUM(holder != ''), 0), MIN(opened_at) FROM cases WHERE closed = 0 AND lane = ?",
        (lane,),
    )
    age = max(0, now - oldest) if oldest is not None else 0
    return {"lane": lane, "waiting": waiting - held, "held": held, "oldest_us": age}


def _closed(do: Transaction) -> dict[str, Any]:
    [row] = do.run(
        f"SELECT COALESCE(SUM({_DECIDED}), 0), COALESCE(SUM({_DECIDED} AND closed_at < opened_at + within_us), 0),"
        " COALESCE(SUM(closed_why = 'UNANSWERED'), 0), COALESCE(SUM(closed_why = 'QUEUE_FULL'), 0)"
        " FROM cases WHERE closed = 1"
    )
    decided, in_time, unanswered, full = map(int, row)
    return {
        "decided": decided,
        "unanswered": unanswered,
        "queue_full": full,
        "in_time": share(in_time, decided + unanswered + full),
    }


def _reviewers(do: Transaction, now: int, twice: Pairs) -> list[dict[str, Any]]:
    rates: dict[str, dict[bool, tuple[int, int]]] = {}
    for by, recent, positives, count in do.run(
        "SELECT by, at >= ?, SUM(value > 0), COUNT(*) FROM opinions GROUP BY 1, 2", (now - RECENT_US,)
    ):
        rates.setdefault(by, {})[bool(recent)] = int(positives), int(count)
    confusions = _confusions(do)
    found = []
    for by in sorted(rates):
        positives, answered = (sum(pair) for pair in zip(*rates[by].values(), strict=True))
        [(median,)] = do.run(
            "SELECT took_us FROM opinions WHERE by = ? ORDER BY took_us LIMIT 1 OFFSET ?", (by, (answered - 1) // 2)
        )
        mine = [table for pair, table in twice.items() if by in pair]
        both = sum(sum(table.values()) for table in mine)
        agreed = sum(count for table in mine for (a, b), count in table.items() if a == b)
        found.append(
            {
                "by": by,
                "answered": answered,
                "median_us": median,
                "positives": share(positives, answered),
                "agreed": share(agreed, both),
                "truth": confusions.get(by) or dict.fromkeys(CONFUSION, 0),
                "change": _change(rates, by),
            }
        )
    return found


def _confusions(do: Transaction) -> dict[str, dict[str, int]]:
    """Of each reviewer, against labels that came from elsewhere after his opinions."""
    found: dict[str, dict[str, int]] = {}
    # CROSS: cases first, for few have a truth.
    for by, said, true, count in do.run(
        "SELECT o.by, o.value > 0, c.truth > 0, COUNT(*) FROM cases c CROSS JOIN opinions o ON o.case_id = c.id"
        " WHERE c.truth IS NOT NULL AND c.truth_at >= o.at GROUP BY 1, 2, 3"
    ):
        counts = found.setdefault(by, dict.fromkeys(CONFUSION, 0))
        counts[f"{'true' if said == true else 'false'}_{'positives' if said else 'negatives'}"] = count
    return found


def _change(rates: Mapping[str, Mapping[bool, tuple[int, int]]], by: str) -> dict[str, Any]:
    """Of the share of positives: the last days against those before, for this person and for all others. What comes to
    people changes too: a change that the others share is hardly his."""
    mine = {recent: rates[by].get(recent, (0, 0)) for recent in (True, False)}
    others = {
        recent: (sum(pair[0] for pair in theirs), sum(pair[1] for pair in theirs))
        for recent in (True, False)
        for theirs in ([rate[recent] for other, rate in rates.items() if other != by and recent in rate],)
    }
    return {
        "days": RECENT_US // _DAY_US,
        "recent": share(*mine[True]),
        "before": share(*mine[False]),
        "difference": difference(mine[True], mine[False]),
        "others": difference(others[True], others[False]),
    }


def _answered_twice(do: Transaction) -> Pairs:
    """How often each two people gave which values as the two independent opinions on a case."""
    tables: Pairs = {}
    for first, second, said, told, count in do.run(
        "SELECT o.by, p.by, o.value, p.value, COUNT(*) FROM opinions p JOIN opinions o"
        " ON o.case_id = p.case_id AND o.place = 0 WHERE p.place = 1 GROUP BY 1, 2, 3, 4"
    ):
        pair, values = ((first, second), (said, told)) if first < second else ((second, first), (told, said))
        table = tables.setdefault(pair, {})
        table[values] = table.get(values, 0) + count
    return tables


def _before(do: Transaction) -> list[dict[str, Any]]:
    sums: dict[str, dict[str, int]] = {}
    for by, what, count in do.run("SELECT by, what, count FROM case_sums ORDER BY by, what"):
        sums.setdefault(by, {})[what] = count
    return [{"by": by, "counts": counts} for by, counts in sums.items()]


# Arithmetic


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95% interval of a share; (0, 1) of none."""
    if not of:
        return 0.0, 1.0
    rate, square = hits / of, _Z * _Z
    middle = (rate + square / (2 * of)) / (1 + square / of)
    half = _Z * math.sqrt(rate * (1 - rate) / of + square / (4 * of * of)) / (1 + square / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(hits: int, of: int) -> dict[str, Any]:
    low, high = wilson(hits, of)
    return {"hits": hits, "of": of, "share": hits / of if of else None, "low": low, "high": high}


def difference(now: tuple[int, int], before: tuple[int, int]) -> dict[str, float] | None:
    """Of two shares (hits, of), with its 95% interval (Newcombe's); None where either is of too few."""
    if min(now[1], before[1]) < LEAST:
        return None
    a, b = now[0] / now[1], before[0] / before[1]
    (a_low, a_high), (b_low, b_high) = wilson(*now), wilson(*before)
    return {
        "by": a - b,
        "low": a - b - math.hypot(a - a_low, b_high - b),
        "high": a - b + math.hypot(a_high - a, b - b_low),
    }


def kappa(table: Mapping[tuple[float, float], int]) -> dict[str, Any]:
    """Cohen's kappa of how often two people gave each pair of values; null for too few cases, and where chance alone
    would have them agree always. Its interval is that of the agreement, the agreement by chance taken as it is."""
    both = sum(table.values())
    agreed = sum(count for (a, b), count in table.items() if a == b)
    told = {"both": both, "agreed": share(agreed, both), "kappa": None, "low": None, "high": None}
    values = {value for pair in table for value in pair}
    chance = sum(_margin(table, 0, value) * _margin(table, 1, value) for value in values) / both**2 if both else 1.0
    if both < LEAST or chance >= 1:
        return told
    low, high = (_beyond(rate, chance) for rate in wilson(agreed, both))
    return {**told, "kappa": _beyond(agreed / both, chance), "low": low, "high": high}


def _margin(table: Mapping[tuple[float, float], int], side: int, value: float) -> int:
    return sum(count for pair, count in table.items() if pair[side] == value)


def _beyond(agreement: float, chance: float) -> float:
    return (agreement - chance) / (1 - chance)


# Keeping


def compact(do: Transaction, decision: str, before: int, most: int = 500) -> int:
    """Cases of a decision that were closed before then become sums; how many did, `most` in one call."""
    old: Sequence[tuple[int, str, str]] = do.run(
        "SELECT id, state, closed_why FROM cases WHERE closed = 1 AND closed_at < ? AND decision = ?"
        " AND id NOT IN (SELECT case_id FROM case_labels) ORDER BY closed_at LIMIT ?",
        (before, decision, most),
    )
    for case, state, why in old:
        counted = [("", "decided" if state == "DECIDED" else why.lower(), 1)]
        for by, value in do.run("SELECT by, value FROM opinions WHERE case_id = ?", (case,)):
            counted += [(by, "answered", 1), (by, "positives", int(value > 0))]
        do.run_many(
            "INSERT INTO case_sums VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count", counted
        )
        do.run("DELETE FROM opinions WHERE case_id = ?", (case,))
        do.run("DELETE FROM cases WHERE id = ?", (case,))
    return len(old)
