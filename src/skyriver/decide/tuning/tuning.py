"""Thresholds from costs: chosen on one part of the events, and measured on a later one that had no say in it.

What is told of the later part: what a day costs by the chosen thresholds, by those in use and by deciding one thing
always, and by how much the first two differ. The intervals (95%) are those of a bootstrap over days: days are drawn
with replacement, as many as there are, for what happens within a day hangs together. Those of the thresholds come from
searching again on days drawn of the first part.

Thresholds by which there are too many events of a decision in some period are not chosen. Rules may ask for more all
the same: those in use, or the chosen ones on a heavier day later; what is beyond capacity then counts as what the
decision's budget turns it into, else as if nobody had looked at it, as what is decided `otherwise`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from skyriver.core.errors import InvalidInput
from skyriver.core.jobs import Progress
from skyriver.core.units import DAY, format_duration
from skyriver.data.columns import Ints
from skyriver.decide.rules.tree import Tree
from skyriver.decide.tuning.candidates import candidates_of
from skyriver.decide.tuning.cells import Cells, Floats, Parts, Question, Survey, gather, survey
from skyriver.decide.tuning.search import Choice, Search

MOST_THRESHOLDS = 8
CANDIDATES = {1: 300, 2: 150, 3: 80, 4: 80}
"""Of each threshold, by how many there are; then half as many more near the best."""
FEWER_CANDIDATES = 48
NEAR = 3
"""Candidates to each side of the best one."""
LEAST_CANDIDATES = 12
SEARCHES = 100
"""On drawn days, for the thresholds' intervals."""
DRAWS = 2_000
"""Of days of the later part."""
SHARE = (2.5, 97.5)
LEAST_DRAWN = 6
"""Days."""
FEW_POSITIVES = 50
FEW_DAYS = 14
CURVE_POINTS = 60


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the events: those with times in [start, end)."""

    parts: Parts
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TunedThreshold:
    rule: str
    place: int
    """Of the rule."""
    in_use: float
    chosen: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Decided:
    """Of one decision: events and positives a day; which share of its events are positive, and of all positives its."""

    decision: str
    events: float
    positives: float
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Load:
    """Of a decision with a capacity: events in its busiest period, periods with too many, events beyond capacity."""

    decision: str
    most: int
    per_us: int
    busiest: int
    periods_over: int
    events_over: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What a day costs by it, with an interval."""

    name: str
    cost: float
    low: float
    high: float
    decided: tuple[Decided, ...]
    loads: tuple[Load, ...]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A day's cost at a value of one threshold, the others as chosen: in the part it is chosen on, and in the later
    one. `over`: events beyond capacity in the first."""

    value: float
    cost: float
    later: float
    over: int


@dataclass(frozen=True, slots=True)
class PartTold:
    start: int
    end: int
    days: int
    events: int
    positives: int


@dataclass(frozen=True, slots=True)
class Caution:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Tuning:
    verdict: str
    """`change`: the chosen thresholds cost less for sure, by the interval, of days that have their labels and of rules
    that are all looked at; else `keep`."""
    thresholds: tuple[TunedThreshold, ...]
    policies: tuple[Policy, ...]
    """Tuned, in use, then each decision always."""
    gain: float
    """By which a day costs less than by what is in use."""
    gain_low: float
    gain_high: float
    curves: tuple[tuple[CurvePoint, ...], ...]
    chosen_on: PartTold
    held_out: PartTold
    cautions: tuple[Caution, ...]


def tune(question: Question, choose: Span, held_out: Span, *, seed: int, progress: Progress) -> Tuning:
    """Raises InvalidInput: NO_THRESHOLDS, TOO_MANY_THRESHOLDS, ONE_CLASS, TOO_MANY_CASES, CAPACITY_TOO_SMALL."""
    _check(question)
    progress("survey", 0, 0)
    seen = survey(question, choose.parts)
    if seen.labels.all() or not seen.labels.any():
        raise InvalidInput(
            f"All {len(seen.labels):,} events that thresholds are chosen on have the label {int(seen.labels.all())}.",
            code="ONE_CLASS",
            next_action="Load labels that cover the whole period, or train with a longer test= to have more events that"
            " the model has not seen.",
        )
    progress("gather", 0, 0)
    candidates, cells = _cells(question, choose, seen)
    later = gather(question, candidates, held_out.parts, seen.fills, held_out.start, held_out.end)
    if later is None:
        raise _too_many_cases()
    searching = _Searching(question, candidates, cells, later, np.random.default_rng(seed), progress)
    return searching.tuning(choose, held_out, seen)


def _check(question: Question) -> None:
    count = len(question.thresholds)
    if not count:
        raise InvalidInput(
            "No rule compares the score with a number: there is no threshold to choose.",
            code="NO_THRESHOLDS",
            next_action='Write a rule such as "score >= 0.9".',
        )
    if count > MOST_THRESHOLDS:
        raise InvalidInput(
            f"The rules have {count} thresholds; at most {MOST_THRESHOLDS} are chosen together.",
            code="TOO_MANY_THRESHOLDS",
            next_action="Choose those of some rules: --rule NAME, as often as you like.",
        )


def _cells(question: Question, choose: Span, seen: Survey) -> tuple[list[Floats], Cells]:
    """With as many candidates as there is room for, and then with more of them around what looks best."""
    most = CANDIDATES.get(len(question.thresholds), FEWER_CANDIDATES)
    found = None
    while found is None and most >= LEAST_CANDIDATES:
        found = _cells_of(question, choose, seen, most, {})
        most = most if found is not None else most // 2
    if found is None:
        raise _too_many_cases()
    search, near = Search(question, *found), dict[Tree, list[tuple[float, float]]]()
    _, best = search.best(tuple(0 for _ in question.thresholds), np.ones(found[1].days), 2)
    for own, place, values in zip(question.thresholds, best, found[0], strict=True):
        ends = (max(0, place - NEAR), min(len(values) - 1, place + NEAR))
        near.setdefault(own.signal, []).append((float(values[ends[0]]), float(values[ends[1]])))
    return _cells_of(question, choose, seen, most, near) or found


def _cells_of(
    question: Question,
    choose: Span,
    seen: Survey,
    most: int,
    near: Mapping[Tree, Sequence[tuple[float, float]]],
) -> tuple[list[Floats], Cells] | None:
    by_signal = {}
    for signal, values in zip(question.signals, seen.signals, strict=True):
        in_use = [own.value for own in question.thresholds if own.signal == signal]
        by_signal[signal] = candidates_of(values, seen.labels, most, in_use, near.get(signal, ()))
    candidates = [by_signal[own.signal] for own in question.thresholds]
    cells = gather(question, candidates, choose.parts, seen.fills, choose.start, choose.end)
    return None if cells is None else (candidates, cells)


def _too_many_cases() -> InvalidInput:
    return InvalidInput(
        "The rules have so many conditions beside their thresholds that the events fall into too many cases.",
        code="TOO_MANY_CASES",
        next_action="Choose the thresholds of fewer rules: --rule NAME.",
    )


class _Searching:
    def __init__(
        self,
        question: Question,
        candidates: Sequence[Floats],
        cells: Cells,
        later: Cells,
        luck: np.random.Generator,
        progress: Progress,
    ) -> None:
        self._question, self._candidates, self._cells, self._later = question, candidates, cells, later
        self._luck, self._progress = luck, progress
        self._search = Search(question, candidates, cells)
        self._later_search = Search(question, candidates, later)
        self._in_use: Choice = tuple(
            int(np.searchsorted(own, threshold.value))
            for own, threshold in zip(candidates, question.thresholds, strict=True)
        )

    def tuning(self, choose: Span, held_out: Span, seen: Survey) -> Tuning:
        self._progress("search", 0, SEARCHES)
        worth, chosen = self._search.best(self._in_use, np.ones(self._cells.days), 2)
        if worth.over:
            raise self._too_small(chosen)
        later = self._later_search
        draws = self._luck.multinomial(self._later.days, [1 / self._later.days] * self._later.days, DRAWS)
        rules = self._question.rules
        left_out = " and ".join(repr(rules.ends[place][1]) for place in rules.counting)
        without = f", without {left_out}" if left_out else ""
        tuned = self._policy(f"tuned{without}", later.decide(chosen), draws)
        in_use = self._policy(f"in use{without}", later.decide(self._in_use), draws)
        always = [
            self._policy(f"always {decision}", np.full(len(self._later.events), place), draws)
            for place, decision in enumerate(self._question.decisions)
        ]
        gains = later.by_day(later.decide(self._in_use)) - later.by_day(later.decide(chosen))
        low, high = interval(gains, draws)
        unlabelled = _without_labels(held_out, self._later)
        sure = low > 0 and len(gains) >= LEAST_DRAWN and not unlabelled and not rules.counting
        without_labels = [*_without_labels(choose, self._cells), *unlabelled]
        found = Tuning(
            verdict="change" if sure else "keep",
            thresholds=self._thresholds(chosen),
            policies=(tuned, in_use, *always),
            gain=float(gains.mean()),
            gain_low=low,
            gain_high=high,
            curves=tuple(self._curve(chosen, place) for place in range(len(chosen))),
            chosen_on=_told(choose, self._cells),
            held_out=_told(held_out, self._later),
            cautions=(),
        )
        cautions = _cautions(found, self._edges(chosen), seen.missing, without_labels, bool(rules.counting))
        return replace(found, cautions=tuple(cautions))

    def _policy(self, name: str, decided: Ints, draws: Ints) -> Policy:
        by_day = self._later_search.by_day(decided)
        low, high = interval(by_day, draws)
        low = max(low, float(by_day.min()))  # costs lean upwards: that all days cost more than the mean is unlikely
        return Policy(
            name,
            float(by_day.mean()),
            low,
            high,
            tuple(self._decided(decided, place) for place in range(len(self._question.decisions))),
            self._loads(decided),
        )

    def _decided(self, decided: Ints, place: int) -> Decided:
        cells = self._later
        own = decided == place
        events, positives = int(cells.events[own].sum()), int(cells.positives[own].sum())
        every = int(cells.positives.sum())
        return Decided(
            self._question.decisions[place],
            events / cells.days,
            positives / cells.days,
            positives / events if events else None,
            positives / every if every else None,
        )

    def _loads(self, decided: Ints) -> tuple[Load, ...]:
        found = []
        for own, (held, most) in zip(self._question.capacity, self._later_search.held(decided), strict=True):
            over = np.maximum(0, held - most)
            busiest, periods = int(held.max(initial=0)), int(np.count_nonzero(over))
            found.append(Load(own.decision, most, own.per_us, busiest, periods, int(over.sum())))
        return tuple(found)

    def _thresholds(self, chosen: Choice) -> tuple[TunedThreshold, ...]:
        """With intervals: the search again on drawn days, for more than two one threshold at a time."""
        days, together = self._cells.days, 2 if len(chosen) <= 2 else 1
        drawn = np.empty((SEARCHES, len(chosen)))
        for number in range(SEARCHES):
            weights = self._luck.multinomial(days, [1 / days] * days).astype(np.float64)
            drawn[number] = self._search.values(self._search.best(chosen, weights, together)[1])
            self._progress("search", number + 1, SEARCHES)
        low, high = np.percentile(drawn, SHARE, axis=0, method="inverted_cdf")
        return tuple(
            TunedThreshold(
                self._question.rules.ends[own.rule][1], own.rule, own.value, value, float(low[n]), float(high[n])
            )
            for n, (own, value) in enumerate(zip(self._question.thresholds, self._search.values(chosen), strict=True))
        )

    def _curve(self, chosen: Choice, place: int) -> tuple[CurvePoint, ...]:
        costs, over = self._search.curve(chosen, place, np.full(self._cells.days, 1 / self._cells.days))
        later, _ = self._later_search.curve(chosen, place, np.full(self._later.days, 1 / self._later.days))
        count = len(costs)
        shown = set(np.linspace(0, count - 1, min(count, CURVE_POINTS)).astype(int).tolist())
        shown |= {chosen[place], self._in_use[place]}
        values = self._candidates[place]
        return tuple(
            CurvePoint(float(values[n]), float(costs[n]), float(later[n]), int(over[n])) for n in sorted(shown)
        )

    def _edges(self, chosen: Choice) -> list[str]:
        """Rules of which a threshold lies beyond all events."""
        own = zip(self._question.thresholds, chosen, self._candidates, strict=True)
        return [
            f"the threshold of {self._question.rules.ends[threshold.rule][1]!r} lies"
            f" {'below' if place == 0 else 'above'} all events that it was chosen on"
            for threshold, place, values in own
            if place in (0, len(values) - 1)
        ]

    def _too_small(self, chosen: Choice) -> InvalidInput:
        loads = [
            f"{own.decision} gets up to {int(held.max(initial=0)):,} events in {format_duration(own.per_us)}, and"
            f" {most:,} can be seen"
            for own, (held, most) in zip(
                self._question.capacity, self._search.held(self._search.decide(chosen)), strict=True
            )
            if held.max(initial=0) > most
        ]
        return InvalidInput(
            f"No thresholds keep to the capacity: {'; '.join(loads)}.",
            code="CAPACITY_TOO_SMALL",
            next_action="Rules whose thresholds stay as they are send too many: make them stricter, or give more.",
        )


def interval(by_day: Floats, draws: Ints) -> tuple[float, float]:
    """Of the mean of the days, 95%. `draws` [n, days]: how often each day was drawn. By each draw's distance from the
    mean in its own standard errors (bootstrap-t), for what days cost is skewed: its largest losses are rare. Of fewer
    than LEAST_DRAWN days, of which draws say nothing, the range."""
    days, mean = len(by_day), float(by_day.mean())
    if days < LEAST_DRAWN or not np.ptp(by_day):
        return float(by_day.min()), float(by_day.max())
    means = draws @ by_day / days
    spread = np.sqrt(np.maximum(0.0, draws @ by_day**2 / days - means**2))
    drawn = spread > 1e-9 * np.abs(by_day).max()
    high, low = np.percentile((means[drawn] - mean) / spread[drawn], SHARE)
    least = 0.0 if by_day.min() >= 0 else -np.inf  # what never is below 0 is not so in the mean
    return max(least, mean - float(low * by_day.std())), mean - float(high * by_day.std())


def _told(span: Span, cells: Cells) -> PartTold:
    return PartTold(span.start, span.end, cells.days, int(cells.events.sum()), int(cells.positives.sum()))


def _without_labels(span: Span, cells: Cells) -> list[str]:
    """Days of which no event is positive where ten would be by the share of the other days. Where positives come one by
    one that is chance once in 20,000 days; else their labels have not come."""
    events, positives = cells.events.sum(axis=0), cells.positives.sum(axis=0)
    empty = positives == 0
    share = positives.sum() / max(1, int(events[~empty].sum()))
    days = np.flatnonzero(empty & (events * share >= 10))
    return [_date(span.start + int(day) * DAY) for day in days]


def _date(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d}"


def _no_sure_gain(found: Tuning) -> str:
    """Whether there is too little to say anything, or enough to say that nothing is gained; and what to do then."""
    few = min(found.chosen_on.positives, found.held_out.positives) < FEW_POSITIVES
    few = few or min(found.chosen_on.days, found.held_out.days) < FEW_DAYS
    includes = found.gain_low <= 0 < found.gain_high
    why = "The interval of the gain includes 0" if includes else "That is no gain"
    if found.gain_low > 0:
        why = f"{found.held_out.days} days prove nothing"
    if not few:
        return f"{why}: keep what you have."
    return (
        f"{why}, and there is too little to prove one: keep what you have, and tune again once each part has"
        f" {FEW_DAYS} days and {FEW_POSITIVES} positives. `skyriver table load` brings older events and labels, new"
        " ones come by themselves, and --hold-out moves days from one part to the other."
    )


def _cautions(
    found: Tuning, edges: Sequence[str], missing: int, without_labels: Sequence[str], counting: bool
) -> Iterator[Caution]:
    """`counting`: rules were left out because they read counters."""
    tuned, in_use, *always = found.policies
    if without_labels:
        days = ", ".join(without_labels[:5]) + (", ..." if len(without_labels) > 5 else "")
        yield Caution(
            "DAYS_WITHOUT_LABELS",
            f"Of {days} there is no positive, where other days have many: if their labels have not come, the"
            " costs above are wrong. Send or load them, and tune again.",
        )
    for part, told in ((found.chosen_on, "they are chosen on"), (found.held_out, "they are measured on")):
        if part.positives < FEW_POSITIVES:
            text = f"There are {part.positives} positives in the part that {told}, and {FEW_POSITIVES} are few"
            yield Caution("FEW_POSITIVES", f"{text}: the result hangs on single ones.")
        if part.days < FEW_DAYS:
            text = f"There are {part.days} days in the part that {told}, and {FEW_DAYS} are few"
            yield Caution("FEW_DAYS", f"{text}: intervals say little.")
    if found.verdict == "keep" and not without_labels and not counting:
        yield Caution("NO_SURE_GAIN", _no_sure_gain(found))
    for policy in (in_use, tuned):
        for load in policy.loads:
            if load.periods_over:
                yield Caution(
                    "OVER_CAPACITY",
                    f"By the rules {policy.name} {load.events_over:,} events are beyond the capacity of {load.decision}"
                    f" in {load.periods_over} periods of the held-out part, up to {load.busiest:,} in"
                    f" {format_duration(load.per_us)}; they count as what is decided then.",
                )
    for policy in always:
        if policy.cost < tuned.cost:
            yield Caution("TRIVIAL_IS_BETTER", f"{policy.name} costs less than the tuned rules.")
    if edges:
        yield Caution("AT_THE_EDGE", f"{'; '.join(edges)}.".capitalize())
    if missing:
        yield Caution(
            "MISSING_COSTS", f"Of {missing:,} events a cost is missing: the mean of the others stands for it."
        )
