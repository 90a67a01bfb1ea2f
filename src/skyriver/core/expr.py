"""Feature expressions: what a feature is, as data.

A *node* is one frozen pydantic model (it travels in the application's specification); an `Expression`
wraps a node with Python's operators, so that `payments.at.hour() <= 6` builds a `Binary` node.

Values are float64 while a feature is computed, rounded to float32 once at the end; true is 1, false 0.
**Missing propagates**: an operation with a missing operand is missing, as is a division by zero;
`is_missing()` tells. Calendar parts are of the event's own time, in the stream's zone (UTC unless named).
Aggregates run over effective time, `(T - over, T]`, the current event included (DESIGN 6.1); over a label
they run over the subjects in `(T - delay - over, T - delay]` (DESIGN 6.6). Empty means and deviations are 0; empty
minima, maxima and last values are missing (DESIGN 6.3). A lookup is what a reference's row says at T: of the rows of
that id that stand before the event in the log, the one with the newest time up to T.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from skyriver.core.errors import InvalidInput
from skyriver.core.units import format_duration, parse_duration


class _Node(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Node):
    """A field of the event or row itself."""

    op: Literal["column"] = "column"
    name: str


class Same(_Node):
    """Whether a text field has this very text: 1 or 0, missing where it is missing."""

    op: Literal["same"] = "same"
    column: str
    text: str


class Constant(_Node):
    op: Literal["constant"] = "constant"
    value: float


class Calendar(_Node):
    """`hour` 0-23, `weekday` 0 (Monday) - 6, `day` 1-31, `month` 1-12, `minute` 0-59, of a time field."""

    op: Literal["calendar"] = "calendar"
    part: Literal["minute", "hour", "weekday", "day", "month"]
    of: Column


BinaryOp = Literal["+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!=", "and", "or"]
AggregateOp = Literal["count", "sum", "mean", "std", "minimum", "maximum", "last", "since", "distinct", "decayed_mean"]
MAX_EVENTS = 1_000
"""Of one key, unless a minimum, maximum or distinct count says otherwise; it may say at most:"""
MOST_EVENTS = 65_536
MOST_SPAN_US = 100 * 366 * 86_400 * 1_000_000
"""A window with its delay is at most about a hundred years, so that T - edge stays far inside 64 bits."""


class Binary(_Node):
    op: Literal["binary"] = "binary"
    kind: BinaryOp
    left: Node
    right: Node


class Unary(_Node):
    op: Literal["unary"] = "unary"
    kind: Literal["not", "neg", "is_missing"]
    of: Node


class Aggregate(_Node):
    """`kind` over the events of one key in a window.

    `column` is the field aggregated ("" with a label, for a plain count, and for `since`); `label` the label's
    name ("" without); `delay_us` is the label's delay (0 without). A count without label counts events,
    with one it counts subjects; all others leave out missing values. `last` and `since` are about the events before
    the current one.
    """

    op: Literal["aggregate"] = "aggregate"
    kind: AggregateOp
    column: str = ""
    label: str = ""
    by: str
    over_us: int = Field(gt=0)
    delay_us: int = Field(default=0, ge=0)
    # Left out where they say nothing, so that a specification from before they existed keeps its digest.
    max_events: int = Field(default=0, ge=0, exclude_if=lambda value: not value)
    """Exact minimum, maximum: over so many of the newest values in the window; distinct: it counts up to there."""
    half_life_us: int = Field(default=0, ge=0, exclude_if=lambda value: not value)
    approximate: bool = Field(default=False, exclude_if=lambda value: not value)
    """Minimum, maximum: over whole panes of the window, any number of events."""


class Lookup(_Node):
    """A field of the row that a reference of the stream has for the event's field `by`; missing where it has none."""

    op: Literal["lookup"] = "lookup"
    reference: str
    column: str
    by: str


Node = Annotated[Column | Same | Constant | Calendar | Binary | Unary | Aggregate | Lookup, Field(discriminator="op")]
Binary.model_rebuild()
Unary.model_rebuild()


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, depth first, left to right."""
    yield node
    match node:
        case Binary(left=left, right=right):
            yield from walk(left)
            yield from walk(right)
        case Unary(of=inner) | Calendar(of=inner):
            yield from walk(inner)


def reached(node: Node, known: Container[Node]) -> Iterator[Node]:
    """As `walk`, without those that are `known` and what is below them."""
    if node in known:
        return
    yield node
    match node:
        case Binary(left=left, right=right):
            yield from reached(left, known)
            yield from reached(right, known)
        case Unary(of=inner) | Calendar(of=inner):
            yield from reached(inner, known)


def numbers(node: Node) -> Iterator[Node]:
    """As `walk`, without fields of which it is asked only whether they are missing: these may be texts."""
    yield node
    match node:
        case Unary(kind="is_missing", of=Column()):
            return
        case Binary(left=left, right=right):
            yield from numbers(left)
            yield from numbers(right)
        case Unary(of=inner) | Calendar(of=inner):
            yield from numbers(inner)


def render(node: Node) -> str:
    """The expression as a person would write it, for plans, plots and error messages."""
    match node:
        case Column(name=name):
            return name
        case Same(column=column, text=text):
            return f"({column} == {text!r})"
        case Constant(value=value):
            return f"{value:g}"
        case Calendar(part=part, of=of):
            return f"{of.name}.{part}()"
        case Binary(kind=kind, left=left, right=right):
            return f"({render(left)} {kind} {render(right)})"
        case Unary(kind="is_missing", of=of):
            return f"{render(of)}.is_missing()"
        case Unary(kind=kind, of=of):
            return f"{'not ' if kind == 'not' else '-'}{render(of)}"
        case Aggregate():
            what = node.label or node.column
            inner = f"{what}, " if what else ""
            half_life = f", half-life {format_duration(node.half_life_us)}" if node.half_life_us else ""
            return f"{node.kind}({inner}by {node.by}, over {format_duration(node.over_us)}{half_life})"
        case Lookup(reference=reference, column=column, by=by):
            return f"lookup({reference}.{column}, by {by})"


class Expression:
    """A node with operators. Comparisons build nodes, so an Expression has no truth value and no hash."""

    __slots__ = ("node", "source")
    __hash__ = None  # type: ignore[assignment]  # == builds an expression

    def __init__(self, node: Node, source: str = "") -> None:
        self.node = node
        self.source = source
        """Name of the stream or table whose fields stand in the expression; "" for aggregates alone."""

    def __bool__(self) -> bool:
        raise InvalidInput(
            f"`{render(self.node)}` has no truth value while the application is declared.",
            code="BAD_EXPRESSION",
            next_action="Use & | ~ instead of and, or, not; compare twice instead of chaining (a < b < c).",
        )

    def _join(self, kind: BinaryOp, other: object, *, swapped: bool = False) -> Expression:
        right = as_expression(other)
        if self.source and right.source and self.source != right.source:
            raise InvalidInput(
                f"`{render(self.node)}` is of {self.source}, `{render(right.node)}` of {right.source}.",
                code="BAD_EXPRESSION",
                next_action="A feature is computed from one stream or table.",
            )
        first, second = (right.node, self.node) if swapped else (self.node, right.node)
        return Expression(Binary(kind=kind, left=first, right=second), self.source or right.source)

    def __add__(self, other: object) -> Expression:
        return self._join("+", other)

    def __radd__(self, other: object) -> Expression:
        return self._join("+", other, swapped=True)

    def __sub__(self, other: object) -> Expression:
        return self._join("-", other)

    def __rsub__(self, other: object) -> Expression:
        return self._join("-", other, swapped=True)

    def __mul__(self, other: object) -> Expression:
        return self._join("*", other)

    def __rmul__(self, other: object) -> Expression:
        return self._join("*", other, swapped=True)

    def __truediv__(self, other: object) -> Expression:
        return self._join("/", other)

    def __rtruediv__(self, other: object) -> Expression:
        return self._join("/", other, swapped=True)

    def __lt__(self, other: object) -> Expression:
        return self._join("<", other)

    def __le__(self, other: object) -> Expression:
        return self._join("<=", other)

    def __gt__(self, other: object) -> Expression:
        return self._join(">", other)

    def __ge__(self, other: object) -> Expression:
        return self._join(">=", other)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]  # builds an expression
        return self._same(other) if isinstance(other, str) else self._join("==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]  # builds an expression
        return ~self._same(other) if isinstance(other, str) else self._join("!=", other)

    def _same(self, text: str) -> Expression:
        if not isinstance(self.node, Column):
            raise InvalidInput(
                f"`{render(self.node)}` is no field that could be the text {text!r}.",
                code="BAD_EXPRESSION",
                next_action="Compare a text field itself, as in (orders.channel == 'web').",
            )
        return Expression(Same(column=self.node.name, text=text), self.source)

    def __and__(self, other: object) -> Expression:
        return self._join("and", other)

    def __or__(self, other: object) -> Expression:
        return self._join("or", other)

    def __invert__(self) -> Expression:
        return Expression(Unary(kind="not", of=self.node), self.source)

    def __neg__(self) -> Expression:
        return Expression(Unary(kind="neg", of=self.node), self.source)

    def is_missing(self) -> Expression:
        return Expression(Unary(kind="is_missing", of=self.node), self.source)

    def _calendar(self, part: Literal["minute", "hour", "weekday", "day", "month"]) -> Expression:
        if not isinstance(self.node, Column):
            raise InvalidInput(
                f"`{render(self.node)}` is not a time field, it has no {part}.",
                code="BAD_EXPRESSION",
                next_action="Ask it of a field of type sr.Time.",
            )
        return Expression(Calendar(part=part, of=self.node), self.source)

    def minute(self) -> Expression:
        return self._calendar("minute")

    def hour(self) -> Expression:
        return self._calendar("hour")

    def weekday(self) -> Expression:
        """0 is Monday."""
        return self._calendar("weekday")

    def day(self) -> Expression:
        return self._calendar("day")

    def month(self) -> Expression:
        return self._calendar("month")

    def __repr__(self) -> str:
        return f"<feature {render(self.node)}>"


def as_expression(value: object) -> Expression:
    """`value` as an expression: numbers and booleans become constants."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool | int | float):
        return Expression(Constant(value=float(value)))
    if isinstance(value, ReferenceField):
        raise InvalidInput(
            f"{value} is a field of a reference: which of its rows is meant?",
            code="BAD_EXPRESSION",
            next_action=f'Write sr.lookup({value}, by="..."), with the field of {value.of} that holds its id.',
        )
    raise InvalidInput(
        f"{value!r} cannot stand in a feature.",
        code="BAD_EXPRESSION",
        next_action="Use fields of the stream, numbers, and skyriver's functions such as sr.mean.",
    )


@dataclass(frozen=True, slots=True)
class ReferenceField:
    """A field of the rows of a reference of the stream `of`, as its attributes give them."""

    reference: str
    name: str
    of: str

    def __str__(self) -> str:
        return f"{self.reference}.{self.name}"


def lookup(what: ReferenceField, *, by: str) -> Expression:
    """What the reference's row says as of the event's time; missing where there is no row of that id yet.

    `by` is the field of the event that holds the row's id."""
    if not isinstance(what, ReferenceField):
        raise InvalidInput(
            f"lookup({what!r}) is not understood.",
            code="BAD_EXPRESSION",
            next_action="Look up a field of a reference, as in sr.lookup(shops.risk, by=...) after shops ="
            " app.reference(...).",
        )
    return Expression(Lookup(reference=what.reference, column=what.name, by=by), what.of)


class Label:
    """A truth that arrives late, as declared by `app.labels`."""

    __slots__ = ("delay_us", "name", "of")

    def __init__(self, name: str, of: str, delay_us: int) -> None:
        self.name = name
        self.of = of
        self.delay_us = delay_us

    def __repr__(self) -> str:
        return f"<label {self.name} of {self.of}>"


def _aggregate(
    kind: AggregateOp, what: str | Expression | Label | None, by: str, over: str, **options: Any
) -> Expression:
    over_us = parse_duration(over, "a window")
    if over_us <= 0:
        raise InvalidInput(f"{over!r} is an empty window.", code="BAD_DURATION", next_action='Write e.g. over="7d".')
    column = label = source = ""
    delay_us = 0
    match what:
        case None:
            pass
        case Label(name=label, of=source, delay_us=delay_us):
            pass
        case str(column):
            pass
        case Expression(node=Column(name=column), source=source):
            pass
        case _:
            raise InvalidInput(
                f"{kind}({what!r}) is not understood.",
                code="BAD_EXPRESSION",
                next_action="Aggregate a field (its name, or stream.field) or a label.",
            )
    return Expression(
        Aggregate(kind=kind, column=column, label=label, by=by, over_us=over_us, delay_us=delay_us, **options), source
    )


def count(what: Label | None = None, *, by: str, over: str) -> Expression:
    """How many events (or, given a label, how many subjects whose delay has passed) of the key `by`."""
    return _aggregate("count", what, by, over)


def total(what: str | Expression | Label, *, by: str, over: str) -> Expression:
    """The sum of a field or label over the window; public as `sr.sum`."""
    return _aggregate("sum", what, by, over)


def mean(what: str | Expression | Label, *, by: str, over: str) -> Expression:
    """The mean of a field or label over the window; 0 where the window is empty."""
    return _aggregate("mean", what, by, over)


def std(what: str | Expression | Label, *, by: str, over: str) -> Expression:
    """The standard deviation of a field or label over the window, as of a whole population (divided by n); 0 where
    there are less than two values."""
    return _aggregate("std", what, by, over)


def minimum(
    what: str | Expression, *, by: str, over: str, max_events: int | None = None, approximate: bool = False
) -> Expression:
    """The smallest value of a field in the window; missing where there is none.

    Exact over the newest `max_events` values in the window (1,000 unless given). `approximate=True`: over any number
    of them, where the window is up to a sixtieth shorter: it begins with a whole pane of `over / 60`.
    """
    return _aggregate("minimum", what, by, over, **_bounded("minimum", max_events, approximate))


def maximum(
    what: str | Expression, *, by: str, over: str, max_events: int | None = None, approximate: bool = False
) -> Expression:
    """The largest value of a field in the window; see `minimum`."""
    return _aggregate("maximum", what, by, over, **_bounded("maximum", max_events, approximate))


def last(what: str | Expression, *, by: str, over: str) -> Expression:
    """The newest value of a field before the current event, if it is in the window; else missing."""
    return _aggregate("last", what, by, over)


def since(*, by: str, over: str) -> Expression:
    """Seconds since the key's event before the current one, if that is in the window; else missing."""
    return _aggregate("since", None, by, over)


def distinct(what: str | Expression, *, by: str, over: str, max_events: int | None = None) -> Expression:
    """How many different values an int or text field has in the window, up to `max_events` (1,000 unless given)."""
    return _aggregate("distinct", what, by, over, **_bounded("distinct", max_events, approximate=False))


def decayed_mean(what: str | Expression, *, by: str, over: str, half_life: str) -> Expression:
    """The mean of a field in the window, where what is older by `half_life` weighs half; 0 where it is empty.

    Ages are counted in panes of `over / 60`, as is the window, which is up to one pane shorter.
    """
    half_life_us = parse_duration(half_life, "a half-life")
    if half_life_us <= 0:
        raise InvalidInput(f"{half_life!r} is no half-life.", code="BAD_DURATION", next_action='Write e.g. "1d".')
    if half_life_us > parse_duration(over, "a window"):
        raise InvalidInput(
            f"half_life={half_life!r} is longer than the window over={over!r}: what is older than the window counts for"
            " nothing, so that it would be a plain mean, nearly.",
            code="BAD_DURATION",
            next_action="Give it a window of several half-lives, or write sr.mean.",
        )
    return _aggregate("decayed_mean", what, by, over, half_life_us=half_life_us)


def _bounded(kind: str, max_events: int | None, approximate: bool) -> dict[str, Any]:
    if approximate and max_events is not None:
        raise InvalidInput(
            f"An approximate {kind} has no max_events: it takes any number.",
            code="BAD_EXPRESSION",
            next_action="Leave max_events= out, or approximate=True.",
        )
    if approximate:
        return {"approximate": True}
    wanted = MAX_EVENTS if max_events is None else max_events
    if not 1 <= wanted <= MOST_EVENTS:
        hint = f"Give it at most {MOST_EVENTS}"
        raise InvalidInput(
            f"max_events={wanted} of a {kind} is not between 1 and {MOST_EVENTS}.",
            code="BAD_EXPRESSION",
            next_action=f"{hint}." if kind == "distinct" else f"{hint}, or approximate=True for any number of events.",
        )
    return {"max_events": wanted}
