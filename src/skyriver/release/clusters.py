"""Evidence where a *key* stays with its version, for then its answers are no draws of their own. Pure.

A customer whose scores are always high makes them all with one version. Counted one by one, some heavy keys that fell
to the candidate look like a worse candidate, and the longer they ask the more so: of rollouts by key that were as good,
one in three was taken back in a simulation. So answers are counted by *place*, each a hundredth of the keys that a hash
chose. How far the places of one version lie apart tells how much less their answers are worth than as many draws: the
dispersion (Pearson's chi-square by its degrees of freedom), by which all counts are divided [1, 2]. It grows as fast as
the answers of the same keys do, so the evidence comes to rest when nothing new is seen.

A place counts no more than CAPPED times the answers of the middle one, so that a single key cannot speak for all.

[1] P. McCullagh, J. A. Nelder, Generalized Linear Models (1989), section 4.5.
[2] J. N. K. Rao, A. J. Scott, A simple method for the analysis of clustered binary data, Biometrics 48 (1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from skyriver.release.evidence import Counted, OddsTest

CAPPED: Final = 1.5
CAREFUL: Final = 1.5
"""The dispersion of some dozen places is itself an estimate, and keys have heavy tails."""
LEAST_PLACES: Final = 10
"""With answers, of both versions together, before anything can be said."""

Weighed = tuple[float, float]
"""Of a place: its answers and the bad ones."""


def clustered(
    test: OddsTest, kept: Sequence[float], champion: Sequence[Counted], candidate: Sequence[Counted]
) -> tuple[float, ...]:
    """`kept` (the logarithms of the evidence of the steps before) with that of this step: `champion` and `candidate`
    are what each of their places answered in it so far."""
    sides = [[place for place in side if place.total] for side in (champion, candidate)]
    if not all(sides) or sum(map(len, sides)) < LEAST_PLACES:
        return tuple(kept)
    most = CAPPED * median(place.total for side in sides for place in side)
    weighed = [[_weighed(place, most) for place in side] for side in sides]
    apart = CAREFUL * dispersion(weighed)
    return test.look(kept, *(_together(side, apart) for side in weighed))


def dispersion(sides: Sequence[Sequence[Weighed]]) -> float:
    """How many times as far places lie apart as draws would, around the share of their own side; at least 1."""
    chi_square, free = 0.0, 0
    for side in sides:
        total, bad = (sum(place[what] for place in side) for what in (0, 1))
        share = bad / total
        if 0 < share < 1:
            chi_square += sum((b - n * share) ** 2 / (n * share * (1 - share)) for n, b in side)
            free += len(side) - 1
    return max(1.0, chi_square / free) if free else 1.0


def _weighed(place: Counted, most: float) -> Weighed:
    weight = min(1.0, most / place.total)
    return place.total * weight, place.bad * weight


def _together(side: Sequence[Weighed], apart: float) -> Counted:
    total, bad = (int(sum(place[what] for place in side) / apart) for what in (0, 1))
    return Counted(total, min(bad, total))
