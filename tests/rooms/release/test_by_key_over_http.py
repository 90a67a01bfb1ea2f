"""Versions that share the keys of requests: judged by the places of keys, as replicas count them."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.spec import CanarySpec
from skyriver.release.canary import accused, evidence_of
from skyriver.release.stepping import begin_step, judge, look_at, page, told

SERVICE = Resource("t", "service", "m", spec={}, state="READY")
LATENCY = [[1_024, 95], [2_048, 5]]


def places(of: range, answered: int, failed: int = 0, slow: int = 0, higher: int = 0) -> list[list[Any]]:
    """`of` those with answers, of which so many failed, were slow, and scored high."""
    latency = [[1_024, answered - slow], [8_192, slow]] if slow else [[1_024, answered]]
    scores = [[50, answered - higher], [60, higher]] if higher else [[50, answered]]
    mine = [answered, failed, 0, latency, scores]
    return [mine if place in of else [0, 0, 0, [], []] for place in range(100)]


class Cloud:
    def __init__(self) -> None:
        self.now = 0
        self.processes: dict[str, ProcessStatus] = {}
        self.canary = begin_step({}, 0, 0)

    def tell(self, version: int, number: int, sharing: dict[str, Any] | None, *, requests: int = 20_000) -> None:
        name = f"m-{version}-{number}"
        report = {"requests": requests, "counted": {"latency_us": LATENCY, "scores": [[400, 300]]}}
        report |= {"sharing": {"version": 2, **sharing}} if sharing is not None else {}
        self.processes[name] = ProcessStatus(f"t.replica.{name}", alive=True, started_at=1, report=report)

    def look(self) -> dict[str, Any]:
        self.now += 1
        replicas = [
            Resource("t", "replica", n, spec={"version": int(n[2])}, parent=SERVICE.ref) for n in self.processes
        ]
        seen = Snapshot(
            {r.key: r for r in (SERVICE, *replicas)}, {p.name: p for p in self.processes.values()}, {}, self.now
        )
        self.canary = look_at(seen, self.canary, SERVICE, [], (1, 2), pause_us=0, by_key=True)
        compared: dict[str, Any] = self.canary["compared"]
        return compared

    def both(self, champion: list[list[Any]], candidate: list[list[Any]], percent: int = 20, **lost: Any) -> Any:
        self.tell(1, 1, {"percent": percent, "places": champion, **lost})
        self.tell(2, 1, {"percent": percent, "places": candidate})
        return self.look()


@pytest.mark.parametrize("what", ["failed", "slow", "higher"])
def test_a_version_that_is_worse_at_all_places_is_found(what: str) -> None:
    cloud = Cloud()
    cloud.tell(1, 1, None), cloud.tell(2, 1, None)
    cloud.look()
    good = {"failed": 1, "slow": 2, "higher": 5}
    for answered in range(300, 3_300, 300):
        compared = cloud.both(
            places(range(20, 100), answered, **good), places(range(20), answered, **good | {what: answered // 5})
        )
    breach = accused(compared)
    assert breach is not None
    assert breach.guard == {"failed": "errors", "slow": "latency", "higher": "scores"}[what]


def test_slow_answers_that_come_at_once_are_not_as_much_evidence_as_they_are_many() -> None:
    cloud = Cloud()
    cloud.both(places(range(20, 100), 0), places(range(20), 0))
    cloud.both(places(range(20, 100), 300, slow=2), places(range(20), 300, slow=2))
    for _ in range(20):
        compared = cloud.both(places(range(20, 100), 600, slow=4), places(range(20), 600, slow=120))
    assert accused(compared) is None
    assert evidence_of(compared)["latency"] < 50


def test_one_heavy_key_is_no_evidence_that_as_many_draws_would_be() -> None:
    cloud = Cloud()
    cloud.both(places(range(20, 100), 0), places(range(20), 0))
    heavy = places(range(20), 300, failed=1)
    heavy[3] = [3_000, 300, 0, [[1_024, 3_000]], [[50, 3_000]]]
    compared = cloud.both(places(range(20, 100), 300, failed=1), heavy)
    assert accused(compared) is None
    assert evidence_of(compared)["errors"] < 50


def test_what_the_candidate_did_not_answer_is_its_failure() -> None:
    cloud = Cloud()
    cloud.both(places(range(20, 100), 0), places(range(20), 0))
    lost = [60 if place < 20 else 0 for place in range(100)]
    compared = cloud.both(places(range(20, 100), 900, failed=1), places(range(20), 900, failed=1), lost=lost)
    breach = accused(compared)
    assert breach is not None
    assert breach.guard == "errors"


def test_replicas_that_do_not_know_of_the_share_yet_give_no_evidence_and_no_bounds() -> None:
    cloud = Cloud()
    cloud.both(places(range(20, 100), 0), places(range(20), 0))
    before = evidence_of(cloud.both(places(range(20, 100), 300, failed=1), places(range(20), 300, failed=2)))
    cloud.tell(1, 2, {"percent": 10, "places": places(range(10, 100), 900)})
    assert evidence_of(cloud.look()) == before
    cloud.tell(1, 2, None)
    assert evidence_of(cloud.look()) == before
    fresh = Cloud()
    fresh.tell(1, 1, None), fresh.tell(2, 1, None)
    assert fresh.look()["sources"]["replicas"]["bounds"] == {}, "their buckets are of another width"


def test_what_a_version_counted_with_the_share_before_is_no_evidence_twice() -> None:
    """A step begins at its replicas in one moment, and is told in reports of their own."""
    cloud = Cloud()
    cloud.both(places(range(10, 100), 0), places(range(10), 0), percent=10)
    before = evidence_of(cloud.both(places(range(10, 100), 300, 1), places(range(10), 300, 3), percent=10))
    assert before["errors"] > 1.5
    cloud.tell(1, 1, {"percent": 20, "places": places(range(20, 100), 300, 1)})
    assert evidence_of(cloud.look()) == before
    after = evidence_of(cloud.both(places(range(20, 100), 0), places(range(20), 0)))
    assert after == before


HOUR = 3_600_000_000


def at(cloud: Cloud, step: int, hours: float) -> tuple[str, str]:
    """What is due so long after the step began, with answers enough."""
    spec = CanarySpec(steps=(10, 20), key="x-customer", every="10m", wait="1h")
    cloud.now = cloud.canary["since"] + int(hours * HOUR)
    compared = cloud.look()
    compared["candidate"]["answered"] = cloud.canary["before"] + 1_000_000
    assert cloud.canary["step"] == step
    verdict = judge(cloud.canary, spec, (1, 2), cloud.now)
    return verdict.what, verdict.reason


def test_no_step_goes_on_by_the_evidence_of_the_one_before() -> None:
    cloud = Cloud()
    cloud.both(places(range(10, 100), 300), places(range(10), 300), percent=10)
    assert at(cloud, 0, 0.5) == ("next", "")
    cloud.canary = begin_step(cloud.canary, 1, cloud.now)
    assert at(cloud, 1, 0.5) == ("wait", ""), "all tell the share of before"
    cloud.tell(1, 1, {"percent": 20, "places": places(range(20, 100), 300)})
    assert at(cloud, 1, 0.6) == ("wait", ""), "the other's does not follow, or died with what it told"
    assert at(cloud, 1, 1.4) == ("wait", ""), "an hour after the last look with evidence it pauses"
    assert at(cloud, 1, 1.6) == ("pause", "NOT_JUDGED")
    cloud.tell(2, 1, {"percent": 20, "places": places(range(20), 300)})
    assert at(cloud, 1, 1.7) == ("next", "")
    cloud.tell(1, 2, None)
    assert at(cloud, 1, 1.8) == ("wait", ""), "one that comes up late is told soon"


def test_a_share_that_nobody_comes_to_know_pauses_the_step() -> None:
    cloud = Cloud()
    cloud.both(places(range(10, 100), 300), places(range(10), 300), percent=10)
    cloud.canary = begin_step(cloud.canary, 1, cloud.now)
    assert at(cloud, 1, 0.9) == ("wait", "")
    assert at(cloud, 1, 1.0) == ("pause", "NOT_JUDGED")


def test_all_requests_are_told_also_those_without_a_key() -> None:
    cloud = Cloud()
    for requests in (0, 500):
        cloud.tell(1, 1, {"percent": 20, "places": places(range(20, 100), 0)}, requests=10 * requests)
        cloud.tell(2, 1, {"percent": 20, "places": places(range(20), 0)}, requests=requests)
        compared = cloud.look()
    assert (compared["champion"]["answered"], compared["candidate"]["answered"]) == (5_000, 500)
    spec = CanarySpec(steps=(20, 50), key="x-customer")
    shown = page(cloud.canary, spec)
    assert shown["by_key"] is True
    assert "version 2 gets 20% of the keys" in told(shown, spec, 2)
    assert "by_key" not in page(cloud.canary, CanarySpec(steps=(20, 50)))


@pytest.mark.parametrize("key", ["X Customer", "authorization", "x-skyriver-key", "content-type", "a" * 64, "-a"])
def test_only_a_header_of_the_caller_s_own_is_a_key(key: str) -> None:
    with pytest.raises(ValueError, match="no header of a caller's own"):
        CanarySpec(steps=(20, 50), key=key)
