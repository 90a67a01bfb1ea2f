"""What a guard saw of two versions, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from skyriver.release.guards import SCORE_BOUNDS, Breach

Counts = Sequence[int]
"""How many there were in all, and how many were bad by each bound of the guard."""
_POINTS: Final = {"p10": "10% point", "p50": "median", "p90": "90% point"}
TOLD_AS_TOTALS: Final = ("errors", "refusals")
"""Guards whose counts are the totals, which are told of anyhow."""


def told_of_each(found: Breach, seen: Mapping[str, Counts], versions: tuple[int, int]) -> str:
    """`seen`: the guard's counts by side, each version having answered its own requests; "" where none are known."""
    if found.guard in TOLD_AS_TOTALS or not all(seen.get(side, (0,))[0] for side in ("champion", "candidate")):
        return ""
    before, to = versions
    number = 1 + (SCORE_BOUNDS.index(found.bound) if found.guard == "scores" else 0)
    (all_before, all_after), (bad_before, bad_after) = (
        (seen["champion"][place], seen["candidate"][place]) for place in (0, number)
    )
    what, of = _which(found, before)
    return (
        f"{share(bad_after, all_after)} of version {to}'s {all_after:,} {what} {of}; of version {before}'s own"
        f" {all_before:,} it is {share(bad_before, all_before)}"
    )


def told_of_pairs(found: Breach, pairs: Sequence[Counts], versions: tuple[int, int]) -> str:
    """`pairs`: for each bound of the guard how many both answered, and how many of these answers were bad of the
    candidate alone and of the champion alone; "" where none are known."""
    number = SCORE_BOUNDS.index(found.bound) if found.guard == "scores" else 0
    if found.guard in TOLD_AS_TOTALS or len(pairs) <= number or not pairs[number][0]:
        return ""
    before, to = versions
    (of_all, worse, better), (what, of) = pairs[number], _which(found, before)
    return (
        f"of {of_all:,} requests that both answered, {worse:,} of version {to}'s {what} alone {of}, and {better:,} of"
        f" version {before}'s alone"
    )


def odds(evidence: float) -> str:
    """Against chance, as the end of a sentence."""
    least = f"{evidence:,.0f}" if evidence < 1e9 else "over 1,000,000,000"
    return f"The evidence is {least} to 1 against chance."


def share(part: int, whole: int) -> str:
    """In percent, as exact as it is worth."""
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "under 0.01%"
    return f"{percent:.2g}%" if percent < 99 else f"{percent:.3g}%"


def _which(found: Breach, before: int) -> tuple[str, str]:
    """Of what is counted, and what was bad of it."""
    match found.guard:
        case "scores":
            side, _, point = found.bound.partition(" ")
            return "scores", f"are {side} the {_POINTS[point]} of version {before}'s"
        case "latency":
            return "answers", f"took much longer than 95% of version {before}'s did before"
        case metric:
            return "answers", f"have the worse {metric}, as the application reports"
