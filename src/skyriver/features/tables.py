"""The state of keys: what is kept of each one, where it stands in its row, and what that costs.

The laws of windows and trails are told in `skyriver.features.plan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from skyriver.core.expr import Aggregate
from skyriver.features.checks import GRID_BITS, OF_LABELS, pane_us

# Places in a state row, before the windows.
STATE_KEY, STATE_REFERENCES, STATE_WINDOWS = 0, 1, 2
NODE_BYTES = 56
"""Of a node of a trail: six words, and its places in the index, see `layout`."""
SQUARES = 3
"""Words of a sum of squares."""


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """A summed field: x is held as round(x * 2^shift). `column` is its place among `FeaturePlan.columns`."""

    field: str
    column: int
    shift: int
    nullable: bool

    @property
    def limit(self) -> float:
        """The largest absolute value that fits the grid; a larger one is refused at the border."""
        return math.ldexp(1.0, GRID_BITS - self.shift)


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A label that is aggregated. `index` is its place in the stream's labels; its grid is 2^-40."""

    name: str
    index: int
    delay_us: int


@dataclass(frozen=True, slots=True)
class Sum:
    """A running sum in a state row: its high and low words at `at` and `at + 1`. `which` is the place of the value
    or label; `seen`, if not -1, the place of the count of values that were not missing; `squares`, if not -1, that of
    the sum of their squares: three words, highest first, for a square has 124 bits and none is rounded."""

    of_label: bool
    which: int
    at: int
    seen: int
    squares: int

    @property
    def words(self) -> int:
        return 2 + (self.seen >= 0) + SQUARES * (self.squares >= 0)


Shape = tuple[tuple[bool, int, bool, bool], ...]
"""Of each sum of a window: whether it is of a label, its place, whether it counts what is not missing, whether it sums
squares, too."""


@dataclass(frozen=True, slots=True)
class Window:
    """The events of one key with times in (T - delay - over, T - delay]. `count` is the place of their number."""

    over_us: int
    delay_us: int
    count: int
    sums: tuple[Sum, ...]

    @property
    def edge(self) -> int:
        return self.delay_us + self.over_us

    @property
    def shape(self) -> Shape:
        """What is summed; windows of one shape have the same places behind `count`."""
        return tuple((s.of_label, s.which, s.seen >= 0, s.squares >= 0) for s in self.sums)

    @property
    def words(self) -> int:
        return 1 + sum(s.words for s in self.sums)

    def find(self, of_label: bool, which: int) -> Sum:
        return next(s for s in self.sums if s.of_label == of_label and s.which == which)


TrailKind = Literal["minimum", "maximum", "distinct", "decayed_mean"]


@dataclass(frozen=True, slots=True)
class Trail:
    """Nodes of one key in the order of time. At `at` in the state row stands the newest one, then, of each span from
    the shortest, the oldest one inside it (of `distinct` also their number). Times and spans are in panes.

    minimum, maximum: a value leaves when a newer one is as small or large, so the oldest inside a span is its
    minimum or maximum (a monotonic deque, shared by all spans); with a `limit` only the newest so many values count.
    distinct: one node a different value, moved to the end when the value comes again; the `limit` newest ones stay.
    decayed_mean: one node a pane, with the exact sum and number of its values.
    """

    kind: TrailKind
    source: int
    """Place among `FeaturePlan.columns` (minimum, maximum), `codes` (distinct) or `values` (decayed_mean)."""
    pane_us: int
    limit: int
    """0: none."""
    spans: tuple[int, ...]
    at: int

    @property
    def words(self) -> int:
        return 1 + len(self.spans) * (2 if self.kind == "distinct" else 1)

    @property
    def nodes(self) -> int:
        """The most that a key may have."""
        return self.limit or self.spans[-1]

    def oldest(self, span: int) -> int:
        """Place, in the state row, of the oldest node inside `span`; of `distinct` the number of nodes is behind it."""
        return self.at + 1 + self.spans.index(span) * (2 if self.kind == "distinct" else 1)


@dataclass(frozen=True, slots=True)
class Last:
    """The newest value of a column: its time at `at` and itself, as float64, at `at + 1`."""

    column: int
    at: int


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The state by one key column: rows of `stride` words (key, references, windows, trails, last values...)."""

    field: str
    windows: tuple[Window, ...]
    trails: tuple[Trail, ...]
    lasts: tuple[Last, ...]
    since: int
    """Place of the time of the newest event; -1: not asked for."""
    last_edge: int
    """After it an event is in no window, trail or last value of its key."""
    stride: int

    @property
    def least_bytes(self) -> int:
        """Memory of a key: its row in the table, its four places in the index."""
        return 8 * self.stride + 16

    @property
    def most_bytes(self) -> int:
        """With trails as long as they can get."""
        return self.least_bytes + NODE_BYTES * sum(t.nodes for t in self.trails)

    def find(self, over_us: int, delay_us: int) -> Window:
        return next(w for w in self.windows if (w.over_us, w.delay_us) == (over_us, delay_us))


@dataclass(frozen=True, slots=True)
class Places:
    """Where the columns and labels of aggregates are found."""

    columns: tuple[str, ...]
    codes: tuple[str, ...]
    values: tuple[ValueColumn, ...]
    labels: tuple[LabelColumn, ...]

    def value(self, name: str) -> int:
        return next(place for place, v in enumerate(self.values) if v.field == name)

    def source(self, kind: TrailKind, column: str) -> int:
        match kind:
            case "distinct":
                return self.codes.index(column)
            case "decayed_mean":
                return self.value(column)
            case _:
                return self.columns.index(column)

    def label(self, name: str) -> int:
        return next(place for place, label in enumerate(self.labels) if label.name == name)


def key_table(by: str, aggregates: tuple[Aggregate, ...], places: Places) -> KeyTable:
    mine = tuple(a for a in aggregates if a.by == by)
    windows = _windows([a for a in mine if a.kind in OF_LABELS], places)
    at = STATE_WINDOWS + sum(w.words for w in windows)
    trails = []
    for (kind, column, pane, limit), spans in _trails(mine).items():
        trails.append(Trail(kind, places.source(kind, column), pane, limit, tuple(sorted(spans)), at))
        at += trails[-1].words
    lasts = []
    for column in dict.fromkeys(a.column for a in mine if a.kind == "last"):
        lasts.append(Last(places.columns.index(column), at))
        at += 2
    since = at if any(a.kind == "since" for a in mine) else -1
    last_edge = max(a.delay_us + pane_us(a) * span_of(a) for a in mine)
    return KeyTable(by, windows, tuple(trails), tuple(lasts), since, last_edge, at + (since >= 0))


def _windows(aggregates: list[Aggregate], places: Places) -> tuple[Window, ...]:
    """Aggregates with the same key, window and delay share a window, those with the same column too a sum."""
    found: dict[tuple[int, int], list[Aggregate]] = {}
    for aggregate in aggregates:
        found.setdefault((aggregate.delay_us, aggregate.over_us), []).append(aggregate)
    # Windows that sum the same stand side by side: the kernel has one piece of code for them.
    summed = {
        span: {(a.column, a.label): any(b.kind == "std" for b in same if (b.column, b.label) == (a.column, a.label))
               for a in same if a.kind != "count"}
        for span, same in found.items()
    }  # fmt: skip
    at = STATE_WINDOWS
    windows: list[Window] = []
    for delay_us, over_us in sorted(found, key=lambda span: (span[0], sorted(summed[span].items()), span[1])):
        count = at
        at += 1
        sums: list[Sum] = []
        for (column, label), squared in sorted(summed[delay_us, over_us].items()):
            which = places.label(label) if label else places.value(column)
            seen = at + 2 if column and places.values[which].nullable else -1
            squares = at + 2 + (seen >= 0) if squared else -1
            sums.append(Sum(bool(label), which, at, seen, squares))
            at += sums[-1].words
        windows.append(Window(over_us, delay_us, count, tuple(sums)))
    return tuple(windows)


def trail_of(aggregate: Aggregate) -> tuple[TrailKind, str, int, int] | None:
    """Kind, column, pane and limit: what is alike shares a trail."""
    match aggregate.kind:
        case "minimum" | "maximum" | "distinct" | "decayed_mean":
            return aggregate.kind, aggregate.column, pane_us(aggregate), aggregate.max_events
        case _:
            return None


def span_of(aggregate: Aggregate) -> int:
    """The window in panes."""
    return -(-aggregate.over_us // pane_us(aggregate))


def _trails(aggregates: tuple[Aggregate, ...]) -> dict[tuple[TrailKind, str, int, int], set[int]]:
    found: dict[tuple[TrailKind, str, int, int], set[int]] = {}
    for aggregate in aggregates:
        trail = trail_of(aggregate)
        if trail is not None:
            found.setdefault(trail, set()).add(span_of(aggregate))
    return found


@dataclass(frozen=True, slots=True)
class TextColumn:
    """1 where the field is `text`, 0 where it is another one, NaN where it is missing. Where `text` is None, 0 for any
    text."""

    field: str
    text: str | None

    @property
    def name(self) -> str:
        """Among the columns of a plan; no field can have the name of a comparison."""
        return self.field if self.text is None else f"{self.field}={self.text}"
