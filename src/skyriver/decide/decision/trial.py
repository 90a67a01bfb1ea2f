"""Rules that are tried beside those that decide: evaluated on the same events, and taken for a share of the keys.

What the other rules said stands in each record, so that both are compared on all events, whoever decided. Counted by
the records of the log alone, since these two rule sets are compared with this share: a restart knows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skyriver.data.columns import Bools, Ints
from skyriver.decide.log.checkpoint import SavedTrial
from skyriver.decide.log.records import ControlRecord, DecisionRecord, TrialInUse
from skyriver.decide.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from skyriver.decide.decision.deciding import Deciding
    from skyriver.decide.log.blocks import DecisionBlock

SALT = 1 << 40
"""Versions of rules take other keys than the versions of models with their number do."""
LIVE, TRIED = "live", "trial"
Words = tuple[str, str]
"""What the rules that are released say of an event, and what those that are tried do."""


@dataclass(frozen=True, slots=True)
class Trial:
    """`percent` of the keys are decided by these rules; 0: none, they are a shadow."""

    rules: RuleSet
    number: int
    percent: float

    @property
    def salt(self) -> int:
        return SALT + self.number

    def in_use(self) -> TrialInUse:
        return TrialInUse(self.number, self.percent, self.rules.texts, self.rules.digest)


class End(NamedTuple):
    """What an event can come to: the decision, the rule that fired, whose rules they are, and what the others say. A
    tuple, for it is taken apart for each event."""

    decision: str
    rule: str
    rules_digest: str
    shadow_decision: str = ""
    shadow_rules: str = ""


class Ends:
    """All ends that events can come to by these rules, in one order; the last one is that of a late event, which no
    rule sees. Without a trial they are those of the rules themselves."""

    def __init__(self, rules: RuleSet | None, trial: Trial | None) -> None:
        self.all: tuple[End, ...] = (End("", "", ""),)
        if rules is None:
            return
        self.all = tuple(End(decision, rule, rules.digest) for decision, rule in rules.ends)
        if trial is None:
            return
        self.all = (*_pairs(rules, trial.rules), *_pairs(trial.rules, rules), self.all[-1])
        self._live_words, self._live_width = _words(rules)
        self._tried_words, self._tried_width = _words(trial.rules)
        self._first_tried = len(rules.ends) * self._tried_width

    def of(self, live: int, tried: int, taken: bool) -> int:
        """The place of what comes of the places in `ends` of both rule sets, where those that are tried are `taken` or
        not."""
        if taken:
            return self._first_tried + tried * self._live_width + self._live_words[live]
        return live * self._tried_width + self._tried_words[tried]

    def of_columns(self, live: Ints, tried: Ints, taken: Bools) -> Ints:
        """As `of` for each of many events."""
        by_tried = self._first_tried + tried * self._live_width + np.array(self._live_words)[live]
        by_live = live * self._tried_width + np.array(self._tried_words)[tried]
        found: Ints = np.where(taken, by_tried, by_live)
        return found


def _pairs(own: RuleSet, other: RuleSet) -> Iterator[End]:
    """Of each end of the one that decides, by each word of the other."""
    words = dict.fromkeys(decision for decision, _ in other.ends)
    for decision, rule in own.ends:
        for word in words:
            yield End(decision, rule, own.digest, word, other.digest)


def _words(rules: RuleSet) -> tuple[tuple[int, ...], int]:
    """Of each of its ends, which of its different words it is; and how many of these there are."""
    words = list(dict.fromkeys(decision for decision, _ in rules.ends))
    return tuple(words.index(decision) for decision, _ in rules.ends), len(words)


@dataclass(slots=True)
class TrialStats:
    """Of two rule sets, by their digests. `said`: by who decided, how often both came to which words. Of an event
    beyond its budget, that is what the budget left: for both, where they said the same."""

    number: int
    percent: float
    live_rules: str
    trial_rules: str
    said: dict[str, Counter[Words]] = field(default_factory=lambda: {LIVE: Counter(), TRIED: Counter()})

    def matches(self, other: TrialStats) -> bool:
        return _identity(self) == _identity(other)

    def add(self, decision: str, rules_digest: str, shadow_decision: str, shadow_rules: str, count: int = 1) -> None:
        if (rules_digest, shadow_rules) == (self.live_rules, self.trial_rules):
            self.said[LIVE][decision, shadow_decision] += count
        elif (rules_digest, shadow_rules) == (self.trial_rules, self.live_rules):
            self.said[TRIED][shadow_decision, decision] += count

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "percent": self.percent,
            "live_rules": self.live_rules,
            "trial_rules": self.trial_rules,
            "said": {
                who: [[live, tried, count] for (live, tried), count in sorted(said.items())]
                for who, said in self.said.items()
            },
        }


def _identity(stats: TrialStats) -> tuple[object, ...]:
    return stats.number, stats.percent, stats.live_rules, stats.trial_rules


class Trials:
    """Counts for the trial that goes on, if one does. One thread."""

    def __init__(self, saved: SavedTrial | None = None) -> None:
        self.stats: TrialStats | None = None
        if saved is not None:
            said: dict[str, Counter[Words]] = {
                who: Counter({(live, tried): count for live, tried, count in rows}) for who, rows in saved.said.items()
            }
            self.stats = TrialStats(saved.number, saved.percent, saved.live_rules, saved.trial_rules, said)

    def use(self, deciding: Deciding) -> None:
        """From now on; a trial that goes on as it was goes on counting."""
        trial = deciding.trial
        if trial is None or deciding.rules is None:
            self._change(None)
        else:
            self._change(TrialStats(trial.number, trial.percent, deciding.rules.digest, trial.rules.digest))

    def follow(self, control: ControlRecord) -> None:
        """The same, as the log tells it."""
        trial = control.trial
        if trial is None:
            self._change(None)
        else:
            self._change(TrialStats(trial.number, trial.percent, control.rules_digest, trial.rules_digest))

    def _change(self, wanted: TrialStats | None) -> None:
        if wanted is None or self.stats is None or not self.stats.matches(wanted):
            self.stats = wanted

    def note(self, records: Sequence[DecisionRecord]) -> None:
        if self.stats is None:
            return
        for record in records:
            if record.shadow_rules:
                self.stats.add(record.decision, record.rules_digest, record.shadow_decision, record.shadow_rules)

    def note_block(self, block: DecisionBlock) -> None:
        if self.stats is None:
            return
        for own, count in block.counts():
            if own.shadow_rules:
                self.stats.add(own.decision, own.rules_digest, own.shadow_decision, own.shadow_rules, count)

    def saved(self) -> SavedTrial | None:
        """A copy, for a checkpoint."""
        stats = self.stats
        if stats is None:
            return None
        said = {who: [(*words, count) for words, count in counts.items()] for who, counts in stats.said.items()}
        return SavedTrial(stats.number, stats.percent, stats.live_rules, stats.trial_rules, said)

    def to_json(self) -> dict[str, Any] | None:
        return self.stats.to_json() if self.stats is not None else None


def rules_in_use(deciding: Deciding, trials: Trials) -> dict[str, Any]:
    """Which version of the rules decides, and what the one that is tried said."""
    rules = deciding.rules
    return {
        "version": deciding.rules_version,
        "digest": rules.digest if rules is not None else "",
        "trial": trials.to_json(),
    }
