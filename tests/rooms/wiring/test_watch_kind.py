"""A model that is trained again by itself, in the real loop with in-memory parts: causes, brakes, the breaker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.resources import Put, Resource
from skyriver.core.spec import AppSpec, ModelSpec
from skyriver.core.units import DAY
from skyriver.observe.looking import KEPT_LOOKS
from skyriver.observe.operations import plan_watch_pause, plan_watch_resume
from skyriver.observe.watching import new_watch
from skyriver.wiring.simulation import Simulation

HOUR = DAY // 24


class Cloud(Simulation):
    """The model `risk`, version 1 of which decides the stream `orders`."""

    def __init__(self, retrain: sr.Retrain) -> None:
        super().__init__()
        self.clock.advance(1_000 * DAY)
        model = {
            "model": {"name": "risk", "train": {"function": "fit", "features": "f", "label": "bad"}},
            "source": "orders",
            "streams": True,
        }
        app = {"spec": {}, "code": {"bundle": "b", "main": "a.py"}}
        aliases = {"aliases": {"champion": 1}, "history": []}
        service = {"model": "risk", "serve": sr.Service().to_json(), "versions": {"1": {"weight": 100}}}
        self.commit(
            [
                Put(Resource("t", "app", "shop", spec=app, state="DEPLOYED"), 0),
                Put(Resource("t", "model", "risk", spec=model, state="DECLARED", status=aliases, parent="app/shop"), 0),
                Put(Resource("t", "service", "risk", spec=service, state="READY", status={"routed": "1"}), 0),
                Put(Resource("t", "table", "orders", spec={}, state="READY", parent="app/shop"), 0),
                Put(self.version(1, "APPROVED", settled="good"), 0),
                Put(new_watch("t", "shop", "risk", retrain.spec.to_json()), 0),
            ]
        )
        # What the stream is made of does not matter here, but that it decides with the model.
        self.deciding = Resource("t", "stream", "orders", spec={"decide": {"model": "risk"}})
        self.kinds.pop("stream"), self.kinds.pop("service")
        self.start_control()
        self.commit([Put(self.deciding, 0)])

    def version(self, number: int, state: str, **status: Any) -> Resource:
        features = {"digest": "d", "set": "f", "names": ["x"], "spec": None}
        spec = {
            "model": "risk",
            "version": number,
            "artifact": "a",
            "profile": "p",
            "features": features,
            "trained_at": self.clock.wall(),
        }
        return Resource("t", "version", f"risk:{number}", spec=spec, state=state, status=status)

    @property
    def watch(self) -> Resource:
        return self.store.get("t", "watch", "risk")

    def operations(self, action: str) -> list[Resource]:
        return [o for o in self.store.rows("t", "operation") if o.spec["action"] == action]

    def finish(self, job: str, **outputs: Any) -> None:
        self.compute.report(f"t.job.{job}", outcome="succeeded", outputs=outputs)
        self.settle()

    def fail(self, job: str) -> None:
        self.compute.report(f"t.job.{job}", outcome="failed", reason="USER_ERROR", message="No.", fault="final")
        self.settle()

    def look(self, verdict: str, version: int = 1) -> None:
        """The look that is under way sees this."""
        self.settle()
        looks = [o for o in self.operations("watch") if o.state == "RUNNING"]
        drift = {"verdict": verdict, "message": f"It is {verdict}.", "rows": 1_000, "columns": []}
        self.finish(looks[0].spec["jobs"][0], version=version, stream="orders", at=0, drift=drift, counted={"n": 1})

    def judge(self, worse: bool | None, version: int = 1) -> None:
        """The look for quality that is under way finds this."""
        self.settle()
        (look,) = [o for o in self.operations("judge") if o.state == "RUNNING"]
        materialise, judge = look.spec["jobs"]
        self.finish(materialise, tables={})
        known = self.store.get("t", "job", judge).spec["inputs"]["looks"]
        told = {"worse": worse, "message": f"Worse: {worse}.", "looks": known + 1, "metric": "auc"}
        self.finish(judge, version=version, stream="orders", **told)

    def training(self) -> Resource:
        return max(self.operations("train"), key=lambda o: int(o.name.rpartition("-")[2]))

    def end_training(self, good: bool) -> None:
        for job in self.training().spec["jobs"]:
            self.settle()
            if not good:
                self.fail(job)
                return
            self.finish(job)


def test_drift_trains_it_once_and_not_again_before_its_time() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d"))
    cloud.look("none")
    assert (cloud.watch.state, cloud.watch.message) == ("WATCHING", "It is none.")
    assert cloud.operations("train") == []
    cloud.clock.advance(HOUR)
    cloud.look("drifted")
    assert (cloud.watch.state, cloud.watch.reason) == ("RETRAINING", "DRIFTED")
    assert cloud.training().name in cloud.watch.message
    cloud.end_training(good=False)
    assert (cloud.watch.state, cloud.watch.reason) == ("WATCHING", "CAME_TO_NOTHING")
    cloud.clock.advance(HOUR)
    cloud.look("drifted")
    assert (cloud.watch.state, cloud.watch.reason) == ("WATCHING", "DRIFTED")
    assert "at most once in 1d" in cloud.watch.message
    assert "The last training came to nothing: risk-run-1 is FAILED, USER_ERROR: No." in cloud.watch.message
    assert cloud.watch.next_action == "`skyriver explain risk-run-1` tells more; `skyriver run risk` trains it now."
    cloud.clock.advance(DAY - 2 * HOUR)
    cloud.settle()
    assert len(cloud.operations("train")) == 1
    cloud.clock.advance(2 * HOUR)
    cloud.settle()
    assert len(cloud.operations("train")) == 2


@pytest.mark.parametrize(
    ("follow_up", "next_time"),
    [
        (("7d",), "risk-run-1 trained it for drift at 1972-09-27T00:00:02Z; the next follow-up is at 1972-10-04T"),
        ((), "It is trained again when that is seen anew, at 1972-09-28T00:00:02Z at the earliest."),
    ],
)
def test_one_whose_training_the_gate_refused_says_so_until_the_next(follow_up: tuple[str, ...], next_time: str) -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d", follow_up=follow_up))
    cloud.look("drifted")
    operation = cloud.training()
    cloud.kinds.pop("operation")
    cloud.start_control()
    refused = {"reason": "GATE_FAILED", "message": "The gate refused it: auc is 0.61, and 0.7 is wanted."}
    status = {**operation.status, "failed": "version/risk:2"}
    cloud.commit([Put(replace(operation, state="FAILED", status=status, **refused), operation.revision)])
    for _ in range(3):
        cloud.settle()
        assert (cloud.watch.state, cloud.watch.reason) == ("WATCHING", "CAME_TO_NOTHING")
        assert cloud.watch.message.startswith(
            "It is drifted. risk-run-1 made risk:2, which does not take over. The gate refused it: auc is 0.61, and 0.7"
            f" is wanted. {next_time}"
        )
        cloud.start_control()
    model = cloud.store.get("t", "model", "risk")
    history = [{"version": 3, "at": cloud.clock.wall() + 1, "cause": "release"}]
    cloud.commit([Put(replace(model, status={**model.status, "history": history}), model.revision)])
    cloud.settle()
    assert cloud.watch.reason == "", "another version has taken over since"


def test_it_waits_quietly_while_it_is_held_back() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d"))
    cloud.look("drifted")
    cloud.end_training(good=False)
    cloud.clock.advance(HOUR)
    cloud.look("drifted")
    before = cloud.watch
    for _ in range(20):
        cloud.clock.advance(60_000_000)
        cloud.settle()
    assert cloud.watch.revision == before.revision, "nothing is written while nothing changes"


def test_a_training_without_a_version_came_to_nothing_and_what_was_seen_of_another_version_is_no_cause() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1m"))
    cloud.look("drifted")
    cloud.end_training(good=True)
    assert cloud.watch.status["failures"] == 1
    assert "made no version" in cloud.watch.status["trainings"][-1]["outcome"]
    model = cloud.store.get("t", "model", "risk")
    cloud.commit([Put(cloud.version(2, "APPROVED", settled="good"), 0), Put(_serving(model, 2), model.revision)])
    cloud.clock.advance(2 * 60_000_000)
    cloud.settle()
    assert cloud.watch.state == "WATCHING"
    assert len(cloud.operations("train")) == 1


def _serving(model: Resource, version: int) -> Resource:
    return Resource(**{**_fields(model), "status": {**model.status, "aliases": {"champion": version}}})


def _fields(resource: Resource) -> dict[str, Any]:
    return {name: getattr(resource, name) for name in Resource.__dataclass_fields__}


def test_what_was_seen_before_a_version_was_gone_back_to_or_a_pause_ended_is_no_cause() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1h", give_up_after=9))
    cloud.look("drifted")
    cloud.end_training(good=False)
    cloud.clock.advance(2 * HOUR)
    cloud.settle()
    looks = len(cloud.operations("watch"))
    assert cloud.watch.state == "WATCHING"
    for plan in (plan_watch_pause, plan_watch_resume):
        cloud.commit([Put(row, row.revision) for row in plan(cloud.loop.snapshot(), "t", "risk", {}, {})])
        cloud.settle()
    cloud.look("drifted")  # that was under way when it was paused
    assert (cloud.watch.state, len(cloud.operations("watch"))) == ("WATCHING", looks)
    cloud.clock.advance(2 * HOUR)
    cloud.settle()
    model = cloud.store.get("t", "model", "risk")
    back = [{"version": 1, "at": cloud.clock.wall(), "cause": "rollback"}]
    cloud.commit([Put(Resource(**{**_fields(model), "status": {**model.status, "history": back}}), model.revision)])
    cloud.look("drifted")  # and this one when the rollback was done
    assert cloud.watch.state == "WATCHING"
    cloud.clock.advance(2 * HOUR)
    cloud.look("drifted")
    assert cloud.watch.state == "RETRAINING"


def test_quality_is_judged_some_times_a_window_and_is_a_cause_of_its_own() -> None:
    cloud = Cloud(sr.Retrain(on="quality", at_most="1d"))
    cloud.judge(None)
    assert (cloud.watch.message, cloud.operations("watch")) == ("Worse: None.", [])
    cloud.clock.advance(DAY - HOUR)
    cloud.settle()
    assert len(cloud.operations("judge")) == 1
    cloud.clock.advance(2 * HOUR)
    cloud.judge(False)
    assert cloud.watch.status["quality"]["looks"] == 2, "the look knows how many there were"
    cloud.clock.advance(DAY)
    cloud.judge(True)
    assert (cloud.watch.state, cloud.watch.reason) == ("RETRAINING", "WORSE")
    assert cloud.watch.status["trainings"][-1]["cause"] == "quality"


def test_a_training_for_a_change_is_followed_up_and_meanwhile_the_change_is_known() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d", follow_up=("7d", "14d"), give_up_after=9))
    begins = cloud.clock.wall()
    cloud.look("drifted")
    cloud.end_training(good=False)
    found = []
    for day in range(1, 40):
        cloud.clock.advance(DAY)
        cloud.settle()
        if cloud.watch.state == "WATCHING":
            cloud.look("drifted")
        if cloud.watch.state == "RETRAINING":
            found.append((day, cloud.watch.status["trainings"][-1]["cause"]))
            cloud.end_training(good=False)
        elif day < 14:
            assert "risk-run-1 trained it for drift" in cloud.watch.message
            assert "the next follow-up is at" in cloud.watch.message
    first, second = [(7, "follow_up"), (14, "follow_up")], [(16, "drift"), (23, "follow_up"), (30, "follow_up")]
    assert found == [*first, *second, (32, "drift"), (39, "follow_up")]
    assert cloud.watch.status["trainings"][1]["after"] == "risk-run-1"
    assert "It is follow-up 1 of 2." in cloud.watch.status["trainings"][1]["why"]
    assert cloud.watch.status["trainings"][0]["at"] - begins < HOUR


def test_a_follow_up_waits_for_every_brake_and_counts_where_it_comes_to_nothing() -> None:
    retrain = sr.Retrain(on="drift", at_most="1d", follow_up=("2d", "4d", "6d", "8d"), budget=2, give_up_after=3)
    cloud = Cloud(retrain)
    cloud.look("drifted")
    cloud.end_training(good=False)
    for _ in range(12):
        cloud.clock.advance(DAY)
        cloud.settle()
        if cloud.watch.state == "RETRAINING":
            cloud.end_training(good=False)
    assert len(cloud.operations("train")) == 2
    assert cloud.watch.reason == "FOLLOW_UP"
    assert "Its budget is spent" in cloud.watch.message
    cloud.clock.advance(20 * DAY)
    cloud.settle()
    assert "It is follow-up 4 of 4." in cloud.watch.status["trainings"][-1]["why"], "one for all that are late"
    cloud.end_training(good=False)
    assert (cloud.watch.state, cloud.watch.status["failures"]) == ("BROKEN", 3)
    assert cloud.watch.status["follow"] is None


def test_what_is_due_while_it_is_paused_or_broken_waits_and_is_kept_by_the_next_control_plane() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d", follow_up=("7d", "14d", "35d")))
    cloud.look("drifted")
    cloud.end_training(good=False)
    changes = plan_watch_pause(cloud.loop.snapshot(), "t", "risk", {}, {})
    cloud.commit([Put(row, row.revision) for row in changes])
    cloud.clock.advance(20 * DAY)
    cloud.start_control()
    cloud.settle()
    assert len(cloud.operations("train")) == 1
    changes = plan_watch_resume(cloud.loop.snapshot(), "t", "risk", {}, {})
    cloud.commit([Put(row, row.revision) for row in changes])
    assert cloud.watch.reason == "FOLLOW_UP"
    assert len(cloud.watch.status["follow"]["due"]) == 1
    assert len(cloud.operations("train")) == 2


def test_an_age_is_a_cause_also_between_follow_ups() -> None:
    cloud = Cloud(sr.Retrain(on=["drift", "3d"], at_most="1d", follow_up=("7d",), give_up_after=9))
    cloud.look("drifted")
    cloud.end_training(good=False)
    cloud.clock.advance(3 * DAY)
    cloud.settle()
    assert cloud.watch.reason == "TOO_OLD"
    assert cloud.watch.status["follow"]["due"], "it is followed up all the same"


def test_age_is_a_cause_without_any_look() -> None:
    cloud = Cloud(sr.Retrain(on="7d"))
    cloud.clock.advance(7 * DAY - HOUR)
    cloud.settle()
    assert (cloud.operations("watch"), cloud.operations("train")) == ([], [])
    cloud.clock.advance(2 * HOUR)
    cloud.settle()
    assert cloud.watch.reason == "TOO_OLD"
    assert len(cloud.operations("train")) == 1


def test_after_so_many_that_came_to_nothing_it_is_left_to_a_person() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1h", give_up_after=2))
    cloud.look("drifted")
    cloud.end_training(good=False)
    cloud.clock.advance(2 * HOUR)
    cloud.look("drifted")
    cloud.end_training(good=False)
    assert (cloud.watch.state, cloud.watch.reason) == ("BROKEN", "RETRAINING_FAILS")
    assert "2 times in a row" in cloud.watch.message
    assert "skyriver watch resume risk" in cloud.watch.next_action
    for _ in range(5):
        cloud.clock.advance(DAY)
        cloud.settle()
    assert len(cloud.operations("train")) == 2
    assert cloud.watch.state == "BROKEN"
    cloud.start_control()  # another control plane knows it too
    cloud.settle()
    assert cloud.watch.state == "BROKEN"
    changes = plan_watch_resume(cloud.loop.snapshot(), "t", "risk", {}, {})
    cloud.commit([Put(row, row.revision) for row in changes])
    cloud.settle()
    assert cloud.watch.state == "WATCHING", "what it saw before somebody mended it is no cause"
    cloud.look("drifted")
    cloud.clock.advance(HOUR)
    cloud.look("drifted")
    assert cloud.watch.state == "RETRAINING"


def test_its_budget_is_for_thirty_days() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d", budget=2, give_up_after=50))
    cloud.look("drifted")
    for _ in range(20):
        if cloud.watch.state == "RETRAINING":
            cloud.end_training(good=False)
        cloud.clock.advance(DAY + HOUR)
        cloud.look("drifted")
    assert len(cloud.operations("train")) == 2
    assert "Its budget is spent: 2 trainings within 30 days" in cloud.watch.message
    cloud.clock.advance(30 * DAY)
    cloud.settle()
    assert len(cloud.operations("train")) == 3


def test_a_control_plane_that_is_killed_goes_on_where_it_was() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d"))
    cloud.settle()
    cloud.start_control()
    cloud.look("drifted")
    cloud.start_control()
    cloud.settle()
    assert cloud.watch.state == "RETRAINING"
    assert len(cloud.operations("train")) == 1
    cloud.end_training(good=False)
    assert cloud.watch.status["failures"] == 1


def test_a_rollout_that_is_taken_back_came_to_nothing_and_one_under_way_is_waited_for() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d"))
    cloud.kinds.pop("rollout"), cloud.kinds.pop("version")
    cloud.start_control()
    cloud.look("drifted")
    *rest, last = cloud.training().spec["jobs"]
    for job in rest:
        cloud.settle()
        cloud.finish(job)
    made = cloud.version(2, "APPROVED", settled="good")
    rollout = Resource("t", "rollout", "risk-1", spec={"model": "risk", "to": 2}, state="CANARY", parent=made.ref)
    cloud.commit([Put(made, 0), Put(rollout, 0)])
    cloud.finish(last)
    operation = cloud.training()
    created = Resource(**{**_fields(operation), "status": {**operation.status, "created": [made.ref]}})
    cloud.kinds.pop("operation")
    watch = cloud.watch
    undone = {**watch.status["trainings"][-1], "outcome": ""}
    again = Resource(
        **{**_fields(watch), "state": "RETRAINING", "status": {**watch.status, "failures": 0, "trainings": [undone]}}
    )
    cloud.start_control()
    cloud.commit([Put(created, operation.revision), Put(again, watch.revision)])
    cloud.settle()
    assert cloud.watch.state == "RETRAINING"
    assert cloud.watch.message == "risk:2 takes over by the rollout risk-1."
    there = cloud.store.get("t", "rollout", "risk-1")
    back = Resource(**{**_fields(there), "state": "ROLLED_BACK", "message": "It was worse."})
    cloud.commit([Put(back, there.revision)])
    cloud.settle()
    assert cloud.watch.status["trainings"][-1]["outcome"] == "The rollout of risk:2 is ROLLED_BACK: It was worse."
    assert cloud.watch.status["failures"] == 1


def test_looks_are_forgotten_and_told_when_they_fail() -> None:
    cloud = Cloud(sr.Retrain(on="drift"))
    for _ in range(8):
        cloud.look("none")
        cloud.clock.advance(HOUR + 1)
    assert len(cloud.operations("watch")) <= KEPT_LOOKS + 2
    cloud.settle()
    (running,) = [o for o in cloud.operations("watch") if o.state == "RUNNING"]
    cloud.fail(running.spec["jobs"][0])
    assert (cloud.watch.reason, cloud.watch.message) == ("CANNOT_LOOK", "USER_ERROR: No.")
    cloud.clock.advance(HOUR)
    cloud.look("none")
    assert cloud.watch.reason == ""


def test_a_paused_one_does_nothing() -> None:
    cloud = Cloud(sr.Retrain(on="7d"))
    changes = plan_watch_pause(cloud.loop.snapshot(), "t", "risk", {"why": "holidays"}, {})
    cloud.commit([Put(row, row.revision) for row in changes])
    cloud.clock.advance(20 * DAY)
    cloud.settle()
    assert (cloud.watch.state, cloud.watch.message) == ("PAUSED", "It was paused by hand: holidays.")
    assert cloud.operations("train") == []
    with pytest.raises(Conflict, match="The watch of risk is PAUSED: it cannot pause now"):
        plan_watch_pause(cloud.loop.snapshot(), "t", "risk", {}, {})


def test_a_training_that_a_pause_came_into_is_followed_to_its_end() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d"))
    cloud.look("drifted")
    for plan in (plan_watch_pause, plan_watch_resume):
        cloud.commit([Put(row, row.revision) for row in plan(cloud.loop.snapshot(), "t", "risk", {}, {})])
        cloud.settle()
    assert cloud.watch.state == "RETRAINING"
    cloud.end_training(good=False)
    assert cloud.watch.status["trainings"][-1]["good"] is False
    assert len(cloud.operations("train")) == 1


def test_it_says_that_there_is_nothing_to_compare_with() -> None:
    cloud = Cloud(sr.Retrain(on="drift"))
    cloud.look("none")
    cloud.clock.advance(2 * HOUR)
    version = cloud.store.get("t", "version", "risk:1")
    spec = {name: value for name, value in version.spec.items() if name != "profile"}
    cloud.commit([Put(Resource(**{**_fields(version), "spec": spec}), version.revision)])
    cloud.settle()
    assert (len(cloud.operations("watch")), cloud.watch.reason) == (1, "NO_PROFILE")
    assert cloud.watch.next_action == "`skyriver run risk` trains one that has it."
    model = cloud.store.get("t", "model", "risk")
    cloud.commit([Put(_serving(model, 0), model.revision)])
    cloud.settle()
    assert "the first one is yours to train" in cloud.watch.message


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"on": "sometimes"}, "on='sometimes': that is no reason to train"),
        ({"on": "qualty"}, "on='qualty': that is no reason to train (did you mean 'quality'"),
        ({"on": 7}, "on=7 is no reason to train"),
        ({"on": ["7d", "30d"]}, "several ages: 7d, 30d"),
        ({"on": []}, "nothing says when it is trained again"),
        ({"at_most": "10ms"}, "shorter than a second"),
        ({"on": "1h", "at_most": "1d"}, "more often than at_most"),
        ({"budget": -1}, "budget=-1"),
        ({"give_up_after": 0}, "give_up_after=0"),
        ({"follow_up": ("14d", "7d")}, "not in order"),
        ({"follow_up": "12h"}, "at_most='1d' or more apart"),
        ({"follow_up": 7}, "no times after a training"),
        ({"follow_up": ("soon",)}, "'soon' is not a time after a training"),
        ({"on": "7d", "follow_up": ("7d",)}, "an age is none"),
        ({"on": "quality", "tolerance": -0.1}, "tolerance=-0.1"),
        ({"look": "2d", "window": "1d"}, "shorter than the pause between two looks"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why.replace("(", r"\(")):
        sr.Retrain(**given)


def test_what_was_declared_before_there_were_follow_ups_is_as_it_was() -> None:
    assert sr.Retrain(on="drift").spec.to_json() == {
        "drift": True,
        "at_most": "1d",
        "give_up_after": 3,
        "look": "1h",
    }
    whole = {"quality": True, "tolerance": 0.05, "follow_up": ["7d"]}
    assert sr.Retrain(on="quality", tolerance=0.05, follow_up="7d").spec.to_json().items() >= whole.items()


def test_a_ready_file_is_not_trained_and_quality_wants_a_stream() -> None:
    app = sr.App("a")
    with pytest.raises(InvalidInput, match="ready file: there is nothing to train again"):
        app.model("m", onnx="m.onnx", retrain=sr.Retrain(on="7d"))
    with pytest.raises(InvalidInput, match="does not say when to train"):
        app.model("m", onnx="m.onnx", retrain="drift")  # type: ignore[arg-type]
    model = ModelSpec(name="m", onnx="m.onnx", retrain=sr.Retrain(on="quality").spec)
    with pytest.raises(InvalidInput, match="no stream decides with it: what became of answers"):
        AppSpec(name="a", models=(model,))
    AppSpec(name="a", models=(model.model_copy(update={"retrain": sr.Retrain(on="drift").spec}),))


def test_a_training_that_there_is_no_money_for_waits_and_begins_when_there_is() -> None:
    cloud = Cloud(sr.Retrain(on="drift", at_most="1d"))
    budget = Resource("t", "budget", "app-shop", spec={}, state="SPENT", message="All is spent.")
    cloud.commit([Put(budget, 0)])
    cloud.look("drifted")
    assert (cloud.watch.state, cloud.watch.reason) == ("WATCHING", "DRIFTED")
    assert "It waits for money: All is spent." in cloud.watch.message
    assert cloud.operations("train") == []
    cloud.commit([Put(replace(budget, state="NEAR"), cloud.store.get("t", "budget", "app-shop").revision)])
    assert cloud.watch.state == "RETRAINING"
