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

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from skyriver.core import spec as specs
from skyriver.core import terms
from skyriver.core.budgets import Budget, Count, Strictest, budgets_of, combine_of, counters_of
from skyriver.core.costs import Costs, costs_of
from skyriver.core.errors import SkyriverError
from skyriver.core.events import Event, Features, Reference, Source, check_role, field_specs, refuse
from skyriver.core.expr import Expression, Label, as_expression
from skyriver.core.names import check_field, check_name
from skyriver.core.sources import Mqtt, Nats, NatsLog
from skyriver.core.terms import Cron, Gate
from skyriver.core.units import parse_duration, parse_memory

Function = TypeVar("Function", bound=Callable[..., Any])


class Decisions:
    """What is declared by `App.decide`, to say more of it."""

    def __init__(self, spec: specs.DecideSpec, stream: Source) -> None:
        self.spec = spec
        self._stream = stream

    def example(
        self,
        decision: str,
        /,
        **given: bool | int | float | str | Sequence[int | str | Mapping[str, bool | int | float | str | None]] | None,
    ) -> Decisions:
        """An event that must get this decision, by what is `given` of it: the score, fields, features. What is not
        given is missing; without a score the fallback decides. Of a list its rows are given, or their ids alone:
        `customer=1, denied=[1], limits=[{"customer": 1, "amount": 50}]`. Each `skyriver deploy` runs the rules on all
        examples, and refuses an application whose rules decide otherwise."""
        check_name(decision, "a decision")
        lists = {r.name: r for r in self._stream._spec.references if r.until}  # type: ignore[union-attr]  # a stream
        rows: dict[str, tuple[Mapping[str, Any], ...]] = {}
        plain: dict[str, bool | int | float | str | None] = {}
        for name, value in given.items():
            if isinstance(value, Sequence) and not isinstance(value, str) and name in lists:
                rows[name] = tuple(r if isinstance(r, Mapping) else {lists[name].id: r} for r in value)
            elif terms.is_plain(value):
                plain[name] = value  # type: ignore[assignment]  # it was looked at
            elif isinstance(value, Sequence):
                refuse(
                    f"{name}={value!r:.80} of an example are rows of a list, and there is no list {name!r}.",
                    "BAD_EXAMPLE",
                    f"There are {', '.join(lists)}." if lists else "app.list declares one.",
                )
            else:
                refuse(f"{name}={value!r:.80} of an example is no number, text or truth.", "BAD_EXAMPLE")
        bad = next(
            ((n, v) for n, of in rows.items() for row in of for v in row.values() if not terms.is_plain(v)), None
        )
        if bad is not None:
            refuse(f"{bad[0]} of an example holds {bad[1]!r:.80}, no number, text or truth.", "BAD_EXAMPLE")
        example = specs.DecisionExample(decision=decision, given=plain, lists=rows)  # type: ignore[arg-type]
        self.spec = self.spec.model_copy(update={"examples": (*self.spec.examples, example)})
        return self

    def sink(
        self,
        to: str,
        *,
        on: str | Sequence[str],
        ordered: str = "",
        parked: Literal["hold", "pass"] = "hold",
        parallel: int = 8,
        tries: int = 50,
        retry_for: str = "1d",
        approve: bool = False,
        approve_within: str = "1d",
        unapproved: Literal["drop", "deliver"] = "drop",
    ) -> Decisions:
        """Each event with a decision of `on` is told to a receiver, at least once: to whom and how stands in the file
        HOME/sinks/TENANT/`to`.toml of the cloud's machine. See `skyriver.core.spec.SinkSpec` for the rest."""
        check_name(to, "a sink")
        try:
            sink = specs.SinkSpec(
                to=to,
                on=(on,) if isinstance(on, str) else tuple(on),
                ordered=ordered,
                parked=parked,
                parallel=parallel,
                tries=tries,
                retry_us=parse_duration(retry_for, "a time for trying again"),
                approve=approve,
                approve_us=parse_duration(approve_within, "a time for approving"),
                unapproved=unapproved,
            )
            spec = specs.DecideSpec.model_validate({**dict(self.spec), "sinks": (*self.spec.sinks, sink)})
        except ValidationError as error:
            found = error.errors()[0]
            refuse(f"sink {to!r}: {'.'.join(map(str, found['loc']))}: {found['msg']}.", "BAD_SINK")
        specs.check_sinks(spec, self._stream._spec)
        self.spec = spec
        return self

    def review(
        self,
        decision: str,
        /,
        *,
        label: Label,
        answers: Mapping[str, float],
        within: str = "1d",
        lease: str = "15m",
        second_opinion: str | float | None = None,
        expires: str | None = None,
        unanswered: str = "",
        most_waiting: int = 10_000,
        keep: str = "90d",
    ) -> Decisions:
        """Each event that is decided `decision` becomes a case for people. They claim it, for a `lease` at a time, and
        answer with one of `answers` and a reason; the answer is sent as the `label`'s value that it stands for.

        `within`: when it is overdue; `second_opinion`: two people must agree, on cases of which this rule is true
        ("amount > 5000") or on such a share of them (0.1); `expires`, `unanswered`: so long after it was opened a case
        nobody answered is closed with that outcome, without a label; `most_waiting`: so many may wait, what ranks
        lowest beyond is closed in the same way; `keep`: how long closed cases are kept.
        """
        stream = self._stream._spec
        if not isinstance(label, Label) or label.of != stream.name:
            refuse(f"label={label!r} is no label of {stream.name}.", "BAD_REVIEW", "Give what app.labels returned.")
        review = terms.review_of(
            decision,
            label.name,
            answers,
            within=parse_duration(within, "a time within which a case is answered"),
            lease=parse_duration(lease, "a lease"),
            second_opinion=second_opinion,
            expires=parse_duration(expires, "a time after which a case expires") if expires is not None else 0,
            unanswered=unanswered,
            most_waiting=most_waiting,
            keep=parse_duration(keep, "a time for which a case is kept"),
        )
        spec = self.spec.model_copy(update={"reviews": (*self.spec.reviews, review)})
        specs.check_review(review, spec, [known.name for known in getattr(stream, "labels", ())])
        self.spec = spec
        return self


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
        self._decides: dict[str, Decisions] = {}
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
            decides=tuple(decisions.spec for decisions in self._decides.values()),
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
        check_role(fields, id, "id", ("int", "text"))
        check_role(fields, time, "time", ("time",))
        check_role(fields, key, "key", ("int", "text"))
        if durability not in ("process", "disk"):
            refuse(f"durability={durability!r} is not known.", "BAD_STREAM", 'Use "disk" or "process".')
        if not isinstance(source, Mqtt | Nats | None):
            refuse("source= is no source.", "BAD_SOURCE", "Write sr.Mqtt(...) or sr.Nats(...).")
        dedupe_us = parse_duration(dedupe, "a period")
        kept = terms.log_limits(retention, retention_bytes, local_bytes, dedupe_us)
        if not isinstance(log, NatsLog | None):
            refuse("log= is no log.", "BAD_STREAM", "Write sr.NatsLog(...), or leave it out.")
        self._streams[name] = specs.StreamSpec(
            name=name,
            fields=fields,
            id=id,
            time=time,
            key=key,
            disorder_us=terms.disorder_of(disorder),
            ahead_us=parse_duration(ahead, "a limit ahead of the clock"),
            dedupe_us=dedupe_us,
            durability=durability,
            zone=terms.check_zone(zone),
            max_bad=max_bad,
            source=source.spec if source is not None else None,
            log=log.spec if log is not None else None,
            retention_us=kept[0],
            retention_bytes=kept[1],
            local_bytes=kept[2],
            linger_us=terms.linger_of(linger),
        )
        return Source(name, self._streams)

    def table(self, name: str, row: type[Event], *, id: str, max_bad: float = 0.05) -> Source:
        """A table that is loaded from files."""
        fields = self._new_source(name, row)
        check_role(fields, id, "id", ("int", "text"))
        self._tables[name] = specs.TableSpec(name=name, fields=fields, id=id, max_bad=max_bad)
        return Source(name, self._tables)

    def labels(self, name: str, *, of: Source, delay: str) -> Label:
        """The truth about events of a stream, known `delay` after them at the earliest for features' purposes."""
        check_field(name, "a label")
        stream = self._streams.get(of._spec.name)
        if stream is None:
            refuse(f"{of._spec.name} is not a stream.", "BAD_LABEL", "In a table, a label is one of its columns.")
        if any(f.name == name for f in stream.fields):
            refuse(
                f"The label {name!r} is also a field of {stream.name}: it would leak into the features.",
                "LABEL_LEAK",
                f"Remove the field {name!r} from the event; labels are loaded and sent as labels.",
            )
        if any(known.name == name for known in stream.labels):
            refuse(f"{stream.name} has a label {name!r} already.", "DUPLICATE_NAME")
        label = specs.LabelSpec(name=name, delay_us=parse_duration(delay, "a delay"))
        self._streams[stream.name] = stream.model_copy(update={"labels": (*stream.labels, label)})
        return Label(name, stream.name, label.delay_us)

    def reference(self, name: str, row: type[Event], *, of: Source, id: str, time: str) -> Reference:
        """Rows about what events of a stream name by its id, such as the shop of a payment, for `sr.lookup`.

        A row is current from its field `time` on, until the next one of the same `id`; it is sent to the stream, or
        loaded with its history, and belongs to it as labels do.
        """
        stream = self._new_reference(name, of, "a reference")
        fields = field_specs(row)
        check_role(fields, id, "id", ("int", "text"))
        check_role(fields, time, "time", ("time",))
        spec = specs.ReferenceSpec(name=name, fields=fields, id=id, time=time)
        self._streams[stream.name] = stream.model_copy(update={"references": (*stream.references, spec)})
        return Reference(spec, stream.name)

    def list(
        self,
        name: str,
        row: type[Event] | None = None,
        *,
        of: Source,
        id: str,
        time: str = "at",
        until: str = "until",
        by: str = "",
    ) -> None:
        """A list that rules of the stream read, such as who is denied: `customer in denied`, `amount > limits.amount`.

        Its rows are kept as those of a reference, with their history; one counts from its `time` on, up to its
        `until` (missing: until another one of its `id` comes). Both fields are added where `row` has them not; without
        `row` there is the id, as the stream has a field of that name, and a `note`. `by`: the event's field by which
        the list's fields are looked up (that of the id's name, unless another is named)."""
        stream = self._new_reference(name, of, "a list")
        spec = terms.list_of(name, stream, field_specs(row) if row is not None else None, id, time, until, by)
        self._streams[stream.name] = stream.model_copy(update={"references": (*stream.references, spec)})

    def _new_reference(self, name: str, of: Source, what: str) -> specs.StreamSpec:
        check_field(name, what)
        stream = self._streams.get(of._spec.name)
        if stream is None:
            refuse(
                f"{of._spec.name} is not a stream.", "BAD_REFERENCE", f"{what.capitalize()} is of a stream's events."
            )
        if any(known.name == name for known in stream.references):
            refuse(f"{stream.name} has a reference {name!r} already.", "DUPLICATE_NAME")
        if name in specs.PARTS_OF_STREAMS:
            refuse(
                f"{name!r} cannot name {what}: {stream.name}.{name} is a table that every stream has.",
                "BAD_REFERENCE",
                "Give it another name.",
            )
        return stream

    def features(self, name: str, source: Source, features: Mapping[str, object]) -> Features:
        """Named expressions over one stream or table; order matters, it is the model's input order."""
        check_name(name, "a feature set")
        if name in self._features:
            refuse(f"There is a feature set {name!r} already.", "DUPLICATE_NAME")
        if not features:
            refuse(f"The feature set {name!r} is empty.", "BAD_FEATURE")
        spec = source._spec
        parsed = []
        for feature, value in features.items():
            check_field(feature, "a feature")
            try:
                expression = as_expression(value)
            except SkyriverError as error:
                refuse(f"Feature {feature}: {error.message}", error.code, error.next_action)
            if expression.source not in ("", spec.name):
                refuse(
                    f"Feature {feature} uses {expression.source}, but {name!r} is computed from {spec.name}.",
                    "BAD_FEATURE",
                )
            terms.check_feature(feature, expression, spec)
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
        of = self._streams[source] if source in self._streams else self._tables[source]
        name = terms.label_of(label, of)
        terms.check_leak(features.spec, name)
        held = terms.held_out(test, of)

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
            refuse(f"schedule={schedule!r} is no sr.Cron.", "BAD_SCHEDULE", terms.as_cron(schedule))
        terms.check_json(params or {}, "The value of a parameter")
        settings = {"retries": retries, "repeatable": repeatable, "priority": priority, "array": array}

        def declare(function: Function) -> Function:
            called = name or function.__name__.replace("_", "-")
            check_name(called, "a job")
            terms.check_takes_job(function)
            if called in self._jobs or called in self._models:
                refuse(f"There is a job or model {called!r} already.", "DUPLICATE_NAME", "Give it a name=.")
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
                refuse(f"{'.'.join(map(str, found['loc']))}={found['input']!r}: {found['msg']}.", "BAD_JOB")
            return function

        return declare

    def _job_of(self, function: Callable[..., Any]) -> str:
        qualified = getattr(function, "__qualname__", "")
        found = next((known.name for known in self._jobs.values() if known.function == qualified), None)
        if found is None:
            refuse(f"{function!r} is not a job.", "BAD_JOB", "Decorate it with @app.job(...), above this one.")
        return found

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
        calibrate: specs.Calibrate | None = "auto",
    ) -> specs.ModelSpec:
        """A model: trained by a function of `@app.train`, or a ready ONNX file in the application's folder.

        `calibrate`: how its scores are made probabilities, on rows that no training sees. "auto" does so where such
        rows are to be had for nothing; "isotonic" and "platt" keep some back where there are none; None does not."""
        check_name(name, "a model")
        if name in self._models or name in self._jobs:
            refuse(f"There is a model or job {name!r} already.", "DUPLICATE_NAME")
        if (train is None) == (not onnx):
            refuse(f"The model {name!r} needs a training function or onnx=, one of the two.", "BAD_MODEL")
        trained = None
        if train is not None:
            trained = self._trains.get(getattr(train, "__qualname__", ""))
            if trained is None:
                refuse(f"{train!r} is no training function.", "BAD_MODEL", "Decorate it with @app.train(...).")
        named = tuple(m.model_copy(update={"name": check_field(key, "a metric")}) for key, m in (metrics or {}).items())
        if trained is not None and gate is not None:
            terms.check_gate(gate.spec, [*specs.MEASURED, *(metric.name for metric in named)])
        self._models[name] = specs.ModelSpec(
            name=name,
            train=trained,
            onnx=onnx,
            metrics=named,
            gate=gate.spec if gate else specs.GateSpec(),
            compress=compress,
            serve=serve or specs.ServiceSpec(),
            calibrate=terms.check_calibrate(calibrate),
        )
        return self._models[name]

    def decide(
        self,
        stream: Source,
        model: specs.ModelSpec,
        rules: Mapping[str, str] | Sequence[terms.Rule],
        *,
        otherwise: str,
        fallback: str | None = None,
        fallback_by: Sequence[str] = (),
        deadline: str | None = None,
        costs: Costs | None = None,
        reasons: Mapping[str, str] | None = None,
        budgets: Mapping[str, Budget | Sequence[Budget]] | None = None,
        counters: Mapping[str, Count] | None = None,
        combine: Literal["first"] | Strictest = "first",
    ) -> Decisions:
        """What is done with each event: the first rule that is true decides, else `otherwise`. `rules` are
        {decision: when}, or `sr.Rule`s, which may have names and share a decision. With `combine=sr.Strictest(...)`
        the strictest decision of all rules that are true wins.

        `fallback` (`otherwise` unless given) is decided when there is no score: no version yet, the model failed or
        took longer than its `deadline` ("5ms"), or the event came too late to count. Before that word come, as
        `fallback_by` names them, the score of the version that was released before ("last_version") and the rules that
        do not read the score ("rules").

        `costs` say what decisions cost: thresholds are then chosen by `skyriver decide tune`. `reasons` say in words
        what it means that a feature raised the score: {"customer_mean_7d": "spends unlike the last week"}. `budgets`
        say how many events may get a decision, and what those beyond get; `counters` are what rules may ask of earlier
        decisions.
        """
        name = stream._spec.name
        if name not in self._streams:
            refuse(f"{name} is not a stream.", "BAD_DECISION", "Rows of a table are scored with `skyriver predict`.")
        specs.check_decides(name, model.name, self._features[model.train.features].source if model.train else "")
        if name in self._decides:
            refuse(f"{name} has its decisions already.", "DUPLICATE_NAME")
        for decision in (otherwise, fallback or otherwise):
            check_name(decision, "a decision")
        unknown = [by for by in fallback_by if by not in ("last_version", "rules")]
        if unknown or len(set(fallback_by)) < len(fallback_by):
            refuse(
                f"fallback_by={list(fallback_by)} holds other words than last_version and rules.",
                "BAD_DECISION",
                'Name each at most once: "last_version", "rules".',
            )
        decisions = Decisions(
            specs.DecideSpec(
                stream=name,
                model=model.name,
                rules=terms.rules_of(rules),
                otherwise=otherwise,
                fallback=fallback or otherwise,
                fallback_by=tuple(by for by in ("last_version", "rules") if by in fallback_by),
                deadline_us=parse_duration(deadline, "a deadline") if deadline is not None else 0,
                costs=costs_of(costs),
                reasons=terms.reasons_of(
                    reasons or {}, self._features[model.train.features].features if model.train else ()
                ),
                budgets=budgets_of(budgets),
                counters=counters_of(counters),
                combine=combine_of(combine),
            ),
            stream,
        )
        specs.check_budgets(decisions.spec, stream._spec)
        self._decides[name] = decisions
        return decisions

    def _new_source(self, name: str, event: type[Event]) -> tuple[specs.FieldSpec, ...]:
        check_name(name, "a stream or table")
        if name in self._streams or name in self._tables:
            refuse(f"There is a stream or table {name!r} already.", "DUPLICATE_NAME")
        return field_specs(event)
