"""What a stream decides with: from the live settings, its log, and the features that are folded.

The live settings name the model version that is released, with the features it was trained on. While these are not
folded yet, the version before goes on deciding by the features before (DESIGN 6.8); which features are to be built is
told by `target`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.spec import DecideSpec, FeatureSetSpec, StreamSpec
from skyriver.decide.deciding import Deciding
from skyriver.decide.records import ControlRecord, ModelInUse
from skyriver.decide.rules import compile_rules
from skyriver.decide.scorer import Scorer

LoadScorer = Callable[[str, int], Scorer]
"""The scorer of an artifact, for so many features. Raises SkyriverError."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WantedModel:
    """`features_digest` of the features that it was trained on ("": nobody knows); `features` how these are computed,
    None where the version does not say."""

    in_use: ModelInUse
    features_digest: str
    features: FeatureSetSpec | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The live settings. `declared`: the features of the application as it is deployed now."""

    rules: tuple[tuple[str, str], ...]
    otherwise: str
    fallback: str
    model: WantedModel | None
    declared: FeatureSetSpec | None

    @classmethod
    def of(cls, live: Mapping[str, Any]) -> Wanted:
        """Raises InvalidInput (BAD_LIVE_SETTINGS)."""
        try:
            return cls(
                tuple((str(decision), str(when)) for decision, when in live["rules"]),
                str(live["otherwise"]),
                str(live["fallback"]),
                _model(live["model"]) if live.get("model") else None,
                _features(live.get("features")),
            )
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise InvalidInput(f"The live settings are malformed: {error!r}.", code="BAD_LIVE_SETTINGS") from error

    @classmethod
    def of_control(cls, control: ControlRecord) -> Wanted:
        """What the log says was decided with."""
        model = control.model
        features = _features(control.features)
        wanted = WantedModel(model, control.features_digest, features) if model is not None else None
        return cls(control.rules, control.otherwise, control.fallback, wanted, features)


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
        self.problem = ""
        """Why the live settings, or a part of them, are not used."""

    def begin(
        self,
        live: Mapping[str, Any] | None,
        control: ControlRecord | None,
        sets: Mapping[str, FeatureSetSpec],
        last: str,
    ) -> Deciding:
        """What the process starts with, by the features `last`, with which the log ends: the live settings, else what
        the log says, else the declared fallback."""
        self.deciding = Deciding()
        if self._decide is None:
            return self.deciding
        if control is not None and control.fallback:
            self._restore(Wanted.of_control(control), last, sets.get(last))
        if live is not None:
            self.deciding = self.load(live, {d: s for d, s in sets.items() if d == last}, last) or self.deciding
        problem = self.problem
        rules = tuple((r.decision, r.when) for r in self._decide.rules)
        declared = {"rules": rules, "otherwise": self._decide.otherwise, "fallback": self._decide.fallback}
        for choice in (live, declared):
            if self.deciding.rules is None and choice is not None:
                self.deciding = self.load({**choice, "model": None}, sets, last) or self.deciding
        self.problem = problem
        return self.deciding

    def load(self, live: Mapping[str, Any], sets: Mapping[str, FeatureSetSpec], deciding: str) -> Deciding | None:
        """The deciding by these settings, loaded and warm, with one of the feature `sets` that are folded, of which
        `deciding` decides now; None when that is used already, or when they cannot be used, which `problem` tells."""
        self.problem = ""
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
            self.problem = str(error)
            return None
        return found if found is not None and not _alike(found, self.deciding) else None

    def target(self, live: Mapping[str, Any] | None, deciding: str) -> FeatureSetSpec | None:
        """The features to fold beside those that decide: of the released version, else the declared ones."""
        if self._decide is None or live is None:
            return None
        try:
            wanted = Wanted.of(live)
        except InvalidInput:
            return None
        specs = (wanted.model.features if wanted.model is not None else None, wanted.declared)
        return next((s for s in specs if s is not None and self._digest_of(s) != deciding), None)

    def _set_of(self, model: WantedModel | None, deciding: str) -> str:
        return model.features_digest or deciding if model is not None else deciding

    def _meanwhile(self, wanted: Wanted, digest: str, spec: FeatureSetSpec | None) -> Deciding | None:
        """The model before with the rules of now, until the features of the new one are folded."""
        before = self.deciding
        model = WantedModel(before.model, digest, spec) if before.model is not None else None
        try:
            return self._build(wanted, model, digest, spec)
        except SkyriverError as error:
            self.problem = f"The changed rules wait for the features that they were written for: {error}"
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
        rules = compile_rules(wanted.rules, wanted.otherwise, wanted.fallback, self._stream, spec)
        if model is None:
            return Deciding(rules, features_digest=digest)
        in_use = model.in_use
        if spec is None:
            raise InvalidInput(f"{self._stream.name} computes no features to decide with.", code="NO_FEATURES")
        before = self.deciding
        if before.model == in_use and before.scorer is not None and before.features_digest == digest:
            return Deciding(rules, in_use, before.scorer, digest)
        try:
            return Deciding(rules, in_use, self._load_scorer(in_use.artifact, len(spec.features)), digest)
        except SkyriverError as error:
            message = f"Version {in_use.version} of {in_use.name}: {error.message}"
            raise type(error)(message, code=error.code, next_action=error.next_action) from error


def _alike(one: Deciding, other: Deciding) -> bool:
    if one.rules is None or other.rules is None:
        return one.rules is other.rules
    same = one.rules.digest == other.rules.digest and one.features_digest == other.features_digest
    return same and one.model == other.model
