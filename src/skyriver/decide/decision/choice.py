"""What a stream decides with: from the live settings, its log, and the features that are folded.

The live settings name the model version that is released, with the features it was trained on. While these are not
folded yet, the version before goes on deciding by the features before (DESIGN 6.8); which features are to be built is
told by `target`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from skyriver.core.calibration import Calibration
from skyriver.core.errors import InvalidInput, SkyriverError, told
from skyriver.core.spec import BudgetSpec, CounterSpec, DecideSpec, FeatureSetSpec, StreamSpec
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.model_run import ModelRun
from skyriver.decide.decision.scorer import Scorer
from skyriver.decide.decision.scoring import Canary, Lane
from skyriver.decide.decision.trial import Trial
from skyriver.decide.log.records import ControlRecord, ModelInUse
from skyriver.decide.rules.ruleset import RuleSet, RuleText, bounds_of, compile_rules, texts_of

LoadScorer = Callable[[str, int, int], tuple[Scorer, Calibration | None]]
"""The scorer of an artifact and what its scores mean, for so many features, with a deadline in microseconds (0: none).
Raises SkyriverError."""

SHADOW_US = 5_000
"""So long a batch waits at most for a shadow, unless a deadline is declared."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WantedModel:
    """`features_digest` of the features that it was trained on ("": nobody knows); `features` how these are computed,
    None where the version does not say."""

    in_use: ModelInUse
    features_digest: str
    features: FeatureSetSpec | None


@dataclass(frozen=True, slots=True)
class WantedTrial:
    """Rules that are tried beside, by their version, for a share of the keys."""

    number: int
    percent: float
    rules: tuple[RuleText, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The live settings. `declared`: the features of the application as it is deployed now."""

    rules: tuple[RuleText, ...]
    otherwise: str
    fallback: str
    model: WantedModel | None
    declared: FeatureSetSpec | None
    canary: WantedModel | None = None
    canary_percent: float = 0.0
    shadow: WantedModel | None = None
    last: WantedModel | None = None
    """The version before, where the log tells of it."""
    deadline_us: int = 0
    fallback_by: tuple[str, ...] = ()
    rules_version: int = 0
    trial: WantedTrial | None = None
    budgets: tuple[BudgetSpec, ...] = ()
    counters: tuple[CounterSpec, ...] = ()
    combine: tuple[str, ...] = ()
    cheaper: WantedModel | None = None

    @classmethod
    def of(cls, live: Mapping[str, Any]) -> Wanted:
        """Raises InvalidInput (BAD_LIVE_SETTINGS)."""
        try:
            return cls(
                _texts(live["rules"]),
                str(live["otherwise"]),
                str(live["fallback"]),
                _model(live["model"]) if live.get("model") else None,
                _features(live.get("features")),
                canary=_model(live["canary"]) if live.get("canary") else None,
                canary_percent=float(live["canary"]["percent"]) if live.get("canary") else 0.0,
                shadow=_model(live["shadow"]) if live.get("shadow") else None,
                deadline_us=int(live.get("deadline_us") or 0),
                fallback_by=tuple(live.get("fallback_by") or ()),
                rules_version=int(live.get("rules_version") or 0),
                trial=_trial(live["trial"]) if live.get("trial") else None,
                budgets=tuple(map(BudgetSpec.model_validate, live.get("budgets") or ())),
                counters=tuple(map(CounterSpec.model_validate, live.get("counters") or ())),
                combine=tuple(live.get("combine") or ()),
                cheaper=_model(live["cheaper"]) if live.get("cheaper") else None,
            )
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise InvalidInput(
                f"The live settings are malformed: {error!r}.",
                code="BAD_LIVE_SETTINGS",
                next_action="Deploy the application again: its settings are written anew.",
            ) from error

    @classmethod
    def of_control(cls, control: ControlRecord) -> Wanted:
        """What the log says was decided with."""
        features, trial = _features(control.features), control.trial

        def of(model: ModelInUse | None) -> WantedModel | None:
            return WantedModel(model, control.features_digest, features) if model is not None else None

        return cls(
            control.rules,
            control.otherwise,
            control.fallback,
            of(control.model),
            features,
            of(control.canary),
            control.canary_percent,
            of(control.shadow),
            of(control.last),
            control.deadline_us,
            control.fallback_by,
            control.rules_version,
            WantedTrial(trial.number, trial.percent, trial.rules) if trial is not None else None,
            budgets=tuple(map(BudgetSpec.model_validate, control.budgets)),
            counters=tuple(map(CounterSpec.model_validate, control.counters)),
            combine=control.combine,
            cheaper=of(control.cheaper),
        )


def _texts(rules: Sequence[Sequence[Any]]) -> tuple[RuleText, ...]:
    return tuple((str(decision), str(when), *map(str, name)) for decision, when, *name in rules)


def _trial(told: Mapping[str, Any]) -> WantedTrial:
    return WantedTrial(int(told["number"]), float(told["percent"]), _texts(told["rules"]))


def _model(told: Mapping[str, Any]) -> WantedModel:
    in_use = ModelInUse(told["name"], int(told["version"]), told["artifact"])
    return WantedModel(in_use, told.get("features_digest") or "", _features(told.get("features")))


def _features(told: Mapping[str, Any] | None) -> FeatureSetSpec | None:
    return FeatureSetSpec.model_validate(told) if told else None


class Choice:
    """Chooses, loads and warms. `digest_of` is that of a feature set's plan."""

    def __init__(
        self,
        stream: StreamSpec,
        decide: DecideSpec | None,
        load_scorer: LoadScorer,
        digest_of: Callable[[FeatureSetSpec], str],
    ) -> None:
        self._stream = stream
        self._decide = decide
        self._load_scorer = load_scorer
        self._digest_of = digest_of
        self.deciding = Deciding()
        self.problem: SkyriverError | None = None
        """Why the live settings, or a part of them, are not used."""
        self.target_problem: SkyriverError | None = None
        """Why the features that they name cannot be folded."""

    def begin(
        self,
        live: Mapping[str, Any] | None,
        control: ControlRecord | None,
        sets: Mapping[str, FeatureSetSpec],
        last: str,
    ) -> Deciding:
        """What the process starts with, by the features `last`, with which the log ends: the live settings, else what
        the log says. Where there is neither, the fallback of what the process was started with, a word that nobody
        declared (`live.UNKNOWN`): the declared one comes with the live settings."""
        self.deciding = Deciding()
        if self._decide is None:
            return self.deciding
        if control is not None and control.fallback:
            self._restore(Wanted.of_control(control), last, sets.get(last))
        if live is not None:
            self.deciding = self.load(live, {d: s for d, s in sets.items() if d == last}, last) or self.deciding
        problem = self.problem
        declared = {
            "rules": texts_of(self._decide),
            "otherwise": self._decide.otherwise,
            "fallback": self._decide.fallback,
            **bounds_of(self._decide),
        }
        for choice in (live, declared):
            if self.deciding.rules is None and choice is not None:
                self.deciding = self.load({**choice, "model": None}, sets, last) or self.deciding
        self.problem = problem
        return self.deciding

    def load(self, live: Mapping[str, Any], sets: Mapping[str, FeatureSetSpec], deciding: str) -> Deciding | None:
        """The deciding by these settings, loaded and warm, with one of the feature `sets` that are folded, of which
        `deciding` decides now; None when that is used already, or when they cannot be used, which `problem` tells."""
        self.problem = None
        if self._decide is None:
            return None
        try:
            wanted = Wanted.of(live)
            digest = self._set_of(wanted.model, deciding)
            if digest in sets or not digest:
                found: Deciding | None = self._build(wanted, wanted.model, digest, sets.get(digest))
            else:
                self._refuse_unknown(wanted, digest, deciding)
                found = self._meanwhile(wanted, deciding, sets.get(deciding))
        except SkyriverError as error:
            _log.error("the live settings cannot be used: %s", error)
            self.problem = error
            return None
        return found if found is not None and not _alike(found, self.deciding) else None

    def told(self, wanted: Wanted, digest: str, spec: FeatureSetSpec | None) -> Deciding:
        """What these settings say is decided with, all of it, by the features `digest`, whatever came before. Raises
        what keeps it, or a part of it, from being had."""
        self.problem, self.deciding = None, Deciding()
        found = self._build(wanted, wanted.model, digest, spec)
        if self.problem is not None:
            raise self.problem
        return found

    def target(self, live: Mapping[str, Any] | None, deciding: str) -> FeatureSetSpec | None:
        """The features to fold beside those that decide: of the released version, else the declared ones. None too
        where they do not fit the stream, which `target_problem` tells."""
        self.target_problem = None
        if self._decide is None or live is None:
            return None
        try:
            wanted = Wanted.of(live)
        except InvalidInput:  # `load` tells of it
            return None
        specs = (wanted.model.features if wanted.model is not None else None, wanted.declared)
        try:
            return next((s for s in specs if s is not None and self._digest_of(s) != deciding), None)
        except SkyriverError as error:
            self.target_problem = told("The features that the live settings name cannot be folded", error)
            return None

    def _set_of(self, model: WantedModel | None, deciding: str) -> str:
        return model.features_digest or deciding if model is not None else deciding

    def _meanwhile(self, wanted: Wanted, digest: str, spec: FeatureSetSpec | None) -> Deciding | None:
        """The model before with the rules of now, until the features of the new one are folded."""
        before = self.deciding
        model = WantedModel(before.model, digest, spec) if before.model is not None else None
        try:
            return self._build(replace(wanted, canary=None), model, digest, spec)
        except SkyriverError as error:
            self.problem = told("The changed rules wait for the features that they were written for", error)
            return None

    def _refuse_unknown(self, wanted: Wanted, digest: str, deciding: str) -> None:
        """A version of features that are neither folded nor can be built."""
        model = wanted.model
        assert model is not None
        known = [spec for spec in (model.features, wanted.declared) if spec is not None]
        if any(self._digest_of(spec) == digest for spec in known):
            return
        stream, in_use = self._stream.name, model.in_use
        raise InvalidInput(
            f"Version {in_use.version} of {in_use.name} is not used: it was trained on other features"
            f" ({digest[:12]}) than {stream} computes now ({deciding[:12]}).",
            code="MODEL_OF_OTHER_FEATURES",
            next_action=f"Train {in_use.name} on the features that the stream computes now, or deploy those again.",
        )

    def _restore(self, wanted: Wanted, digest: str, spec: FeatureSetSpec | None) -> None:
        """What the log says was decided with, where it can be had still."""
        if wanted.model is not None and wanted.model.features_digest != digest:
            return
        try:
            self.deciding = self._build(wanted, wanted.model, digest, spec)
        except SkyriverError as error:
            _log.warning("what was decided with before cannot be used: %s", error)

    def _build(self, wanted: Wanted, model: WantedModel | None, digest: str, spec: FeatureSetSpec | None) -> Deciding:
        found = Deciding(
            self._rules(wanted.rules, wanted, spec),
            features_digest=digest,
            deadline_us=wanted.deadline_us,
            fallback_by=wanted.fallback_by,
            rules_version=wanted.rules_version,
            trial=self._tried(wanted, spec),
        )
        if model is None:
            return found
        if spec is None:
            raise InvalidInput(
                f"{self._stream.name} computes no features to decide with.",
                code="NO_FEATURES",
                next_action="Decide with a model that is trained on features of the stream, and deploy.",
            )
        # With the version before to stand in, each of them has half of the time.
        share = wanted.deadline_us // (2 if "last_version" in wanted.fallback_by else 1)
        main = self._lane(model.in_use, digest, spec, share)
        return replace(
            found,
            model=main.model,
            scorer=main.scorer,
            calibration=main.calibration,
            canary=self._canary(wanted, digest, spec, share),
            shadow=self._beside("shadow", wanted.shadow, digest, spec, wanted.deadline_us or SHADOW_US),
            last=self._last(wanted, model.in_use, digest, spec, share),
            cheaper=self._beside("cheaper version", wanted.cheaper, digest, spec, share),
        )

    def _rules(self, texts: tuple[RuleText, ...], wanted: Wanted, spec: FeatureSetSpec | None) -> RuleSet:
        by_rules = "rules" in wanted.fallback_by
        return compile_rules(
            texts,
            wanted.otherwise,
            wanted.fallback,
            self._stream,
            spec,
            without_score=by_rules,
            budgets=wanted.budgets,
            counters=wanted.counters,
            combine=wanted.combine,
        )

    def _tried(self, wanted: Wanted, spec: FeatureSetSpec | None) -> Trial | None:
        """Rules beside those that decide; what is wrong with them keeps nobody from deciding."""
        trial = wanted.trial
        if trial is None:
            return None
        try:
            return Trial(self._rules(trial.rules, wanted, spec), trial.number, trial.percent)
        except SkyriverError as error:
            self.problem = told(f"Version {trial.number} of the rules is not tried", error)
            return None

    def _canary(self, wanted: Wanted, digest: str, spec: FeatureSetSpec, share: int) -> Canary | None:
        lane = self._beside("canary", wanted.canary, digest, spec, share)
        return Canary(lane, wanted.canary_percent) if lane is not None else None

    def _beside(
        self, what: str, wanted: WantedModel | None, digest: str, spec: FeatureSetSpec, deadline_us: int
    ) -> Lane | None:
        """A version beside the released one; what is wrong with it keeps nobody from deciding."""
        if wanted is None:
            return None
        if wanted.features_digest and wanted.features_digest != digest:
            version = f"version {wanted.in_use.version} of {wanted.in_use.name}"
            message = f"The {what}, {version}, is not used: it reads other features than those that decide."
            self.problem = InvalidInput(
                message,
                code="MODEL_OF_OTHER_FEATURES",
                next_action="It is used once its features are built; or release one that reads those that decide.",
            )
            return None
        try:
            return self._lane(wanted.in_use, digest, spec, deadline_us)
        except SkyriverError as error:
            self.problem = told(f"The {what} is not used", error)
            return None

    def _last(self, wanted: Wanted, released: ModelInUse, digest: str, spec: FeatureSetSpec, share: int) -> Lane | None:
        """The version that decided before the released one, by the same features, where it may stand in."""
        if "last_version" not in wanted.fallback_by:
            return None
        before = self.deciding
        last = wanted.last.in_use if wanted.last is not None else None
        if last is None and before.features_digest == digest and before.model is not None:
            if before.model == released:
                last = before.last.model if before.last is not None else None
            elif before.model.version < released.version:  # who goes back does so because the later one is not good
                last = before.model
        if last is None or last == released:
            return None
        return self._beside("version before", WantedModel(last, digest, spec), digest, spec, share)

    def _lane(self, in_use: ModelInUse, digest: str, spec: FeatureSetSpec, deadline_us: int) -> Lane:
        """Loaded, or taken over from what decides now."""
        before = self.deciding
        if before.features_digest == digest:
            lanes = (
                before.lanes.main,
                before.canary.lane if before.canary else None,
                before.shadow,
                before.last,
                before.cheaper,
            )
            for lane in lanes:
                if lane is not None and lane.model == in_use and _deadline(lane.scorer) == deadline_us:
                    return lane
        try:
            return Lane(in_use, *self._load_scorer(in_use.artifact, len(spec.features), deadline_us))
        except SkyriverError as error:
            message = f"Version {in_use.version} of {in_use.name}: {error.message}"
            raise type(error)(message, code=error.code, next_action=error.next_action) from error


def _deadline(scorer: Scorer) -> int:
    return scorer.deadline_us if isinstance(scorer, ModelRun) else 0


def _alike(one: Deciding, other: Deciding) -> bool:
    if one.rules is None or other.rules is None:
        return one.rules is other.rules
    return _identity(one) == _identity(other)


def _identity(deciding: Deciding) -> tuple[object, ...]:
    assert deciding.rules is not None
    canary, shadow, last, trial = deciding.canary, deciding.shadow, deciding.last, deciding.trial
    cheaper = deciding.cheaper
    return (
        deciding.rules.digest,
        deciding.features_digest,
        deciding.model,
        (canary.lane.model, canary.percent) if canary is not None else None,
        shadow.model if shadow is not None else None,
        last.model if last is not None else None,
        cheaper.model if cheaper is not None else None,
        deciding.deadline_us,
        deciding.fallback_by,
        deciding.rules_version,
        (trial.rules.digest, trial.number, trial.percent) if trial is not None else None,
    )
