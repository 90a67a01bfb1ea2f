"""Whether columns of rows are still as they were when the model was trained. Pure.

A column has drifted where these hold together:

- *it matters*: the population stability index, without what chance adds to it, is NOTICED at least;
- *it is new*: more than the stretches of the training rows were ever apart. So seasons, heavy keys and all else that
  came and went while the model was trained is no drift, as long as what is compared is about as long as they were;
- *it is no chance*: as unlikely as once in 10 million looks at so many rows of one distribution (ONCE_IN). Of thirty
  columns, looked at every hour, that is once in forty years, if the rows were draws.

Rows of one key are no draws: a customer who makes a tenth of them today and none tomorrow is no drift. So where rows
are counted by places, each a thirtieth of the keys (`skyriver.observe.window`), a fourth thing must hold:

- *it is of many keys*: it is still there when the FEW places are left out without which it is least.

Rows of less than a day are early or late ones: `skyriver.observe` compares whole days.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev
from typing import Final, Literal

from skyriver.data.profile import ColumnProfile, Counted, Profile, distance, farthest

NOTICED: Final = 0.1
GREAT: Final = 0.25
ONCE_IN: Final = 1e7
BEYOND: Final = 1.5
"""Times as far as the farthest stretch is new; so is SPREADS standard deviations of the stretches from their mean."""
SPREADS: Final = 4.0
FEW: Final = 3
"""Places of 32. Where fewer than LEAST_PLACES have rows none is left out: of so few keys each is much."""
LEAST_PLACES: Final = 10
LEAST_ROWS: Final = 500
"""Fewer are not compared."""

Severity = Literal["none", "some", "great"]


@dataclass(frozen=True, slots=True)
class Finding:
    """How a column is now. `distance` is its stability index without chance, `limit` from where it is drift; `farthest`
    the distance of Kolmogorov and Smirnov, `chance` that of rows of the same distribution being as far apart."""

    column: str
    distance: float
    limit: float
    farthest: float
    chance: float
    severity: Severity
    told: str
    of_few: bool = False
    """It would be drift, and is of a few keys alone."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Of all columns, the ones that differ most first. `verdict` "unknown": too few rows."""

    verdict: Literal["unknown", "none", "drifted"]
    rows: int
    findings: tuple[Finding, ...]
    message: str

    @property
    def drifted(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity != "none")


def compare(
    profile: Profile, now: Mapping[str, Counted], by_place: Mapping[str, Sequence[Counted]] | None = None
) -> Drift:
    """`now`: rows in the bins of the profile's columns; a column that is not there is left out. `by_place`: the same
    rows by places of their keys, where these are known."""
    both = [(column, now[column.name]) for column in profile.columns if column.name in now]
    rows = max((counted.rows for _, counted in both), default=0)
    if rows < LEAST_ROWS:
        return Drift("unknown", rows, (), f"{rows:,} rows are too few to compare: {LEAST_ROWS} are needed.")
    places = by_place or {}
    findings = sorted(
        (_find(*pair, places.get(pair[0].name, ())) for pair in both),
        key=lambda f: (f.severity == "none", -f.distance, f.column),
    )
    drifted = [finding for finding in findings if finding.severity != "none"]
    if not drifted:
        few = [finding.told for finding in findings if finding.of_few]
        but = f", but for those of a few keys: {'; '.join(few[:3])}" if few else ""
        return Drift("none", rows, tuple(findings), f"{rows:,} rows are as those that it was trained on{but}.")
    named = "; ".join(finding.told for finding in drifted[:3])
    more = f"; and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    return Drift(
        "drifted", rows, tuple(findings), f"{len(drifted)} of {len(both)} columns have drifted: {named}{more}."
    )


def too_soon(rows: int) -> Drift:
    """Where a whole window was not seen yet: mornings are not like nights."""
    return Drift("unknown", rows, (), f"{rows:,} rows so far; they are compared once a whole window was seen.")


def limit_of(column: ColumnProfile, now: Counted) -> float:
    """The distance from which it is drift."""
    usual = column.stretches
    new = max(BEYOND * max(usual), fmean(usual) + SPREADS * pstdev(usual)) if usual else 0.0
    bins = sum(1 for count in (*column.counts, column.missing) if count)
    apart = 1 / max(1, column.rows) + 1 / max(1, now.rows)
    return max(NOTICED, new) + apart * (_chi_square(max(1, bins - 1)) - max(1, bins - 1))


def _find(column: ColumnProfile, now: Counted, places: Sequence[Counted]) -> Finding:
    apart, limit, most = distance(column, now), limit_of(column, now), farthest(column, now)
    severity: Severity = "none" if apart < limit else "great" if apart >= max(GREAT, limit) else "some"
    chance = _kolmogorov(most, column.rows, now.rows)
    of_few = severity != "none" and _of_few(column, places)
    return Finding(
        column.name,
        round(apart, 4),
        round(limit, 4),
        round(most, 4),
        chance,
        "none" if of_few else severity,
        _told(column, now, apart),
        of_few,
    )


def _of_few(column: ColumnProfile, places: Sequence[Counted]) -> bool:
    """Whether it is no drift without FEW places: at each turn that one goes without which it is least."""
    left = [place for place in places if place.rows]
    for _ in range(FEW if len(left) >= LEAST_PLACES else 0):
        without = [_sum([*left[:place], *left[place + 1 :]]) for place in range(len(left))]
        least = min(range(len(left)), key=lambda place: distance(column, without[place]))
        if distance(column, without[least]) < limit_of(column, without[least]):
            return True
        del left[least]
    return False


def _sum(places: Sequence[Counted]) -> Counted:
    bins = tuple(map(sum, zip(*(place.counts for place in places), strict=True)))
    return Counted(bins, sum(place.missing for place in places))


def _told(column: ColumnProfile, now: Counted, apart: float) -> str:
    before, after = (of.missing / max(1, of.rows) for of in (column, now))
    how = [f"{column.name}: index {apart:.2f}"]
    if column.median is not None and now.median is not None and column.median != now.median:
        how.append(f"median {column.median:.4g}, now {now.median:.4g}")
    if abs(before - after) >= 0.01:
        how.append(f"missing {before:.0%}, now {after:.0%}")
    return ", ".join(how)


def _chi_square(free: int) -> float:
    """Above which a chi-square variable is once in ONCE_IN (Wilson and Hilferty, 1931)."""
    z = NormalDist().inv_cdf(1 - 1 / ONCE_IN)
    return free * (1 - 2 / (9 * free) + z * math.sqrt(2 / (9 * free))) ** 3


def _kolmogorov(most: float, n: int, m: int) -> float:
    """The chance of a distance of at least `most` between samples of n and m (Kolmogorov's limit, with the correction
    of M. A. Stephens, 1970); a little too large for values in bins."""
    if not n or not m:
        return 1.0
    root = math.sqrt(n * m / (n + m))
    scaled = (root + 0.12 + 0.11 / root) * most
    if scaled < 0.2:
        return 1.0
    found = 2 * sum((1 if k % 2 else -1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, found))


def summary(drift: Drift, most: int = 50) -> dict[str, object]:
    """As values, for a row of the control state."""
    kept: Iterable[Finding] = drift.findings[:most]
    return {
        "verdict": drift.verdict,
        "rows": drift.rows,
        "message": drift.message,
        "columns": [
            {
                "column": f.column,
                "distance": f.distance,
                "limit": f.limit,
                "farthest": f.farthest,
                "chance": f"{f.chance:.2g}",
                "severity": f.severity,
                "told": f.told,
                **({"of_few": True} if f.of_few else {}),
            }
            for f in kept
        ],
    }
