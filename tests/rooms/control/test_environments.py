"""The life of an environment: built by a job, tried again, marked when unused, removed, built again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from skyriver.control.environments import BUILD_SECONDS, BUILD_TRIES, ENVIRONMENT, UNUSED_US, again, new_environment
from skyriver.core.resources import Delete, Key, Kind, Put, Resource, Snapshot, Want, reconcile
from skyriver.serve.kinds import REPLICA, new_service

LOCK = "c" * 64
NAME = LOCK[:16]
HOUR = 3_600_000_000
KINDS: Mapping[str, Kind] = {"environment": ENVIRONMENT}
APP = Resource("t", "app", "shop", spec={"environment": LOCK}, state="DEPLOYED")


class World:
    """Rows, stepped as the loop steps them; jobs end as they are told to."""

    def __init__(self, *rows: Resource) -> None:
        self.now = 1_000 * HOUR
        self.rows: dict[Key, Resource] = {r.key: r for r in rows}

    def snapshot(self) -> Snapshot:
        return Snapshot(dict(self.rows), {}, {}, self.now, self.now - 500 * HOUR)

    def step(self, after: int = 0) -> None:
        self.now += after
        plan = reconcile(self.snapshot(), KINDS)
        assert plan.poisoned == {}
        for change in plan.changes:
            match change:
                case Put(resource=row, expected=expected):
                    known = self.rows.get(row.key)
                    assert expected == (known.revision if known is not None else 0)
                    self.rows[row.key] = replace(row, revision=expected + 1)
                case Delete(tenant, kind, name, _):
                    del self.rows[tenant, kind, name]

    @property
    def environment(self) -> Resource:
        return self.rows["t", "environment", NAME]

    @property
    def jobs(self) -> list[Resource]:
        return [r for r in self.rows.values() if r.kind == "job"]

    def end_job(self, state: str, reason: str = "", outputs: Mapping[str, Any] | None = None) -> None:
        job = self.jobs[-1]
        told = {"reason": reason, "message": f"because of {reason}."} if reason else {}
        self.rows[job.key] = replace(job, state=state, status={"outputs": dict(outputs or {})}, **told)


def new_world(*rows: Resource) -> World:
    world = World(*rows)
    made = new_environment(world.snapshot(), "t", LOCK)
    world.rows[made.key] = made
    return world


def ready_world(*rows: Resource) -> World:
    world = new_world(*rows)
    world.step()
    world.end_job("SUCCEEDED", outputs={"mb": 1.5})
    world.step()
    assert world.environment.state == "READY"
    return world


def test_it_is_built_once_by_a_job() -> None:
    world = new_world(APP)
    world.step()
    assert world.environment.state == "BUILDING"
    (job,) = world.jobs
    assert (job.state, job.spec["kind"], job.parent) == ("PENDING", "environment", f"environment/{NAME}")
    assert job.spec["inputs"] == {"lock": LOCK, "work": "build"}
    assert not job.spec.get("environment")
    assert job.spec["limits"]["seconds"] == BUILD_SECONDS, "a build that hangs ends"
    world.step()
    assert len(world.jobs) == 1
    world.end_job("SUCCEEDED", outputs={"mb": 1.5, "packages": {"pebble": "1.0"}})
    world.step()
    assert (world.environment.state, world.environment.status["mb"]) == ("READY", 1.5)
    before = world.environment
    world.step(after=100 * HOUR)
    assert world.environment == before, "used: nothing is written"


def test_what_may_pass_is_tried_again_with_growing_pauses() -> None:
    world = new_world(APP)
    for attempt in range(1, BUILD_TRIES):
        world.step(after=HOUR)
        assert len(world.jobs) == attempt
        world.end_job("FAILED", "INDEX_AWAY")
        world.step()
        found = world.environment
        assert (found.state, found.reason, found.attempts) == ("PENDING", "INDEX_AWAY", attempt)
        assert "tried again by itself" in found.next_action
        world.step()
        assert len(world.jobs) == attempt, "it pauses first"
    world.step(after=HOUR)
    world.end_job("FAILED", "INDEX_AWAY")
    world.step()
    assert world.environment.state == "FAILED"


def test_what_will_not_pass_is_told_at_once_and_built_again_when_asked() -> None:
    world = new_world(APP)
    world.step()
    world.end_job("FAILED", "NO_SUCH_PACKAGE")
    world.step()
    found = world.environment
    assert (found.state, found.reason, found.message) == ("FAILED", "NO_SUCH_PACKAGE", "because of NO_SUCH_PACKAGE.")
    world.step(after=100 * HOUR)
    assert world.environment == found
    asked = again(world.snapshot(), found).resource
    world.rows[asked.key] = asked
    world.step()
    assert (world.environment.state, len(world.jobs)) == ("BUILDING", 2)


def test_a_build_whose_job_is_gone_is_begun_anew() -> None:
    world = new_world(APP)
    world.step()
    del world.rows[world.jobs[0].key]
    world.step()
    world.step()
    assert (world.environment.state, len(world.jobs)) == ("BUILDING", 1)


def test_it_is_removed_a_day_after_its_last_user() -> None:
    world = ready_world(APP)
    del world.rows[APP.key]
    world.step()
    assert world.environment.status["unused_since"] == world.now
    world.step(after=UNUSED_US - 1)
    assert world.environment.state == "READY"
    world.step(after=1)
    assert world.environment.state == "REMOVING"
    assert world.jobs[-1].spec["inputs"]["work"] == "remove"
    world.step()
    assert world.environment.state == "REMOVING"
    world.end_job("SUCCEEDED")
    world.step()
    assert ("t", "environment", NAME) not in world.rows


def test_who_uses_it_again_in_time_keeps_it() -> None:
    world = ready_world(APP)
    del world.rows[APP.key]
    world.step()
    world.rows[APP.key] = APP
    world.step(after=UNUSED_US - 1)
    assert "unused_since" not in world.environment.status
    del world.rows[APP.key]
    world.step()
    world.step(after=UNUSED_US - 1)
    assert world.environment.state == "READY", "counted from the last user"


def test_a_job_that_runs_keeps_it() -> None:
    job = Resource("t", "job", "train-1", spec={"environment": LOCK, "kind": "train"}, state="RUNNING")
    world = ready_world(APP)
    del world.rows[APP.key]
    world.rows[job.key] = job
    world.step(after=100 * HOUR)
    assert (world.environment.state, "unused_since" in world.environment.status) == ("READY", False)
    world.rows[job.key] = replace(job, state="SUCCEEDED")
    world.step()
    assert "unused_since" in world.environment.status


def test_time_in_which_nobody_looked_does_not_count() -> None:
    world = ready_world()
    world.step()
    later = replace(world.snapshot(), now=world.now + 2 * UNUSED_US, started=world.now + 2 * UNUSED_US)
    assert reconcile(later, KINDS).changes == ()


@pytest.mark.parametrize("ending", ["SUCCEEDED", "FAILED"])
def test_who_comes_while_it_is_removed_gets_a_new_one(ending: str) -> None:
    world = ready_world()
    world.step()
    world.step(after=UNUSED_US)
    assert world.environment.state == "REMOVING"
    world.rows[APP.key] = APP
    world.step()
    assert world.environment.state == "REMOVING", "the removal must have ended first"
    world.end_job(ending, "" if ending == "SUCCEEDED" else "DISK_FAILED")
    world.step()
    world.step()
    assert (world.environment.state, world.jobs[-1].spec["inputs"]["work"]) == ("BUILDING", "build")


def test_a_failed_one_that_nobody_names_is_forgotten() -> None:
    world = new_world()
    world.step()
    world.end_job("FAILED", "NO_SUCH_PACKAGE")
    world.step()
    world.step()
    world.step(after=UNUSED_US)
    assert ("t", "environment", NAME) not in world.rows


def test_the_folder_of_a_lock_that_another_tenant_has_too_stays() -> None:
    world = ready_world()
    other = replace(world.environment, tenant="u")
    world.rows[other.key] = other
    world.rows["u", "app", "shop"] = replace(APP, tenant="u")
    jobs = len(world.jobs)
    world.step()
    world.step(after=UNUSED_US)
    assert ("t", "environment", NAME) not in world.rows
    assert world.rows[other.key].state == "READY"
    assert len(world.jobs) == jobs


def test_replicas_run_with_skyriver_s_own_whatever_their_application_brings() -> None:
    service = new_service("t", "shop", "taste", {"replicas": 1, "cpus": 1.0, "memory_mb": 512})
    replica = Resource("t", "replica", "taste-1-1", spec={"version": 1}, state="STARTING", parent=service.ref)
    rows = {r.key: r for r in (APP, service, replica)}
    (want,) = [a for a in REPLICA.step(Snapshot(rows, {}, {}, 0), replica) if isinstance(a, Want)]
    assert want.process.environment == ""
