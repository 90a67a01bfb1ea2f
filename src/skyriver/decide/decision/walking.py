"""Blocks of events whose decisions depend on those before them: by budgets, and by rules that read counters.

Most events of a block are not concerned. Of budgets only those events are walked, one after the other, whose decision
is counted or has a budget. Where rules read counters, all events are; the other rules have been asked a column at a
time before, so of each event only those that read counters, and stand before the one that fires, are asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.data.columns import Bools, Columns, EventBlock, Ints
from skyriver.data.decisions import DecisionColumns, Outcome, Reason, Status
from skyriver.decide.decision.tallies import Keys, Tallies
from skyriver.decide.rules.closures import Values
from skyriver.decide.rules.columns import Rows
from skyriver.decide.rules.ruleset import RuleSet

Codes = NDArray[np.uint16]


def note_block(tallies: Tallies, decided: DecisionColumns, events: EventBlock) -> None:
    """These events have got these decisions."""
    words = [outcome.decision for outcome in decided.outcomes]
    for _, word, keys, now in _counted(tallies, words, decided.codes, events.columns, events.effective):
        tallies.note(word, keys, now)


def spend_block(
    tallies: Tallies, words: Sequence[str], codes: Codes | Ints, columns: Columns, times: Ints
) -> dict[int, str]:
    """By their place, the events that are beyond a budget, and what they get. `words` of the codes: what events are to
    get."""
    beyond = {}
    for place, word, keys, now in _counted(tallies, words, codes, columns, times):
        got = tallies.spend(word, keys, now)
        if got != word:
            beyond[place] = got
    return beyond


def _counted(
    tallies: Tallies, words: Sequence[str], codes: Codes | Ints, columns: Columns, times: Ints
) -> Iterator[tuple[int, str, Keys, int]]:
    """(place, decision, keys, T) of each event whose decision is looked at."""
    concerned = np.array([word in tallies for word in words], np.bool_)
    places = np.flatnonzero(concerned[codes])
    if not len(places):
        return
    which, keys = codes[places].tolist(), keys_of_columns(tallies, columns, places)
    for place, code, own, now in zip(places.tolist(), which, keys, times[places].tolist(), strict=True):
        yield place, words[code], own, now


def keys_of_columns(tallies: Tallies, columns: Columns, places: Ints) -> list[Keys]:
    """As `Tallies.keys_of` for each of these events."""
    of = [columns.columns[field].take(places) for field in tallies.fields]
    keys = [Columns((column,), len(places)).keys(0).tolist() for column in of]
    return list(zip([0] * len(places), *keys, strict=True))


def overflowed(outcomes: list[Outcome], codes: Codes, beyond: dict[int, str]) -> tuple[list[Outcome], Codes]:
    """The same with what the events beyond their budgets got."""
    if not beyond:
        return outcomes, codes
    outcomes, codes = list(outcomes), codes.copy()
    known: dict[tuple[int, str], int] = {}
    for place, decision in beyond.items():
        code = int(codes[place])
        found = known.get((code, decision))
        if found is None:
            found = known[code, decision] = len(outcomes)
            own = outcomes[code]
            reason = reason_beyond(own.status, own.reason)
            # Nothing is left for who says the same.
            beside = decision if own.shadow_decision == own.decision else own.shadow_decision
            outcomes.append(msgspec.structs.replace(own, decision=decision, reason=reason, shadow_decision=beside))
        codes[place] = found
    used, again = np.unique(codes, return_inverse=True)
    return [outcomes[code] for code in used.tolist()], again.astype(np.uint16)


def reason_beyond(status: Status, reason: Reason) -> Reason:
    """Of an event that is beyond its budget: where it had no score, why that was is told on."""
    return Reason.BUDGET_SPENT if status is Status.DECIDED else reason


@dataclass(frozen=True, slots=True)
class Asked:
    """Rules that are asked event by event, of events that are not late. `first`: what those say that read no counter,
    as places in `ends`."""

    rules: RuleSet
    first: list[int]
    scores: list[float]
    features: list[list[float]] | None
    probabilities: list[float] | None

    @classmethod
    def of(cls, rules: RuleSet, first: Ints, rows: Rows) -> Asked:
        features = rows.features if rules.needs_features else None
        return cls(
            rules,
            first.tolist(),
            rows.scores.tolist(),
            features.tolist() if features is not None else None,
            rows.probabilities.tolist() if rows.probabilities is not None else None,
        )

    def place(self, at: int, values: Values) -> int:
        """As `RuleSet.decide`, or `decide_without` where there is no score."""
        rules, first, score = self.rules, self.first[at], self.scores[at]
        scored = score == score
        features = self.features[at] if self.features is not None else ()
        probability = self.probabilities[at] if self.probabilities is not None else None
        if probability is not None and probability != probability:
            probability = None
        for place in rules.counting:
            if place > first:
                break
            if not scored and place not in rules.without_score:
                continue
            if rules.rules[place][1](score, features, values, probability) is True:
                return place
        return first


def walk(
    tallies: Tallies,
    place_of: Callable[[int, Values], int],
    words: Sequence[str],
    columns: Columns,
    late: Bools | None,
    times: Ints,
) -> tuple[Ints, dict[int, str]]:
    """Of each event its place among the ends, whose decisions are `words`, and what `spend_block` gives. `place_of`
    those that are not late, by their number among these and their values; a late one has the last place."""
    n = len(columns)
    is_late = late.tolist() if late is not None else [False] * n
    keys, now = keys_of_columns(tallies, columns, np.arange(n)), times.tolist()
    found, beyond, at = [], {}, -1
    for place, values in enumerate(columns.rows()):
        own = keys[place]
        if is_late[place]:
            end = len(words) - 1
        else:
            at += 1
            end = place_of(at, [*values, *tallies.counts(own, now[place])])
        found.append(end)
        word = words[end]
        if word in tallies and (got := tallies.spend(word, own, now[place])) != word:
            beyond[place] = got
    return np.array(found, np.int64), beyond
