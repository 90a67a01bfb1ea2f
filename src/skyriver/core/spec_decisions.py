"""Of an application's specification: what is decided on a stream's events, and what becomes of the decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from skyriver.core.errors import InvalidInput
from skyriver.core.names import check_name
from skyriver.core.ranges import DECISIONS, MOST_SCORING_CPUS, hint, outside
from skyriver.core.spec_base import FieldName, Name, Spec
from skyriver.core.spec_fields import GRID_LIMIT
from skyriver.core.spec_streams import StreamSpec, TableSpec
from skyriver.core.units import SECOND, format_duration, parse_duration

LEAST_PERIOD = parse_duration("1h")
"""Of a capacity: people's work is not told by the minute."""


MOST_WINDOW = parse_duration("366d")
"""Of budgets and counters of decisions."""
COUNTED = 1_000
"""So far a counter counts unless more is declared."""
IN_TIME = 0.99
AN_OBJECTIVE = 'Write latency="50ms", share=0.99: that share of the events is decided within that time.'


class DecisionRule(Spec):
    decision: Name
    when: str
    name: str = Field(default="", max_length=64, exclude_if=lambda value: not value)
    """What records call it; "": as its decision."""


class DecisionExample(Spec):
    """What an event that is known so far is decided: run with the rules at each deployment."""

    decision: Name
    given: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    """What rules may name, and its value; null, as what is not named, is missing."""
    lists: dict[FieldName, tuple[dict[str, bool | int | float | str | None], ...]] = Field(
        default_factory=dict, exclude_if=lambda value: not value
    )
    """Rows of lists."""


class CostSpec(Spec):
    """What an event costs that gets this decision: `each`, and on top of it what its label says. Those are numbers
    or expressions of the rules' language over the event's fields and features; below zero it is a gain."""

    decision: Name
    each: str = "0"
    positive: str = "0"
    """Where the label is 1."""
    negative: str = "0"
    """Where the label is 0."""


class CapacitySpec(Spec):
    """How many events may get a decision in each period of the clock."""

    decision: Name
    most: int = Field(ge=1)
    per_us: int = Field(ge=LEAST_PERIOD)


class CostsSpec(Spec):
    of: tuple[CostSpec, ...]
    """One for each decision there is."""
    capacity: tuple[CapacitySpec, ...] = ()
    unit: str = Field(default="", max_length=16)
    """As it is told to people: "EUR"."""


class BudgetSpec(Spec):
    """At most `most` events get a decision within any `per_us` of effective time, of each value of the field `by` ("":
    of the whole stream); those beyond it get `overflow`, which may have a budget too."""

    decision: Name
    most: int = Field(ge=0, le=1_000_000)
    per_us: int = Field(ge=SECOND, le=MOST_WINDOW)
    overflow: Name
    by: str = ""


class CounterSpec(Spec):
    """How many events before one got a decision within the last `over_us` of effective time, with its value of the
    field `by` ("": all of the stream): a number that rules may name."""

    name: FieldName
    decision: Name
    over_us: int = Field(ge=SECOND, le=MOST_WINDOW)
    by: str = ""
    most: int = Field(default=COUNTED, ge=1, le=100_000)
    """It counts no further: so much is held of each value."""


class SinkSpec(Spec):
    """Decisions that are handed to a receiver, at least once each; where that is, its machine's operator says."""

    to: Name
    """The name of a file of the dispatcher's machine, HOME/sinks/TENANT/NAME.toml."""
    on: tuple[Name, ...]
    """The decisions that it gets."""
    ordered: str = ""
    """A field of the event: what is decided on events with one value of it is handed over one after the other."""
    parked: Literal["hold", "pass"] = "hold"
    """What a delivery that is parked does to the later ones of its value of `ordered`."""
    parallel: int = Field(default=8, ge=1, le=256)
    """Deliveries under way at once."""
    tries: int = Field(default=50, ge=1, le=1_000)
    retry_us: int = Field(default=86_400 * SECOND, ge=SECOND)
    """What was not taken after so many tries, or for so long, is parked."""
    approve: bool = False
    """Each waits until somebody who may says yes."""
    approve_us: int = Field(default=86_400 * SECOND, ge=SECOND)
    """For so long."""
    unapproved: Literal["drop", "deliver"] = "drop"
    """What becomes of one that nobody has judged by then."""


_A_REVIEW = 'Write .review("review", label=LABEL, answers={"block": 1, "approve": 0}, within="1d").'
ReasonText = Annotated[str, Field(min_length=1, max_length=200)]


class ReviewSpec(Spec):
    """Decisions of one kind that a person is to make: each becomes a case, whose answer becomes a label."""

    decision: Name
    label: FieldName
    answers: dict[Name, float] = Field(min_length=2, max_length=16)
    """What a reviewer may answer, and the value of the label that it stands for."""
    within_us: int = Field(gt=0)
    """When it is overdue."""
    lease_us: int = Field(default=900 * SECOND, ge=10 * SECOND, le=86_400 * SECOND)
    """For how long who claims a case holds it."""
    second_when: str = ""
    """A rule: two people must agree on a case of which it is true."""
    second_share: float = Field(default=0.0, ge=0, le=1)
    """The same of such a share of the cases, taken by chance."""
    expires_us: int = Field(default=0, ge=0)
    """After its opening a case is closed with the outcome `unanswered`; 0: it waits for ever."""
    unanswered: str = ""
    most_waiting: int = Field(default=10_000, ge=1, le=100_000)
    """Cases that wait at most: beyond it, those of the lowest rank are closed as if nobody had answered."""
    keep_us: int = Field(default=90 * 86_400 * SECOND, gt=0)
    """How long a closed case is kept; what it adds to the statistics stays."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        wrong = ""
        if bool(self.expires_us) != bool(self.unanswered):
            wrong = "a case that expires needs an outcome, and an outcome a time to expire"
        elif self.expires_us and self.expires_us < self.within_us:
            wrong = "a case cannot expire before it is due"
        elif self.unanswered and self.unanswered not in self.answers:
            wrong = f"{self.unanswered!r} is none of its answers {', '.join(self.answers)}"
        elif not all(abs(value) < GRID_LIMIT for value in self.answers.values()):  # nor is NaN
            wrong = f"the value of an answer is a number below {GRID_LIMIT}"
        if wrong:
            raise InvalidInput(f"The review of {self.decision!r}: {wrong}.", code="BAD_REVIEW", next_action=_A_REVIEW)
        return self


class DecideSpec(Spec):
    """The first rule that fires decides, or, where they `combine`, the strictest; a rule on something missing is false
    unless it asks `is missing`."""

    stream: str
    model: str
    rules: tuple[DecisionRule, ...]
    otherwise: Name
    fallback: Name
    """The decision when no score can be had in time (no version, model failed or slow, event late)."""
    fallback_by: tuple[Literal["last_version", "rules"], ...] = ()
    """What decides before that word: the score of the version before the released one, then the rules that do not read
    the score. A late event gets the word."""
    deadline_us: int = Field(default=0, ge=0)
    """The time that the model may take for a batch of events; 0 is no limit."""
    latency_us: int = Field(default=0, ge=0, exclude_if=lambda value: not value)
    """Within which an event is to be decided from its arrival at the worker on; 0: it takes as long as it takes. What
    cannot be kept is shed: it gets the fallback."""
    share: float = Field(default=IN_TIME, gt=0.5, lt=1.0, exclude_if=lambda value: value == IN_TIME)
    """Of the events that are to be decided within `latency_us`."""
    cheaper: str = Field(default="", exclude_if=lambda value: not value)
    """The alias of a version of the model that scores in place of the released one where this cannot be kept: events
    are shed only where that does not do."""
    cpus: int = Field(default=1, ge=1, le=MOST_SCORING_CPUS, strict=True, exclude_if=lambda value: value == 1)
    """Cores that the released version may take where this cannot be kept, before anything else is done about it."""
    examples: tuple[DecisionExample, ...] = Field(default=(), exclude_if=lambda value: not value)
    costs: CostsSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """What decisions cost; nothing is decided by it, thresholds are chosen by it and cases put in order."""
    sinks: tuple[SinkSpec, ...] = Field(default=(), exclude_if=lambda value: not value)
    reasons: dict[FieldName, ReasonText] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """What is said of a feature that raises the score, where a decision is explained."""
    budgets: tuple[BudgetSpec, ...] = Field(default=(), exclude_if=lambda value: not value)
    counters: tuple[CounterSpec, ...] = Field(default=(), exclude_if=lambda value: not value)
    combine: tuple[Name, ...] = Field(default=(), exclude_if=lambda value: not value)
    """The decisions of rules, the strictest first: of those that fire, the strictest decides. (): the first that
    fires does."""

    @model_validator(mode="after")
    def _timely(self) -> Self:
        wrong, action = "", AN_OBJECTIVE
        if self.latency_us and (why := outside(DECISIONS["latency"], self.latency_us)):
            wrong = f"latency={format_duration(self.latency_us)!r} {why}"
            action = hint(DECISIONS, "latency")
        elif self.latency_us and self.deadline_us > self.latency_us:
            wrong = (
                f"deadline={format_duration(self.deadline_us)!r} leaves the model longer than"
                f" latency={format_duration(self.latency_us)!r} leaves an event"
            )
            longest = format_duration(self.latency_us)
            action = f'deadline is at most as long as latency: write deadline="{longest}" or less, or a longer latency.'
        elif self.share != IN_TIME and not self.latency_us:
            wrong = f"share={self.share} is a share of the events that are decided within a latency, and there is none"
        elif self.cheaper and not self.latency_us:
            wrong = f"cheaper={self.cheaper!r} scores where a latency cannot be kept, and there is none"
        elif self.cpus > 1 and not self.latency_us:
            wrong = f"cpus={self.cpus} are for where a latency cannot be kept, and there is none"
            action = hint(DECISIONS, "latency")
        if self.cheaper:
            check_name(self.cheaper, "an alias")
        if wrong:
            message = f"The decisions of {self.stream}: {wrong}."
            raise InvalidInput(message, code="BAD_DECISION", next_action=action)
        return self

    @property
    def words(self) -> frozenset[str]:
        """All that can be decided."""
        rules, overflows = (rule.decision for rule in self.rules), (budget.overflow for budget in self.budgets)
        return frozenset((*rules, self.otherwise, self.fallback, *overflows))

    @model_validator(mode="after")
    def _handed_over(self) -> Self:
        for sink in self.sinks:
            unknown = [word for word in sink.on if word not in self.words]
            if unknown or not sink.on:
                raise InvalidInput(
                    f"The sink {sink.to} of {self.stream} is for {unknown[0]!r}, which nothing decides."
                    if unknown
                    else f"The sink {sink.to} of {self.stream} is for no decision.",
                    code="BAD_SINK",
                    next_action=f"Decided are {', '.join(sorted(self.words))}.",
                )
        names = [sink.to for sink in self.sinks]
        if len(set(names)) < len(names):
            raise InvalidInput(
                f"A sink of {self.stream} is named twice among {', '.join(names)}.",
                code="BAD_SINK",
                next_action='Give one sink several decisions: on=("block", "review").',
            )
        return self

    reviews: tuple[ReviewSpec, ...] = Field(default=(), exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _named(self) -> Self:
        names = [rule.name or rule.decision for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(
                    f"{names.count(name)} rules of {self.stream} are called {name!r}.",
                    code="BAD_DECISION",
                    next_action=f'Give each a name of its own: sr.Rule("{name}", when, name="why").',
                )
        return self

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        known = f"Decided are {', '.join(sorted(self.words))}."
        overflows: dict[str, set[str]] = {}
        for budget in self.budgets:
            if budget.decision not in self.words:
                raise InvalidInput(
                    f"{self.stream} has a budget of {budget.decision!r}, which nothing decides.",
                    code="BAD_BUDGET",
                    next_action=known,
                )
            overflows.setdefault(budget.decision, set()).add(budget.overflow)
        for decision in overflows:
            if decision in _reached(decision, overflows):
                raise InvalidInput(
                    f"What is beyond the budget of {decision!r} of {self.stream} comes back to it.",
                    code="BAD_BUDGET",
                    next_action="Let its overflow be a decision that has no budget, or one that leads to such a one.",
                )
        for counter in self.counters:
            if counter.decision not in self.words:
                raise InvalidInput(
                    f"The counter {counter.name} of {self.stream} counts {counter.decision!r}, which nothing decides.",
                    code="BAD_COUNTER",
                    next_action=known,
                )
        names = [counter.name for counter in self.counters]
        if len(set(names)) < len(names):
            raise InvalidInput(
                f"A counter of {self.stream} is named twice.",
                code="BAD_COUNTER",
                next_action="Give one of them another name.",
            )
        return self

    @model_validator(mode="after")
    def _combined(self) -> Self:
        decided = list(dict.fromkeys(rule.decision for rule in self.rules))
        if self.combine and (set(self.combine) != set(decided) or len(set(self.combine)) < len(self.combine)):
            raise InvalidInput(
                f"sr.Strictest of {self.stream} names {', '.join(self.combine)}, and its rules decide"
                f" {', '.join(decided)}.",
                code="BAD_DECISION",
                next_action="Name each decision of the rules once, the strictest first.",
            )
        return self


def _reached(decision: str, overflows: Mapping[str, set[str]]) -> set[str]:
    """The decisions that what is beyond the budget of this one may come to."""
    found: set[str] = set()
    left = list(overflows[decision])
    while left:
        word = left.pop()
        if word not in found:
            found.add(word)
            left += overflows.get(word, ())
    return found


def check_decides(stream: str, model: str, source: str) -> None:
    """`source` of the features that the model is trained on; "": it is a ready file. Raises InvalidInput (BAD_DECISION)
    where the model's inputs are not what the stream computes."""
    if source == stream:
        return
    reads = f"is trained on features of {source}" if source else "is a ready file"
    raise InvalidInput(
        f"{stream} cannot decide with the model {model}: it {reads}, and not of {stream}.",
        code="BAD_DECISION",
        next_action=f"Decide with a model that is trained on features of {stream}: @app.train(FEATURES, label=...).",
    )


def check_sinks(decide: DecideSpec, stream: StreamSpec | TableSpec) -> None:
    """Raises InvalidInput (BAD_SINK) where an order is by what no event has."""
    fields = [field.name for field in stream.fields]
    for sink in decide.sinks:
        if sink.ordered and sink.ordered not in fields:
            raise InvalidInput(
                f"The sink {sink.to} is ordered by {sink.ordered!r}, which is no field of {stream.name}.",
                code="BAD_SINK",
                next_action=f"Its fields are {', '.join(fields)}.",
            )


def check_review(review: ReviewSpec, decide: DecideSpec, labels: Iterable[str]) -> None:
    """`labels` of the stream. Raises InvalidInput (BAD_REVIEW)."""
    wrong = action = ""
    if review.decision not in decide.words:
        wrong, action = f"nothing decides {review.decision!r}", f"The decisions are {', '.join(sorted(decide.words))}."
    elif review.label not in labels:
        wrong, action = f"{decide.stream} has no label {review.label!r}", "Declare it with app.labels(...)."
    elif sum(other.decision == review.decision for other in decide.reviews) > 1:
        wrong, action = "it is declared twice", "Declare one for each decision."
    if wrong:
        raise InvalidInput(
            f"The review of {review.decision!r} on {decide.stream}: {wrong}.", code="BAD_REVIEW", next_action=action
        )


def check_budgets(decide: DecideSpec, stream: StreamSpec | TableSpec) -> None:
    """Raises InvalidInput (BAD_BUDGET, BAD_COUNTER) where one is by what an event may not have."""
    fields = {field.name: field for field in stream.fields}
    fit = [
        name for name, own in fields.items() if own.type in ("int", "text") and not (own.nullable and own.fill is None)
    ]
    given = [(own.by, f"The budget of {own.decision!r}", "BAD_BUDGET") for own in decide.budgets]
    given += [(own.by, f"The counter {own.name}", "BAD_COUNTER") for own in decide.counters]
    for by, what, code in given:
        if by and by not in fit:
            why = "which may be missing or is no int or text" if by in fields else "which is no field of it"
            raise InvalidInput(
                f"{what} of {stream.name} is by {by!r}, {why}.",
                code=code,
                next_action=f"It may be by {', '.join(fit)}; a field with a fill value is never missing.",
            )
