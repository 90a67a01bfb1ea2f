"""A version that takes over by steps, in the real loop with in-memory parts: no process, no disk, no clock."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.resources import Put, Resource
from skyriver.release import operations
from skyriver.release.guards import least
from skyriver.serve.metrics import Histogram
from skyriver.serve.scores import Scores
from skyriver.serve.shadow import Answered, Compared
from skyriver.wiring.simulation import Simulation

OLD, NEW = "t.replica.price-1-1", "t.replica.price-2-1"


class Answers:
    """What a replica would have counted."""

    def __init__(self, *, fails: float = 0.0, slower: float = 1.0, scores: float = 0.0) -> None:
        self.fails, self.slower, self.shift = fails, slower, scores
        self.requests = self.errors = 0
        self.latency, self.scores = Histogram(), Scores()

    def serve(self, rng: random.Random, requests: int) -> None:
        for _ in range(requests):
            self.requests += 1
            self.errors += rng.random() < self.fails
            self.latency.add(int(2_000 * self.slower * rng.lognormvariate(0, 0.4)))
            self.scores.add(np.array([rng.gauss(self.shift, 1.0)]))

    def report(self) -> dict[str, Any]:
        counted = {"latency_us": self.latency.told(), "scores": self.scores.told()}
        return {"requests": self.requests, "errors": self.errors, "refused": 0, "counted": counted}


class Copies:
    """What the champion's replica would have counted of copies and their answers."""

    def __init__(self, *, fails: float = 0.005, slower: float = 1.0, scores: float = 0.0, noise: float = 0.05) -> None:
        self.fails, self.slower, self.shift, self.noise = fails, slower, scores, noise
        latency, scores_before, rng = Histogram(), Scores(), random.Random(4)
        for _ in range(1_000):
            latency.add(int(2_000 * rng.lognormvariate(0, 0.4)))
            scores_before.add(np.array([rng.gauss(0, 1)]))
        self.compared = Compared(("score", "score"), lambda: (latency, scores_before))
        self.compared.find_bounds()
        self.sent = 0

    def serve(self, rng: random.Random, requests: int) -> None:
        for _ in range(requests):
            self.sent += 1
            score = rng.gauss(0, 1)
            self.compared.note(
                self._answer(rng, 0.005, 1.0, score),
                self._answer(rng, self.fails, self.slower, score + self.shift + rng.gauss(0, self.noise)),
            )

    def _answer(self, rng: random.Random, fails: float, slower: float, score: float) -> Answered:
        status = 500 if rng.random() < fails else 200
        return Answered(status, int(2_000 * slower * rng.lognormvariate(0, 0.4)), b'{"score":%f}' % score)

    def report(self) -> dict[str, Any]:
        champion, candidate = self.compared.sides
        latency = dict(zip(("champion", "candidate"), (h.told() for h in self.compared.latency), strict=True))
        return {
            "version": 2,
            "since": 1,
            "copies": {"sent": self.sent, "dropped": 0, "unanswered": 0},
            "champion": dict(champion),
            "candidate": dict(candidate),
            "pairs": {guard: [list(counts) for counts in bounds] for guard, bounds in self.compared.pairs.items()},
            "differences": self.compared.differences.told(),
            "latency_us": latency,
        }


class Cloud(Simulation):
    """The model `price`, version 1 of which serves; version 2 has passed the gate."""

    def __init__(self, canary: sr.Canary | sr.BlueGreen | None) -> None:
        super().__init__()
        self.rng = random.Random(3)
        declared: dict[str, Any] = {"name": "price", "onnx": "price.onnx"}
        if canary is not None:
            declared["rollout"] = canary.spec.to_json()
        spec = {"model": "price", "serve": sr.Service().to_json(), "versions": {"1": {"weight": 100}}}
        aliases = {"aliases": {"champion": 1}, "history": [{"version": 1, "at": 0, "cause": "release"}]}
        self.commit(
            [
                Put(Resource("t", "model", "price", spec={"model": declared}, state="DECLARED", status=aliases), 0),
                Put(_version(1, settled="good"), 0),
                Put(Resource("t", "service", "price", spec=spec, state="PENDING"), 0),
            ]
        )
        self.settle()
        self.old, self.new = Answers(fails=0.005), Answers(fails=0.005)
        self.copies = Copies()
        self.ready(OLD)

    @property
    def rollout(self) -> Resource:
        rows = self.store.rows("t", "rollout")
        return rows[-1]

    @property
    def shares(self) -> dict[str, int]:
        return {v: w["weight"] for v, w in self.store.get("t", "service", "price").spec["versions"].items()}

    def ready(self, name: str) -> None:
        self.compute.report(name, ready=True)
        self.settle()

    def release(self) -> None:
        self.commit([Put(_version(2), 0)])
        self.settle()

    def act(self, plan: Any, **params: Any) -> None:
        self.commit([Put(r, r.revision) for r in plan(self.loop.snapshot(), "t", self.rollout.name, params, {})])
        self.settle()

    def traffic(self, seconds: int, per_second: int = 200) -> int:
        """Requests of so long, by the shares there are; of a rollout that ends, the seconds until then."""
        for second in range(seconds):
            to_new = sum(self.rng.random() * 100 < self.shares.get("2", 0) for _ in range(per_second))
            self.old.serve(self.rng, per_second - to_new)
            self.new.serve(self.rng, to_new)
            for name, answers in ((OLD, self.old), (NEW, self.new)):
                if self.running(name):
                    self.compute.report(name, ready=True, **answers.report())
            self.run(seconds=1)
            if self.rollout.state in ("DONE", "ROLLED_BACK", "ABORTED"):
                return second + 1
        return seconds

    @property
    def copied(self) -> dict[str, Any] | None:
        """What the champion's replica is told to copy."""
        told: dict[str, Any] | None = self.compute.specs[OLD].live.get("shadow")
        return told

    def copying(self, seconds: int, per_second: int = 20) -> None:
        """Requests of which copies are sent, as long as that is wanted."""
        for _ in range(seconds):
            if self.copied is not None:
                self.copies.serve(self.rng, per_second)
            told = {"shadow": self.copies.report()} if self.copied is not None else {}
            self.compute.report(OLD, ready=True, **self.old.report(), **told)
            self.run(seconds=1)

    def running(self, name: str) -> bool:
        return name in self.compute.running and self.compute.running[name].alive


def _version(number: int, **status: Any) -> Resource:
    spec = {"model": "price", "version": number, "artifact": "a" * 64}
    return Resource("t", "version", f"price:{number}", spec=spec, state="APPROVED", status=status)


BY_STEPS = sr.Canary([5, 50, 100], every="30s", wait="2m")


@pytest.fixture
def cloud() -> Cloud:
    """Version 2 has the share of the first step."""
    cloud = Cloud(BY_STEPS)
    cloud.release()
    assert (cloud.rollout.state, cloud.shares) == ("CANARY", {"1": 100, "2": 0}), "none before it can answer"
    cloud.ready(NEW)
    assert cloud.shares == {"1": 95, "2": 5}
    [route] = cloud.gateway.applied.routes
    assert (route.split, route.steady) == ((("price:1", 95), ("price:2", 5)), "price:1")
    return cloud


def test_a_version_that_is_as_good_gets_all_requests_step_by_step(cloud: Cloud) -> None:
    seen = []
    for _ in range(150):
        if cloud.traffic(1) and cloud.shares not in seen:
            seen.append(cloud.shares)
    assert seen[:2] == [{"1": 95, "2": 5}, {"1": 50, "2": 50}]
    assert (cloud.rollout.state, cloud.shares) == ("DONE", {"2": 100})
    model = cloud.store.get("t", "model", "price")
    assert model.status["aliases"]["champion"] == 2


def test_a_step_takes_as_long_as_declared_and_says_where_it_stands(cloud: Cloud) -> None:
    cloud.traffic(20)
    rollout = cloud.rollout
    assert rollout.message.startswith("Step 1 of 2: version 2 gets 5% of the requests, for 30s at least; ")
    assert "champion failed" in rollout.message
    assert cloud.shares == {"1": 95, "2": 5}


@pytest.mark.parametrize(
    ("wrong", "reason", "seen"),
    [
        ({"fails": 0.06}, "WORSE_ERRORS", "candidate failed "),
        (
            {"fails": 0.005, "slower": 3.0},
            "WORSE_LATENCY",
            "answers took much longer than 95% of version 1's did before",
        ),
        ({"fails": 0.005, "scores": 0.6}, "WORSE_SCORES", "scores are above the 90% point of version 1's"),
    ],
)
def test_one_that_is_worse_is_taken_back_and_why_is_told(
    cloud: Cloud, wrong: dict[str, float], reason: str, seen: str
) -> None:
    cloud.traffic(3)
    cloud.new = Answers(**wrong)
    cloud.traffic(110)
    rollout = cloud.rollout
    assert (rollout.state, rollout.reason, cloud.shares) == ("ROLLED_BACK", reason, {"1": 100})
    assert "Version 2 is worse than version 1" in rollout.message
    assert seen in rollout.message, "what the guard saw"
    assert rollout.next_action
    version = cloud.store.get("t", "version", "price:2")
    assert (version.status["settled"], version.reason) == ("bad", reason)


def test_a_second_version_says_which_rollout_it_waits_for_and_nobody_waits_for_it(cloud: Cloud) -> None:
    cloud.commit([Put(_version(3), 0)])
    cloud.settle()
    first, second = cloud.store.rows("t", "rollout")
    assert (first.state, second.state, second.reason) == ("CANARY", "PENDING", "EARLIER_ROLLOUT")
    assert "when the rollout price-1 of version 2 has ended, which is CANARY: rollouts of a model" in second.message
    assert "`skyriver rollout get price-1` shows how far that one is; `skyriver rollout promote" in second.next_action
    version = cloud.store.get("t", "version", "price:3")
    assert version.status["settled"] == "good", "who deploys does not wait for the end of another rollout"
    assert version.message.startswith("Its rollout price-2 waits. It begins when the rollout price-1 ")
    revision = second.revision
    cloud.traffic(2)
    assert cloud.store.get("t", "rollout", "price-2").revision == revision, "what is said once is not written again"

    cloud.commit(
        [Put(row, row.revision) for row in operations.plan_rollout_abort(cloud.loop.snapshot(), "t", "price-1", {}, {})]
    )
    cloud.settle()
    second = cloud.store.get("t", "rollout", "price-2")
    assert (second.state, second.reason) == ("CANARY", "")
    cloud.ready("t.replica.price-3-1")
    assert cloud.store.get("t", "version", "price:3").message.startswith("It is compared with the version that serves")


def test_a_replica_says_how_its_process_ended_and_goes_on_knowing_it(cloud: Cloud) -> None:
    def row() -> Resource:
        return cloud.store.get("t", "replica", "price-2-1")

    cloud.compute.kill(NEW)
    cloud.loop.run_pass()
    assert (row().state, row().reason, row().message) == ("LOST", "PROCESS_DIED", "It was ended by SIGKILL.")
    cloud.settle()
    cloud.ready(NEW)
    assert (row().state, row().message, row().status["last_end"]) == ("READY", "", "It was ended by SIGKILL.")


def test_the_share_is_gone_in_the_pass_that_finds_it_worse(cloud: Cloud) -> None:
    cloud.new = Answers(fails=1.0)
    seconds = cloud.traffic(30)
    assert cloud.rollout.state == "ROLLED_BACK"
    assert seconds <= 3
    assert cloud.new.requests < 50


def test_where_nobody_asks_it_pauses_and_goes_on_by_hand(cloud: Cloud) -> None:
    cloud.traffic(125, per_second=2)
    rollout = cloud.rollout
    assert (rollout.state, rollout.reason) == ("PAUSED", "TOO_FEW_REQUESTS")
    assert f"the step needs {least(5)}" in rollout.message
    assert f"skyriver rollout resume {rollout.name}" in rollout.next_action
    cloud.act(operations.plan_rollout_resume)
    assert cloud.rollout.state == "CANARY"
    cloud.traffic(40)
    assert cloud.shares == {"1": 50, "2": 50}


def test_a_paused_one_keeps_its_share_and_is_still_taken_back(cloud: Cloud) -> None:
    cloud.act(operations.plan_rollout_pause, why="we wait for Monday.")
    assert cloud.rollout.message == "It was paused by hand: we wait for Monday."
    cloud.traffic(60)
    assert (cloud.rollout.state, cloud.rollout.reason, cloud.shares) == ("PAUSED", "BY_HAND", {"1": 95, "2": 5})
    cloud.new.fails = 0.5
    cloud.traffic(30)
    assert (cloud.rollout.state, cloud.rollout.reason) == ("ROLLED_BACK", "WORSE_ERRORS")


def test_by_hand_it_gets_all_or_none(cloud: Cloud) -> None:
    cloud.traffic(2)
    cloud.act(operations.plan_rollout_abort, why="a mistake")
    assert cloud.rollout.state == "ABORTED"
    seen = cloud.new.requests
    assert cloud.rollout.message == f"It was aborted by hand: a mistake. In all {seen} requests saw it."
    assert cloud.shares == {"1": 100}
    for plan in (operations.plan_rollout_promote, operations.plan_rollout_pause, operations.plan_rollout_abort):
        with pytest.raises(Conflict, match="is ABORTED"):
            cloud.act(plan)


def test_promoted_by_hand_it_serves_alone(cloud: Cloud) -> None:
    cloud.traffic(2)
    cloud.act(operations.plan_rollout_promote)
    assert (cloud.rollout.state, cloud.shares) == ("DONE", {"2": 100})


def test_a_version_whose_processes_end_as_they_answer_is_taken_back(cloud: Cloud) -> None:
    for _ in range(2):
        cloud.traffic(2)
        cloud.compute.kill(NEW, -9)
        cloud.settle()
        cloud.new = Answers()
        if cloud.rollout.state == "CANARY":
            cloud.run(seconds=1)
            cloud.ready(NEW)
    cloud.traffic(3)
    assert (cloud.rollout.state, cloud.rollout.reason) == ("ROLLED_BACK", "VERSION_DIES")
    assert "ended 2 times as it answered. The last time: It was ended by SIGKILL." in cloud.rollout.message


def test_a_cloud_that_was_down_twice_is_no_fault_of_the_version(cloud: Cloud) -> None:
    for _ in range(2):
        cloud.traffic(2)
        for name in (OLD, NEW):
            cloud.compute.kill(name, -9)
        cloud.settle()
        cloud.old, cloud.new = Answers(), Answers()
        cloud.run(seconds=1)
        for name in (OLD, NEW):
            cloud.ready(name)
    cloud.traffic(150)
    assert cloud.rollout.state == "DONE"


def test_one_of_which_one_process_was_killed_goes_on(cloud: Cloud) -> None:
    cloud.traffic(2)
    cloud.compute.kill(NEW, -9)
    cloud.settle()
    cloud.new = Answers()
    cloud.ready(NEW)
    cloud.traffic(150)
    assert cloud.rollout.state == "DONE"


def test_a_control_plane_that_begins_anew_goes_on_where_it_was(cloud: Cloud) -> None:
    cloud.traffic(20)
    before = cloud.rollout.status["canary"]["compared"]["candidate"]["answered"]
    cloud.start_control()
    cloud.traffic(5)
    assert cloud.rollout.status["canary"]["compared"]["candidate"]["answered"] > before
    cloud.traffic(110)
    assert cloud.rollout.state == "DONE"


def test_without_a_declaration_or_a_champion_and_for_a_way_back_it_is_at_once() -> None:
    cloud = Cloud(None)
    cloud.release()
    assert cloud.rollout.state == "PROMOTING"
    cloud.ready(NEW)
    assert (cloud.rollout.state, cloud.shares) == ("DONE", {"2": 100})


SHADOWED = sr.Canary([50, 100], every="30s", shadow=sr.Shadow("40s", share=10, wait="2m"))


@pytest.fixture
def shadowed() -> Cloud:
    """Version 2 answers copies."""
    cloud = Cloud(SHADOWED)
    cloud.release()
    assert (cloud.rollout.state, cloud.copied) == ("SHADOW", None), "no copies before it can answer"
    cloud.ready(NEW)
    return cloud


def test_in_a_shadow_copies_go_to_the_version_and_no_request_does(shadowed: Cloud) -> None:
    assert shadowed.copied is not None
    assert (shadowed.copied["version"], shadowed.copied["share"]) == (2, 10)
    assert len(shadowed.copied["sockets"]) == 1
    assert "shadow" not in shadowed.compute.specs[NEW].live
    [route] = shadowed.gateway.applied.routes
    assert route.split == (("price:1", 100),)
    version = shadowed.store.get("t", "version", "price:2")
    assert version.status["settled"] == "good", "who deploys does not wait for its end"


def test_after_a_good_shadow_the_steps_begin_once_no_copies_are_left(shadowed: Cloud) -> None:
    shadowed.copying(20)
    rollout = shadowed.rollout
    assert rollout.state == "SHADOW"
    assert rollout.message.startswith("Version 2 answers copies of 10% of the requests, for 40s at least; 400 of")
    shown = rollout.status["shown"]
    assert 0.02 < shown["agreement"]["score_difference"]["p50"] < 0.05
    shadowed.copying(22)
    assert (shadowed.rollout.state, shadowed.shares, shadowed.copied) == ("CANARY", {"1": 100, "2": 0}, None)
    shadowed.traffic(5)
    assert shadowed.shares == {"1": 50, "2": 50}
    shadowed.traffic(60)
    assert shadowed.rollout.state == "DONE"


@pytest.mark.parametrize(
    ("wrong", "reason", "seen"),
    [
        ({"fails": 0.06}, "WORSE_ERRORS", "candidate failed "),
        ({"slower": 3.0}, "WORSE_LATENCY", "answers alone took much longer than 95% of version 1's did before"),
        ({"scores": 0.3}, "WORSE_SCORES", "scores alone are above the median of version 1's"),
    ],
)
def test_one_that_is_worse_in_its_shadow_is_seen_by_nobody(
    shadowed: Cloud, wrong: dict[str, float], reason: str, seen: str
) -> None:
    shadowed.copies = Copies(**wrong)
    shadowed.copying(60)
    rollout = shadowed.rollout
    assert (rollout.state, rollout.reason, shadowed.shares) == ("ROLLED_BACK", reason, {"1": 100})
    assert "Nobody was sent its answers." in rollout.message
    assert seen in rollout.message, "what the guard saw"
    assert shadowed.copied is None


def test_a_shadow_that_nobody_asks_pauses_and_goes_on_by_hand(shadowed: Cloud) -> None:
    shadowed.copying(125, per_second=1)
    assert (shadowed.rollout.state, shadowed.rollout.reason) == ("PAUSED", "TOO_FEW_REQUESTS")
    assert shadowed.copied is not None, "it is still compared"
    shadowed.act(operations.plan_rollout_resume)
    assert shadowed.rollout.state == "SHADOW"
    shadowed.copying(42)
    assert shadowed.rollout.state == "CANARY"


def test_a_control_plane_that_begins_anew_goes_on_with_the_shadow(shadowed: Cloud) -> None:
    shadowed.copying(20)
    shadowed.start_control()
    shadowed.copying(5)
    assert shadowed.rollout.status["shadow"]["candidate"]["answered"] == 500
    assert shadowed.rollout.state == "SHADOW"


def test_from_its_shadow_a_version_is_promoted_or_withdrawn_by_hand(shadowed: Cloud) -> None:
    shadowed.copying(2)
    shadowed.act(operations.plan_rollout_abort)
    assert (shadowed.rollout.state, shadowed.shares, shadowed.copied) == ("ABORTED", {"1": 100}, None)
    other = Cloud(SHADOWED)
    other.release()
    other.ready(NEW)
    other.act(operations.plan_rollout_promote)
    assert (other.rollout.state, other.shares) == ("DONE", {"2": 100})


def test_a_version_that_cannot_serve_never_gets_a_copy() -> None:
    cloud = Cloud(SHADOWED)
    cloud.release()
    cloud.compute.report(NEW, ready=False, failed=True, reason="BAD_MODEL", message="no")
    cloud.settle()
    assert (cloud.rollout.state, cloud.rollout.reason) == ("ROLLED_BACK", "VERSION_FAILED")


def by_guards(guards: sr.Guards) -> Cloud:
    """Version 2 has the share of the one step."""
    cloud = Cloud(sr.Canary([50, 100], every="30s", guards=guards))
    cloud.release()
    cloud.ready(NEW)
    cloud.traffic(3)
    return cloud


@pytest.mark.parametrize(
    ("guards", "wrong"),
    [
        (sr.Guards(scores=False), {"fails": 0.005, "scores": 0.6}),
        (sr.Guards(scores=9.0), {"fails": 0.005, "scores": 0.6}),
        (sr.Guards(latency=6.0), {"fails": 0.005, "slower": 3.0}),
        (sr.Guards(latency=False), {"fails": 0.005, "slower": 3.0}),
        (sr.Guards(errors=10.0), {"fails": 0.03}),
    ],
    ids=["scores off", "scores tolerated", "latency tolerated", "latency off", "errors tolerated"],
)
def test_what_is_not_watched_or_tolerated_takes_nothing_back(guards: sr.Guards, wrong: dict[str, float]) -> None:
    cloud = by_guards(guards)
    cloud.new = Answers(**wrong)
    cloud.traffic(60)
    assert cloud.rollout.state == "DONE"


def test_guards_that_are_declared_are_those_that_are_shown_and_still_watch() -> None:
    cloud = by_guards(sr.Guards(scores=False, errors=1.5))
    assert set(cloud.rollout.status["shown"]["evidence"]) == {"errors", "refusals", "latency", "all"}
    cloud.new = Answers(fails=0.2)
    cloud.traffic(30)
    assert (cloud.rollout.state, cloud.rollout.reason) == ("ROLLED_BACK", "WORSE_ERRORS")


def test_guards_are_the_shadows_too() -> None:
    cloud = Cloud(sr.BlueGreen(shadow="40s", guards=sr.Guards(latency=9.0, scores=False)))
    cloud.release()
    cloud.ready(NEW)
    assert cloud.copied is not None
    assert cloud.copied["slower"] == 9.0
    cloud.copies = Copies(scores=0.3)
    cloud.copying(20)
    assert set(cloud.rollout.status["shown"]["evidence"]) == {"errors", "refusals", "latency", "all"}
    cloud.copying(22)
    assert cloud.rollout.state == "DONE"


def tell(cloud: Cloud, **accepted: tuple[int, int]) -> None:
    """The application tells `yes` of `of` by version: v1, v2."""
    known = next(iter(cloud.store.rows("t", "outcome")), Resource("t", "outcome", "price", state="TOLD"))
    told = {v: dict(of) for v, of in known.status.get("outcomes", {}).items()}
    for version, (yes, of) in accepted.items():
        before = told.setdefault(version[1:], {}).get("accepted", {"yes": 0, "of": 0})
        told[version[1:]]["accepted"] = {"yes": before["yes"] + yes, "of": before["of"] + of}
    cloud.commit([Put(replace(known, status={"outcomes": told}), known.revision)])


@pytest.mark.parametrize(
    ("better", "share", "state"),
    [
        ("higher is better", 0.5, "CANARY"),
        ("higher is better", 0.8, "CANARY"),
        ("higher is better", 0.3, "ROLLED_BACK"),
        ("lower is better", 0.8, "ROLLED_BACK"),
    ],
)
def test_what_the_application_reports_takes_a_version_back(better: str, share: float, state: str) -> None:
    cloud = Cloud(sr.Canary([50, 100], every="10m", guards=sr.Guards(metrics={"accepted": better})))
    tell(cloud, v1=(500, 5_000), v2=(0, 300))
    cloud.release()
    cloud.ready(NEW)
    for _ in range(20):
        cloud.traffic(1, per_second=10)
        if cloud.rollout.state == "CANARY":
            tell(cloud, v1=(20, 40), v2=(round(40 * share), 40))
    cloud.traffic(2, per_second=10)
    assert cloud.rollout.state == state
    if state == "ROLLED_BACK":
        assert cloud.rollout.reason == "WORSE_ACCEPTED"
    else:
        assert "accepted" in cloud.rollout.status["shown"]["evidence"]


def test_blue_green_moves_all_requests_at_once_and_keeps_the_version_before_ready() -> None:
    cloud = Cloud(sr.BlueGreen(keep="10m"))
    cloud.release()
    assert cloud.shares == {"1": 100, "2": 0}
    cloud.ready(NEW)
    assert (cloud.rollout.state, cloud.shares) == ("DONE", {"2": 100, "1": 0})
    service = cloud.store.get("t", "service", "price")
    assert service.state == "READY"
    cloud.run(seconds=300)
    assert cloud.running(OLD)
    plan = operations.plan_rollback(cloud.loop.snapshot(), "t", "price", {}, {})
    cloud.commit([Put(r, r.revision) for r in plan])
    cloud.settle()
    assert (cloud.rollout.state, cloud.shares) == ("DONE", {"1": 100}), "no process had to be started"


def test_blue_green_lets_the_version_before_go_once_the_time_is_over() -> None:
    cloud = Cloud(sr.BlueGreen(keep="10m"))
    cloud.release()
    cloud.ready(NEW)
    cloud.run(seconds=601)
    assert cloud.shares == {"2": 100}
    cloud.run(seconds=70)
    assert not cloud.running(OLD)


def test_blue_green_may_have_a_shadow_before_the_move() -> None:
    cloud = Cloud(sr.BlueGreen(shadow="40s"))
    cloud.release()
    cloud.ready(NEW)
    assert cloud.rollout.state == "SHADOW"
    cloud.copying(42)
    assert (cloud.rollout.state, cloud.shares) == ("DONE", {"2": 100, "1": 0})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: sr.Shadow("0s"), "shorter than a second"),
        (lambda: sr.Shadow("10m", share=60), "whole percent from 1 to 50"),
        (lambda: sr.Shadow("10m", share=0.5), "share"),
        (lambda: sr.Shadow(10), "is no duration"),
        (lambda: sr.Shadow("10m", wait="5m"), "shorter than the shadow"),
        (lambda: sr.Canary([5], shadow="soon"), "soon"),
        (lambda: sr.Canary([5], shadow=True), "is no duration"),
        (lambda: sr.BlueGreen(keep="0s"), "shorter than a second"),
        (lambda: sr.BlueGreen(keep=5), "keep"),
        (lambda: sr.BlueGreen(guards=sr.Guards()), "there is none: give shadow as well"),
        (lambda: sr.Guards(errors=0.5), "is not from 1 to 10"),
        (lambda: sr.Guards(scores="much"), "scores"),
        (lambda: sr.Guards(metrics={"accepted": "more"}), "metrics"),
        (lambda: sr.Guards(metrics={"errors": "lower is better"}), "watched otherwise"),
        (lambda: sr.Guards(metrics=["accepted"]), "is no mapping"),
        (lambda: sr.Guards(errors=False, refusals=False, latency=False, scores=False), "nothing is compared"),
        (lambda: sr.Canary([5], guards="all"), "are no guards"),
    ],
    ids=range(17),
)
def test_shadows_and_moves_that_are_none_are_refused(make: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as refused:
        make()
    assert refused.value.next_action


@pytest.mark.parametrize(
    ("steps", "terms", "told"),
    [
        ([], {}, "whole percents that grow"),
        ([100], {}, "whole percents that grow"),
        ([10, 5, 100], {}, "whole percents that grow"),
        ([0, 5], {}, "whole percents that grow"),
        ([5, 100, 100], {}, "whole percents that grow"),
        ([0.5, 50], {}, "steps"),
        ([True, 50], {}, "steps"),
        ("1,10", {}, "is no list of percents"),
        (5, {}, "is no list of percents"),
        ([5], {"every": "0s"}, "shorter than a second"),
        ([5], {"every": "soon"}, "soon"),
        ([5], {"every": "10m", "wait": "5m"}, "shorter than a step"),
    ],
)
def test_steps_that_are_none_are_refused(steps: Any, terms: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as refused:
        sr.Canary(steps, **terms)
    assert refused.value.next_action
