"""Whatever happens to processes, control planes and clocks: no time is counted twice, and none is made up."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.core.prices import CORE
from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.usage import HOUR
from skyriver.observe.metering import Counted, Look, Mark, meter

NAME = "default.replica.comes_back-1-1"
SPEC = {"model": "comes_back", "serve": {"cpus": 1.0, "memory_mb": 1}, "versions": {}}
ROWS = {
    row.key: row
    for row in (
        Resource("default", "service", "comes_back", spec=SPEC, parent="app/shop", state="READY"),
        Resource("default", "replica", "comes_back-1-1", parent="service/comes_back", state="READY"),
    )
}

Act = tuple[str, int]
ACTS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 20_000_000)),
    st.tuples(st.just("look"), st.integers(1, 6_000)),
    st.tuples(st.just("write"), st.integers(1, 6_000)),
    st.tuples(st.just("kill"), st.just(0)),
    st.tuples(st.just("start"), st.just(0)),
    st.tuples(st.just("end"), st.just(0)),
)
STEPS = st.tuples(st.just("set"), st.sampled_from([-86_400_000, -5_000, 5_000, 86_400_000]))


@dataclass
class World:
    """Milliseconds; `now` is what nobody sets."""

    now: int = 1_000
    ahead: int = 495_000 * HOUR // 1_000
    mark: Mark | None = None
    counted: int = 0
    kept: tuple[Mark | None, int] = (None, 0)
    began: tuple[int, int] | None = None
    """When the process that runs did, and what its start is called by the wall clock."""
    ended: list[tuple[int, int]] = field(default_factory=list)
    since: int = 0
    """The first look, from which on anything counts."""
    slack: int = 0
    """Between two looks in which the clock was set."""
    stepped: int | None = None
    looked: int = 0

    def act(self, what: str, much: int) -> None:
        match what:
            case "wait":
                self.now += much
            case "set":
                self.ahead += much
                self.stepped = self.kept[0].at_ms if self.kept[0] is not None else self.now
            case "kill":
                self.mark, self.counted = self.kept
            case "start" if self.began is None:
                self.began = self.now, (self.now + self.ahead) * 1_000
            case "end" if self.began is not None:
                self.ended.append((self.began[0], self.now))
                self.began = None
            case "look" | "write":
                self.now += much
                self.look()
                if what == "write":
                    self.kept = self.mark, self.counted

    def look(self) -> None:
        processes = {}
        if self.began is not None:
            processes[NAME] = ProcessStatus(NAME, alive=True, pid=1, started_at=self.began[1])
        snapshot = Snapshot(ROWS, processes, {}, (self.now + self.ahead) * 1_000)
        if self.mark is None:
            self.since = self.now
        self.mark, counted = meter(self.mark, Look(snapshot, "boot", self.now))
        self.counted += milliseconds(counted)
        self.looked = self.now
        if self.stepped is not None:
            self.slack += self.now - self.stepped
            self.stepped = None

    def lived(self) -> int:
        """How long processes were alive between the first look and the last one."""
        runs = [*self.ended, *([(self.began[0], self.looked)] if self.began is not None else [])]
        return sum(max(0, min(end, self.looked) - max(begin, self.since)) for begin, end in runs)


def milliseconds(counted: Counted) -> int:
    return sum(used[CORE] for part in counted.values() for used in part.values()) // 1_000


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(ACTS, max_size=60))
def test_never_more_is_counted_than_was_and_all_of_what_is_alive(acts: list[Act]) -> None:
    world = World()
    world.act("write", 1)
    for what, much in acts:
        world.act(what, much)
    world.act("look", 1)
    assert world.counted <= world.lived()
    if not world.ended:
        assert world.counted == world.lived()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.one_of(ACTS, STEPS), max_size=60))
def test_a_clock_that_is_set_adds_at_most_the_time_between_two_looks(acts: list[Act]) -> None:
    world = World()
    world.act("write", 1)
    for what, much in acts:
        world.act(what, much)
    world.act("look", 1)
    assert world.counted <= world.lived() + world.slack
