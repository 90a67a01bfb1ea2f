"""What of a training is measured and chosen while it runs, as its launcher keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from skyriver.train.spread.pays import About, Choice, Limits, Setting, Timed, tune

MOST_CUTS: Final = 16
"""Micro-batches, for want of memory."""


@dataclass(slots=True)
class Tuning:
    """`setting` is to be measured, until there is a `choice`."""

    limits: Limits
    setting: Setting = field(default_factory=lambda: Setting(1))
    choice: Choice | None = None
    _found: dict[Setting, Timed] = field(default_factory=dict)
    _about: About | None = None
    _failed: str = ""

    def __post_init__(self) -> None:
        self._go_on()

    @property
    def asks_for_pair(self) -> bool:
        """How long two take for a sum."""
        return not self._found and min(self.limits.most, self.limits.cores) > 1

    def measured(self, timed: Timed, about: About) -> None:
        if self._about is not None:  # who joined later did not measure all of it
            about = replace(about, pair_s=self._about.pair_s)
        self._about = about
        self._found[self.setting] = timed
        self._go_on()

    def failed(self, how: str) -> None:
        """One of so many workers cannot be."""
        workers = self.setting.workers
        self.limits = replace(self.limits, most=workers - 1)
        self._failed = f" ({workers} workers cannot be had: one {how} before its first step)"
        self._go_on()

    def cut(self) -> bool:
        """There was not enough memory for a pass: whether smaller ones are tried."""
        cuts = 2 * self.setting.workers * self.setting.cuts
        if self.limits.shards or cuts > MOST_CUTS:
            return False
        self.limits, self.choice, self._found = replace(self.limits, cuts=cuts), None, {}
        self._go_on()
        return True

    def _go_on(self) -> None:
        found = tune(self.limits, self._found, self._about)
        if isinstance(found, Choice):
            self.choice, self.setting = replace(found, why=found.why + self._failed), found.setting
        else:
            self.setting = found
