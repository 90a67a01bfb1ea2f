"""Evidence that a candidate does worse than the champion, valid however often it is looked at. Pure.

Both answer requests at the same time. Of each look it is counted how many each of them answered since the look before,
and how many of these were bad: failed, slow, beyond a score. *Given how many were bad in all*, the number that fell to
the candidate follows Fisher's noncentral hypergeometric distribution, in which nothing is left of how bad the time was
but the odds ratio of the two [1]. So a bad hour, a slow disk or a change of the traffic is no evidence, as long as it
strikes both.

A look multiplies the evidence by how much likelier it is under a worse candidate than under one that is just as bad as
is tolerated. The expectation of that factor is at most 1 for every candidate that is not worse than tolerated, whatever
came before; so is that of a mean of such products, and the evidence of such a candidate ever reaches 1/alpha with a
probability of at most alpha, at whichever look (Ville's inequality) [2, 3].

[1] R. A. Fisher, The logic of inductive inference, J. Royal Statistical Society 98 (1935).
[2] A. Ramdas, P. Grünwald, V. Vovk, G. Shafer, Game-theoretic statistics and safe anytime-valid inference,
    Statistical Science 38 (2023).
[3] R. Turner, A. Ly, P. Grünwald, Generic E-variables for exact sequential k-sample tests that allow for optional
    stopping, J. Statistical Planning and Inference 230 (2024).
[4] I. Waudby-Smith, A. Ramdas, Estimating means of bounded random variables by betting, J. Royal Statistical Society B
    86 (2024).

Where both answered the *same* requests, the pairs are compared instead: on each a bet is laid that it is bad of the
candidate alone (+1) rather than of the champion alone (-1), and what the bets have made of 1 is the evidence [4].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST_COUNTED: Final = 10_000_000
"""Of more answers in a look a share of them says as much: the sums have as many terms as the root of the counts."""
_NEGLIGIBLE: Final = 1e-18
"""Terms of a sum that are smaller, relative to its greatest, are left out."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one of the two answered between two looks."""

    total: int
    bad: int

    def __post_init__(self) -> None:
        if not 0 <= self.bad <= self.total:
            raise ValueError(f"{self.bad} bad ones of {self.total}")


@dataclass(frozen=True, slots=True)
class OddsTest:
    """Whether the candidate's odds of something bad are more than `tolerated` times the champion's.

    `worse`: the odds ratios that are looked for, each above `tolerated`; the evidence is the mean over them, so that
    none must be chosen beforehand.
    `at_most`: the factor that one look may give each of them. Bad requests come in bursts (a pause of one process makes
    all that wait slow), and a burst is not as many pieces of evidence as it has requests. A factor that is cut down
    keeps its expectation of at most 1.
    """

    worse: tuple[float, ...]
    tolerated: float = 1.0
    at_most: float = math.inf

    def __post_init__(self) -> None:
        if not (self.worse and 0 < self.tolerated < min(self.worse) and self.at_most > 1):
            raise ValueError(f"no test of odds: {self}")

    @property
    def start(self) -> tuple[float, ...]:
        """The logarithms of the evidence, one for each odds ratio, before the first look."""
        return (0.0,) * len(self.worse)

    def look(self, logs: Sequence[float], champion: Counted, candidate: Counted) -> tuple[float, ...]:
        """`logs` after one more look."""
        bad = champion.bad + candidate.bad
        if bad == 0 or bad == champion.total + candidate.total or not candidate.total or not champion.total:
            return tuple(logs)  # nothing that tells the two apart
        champion, candidate = _thinned(champion, candidate)
        bad = champion.bad + candidate.bad
        cut = math.log(self.at_most)
        base = _log_sum(champion.total, candidate.total, bad, self.tolerated)
        return tuple(
            log
            + min(
                cut,
                candidate.bad * math.log(odds / self.tolerated)
                + base
                - _log_sum(champion.total, candidate.total, bad, odds),
            )
            for log, odds in zip(logs, self.worse, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Requests that both answered between two looks: all, those bad of the candidate alone, of the champion alone."""

    total: int
    worse: int
    better: int

    def __post_init__(self) -> None:
        if not (self.worse >= 0 and self.better >= 0 and self.worse + self.better <= self.total):
            raise ValueError(f"{self.worse} and {self.better} of {self.total}")


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Whether the share of something bad is more than `tolerated` (0.01: a point) higher with the candidate than with
    the champion, on the same requests. Nothing is assumed but that, whatever came before, the next pair is expected to
    be within it: the two may fail together as often as they like.

    `bets`: parts of what is there that are laid on each pair; the evidence is the mean over them. `at_most`: as of
    `OddsTest`.
    """

    tolerated: float = 0.0
    bets: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    at_most: float = math.inf

    def __post_init__(self) -> None:
        most = max(self.bets, default=0.0) * (1 + self.tolerated)
        if not (min(self.bets, default=0.0) > 0 and most < 1 and 0 <= self.tolerated < 1 and self.at_most > 1):
            raise ValueError(f"no test of pairs: {self}")

    @property
    def start(self) -> tuple[float, ...]:
        """The logarithms of the evidence, one for each bet, before the first look."""
        return (0.0,) * len(self.bets)

    def look(self, logs: Sequence[float], pairs: Pairs) -> tuple[float, ...]:
        """`logs` after one more look."""
        cut = math.log(self.at_most)
        same = pairs.total - pairs.worse - pairs.better
        return tuple(
            log + min(cut, self.gain(bet, pairs.worse, pairs.better, same))
            for log, bet in zip(logs, self.bets, strict=True)
        )

    def gain(self, bet: float, worse: float, better: float, same: float) -> float:
        """What so many pairs add to the logarithm."""
        won, lost, kept = bet * (1 - self.tolerated), bet * (1 + self.tolerated), bet * self.tolerated
        return worse * math.log1p(won) + better * math.log1p(-lost) + same * math.log1p(-kept)


def pairs_needed(bad_share: float, more: float, test: PairedTest, evidence: float) -> int:
    """About how many pairs it takes until `evidence` is expected against a candidate that is bad in `more` of its
    answers than a champion with `bad_share`, where they fail independently: twice the number at which the mean of the
    logarithm gets there, as `needed`."""
    worse, better = (bad_share + more) * (1 - bad_share), bad_share * (1 - bad_share - more)
    if not (0 <= bad_share < 1 - more and worse - better > test.tolerated):
        raise ValueError("more than is tolerated, and less than all")
    gain = max(test.gain(bet, worse, better, 1 - worse - better) for bet in test.bets)
    return math.ceil(2 * (math.log(evidence) + math.log(len(test.bets))) / gain)


def _thinned(champion: Counted, candidate: Counted) -> tuple[Counted, Counted]:
    total = champion.total + candidate.total
    if total <= MOST_COUNTED:
        return champion, candidate
    share = MOST_COUNTED / total
    champion, candidate = (
        Counted(max(1, int(side.total * share)), int(side.bad * share)) for side in (champion, candidate)
    )
    return champion, candidate


def mean_evidence(logs: Sequence[float]) -> float:
    """The logarithm of the mean of what `logs` are the logarithms of."""
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))


def needed(bad_share: float, odds: float, test: OddsTest, candidate_share: float, evidence: float) -> int:
    """About how many requests the candidate has to answer until `evidence` (1/alpha) is expected against one whose odds
    are `odds` times those of a champion with `bad_share`, when it gets `candidate_share` of the requests.

    Twice the number at which the mean of the logarithm gets there: nine in ten get there by then.
    """
    if not (0 < bad_share < 1 and 0 < candidate_share < 1 and odds > test.tolerated):
        raise ValueError("shares are between 0 and 1, and the odds above what is tolerated")
    worse = odds * bad_share / (1 - bad_share + odds * bad_share)
    rate = candidate_share * worse / (candidate_share * worse + (1 - candidate_share) * bad_share)  # of the bad ones
    tolerated = test.tolerated * candidate_share / (1 - candidate_share + test.tolerated * candidate_share)
    gain = rate * math.log(rate / tolerated) + (1 - rate) * math.log((1 - rate) / (1 - tolerated))
    bad_ones = (math.log(evidence) + math.log(len(test.worse))) / gain
    return math.ceil(2 * bad_ones * rate / worse)


def _log_sum(champion: int, candidate: int, bad: int, odds: float) -> float:
    """log of the sum over x of C(candidate, x) C(champion, bad - x) odds^x, without a constant of the margins.

    Summed from its greatest term to both sides until nothing more comes: as many terms as its spread is wide.
    """
    low, high = max(0, bad - champion), min(bad, candidate)
    # The greatest term is where the ratio of neighbours passes 1: a quadratic equation (Liao and Rosen, 2001).
    a = odds - 1
    b = -(odds * (candidate + bad + 2) + champion - bad)
    c = odds * (candidate + 1) * (bad + 1)
    root = (2 * c) / (-b + math.sqrt(max(b * b - 4 * a * c, 0.0)))
    mode = min(max(int(root), low), high)
    total, up, down = 1.0, 1.0, 1.0
    for x in range(mode, high):
        up *= odds * (candidate - x) * (bad - x) / ((x + 1) * (champion - bad + x + 1))
        total += up
        if up < _NEGLIGIBLE * total:
            break
    for x in range(mode, low, -1):
        down *= x * (champion - bad + x) / (odds * (candidate - x + 1) * (bad - x + 1))
        total += down
        if down < _NEGLIGIBLE * total:
            break
    return _log_choose(candidate, mode) + _log_choose(champion, bad - mode) + mode * math.log(odds) + math.log(total)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
