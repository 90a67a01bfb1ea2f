"""Ways of deciding events of the past: what the log says was used then, with what is asked for in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from skyriver.core.errors import Conflict
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.data.columns import Bools
from skyriver.data.decisions import Status
from skyriver.data.log import LogReader
from skyriver.decide.decision.choice import Choice, Wanted, WantedModel
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.log.recorded import Recorded, of_outcomes
from skyriver.decide.log.records import ControlRecord
from skyriver.decide.replay.past import control_before
from skyriver.decide.replay.stretch import Asked


@dataclass(frozen=True, slots=True)
class Way:
    """By whom events are decided, with which features (None: none are computed); `same_model`: by the versions that
    were asked then."""

    deciding: Deciding
    digest: str
    spec: FeatureSetSpec | None
    same_model: bool


class Ways:
    """`control` is what counts where the replay is (None: the log does not tell)."""

    def __init__(
        self,
        reader: LogReader,
        stream: StreamSpec,
        asked: Asked,
        *,
        choice: Choice,
        declared: FeatureSetSpec | None,
        digest_of: Callable[[FeatureSetSpec], str],
        shadow: bool,
    ) -> None:
        """`declared`: the features of the application, for logs that do not say how theirs are computed."""
        self._reader, self._stream, self._asked = reader, stream, asked
        self._choice, self._declared, self._digest_of, self._shadow = choice, declared, digest_of, shadow
        self.control: ControlRecord | None = None
        self._now: Way | None = None
        self._history: Way | None = None
        self._unasked: Way | None = None

    def use(self, control: ControlRecord | None) -> None:
        """From the next decision on."""
        self.control, self._now = control, None

    @property
    def digests(self) -> frozenset[str]:
        """Of the features that may be asked for next."""
        return frozenset(way.digest for way in (self._now, self._history, self._unasked) if way is not None)

    def of_then(self) -> Way | None:
        """None: the log does not tell."""
        control = self.control
        if control is None:
            return None
        if not control.fallback and not self._asked.as_it_was:  # nothing was declared then
            return self.of_history()
        if self._now is None:
            self._now = self._by(control, self._asked)
        return self._now

    @cached_property
    def leaves_history(self) -> bool:
        """Nobody decided it then; nothing else is asked for, and there is no version yet that could now."""
        if not self._asked.as_it_was:
            return False
        control = control_before(self._reader, self._reader.next_offset)
        return control is None or control.model is None

    def of_history(self) -> Way:
        """By what decides at the log's end."""
        if self._history is None:
            control = control_before(self._reader, self._reader.next_offset)
            way = self._by(control, self._asked) if control is not None and control.fallback else None
            if not self._asked.as_it_was and control is not None and control.fallback:
                unasked = self._by(control, Asked(self._asked.start, self._asked.end))
                self._unasked = unasked if unasked is not None and unasked.deciding.model is not None else None
            if way is None or way.deciding.model is None:
                raise Conflict(
                    f"{self._stream.name} decides with no version yet, so its history cannot be decided.",
                    code="NO_VERSION",
                    next_action="Name a version with --model NAME:VERSION, or release one first.",
                )
            self._history = way
        return self._history

    def unasked(self) -> Way | None:
        """What decides at the log's end, where something else is asked for: what history is compared with. None: no
        version does."""
        self.of_history()
        return self._unasked

    def _by(self, control: ControlRecord, asked: Asked) -> Way | None:
        wanted = Wanted.of_control(control)
        if not self._shadow:
            wanted = replace(wanted, shadow=None)
        same = asked.model is None or (asked.model.in_use == control.model and control.canary is None)
        if asked.rules is not None:
            rules = asked.rules
            wanted = replace(wanted, rules=rules.rules, otherwise=rules.otherwise, fallback=rules.fallback, trial=None)
            if (own := rules.bounds) is not None:
                wanted = replace(wanted, budgets=own.budgets, counters=own.counters, combine=own.combine)
        elif not control.fallback:
            return Way(Deciding(), control.features_digest, self._spec_of(control), same)
        if asked.model is not None and not same:
            wanted = replace(wanted, model=asked.model, canary=None, last=None, cheaper=None)
        digest, spec = control.features_digest, self._spec_of(control)
        if asked.model is not None and asked.model.features is not None:
            spec = asked.model.features
            digest = self._digest_of(spec)
        elif asked.model is not None and asked.model.features_digest not in ("", digest):
            raise _other_features(asked.model, digest, self._stream)
        if digest and spec is None:
            return None
        if digest != control.features_digest:
            wanted = replace(wanted, cheaper=None)
        return Way(self._choice.told(wanted, digest, spec), digest, spec, same)

    def _spec_of(self, control: ControlRecord) -> FeatureSetSpec | None:
        if control.features is not None:
            return FeatureSetSpec.model_validate(control.features)
        declared = self._declared
        return declared if declared is not None and self._digest_of(declared) == control.features_digest else None

    def told(self, then: Recorded, way: Way | None) -> Bools:
        """Of which decisions the log tells how they were made, as far as that is asked for."""
        control, asked = self.control, self._asked
        if way is None or control is None:
            return np.zeros(len(then), np.bool_)
        who = way.deciding.who
        rules = {control.rules_digest, *([control.trial.rules_digest] if control.trial is not None else ())}
        versions = {("", 0), *((model.name, model.version) for model, _, _ in who if model is not None)}
        return of_outcomes(
            then,
            [
                outcome.status is Status.ERASED
                or (
                    (asked.rules is not None or outcome.rules_digest in rules)
                    and (asked.model is not None or outcome.features_digest == control.features_digest)
                    and (asked.model is not None or (outcome.model, outcome.version) in versions)
                )
                for outcome in then.outcomes
            ],
        )


def _other_features(model: WantedModel, digest: str, stream: StreamSpec) -> Conflict:
    own = model.in_use
    return Conflict(
        f"Version {own.version} of {own.name} was trained on other features ({model.features_digest[:12]}) than"
        f" {stream.name} decided by ({digest[:12]}), and does not say how these are computed.",
        code="MODEL_OF_OTHER_FEATURES",
        next_action=f"Train {own.name} anew: versions of now say it.",
    )
