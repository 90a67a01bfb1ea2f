"""Of an application's specification: features, how models are trained of them, and jobs."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, NoReturn, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from skyriver.core.cron import check_cron
from skyriver.core.errors import InvalidInput
from skyriver.core.expr import Aggregate, Column, Lookup, Node, Same, walk
from skyriver.core.names import BY_ENTITY, BY_KEY
from skyriver.core.ranges import (
    MOST_AT_ONCE,
    MOST_CPUS,
    MOST_MEMORY_MB,
    MOST_PRIORITY,
    MOST_REPLICAS,
    SERVICE,
    duration,
    hint,
    outside,
    unfit,
)
from skyriver.core.resources import UNDECLARED_MB
from skyriver.core.spec_augment import AugmentSpec, MinoritySpec, Weights
from skyriver.core.spec_base import FieldName, InnerPath, Name, Spec
from skyriver.core.spec_gate import GateSpec, SliceSpec
from skyriver.core.spec_search import SearchSpec
from skyriver.core.spec_watch import RetrainSpec
from skyriver.core.units import SECOND, format_span, parse_duration, parse_rate

IDLE = "5m"
"""Without a request, before a service goes to sleep that declares nothing, while nobody has found out better."""
SHARE = 0.99
MOST_STRETCHES = 50


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

    @property
    def keys(self) -> tuple[str, ...]:
        """Fields of the event by which features look at other events or at references, in order of first use."""
        return tuple(dict.fromkeys((*(a.by for a in self.aggregates()), *(n.by for n in self.lookups()))))

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


MOST_WORKERS: Final = 64


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
    time: str = Field(default="", exclude_if=lambda value: not value)
    """Tables: a column of times, of whose last stretch `test_us` is held out in place of a share."""
    group: str = Field(default="", exclude_if=lambda value: not value)
    """Tables: a column; rows that share its value are never in both parts."""
    clean: CleanSpec | None = None
    search: SearchSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    prequential: int = Field(default=0, ge=0, le=MOST_STRETCHES, exclude_if=lambda value: not value)
    """Streams: so many stretches as long as the test, which is the last of them, are each judged by what was learnt
    before them; 0 is none."""
    augment: tuple[AugmentSpec, ...] = Field(default=(), exclude_if=lambda value: not value)
    """What becomes of the rows of a step, in this order."""
    minority: MinoritySpec | None = Field(default=None, exclude_if=lambda value: value is None)
    weights: Weights | None = Field(default=None, exclude_if=lambda value: value is None)
    weight: str = Field(default="", exclude_if=lambda value: not value)
    """A column of row weights."""
    workers: int = Field(default=0, ge=0, le=MOST_WORKERS, exclude_if=lambda value: not value)
    """Processes that do one training together; 0: the function is called once, in the process of the job."""
    exact: bool = Field(default=False, exclude_if=lambda value: not value)
    """The same bits on any number of workers."""
    gpus: int = Field(default=0, ge=0, le=1, exclude_if=lambda value: not value)
    """Of each worker."""

    @property
    def prepared(self) -> dict[str, Any]:
        """How training rows are weighed and changed, as JSON: part of what a version is of."""
        return self.model_dump(mode="json", include={"augment", "minority", "weights", "weight"})


class MetricSpec(Spec):
    """Precision among the `k` keys with the highest score a day, after the Fraud Detection Handbook."""

    name: FieldName
    kind: Literal["precision_at"] = "precision_at"
    k: int = Field(gt=0)
    by: str
    per_us: int = Field(gt=0)


class CompressSpec(Spec):
    max_loss: float = Field(gt=0)
    """The most that the gated metric (average precision) may fall, absolute."""


def _rate(text: str) -> str:
    if text:
        parse_rate(text, "a service's limit")
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class FromStreamSpec(Spec):
    """A model is also asked by the keys of its features, which are read from the state of a stream."""

    stream: Name
    on_unknown: Literal["answer", "refuse", "fallback"] = "answer"
    """Of a key without an event in any window. "answer": by the features of a key that was never seen, as the stream
    itself decides about its first event."""
    max_age: str = Field(default="", exclude_if=lambda value: not value)
    """How long ago the stream's last event may be, as "5m"; "" is however long."""
    on_old: Literal["refuse", "fallback"] = "refuse"
    """Where it is longer ago, or the state cannot be read now."""
    fallback: float | None = Field(default=None, allow_inf_nan=False, exclude_if=lambda value: value is None)
    """The score that is answered where `on_unknown` or `on_old` say so."""

    @property
    def max_age_us(self) -> int:
        """0: however long."""
        return parse_duration(self.max_age, "an age") if self.max_age else 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_age and not self.max_age_us:
            _refuse(f"max_age={self.max_age!r}: no event is as young.", "Leave it out for any age.")
        falls_back = [what for what in ("on_unknown", "on_old") if getattr(self, what) == "fallback"]
        if falls_back and self.fallback is None:
            _refuse(f'{falls_back[0]}="fallback" needs a fallback.', "Give the score to answer, as in fallback=0.02.")
        if self.fallback is not None and not falls_back:
            _refuse(
                f"fallback={self.fallback} is never answered.",
                'Say when, with on_unknown="fallback" or on_old="fallback".',
            )
        return self


class ServiceSpec(Spec):
    replicas: int | tuple[int, int] = 1
    """How many; `(least, most)`: as many as `latency` and `share` need; from 0 on it sleeps while nobody asks."""
    cpus: float = Field(default=1.0, gt=0, le=MOST_CPUS, allow_inf_nan=False)
    memory_mb: int = Field(default=UNDECLARED_MB, gt=0, le=MOST_MEMORY_MB)
    """Of a replica; what nobody declares is measured."""
    limit: Rate = Field(default="", exclude_if=lambda value: value == "")
    """Of requests a second by all callers together, as "100/s"; "" is none. What is more gets 429."""
    concurrency: int = Field(default=0, ge=0, le=MOST_AT_ONCE, exclude_if=lambda value: value == 0)
    """Of requests under way at once; 0 is no limit. What is more gets 429."""
    idle: str = Field(default="", exclude_if=lambda value: value == "")
    """After so long without a request a service of `(0, n)` replicas goes to sleep; the next request wakes it. "" is
    when keeping it costs more than waking it."""
    features: FromStreamSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """`sr.FromStream(...)`: it is also asked by the keys of its features."""
    latency: str = Field(default="", exclude_if=lambda value: value == "")
    """The objective: an answer is to take at most so long, as "50ms"; "" is no objective but that it answers."""
    share: float = Field(default=SHARE, gt=0.5, lt=1.0, allow_inf_nan=False, exclude_if=lambda value: value == SHARE)
    """Of the requests that are to be answered well, and within `latency`: what is missed faster than that allows is
    told as an incident; replicas of `(least, most)` are as many as keep it."""
    hold: str = Field(default="", exclude_if=lambda value: value == "")
    """Fewer replicas must do for so long before one is taken away; "" is 5 minutes, and twice a start where that is
    longer."""
    wake: str = Field(default="", exclude_if=lambda value: value == "")
    """A request that wakes the service may take so long; "" is as long as any, `latency`."""
    priority: int = Field(default=0, ge=-MOST_PRIORITY, le=MOST_PRIORITY, exclude_if=lambda value: value == 0)
    """Where a machine does not do for all, services of a higher one get replicas over their least first."""

    @field_validator("replicas", "cpus", "memory_mb", "concurrency", "share", "priority", mode="before")
    @classmethod
    def _number(cls, given: object, info: ValidationInfo) -> object:
        """Neither a text nor a truth is taken for one: it was hardly meant so."""
        parts = given if isinstance(given, tuple | list) else (given,)
        for part in parts:
            if isinstance(part, bool | str):
                raise PydanticKnownError("float_type" if info.field_name in ("cpus", "share") else "int_type")
        if info.field_name == "replicas" and isinstance(given, tuple | list) and len(given) != 2:
            raise unfit("replicas", f"{tuple(given)!r:.80} is not (least, most)")
        return given

    @property
    def latency_us(self) -> int:
        """0 where none is declared."""
        return parse_duration(self.latency, "a latency") if self.latency else 0

    @property
    def least(self) -> int:
        return self.replicas[0] if isinstance(self.replicas, tuple) else self.replicas

    @property
    def most(self) -> int:
        return self.replicas[1] if isinstance(self.replicas, tuple) else self.replicas

    @property
    def sleeps(self) -> bool:
        return self.least == 0

    @property
    def elastic(self) -> bool:
        """Its replicas are counted by the load while it is awake."""
        return self.most > self.awake

    @property
    def awake(self) -> int:
        """Replicas that it has at least while it is awake."""
        return max(self.least, 1)

    @property
    def idle_us(self) -> int:
        """Of a service of which nothing else is known; the rule's is with who decides."""
        return parse_duration(self.idle or IDLE)

    @property
    def hold_us(self) -> int | None:
        """None where none is declared."""
        return parse_duration(self.hold, "a hold") if self.hold else None

    @property
    def wake_us(self) -> int:
        """0 where none is declared."""
        return parse_duration(self.wake, "a time to wake") if self.wake else 0

    def cannot_keep(self, fastest_us: float) -> str:
        """Why no number of replicas keeps the objective, where the fastest answer takes so long; "" where some may."""
        if not self.latency_us or fastest_us <= self.latency_us:
            return ""
        took = f"{fastest_us / 1000:.3g} ms" if fastest_us < SECOND else format_span(int(fastest_us))
        return (
            f"latency={self.latency!r} cannot be kept by any number of replicas: the fastest answer takes"
            f" {took}; declare a longer latency=, or serve a smaller model"
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 1 <= self.most <= MOST_REPLICAS:
            why = f"replicas: {self.most} is not from 1 to {MOST_REPLICAS}; (0, n) sleeps while nobody asks"
            raise unfit("replicas", why)
        if not 0 <= self.least <= self.most:
            raise unfit("replicas", f"replicas={self.replicas}: they are (least, most), as in (1, 4)")
        for name in ("latency", "wake", "hold", "idle"):
            if given := getattr(self, name):
                duration(SERVICE, name, given, _CALLED[name])
        if self.hold_us is not None and not self.elastic:
            raise unfit("hold", "hold is for a service whose replicas follow the load, as those of replicas=(1, 4)")
        if self.hold_us is not None and self.hold_us < SECOND:
            raise unfit("hold", f"hold={self.hold!r} is shorter than a second")
        if self.wake and not self.sleeps:
            raise unfit("wake", "wake is for a service that sleeps, with replicas=(0, n)")
        if self.wake and self.wake_us <= self.latency_us:
            why = f"wake={self.wake!r} must be longer than latency={self.latency!r}, in whose place it is"
            raise unfit("wake", why)
        if not self.sleeps and self.idle:
            raise unfit("idle", "idle is for a service that sleeps, with replicas=(0, n)")
        if self.idle_us < SECOND:
            raise unfit("idle", f"idle={self.idle!r} is shorter than a second")
        if self.latency and not self.latency_us:
            raise unfit("latency", f"latency={self.latency!r}: nothing is answered at once")
        return self


_CALLED = {"latency": "a latency", "wake": "a time to wake", "hold": "a hold", "idle": "a duration"}


def check_service(serve: ServiceSpec, what: str) -> None:
    """Whether its durations can be meant: looked at as it is declared, for what stands in the control state stays
    readable. Raises InvalidInput (BAD_SERVICE)."""
    for name in ("latency", "wake", "hold", "idle"):
        given = getattr(serve, name)
        if given and (why := outside(SERVICE[name], parse_duration(given))):
            _refuse(f"{what}: {name}={given!r} {why}.", hint(SERVICE, name))


class ShadowSpec(Spec):
    """Before it serves, a version answers copies of requests, and nobody is sent its answers."""

    over: str = "10m"
    """For at least so long."""
    share: int = 10
    """Percent of the requests of which a copy is sent, 1 to 50."""
    wait: str = "1h"
    """For so long it is waited for enough copies to judge by; then the rollout pauses, and says so."""

    @property
    def over_us(self) -> int:
        return parse_duration(self.over)

    @property
    def wait_us(self) -> int:
        return parse_duration(self.wait)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 1 <= self.share <= 50:
            raise ValueError(f"share={self.share}: it is a whole percent from 1 to 50")
        if self.over_us < SECOND:
            raise ValueError(f"{self.over!r} is shorter than a second")
        if self.wait_us < self.over_us:
            raise ValueError(f"wait={self.wait!r} is shorter than the shadow, {self.over!r}")
        return self


Better = Literal["higher is better", "lower is better"]


class GuardsSpec(Spec):
    """What a version is taken back for while it is compared; 0: that is not watched."""

    errors: float = 1.0
    """Its odds of a failed answer may be so many times the champion's."""
    refusals: float = 1.1
    """The same of requests that are refused as wrong."""
    latency: float = 1.5
    """An answer is slow that takes so many times as long as 95% of the champion's."""
    scores: float = 1.2
    """Its odds of a score beyond one of the champion's deciles may be so many times the champion's."""

    metrics: dict[FieldName, Better] = Field(default={}, exclude_if=lambda value: not value)
    """What the application reports, and which way is better."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = {name: getattr(self, name) for name in ("errors", "refusals", "latency", "scores")}
        if not any((*given.values(), self.metrics)):
            raise ValueError("something must be watched, or nothing is compared")
        if reserved := {*given, "all", "started"} & self.metrics.keys():
            raise ValueError(f"metrics: {min(reserved)!r} is what is watched otherwise")
        for name, value in given.items():
            if value and not 1 <= value <= 10:
                raise ValueError(f"{name}={value:g} is not from 1 to 10; False does not watch it")
        return self


_HEADER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NO_KEYS = ("authorization", "connection", "content-", "host", "transfer-encoding", "x-request-", "x-skyriver-")
"""Headers that begin so are about the way of a request, or do not reach who would read them."""


class CanarySpec(Spec):
    """How a version that passed the gate comes to serve in place of another one: by steps, while it is compared."""

    steps: tuple[int, ...]
    """Percent of the requests, growing, from 1 to 99; after the last one it gets all."""
    every: str = "5m"
    """A step takes at least so long."""
    wait: str = "1h"
    """For so long a step waits for enough requests to judge by; then the rollout pauses, and says so."""
    shadow: ShadowSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """What comes before the first step."""
    guards: GuardsSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    key: str = Field(default="", exclude_if=lambda value: not value)
    """The header, in small letters, by whose value a request stays with its version; BY_ENTITY: the key of the entity
    that is asked for; "": chance decides."""

    @property
    def every_us(self) -> int:
        return parse_duration(self.every)

    @property
    def wait_us(self) -> int:
        return parse_duration(self.wait)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (
            not self.steps
            or list(self.steps) != sorted(set(self.steps))
            or not 1 <= self.steps[0] <= self.steps[-1] < 100
        ):
            raise ValueError(f"steps={list(self.steps)}: they are whole percents that grow, from 1 to 99, then 100")
        if self.every_us < SECOND:
            raise ValueError(f"every={self.every!r} is shorter than a second")
        if self.wait_us < self.every_us:
            raise ValueError(f"wait={self.wait!r} is shorter than a step, every={self.every!r}")
        if self.key and (not _HEADER.fullmatch(self.key) or self.key.startswith(_NO_KEYS)):
            raise ValueError(f"key={self.key!r} is no header of a caller's own, as x-customer, nor {BY_ENTITY!r}")
        return self


class BlueGreenSpec(Spec):
    """How a version comes to serve in place of another one: at once, and the one before is kept ready."""

    keep: str = "1h"
    """For so long the version before stays started, and can have all requests again in a moment."""
    shadow: ShadowSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """What comes before it."""
    guards: GuardsSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of the shadow: after the move there is nothing to compare with."""

    @property
    def keep_us(self) -> int:
        return parse_duration(self.keep)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.keep_us < SECOND:
            raise ValueError(f"keep={self.keep!r} is shorter than a second")
        if self.guards is not None and self.shadow is None:
            raise ValueError("guards compare in a shadow, and there is none: give shadow as well")
        return self


Calibrate = Literal["auto", "isotonic", "platt"]


class ModelSpec(Spec):
    name: Name
    train: TrainSpec | None = None
    onnx: InnerPath = ""
    """Path, inside the application's folder, of a ready model; either this or `train`."""
    registered: bool = Field(default=False, exclude_if=lambda value: not value)
    """Its versions come from outside (`skyriver model import`); neither of the two then."""
    metrics: tuple[MetricSpec, ...] = ()
    gate: GateSpec = GateSpec()
    compress: CompressSpec | None = None
    serve: ServiceSpec = ServiceSpec()
    rollout: CanarySpec | BlueGreenSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """How another version takes over; at once unless declared."""
    retrain: RetrainSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """When it is trained again by itself; never unless declared."""
    calibrate: Calibrate | None = Field(default="auto", exclude_if=lambda value: value == "auto")
    """How its scores are made probabilities, on rows that no training sees. "auto": where that takes no rows from the
    training, by as many positives as there are; None: not at all."""
    slices: tuple[SliceSpec, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Parts of the test rows that are measured on their own."""
    description: str = Field(default="", max_length=2_000, exclude_if=lambda value: not value)
    """What it is for, in a few sentences, for its card."""
    contact: str = Field(default="", max_length=200, exclude_if=lambda value: not value)
    licence: str = Field(default="", max_length=200, exclude_if=lambda value: not value)


def check_from_stream(model: ModelSpec, features: FeatureSetSpec | None) -> None:
    """`features`: those that the model is trained on. Raises InvalidInput (BAD_SERVICE)."""
    asked = model.serve.features
    if asked is None:
        return
    if features is None:
        _refuse(
            f"The model {model.name!r} is a ready file: nothing says which features of {asked.stream} it takes.",
            f"Leave out sr.FromStream, or train the model on features of {asked.stream}.",
        )
    if features.source != asked.stream:
        _refuse(
            f"The model {model.name!r} is trained on features of {features.source}, not of {asked.stream}.",
            f"Write sr.FromStream({features.source}).",
        )
    if not features.keys:
        _refuse(
            f"The features {features.name} of the model {model.name!r} are of an event alone: they have no key.",
            "Leave out sr.FromStream: its named fields are all there is to know.",
        )
    if taken := [name for name in features.names if name in BY_KEY]:
        _refuse(
            f"A feature of {features.name} is called {taken[0]!r}, which is a part of a request by key.",
            "Give the feature another name, or leave out sr.FromStream.",
        )


def check_folded(
    model: ModelSpec, features: FeatureSetSpec, deciding: ModelSpec | None, folded: FeatureSetSpec | None
) -> None:
    """`folded`: the features that the stream computes, of the model that is `deciding` about its events. Raises
    InvalidInput (BAD_SERVICE)."""
    if folded is not None and folded.features == features.features:
        return
    stream = features.source
    does = f"decides with {deciding.name}, by other features" if deciding is not None else "decides nothing"
    _refuse(
        f"The features {features.name} of the model {model.name!r} cannot be read from {stream}: it {does}.",
        f"A stream computes what it decides with: declare app.decide({stream}, ...) with a model that is trained on"
        f" {features.name}, or leave out sr.FromStream.",
    )


def _refuse(message: str, next_action: str) -> NoReturn:
    raise InvalidInput(message, code="BAD_SERVICE", next_action=next_action)


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
    memory_mb: int = Field(default=0, ge=0, le=MOST_MEMORY_MB)
    """What it is held to; 0 is nothing, and counts as one core and 512 MB when jobs are given their turn."""
    gpus: int = Field(default=0, ge=0, le=MOST_WORKERS, exclude_if=lambda value: not value)
    """That are its own while it runs."""
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
