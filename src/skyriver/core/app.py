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

from skyriver.core import gates, preparing, references, terms
from skyriver.core import spec as specs
from skyriver.core.budgets import Budget, Count, Strictest
from skyriver.core.costs import Costs
from skyriver.core.decisions import Decisions, Rule, decide_of
from skyriver.core.events import Event, Features, Reference, Source, check_role, field_specs, refuse
from skyriver.core.expr import Expression, Label
from skyriver.core.gates import Gate, Slice
from skyriver.core.misread import made
from skyriver.core.names import check_field, check_name
from skyriver.core.places import declared_at
from skyriver.core.retraining import Retrain, retrain_of
from skyriver.core.rollouts import BlueGreen, Canary, rollout_of
from skyriver.core.searching import Search, search_of
from skyriver.core.sources import Mqtt, Nats, NatsLog
from skyriver.core.spending import parse_budget
from skyriver.core.terms import Cron
from skyriver.core.units import parse_duration, parse_memory

Function = TypeVar("Function", bound=Callable[..., Any])
_A_JOB = 'Write @app.job(cpus=2, memory="1GB", timeout="1h", retries=3).'


class App:
    """An application: streams, tables, features, models and decisions, declared once."""

    def __init__(self, name: str, *, budget: str = "") -> None:
        """`budget`: what all of it may cost, as "200 EUR/30d"; once that is spent its jobs are not begun."""
        self.name = check_name(name, "an application")
        self.budget = str(parse_budget(budget)) if budget else ""
        self.functions: dict[str, Callable[..., Any]] = {}
        self.places: dict[str, str] = {}
        """Where something is declared (file:line), by what errors call it, as in "rule 'block' of payments"."""
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
            budget=self.budget,
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
        stream = terms.stream_of(of, self._streams, "BAD_LABEL", "In a table, a label is one of its columns.")
        label = terms.new_label(name, stream, parse_duration(delay, "a delay"))
        self._streams[stream.name] = stream.model_copy(update={"labels": (*stream.labels, label)})
        return Label(name, stream.name, label.delay_us)

    def reference(self, name: str, row: type[Event], *, of: Source, id: str, time: str) -> Reference:
        """Rows about what events of a stream name by its id, such as the shop of a payment, for `sr.lookup`.

        A row is current from its field `time` on, until the next one of the same `id`; it is sent to the stream, or
        loaded with its history, and belongs to it as labels do.
        """
        stream = references.new_reference(name, of, "a reference", self._streams)
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
        stream = references.new_reference(name, of, "a list", self._streams)
        spec = references.list_of(name, stream, field_specs(row) if row is not None else None, id, time, until, by)
        self._streams[stream.name] = stream.model_copy(update={"references": (*stream.references, spec)})
        self.places[f"list {name} of {stream.name}"] = declared_at()

    def features(self, name: str, source: Source, features: Mapping[str, object]) -> Features:
        """Named expressions over one stream or table; order matters, it is the model's input order."""
        check_name(name, "a feature set")
        if name in self._features:
            refuse(f"There is a feature set {name!r} already.", "DUPLICATE_NAME", "Give one of them another name.")
        spec = terms.source_of(source)
        parsed = terms.features_of(name, features, spec)
        self._features[name] = specs.FeatureSetSpec(name=name, source=spec.name, features=parsed)
        return Features(self._features[name])

    def train(
        self,
        features: Features,
        *,
        label: Label | Expression,
        test: str | float | None = None,
        time: Expression | None = None,
        group: Expression | None = None,
        clean: specs.CleanSpec | None = None,
        search: Search | None = None,
        prequential: int = 0,
        augment: Sequence[specs.AugmentSpec] = (),
        minority: specs.MinoritySpec | None = None,
        weights: Literal["balanced"] | Expression | None = None,
        workers: int = 0,
        exact: bool = False,
        gpus: int = 0,
    ) -> Callable[[Function], Function]:
        """Declares the decorated function as the training of a model.

        It gets the training part as `TrainingData` and returns a fitted model. `test` is what is held out:
        for a stream the last stretch of time ("7d"), for a table a share (0.3), or the last stretch of a column `time`;
        rows that share a value of the column `group` are on one side. `clean` is fitted on the training part and
        travels with the model; the function gets cleaned rows. `search`: the best `data.params` are looked for, see
        `sr.Search`. `prequential`: of a stream so many stretches as long as the test are each judged by what was learnt
        before them, the test being the last.

        `minority` makes rows of the rarer class, `weights` ("balanced", or a column) are `data.weights`; `augment` says
        how the rows of a step are changed, by `ctx.steps` or `data.augmented(epoch)`. None of them touches the rows by
        which the model is judged.

        With `workers` the function is called in so many processes, which do one training together: it gets a `ctx`
        (`ctx.data`, `ctx.state`, `ctx.steps`, `ctx.backward`, `ctx.step`) and returns its torch model. With `exact` the
        model is the same, bit by bit, on any number of workers. With `gpus=1` each of them has a GPU of its own,
        `ctx.device`.
        """
        source = features.spec.source
        of = self._streams[source] if source in self._streams else self._tables[source]
        name = terms.label_of(label, of)
        terms.check_leak(features.spec, name)
        held = {
            **preparing.held_out(test, of, time, group),
            **preparing.prepared(augment, minority, weights, of),
            "search": search_of(search),
            "prequential": terms.check_stretches(prequential, of),
        }
        if isinstance(label, Expression):  # a label of a stream is none of its columns
            preparing.check_apart(held, name)
        spread = terms.spread(workers, exact, gpus, called_again=search is not None or prequential > 0)

        def declare(function: Function) -> Function:
            qualified = function.__qualname__
            if spread:
                terms.check_takes_one(function, "a ctx", "BAD_TRAINING", "(ctx)", "parameters come in ctx.params")
            terms.keep_function(self.functions, function)
            self._trains[qualified] = specs.TrainSpec(
                function=qualified, features=features.spec.name, label=name, clean=clean, **held, **spread
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
        gpus: int = 0,
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
        terms.check_json(params or {}, "The value of a parameter")
        held = {
            "cpus": cpus,
            "memory_mb": parse_memory(memory, "a size of memory") if memory else 0,
            "gpus": gpus,
            "timeout_us": parse_duration(timeout, "a time limit") if timeout else 0,
            "params": dict(params or {}),
            "retries": retries,
            "repeatable": repeatable,
            "priority": priority,
            "array": array,
        }
        if schedule is not None and not isinstance(schedule, Cron):
            refuse(f"schedule={schedule!r} is no sr.Cron.", "BAD_SCHEDULE", terms.as_cron(schedule))

        def declare(function: Function) -> Function:
            called = name or function.__name__.replace("_", "-")
            check_name(called, "a job")
            terms.check_takes_one(function, "a job", "BAD_JOB", "(job: sr.Job)", "parameters come in job.params")
            if called in self._jobs or called in self._models:
                refuse(f"There is a job or model {called!r} already.", "DUPLICATE_NAME", "Give it a name=.")
            terms.keep_function(self.functions, function)
            body = {
                "name": called,
                "function": function.__qualname__,
                "needs": tuple(terms.job_of(need, self._jobs.values()) for need in needs),
                "schedule": schedule.spec if schedule is not None else None,
                **held,
            }
            self._jobs[called] = made(specs.JobSpec, f"job {called!r}", "BAD_JOB", _A_JOB, body, timeout_us="timeout")
            return function

        return declare

    def model(
        self,
        name: str,
        train: Callable[..., Any] | None = None,
        *,
        onnx: str = "",
        registered: bool = False,
        metrics: Mapping[str, specs.MetricSpec] | None = None,
        gate: Gate | None = None,
        compress: specs.CompressSpec | None = None,
        serve: specs.ServiceSpec | None = None,
        rollout: Canary | BlueGreen | None = None,
        retrain: Retrain | None = None,
        calibrate: specs.Calibrate | None = "auto",
        slices: Sequence[Slice] = (),
        description: str = "",
        contact: str = "",
        licence: str = "",
    ) -> specs.ModelSpec:
        """A model: trained by a function of `@app.train`, or a ready ONNX file in the application's folder, or
        `registered`: its versions are brought by `skyriver model import`, or by clients of MLflow.

        `calibrate`: how its scores are made probabilities, on rows that no training sees. "auto" does so where such
        rows are to be had for nothing; "isotonic" and "platt" keep some back where there are none; None does not.
        `rollout`: how another version takes over, by steps (`sr.Canary`) or with the one before kept ready
        (`sr.BlueGreen`); at once where it is not given. `retrain`: when it is trained again by itself (`sr.Retrain`).
        `slices`: parts of the test rows that are measured on their own
        (`sr.Slice`). `description`, `contact` and `licence` are for its card."""
        check_name(name, "a model")
        if name in self._models or name in self._jobs:
            refuse(f"There is a model or job {name!r} already.", "DUPLICATE_NAME", "Give one of them another name.")
        terms.check_one_of(name, train, onnx, registered=registered)
        trained = None
        if train is not None:
            trained = self._trains.get(getattr(train, "__qualname__", ""))
            if isinstance(train, str):
                refuse(f"{train!r} is no training function.", "BAD_MODEL", f"For a ready file write onnx={train!r}.")
            if trained is None:
                refuse(f"{train!r} is no training function.", "BAD_MODEL", "Decorate it with @app.train(...).")
        named = tuple(m.model_copy(update={"name": check_field(key, "a metric")}) for key, m in (metrics or {}).items())
        learnt = self._features[trained.features] if trained is not None else None
        source = self._streams.get(learnt.source) or self._tables[learnt.source] if learnt is not None else None
        parts = gates.slices_of(slices, source, learnt.features if learnt is not None else (), name)
        if trained is None and gate is not None:
            gates.check_gate_of_file(gate.spec, name)
        if trained is not None and gate is not None:
            known = [*specs.MEASURED, *(specs.PREQUENTIAL if trained.prequential else ())]
            gates.check_gate(gate.spec, [*known, *(metric.name for metric in named)], parts)
        self._models[name] = specs.ModelSpec(
            name=name,
            train=trained,
            onnx=onnx,
            registered=registered,
            metrics=named,
            gate=gate.spec if gate else specs.GateSpec(),
            compress=compress,
            serve=serve or specs.ServiceSpec(),
            rollout=rollout_of(rollout),
            retrain=retrain_of(retrain, name, trained=trained is not None),
            calibrate=terms.check_calibrate(calibrate),
            slices=parts,
            **terms.about_model(description=description, contact=contact, licence=licence),
        )
        specs.check_service(self._models[name].serve, f"The service of {name!r}")
        specs.check_from_stream(self._models[name], learnt)
        return self._models[name]

    def decide(
        self,
        stream: Source,
        model: specs.ModelSpec,
        rules: Mapping[str, str] | Sequence[Rule],
        *,
        otherwise: str,
        fallback: str | None = None,
        fallback_by: Sequence[str] = (),
        deadline: str | None = None,
        latency: str | None = None,
        share: float | None = None,
        cheaper: str = "",
        cpus: int = 1,
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

        `latency` ("50ms") is the time within which a `share` (0.99) of the events is to be decided, from its arrival at
        the stream's worker on. When more comes than can be, scoring takes up to `cpus` cores, if there may be more than
        one; then the version with the alias `cheaper` scores, if one is named; and when that does not do, events that
        would be late are shed: they get the fallback.

        `costs` say what decisions cost: thresholds are then chosen by `skyriver decide tune`. `reasons` say in words
        what it means that a feature raised the score: {"customer_mean_7d": "spends unlike the last week"}. `budgets`
        say how many events may get a decision, and what those beyond get; `counters` are what rules may ask of earlier
        decisions.
        """
        declared = terms.stream_of(
            stream, self._streams, "BAD_DECISION", "Rows of a table are scored with `skyriver predict`."
        )
        name = declared.name
        if not isinstance(model, specs.ModelSpec):
            refuse(f"model={model!r:.80} is no model.", "BAD_DECISION", "Give what app.model returned.")
        specs.check_decides(name, model.name, self._features[model.train.features].source if model.train else "")
        if name in self._decides:
            refuse(
                f"{name} has its decisions already.", "DUPLICATE_NAME", "Put all rules of a stream into one app.decide."
            )
        features = self._features[model.train.features].features if model.train else ()
        spec = decide_of(
            declared,
            model.name,
            features,
            rules,
            otherwise=otherwise,
            fallback=fallback,
            fallback_by=fallback_by,
            deadline=deadline,
            latency=latency,
            share=share,
            cheaper=cheaper,
            cpus=cpus,
            costs=costs,
            reasons=reasons,
            budgets=budgets,
            counters=counters,
            combine=combine,
            places=self.places,
        )
        decisions = Decisions(spec, stream, self.places)
        self._decides[name] = decisions
        return decisions

    def _new_source(self, name: str, event: type[Event]) -> tuple[specs.FieldSpec, ...]:
        check_name(name, "a stream or table")
        if name in self._streams or name in self._tables:
            refuse(f"There is a stream or table {name!r} already.", "DUPLICATE_NAME", "Give one of them another name.")
        return field_specs(event)
