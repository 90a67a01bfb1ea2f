"""How many decisions there were of late: what budgets and counters are held against.

Theory of operation: a tally is of one decision, one window and one field. Of each value of the field it holds the
effective times of the last events that got the decision, as many as its budgets and counters ask for; who asks at T is
told how many of them lie in (T - window, T]. An event counts with the decision that it got in the end, whoever made it:
a rule, the fallback, the overflow of a budget; a late one too, at the T of its place in the log. So what a tally says
at any place of the log comes from the log alone, whether events were decided one by one or in blocks.

Memory: of a value some 300 bytes and 8 to 16 for each time (`most` times at most, up to twice as many until they are
let go); a value whose last time is past the window is forgotten when the next event is counted. A checkpoint has them
all; where what is declared changes, those of the same decision, window and field go on.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from skyriver.core.spec import BudgetSpec, CounterSpec, StreamSpec
from skyriver.core.units import format_duration
from skyriver.data.keys import key_of
from skyriver.decide.log.checkpoint import SavedTally
from skyriver.decide.log.records import ControlRecord, DecisionRecord

if TYPE_CHECKING:
    from skyriver.decide.rules.ruleset import RuleSet

Kind = tuple[str, int, str]
"""(decision, window in microseconds, field)."""
Keys = tuple[int, ...]
"""Of an event: the key of its value of each field that tallies are by."""


class Tally:
    """Times come in order."""

    def __init__(self, window_us: int) -> None:
        self.window_us = window_us
        self.most = 0
        self._times: OrderedDict[int, array[int]] = OrderedDict()
        """By key, the one that was counted last at the end."""

    def __len__(self) -> int:
        """Values that it holds times of."""
        return len(self._times)

    def count(self, key: int, now: int) -> int:
        """At most `most`."""
        times = self._times.get(key)
        return min(self.most, len(times) - bisect_right(times, now - self.window_us)) if times is not None else 0

    def add(self, key: int, now: int) -> None:
        if not self.most:
            return
        gone, of = now - self.window_us, self._times
        times = of.get(key)
        if times is None:
            times = of[key] = array("q")
        else:
            of.move_to_end(key)
            past = max(bisect_right(times, gone), len(times) + 1 - self.most)
            if 2 * past > len(times):
                del times[:past]
        times.append(now)
        while next(iter(of.values()))[-1] <= gone:
            of.popitem(last=False)

    def forget(self, key: int) -> None:
        self._times.pop(key, None)

    def saved(self, kind: Kind) -> SavedTally:
        counts = array("I", map(len, self._times.values()))
        times = b"".join(own.tobytes() for own in self._times.values())
        return SavedTally(*kind, array("q", self._times).tobytes(), counts.tobytes(), times)

    def restore(self, saved: SavedTally) -> None:
        keys, counts, times = array("q", saved.keys), array("I", saved.counts), array("q", saved.times)
        at = 0
        for key, count in zip(keys, counts, strict=True):
            self._times[key] = times[at : at + count]
            at += count


class Tallies:
    """All tallies of a stream, and what its decisions are held to now. One thread, but for `to_json`."""

    def __init__(self, stream: StreamSpec, saved: Sequence[SavedTally] = ()) -> None:
        self._places = {own.name: place for place, own in enumerate(stream.fields)}
        self._tallies: dict[Kind, Tally] = {}
        for own in saved:
            tally = self._tallies[own.decision, own.window_us, own.by] = Tally(own.window_us)
            tally.restore(own)
        self.fields: tuple[int, ...] = ()
        """Places of the fields that tallies are by: `Keys` are of these."""
        self._budgets: dict[str, list[tuple[BudgetSpec, Tally, int]]] = {}
        self._counters: list[tuple[Tally, int, int]] = []
        self._of: dict[str, list[tuple[Tally, int]]] = {}

    def __contains__(self, decision: str) -> bool:
        """Whether an event with this decision is looked at."""
        return decision in self._of

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def reach(self) -> int:
        """How far back they look, microseconds."""
        return max((tally.window_us for tally in self._tallies.values()), default=0)

    def use(self, budgets: Iterable[BudgetSpec], counters: Iterable[CounterSpec]) -> None:
        """From the next event on. What is new counts from here on."""
        budgets, counters = list(budgets), list(counters)
        asked = [((own.decision, own.per_us, own.by), own.most) for own in budgets]
        asked += [((own.decision, own.over_us, own.by), own.most) for own in counters]
        wanted: dict[Kind, Tally] = {}
        for kind, most in asked:
            if kind not in wanted:
                wanted[kind] = self._tallies.get(kind, Tally(kind[1]))
                wanted[kind].most = 0
            wanted[kind].most = max(wanted[kind].most, most)
        self._tallies = wanted
        names = list(dict.fromkeys(kind[2] for kind in wanted if kind[2]))
        self.fields = tuple(self._places[name] for name in names)
        at = {name: place for place, name in enumerate(names, 1)} | {"": 0}
        of: dict[str, list[tuple[Tally, int]]] = {}
        for (decision, _, by), tally in wanted.items():
            of.setdefault(decision, []).append((tally, at[by]))
        held: dict[str, list[tuple[BudgetSpec, Tally, int]]] = {}
        for own in budgets:
            tally = wanted[own.decision, own.per_us, own.by]
            held.setdefault(own.decision, []).append((own, tally, at[own.by]))
        self._of, self._budgets = of, held  # whole, for another thread may be telling what they say (`to_json`)
        self._counters = [(wanted[c.decision, c.over_us, c.by], at[c.by], c.most) for c in counters]

    def follow(self, control: ControlRecord) -> None:
        """The same, as the log tells it."""
        self.use(map(BudgetSpec.model_validate, control.budgets), map(CounterSpec.model_validate, control.counters))

    def keys_of(self, values: Sequence[Any]) -> Keys:
        return (0, *(key_of(values[place]) for place in self.fields))

    def counts(self, keys: Keys, now: int) -> list[int]:
        """What counters say of an event, in their order."""
        return [min(most, tally.count(keys[at], now)) for tally, at, most in self._counters]

    def spend(self, decision: str, keys: Keys, now: int) -> str:
        """The decision that an event gets that is to get this one; it is counted."""
        while (overflow := self._overflow(decision, keys, now)) is not None:
            decision = overflow
        self.note(decision, keys, now)
        return decision

    def _overflow(self, decision: str, keys: Keys, now: int) -> str | None:
        """None: there is something left of all its budgets."""
        for own, tally, at in self._budgets.get(decision, ()):
            if tally.count(keys[at], now) >= own.most:
                return own.overflow
        return None

    def note(self, decision: str, keys: Keys, now: int) -> None:
        """An event has got this decision."""
        for tally, at in self._of.get(decision, ()):
            tally.add(keys[at], now)

    def forget(self, field: str, value: int | str) -> None:
        """What was counted of this value of a field; what is counted of all stays."""
        for (_, _, by), tally in self._tallies.items():
            if by == field:
                tally.forget(key_of(value))

    def saved(self) -> tuple[SavedTally, ...]:
        return tuple(tally.saved(kind) for kind, tally in self._tallies.items())

    def to_json(self, now: int) -> list[dict[str, Any]]:
        """Of each budget, how much of it is spent; of one by a field, how many of its values have spent some."""
        return [
            {
                "decision": own.decision,
                "most": own.most,
                "per": format_duration(own.per_us),
                "overflow": own.overflow,
                "by": own.by,
                "spent": tally.count(0, now) if not own.by else None,
                "keys": len(tally) if own.by else None,
            }
            for budgets in self._budgets.values()
            for own, tally, _ in budgets
        ]


def budgets_beyond(rules: RuleSet, record: DecisionRecord) -> list[dict[str, Any]]:
    """Those that an event with this record may have been beyond: from what the rules said to what it got. Where a
    decision has several with one overflow, one of them was spent."""

    def between(word: str) -> list[BudgetSpec]:
        found = []
        for own in rules.budgets:
            if own.decision == word:
                rest = between(own.overflow) if own.overflow != record.decision else []
                if rest or own.overflow == record.decision:
                    found += [own, *rest]
        return found

    said = next((decision for decision, name in rules.ends if name == record.rule), rules.otherwise)
    return [
        {
            "decision": own.decision,
            "most": own.most,
            "per": format_duration(own.per_us),
            "by": own.by,
            "overflow": own.overflow,
        }
        for own in dict.fromkeys(between(said))
    ]
