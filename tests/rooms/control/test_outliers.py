"""Which servers are out, by pure looks at made-up answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from skyriver.control.outliers import FULL, WRAP, Answered, Outliers

LOOK_US = 250_000
Times = Callable[[int], Mapping[str, int]]


class Pool:
    """Servers that answer `rate` requests a second in so many microseconds each; who is out gets none."""

    def __init__(self, names: str, start: int = 0) -> None:
        self.outliers = Outliers()
        self.now = 1_000_000
        self.seen = {name: Answered(start, start) for name in names}
        self.was_out: set[str] = set()

    def run(
        self, seconds: float, times: Mapping[str, int], *, rate: int = 40, failing: str = "", stuck: str = ""
    ) -> None:
        for _ in range(round(seconds * 1e6 / LOOK_US)):
            self.now += LOOK_US
            for name, seen in self.seen.items():
                count = 0 if name in stuck or not seen.weight else rate // 4
                self.seen[name] = replace(
                    seen,
                    answers=(seen.answers + count) % WRAP,
                    microseconds=(seen.microseconds + count * times[name]) % WRAP,
                    failures=seen.failures + (count if name in failing else 0),
                    waiting=int(name in stuck),
                )
            self.look()

    def look(self) -> None:
        for name, weight in self.outliers.look(self.now, [self.seen]).items():
            self.seen[name] = replace(self.seen[name], weight=weight)
        self.was_out |= {name for name, seen in self.seen.items() if not seen.weight}

    @property
    def weights(self) -> str:
        return " ".join(str(seen.weight) for seen in self.seen.values())


ALIKE = dict.fromkeys("abcd", 10_000)


def test_one_of_four_that_is_five_times_slower_is_out_within_two_seconds() -> None:
    pool = Pool("abcd")
    pool.run(10, ALIKE)
    assert pool.was_out == set()
    pool.run(1.25, {**ALIKE, "c": 50_000})
    assert pool.weights == "100 100 0 100"


@pytest.mark.parametrize("rate", [4, 8, 40, 4_000])
def test_it_is_found_at_any_rate(rate: int) -> None:
    pool = Pool("abcd")
    pool.run(4, ALIKE, rate=rate)
    pool.run(2, {**ALIKE, "c": 60_000}, rate=rate)
    assert pool.was_out == {"c"}


def test_it_comes_back_by_steps_and_each_relapse_is_longer() -> None:
    pool = Pool("abcd")
    slow = {**ALIKE, "c": 50_000}
    pool.run(2, ALIKE)
    pool.run(60, slow)
    assert pool.seen["c"].answers < 2 * 40 + 60 * 40 / 8, "it got an eighth of its requests"
    weights = []
    for _ in range(400):
        pool.run(0.25, ALIKE)
        weights.append(pool.seen["c"].weight)
    assert list(dict.fromkeys(weights)) == [0, 5, 25, 100]


def test_wherever_all_are_slow_none_is_out() -> None:
    pool = Pool("abcd")
    pool.run(5, ALIKE)
    pool.run(10, dict.fromkeys("abcd", 100_000))
    pool.run(5, ALIKE, failing="abcd")
    assert pool.was_out == set()


def test_what_is_fast_enough_stays_however_much_faster_the_others_are() -> None:
    pool = Pool("abcd")
    pool.run(5, {**dict.fromkeys("abcd", 300), "a": 4_000})
    assert pool.was_out == set()


@pytest.mark.parametrize(("names", "least"), [("a", 1), ("ab", 1), ("abc", 2), ("abcd", 2), ("abcde", 3)])
def test_never_are_more_than_half_out(names: str, least: int) -> None:
    pool = Pool(names)
    times = {name: 5_000 * 5**n for n, name in enumerate(names)}
    pool.run(1, dict.fromkeys(names, 10_000))
    for _ in range(40):
        pool.run(0.25, times)
        assert sum(seen.weight == FULL for seen in pool.seen.values()) >= least


def test_who_is_out_is_let_in_when_the_others_go() -> None:
    pool = Pool("ab")
    pool.run(1, ALIKE)
    pool.run(2, {"a": 1_000, "b": 90_000})
    assert pool.weights == "100 0"
    del pool.seen["a"]
    pool.look()
    assert pool.weights == "100"


def test_failures_that_the_others_do_not_have() -> None:
    pool = Pool("abcd")
    pool.run(2, ALIKE, failing="b")
    assert pool.was_out == {"b"}


def test_one_that_answers_nothing_any_more() -> None:
    pool = Pool("abcd")
    pool.run(2, ALIKE)
    pool.run(1.5, ALIKE, stuck="d")
    assert pool.weights == "100 100 100 0"


def test_weights_that_another_one_left_are_taken_over() -> None:
    pool = Pool("abcd")
    pool.seen["a"] = replace(pool.seen["a"], weight=0)
    pool.look()
    assert pool.weights == "0 100 100 100"
    pool.run(10, ALIKE)
    assert pool.weights == "100 100 100 100"


def test_counters_may_wrap() -> None:
    pool = Pool("abcd", start=WRAP - 20)
    pool.run(3, ALIKE)
    assert pool.was_out == set()
    pool.run(2, {**ALIKE, "c": 60_000})
    assert pool.was_out == {"c"}


class Queues:
    """Servers that answer one request after another, `takes` milliseconds each; `clients` ask again once they are
    answered, and whoever has least to do for its weight is asked."""

    def __init__(self, takes: Mapping[str, int], clients: int) -> None:
        self.outliers = Outliers()
        self.takes = dict(takes)
        self.now = 0
        self.clients = clients
        self.queues: dict[str, list[int]] = {name: [] for name in takes}
        """When each that waits was asked; the first is under way."""
        self.left: dict[str, int] = dict(takes)
        self.seen = {name: Answered() for name in takes}
        self.out: list[str] = []

    def run(self, names: str, seconds: float) -> None:
        """With these up."""
        for _ in range(round(seconds * 1000)):
            self.now += 1
            while sum(map(len, self.queues.values())) < self.clients:
                able = [name for name in names if self.seen[name].weight]
                name = min(able, key=lambda each: (len(self.queues[each]) / self.seen[each].weight, each))
                self.queues[name].append(self.now)
            for name, queue in self.queues.items():
                self.left[name] -= bool(queue)
                if queue and self.left[name] <= 0:
                    self._answer(name, self.now - queue.pop(0))
            if not self.now % (LOOK_US // 1000):
                self._look(names)

    def _answer(self, name: str, milliseconds: int) -> None:
        seen = self.seen[name]
        took = seen.microseconds + 1000 * milliseconds
        self.seen[name] = replace(seen, answers=seen.answers + 1, microseconds=took)
        self.left[name] = self.takes[name]

    def _look(self, names: str) -> None:
        pool = {name: replace(self.seen[name], waiting=len(self.queues[name])) for name in names}
        for name, weight in self.outliers.look(self.now * 1000, [pool]).items():
            if not weight and self.seen[name].weight:
                self.out.append(name)
            self.seen[name] = replace(self.seen[name], weight=weight)


@pytest.mark.parametrize("clients", [6, 12, 24])
def test_who_had_all_requests_before_another_one_came_is_not_slow_for_their_queue(clients: int) -> None:
    pool = Queues({"a": 65, "b": 65}, clients)
    pool.run("a", 5)
    before = pool.seen["a"].answers
    pool.run("ab", 10)
    assert pool.out == []
    done = pool.seen["a"].answers - before + pool.seen["b"].answers
    assert done > 0.95 * 2 * 10_000 / 65, "both work all the time"


def test_of_two_the_one_that_comes_back_does_not_drive_the_other_out() -> None:
    pool = Queues({"a": 65, "b": 65}, 12)
    pool.run("ab", 4)
    pool.takes["a"] = 300
    pool.run("ab", 4)
    assert pool.out == ["a"]
    pool.takes["a"] = 65
    pool.run("ab", 20)
    assert pool.out == ["a"]
    assert pool.seen["a"].weight == FULL


def test_of_two_the_slower_one_is_out_once_its_own_queue_is_seen() -> None:
    pool = Queues({"a": 65, "b": 400}, 8)
    pool.run("b", 2)
    pool.run("ab", 8)
    assert set(pool.out) == {"b"}


def test_a_queue_of_before_does_not_hide_that_nothing_is_answered() -> None:
    pool = Queues({"a": 20, "b": 20}, 8)
    pool.run("b", 2)
    pool.run("ab", 0.1)
    pool.takes["b"] = pool.left["b"] = 10_000_000
    pool.run("ab", 4)
    assert pool.out == ["b"]
