"""What is decided with: the live settings where they can be used, else what was before."""

from __future__ import annotations

import json
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import FeatureSetSpec
from skyriver.decide.decision.choice import Choice
from skyriver.decide.decision.model_run import ModelRun
from skyriver.decide.log.records import ControlRecord, ModelInUse, TrialInUse
from skyriver.features.plan import plan_features


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    amount: float


def declare(name: str) -> Any:
    app = sr.App("risk")
    payments = app.stream("payments", Payment, id="payment", time="at", key="customer")
    frauds = app.labels("fraud", of=payments, delay="0us")
    features = app.features("behaviour", payments, {name: payments.amount + 1, "other": payments.amount})

    @app.train(features, label=frauds)
    def fit(data: sr.TrainingData) -> Any: ...

    app.decide(payments, app.model("fraud", fit), {"block": "score >= 0.9"}, otherwise="approve", fallback="review")
    return app.spec


OLD, NEW = declare("old"), declare("new")
STREAM, DECIDE = OLD.streams[0], OLD.decides[0]


def digest_of(spec: FeatureSetSpec) -> str:
    return plan_features(spec, STREAM).digest


OLD_SET, NEW_SET = OLD.feature_sets[0], NEW.feature_sets[0]
OLD_DIGEST, NEW_DIGEST = digest_of(OLD_SET), digest_of(NEW_SET)
FOLDED = {OLD_DIGEST: OLD_SET}


class House:
    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.loaded: list[tuple[str, int]] = []
        self.choice = Choice(STREAM, DECIDE, self.load_scorer, digest_of)

    def load_scorer(self, artifact: str, features: int, deadline_us: int) -> tuple[ModelRun, None]:
        assert features == 2
        if artifact in self.missing:
            raise InvalidInput("It cannot be loaded.", code="MODEL_REFUSED")
        self.loaded.append((artifact, deadline_us))
        return ModelRun(None, deadline_us, lambda: 0), None  # type: ignore[arg-type]

    def use(self, live: dict[str, Any], sets: Any = None, deciding: str = OLD_DIGEST) -> Any:
        found = self.choice.load(live, sets or FOLDED, deciding)
        if found is not None:
            self.choice.deciding = found
        return found


def model(version: int, spec: FeatureSetSpec | None = OLD_SET, digest: str = "") -> dict[str, Any]:
    own = digest or (digest_of(spec) if spec is not None else "")
    told = spec.to_json() if spec is not None else None
    return {"name": "fraud", "version": version, "artifact": f"v{version}", "features_digest": own, "features": told}


def live(version: int = 1, *, spec: FeatureSetSpec | None = OLD_SET, when: str = "score >= 0.9", **more: Any) -> Any:
    rules = {"rules": [["block", when]], "otherwise": "approve", "fallback": "review"}
    return {"model": model(version, spec), "features": OLD_SET.to_json(), **rules, **more}


def control(version: int | None, **more: Any) -> ControlRecord:
    used = ModelInUse("fraud", version, f"v{version}") if version is not None else None
    rules = (("block", "score >= 0.9"),)
    return ControlRecord(used, rules, "approve", "review", "", OLD_DIGEST, 0, 0, 0, features=OLD_SET.to_json(), **more)


def test_what_is_used_already_is_not_used_again() -> None:
    house = House()
    assert house.use(live()).model.version == 1
    assert house.use(live()) is None
    changed = house.use(live(when="score >= 0.8"))
    assert changed.rules.texts == (("block", "score >= 0.8"),)
    assert house.loaded == [("v1", 0)], "the model is taken over"


def test_the_version_before_goes_on_until_the_features_are_there() -> None:
    house = House()
    house.use(live())
    wanted = live(2, spec=NEW_SET)
    assert house.use(wanted) is None
    assert house.choice.problem is None
    assert house.choice.target(wanted, OLD_DIGEST) == NEW_SET
    both = {OLD_DIGEST: OLD_SET, NEW_DIGEST: NEW_SET}
    taken = house.use(wanted, both)
    assert (taken.model.version, taken.features_digest) == (2, NEW_DIGEST)
    assert house.choice.target({**wanted, "features": NEW_SET.to_json()}, NEW_DIGEST) is None
    assert house.choice.target(wanted, NEW_DIGEST) == OLD_SET, "what is declared is kept ready"


def test_changed_rules_apply_meanwhile_unless_they_read_what_is_not_there() -> None:
    house = House()
    house.use(live())
    changed = house.use(live(2, spec=NEW_SET, when="score >= 0.7"))
    assert (changed.model.version, changed.rules.texts[0][1]) == (1, "score >= 0.7")
    assert house.use(live(2, spec=NEW_SET, when="score >= 0.7 and new > 3")) is None
    assert "wait for the features" in str(house.choice.problem)


def test_a_version_of_features_that_nobody_knows_is_refused() -> None:
    house = House()
    house.use(live())
    assert house.use({**live(), "model": model(2, None, "0" * 64)}) is None
    assert "Version 2 of fraud is not used: it was trained on other features" in str(house.choice.problem)
    assert house.choice.deciding.model.version == 1


@pytest.mark.parametrize(
    ("settings", "missing", "last", "version"),
    [
        (live(2), set(), control(1), 2),
        (live(2), {"v2"}, control(1), 1),  # what the log says
        (live(2), {"v1", "v2"}, control(1), None),
        (live(2, spec=NEW_SET), set(), control(1), 1),
        (None, set(), control(1), 1),
        (None, set(), None, None),
        ({"rules": 7}, set(), None, None),
    ],
)
def test_a_start_goes_on_with_what_it_can(settings: Any, missing: set[str], last: Any, version: int | None) -> None:
    house = House()
    house.missing = missing
    found = house.choice.begin(settings, last, FOLDED, OLD_DIGEST)
    assert (found.model.version if found.model is not None else None) == version
    assert found.rules.fallback == "review"
    assert bool(house.choice.problem) == (bool(missing) or settings == {"rules": 7})


def test_a_canary_and_a_shadow_are_loaded_beside_and_what_is_wrong_with_them_keeps_nobody_from_deciding() -> None:
    house = House()
    arms = {"canary": {**model(2), "percent": 10}, "shadow": model(3)}
    found = house.use(live(**arms))
    assert (found.canary.lane.model.version, found.canary.percent, found.shadow.model.version) == (2, 10.0, 3)
    assert house.use(live(**arms)) is None
    more = house.use(live(canary={**model(2), "percent": 50}, shadow=model(3)))
    assert more.canary.lane is found.canary.lane
    assert [artifact for artifact, _ in house.loaded] == ["v1", "v2", "v3"]
    house.missing = {"v4"}
    found = house.use(live(canary={**model(4), "percent": 10}))
    assert (found.model.version, found.canary) == (1, None)
    assert "The canary is not used" in str(house.choice.problem)
    house.use(live(shadow=model(5, NEW_SET)))
    assert "reads other features than those that decide" in str(house.choice.problem)


def test_the_version_before_stands_in_but_not_one_that_was_gone_back_from() -> None:
    house = House()
    by = {"fallback_by": ["last_version"], "deadline_us": 8_000}
    assert house.use(live(1, **by)).last is None
    assert house.use(live(2, **by)).last.model.version == 1
    assert house.use(live(2, when="score > 0.1", **by)).last.model.version == 1
    assert set(house.loaded) == {("v1", 4_000), ("v2", 4_000)}, "each has half of the time"
    assert house.use(live(1, **by)).last is None
    used = ModelInUse("fraud", 1, "v1")
    begun = House().choice.begin(None, control(2, last=used, fallback_by=("last_version",)), FOLDED, OLD_DIGEST)
    assert begun.last.model == used


def test_features_that_do_not_fit_the_stream_are_told_and_keep_no_version_from_deciding() -> None:
    house = House()
    told = json.loads(json.dumps(OLD_SET.to_json()).replace('"amount"', '"amount_eur"'))
    unfit = {**live(1), "features": told}
    assert house.choice.target(unfit, "others") == OLD_SET
    assert house.choice.target(unfit, OLD_DIGEST) is None
    assert "amount_eur" in str(house.choice.target_problem)
    assert house.use({**live(2), "features": told}).model.version == 2
    assert house.choice.target(live(2), OLD_DIGEST) is None
    assert house.choice.target_problem is None


def test_rules_that_are_tried_are_compiled_beside_and_a_mistake_in_them_keeps_nobody_from_deciding() -> None:
    house = House()
    trial = {"number": 2, "percent": 25.0, "rules": [["block", "score >= 0.8", "sure"]]}
    found = house.use(live(rules_version=1, trial=trial))
    assert (found.rules_version, found.trial.number, found.trial.percent) == (1, 2, 25.0)
    assert found.trial.rules.texts == (("block", "score >= 0.8", "sure"),)
    assert house.use(live(rules_version=1, trial=trial)) is None
    assert house.use(live(rules_version=1, trial={**trial, "percent": 50.0})).trial.percent == 50.0
    broken = house.use(live(rules_version=1, trial={**trial, "number": 3, "rules": [["block", "gone > 1"]]}))
    assert broken.trial is None
    assert house.choice.problem is not None
    assert "Version 3 of the rules is not tried" in house.choice.problem.message
    assert house.use(live(rules_version=4)).rules_version == 4
    assert house.loaded == [("v1", 0)], "the model is taken over"


def test_a_start_without_settings_goes_on_with_the_rules_and_the_trial_of_the_log() -> None:
    house = House()
    trial = TrialInUse(2, 10.0, (("block", "score >= 0.5"),), "digest")
    found = house.choice.begin(None, control(1, rules_version=1, trial=trial), FOLDED, OLD_DIGEST)
    assert (found.rules_version, found.trial.number, found.trial.percent) == (1, 2, 10.0)
    assert found.trial.rules.texts == trial.rules
