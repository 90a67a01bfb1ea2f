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
