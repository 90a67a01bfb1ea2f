"""The specification of an application: what Python, REST, CLI and the files on disk all speak.

It is plain data. Its digest (SHA-256 of canonical JSON) identifies it; a job that imports the same source
must arrive at the same digest, else it fails with SPEC_DRIFT. Its parts are in modules of their own (`spec_*`),
which who reads specifications need not tell apart: all of it is had from here.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from skyriver.core.errors import InvalidInput
from skyriver.core.names import BY_ENTITY
from skyriver.core.spec_augment import AUGMENTS, AugmentSpec, MinoritySpec, Weights
from skyriver.core.spec_base import (
    FieldName,
    InnerPath,
    Name,
    Spec,
)
from skyriver.core.spec_decisions import (
    AN_OBJECTIVE,
    COUNTED,
    IN_TIME,
    LEAST_PERIOD,
    MOST_WINDOW,
    BudgetSpec,
    CapacitySpec,
    CostSpec,
    CostsSpec,
    CounterSpec,
    DecideSpec,
    DecisionExample,
    DecisionRule,
    ReasonText,
    ReviewSpec,
    SinkSpec,
    check_budgets,
    check_decides,
    check_review,
    check_sinks,
)
from skyriver.core.spec_fields import GRID_LIMIT, FieldSpec, FieldType, with_roles
from skyriver.core.spec_gate import (
    MEASURED,
    MOST_VALUES,
    PREQUENTIAL,
    SLICED,
    VALUES,
    GateRule,
    GateSpec,
    SliceRule,
    SliceSpec,
)
from skyriver.core.spec_models import (
    MOST_STRETCHES,
    MOST_WORKERS,
    SHARE,
    BlueGreenSpec,
    Calibrate,
    CanarySpec,
    CleanSpec,
    CompressSpec,
    CronSpec,
    FeatureSetSpec,
    FeatureSpec,
    FromStreamSpec,
    GuardsSpec,
    JobSpec,
    MetricSpec,
    ModelSpec,
    ServiceSpec,
    ShadowSpec,
    TrainSpec,
    check_folded,
    check_from_stream,
    check_service,
)
from skyriver.core.spec_search import ParameterSpec, SearchSpec
from skyriver.core.spec_streams import (
    MOST_LINGER,
    OF_TEXTS,
    PARTS_OF_STREAMS,
    Durability,
    LabelSpec,
    MqttSpec,
    NatsLogSpec,
    NatsSpec,
    ReferenceSpec,
    SourceSpec,
    StreamSpec,
    TableSpec,
)
from skyriver.core.spec_watch import RETRAIN_TOLERANCE, RetrainSpec
from skyriver.core.spending import parse_budget

__all__ = [
    "AN_OBJECTIVE",
    "AUGMENTS",
    "BY_ENTITY",
    "COUNTED",
    "GRID_LIMIT",
    "IN_TIME",
    "LEAST_PERIOD",
    "MEASURED",
    "MOST_LINGER",
    "MOST_STRETCHES",
    "MOST_VALUES",
    "MOST_WINDOW",
    "MOST_WORKERS",
    "OF_TEXTS",
    "PARTS_OF_STREAMS",
    "PREQUENTIAL",
    "RETRAIN_TOLERANCE",
    "SHARE",
    "SLICED",
    "VALUES",
    "AppSpec",
    "AugmentSpec",
    "BlueGreenSpec",
    "BudgetSpec",
    "Calibrate",
    "CanarySpec",
    "CapacitySpec",
    "CleanSpec",
    "CompressSpec",
    "CostSpec",
    "CostsSpec",
    "CounterSpec",
    "CronSpec",
    "DecideSpec",
    "DecisionExample",
    "DecisionRule",
    "Durability",
    "FeatureSetSpec",
    "FeatureSpec",
    "FieldName",
    "FieldSpec",
    "FieldType",
    "FromStreamSpec",
    "GateRule",
    "GateSpec",
    "GuardsSpec",
    "InnerPath",
    "JobSpec",
    "LabelSpec",
    "MetricSpec",
    "MinoritySpec",
    "ModelSpec",
    "MqttSpec",
    "Name",
    "NatsLogSpec",
    "NatsSpec",
    "ParameterSpec",
    "ReasonText",
    "ReferenceSpec",
    "RetrainSpec",
    "ReviewSpec",
    "SearchSpec",
    "ServiceSpec",
    "ShadowSpec",
    "SinkSpec",
    "SliceRule",
    "SliceSpec",
    "SourceSpec",
    "Spec",
    "StreamSpec",
    "TableSpec",
    "TrainSpec",
    "Weights",
    "check_budgets",
    "check_decides",
    "check_folded",
    "check_from_stream",
    "check_review",
    "check_service",
    "check_sinks",
    "with_roles",
]


class AppSpec(Spec):
    name: Name
    streams: tuple[StreamSpec, ...] = ()
    tables: tuple[TableSpec, ...] = ()
    feature_sets: tuple[FeatureSetSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    decides: tuple[DecideSpec, ...] = ()
    jobs: tuple[JobSpec, ...] = ()
    """Each after those that it needs."""
    budget: str = Field(default="", exclude_if=lambda value: not value)
    """What all of it may cost, as "200 EUR/30d"; "" is no limit."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Every name that is referred to is declared, and declared once."""
        if self.budget:
            parse_budget(self.budget)
        sources = [s.name for s in self.streams] + [t.name for t in self.tables]
        sets, models = [f.name for f in self.feature_sets], [m.name for m in self.models]
        jobs = [j.name for j in self.jobs]
        for names in (sources, sets, [*models, *jobs]):  # `run NAME` runs a model's training or a job
            if len(set(names)) < len(names):
                raise InvalidInput(
                    f"A name is declared twice among {', '.join(names)}.",
                    code="DUPLICATE_NAME",
                    next_action="Give one of them another name.",
                )
        wanted = [(f.source, sources) for f in self.feature_sets]
        wanted += [(m.train.features, sets) for m in self.models if m.train]
        for decide in self.decides:
            wanted += [(decide.stream, [s.name for s in self.streams]), (decide.model, models)]
        wanted += [(need, jobs[:place]) for place, job in enumerate(self.jobs) for need in job.needs]
        for name, known in wanted:
            if name not in known:
                raise InvalidInput(
                    f"{name!r} is referred to, but not declared.",
                    code="UNKNOWN_NAME",
                    next_action=f"Declare it, or name one of {', '.join(known)}." if known else "Declare it.",
                )
        for decide in self.decides:
            train = self.model(decide.model).train
            check_decides(decide.stream, decide.model, self.feature_set(train.features).source if train else "")
            check_sinks(decide, self.stream(decide.stream))
            for review in decide.reviews:
                check_review(review, decide, [label.name for label in self.stream(decide.stream).labels])
            check_budgets(decide, self.stream(decide.stream))
        for model in self.models:
            self._check_from_stream(model)
            self._check_retrain(model)
        return self

    def _check_retrain(self, model: ModelSpec) -> None:
        if model.retrain is not None and model.retrain.quality and not any(d.model == model.name for d in self.decides):
            raise InvalidInput(
                f"The model {model.name!r} is to be trained again when it becomes worse, and no stream decides with it:"
                " what became of answers over HTTP is not known.",
                code="BAD_RETRAIN",
                next_action=f'Declare app.decide(..., {model.name}, ...), or retrain=sr.Retrain(on="drift").',
            )

    def _check_from_stream(self, model: ModelSpec) -> None:
        if isinstance(model.rollout, CanarySpec) and model.rollout.key == BY_ENTITY and model.serve.features is None:
            raise InvalidInput(
                f"Versions of {model.name!r} are to take over by the key of the entity that is asked for, and nobody"
                " asks it by an entity.",
                code="BAD_CANARY",
                next_action="Declare serve=sr.Service(features=sr.FromStream(...)), or name a header that callers send:"
                ' sr.Canary([10, 100], key="x-customer").',
            )
        features = self.feature_set(model.train.features) if model.train else None
        check_from_stream(model, features)
        if features is None or model.serve.features is None:
            return
        decide = next((d for d in self.decides if d.stream == features.source), None)
        deciding = self.model(decide.model) if decide is not None else None
        train = deciding.train if deciding is not None else None
        check_folded(model, features, deciding, self.feature_set(train.features) if train else None)

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
