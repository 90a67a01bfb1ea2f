"""The specification of an application: what Python, REST, CLI and the files on disk all speak.

It is plain data. Its digest (SHA-256 of canonical JSON) identifies it; a job that imports the same source
must arrive at the same digest, else it fails with SPEC_DRIFT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from skyriver.core.brokers import check_broker, check_credentials, check_subject, check_topic
from skyriver.core.cron import check_cron
from skyriver.core.errors import InvalidInput
from skyriver.core.expr import Aggregate, Column, Lookup, Node, Same, walk
from skyriver.core.names import check_field, check_name, digest
from skyriver.core.units import SECOND, parse_duration, parse_rate


def _relative(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path:
        raise InvalidInput(f"{path!r} is no path inside the application's folder.", code="BAD_PATH")
    return path


Name = Annotated[str, AfterValidator(lambda name: check_name(name, "anything here"))]
FieldName = Annotated[str, AfterValidator(lambda name: check_field(name, "a field, feature, label or metric"))]
InnerPath = Annotated[str, AfterValidator(_relative)]
"""Checked here too: a specification may come from anywhere, and names become file names and routes."""

FieldType = Literal["int", "float", "text", "bool", "time"]
Durability = Literal["process", "disk"]
OF_TEXTS = "Of a text there are (channel == 'web'), channel.is_missing() and sr.distinct; give a number otherwise."
GRID_LIMIT = 2**22
"""Absolute values of summed fields stay below this unless the field declares more (DESIGN 6.2)."""

MOST_LINGER = 10_000
"""Microseconds: meanwhile a stream's worker does nothing else."""

LEAST_PERIOD = parse_duration("1h")
"""Of a capacity: people's work is not told by the minute."""


MOST_WINDOW = parse_duration("366d")
"""Of budgets and counters of decisions."""
COUNTED = 1_000
"""So far a counter counts unless more is declared."""


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def digest(self) -> str:
        return digest(self.to_json())


class FieldSpec(Spec):
    """One field and its border cleaning, stateless, the same for files, streams and HTTP (DESIGN 6.3).

    In this order: a value is converted to `type` (a text that spells a number counts only in CSV, where
    everything is text), a number is multiplied by `scale` (given in cents, wanted in EUR: 0.01), missing (null,
    absent, NaN) becomes `fill` if there is one, then `ge`..`one_of` are checked. Missing without `fill` is an
    error unless `nullable`. A time is given as ISO 8601 (UTC unless it names an offset) or as a whole number
    of `time_unit` since 1970, and becomes int64 microseconds.
    """

    name: FieldName
    type: FieldType
    nullable: bool = False
    fill: float | int | str | bool | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    one_of: tuple[str | int, ...] = ()
    max_length: int = 4096
    """Of a text, in characters."""
    unit: str = ""
    """What a number counts, e.g. "EUR": shown to people, carried into signatures."""
    scale: float = 1.0
    time_unit: Literal["s", "ms", "us", "ns"] = "us"
    role: Literal["", "id", "time"] = Field(default="", exclude=True)
    """What it is to its row, for the border: an id is no empty text, and of the time of an event a wrong unit is found
    out. Not declared here and not kept: see `with_roles`."""


def with_roles(fields: Iterable[FieldSpec], id: str, time: str = "") -> tuple[FieldSpec, ...]:
    """The fields, of which the border knows what they are."""
    roles = {id: "id", time: "time"}
    return tuple(f.model_copy(update={"role": roles[f.name]}) if f.name in roles else f for f in fields)


class LabelSpec(Spec):
    name: FieldName
    delay_us: int = Field(ge=0)


class ReferenceSpec(Spec):
    """Rows about something that events name by its id, such as a shop: each is current from its time on, until the
    next one of the same id. One with `until` is a list, which rules read."""

    name: FieldName
    fields: tuple[FieldSpec, ...]
    id: str
    time: str
    # These two are left out where there are none, as those of StreamSpec.
    until: str = Field(default="", exclude_if=lambda value: not value)
    """A field: when a row ends, though no other one has come; missing: it does not."""
    by: str = Field(default="", exclude_if=lambda value: not value)
    """The event's field by which rules look up the list's fields."""

    def field(self, name: str) -> FieldSpec:
        return next(f for f in self.fields if f.name == name)


class MqttSpec(Spec):
    """Topics of an MQTT broker, taken with QoS 1 in a session that the broker keeps while the worker is away."""

    kind: Literal["mqtt"] = "mqtt"
    url: Annotated[str, AfterValidator(partial(check_broker, ports={"mqtt": 1883, "mqtts": 8883}))]
    topic: Annotated[str, AfterValidator(check_topic)]
    durable: Name
    """The client's id: the broker knows by it what was taken. No two clouds may have the same one at one broker."""
    credentials: Annotated[str, AfterValidator(check_credentials)] = ""
    """The name of a file of the worker's machine, HOME/brokers/TENANT/NAME.toml; "": none are needed."""
    in_flight: int = Field(default=1_000, ge=1, le=65_535)
    """Messages that are held at most before they are in the log; the broker waits with the others."""
    version: Literal["5", "3.1.1"] = "5"
    """Of the protocol."""


class NatsSpec(Spec):
    """Subjects of a stream of NATS JetStream, taken by a durable consumer with explicit acknowledgement."""

    kind: Literal["nats"] = "nats"
    url: Annotated[str, AfterValidator(partial(check_broker, ports={"nats": 4222, "tls": 4222}))]
    subject: Annotated[str, AfterValidator(check_subject)]
    durable: Name
    """The consumer's name: the server knows by it what was taken."""
    credentials: Annotated[str, AfterValidator(check_credentials)] = ""
    in_flight: int = Field(default=1_000, ge=1, le=65_535)


class NatsLogSpec(Spec):
    """A log that NATS JetStream holds, in place of files of the worker's machine."""

    url: Annotated[str, AfterValidator(partial(check_broker, ports={"nats": 4222, "tls": 4222}))]
    name: Name
    """The stream of JetStream: no two logs may have the same one at one server."""
    credentials: Name
    """They must be there: they also show that the server syncs before it acknowledges."""


SourceSpec = Annotated[MqttSpec | NatsSpec, Field(discriminator="kind")]


PARTS_OF_STREAMS = ("labels", "decisions", "dead", "rejected")
"""Tables of every stream, `<stream>.<part>`; a reference's table is `<stream>.<reference>`."""


class StreamSpec(Spec):
    """A stream of events; it owns the table of its name (DESIGN 6.9)."""

    name: Name
    fields: tuple[FieldSpec, ...]
    id: str
    time: str
    key: str
    labels: tuple[LabelSpec, ...] = ()
    disorder_us: int = Field(default=5 * SECOND, ge=0)
    ahead_us: int = Field(default=60 * SECOND, ge=0)
    dedupe_us: int = Field(default=86_400 * SECOND, ge=0)
    durability: Durability = "disk"
    zone: str = "UTC"
    max_bad: float = Field(default=0.05, ge=0, le=1)
    source: SourceSpec | None = None
    """A broker from which events come, beside HTTP."""
    log: NatsLogSpec | None = None
    """Where the log is; None: in files of the worker's machine."""
    retention_us: int = Field(default=0, ge=0)
    """How long the log keeps a record, in the time of the events. 0: for ever."""
    retention_bytes: int = Field(default=0, ge=0)
    """How large the log may become. 0: as large as it does."""
    local_bytes: int = Field(default=10_000_000_000, ge=0)
    """How much of the log lies on the worker's disk, where the cloud has a tier for the rest."""
    # These two are left out where there are none, so that a specification from before there were any keeps its digest.
    references: tuple[ReferenceSpec, ...] = Field(default=(), exclude_if=lambda value: not value)
    linger_us: int = Field(default=0, ge=0, le=MOST_LINGER, exclude_if=lambda value: not value)
    """How long an event may wait for others, to be worked on and written together with them."""

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.log is not None and (self.durability != "disk" or self.retention_us or self.retention_bytes):
            raise InvalidInput(
                f"The log of {self.name} is in NATS: it is always on the disk, and kept whole.",
                code="BAD_STREAM",
                next_action="Leave out durability=, retention= and retention_bytes=, or log=.",
            )
        return self

    def field(self, name: str) -> FieldSpec:
        return next(f for f in self.fields if f.name == name)


class TableSpec(Spec):
    """A table without a stream, loaded from files."""

    name: Name
    fields: tuple[FieldSpec, ...]
    id: str
    max_bad: float = Field(default=0.05, ge=0, le=1)

    def field(self, name: str) -> FieldSpec:
        return next(f for f in self.fields if f.name == name)


class FeatureSpec(Spec):
    name: FieldName
    expr: Node


class FeatureSetSpec(Spec):
    name: Name
    source: str
    """A stream or a table."""
    features: tuple[FeatureSpec, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.features)

    def aggregates(self) -> tuple[Aggregate, ...]:
        """All different aggregates, in order of first use."""
        found = (n for f in self.features for n in walk(f.expr) if isinstance(n, Aggregate))
        return tuple(dict.fromkeys(found))

    def lookups(self) -> tuple[Lookup, ...]:
        """All different lookups, in order of first use."""
        found = (n for f in self.features for n in walk(f.expr) if isinstance(n, Lookup))
        return tuple(dict.fromkeys(found))

    def columns(self) -> tuple[str, ...]:
        """Fields of the current event that some feature reads directly, in order of first use."""
        found = (n.name for f in self.features for n in walk(f.expr) if isinstance(n, Column))
        return tuple(dict.fromkeys((*found, *(same.column for same in self.same()))))

    def same(self) -> tuple[Same, ...]:
        """Texts that fields are compared with, each once."""
        found = (n for f in self.features for n in walk(f.expr) if isinstance(n, Same))
        return tuple(dict.fromkeys(found))


class CleanSpec(Spec):
    """Cleaning that is fitted on the training rows, and travels with the model."""

    fill: Literal["median", "mean"] | None = None
    """What stands for a missing feature."""
    clip: tuple[float, float] | None = None
    """Shares (0.001, 0.999): what lies beyond these quantiles of the training rows is set to them."""
    scale: bool = False
    """Subtract the mean, divide by the standard deviation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.clip is not None and not 0 <= self.clip[0] < self.clip[1] <= 1:
            raise ValueError(f"clip={self.clip!r}: two shares from 0 to 1, the lower one first")
        return self


class TrainSpec(Spec):
    function: str
    """Qualified name in the application file."""
    features: str
    label: str
    """A label of the stream, or a column of the table."""
    test_us: int = 0
    """Streams: the last stretch of time that is held out; the gap before it is the label's delay."""
    test_share: float = 0.3
    """Tables: the share of rows held out, chosen by a hash of the id."""
    clean: CleanSpec | None = None


class MetricSpec(Spec):
    """Precision among the `k` keys with the highest score a day, after the Fraud Detection Handbook."""

    name: FieldName
    kind: Literal["precision_at"] = "precision_at"
    k: int = Field(gt=0)
    by: str
    per_us: int = Field(gt=0)


MEASURED = (
    "auc",
    "average_precision",
    "log_loss",
    "brier",
    "calibration_error",
    "brier_calibrated",
    "calibration_error_calibrated",
    "positives_share",
    "train_auc",
    "train_average_precision",
    "onnx_max_difference",
)
"""What is measured of every trained model, beside the metrics of its own."""


class GateRule(Spec):
    metric: str
    op: Literal[">=", "<=", ">", "<"]
    value: float


class GateSpec(Spec):
    rules: tuple[GateRule, ...] = ()
    against: Literal["", "champion"] = ""
    """A candidate must not be worse than the champion on the gated metrics, on the same test rows."""
    tolerance: float = 0.0


class CompressSpec(Spec):
    max_loss: float = Field(gt=0)
    """The most that the gated metric (average precision) may fall, absolute."""


def _rate(text: str) -> str:
    if text:
        parse_rate(text, "a service's limit")
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class ServiceSpec(Spec):
    replicas: int = Field(default=1, ge=1, le=64)
    cpus: float = Field(default=1.0, gt=0)
    memory_mb: int = Field(default=512, gt=0)
    limit: Rate = Field(default="", exclude_if=lambda value: value == "")
    """Of requests a second by all callers together, as "100/s"; "" is none. What is more gets 429."""
    concurrency: int = Field(default=0, ge=0, le=1_000_000, exclude_if=lambda value: value == 0)
    """Of requests under way at once; 0 is no limit. What is more gets 429."""


Calibrate = Literal["auto", "isotonic", "platt"]


class ModelSpec(Spec):
    name: Name
    train: TrainSpec | None = None
    onnx: InnerPath = ""
    """Path, inside the application's folder, of a ready model; either this or `train`."""
    metrics: tuple[MetricSpec, ...] = ()
    gate: GateSpec = GateSpec()
    compress: CompressSpec | None = None
    serve: ServiceSpec = ServiceSpec()
    calibrate: Calibrate | None = Field(default="auto", exclude_if=lambda value: value == "auto")
    """How its scores are made probabilities, on rows that no training sees. "auto": where that takes no rows from the
    training, by as many positives as there are; None: not at all."""


class CronSpec(Spec):
    """When a job runs by itself: `expression` has the five fields of cron, in the time of `zone`."""

    expression: str
    zone: str = "UTC"
    missed: Literal["skip", "once", "all"] = "once"
    """Of the times that passed while nobody was there, or while the run before still ran: run none of them, the last
    one, or each, one after the other (the last 100)."""
    overlap: bool = False
    """Whether a run may begin while the one before still runs."""

    @model_validator(mode="after")
    def _comes(self) -> Self:
        check_cron(self.expression, self.zone)
        return self


class JobSpec(Spec):
    """A function that is run as a job: when it is asked for, by a schedule, or because another job needs it."""

    name: Name
    function: str
    """Qualified name in the application file."""
    needs: tuple[str, ...] = ()
    """Jobs that run before it in the same run, whose outputs are its inputs."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The parameters there are, with their values unless another, of the same type, is given; null: of any type."""
    cpus: float = Field(default=0, ge=0, le=1_024)
    memory_mb: int = Field(default=0, ge=0)
    """What it is held to; 0 is nothing, and counts as one core and 512 MB when jobs are given their turn."""
    timeout_us: int = Field(default=0, ge=0)
    """Of each attempt; 0 is none."""
    retries: int = Field(default=0, ge=0, le=100)
    """How often it is tried again after its own errors."""
    repeatable: bool = True
    """False: it is never begun a second time by itself, not even when the machine failed."""
    priority: int = Field(default=0, ge=-100, le=100)
    array: int = Field(default=0, ge=0, le=1_000)
    """It runs so often in one run, side by side, each with its own index; 0 is once, without one."""
    schedule: CronSpec | None = None


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
            raise InvalidInput(f"The review of {self.decision!r}: {wrong}.", code="BAD_REVIEW")
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
            raise InvalidInput(f"A counter of {self.stream} is named twice.", code="BAD_COUNTER")
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


class AppSpec(Spec):
    name: Name
    streams: tuple[StreamSpec, ...] = ()
    tables: tuple[TableSpec, ...] = ()
    feature_sets: tuple[FeatureSetSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    decides: tuple[DecideSpec, ...] = ()
    jobs: tuple[JobSpec, ...] = ()
    """Each after those that it needs."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Every name that is referred to is declared, and declared once."""
        sources = [s.name for s in self.streams] + [t.name for t in self.tables]
        sets, models = [f.name for f in self.feature_sets], [m.name for m in self.models]
        jobs = [j.name for j in self.jobs]
        for names in (sources, sets, [*models, *jobs]):  # `run NAME` runs a model's training or a job
            if len(set(names)) < len(names):
                raise InvalidInput(f"A name is declared twice among {', '.join(names)}.", code="DUPLICATE_NAME")
        wanted = [(f.source, sources) for f in self.feature_sets]
        wanted += [(m.train.features, sets) for m in self.models if m.train]
        for decide in self.decides:
            wanted += [(decide.stream, [s.name for s in self.streams]), (decide.model, models)]
        wanted += [(need, jobs[:place]) for place, job in enumerate(self.jobs) for need in job.needs]
        for name, known in wanted:
            if name not in known:
                raise InvalidInput(f"{name!r} is referred to, but not declared.", code="UNKNOWN_NAME")
        for decide in self.decides:
            train = self.model(decide.model).train
            check_decides(decide.stream, decide.model, self.feature_set(train.features).source if train else "")
            check_sinks(decide, self.stream(decide.stream))
            for review in decide.reviews:
                check_review(review, decide, [label.name for label in self.stream(decide.stream).labels])
            check_budgets(decide, self.stream(decide.stream))
        return self

    def source(self, name: str) -> StreamSpec | TableSpec:
        sources: tuple[StreamSpec | TableSpec, ...] = (*self.streams, *self.tables)
        return next(s for s in sources if s.name == name)

    def stream(self, name: str) -> StreamSpec:
        return next(s for s in self.streams if s.name == name)

    def feature_set(self, name: str) -> FeatureSetSpec:
        return next(f for f in self.feature_sets if f.name == name)

    def job(self, name: str) -> JobSpec:
        return next(j for j in self.jobs if j.name == name)

    def model(self, name: str) -> ModelSpec:
        return next(m for m in self.models if m.name == name)
