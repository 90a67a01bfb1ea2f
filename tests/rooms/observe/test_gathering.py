"""What replicas counted, by the quarters of a window."""

from __future__ import annotations

from typing import Any

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.units import SECOND
from skyriver.observe.gathering import GATHER_US, gathered, pause_of

MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND
START = 1_000 * HOUR
SERVICE = Resource("t", "service", "m", spec={"serve": {}}, state="READY")


class Cloud:
    """A version that replicas serve, and what they tell."""

    def __init__(self) -> None:
        self.now, self.version, self.processes = START, 1, dict[str, ProcessStatus]()
        self.state: dict[str, Any] | None = None
        self.pause, self.replicas = GATHER_US, dict[str, str]()

    def tell(self, name: str, *counts: float, began: int = 5, profile: str = "p") -> None:
        row = f"t.replica.{name}"
        told = {"log": {"profile": profile, "began": began, "counts": list(counts)}}
        self.processes[row] = ProcessStatus(row, alive=True, report=told)

    def look(self, after: int = GATHER_US) -> dict[str, Any]:
        self.now += after
        of_process = {name.removeprefix("t.replica."): p for name, p in self.processes.items()}
        replicas = [
            Resource(
                "t", "replica", name, spec={"version": 1}, state=self.replicas.get(name, "READY"), parent=SERVICE.ref
            )
            for name in of_process
        ]
        version = Resource("t", "version", "m:1", spec={"model": "m", "version": self.version, "profile": "p"})
        snapshot = Snapshot({r.key: r for r in (SERVICE, *replicas)}, self.processes, {}, self.now)
        self.state = gathered(snapshot, self.state, SERVICE, version, window_us=4 * HOUR, pause_us=self.pause)
        return self.state

    @property
    def counted(self) -> list[list[float]]:
        assert self.state is not None
        return [counts for _, counts in self.state["quarters"]]


def test_what_was_added_since_the_last_look_is_of_this_quarter() -> None:
    cloud = Cloud()
    cloud.tell("a", 100.0, 40.0)
    assert cloud.look()["quarters"] == [], "how old that is is not known"
    cloud.tell("a", 110.0, 45.0)
    cloud.tell("b", 1.0, 1.0, began=START + 2 * MINUTE)
    cloud.look()
    cloud.look()
    assert cloud.counted == [[11.0, 6.0]]
    assert cloud.look(after=HOUR - 3 * MINUTE)["since"] == START + MINUTE
    cloud.tell("a", 111.0, 45.0)
    cloud.look()
    assert cloud.counted == [[11.0, 6.0], [1.0, 0.0]]


def test_it_looks_once_a_minute() -> None:
    cloud = Cloud()
    cloud.tell("a", 0.0)
    before = cloud.look()
    cloud.tell("a", 9.0)
    assert cloud.look(after=GATHER_US - 1) == before
    cloud.look(after=1)
    assert cloud.counted == [[9.0]]


def test_a_process_that_is_started_anew_counts_from_nothing_and_one_that_left_takes_nothing_back() -> None:
    cloud = Cloud()
    cloud.tell("a", 5.0)
    cloud.look()
    cloud.tell("a", 7.0)
    cloud.look()
    cloud.tell("a", 3.0, began=cloud.now + 1)
    cloud.look()
    assert cloud.counted == [[5.0]]
    cloud.processes.clear()
    cloud.look()
    assert cloud.counted == [[5.0]]


def test_what_was_counted_over_more_than_a_quarter_is_of_none() -> None:
    cloud = Cloud()
    cloud.tell("a", 5.0)
    cloud.look()
    cloud.tell("a", 500.0)
    cloud.look(after=2 * HOUR)
    assert cloud.counted == []
    cloud.tell("a", 501.0)
    cloud.look()
    assert cloud.counted == [[1.0]]


def test_after_a_hole_of_a_quarter_the_window_begins_anew() -> None:
    """Else it would be whole at once, and hold of a week no more than the days since."""
    cloud = Cloud()
    cloud.tell("a", 5.0)
    cloud.look()
    cloud.tell("a", 6.0)
    cloud.look(after=HOUR - 1)
    assert cloud.look()["since"] == START + MINUTE
    cloud.tell("a", 500.0)
    cloud.tell("b", 70.0, began=cloud.now + 1)
    after = cloud.look(after=HOUR)
    assert after["since"] == cloud.now
    assert cloud.counted == [[1.0]], "of b, too, it is not known when it counted"
    cloud.tell("a", 501.0)
    assert cloud.look()["since"] == after["since"]
    assert cloud.counted == [[1.0], [1.0]]


def test_a_long_pause_waits_for_no_replica_that_goes() -> None:
    cloud = Cloud()
    cloud.pause = 15 * MINUTE
    cloud.tell("a", 5.0)
    cloud.tell("b", 5.0)
    before = cloud.look()
    cloud.tell("a", 7.0)
    assert cloud.look(after=14 * MINUTE) == before
    cloud.replicas["b"] = "DRAINING"
    assert cloud.look(after=1) == before, "it has counted nothing that is not known"
    cloud.tell("b", 8.0)
    assert cloud.look(after=1)["at"] == cloud.now
    assert cloud.counted == [[5.0]]
    cloud.tell("b", 9.0)
    cloud.look(after=GATHER_US - 1)
    assert cloud.counted == [[5.0]], "not with each pass, either"


def test_it_adds_up_as_often_as_it_looks_and_some_times_a_quarter() -> None:
    assert pause_of(168 * HOUR, HOUR) == HOUR
    assert pause_of(4 * HOUR, HOUR) == HOUR // 4
    assert pause_of(4 * HOUR, 30 * SECOND) == 30 * SECOND


def test_what_is_older_than_the_window_is_forgotten() -> None:
    cloud = Cloud()
    cloud.tell("a", 5.0)
    cloud.look()
    for hour in range(8):
        cloud.tell("a", 6.0 + hour)
        cloud.look(after=HOUR - 1)
    assert sum(counts[0] for counts in cloud.counted) <= 5.0


def test_another_version_or_other_bins_begin_anew() -> None:
    cloud = Cloud()
    cloud.tell("a", 5.0)
    cloud.look()
    cloud.tell("a", 7.0)
    cloud.look()
    cloud.tell("a", 1.0, 2.0, profile="another")
    cloud.look()
    assert cloud.counted == [[2.0]]
    cloud.version = 2
    assert cloud.look() == {
        "version": 2,
        "window_us": 4 * HOUR,
        "at": cloud.now,
        "since": cloud.now,
        "processes": {},
        "quarters": [],
    }
