"""When a stream's worker sheds, by what it sees; and what turns take, by what they took."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.units import SECOND
from skyriver.decide.decision.scoring import Effort
from skyriver.decide.partition.receipt import LabelSubmission, ReferenceSubmission, Submission
from skyriver.decide.worker.overload import (
    CONFIRM,
    LOOK_US,
    SETTLE_US,
    Around,
    Cost,
    Objective,
    Seen,
    State,
    Step,
    advance,
    helps,
)
from skyriver.decide.worker.pacing import Pacer, pacer_of
from skyriver.decide.worker.work import EventWork, LabelWork, ReferenceWork, Work, next_turn, rows_left

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


def test_another_share_changes_the_bound_and_not_what_was_learnt() -> None:
    cost = Cost(0.999)
    for rows in range(1, 40):
        cost.note(rows, 1_000 + 500 * (rows % 3))
    expected, bound = cost.us(10), cost.bound_us(10)
    cost.keep(0.9)
    assert (cost.us(10), cost.turns) == (expected, 39)
    assert expected < cost.bound_us(10) < bound


def test_a_turn_is_at_most_twice_as_large_as_what_was_seen() -> None:
    cost = Cost(0.99)
    assert cost.batch(50_000, 1_024) == 16
    cost.note(1, 100)
    assert cost.batch(50_000, 1_024) == 16
    cost.note(40, 200)
    assert cost.batch(50_000, 1_024) == 80


@dataclass
class Server:
    """A worker whose turns of n scored events take `turn + each * n` microseconds, and shed ones next to nothing; all
    of them, beside that, what `disk` says of now."""

    turn: int = 500
    each: int = 1_000
    cheap: int = 0
    """As `each`, of a cheaper version; 0: there is none."""
    cpus: int = 1
    gain: float = 1.6
    """Of more threads: so many times as many events."""
    label: int = 5
    """As `each`, of a label."""
    read: int = 0
    """As `each`, of an event that comes; it is no part of a turn."""
    disk: Callable[[int], int] = lambda at: 0
    limit: int = 10_000
    """Events that may wait; more are refused."""
    refused: int = 0
    at: int = 0
    queue: deque[Work] = field(default_factory=deque)
    waits: dict[Effort, list[int]] = field(default_factory=lambda: {effort: [] for effort in Effort})
    steps: list[tuple[int, Step]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pacer = Pacer(replace(OBJECTIVE, cpus=self.cpus), lambda: self.at, lambda: self.at)
        self.order: list[int] = []
        self.besides: list[int] = []

    def run(self, arrivals: list[int], labels: Sequence[tuple[int, int]] = ()) -> None:
        """Requests of one event each, at these times, and of so many labels each at those."""
        left, told, before = deque(arrivals), deque(labels), self.at
        events, others = len(self.queue), 0
        while left or told or self.queue:
            if not self.queue:
                self.at = max(self.at, min([*itertools.islice(left, 1), *(at for at, _ in itertools.islice(told, 1))]))
                before = self.at
            while told and told[0][0] <= self.at:
                subjects = list(range(told.popleft()[1]))
                others += len(subjects)
                self.queue.append(LabelWork(LabelSubmission(subjects, [[] for _ in subjects]), lambda _: None))
            while left and left[0] <= self.at:
                arrived = left.popleft()
                if len(self.queue) >= self.limit:
                    self.refused += 1
                    self.pacer.refused(1)
                    continue
                self.at += self.read
                events += 1
                self.queue.append(EventWork(Submission([], [[arrived]], arrived), lambda _: None))
            self.pacer.know(cheaper=self.cheap > 0)
            turn = self.pacer.take(self.queue, events, 1_024, others)
            assert turn.rows, "each turn takes something"
            assert turn.threads in {1, self.cpus}
            assert turn.effort is not Effort.FULL or turn.threads == 1
            assert turn.effort is not Effort.THREADS or turn.threads > 1
            wide = round(self.each / self.gain)
            efforts = {Effort.FULL: self.each, Effort.THREADS: wide, Effort.CHEAPER: self.cheap, Effort.SHED: 5}
            many, turn.besides_us, turn.before_us = len(turn.events), self.label * turn.besides, self.at - before
            events, others = events - many, others - turn.besides
            self.besides.append(turn.besides_us)
            rest = 100 + 5 * many
            if turn.effort is not Effort.SHED:
                turn.scoring_us = max(0, self.turn + efforts[turn.effort] * many - rest)
            took = rest + turn.scoring_us + turn.besides_us + self.disk(self.at)
            self.at += took
            before = self.at
            self.pacer.done(turn, took)
            self.waits[turn.effort] += [self.at - part.arrived for _, part in turn.events]
            self.order += [part.arrived for _, part in turn.events]
            if not self.steps or self.steps[-1][1] is not self.pacer.step:
                self.steps.append((self.at, self.pacer.step))
        assert (events, others) == (0, 0)

    def serve(self, clients: int, rows: int, seconds: float, *, read: int, answer: int) -> int:
        """Requests of so many events of clients that wait for their answers; to read and answer one takes as long for
        each event. How many events were answered."""
        sent, answered, before = clients, 0, self.at
        requests: list[EventWork] = []
        until = self.at + round(seconds * SECOND)
        while self.at < until:
            for _ in range(sent):
                work = EventWork(Submission([], [[n] for n in range(rows)], self.at), lambda _: None)
                requests.append(work)
                self.queue.append(work)
                self.at += read * rows
            sent = 0
            turn = self.pacer.take(self.queue, sum(map(rows_left, self.queue)), 1_024)
            turn.before_us = self.at - before
            events = sum(len(part) for _, part in turn.events)
            turn.scoring_us = 0 if turn.effort is Effort.SHED else self.turn + self.each * events - 100
            took = 100 + turn.scoring_us
            self.at += took
            before = self.at
            self.pacer.done(turn, took)
            self.waits[turn.effort] += [self.at - part.arrived for _, part in turn.events for _ in range(len(part))]
            for work in [work for work in requests if not rows_left(work)]:
                requests.remove(work)
                self.at += answer * rows
                sent, answered = sent + 1, answered + rows
        return answered

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


@pytest.mark.parametrize("cheap", [0, 100], ids=["alone", "with a cheaper version"])
def test_more_threads_are_taken_before_anything_else_and_no_longer_than_they_must_be(cheap: int) -> None:
    server = Server(cheap=cheap, cpus=2)
    arrivals = evenly(200, 5) + evenly(1_300, 20, 5 * SECOND) + evenly(200, 30, 25 * SECOND)
    server.run(arrivals)
    assert server.order == arrivals
    assert [step for _, step in server.steps] == [Step.FULL, Step.THREADS, Step.FULL]
    (began, _), (ended, _) = server.steps[1:]
    assert 5 * SECOND < began < 6 * SECOND
    assert 25 * SECOND + OBJECTIVE.hold_us <= ended <= 25 * SECOND + OBJECTIVE.hold_us + 2 * SECOND
    assert server.waits[Effort.SHED] == server.waits[Effort.CHEAPER] == []
    wide, full = server.waits[Effort.THREADS], server.waits[Effort.FULL]
    assert len(wide) > 0.8 * 1_300 * 20
    assert sum(wait > OBJECTIVE.latency_us for wait in wide + full) < 0.05 * len(arrivals)


def test_what_more_threads_bring_is_told() -> None:
    server = Server(cpus=2)
    assert server.pacer.report()["threads"] == {"most": 2, "share": None, "gain": 0.0, "in_vain": False}
    server.run(evenly(200, 5) + evenly(1_300, 10, 5 * SECOND))
    told = server.pacer.report()
    assert told["step"] == "threads"
    assert told["capacity"] == pytest.approx(SECOND * 1.6 / 1_000, rel=0.1)
    assert (told["threads"]["share"] > 0.8, told["threads"]["in_vain"]) == (True, False)
    assert told["threads"]["gain"] == pytest.approx(1.5, abs=0.1)
    assert "threads" not in Server().pacer.report()
    assert ("skyriver_scoring_threads", 2) in {(name, value) for name, *_, value in server.pacer.metrics()}


@pytest.mark.parametrize("cheap", [0, 100], ids=["alone", "with a cheaper version"])
def test_what_more_threads_cannot_do_either_is_left_to_the_next_step(cheap: int) -> None:
    server = Server(cheap=cheap, cpus=4)
    server.run(evenly(200, 5) + evenly(3_000, 10, 5 * SECOND) + evenly(200, 60, 15 * SECOND))
    least = Step.CHEAPER if cheap else Step.SHED
    assert [step for _, step in server.steps] == [Step.FULL, Step.THREADS, least, Step.THREADS, Step.FULL]
    assert (len(server.waits[Effort.SHED]) > 0) is not cheap
    if not cheap:
        assert len(server.waits[Effort.THREADS]) > 0.8 * 1_600 * 10, "and what is scored is scored in more threads"


@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_threads_that_bring_nothing_are_given_up_for_a_while(gain: float) -> None:
    server = Server(cpus=2, gain=gain)
    server.run(evenly(200, 5) + evenly(1_500, 40, 5 * SECOND))
    assert server.pacer.step is Step.SHED
    scored = len(server.waits[Effort.THREADS])
    assert 10 < scored < 0.1 * 1_500 * 40
    assert len(server.waits[Effort.FULL]) > 0.8 * 950 * 40
    assert server.pacer.report()["threads"]["in_vain"]
    server.gain = 2.5  # whoever had the cores is gone
    server.run(evenly(1_500, 40, 45 * SECOND))
    assert len(server.waits[Effort.THREADS]) > 0.3 * 1_500 * 40
    assert server.pacer.step is Step.THREADS, "they are tried again, and then nothing need be shed"


def test_cores_that_are_declared_no_more_are_not_taken() -> None:
    server = Server(cpus=2)
    server.run(evenly(200, 5) + evenly(1_300, 5, 5 * SECOND))
    assert server.pacer.step is Step.THREADS
    live = {"objective": {"latency_us": OBJECTIVE.latency_us, "share": OBJECTIVE.share}}
    assert pacer_of(live, lambda: 0, lambda: 0, server.pacer) is server.pacer
    server.cpus = 1
    server.waits[Effort.THREADS].clear()
    server.run(evenly(1_300, 5, 10 * SECOND))
    assert (server.pacer.step, server.waits[Effort.THREADS]) == (Step.SHED, [])
    assert pacer_of({"objective": live["objective"] | {"cpus": 3}}, lambda: 0, lambda: 0, server.pacer) is server.pacer
    assert server.pacer.objective.cpus == 3


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


@pytest.mark.parametrize("cheap", [0, 300], ids=["alone", "with a cheaper version"])
@pytest.mark.parametrize(("every_us", "many"), [(SECOND, 2_000), (100 * MS, 2_000), (SECOND // 2, 50_000)])
def test_labels_are_no_load_of_events(cheap: int, every_us: int, many: int) -> None:
    server = Server(turn=500, each=1_000, cheap=cheap)
    server.run(evenly(100, 20), [(at, many) for at in range(SECOND, 20 * SECOND, every_us)])
    assert server.steps == [(server.steps[0][0], Step.FULL)]
    assert {effort for effort, waits in server.waits.items() if waits} == {Effort.FULL}
    late = sum(wait > OBJECTIVE.latency_us for wait in server.waits[Effort.FULL])
    assert late <= 0.01 * 2_000
    assert server.pacer.report()["rate_in"] == pytest.approx(100, rel=0.1)
    assert server.pacer.report()["alone_us"] == pytest.approx(1_500, rel=0.2), "what labels take is no cost of events"


def test_a_turn_has_so_much_time_for_labels_and_no_more() -> None:
    server = Server(turn=500, each=1_000, label=200)
    server.run(evenly(100, 20), [(at, 500) for at in range(SECOND, 20 * SECOND, SECOND)])
    assert sum(server.besides) == 200 * 500 * 19
    assert max(server.besides) <= OBJECTIVE.latency_us / 4
    late = sum(wait > OBJECTIVE.latency_us for wait in server.waits[Effort.FULL])
    assert late <= 0.01 * 2_000


def test_labels_that_take_long_whatever_their_number_are_taken_all_the_same() -> None:
    pacer = Pacer(Objective(5_000, 0.99), lambda: 0, lambda: 0)
    queue: deque[Work] = deque()
    for _ in range(200):
        queue.append(LabelWork(LabelSubmission([1], [[]]), lambda _: None))
        turn = pacer.take(queue, 0, 1_024, 1)
        turn.besides_us = 2_000
        pacer.done(turn, 2_500)
    queue.append(LabelWork(LabelSubmission([1] * 5_000, [[]] * 5_000), lambda _: None))
    turns = 0
    while queue:
        turn = pacer.take(queue, 0, 1_024, 1)
        turn.besides_us = 2_000 + turn.besides // 10
        pacer.done(turn, turn.besides_us + 500)
        turns += 1
    assert turns < 60


def test_a_turn_takes_so_many_rows_besides_events() -> None:
    label = LabelWork(LabelSubmission([1] * 6, [[]] * 6), lambda _: None)
    learnt = ReferenceWork(ReferenceSubmission(0, [[1]] * 6), lambda _: None)
    events = [EventWork(Submission([], [[n]], n), lambda _: None) for n in range(3)]
    queue: deque[Work] = deque([events[0], label, events[1], learnt, events[2]])
    turn = next_turn(queue, 1_024, besides=8)
    assert [work for work, _ in turn.events] == events, "they do not wait for what is left of the others"
    assert (len(turn.labels[0][1]), len(turn.references[0][1]), turn.besides) == (6, 2, 8)
    assert [*queue] == [learnt]
    assert next_turn(queue, 1_024, besides=1).besides == 1
    assert next_turn(queue, 1_024).besides == 3


@pytest.mark.parametrize(("clients", "rows"), [(8, 1_000), (1, 10_000), (64, 100), (16, 300)])
def test_where_answering_is_what_takes_the_time_nothing_is_shed(clients: int, rows: int) -> None:
    """14 us to score an event and 61 us to read and answer it: without a score it would be as late."""
    server = Server(turn=500, each=14)
    answered = server.serve(clients, rows, 30, read=20, answer=41)
    assert server.waits[Effort.SHED] == []
    assert answered == pytest.approx(30 * SECOND / 75, rel=0.1)
    told = server.pacer.report()
    late = sum(wait > OBJECTIVE.latency_us for wait in server.waits[Effort.FULL]) > answered / 2
    assert (told["late_since"] > 0) is late, "it says so where events are late"
    if rows >= 300:  # of many small requests a turn holds some, and what they share is estimated
        assert told["capacity"] == pytest.approx(answered / 30, rel=0.15), "what is told to be possible is"
    assert told["busy"]["answering"] > 3 * told["busy"]["scoring"]
    assert told["late_by"] == ("answering" if told["late_since"] else "")


def test_where_scoring_takes_the_time_what_stands_is_shed_whoever_sends_it() -> None:
    server = Server(turn=500, each=1_000)
    server.serve(8, 1_000, 10, read=5, answer=5)
    assert len(server.waits[Effort.SHED]) > 0.9 * sum(map(len, server.waits.values()))
    assert not server.pacer.report()["late_since"]


def test_a_worker_that_shed_scores_again_where_that_brings_nothing_any_more() -> None:
    server = Server(turn=500, each=1_000)
    server.serve(8, 1_000, 5, read=5, answer=5)
    assert server.pacer.step is Step.SHED
    server.each = 14
    server.serve(8, 1_000, 40, read=20, answer=41)
    server.waits[Effort.SHED].clear()
    server.serve(8, 1_000, 20, read=20, answer=41)
    assert server.waits[Effort.SHED] == []
    assert server.pacer.step is Step.FULL


def test_more_than_can_be_scored_is_shed_though_reading_and_answering_takes_most_of_the_time() -> None:
    """40% of the time is scoring: 1.3 times what can be done comes, from senders that wait for nothing."""
    out, free = Around(60).rate(100, 4_000), Around(60).rate(100, 100)
    look = Seen(0, 500, 0, 1.3 * out, out, out, OBJECTIVE.latency_us, 0, free, 1.3 * out)
    assert helps(look)
    assert not helps(replace(look, came=out)), "from those who wait, no more comes than is answered"
    assert not helps(replace(look, came=free)), "nor would it be less late"
    assert helps(replace(look, came=out, rate_free=5 * out))


@pytest.mark.parametrize(("flush", "each", "rate", "least"), [(5, 200, 6_000, 0.4), (1, 100, 12_000, 0.6)])
def test_behind_a_disk_a_worker_sheds_no_more_than_it_must(flush: int, each: int, rate: int, least: float) -> None:
    """A fixed part of each turn, as at the durability "disk": turns that shed alone would be small and follow each
    other."""
    server = Server(each=each, read=5, disk=lambda at: flush * MS)
    server.run(evenly(0.3 * rate, 5) + evenly(rate, 20, 5 * SECOND))
    told = server.pacer.report()
    assert server.pacer.step is Step.SHED
    assert told["in_time"] >= least
    assert (server.refused, told["late_since"]) == (0, 0)
    assert told["busy"]["scoring"] > 0.5


def test_a_disk_that_hung_does_not_end_shedding_for_good() -> None:
    def disk(at: int) -> int:
        return 200 * MS if 9 * SECOND < at < 14 * SECOND else 0

    server = Server(each=200, read=10, disk=disk)
    server.run(evenly(2_000, 5) + evenly(6_500, 35, 5 * SECOND))
    told = server.pacer.report()
    assert server.pacer.step is Step.SHED
    assert told["in_time"] >= 0.6
    assert told["late_since"] == 0, "and nothing is said of the disk any more"
    assert told["rate_in"] == pytest.approx(6_500, rel=0.05)


def test_where_the_disk_takes_the_time_that_is_said_and_nothing_is_shed() -> None:
    server = Server(turn=100, each=6, read=5, disk=lambda at: 400 * MS, limit=100_000)
    server.run(evenly(100, 5) + evenly(60_000, 10, 5 * SECOND)[:200_000])
    told = server.pacer.report()
    assert (told["late_since"] > 0, told["late_by"]) == (True, "recording")
    assert server.waits[Effort.SHED] == []


def test_what_is_refused_comes_too() -> None:
    server = Server(limit=20)
    server.run(evenly(3_000, 4))
    assert server.refused > 0
    assert server.pacer.report()["rate_in"] == pytest.approx(3_000, rel=0.1)


def test_shedding_goes_on_where_each_event_takes_a_part_of_the_time_without_a_score() -> None:
    """30 us to read and answer it, 5 us in its turn, 95 us to score it: 1.5 times what can be done comes."""
    server = Server(turn=500, each=100, read=30)
    server.run(evenly(3_000, 5) + evenly(11_000, 20, 5 * SECOND))
    assert server.refused == 0
    assert server.pacer.report()["in_time"] >= 0.5


def test_what_labels_take_is_not_there_for_events() -> None:
    server = Server(turn=500, each=1_000, label=100)
    alone = server.pacer
    server.run(evenly(100, 5))
    before = alone.report()["capacity"]
    assert before == pytest.approx(SECOND / 1_500, rel=0.1)
    server.run(evenly(100, 10, 5 * SECOND), [(at, 100) for at in range(5 * SECOND, 15 * SECOND, 100 * MS)])
    told = alone.report()
    assert told["busy"]["labels"] == pytest.approx(0.1, rel=0.1)
    assert told["capacity"] == pytest.approx(0.9 * before, rel=0.05)
    server.run(evenly(100, 10, 15 * SECOND), [(at, 60_000) for at in range(15 * SECOND, 25 * SECOND, SECOND)])
    assert alone.report()["capacity"] > 0.7 * before, "a turn has a bound for them, however many there are"
    assert server.steps == [(server.steps[0][0], Step.FULL)]


def test_another_objective_begins_nothing_anew() -> None:
    server = Server()
    server.run(evenly(3_000, 3))
    before = server.pacer.report()
    assert before["shed_events"] > 0
    live = {"objective": {"latency_us": 80_000, "share": 0.9}}
    pacer = pacer_of(live, lambda: server.at, lambda: server.at, server.pacer)
    assert pacer is server.pacer
    told = pacer.report()
    assert (told["latency_us"], told["share"]) == (80_000, 0.9)
    assert [told[what] for what in ("step", "since", "shed_events")] == [
        before[what] for what in ("step", "since", "shed_events")
    ]
