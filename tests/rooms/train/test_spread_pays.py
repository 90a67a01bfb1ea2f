"""How many workers, threads and micro-batches, against a machine that is simulated."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest

from skyriver.train.spread.pays import MARGIN, TRIES, About, Choice, Law, Limits, Setting, Timed, tune
from skyriver.train.spread.tuning import Tuning


@dataclass(frozen=True)
class Machine:
    """Seconds; of a step of `rows`."""

    rows: int = 256
    row_s: float = 40e-6
    pass_s: float = 0.5e-3
    serial: float = 0.1
    """The share of a pass that more threads do not make quicker."""
    fits: int = 1_000_000
    """Rows of a pass that are in the cache; a third slower beyond."""
    pair_s: float = 1e-3
    crowded: float = 0.05
    """By which each more worker makes passes slower."""
    fetch_s: float = 0.0
    ahead: bool = True
    update_s: float = 0.2e-3

    def time(self, s: Setting, shards: int = 0) -> Timed:
        rows, passes = self.rows / (s.workers * s.cuts), s.cuts
        if shards:
            rows, passes = self.rows / shards, -(-shards // s.workers)
        one = rows * self.row_s * (1.0 if rows <= self.fits else 1.33) * (self.serial + (1 - self.serial) / s.threads)
        took = passes * (self.pass_s + one) * (1 + self.crowded * (s.workers - 1))
        fetch = self.fetch_s / s.workers
        load = max(0.0, fetch - took) if self.ahead else fetch
        reduce = self.pair_s * 2 * (s.workers - 1) / s.workers
        return Timed(took, self.update_s, reduce, load, fetch, self.ahead)


def tuned(machine: Machine, limits: Limits, **about: float) -> tuple[Choice, dict[Setting, Timed]]:
    found: dict[Setting, Timed] = {}
    told = About(rows=machine.rows, left=100_000, pair_s=machine.pair_s, started_s=1.0)
    told = replace(told, **about)  # type: ignore[arg-type]
    while True:
        wanted = tune(limits, found, told if found else None)
        if isinstance(wanted, Choice):
            return wanted, found
        assert wanted not in found, "it is measured twice"
        assert wanted.cores <= limits.cores
        assert wanted.workers <= limits.most
        found[wanted] = machine.time(wanted, limits.shards)


def every(limits: Limits, machine: Machine) -> dict[Setting, float]:
    of = [(w, t) for w in range(1, limits.most + 1) for t in range(1, limits.cores + 1) if w * t <= limits.cores]
    cuts = [1] if limits.shards else [1, 2, 4, 8, 16]
    all_of = [Setting(w, t, c) for w, t in of for c in cuts if w * c <= machine.rows]
    return {s: machine.time(s, limits.shards).step for s in all_of}


def test_a_sum_that_takes_longer_than_it_spares_is_refused_with_the_figures() -> None:
    choice, found = tuned(Machine(row_s=20e-6, pair_s=4e-3, serial=0.3), Limits(most=2, cores=2))
    assert (choice.workers, choice.threads, choice.micro_batch) == (1, 2, 256)
    assert choice.why == (
        "2 workers would take 7.01 ms a step (3.01 compute + 4 all-reduce), "
        "one with 2 threads takes 4.03 ms a step: trained on one"
    )
    assert all(s.workers == 1 for s in found), "no second worker was started for it"


def test_workers_that_pay_are_measured_before_they_are_chosen() -> None:
    choice, found = tuned(Machine(rows=64, row_s=1e-3, pair_s=3e-3, serial=0.5), Limits(most=2, cores=2))
    assert choice.setting == Setting(2, 1) in found
    assert choice.micro_batch == 32
    assert choice.why == (
        "2 workers take 37.3 ms a step (34.3 compute + 3 all-reduce), "
        "one with 2 threads takes 48.7 ms a step: trained on 2"
    )


def test_workers_that_the_law_promised_too_much_of_are_given_back() -> None:
    choice, found = tuned(Machine(rows=64, row_s=1e-3, crowded=0.6, serial=0.3), Limits(most=2, cores=2))
    assert Setting(2, 1) in found
    assert (choice.workers, choice.threads) == (1, 2)
    assert "2 workers take" in choice.why
    assert choice.why.endswith("trained on one")


def test_passes_that_fit_the_cache_are_quicker() -> None:
    choice, _ = tuned(Machine(fits=64, pair_s=1.0), Limits(most=2, cores=1))
    assert choice.setting == Setting(1, 1, 4)
    assert choice.micro_batch == 64
    assert "one in micro-batches of 64 rows takes" in choice.why


def test_one_that_is_soon_over_starts_no_workers() -> None:
    machine = Machine(rows=64, row_s=1e-3, serial=0.5)
    assert tuned(machine, Limits(most=2, cores=2), left=200)[0].workers == 2
    choice, found = tuned(machine, Limits(most=2, cores=2), left=40)
    assert choice.workers == 1
    assert all(s.workers == 1 for s in found)
    assert "40 steps are over before a start of 1.0 s is made up for" in choice.why


def test_rows_that_are_waited_for_are_told_and_fetched_by_more() -> None:
    machine = Machine(rows=64, row_s=0.2e-3, fetch_s=60e-3, serial=0.1)
    choice, _ = tuned(machine, Limits(most=2, cores=2))
    assert choice.workers == 2, "two fetch at once, whatever threads do"
    assert "of it waiting for rows" in choice.why


def test_with_the_same_bits_parts_and_threads_are_given() -> None:
    limits = Limits(most=3, cores=4, shards=8)
    choice, found = tuned(Machine(row_s=1e-3), limits)
    assert {(s.threads, s.cuts) for s in found} == {(1, 1)}
    assert choice.setting == Setting(3, 1)
    assert choice.micro_batch == 32
    assert tuned(Machine(row_s=1e-3), replace(limits, most=12, cores=16))[0].workers == 8, "each has a shard"


def test_statistics_of_batches_are_never_cut() -> None:
    choice, found = tuned(Machine(fits=64), Limits(most=2, cores=2), can_cut=False)
    assert {s.cuts for s in found} == {1}
    assert choice.setting.cuts == 1


def test_what_does_not_fit_into_memory_is_not_tried() -> None:
    _, found = tuned(Machine(row_s=1e-3), Limits(most=4, cores=4, cuts=4))
    assert all(s.workers * s.cuts >= 4 for s in found)


@pytest.mark.parametrize(("limits", "said"), [(Limits(1, 4), "it may have no more"), (Limits(4, 1), "1 core is there")])
def test_one_alone_says_why(limits: Limits, said: str) -> None:
    assert tuned(Machine(), limits)[0].why.endswith(f"trained on one, for {said}")


def test_workers_that_cannot_be_had_are_left_out_of_it() -> None:
    tuning, machine = Tuning(Limits(most=3, cores=3)), Machine(rows=64, row_s=1e-3, serial=0.5)
    about = About(rows=64, left=10_000, pair_s=1e-3, started_s=1.0)
    assert tuning.asks_for_pair
    while tuning.setting.workers == 1:
        tuning.measured(machine.time(tuning.setting), about)
    assert tuning.setting.workers == 3
    assert not tuning.asks_for_pair
    tuning.failed("ended with -9")
    assert tuning.setting.workers == 2
    while tuning.choice is None:
        tuning.measured(machine.time(tuning.setting), about)
    assert tuning.choice.workers == 2
    assert tuning.choice.why.endswith("(3 workers cannot be had: one ended with -9 before its first step)")


def test_what_had_no_memory_is_measured_anew_in_smaller_micro_batches() -> None:
    tuning, machine = Tuning(Limits(most=2, cores=2)), Machine(rows=64, row_s=1e-3, serial=0.5)
    about = About(rows=64, left=10_000, pair_s=1e-3, started_s=1.0)

    def end() -> Choice:
        while tuning.choice is None:
            tuning.measured(machine.time(tuning.setting), about)
        return tuning.choice

    assert (end().setting, end().micro_batch) == (Setting(2, 1, 1), 32)
    assert tuning.cut()
    assert tuning.setting == Setting(1, 1, 4)
    assert (end().setting, end().micro_batch) == (Setting(2, 1, 2), 16)
    assert [tuning.cut(), tuning.cut(), tuning.cut()] == [True, True, False], "sixteen at most"
    assert not Tuning(Limits(2, 2, shards=8)).cut()


def test_a_part_of_a_sum_is_hidden_behind_the_backward_pass() -> None:
    about = About(rows=100, left=1000, pair_s=0.010, last=0.25)
    alone = {Setting(1): Timed(0.012, 0.001, 0.0, 0.0)}
    told = Law(Limits(2, 2), about, alone)(Setting(2))
    assert told is not None
    assert told.passes == pytest.approx(0.006)
    assert told.reduce == pytest.approx(0.0025 + 0.0075 - 0.004)


@pytest.mark.parametrize("shards", [0, 8])
def test_on_any_machine_it_ends_near_the_best(shards: int) -> None:
    """Of all settings, of which it measures few."""
    chance = random.Random(3)
    worst = []
    for _ in range(300):
        cores = chance.choice((1, 2, 4, 8, 16))
        limits = Limits(most=chance.choice((1, 2, cores)), cores=cores, shards=shards)
        machine = Machine(
            rows=chance.choice((32, 256, 1024)),
            row_s=10 ** chance.uniform(-5.5, -2.5),
            pass_s=10 ** chance.uniform(-4, -2.5),
            serial=chance.uniform(0, 0.6),
            fits=chance.choice((32, 1_000_000)),
            pair_s=10 ** chance.uniform(-4, -1.5),
            crowded=chance.uniform(0, 0.3),
            fetch_s=chance.choice((0.0, 10 ** chance.uniform(-3, -1))),
            ahead=chance.random() < 0.5,
        )
        choice, found = tuned(machine, limits)
        assert len(found) <= TRIES
        best = min(v for s, v in every(limits, machine).items() if shards == 0 or s.threads == 1)
        worst.append(found[choice.setting].step / best)
        one = min(t.step for s, t in found.items() if s.workers == 1)
        assert found[choice.setting].step <= one * (1 + MARGIN), "never slower than one worker"
    worst.sort()
    assert worst[len(worst) // 2] <= 1.02
    assert worst[int(0.95 * len(worst))] <= 1.15
