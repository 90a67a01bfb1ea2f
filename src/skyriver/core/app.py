"""Declaring an application in Python.

    import skyriver as sr

    app = sr.App("risk")

    class Payment(sr.Event):
        payment: int
        at: sr.Time
        customer: int
        amount: float = sr.field(ge=0, unit="EUR")

    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="7d")
    behaviour = app.features("behaviour", payments, {
        "amount": payments.amount,
        "customer_mean_7d": sr.mean("amount", by="customer", over="7d"),
    })

    @app.train(behaviour, label=frauds, test="7d")
    def fit(data: sr.TrainingData) -> lightgbm.Booster: ...

    model = app.model("fraud", fit, gate=sr.Gate(average_precision=">= 0.6"))
    app.decide(payments, model, {"block": "score >= 0.9"}, otherwise="approve")

Declarations are checked as they are made: the traceback of the error ends in the line of the user's file, which
the loader shows. What is declared is plain data (`App.spec`); the decorated functions stay plain functions that
can be called and tested.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from skyriver.core import spec as specs
from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.expr import (
    MOST_SPAN_US,
    Aggregate,
    Column,
    Expression,
    Label,
    Lookup,
    ReferenceField,
    Same,
    as_expression,
    numbers,
    render,
    walk,
)
from skyriver.core.names import canonical_json, check_field, check_name
from skyriver.core.sources import Mqtt, Nats, NatsLog
from skyriver.core.units import format_duration, parse_duration, parse_memory

Function = TypeVar("Function", bound=Callable[..., Any])


def _refuse(message: str, code: str, next_action: str = "") -> NoReturn:
    raise InvalidInput(message, code=code, next_action=next_action)


MOST_DISORDER_US = parse_duration("31d")
"""An event that is late by no more counts as if it had come now: it stands in the windows of today."""


def _disorder(text: str) -> int:
    found = parse_duration(text, "a disorder")
    if found > MOST_DISORDER_US:
        _refuse(
            f"disorder={text!r} is more than {format_duration(MOST_DISORDER_US)}: an event that is late by no more"
            " counts as if it had happened now, in all windows.",
            "BAD_STREAM",
            "Declare how late events usually are, in seconds or hours; load older ones as history (`skyriver table"
            " load`).",
        )
    return found


LEAST_LOG = 16_000_000
"""Bytes. A log is given up, and leaves the disk, in segments of an eighth of its limit; smaller ones cost too much."""


def _lingered(linger: str) -> int:
    found = parse_duration(linger, "a time to linger")
    if found > specs.MOST_LINGER:
        _refuse(f"linger={linger!r} is too long.", "BAD_STREAM", "An event waits for others 10 ms at most.")
    return found


def _kept(retention: str | None, retention_bytes: str | None, local_bytes: str, dedupe_us: int) -> tuple[int, int, int]:
    """How long, up to which size, and up to which size on the local disk a stream keeps its log."""
    kept_us = parse_duration(retention, "a retention") if retention is not None else 0
    if retention is not None and kept_us < max(1, dedupe_us):
        _refuse(
            f"retention={retention!r} is shorter than dedupe={format_duration(dedupe_us)!r}: an event that comes again"
            " within that time is answered with its first decision, which the log must have.",
            "BAD_STREAM",
            "Declare a longer retention, or a shorter dedupe.",
        )
    kept_bytes = parse_memory(retention_bytes, "a size of a log") * 1_000_000 if retention_bytes is not None else 0
    local = parse_memory(local_bytes, "a size of a log") * 1_000_000
    for name, size in (("local_bytes", local), ("retention_bytes", kept_bytes if retention_bytes else LEAST_LOG)):
        if size < LEAST_LOG:
            _refuse(f"{name} is {size / 1e6:g} MB: at least {LEAST_LOG / 1e6:g} MB.", "BAD_STREAM")
    return kept_us, kept_bytes, local


def _check_json(value: object, what: str) -> None:
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        _refuse(f"{what} cannot be told as JSON: {error}.", "BAD_JOB")


def _as_cron(schedule: object) -> str:
    return f"Write sr.Cron({json.dumps(schedule)})." if isinstance(schedule, str) else 'Write sr.Cron("0 3 * * *").'


def _check_takes_job(function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function that is not of Python does not say
        return
    try:
        signature.bind(None)
    except TypeError:
        _refuse(
            f"{function.__name__} cannot be called with a job alone.",
            "BAD_JOB",
            f"Write `def {function.__name__}(job: sr.Job)`; parameters come in job.params.",
        )


class Time:
    """Annotation of a field that holds a point in time."""


class Event:
    """Base of the classes that declare the fields of a stream or table."""


@dataclass(frozen=True)
class _FieldOptions:
    options: Mapping[str, Any]


def field(
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    one_of: tuple[str | int, ...] = (),
    fill: float | int | str | bool | None = None,
    unit: str = "",
    scale: float = 1.0,
    time_unit: str = "us",
    max_length: int = 4096,
) -> Any:
    """Border cleaning of one field; see `skyriver.core.spec.FieldSpec` for what each option does, in which order."""
    return _FieldOptions({k: v for k, v in locals().items() if v not in (None, (), "")})


_TYPES: dict[object, specs.FieldType] = {int: "int", float: "float", str: "text", bool: "bool", Time: "time"}


def _field_specs(event: type[Event]) -> tuple[specs.FieldSpec, ...]:
    if not (isinstance(event, type) and issubclass(event, Event)):
        _refuse(f"{event!r} is not a subclass of sr.Event.", "BAD_EVENT")
    fields = []
    for name, hint in typing.get_type_hints(event).items():
        nullable = False
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
            rest = [h for h in typing.get_args(hint) if h is not type(None)]
            nullable = len(rest) < len(typing.get_args(hint))
            hint = rest[0] if len(rest) == 1 else hint
        if hint not in _TYPES:
            _refuse(
                f"Field {name} of {event.__name__} has the type {getattr(hint, '__name__', hint)}.",
                "BAD_EVENT",
                "Use int, float, str, bool or sr.Time, with `| None` where a value may be missing.",
            )
        declared = getattr(event, name, _FieldOptions({}))
        if not isinstance(declared, _FieldOptions):
            _refuse(
                f"Field {name} of {event.__name__} has the value {declared!r}.",
                "BAD_EVENT",
                f"Write `{name}: {getattr(hint, '__name__', hint)} = sr.field(fill={declared!r})` for a constant fill.",
            )
        check_field(name, "a field")
        fields.append(specs.FieldSpec(name=name, type=_TYPES[hint], nullable=nullable, **declared.options))
    if not fields:
        _refuse(f"{event.__name__} declares no fields.", "BAD_EVENT", "Annotate at least an id, as in `number: int`.")
    return tuple(fields)


class Source:
    """A declared stream or table: its attributes are its fields, as expressions."""

    def __init__(self, name: str, declared: Mapping[str, specs.StreamSpec] | Mapping[str, specs.TableSpec]) -> None:
        self._name = name
        self._declared = declared

    @property
    def _spec(self) -> specs.StreamSpec | specs.TableSpec:
        return self._declared[self._name]  # labels are added to a stream after it was declared

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("_"):
            raise AttributeError(name)
        known = [f.name for f in self._spec.fields]
        if name not in known:
            _refuse(f"{self._spec.name} has no field {name!r}.", "UNKNOWN_FIELD", f"It has {', '.join(known)}.")
        return Expression(Column(name=name), self._spec.name)

    def __repr__(self) -> str:
        return f"<{'stream' if isinstance(self._spec, specs.StreamSpec) else 'table'} {self._name}>"


class Reference:
    """A declared reference: its attributes are its fields, for `sr.lookup`."""

    def __init__(self, spec: specs.ReferenceSpec, of: str) -> None:
        self._spec = spec
        self._of = of

    def __getattr__(self, name: str) -> ReferenceField:
        if name.startswith("_"):
            raise AttributeError(name)
        known = [f.name for f in self._spec.fields]
        if name not in known:
            _refuse(f"{self._spec.name} has no field {name!r}.", "UNKNOWN_FIELD", f"It has {', '.join(known)}.")
        return ReferenceField(self._spec.name, name, self._of)

    def __repr__(self) -> str:
        return f"<reference {self._spec.name} of {self._of}>"


@dataclass(frozen=True)
class Features:
    spec: specs.FeatureSetSpec


@dataclass(frozen=True)
class Gate:
    """What a version must reach before it may be released: `Gate(average_precision=">= 0.6")`."""

    spec: specs.GateSpec

    def __init__(self, *, against: str = "", tolerance: float = 0.0, **rules: str) -> None:
        if against not in ("", "champion"):
            _refuse(f"against={against!r} is not known.", "BAD_GATE", 'Use against="champion" or leave it out.')
        parsed = []
        for metric, rule in rules.items():
            op, _, number = rule.strip().partition(" ") if isinstance(rule, str) else ("", "", "")
            try:
                if op not in (">=", "<=", ">", "<"):
                    raise ValueError(op)
                parsed.append(specs.GateRule(metric=metric, op=op, value=float(number)))  # type: ignore[arg-type]
            except ValueError:
                _refuse(f"The gate {metric}={rule!r} is not understood.", "BAD_GATE", 'Write e.g. ">= 0.6".')
        gate = specs.GateSpec(rules=tuple(parsed), against=against, tolerance=tolerance)  # type: ignore[arg-type]
        object.__setattr__(self, "spec", gate)


def _check_gate(gate: specs.GateSpec, measured: Sequence[str]) -> None:
    for rule in gate.rules:
        if rule.metric not in measured:
            near = get_close_matches(rule.metric, measured, n=1)
            _refuse(
                f"The gate's metric {rule.metric!r} is not measured{f': did you mean {near[0]}?' if near else '.'}",
                "BAD_GATE",
                f"There are {', '.join(measured)}; metrics of your own are named in metrics=.",
            )


@dataclass(frozen=True)
class Cron:
    """When a job runs by itself: `Cron("0 3 * * *", zone="Europe/Berlin", missed="once")`."""

    spec: specs.CronSpec

    def __init__(self, expression: str, *, zone: str = "UTC", missed: str = "once", overlap: bool = False) -> None:
        if missed not in ("skip", "once", "all"):
            _refuse(f"missed={missed!r} is not known.", "BAD_SCHEDULE", 'Write "skip", "once" or "all".')
        cron = specs.CronSpec(expression=expression, zone=zone, missed=missed, overlap=overlap)  # type: ignore[arg-type]
        object.__setattr__(self, "spec", cron)


def precision_at(k: int, *, by: str, per: str = "1d") -> specs.MetricSpec:
    """Precision among the `k` keys with the highest score in each `per`; keys known as positive before are left out."""
    return specs.MetricSpec(name=f"precision_at_{k}", k=k, by=by, per_us=parse_duration(per, "a period"))


class App:
    """An application: streams, tables, features, models and decisions, declared once."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name, "an application")
        self.functions: dict[str, Callable[..., Any]] = {}
        self._streams: dict[str, specs.StreamSpec] = {}
        self._tables: dict[str, specs.TableSpec] = {}
        self._features: dict[str, specs.FeatureSetSpec] = {}
        self._trains: dict[str, specs.TrainSpec] = {}
        self._models: dict[str, specs.ModelSpec] = {}
        self._decides: dict[str, specs.DecideSpec] = {}
        self._jobs: dict[str, specs.JobSpec] = {}

    @property
    def spec(self) -> specs.AppSpec:
        """The application as data."""
        return specs.AppSpec(
            name=self.name,
            streams=tuple(self._streams.values()),
            tables=tuple(self._tables.values()),
            feature_sets=tuple(self._features.values()),
            models=tuple(self._models.values()),
            decides=tuple(self._decides.values()),
            jobs=tuple(self._jobs.values()),
        )

    def stream(
        self,
        name: str,
        event: type[Event],
        *,
        id: str,
        time: str,
        key: str,
        disorder: str = "5s",
        ahead: str = "1m",
        dedupe: str = "24h",
        durability: specs.Durability = "disk",
        zone: str = "UTC",
        max_bad: float = 0.05,
        source: Mqtt | Nats | None = None,
        log: NatsLog | None = None,
        retention: str | None = None,
        retention_bytes: str | None = None,
        local_bytes: str = "10GB",
        linger: str = "0ms",
    ) -> Source:
        """A stream of events, which owns the table of its name.

        `disorder`: how late an event may come and still count; `ahead`: how far in front of our clock its
        time may be; `dedupe`: for how long an id is remembered; `durability`: an event is acknowledged once
        it survives the end of the process ("process") or of the power ("disk"); `source`: a broker from which events
        come too, `sr.Mqtt(...)` or `sr.Nats(...)`; `log`: `sr.NatsLog(...)`, where it is not to be in files; `linger`:
        how long an event may wait for others (at most 10 ms), to be decided and written with them for less CPU time.
        """
        fields = self._new_source(name, event)
        self._check_role(fields, id, "id", ("int", "text"))
        self._check_role(fields, time, "time", ("time",))
        self._check_role(fields, key, "key", ("int", "text"))
        if durability not in ("process", "disk"):
            _refuse(f"durability={durability!r} is not known.", "BAD_STREAM", 'Use "disk" or "process".')
        if not isinstance(source, Mqtt | Nats | None):
            _refuse("source= is no source.", "BAD_SOURCE", "Write sr.Mqtt(...) or sr.Nats(...).")
        dedupe_us = parse_duration(dedupe, "a period")
        kept = _kept(retention, retention_bytes, local_bytes, dedupe_us)
        if not isinstance(log, NatsLog | None):
            _refuse("log= is no log.", "BAD_STREAM", "Write sr.NatsLog(...), or leave it out.")
        self._streams[name] = specs.StreamSpec(
            name=name,
            fields=fields,
            id=id,
            time=time,
            key=key,
            disorder_us=_disorder(disorder),
            ahead_us=parse_duration(ahead, "a limit ahead of the clock"),
            dedupe_us=dedupe_us,
            durability=durability,
            zone=self._check_zone(zone),
            max_bad=max_bad,
            source=source.spec if source is not None else None,
            log=log.spec if log is not None else None,
            retention_us=kept[0],
            retention_bytes=kept[1],
            local_bytes=kept[2],
            linger_us=_lingered(linger),
        )
        return Source(name, self._streams)

    def table(self, name: str, row: type[Event], *, id: str, max_bad: float = 0.05) -> Source:
        """A table that is loaded from files."""
        fields = self._new_source(name, row)
        self._check_role(fields, id, "id", ("int", "text"))
        self._tables[name] = specs.TableSpec(name=name, fields=fields, id=id, max_bad=max_bad)
        return Source(name, self._tables)

    def labels(self, name: str, *, of: Source, delay: str) -> Label:
        """The truth about events of a stream, known `delay` after them at the earliest for features' purposes."""
        check_field(name, "a label")
        stream = self._streams.get(of._spec.name)
        if stream is None:
            _refuse(f"{of._spec.name} is not a stream.", "BAD_LABEL", "In a table, a label is one of its columns.")
        if any(f.name == name for f in stream.fields):
            _refuse(
                f"The label {name!r} is also a field of {stream.name}: it would leak into the features.",
                "LABEL_LEAK",
                f"Remove the field {name!r} from the event; labels are loaded and sent as labels.",
            )
        if any(known.name == name for known in stream.labels):
            _refuse(f"{stream.name} has a label {name!r} already.", "DUPLICATE_NAME")
        label = specs.LabelSpec(name=name, delay_us=parse_duration(delay, "a delay"))
        self._streams[stream.name] = stream.model_copy(update={"labels": (*stream.labels, label)})
        return Label(name, stream.name, label.delay_us)

    def reference(self, name: str, row: type[Event], *, of: Source, id: str, time: str) -> Reference:
        """Rows about what events of a stream name by its id, such as the shop of a payment, for `sr.lookup`.

        A row is current from its field `time` on, until the next one of the same `id`; it is sent to the stream, or
        loaded with its history, and belongs to it as labels do.
        """
        check_field(name, "a reference")
        stream = self._streams.get(of._spec.name)
        if stream is None:
            _refuse(f"{of._spec.name} is not a stream.", "BAD_REFERENCE", "A reference is of a stream's events.")
        if any(known.name == name for known in stream.references):
            _refuse(f"{stream.name} has a reference {name!r} already.", "DUPLICATE_NAME")
        if name in specs.PARTS_OF_STREAMS:
            _refuse(
                f"{name!r} cannot name a reference: {stream.name}.{name} is a table that every stream has.",
                "BAD_REFERENCE",
                "Give it another name.",
            )
        fields = _field_specs(row)
        self._check_role(fields, id, "id", ("int", "text"))
        self._check_role(fields, time, "time", ("time",))
        spec = specs.ReferenceSpec(name=name, fields=fields, id=id, time=time)
        self._streams[stream.name] = stream.model_copy(update={"references": (*stream.references, spec)})
        return Reference(spec, stream.name)

    def features(self, name: str, source: Source, features: Mapping[str, object]) -> Features:
        """Named expressions over one stream or table; order matters, it is the model's input order."""
        check_name(name, "a feature set")
        if name in self._features:
            _refuse(f"There is a feature set {name!r} already.", "DUPLICATE_NAME")
        if not features:
            _refuse(f"The feature set {name!r} is empty.", "BAD_FEATURE")
        spec = source._spec
        parsed = []
        for feature, value in features.items():
            check_field(feature, "a feature")
            try:
                expression = as_expression(value)
            except SkyriverError as error:
                _refuse(f"Feature {feature}: {error.message}", error.code, error.next_action)
            if expression.source not in ("", spec.name):
                _refuse(
                    f"Feature {feature} uses {expression.source}, but {name!r} is computed from {spec.name}.",
                    "BAD_FEATURE",
                )
            self._check_feature(feature, expression, spec)
            parsed.append(specs.FeatureSpec(name=feature, expr=expression.node))
        self._features[name] = specs.FeatureSetSpec(name=name, source=spec.name, features=tuple(parsed))
        return Features(self._features[name])

    def train(
        self,
        features: Features,
        *,
        label: Label | Expression,
        test: str | float | None = None,
        clean: specs.CleanSpec | None = None,
    ) -> Callable[[Function], Function]:
        """Declares the decorated function as the training of a model.

        It gets the training part as `TrainingData` and returns a fitted model. `test` is what is held out:
        for a stream the last stretch of time ("7d"), for a table a share (0.3). `clean` is fitted on the training part
        and travels with the model; the function gets cleaned rows.
        """
        source = features.spec.source
        if isinstance(label, Label):
            if label.of != source:
                _refuse(f"The label {label.name} is of {label.of}, the features are of {source}.", "BAD_LABEL")
            name = label.name
        elif isinstance(label, Expression) and isinstance(label.node, Column) and label.source == source:
            name = label.node.name
            if source in self._streams:
                _refuse(f"{name} is a field of the stream {source}.", "BAD_LABEL", "Declare it with app.labels.")
        else:
            labels = [known.name for known in self._streams[source].labels] if source in self._streams else []
            _refuse(
                f"label={label!r} is neither a label nor a column of {source}.",
                "BAD_LABEL",
                f"{source} has the label{'s' if len(labels) > 1 else ''} {', '.join(labels)}: give what app.labels"
                " returned."
                if labels
                else f'Give what app.labels("...", of={source}, delay="...") returned.'
                if source in self._streams
                else f"Give a column, as in {source}.{self._tables[source].fields[-1].name}.",
            )
        for feature in features.spec.features:
            if any(isinstance(node, Column) and node.name == name for node in walk(feature.expr)):
                _refuse(
                    f"Feature {feature.name} = {render(feature.expr)} reads the label {name!r}: it leaks.",
                    "LABEL_LEAK",
                    f"Take {name!r} out of the feature {feature.name!r}.",
                )
        held: dict[str, Any] = {}
        if source in self._streams:
            if not isinstance(test, str | None):
                _refuse(
                    f"test={test!r} is not a stretch of time.", "BAD_SPLIT", 'A stream is split by time: test="7d".'
                )
            held["test_us"] = parse_duration(test or "7d", "a stretch of time")
        else:
            if not isinstance(test, float | None) or (test is not None and not 0 < test < 1):
                _refuse(f"test={test!r} is not a share between 0 and 1.", "BAD_SPLIT", "For a table write test=0.3.")
            held["test_share"] = test or 0.3

        def declare(function: Function) -> Function:
            qualified = function.__qualname__
            self.functions[qualified] = function
            self._trains[qualified] = specs.TrainSpec(
                function=qualified, features=features.spec.name, label=name, clean=clean, **held
            )
            return function

        return declare

    def job(
        self,
        *,
        name: str = "",
        needs: Sequence[Callable[..., Any]] = (),
        params: Mapping[str, Any] | None = None,
        cpus: float = 0,
        memory: str = "",
        timeout: str = "",
        retries: int = 0,
        repeatable: bool = True,
        priority: int = 0,
        array: int = 0,
        schedule: Cron | None = None,
    ) -> Callable[[Function], Function]:
        """Declares the decorated function as a job: it gets a `Job`, and returns what can be told as JSON, or None.

        `needs` are functions of `@app.job` that run before it, whose outputs it gets; see
        `skyriver.core.spec.JobSpec` for what the others say. It is called like the function unless it has a `name`.
        """
        held = {
            "cpus": cpus,
            "memory_mb": parse_memory(memory, "a size of memory") if memory else 0,
            "timeout_us": parse_duration(timeout, "a time limit") if timeout else 0,
        }
        if schedule is not None and not isinstance(schedule, Cron):
            _refuse(f"schedule={schedule!r} is no sr.Cron.", "BAD_SCHEDULE", _as_cron(schedule))
        _check_json(params or {}, "The value of a parameter")
        settings = {"retries": retries, "repeatable": repeatable, "priority": priority, "array": array}

        def declare(function: Function) -> Function:
            called = name or function.__name__.replace("_", "-")
            check_name(called, "a job")
            _check_takes_job(function)
            if called in self._jobs or called in self._models:
                _refuse(f"There is a job or model {called!r} already.", "DUPLICATE_NAME", "Give it a name=.")
            self.functions[function.__qualname__] = function
            try:
                self._jobs[called] = specs.JobSpec(
                    name=called,
                    function=function.__qualname__,
                    needs=tuple(self._job_of(need) for need in needs),
                    params=dict(params or {}),
                    schedule=schedule.spec if schedule is not None else None,
                    **held,  # type: ignore[arg-type]
                    **settings,  # type: ignore[arg-type]
                )
            except ValidationError as error:
                found = error.errors()[0]
                _refuse(f"{'.'.join(map(str, found['loc']))}={found['input']!r}: {found['msg']}.", "BAD_JOB")
            return function

        return declare

    def _job_of(self, function: Callable[..., Any]) -> str:
        qualified = getattr(function, "__qualname__", "")
        for known in self._jobs.values():
            if known.function == qualified:
                return known.name
        _refuse(f"{function!r} is not a job.", "BAD_JOB", "Decorate it with @app.job(...), above this one.")

    def model(
        self,
        name: str,
        train: Callable[..., Any] | None = None,
        *,
        onnx: str = "",
        metrics: Mapping[str, specs.MetricSpec] | None = None,
        gate: Gate | None = None,
        compress: specs.CompressSpec | None = None,
        serve: specs.ServiceSpec | None = None,
    ) -> specs.ModelSpec:
        """A model: trained by a function of `@app.train`, or a ready ONNX file in the application's folder."""
        check_name(name, "a model")
        if name in self._models or name in self._jobs:
            _refuse(f"There is a model or job {name!r} already.", "DUPLICATE_NAME")
        if (train is None) == (not onnx):
            _refuse(f"The model {name!r} needs a training function or onnx=, one of the two.", "BAD_MODEL")
        trained = None
        if train is not None:
            trained = self._trains.get(getattr(train, "__qualname__", ""))
            if trained is None:
                _refuse(f"{train!r} is no training function.", "BAD_MODEL", "Decorate it with @app.train(...).")
        named = tuple(m.model_copy(update={"name": check_field(key, "a metric")}) for key, m in (metrics or {}).items())
        if trained is not None and gate is not None:
            _check_gate(gate.spec, [*specs.MEASURED, *(metric.name for metric in named)])
        self._models[name] = specs.ModelSpec(
            name=name,
            train=trained,
            onnx=onnx,
            metrics=named,
            gate=gate.spec if gate else specs.GateSpec(),
            compress=compress,
            serve=serve or specs.ServiceSpec(),
        )
        return self._models[name]

    def decide(
        self,
        stream: Source,
        model: specs.ModelSpec,
        rules: Mapping[str, str],
        *,
        otherwise: str,
        fallback: str | None = None,
        fallback_by: Sequence[str] = (),
        deadline: str | None = None,
    ) -> None:
        """What is done with each event: the first rule that is true decides, else `otherwise`.

        `fallback` (`otherwise` unless given) is decided when there is no score: no version yet, the model failed or
        took longer than its `deadline` ("5ms"), or the event came too late to count. Before that word come, as
        `fallback_by` names them, the score of the version that was released before ("last_version") and the rules that
        do not read the score ("rules").
        """
        name = stream._spec.name
        if name not in self._streams:
            _refuse(f"{name} is not a stream.", "BAD_DECISION", "Rows of a table are scored with `skyriver predict`.")
        specs.check_decides(name, model.name, self._features[model.train.features].source if model.train else "")
        if name in self._decides:
            _refuse(f"{name} has its decisions already.", "DUPLICATE_NAME")
        for decision in (*rules, otherwise, fallback or otherwise):
            check_name(decision, "a decision")
        unknown = [by for by in fallback_by if by not in ("last_version", "rules")]
        if unknown or len(set(fallback_by)) < len(fallback_by):
            _refuse(
                f"fallback_by={list(fallback_by)} holds other words than last_version and rules.",
                "BAD_DECISION",
                'Name each at most once: "last_version", "rules".',
            )
        self._decides[name] = specs.DecideSpec(
            stream=name,
            model=model.name,
            rules=tuple(specs.DecisionRule(decision=d, when=w) for d, w in rules.items()),
            otherwise=otherwise,
            fallback=fallback or otherwise,
            fallback_by=tuple(by for by in ("last_version", "rules") if by in fallback_by),
            deadline_us=parse_duration(deadline, "a deadline") if deadline is not None else 0,
        )

    def _new_source(self, name: str, event: type[Event]) -> tuple[specs.FieldSpec, ...]:
        check_name(name, "a stream or table")
        if name in self._streams or name in self._tables:
            _refuse(f"There is a stream or table {name!r} already.", "DUPLICATE_NAME")
        return _field_specs(event)

    @staticmethod
    def _check_role(fields: tuple[specs.FieldSpec, ...], name: str, role: str, allowed: tuple[str, ...]) -> None:
        found = next((f for f in fields if f.name == name), None)
        if found is None:
            _refuse(
                f"{role}={name!r} is not a field.", "UNKNOWN_FIELD", f"Fields: {', '.join(f.name for f in fields)}."
            )
        if found.type not in allowed or found.nullable or found.fill is not None:
            _refuse(
                f"{name!r} cannot be the {role}: it must be of type {' or '.join(allowed)} and never missing.",
                "BAD_FIELD",
            )

    @staticmethod
    def _check_zone(zone: str) -> str:
        if zone != "UTC":
            _refuse(f"zone={zone!r} is not supported yet.", "BAD_STREAM", "Calendar features are computed in UTC.")
        return zone

    @staticmethod
    def _check_feature(feature: str, expression: Expression, source: specs.StreamSpec | specs.TableSpec) -> None:
        types_of = {f.name: f.type for f in source.fields}
        as_number = set(numbers(expression.node))
        missing = {f.name: f.nullable and f.fill is None for f in source.fields}
        for node in walk(expression.node):
            match node:
                case Column(name=name) if types_of[name] == "text" and node in as_number:
                    _refuse(f"Feature {feature} uses the text {name} as a number.", "BAD_FEATURE", specs.OF_TEXTS)
                case Same(column=name, text=text):
                    field = next(f for f in source.fields if f.name == name)
                    if field.type != "text":
                        _refuse(f"Feature {feature}: {name} is no text, and {text!r} is one.", "BAD_FEATURE")
                    if field.one_of and text not in field.one_of:
                        _refuse(
                            f"Feature {feature}: {name} is never {text!r}.",
                            "BAD_FEATURE",
                            f"It is one of {', '.join(map(repr, field.one_of))}.",
                        )
                case Aggregate() if isinstance(source, specs.TableSpec):
                    _refuse(
                        f"Feature {feature}: {render(node)} needs a stream, {source.name} is a table.", "BAD_FEATURE"
                    )
                case Aggregate(by=by) | Lookup(by=by) if by not in types_of:
                    _refuse(
                        f"Feature {feature}: by={by!r} is not a field of {source.name}.",
                        "UNKNOWN_FIELD",
                        f"It has {', '.join(types_of)}.",
                    )
                case Aggregate(by=by) | Lookup(by=by) if types_of[by] not in ("int", "text"):
                    _refuse(f"Feature {feature}: by={by!r} must be an int or text field.", "BAD_FEATURE")
                case Aggregate(over_us=over_us, delay_us=delay_us) if over_us + delay_us > MOST_SPAN_US:
                    _refuse(f"Feature {feature}: {render(node)}: the window is longer than 100 years.", "BAD_DURATION")
                case Lookup(reference=name, column=column, by=by):
                    reference = next(r for r in source.references if r.name == name)  # type: ignore[union-attr]
                    if reference.field(reference.id).type != types_of[by]:
                        _refuse(
                            f"Feature {feature}: {render(node)}: {name} is looked up by {reference.id}, of type"
                            f" {reference.field(reference.id).type}, and {by} is of type {types_of[by]}.",
                            "BAD_FEATURE",
                            f"Give both the same type, or look it up by another field of {source.name}.",
                        )
                    if reference.field(column).type == "text":
                        _refuse(f"Feature {feature} uses the text {name}.{column} as a number.", "BAD_FEATURE")
                case Aggregate(kind=kind, column=column, label=label):
                    if column and column not in types_of:
                        known_labels = getattr(source, "labels", ())
                        if any(known.name == column for known in known_labels):
                            _refuse(
                                f"Feature {feature} takes the label {column!r} by name: without its delay it leaks.",
                                "LABEL_LEAK",
                                f"Pass the label itself, as returned by app.labels({column!r}, ...).",
                            )
                        _refuse(
                            f"Feature {feature}: {column!r} is not a field of {source.name}.",
                            "UNKNOWN_FIELD",
                            f"It has {', '.join(types_of)}.",
                        )
                    if column and kind == "distinct" and types_of[column] not in ("int", "text"):
                        _refuse(
                            f"Feature {feature}: the different values of {column!r} cannot be counted.",
                            "BAD_FEATURE",
                            "They can of int and text fields.",
                        )
                    if column and kind != "distinct" and types_of[column] not in ("int", "float", "bool"):
                        _refuse(f"Feature {feature}: {column!r} is not a number.", "BAD_FEATURE")
                    if label and not any(known.name == label for known in source.labels):  # type: ignore[union-attr]
                        _refuse(f"Feature {feature}: {label!r} is not a label of {source.name}.", "UNKNOWN_FIELD")
            if isinstance(node, Aggregate | Lookup) and missing[node.by]:
                _refuse(
                    f"Feature {feature}: the key {node.by!r} may be missing.",
                    "BAD_FEATURE",
                    f"Give the field a fill value, as in `{node.by}: ... = sr.field(fill=...)`.",
                )
