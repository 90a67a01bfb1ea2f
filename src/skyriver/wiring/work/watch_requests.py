"""A look at what a version was asked over HTTP: what its replicas counted, beside what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skyriver.data.profile import Counted, Profile
from skyriver.observe.drift import compare, summary, too_soon
from skyriver.release.requests import CELLS, DRAWN, ROWS, SQUARES


def look_at_requests(asked: Mapping[str, Any], profile: Profile, now: int) -> dict[str, Any]:
    """As `skyriver.wiring.work.watch.work`, and how many rows were answered and drawn. `profile`: of the features, and
    of the scores behind them."""
    together = [sum(counts) for counts in zip(*(counts for _, counts in asked["asked"]), strict=True)]
    counted = rows_of(profile, together)
    whole = int(asked["since"]) <= now - int(asked["window_us"])
    rows = next(iter(counted.values())).rows
    drift = compare(profile, counted) if whole else too_soon(rows)
    answered = {"rows": round(together[ROWS]), "drawn": round(together[DRAWN])}
    return {"version": asked["version"], "at": now, "drift": summary(drift), "answered": answered}


def rows_of(profile: Profile, counts: Sequence[float]) -> dict[str, Counted]:
    """`counts`, as `skyriver.release.requests` has them, as so many rows of equal weight as tell as much."""
    share = counts[ROWS] / counts[SQUARES] if counts[SQUARES] else 0.0
    found: dict[str, Counted] = {}
    place = CELLS
    for column in profile.columns:
        bins = len(column.edges) + 1
        *known, missing = (round(share * count) for count in counts[place : place + bins + 1])
        found[column.name] = Counted(tuple(known), missing)
        place += bins + 1
    return found
