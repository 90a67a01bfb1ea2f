"""Services that sleep, in the real loop with in-memory parts: no process, no disk, no clock."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import skyriver as sr
from skyriver.core.errors import Conflict
from skyriver.core.resources import Put, Resource
from skyriver.serve.operations import plan_sleep, plan_wake
from skyriver.serve.scaling_kind import new_scaling
from skyriver.serve.sleeping import RESTS, woken_since
from skyriver.wiring.simulation import Simulation

HOLDER = "t.activator.activator"
FIRST = "t.replica.price-1-1"


class Cloud(Simulation):
    """The model `price`, version 1 of which is released, and who plays its processes."""

    def __init__(self, serve: sr.Service) -> None:
        super().__init__()
        spec = {"model": "price", "serve": serve.to_json(), "versions": {"1": {"weight": 100}}}
        self.commit(
            [
                Put(Resource("t", "version", f"price:{n}", spec=_version(n), state="APPROVED", status=_SETTLED), 0)
                for n in (1, 2)
            ]
            + [Put(Resource("t", "service", "price", spec=spec, state="PENDING"), 0)]
        )
        if serve.sleeps:
            self.ready(HOLDER, waiting={})

    @property
    def service(self) -> Resource:
        return self.store.get("t", "service", "price")

    @property
    def replicas(self) -> list[str]:
        return sorted(name for name, p in self.compute.running.items() if ".replica." in name and p.alive)

    @property
    def held(self) -> dict[str, Any]:
        return dict(self.compute.specs[HOLDER].live["services"]["price"])

    def ready(self, *names: str, **report: Any) -> None:
        for name in names:
            self.compute.report(name, ready=True, active_at=self.clock.wall(), **report)
        self.settle()

    def change(self, **spec: Any) -> None:
        service = self.service
        changed = Resource(
            "t", "service", "price", spec={**service.spec, **spec}, state=service.state, status=service.status
        )
        self.commit([Put(changed, service.revision)])

    def scale(self, replicas: int, **measured: float) -> None:
        """As who decides would."""
        row = self.loop.snapshot().find("t", "scaling", "price")
        made = new_scaling(self.service, replicas, {"measured": measured}, self.clock.wall())
        self.commit([Put(made, row.revision if row is not None else 0)])

    def act(self, plan: Any) -> None:
        self.commit([Put(r, r.revision) for r in plan(self.loop.snapshot(), "t", "price", {}, {})])


def _version(number: int) -> dict[str, Any]:
    return {"model": "price", "version": number, "artifact": "a" * 64}


_SETTLED = {"settled": "good"}
SLEEPS = sr.Service(replicas=(0, 2), idle="10s")


@pytest.fixture
def cloud() -> Cloud:
    """It serves with two replicas."""
    cloud = Cloud(SLEEPS)
    cloud.scale(2)
    cloud.ready(*cloud.replicas)
    assert (cloud.service.state, len(cloud.replicas)) == ("READY", 2)
    return cloud


def test_a_service_that_nobody_asks_sleeps_after_its_idle_time(cloud: Cloud) -> None:
    cloud.run(seconds=9)
    assert cloud.service.state == "READY"
    cloud.run(seconds=2)
    service = cloud.service
    assert (service.state, service.reason, service.message) == (
        "SCALED_TO_ZERO",
        "IDLE",
        "Asleep: nobody asked for 10s.",
    )
    assert service.next_action == "The next request wakes it; `skyriver service wake price` does so now."
    assert cloud.gateway.servers("price:1") == [HOLDER]
    assert cloud.replicas == []
    assert cloud.store.rows("t", "replica") == []


def test_one_that_is_asked_does_not_sleep_and_writes_no_rows_meanwhile(cloud: Cloud) -> None:
    cloud.run(seconds=1)
    before = cloud.store.revision()
    for _ in range(30):
        cloud.run(seconds=1)
        cloud.compute.report(FIRST, active_at=cloud.clock.wall())
    assert cloud.service.state == "READY"
    assert cloud.store.revision() == before


def test_it_sleeps_only_where_somebody_would_hold_the_next_request(cloud: Cloud) -> None:
    cloud.compute.report(HOLDER, ready=False)
    cloud.run(seconds=30)
    assert cloud.service.state == "READY"
    cloud.compute.report(HOLDER, ready=True)
    cloud.run(seconds=1)
    assert cloud.service.state == "SCALED_TO_ZERO"


def test_replicas_of_a_release_before_do_not_tell_when_they_were_asked_and_stay(cloud: Cloud) -> None:
    cloud.compute.running[FIRST].report.pop("active_at")  # type: ignore[attr-defined]
    cloud.run(seconds=60)
    assert cloud.service.state == "READY"


def test_what_a_replica_did_since_it_told_last_is_not_known_to_be_nothing(cloud: Cloud) -> None:
    """On a machine that is busy a burst is there for seconds before it is told of."""
    cloud.compute.report(FIRST, told_at=cloud.clock.wall())
    cloud.run(seconds=30)
    assert cloud.service.state == "READY"
    cloud.compute.report(FIRST, told_at=cloud.clock.wall())
    cloud.run(seconds=0.2)
    assert cloud.service.state == "SCALED_TO_ZERO"


def test_what_a_replica_has_is_answered_before_it_ends(cloud: Cloud) -> None:
    cloud.gateway.busy = {FIRST: 1}
    cloud.run(seconds=12)
    assert cloud.service.state == "SCALED_TO_ZERO"
    assert cloud.gateway.servers("price:1") == [HOLDER]
    assert cloud.replicas == [FIRST]
    cloud.gateway.busy = {}
    cloud.run(seconds=1)
    assert cloud.replicas == []


def test_a_request_wakes_it_with_one_replica_and_then_the_others(cloud: Cloud) -> None:
    cloud.run(seconds=12)
    cloud.compute.report(HOLDER, waiting={"price": 3})
    cloud.run(seconds=0.2)
    assert (cloud.service.state, cloud.service.reason) == ("STARTING", "WAKING")
    assert cloud.service.message == "Waking: a request waits for it."
    assert cloud.replicas == [FIRST]
    assert cloud.held["versions"] == {"1": {"weight": 100, "sockets": [FIRST]}}
    assert cloud.gateway.servers("price:1") == [HOLDER]
    cloud.compute.report(HOLDER, waiting={})
    cloud.ready(FIRST)
    assert cloud.gateway.servers("price:1") == [FIRST]
    cloud.ready(*cloud.replicas)
    assert (cloud.service.state, len(cloud.replicas)) == ("READY", 2)
    assert "rest" not in cloud.service.status


def test_a_control_plane_that_was_away_wakes_it_all_the_same(cloud: Cloud) -> None:
    cloud.run(seconds=12)
    cloud.compute.report(HOLDER, waiting={"price": 1})
    cloud.start_control()
    cloud.run(seconds=0.3)
    assert cloud.replicas == [FIRST]


def test_what_keeps_it_from_waking_is_told_to_those_who_wait(cloud: Cloud) -> None:
    cloud.run(seconds=12)
    cloud.compute.report(HOLDER, waiting={"price": 1})
    cloud.run(seconds=0.3)
    cloud.compute.report(FIRST, failed=True, reason="BAD_MODEL", message="It cannot be read.")
    cloud.compute.kill(FIRST, 3)
    cloud.compute.report(HOLDER, waiting={})
    cloud.run(seconds=0.3)
    assert cloud.held["trouble"] == {"failed": True, "reason": "BAD_MODEL", "message": "It cannot be read."}
    assert cloud.held["versions"]["1"]["sockets"] == []
    assert (cloud.service.state, cloud.service.message) == ("DEGRADED", "0 of 1 replicas serve. It cannot be read.")
    cloud.run(seconds=11)
    assert cloud.service.state == "SCALED_TO_ZERO"
    assert cloud.held["trouble"] is None


def test_a_replica_that_dies_while_it_wakes_is_started_again_and_told_of(cloud: Cloud) -> None:
    cloud.run(seconds=12)
    cloud.compute.report(HOLDER, waiting={"price": 1})
    cloud.run(seconds=0.3)
    cloud.compute.kill(FIRST)
    cloud.run(seconds=0.3)
    told = "It ended before it was ready; tried again, 1 so far."
    assert cloud.held["trouble"] == {"failed": False, "reason": "", "message": told}
    cloud.ready(FIRST)
    assert cloud.held["trouble"] is None
    assert cloud.gateway.servers("price:1") == [FIRST]


def test_the_activator_answers_for_a_service_whose_replicas_all_died(cloud: Cloud) -> None:
    for name in cloud.replicas:
        cloud.compute.kill(name)
    cloud.run(seconds=0.1)
    assert cloud.gateway.servers("price:1") == [HOLDER]


def test_another_version_is_released_awake(cloud: Cloud) -> None:
    cloud.run(seconds=12)
    cloud.change(versions={"1": {"weight": 100}, "2": {"weight": 0}})
    assert cloud.replicas == [FIRST, "t.replica.price-2-1"]
    assert [cloud.gateway.servers(f"price:{n}") for n in (1, 2)] == [[HOLDER], [HOLDER]]
    cloud.run(seconds=30)
    assert len(cloud.replicas) == 2


def test_a_service_that_sleeps_counts_as_routed_to_so_that_a_release_can_end(cloud: Cloud) -> None:
    cloud.run(seconds=12)
    assert cloud.service.status["routed"] == "1"


def test_one_that_is_declared_to_stay_awake_wakes_and_is_held_for_until_then(cloud: Cloud) -> None:
    cloud.run(seconds=12)
    cloud.change(serve=sr.Service(replicas=2).to_json())
    assert cloud.gateway.servers("price:1") == [HOLDER]
    cloud.ready(*cloud.replicas)
    cloud.ready(*cloud.replicas)
    assert (cloud.service.state, len(cloud.replicas)) == ("READY", 2)
    cloud.run(seconds=1)
    assert cloud.store.rows("t", "activator") == []


def test_the_activator_stays_while_it_holds_something(cloud: Cloud) -> None:
    cloud.compute.report(HOLDER, waiting={"price": 1})
    cloud.change(serve=sr.Service(replicas=2).to_json())
    cloud.run(seconds=1)
    assert cloud.compute.running[HOLDER].alive
    cloud.compute.report(HOLDER, waiting={})
    cloud.run(seconds=1)
    assert HOLDER not in cloud.compute.running


def test_by_hand(cloud: Cloud) -> None:
    cloud.act(plan_sleep)
    cloud.run(seconds=0.3)
    assert (cloud.service.state, cloud.service.message) == ("SCALED_TO_ZERO", "Asleep: it was put to sleep by hand.")
    assert cloud.replicas == []
    with pytest.raises(Conflict) as found:
        cloud.act(plan_sleep)
    assert found.value.code == "ALREADY_ASLEEP"
    cloud.act(plan_wake)
    cloud.run(seconds=0.3)
    assert (cloud.service.state, cloud.service.message) == ("STARTING", "Waking: it was woken by hand.")
    with pytest.raises(Conflict) as found:
        cloud.act(plan_wake)
    assert found.value.code == "ALREADY_AWAKE"


def test_when_it_slept_and_woke_and_why_is_kept(cloud: Cloud) -> None:
    cloud.run(seconds=12)
    cloud.compute.report(HOLDER, waiting={"price": 3})
    cloud.run(seconds=0.2)
    assert cloud.service.status["rests"][-1]["to"] == "waking"
    cloud.run(seconds=0.8)
    cloud.compute.report(HOLDER, waiting={})
    cloud.ready(FIRST)
    asleep, awake = cloud.service.status["rests"]
    assert (asleep["to"], asleep["from"], asleep["replicas"]) == ("asleep", 2, 0)
    assert asleep["why"] == "Asleep: nobody asked for 10s."
    assert (awake["to"], awake["from"], awake["replicas"]) == ("awake", 0, 1)
    assert awake["why"] == "Waking: a request waits for it."
    assert 0 < awake["ready_at"] - awake["at"] <= 1_000_000
    assert woken_since(cloud.service, awake["at"]) == [awake]
    assert woken_since(cloud.service, awake["ready_at"]) == []
    for _ in range(RESTS):
        cloud.act(plan_sleep)
        cloud.run(seconds=0.3)
        cloud.act(plan_wake)
        cloud.run(seconds=0.3)
        cloud.ready(*cloud.replicas)
    kept = cloud.service.status["rests"]
    assert len(kept) == RESTS
    assert [one["to"] for one in kept[-2:]] == ["asleep", "awake"]
    assert kept[-1]["why"] == "Waking: it was woken by hand."
    assert woken_since(cloud.service, 0) == [], "no request did"


def test_one_that_is_woken_while_its_replicas_are_still_there_is_awake_at_once(cloud: Cloud) -> None:
    cloud.compute.report(HOLDER, ready=False)
    cloud.act(plan_sleep)
    cloud.run(seconds=0.3)
    cloud.act(plan_wake)
    cloud.run(seconds=0.3)
    assert [(one["to"], one["replicas"]) for one in cloud.service.status["rests"]] == [("asleep", 0), ("awake", 2)]


def test_each_tenant_has_an_activator_of_its_own(cloud: Cloud) -> None:
    spec = {"model": "price", "serve": SLEEPS.to_json(), "versions": {"1": {"weight": 100}}}
    cloud.commit(
        [
            Put(Resource("u", "version", "price:1", spec=_version(1), state="APPROVED", status=_SETTLED), 0),
            Put(Resource("u", "service", "price", spec=spec, state="PENDING"), 0),
        ]
    )
    cloud.commit([Put(new_scaling(cloud.store.get("u", "service", "price"), 2, {}, cloud.clock.wall()), 0)])
    cloud.ready("u.activator.activator")
    cloud.ready("u.replica.price-1-1", "u.replica.price-1-2")
    cloud.run(seconds=12)
    cloud.compute.report("u.activator.activator", waiting={"price": 1})
    cloud.run(seconds=0.3)
    assert cloud.store.get("u", "service", "price").state == "STARTING"
    assert cloud.service.state == "SCALED_TO_ZERO"
    sockets = [
        cloud.compute.specs[f"{tenant}.activator.activator"].live["services"]["price"]["versions"]["1"]["sockets"]
        for tenant in ("t", "u")
    ]
    assert sockets == [[], ["u.replica.price-1-1"]]


def test_by_hand_it_keeps_its_replicas_until_somebody_would_hold_a_request(cloud: Cloud) -> None:
    cloud.compute.report(HOLDER, ready=False)
    cloud.act(plan_sleep)
    cloud.run(seconds=1)
    assert cloud.gateway.servers("price:1") == [FIRST, "t.replica.price-1-2"]
    cloud.compute.report(HOLDER, ready=True)
    cloud.run(seconds=1)
    assert (cloud.gateway.servers("price:1"), cloud.replicas) == ([HOLDER], [])
    cloud.compute.report(HOLDER, ready=False)
    cloud.run(seconds=1)
    assert cloud.replicas == []


def test_a_service_with_a_fixed_number_never_sleeps() -> None:
    cloud = Cloud.__new__(Cloud)
    Simulation.__init__(cloud)
    spec = {"model": "price", "serve": sr.Service().to_json(), "versions": {"1": {"weight": 100}}}
    cloud.commit(
        [
            Put(Resource("t", "version", "price:1", spec=_version(1), state="APPROVED", status=_SETTLED), 0),
            Put(Resource("t", "service", "price", spec=spec, state="PENDING"), 0),
        ]
    )
    cloud.ready(FIRST)
    cloud.run(seconds=600)
    assert cloud.service.state == "READY"
    assert cloud.store.rows("t", "activator") == []
    with pytest.raises(Conflict) as found:
        cloud.act(plan_sleep)
    assert found.value.code == "NEVER_SLEEPS"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"replicas": (4, 1)}, "they are (least, most), as in (1, 4)"),
        ({"replicas": (-1, 4)}, "they are (least, most), as in (1, 4)"),
        ({"replicas": 2, "hold": "1m"}, "hold is for a service whose replicas follow the load"),
        ({"replicas": (2, 2), "hold": "1m"}, "hold is for a service whose replicas follow the load"),
        ({"replicas": (1, 2), "hold": "5ms"}, "hold='5ms' is shorter than a second"),
        ({"replicas": (1, 2), "hold": "long"}, "'long' is not a hold"),
        ({"replicas": (1, 2), "wake": "2s"}, "wake is for a service that sleeps"),
        ({"replicas": (1, 2), "idle": "2m"}, "idle is for a service that sleeps"),
        ({"replicas": (0, 2), "wake": "20ms", "latency": "50ms"}, "must be longer than latency='50ms'"),
        ({"replicas": (0, 0)}, "0 is not from 1 to 64"),
        ({"replicas": 65}, "65 is not from 1 to 64"),
        ({"idle": "1m"}, "idle is for a service that sleeps"),
        ({"replicas": (0, 1), "idle": "10ms"}, "shorter than a second"),
        ({"replicas": (0, 1), "idle": "soon"}, "'soon' is not a duration"),
    ],
)
def test_what_cannot_be_declared(given: dict[str, Any], told: str) -> None:
    with pytest.raises((ValidationError, sr.SkyriverError), match=re.escape(told)):
        sr.Service(**given)


def test_a_specification_of_before_is_what_it_was() -> None:
    assert sr.Service(replicas=2).to_json() == {"replicas": 2, "cpus": 1.0, "memory_mb": 512}
    assert sr.Service.model_validate(SLEEPS.to_json()) == SLEEPS


@pytest.mark.parametrize(
    ("replicas", "least", "most", "sleeps", "elastic"),
    [
        (3, 3, 3, False, False),
        ((3, 3), 3, 3, False, False),
        ((0, 1), 0, 1, True, False),
        ((0, 8), 0, 8, True, True),
        ((1, 2), 1, 2, False, True),
    ],
)
def test_what_replicas_mean(
    replicas: int | tuple[int, int], least: int, most: int, sleeps: bool, elastic: bool
) -> None:
    serve = sr.Service(replicas=replicas)
    assert (serve.least, serve.most, serve.sleeps, serve.elastic) == (least, most, sleeps, elastic)


def test_it_wakes_to_what_waits(cloud: Cloud) -> None:
    """100 requests of 50 ms are 5 s of work: with two replicas it is done in 2.5 s, and more than two it has not."""
    cloud.scale(1, work_s=0.05, start_s=0.5)
    cloud.run(seconds=12)
    cloud.compute.report(HOLDER, waiting={"price": 15})
    cloud.run(seconds=0.2)
    assert cloud.replicas == [FIRST]
    cloud.compute.report(HOLDER, waiting={"price": 100})
    cloud.run(seconds=0.2)
    assert len(cloud.replicas) == 2
    cloud.compute.report(HOLDER, waiting={})
    cloud.ready(FIRST)
    cloud.run(seconds=10)
    cloud.ready(*cloud.replicas)
    assert len(cloud.replicas) == 2
    cloud.run(seconds=6)  # whoever decides has seen by then what there is to do, and decided for one
    assert len(cloud.replicas) == 1
    assert "woke" not in cloud.service.status


@pytest.mark.parametrize(("cores", "at_once"), [(1, 1), (2, 1), (3, 2), (8, 4)])
def test_of_those_that_it_wakes_with_the_first_are_no_more_than_the_machine_has_cores_for(
    cores: int, at_once: int
) -> None:
    cloud = Cloud(sr.Service(replicas=(0, 4), idle="10s"))
    cloud.scale(1, work_s=0.05, start_s=0.5)
    cloud.ready(*cloud.replicas, machine_cores=cores)
    cloud.run(seconds=12)
    assert cloud.replicas == []
    cloud.compute.report(HOLDER, ready=True, waiting={"price": 100})
    cloud.run(seconds=1)
    assert len(cloud.replicas) == at_once
    cloud.ready(FIRST, machine_cores=cores)
    assert len(cloud.replicas) == 4
    cloud.ready(*cloud.replicas, machine_cores=cores)
    cloud.run(seconds=10)
    assert (cloud.service.state, len(cloud.replicas)) == ("READY", 4)


def test_a_service_that_becomes_elastic_keeps_what_it_has_until_somebody_decided() -> None:
    cloud = Cloud(sr.Service(replicas=3))
    cloud.ready(*cloud.replicas)
    cloud.change(serve=sr.Service(replicas=(1, 4)).to_json())
    cloud.run(seconds=5)
    assert len(cloud.replicas) == 3
    cloud.scale(1)
    assert cloud.replicas == [FIRST]


def test_before_anybody_decided_it_has_as_few_as_it_may() -> None:
    cloud = Cloud(sr.Service(replicas=(2, 4)))
    cloud.ready(*cloud.replicas)
    assert len(cloud.replicas) == 2


@pytest.mark.parametrize(("wanted", "there"), [(3, 3), (9, 4), (1, 2), (0, 2)])
def test_what_is_decided_is_followed_within_what_is_declared(wanted: int, there: int) -> None:
    cloud = Cloud(sr.Service(replicas=(2, 4)))
    cloud.scale(wanted)
    assert len(cloud.replicas) == there
    assert cloud.service.status["wanted"] == there


def test_a_service_that_gets_more_replicas_is_not_degraded_meanwhile() -> None:
    cloud = Cloud(sr.Service(replicas=(1, 4)))
    cloud.ready(*cloud.replicas)
    cloud.scale(2)
    assert (cloud.service.state, len(cloud.replicas)) == ("READY", 2)
    cloud.compute.kill(FIRST)
    cloud.settle()
    assert cloud.service.state in ("DEGRADED", "STARTING")


def test_who_serves_stays_and_then_the_oldest() -> None:
    cloud = Cloud(sr.Service(replicas=(1, 4)))
    cloud.ready(*cloud.replicas)
    cloud.scale(3)
    third = "t.replica.price-1-3"
    cloud.ready(third)
    cloud.scale(2)
    assert cloud.replicas == [FIRST, third]
    cloud.scale(1)
    assert cloud.replicas == [FIRST]


def test_what_was_decided_goes_with_the_service_and_with_its_being_elastic() -> None:
    cloud = Cloud(sr.Service(replicas=(1, 4)))
    cloud.scale(3)
    cloud.change(serve=sr.Service(replicas=2).to_json())
    assert cloud.store.rows("t", "scaling") == []
    assert len(cloud.replicas) == 2


EVENTS = st.lists(
    st.sampled_from(("ask", "asked", "ready", "kill", "fail", "kill holder", "busy", "free", "control", "wait")),
    max_size=40,
)


@given(EVENTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_a_request_has_somewhere_to_go(events: list[str]) -> None:
    """A version with weight has a replica or is the activator's, and who has requests under way is not ended."""
    cloud = Cloud(SLEEPS)
    cloud.scale(2, work_s=0.5, start_s=0.5)
    cloud.ready(*cloud.replicas)
    for event in events:
        living = cloud.replicas
        match event:
            case "ask":
                cloud.compute.report(HOLDER, waiting={"price": 1})
            case "asked":
                cloud.compute.report(HOLDER, waiting={})
            case "ready":
                for name in living:
                    cloud.compute.report(name, ready=True, active_at=cloud.clock.wall())
            case "kill" if living:
                cloud.gateway.busy.pop(living[0], None)
                cloud.compute.kill(living[0])
            case "fail" if living:
                cloud.gateway.busy.pop(living[0], None)
                cloud.compute.report(living[0], failed=True, reason="BAD_MODEL", message="no")
                cloud.compute.kill(living[0], 3)
            case "kill holder":
                cloud.compute.kill(HOLDER)
            case "busy":
                serving = [name for name in cloud.gateway.servers("price:1") if name != HOLDER]
                cloud.gateway.busy = dict.fromkeys(serving, 1)
            case "free":
                cloud.gateway.busy = {}
            case "control":
                cloud.start_control()
            case "wait":
                cloud.run(seconds=4)
        busy = set(cloud.gateway.busy) & set(cloud.replicas)
        cloud.run(seconds=0.3)
        if not cloud.compute.running[HOLDER].report.get("ready"):
            cloud.ready(HOLDER)
        assert cloud.gateway.servers("price:1")
        assert busy <= set(cloud.replicas)
    cloud.compute.report(HOLDER, waiting={"price": 1})
    cloud.run(seconds=62)  # a replica that was given up is tried again
    cloud.ready(*cloud.replicas)
    assert any(name in cloud.replicas for name in cloud.gateway.servers("price:1"))
