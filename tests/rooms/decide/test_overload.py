"""When a stream's worker sheds, by what it sees; and what turns take, by what they took."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.units import SECOND
from skyriver.decide.decision.scoring import Effort
from skyriver.decide.partition.receipt import Submission
from skyriver.decide.worker.overload import CONFIRM, LOOK_US, SETTLE_US, Cost, Objective, Seen, State, Step, advance
from skyriver.decide.worker.pacing import Pacer
from skyriver.decide.worker.work import EventWork, Work

OBJECTIVE = Objective(50_000, 0.99)
LADDER = (Step.FULL, Step.CHEAPER, Step.SHED)
MS = 1_000


def seen(at: int, rate_in: float, rate_out: float, waiting: int = 0, standing_us: int = 0, below: float = 0) -> Seen:
    return Seen(at, waiting, standing_us, rate_in, rate_out, below or rate_out, OBJECTIVE.latency_us)


looks = st.lists(
    st.builds(
        lambda waiting, standing, came, out, below, shed: Seen(0, waiting, standing, came, out, below, 50_000, shed),
        st.integers(0, 10_000),
        st.integers(0, 2 * SECOND),
        st.floats(0, 1e5),
        st.floats(0, 1e5),
        st.floats(0, 1e5),
        st.integers(0, 100),
    ),
    max_size=200,
)


@given(looks)
def test_steps_are_bounded_and_the_same_history_gives_the_same(history: list[Seen]) -> None:
    def run() -> list[State]:
        state, states = State(), []
        for number, look in enumerate(history):
            at = (number + 1) * LOOK_US
            now = replace(look, at=at)
            state = advance(state, now, OBJECTIVE, LADDER)
            states.append(state)
        return states

    states = run()
    assert states == run()
    before = State()
    moved: list[int] = []
    for state in states:
        assert 0 <= state.place < len(LADDER)
        assert abs(state.place - before.place) <= 1
        if state.place != before.place:
            if before.place:  # from the first step up it may go at once
                assert state.since - before.since >= SETTLE_US
            if state.place < before.place:
                assert state.since - before.since >= OBJECTIVE.hold_us
            moved.append(state.since)
        before = state


@given(st.floats(1, 1e5), st.floats(1, 1e5), st.integers(0, 2_000))
def test_under_a_constant_load_nothing_moves_after_it_has_settled(
    rate_in: float, rate_out: float, standing: int
) -> None:
    state, places = State(), []
    for number in range(1, 1_200):
        state = advance(state, seen(number * LOOK_US, rate_in, rate_out, 3, standing), OBJECTIVE, LADDER)
        places.append(state.place)
    settled = places[2 * OBJECTIVE.hold_us // LOOK_US :]
    assert len({*settled}) == 1
    assert sum(a != b for a, b in itertools.pairwise(places)) <= len(LADDER) - 1


def test_it_goes_up_by_the_forecast_before_the_objective_is_broken() -> None:
    state = State()
    for number in range(1, CONFIRM):
        state = advance(state, seen(number * LOOK_US, 1_200, 1_000, waiting=5), OBJECTIVE, LADDER)
        assert state.place == 0
    assert advance(state, seen(CONFIRM * LOOK_US, 1_200, 1_000, waiting=5), OBJECTIVE, LADDER).place == 1


def test_a_burst_that_is_worked_off_within_the_horizon_moves_nothing() -> None:
    state = State()
    for number, waiting in enumerate((400, 300, 200, 100, 0), 1):
        state = advance(state, seen(number * LOOK_US, 100, 1_000, waiting), OBJECTIVE, LADDER)
    assert state.place == 0


def test_a_queue_that_stands_moves_it_whatever_the_forecast_says() -> None:
    state = State()
    for number in range(1, CONFIRM + 1):
        state = advance(state, seen(number * LOOK_US, 10, 100_000, 5, standing_us=60 * MS), OBJECTIVE, LADDER)
    assert state.place == 1


def test_a_step_is_taken_back_after_a_hold_in_which_the_step_below_would_have_done() -> None:
    state, at = State(1, since=LOOK_US, uneasy_at=LOOK_US), LOOK_US
    for _ in range(OBJECTIVE.hold_us // LOOK_US - 1):
        at += LOOK_US
        state = advance(state, seen(at, 700, 2_000, below=1_000), OBJECTIVE, LADDER)
        assert state.place == 1
    again = advance(state, seen(at + LOOK_US, 900, 2_000, below=1_000), OBJECTIVE, LADDER)
    assert (again.place, again.uneasy_at) == (1, at + LOOK_US)
    assert advance(state, seen(at + LOOK_US, 700, 2_000, below=1_000), OBJECTIVE, LADDER).place == 0


@pytest.mark.parametrize(("turn", "each"), [(200, 4), (2_000, 100), (40_000, 10)])
def test_the_cost_of_a_turn_is_a_line_through_the_last_ones(turn: int, each: int) -> None:
    cost, luck = Cost(0.99), random.Random(1)
    for _ in range(200):
        rows = luck.randint(1, 200)
        cost.note(rows, round((turn + each * rows) * luck.uniform(0.95, 1.05)))
    for rows in (1, 50, 200):
        assert cost.us(rows) == pytest.approx(turn + each * rows, rel=0.25)
    most = cost.rows_within(30_000, 1_024)
    assert most == 0 if turn > 30_000 else turn + each * most <= 30_000


def test_one_turn_that_hangs_tells_little_of_the_others() -> None:
    cost = Cost(0.99)
    for rows in (1, 2, 3) * 10:
        cost.note(rows, 200 + 10 * rows)
    before = cost.us(2)
    cost.note(2, SECOND)
    assert cost.us(2) < 1.5 * before + 100
    for _ in range(60):
        cost.note(2, 50 * MS)
    assert cost.us(2) == pytest.approx(50 * MS, rel=0.1)


def test_a_turn_is_at_most_twice_as_large_as_what_was_seen() -> None:
    cost = Cost(0.99)
    assert cost.batch(50_000, 1_024) == 16
    cost.note(1, 100)
    assert cost.batch(50_000, 1_024) == 16
    cost.note(40, 200)
    assert cost.batch(50_000, 1_024) == 80


@dataclass
class Server:
    """A worker whose turns of n scored events take `turn + each * n` microseconds, and shed ones next to nothing."""

    turn: int = 500
    each: int = 1_000
    cheap: int = 0
    """As `each`, of a cheaper version; 0: there is none."""
    at: int = 0
    queue: deque[Work] = field(default_factory=deque)
    waits: dict[Effort, list[int]] = field(default_factory=lambda: {effort: [] for effort in Effort})
    steps: list[tuple[int, Step]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pacer = Pacer(OBJECTIVE, lambda: self.at, lambda: self.at)
        self.order: list[int] = []

    def run(self, arrivals: list[int]) -> None:
        """Requests of one event each, at these times."""
        left = deque(arrivals)
        while left or self.queue:
            if not self.queue:
                self.at = max(self.at, left[0])
            while left and left[0] <= self.at:
                arrived = left.popleft()
                self.queue.append(EventWork(Submission([], [[arrived]], arrived), lambda _: None))
            self.pacer.know(cheaper=self.cheap > 0)
            turn = self.pacer.take(self.queue, len(self.queue), 1_024)
            assert turn.rows, "each turn takes something"
            each = {Effort.FULL: self.each, Effort.CHEAPER: self.cheap, Effort.SHED: 5}[turn.effort]
            took = (100 if turn.effort is Effort.SHED else self.turn) + each * turn.rows
            self.at += took
            self.pacer.done(turn, took)
            self.waits[turn.effort] += [self.at - part.arrived for _, part in turn.events]
            self.order += [part.arrived for _, part in turn.events]
            if not self.steps or self.steps[-1][1] is not self.pacer.step:
                self.steps.append((self.at, self.pacer.step))

    def rest(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.at += SECOND // 2
            self.pacer.rest(0)


def evenly(rate: float, seconds: float, since: int = 0) -> list[int]:
    return [since + round(n * SECOND / rate) for n in range(round(rate * seconds))]


def test_an_overloaded_worker_sheds_what_would_be_late_and_scores_the_others_in_time() -> None:
    server = Server()
    arrivals = evenly(200, 5) + evenly(2_000, 10, 5 * SECOND) + evenly(200, 30, 15 * SECOND)
    server.run(arrivals)
    assert server.order == arrivals, "all of them, in their order"
    scored, shed = server.waits[Effort.FULL], server.waits[Effort.SHED]
    assert [step for _, step in server.steps] == [Step.FULL, Step.SHED, Step.FULL]
    began, ended = server.steps[1][0], server.steps[2][0]
    assert 5 * SECOND < began < 5.5 * SECOND
    assert 15 * SECOND + OBJECTIVE.hold_us <= ended <= 15 * SECOND + OBJECTIVE.hold_us + 2 * SECOND
    assert len(scored) > 0.85 * (200 * 5 + 950 * 10 + 200 * 30), "what can be scored is"
    late = sum(wait > OBJECTIVE.latency_us for wait in scored)
    assert late <= 0.05 * len(scored)
    assert shed
    assert max(shed) < 2 * OBJECTIVE.latency_us + 100 * MS


def test_a_worker_that_can_do_it_sheds_nothing() -> None:
    server = Server()
    luck = random.Random(2)
    at, arrivals = 0.0, []
    while at < 60 * SECOND:
        at += luck.expovariate(600 / SECOND)
        arrivals.append(round(at))
    server.run(arrivals)
    assert server.waits[Effort.SHED] == []
    assert server.steps == [(server.steps[0][0], Step.FULL)]


def test_a_latency_that_is_out_of_reach_does_not_make_a_worker_do_less() -> None:
    server = Server(turn=40 * MS, each=10)  # a slow disk: large turns cost no more than small ones
    server.run(evenly(5, 4) + evenly(3_000, 10, 4 * SECOND))
    assert server.waits[Effort.SHED] == []
    assert max(server.waits[Effort.FULL]) < 250 * MS


def test_with_a_model_that_is_too_slow_only_what_stands_is_shed() -> None:
    server = Server(turn=20 * MS, each=20 * MS)
    server.run(evenly(5, 4) + evenly(1_000, 3, 4 * SECOND))
    assert server.pacer.step is Step.SHED
    told = server.pacer.report()
    assert (told["shed"] > 0.5, told["alone_us"] >= 40 * MS) == (True, True)
    server.run(evenly(5, 60, 10 * SECOND))
    assert server.pacer.step is Step.FULL


def test_it_rests_after_the_last_event() -> None:
    server = Server()
    server.run(evenly(3_000, 3))
    assert server.pacer.step is Step.SHED
    server.rest(15)
    assert server.pacer.step is Step.FULL
    told = server.pacer.report()
    assert (told["in_time"], told["shed"], told["rate_in"]) == (None, None, 0.0)


def test_a_large_request_is_taken_in_parts() -> None:
    at = [0]
    pacer = Pacer(OBJECTIVE, lambda: at[0], lambda: at[0])
    work = EventWork(Submission([], [[n] for n in range(100)], 0), lambda _: None)
    queue: deque[Work] = deque([work])
    taken = []
    while queue:
        turn = pacer.take(queue, 100 - work.taken, 1_024)
        taken.append(turn.rows)
        pacer.done(turn, turn.rows * MS)
    assert sum(taken) == 100
    assert taken[0] == 16
    assert max(taken) <= 32


def test_the_cheaper_version_is_asked_before_anything_is_shed_and_no_longer_than_it_must_be() -> None:
    server = Server(cheap=100)
    arrivals = evenly(200, 5) + evenly(3_000, 20, 5 * SECOND) + evenly(200, 30, 25 * SECOND)
    server.run(arrivals)
    assert server.order == arrivals
    assert [step for _, step in server.steps] == [Step.FULL, Step.CHEAPER, Step.FULL]
    assert server.waits[Effort.SHED] == []
    cheap, full = server.waits[Effort.CHEAPER], server.waits[Effort.FULL]
    assert len(cheap) > 0.9 * 3_000 * 20
    assert sum(wait > OBJECTIVE.latency_us for wait in cheap + full) < 0.03 * len(arrivals)


def test_what_the_cheaper_version_cannot_do_either_is_shed() -> None:
    server = Server(cheap=500)
    arrivals = evenly(200, 5) + evenly(5_000, 20, 5 * SECOND) + evenly(200, 60, 25 * SECOND)
    server.run(arrivals)
    assert server.order == arrivals
    up_and_down = [Step.FULL, Step.CHEAPER, Step.SHED, Step.CHEAPER, Step.FULL]
    assert [step for _, step in server.steps] == up_and_down
    assert len(server.waits[Effort.CHEAPER]) > 0.85 * 1_900 * 20
    assert len(server.waits[Effort.SHED]) > 0.5 * 3_000 * 20


def test_between_two_capacities_nothing_goes_to_and_fro() -> None:
    server = Server(cheap=100)
    server.run(evenly(200, 2) + evenly(950, 120, 2 * SECOND))
    assert len(server.steps) <= 2


def test_a_cheaper_version_that_is_taken_away_is_not_asked() -> None:
    server = Server(cheap=100)
    server.run(evenly(3_000, 5))
    assert server.pacer.step is Step.CHEAPER
    server.cheap = 0
    server.run(evenly(3_000, 3, 5 * SECOND))
    assert server.steps[-1][1] is Step.SHED
