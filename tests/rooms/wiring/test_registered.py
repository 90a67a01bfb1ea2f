"""Models from outside, in the real loop with in-memory parts: how a file becomes a version, who judges it, and how it
comes to serve."""

from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput, NotFound, SkyriverError
from skyriver.core.resources import Delete, Put, Resource
from skyriver.release.aliases import plan_alias
from skyriver.release.card import card_of
from skyriver.release.manifest import VersionManifest, scoring_signature
from skyriver.release.operations import plan_train
from skyriver.release.registered import plan_delete, plan_take_in
from skyriver.wiring.deploy import DeployPlan, plan_deploy, plan_removal
from skyriver.wiring.simulation import Simulation

FILE = {"digest": "0" * 64, "name": "churn.onnx"}


class Cloud(Simulation):
    def take_in(self, name: str = "churn", **params: Any) -> str:
        """A file is checked, and becomes a version; its name."""
        rows = plan_take_in(self.loop.snapshot(), "t", name, params, {"files": [FILE]})
        self.commit([Put(row, row.revision) for row in rows])
        [job] = [row for row in rows if row.kind == "job"]
        self.run(seconds=1)
        manifest = VersionManifest(
            model=name,
            version=1,
            artifact="a" * 64,
            bytes=1_000,
            features=None,
            source=None,
            code="",
            spec_digest="",
            split=None,
            metrics={},
            champion_metrics=None,
            signature=scoring_signature(2),
            trained_at=1,
            job=job.name,
            origin={"file": "churn.onnx", **job.spec["params"]["origin"]},
            about={"description": told} if (told := job.spec["params"]["description"]) else {},
        )
        spec = {**manifest.to_json(), "fields": None}
        made = {"resources": [{"kind": "version", "name": name, "state": "CANDIDATE", "spec": spec}]}
        self.compute.report(job.process, outcome="succeeded", outputs=made)
        self.settle()
        [version] = self.store.get("t", "job", job.name).status["created"]
        assert self.store.get("t", "operation", job.name).state == "SUCCEEDED"
        return str(version).partition("/")[2]

    def deploy(self, *, gate: sr.Gate | None = None, registered: bool = True) -> DeployPlan:
        app = sr.App("shop")
        if registered:
            app.model("churn", registered=True, gate=gate)
        plan = plan_deploy(self.loop.snapshot(), "t", app.spec, {}, files={}, prune=True)
        self.commit(plan.changes)
        self.settle()
        return plan

    def alias(self, alias: str, version: int) -> None:
        rows = plan_alias(self.loop.snapshot(), "t", "churn", {"alias": alias, "version": version}, {})
        self.commit([Put(row, row.revision) for row in rows])
        self.settle()

    def row(self, kind: str, name: str) -> Resource:
        return self.store.get("t", kind, name)


def test_a_file_becomes_a_version_that_is_kept_and_not_judged() -> None:
    cloud = Cloud()
    assert cloud.take_in(description="Who leaves.", origin={"run": "r1"}) == "churn:1"
    assert cloud.take_in() == "churn:2"
    version, model = cloud.row("version", "churn:1"), cloud.row("model", "churn")
    assert (version.state, version.reason, version.status["settled"]) == ("CANDIDATE", "UNDECLARED", "good")
    assert "registered=True" in version.next_action
    assert (model.state, model.parent, model.reason) == ("REGISTERED", "", "UNDECLARED")
    assert cloud.store.rows("t", "rollout") == []
    card = card_of(version)["markdown"]
    for told in ("Who leaves.", "| origin: file | churn.onnx |", "| origin: run | r1 |"):
        assert told in card
    before = cloud.store.revision()
    cloud.settle()
    assert cloud.store.revision() == before, "it stays so"


def test_names_are_free_before_an_application_declares_it_and_champion_is_then_nobodys() -> None:
    cloud = Cloud()
    cloud.take_in()
    cloud.alias("good", 1)
    cloud.alias("champion", 1)
    plan = cloud.deploy()
    assert [(line.action, line.kind, line.name) for line in plan.lines if line.kind != "service"] == [
        ("create", "app", "shop"),
        ("update", "model", "churn"),
        ("warn", "alias", "churn@champion"),
    ]
    model = cloud.row("model", "churn")
    assert (model.parent, model.state, model.status["aliases"]) == ("app/shop", "DECLARED", {"good": 1})
    assert (model.reason, model.message, model.next_action) == ("", "", "")
    assert cloud.row("version", "churn:1").state == "APPROVED"
    assert cloud.store.rows("t", "rollout") == [], "no version takes over by itself"
    service = cloud.row("service", "churn")
    assert service.reason == "NO_VERSION"
    assert "skyriver model alias churn champion 1" in service.next_action
    again = cloud.deploy()
    assert {line.action for line in again.lines} == {"keep"}


def test_champion_of_a_declared_one_is_a_rollout_of_what_the_gate_passed() -> None:
    cloud = Cloud()
    cloud.take_in()
    cloud.deploy(gate=sr.Gate(size="1KB"))
    assert cloud.row("version", "churn:1").state == "APPROVED"
    cloud.alias("champion", 1)
    [rollout] = cloud.store.rows("t", "rollout")
    assert (rollout.spec["to"], rollout.state) == (1, "PROMOTING")
    cloud.compute.report("t.replica.churn-1-1", ready=True)
    cloud.settle()
    assert cloud.row("rollout", rollout.name).state == "DONE"
    assert cloud.row("model", "churn").status["aliases"]["champion"] == 1


def test_what_the_gate_refuses_never_serves() -> None:
    cloud = Cloud()
    cloud.take_in()
    cloud.deploy(gate=sr.Gate(size="100B"))
    version = cloud.row("version", "churn:1")
    assert (version.state, version.reason) == ("REJECTED", "GATE_FAILED")
    with pytest.raises(Conflict) as caught:
        cloud.alias("champion", 1)
    assert caught.value.code == "NOT_APPROVED"


def test_an_application_that_goes_leaves_the_model_with_its_versions() -> None:
    cloud = Cloud()
    cloud.take_in()
    cloud.deploy()
    for gone in ("pruned", "removed"):
        if gone == "pruned":
            cloud.deploy(registered=False)
        else:
            plan = plan_removal(cloud.loop.snapshot(), "t", "shop")
            assert ("keep", "model", "churn") in {(p.action, p.kind, p.name) for p in plan.lines}
            cloud.commit(plan.changes)
            cloud.settle()
        model = cloud.row("model", "churn")
        assert (model.parent, model.state) == ("", "REGISTERED"), gone
        assert cloud.store.rows("t", "service") == []
        cloud.take_in()
        cloud.deploy()
    assert len(cloud.store.rows("t", "version")) == 3


def test_a_mistake_is_taken_back_as_long_as_nothing_rests_on_it() -> None:
    cloud = Cloud()
    cloud.take_in()
    cloud.take_in()
    gone = plan_delete(cloud.loop.snapshot(), "t", "churn")
    assert [row.ref for row in gone] == ["model/churn", "version/churn:1", "version/churn:2"]

    def stays(why: str, action: str) -> None:
        with pytest.raises(Conflict, match=why) as caught:
            plan_delete(cloud.loop.snapshot(), "t", "churn")
        assert caught.value.code == "IN_USE"
        assert action in caught.value.next_action

    scored = Resource("t", "job", "p", spec={"kind": "predict", "target": "churn"}, state="SUCCEEDED")
    cloud.commit([Put(scored, 0)])
    stays("rows were scored by it", "`skyriver model tag churn retired=yes`")
    cloud.commit([Delete("t", "job", "p", cloud.row("job", "p").revision)])
    cloud.deploy()
    stays("app/shop declares it", "`skyriver app delete shop`; then it can be deleted, unless it has served.")
    cloud.alias("champion", 1)
    cloud.commit(plan_removal(cloud.loop.snapshot(), "t", "shop").changes)
    stays("it has served", "marked as no longer used")
    with pytest.raises(NotFound):
        plan_delete(cloud.loop.snapshot(), "t", "other")


def refused(cloud: Cloud, name: str = "churn", params: Any = None, inputs: Any = None) -> SkyriverError:
    with pytest.raises(SkyriverError) as caught:
        plan_take_in(cloud.loop.snapshot(), "t", name, params or {}, {"files": [FILE]} if inputs is None else inputs)
    assert caught.value.next_action
    return caught.value


def test_what_is_refused_whole() -> None:
    cloud = Cloud()
    assert refused(cloud, "Churn Model").code == "BAD_NAME"
    for inputs in ({}, {"files": []}, {"files": [FILE] * 102}, {"files": ["x"]}, {"files": [{"name": "x"}]}):
        assert refused(cloud, inputs=inputs).code == "BAD_PARAMETER"
    for params in ({"metrics": {}}, {"description": "x" * 2_001}, {"origin": {"run": 3}}, {"origin": "x"}):
        assert refused(cloud, params=params).code == "BAD_PARAMETER"
    assert cloud.store.rows("t", "model") == []


def test_a_model_of_an_application_that_trains_it_takes_no_files() -> None:
    cloud = Cloud()
    spec = {"model": {"name": "churn", "onnx": "churn.onnx"}}
    cloud.commit([Put(Resource("t", "model", "churn", spec=spec, state="DECLARED", parent="app/shop"), 0)])
    error = refused(cloud)
    assert (error.code, type(error)) == ("TRAINED_HERE", Conflict)
    assert "registered=True" in error.next_action


def test_a_name_that_came_from_outside_is_not_taken_over_by_a_training() -> None:
    cloud = Cloud()
    cloud.take_in()
    app = sr.App("shop")
    app.model("churn", onnx="churn.onnx")
    with pytest.raises(Conflict) as caught:
        plan_deploy(cloud.loop.snapshot(), "t", app.spec, {}, files={}, prune=False)
    assert caught.value.code == "NAME_TAKEN"
    with pytest.raises(InvalidInput) as not_trained:
        plan_train(cloud.loop.snapshot(), "t", "churn", {}, {})
    assert not_trained.value.code == "NOT_TRAINABLE"


def test_a_model_is_declared_in_one_of_three_ways() -> None:
    for given in ({}, {"registered": True, "onnx": "a.onnx"}):
        with pytest.raises(InvalidInput) as caught:
            sr.App("shop").model("churn", **given)  # type: ignore[arg-type]
        assert caught.value.code == "BAD_MODEL"
    spec = sr.App("shop").model("churn", onnx="a.onnx")
    assert "registered" not in spec.to_json(), "the digest of a file of before stays"
