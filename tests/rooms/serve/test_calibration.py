"""Threads and rows of a run, found by measuring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import counts

from skyriver.core.errors import DeadlineExceeded, Internal
from skyriver.serve import runner as of_runner
from skyriver.serve.calibration import Calibration, best_limit, best_threads, calibrate, curve_of, thread_counts
from skyriver.serve.runner import Runner, Tensors
from skyriver.serve.watch import RunWatch

Build = Callable[..., bytes]


@pytest.mark.parametrize(
    ("times", "limit"),
    [
        ({1: 10, 2: 11, 4: 12, 8: 14, 16: 18}, 16),  # each row more is nearly free
        ({1: 100, 2: 200, 4: 400, 8: 800}, 1),  # and here none is
        ({1: 100, 2: 120, 4: 160, 8: 240, 16: 470}, 8),
        ({1: 100}, 1),
        ({1: 0.0}, 1),
    ],
)
def test_the_smallest_batch_that_is_near_the_best(times: dict[int, float], limit: int) -> None:
    assert best_limit(times, 16) == limit


def test_the_last_power_of_two_stands_for_all_above_it() -> None:
    assert best_limit({1: 10, 2: 11, 4: 12}, 6) == 6


class Priced(Runner):
    """Whose runs take `fixed` seconds, and `each` more a row, on a clock of its own; with threads less if `shared`."""

    fixed = 0.0
    each = 0.0
    shared = False
    load = 0.0
    loads = 0
    runs = 0
    now = 0.0

    def run(self, inputs: Tensors) -> dict[str, np.ndarray]:
        self.runs += 1
        self.now += (self.fixed + self.each * len(inputs["features"])) / (self.threads if self.shared else 1)
        return super().run(inputs)

    def use_threads(self, model: bytes, threads: int) -> None:
        self.now += self.load
        self.loads += 1
        super().use_threads(model, threads)

    def clock(self) -> float:
        return self.now


def priced(model: bytes, **prices: float) -> Priced:
    runner = Priced(model)
    assert runner.warm_up()
    runner.runs = 0
    for name, price in prices.items():
        setattr(runner, name, price)
    return runner


def test_rows_that_cost_alike_are_not_gathered(sums: bytes) -> None:
    runner = priced(sums, each=0.002)
    found = calibrate(runner, sums, max_batch=64, budget_s=2.0, clock=runner.clock)
    assert found.max_batch == 1
    assert found.row_us == pytest.approx(2000)
    assert (found.measured, found.threads) == (True, 1)


def test_runs_that_cost_alike_are(sums: bytes) -> None:
    runner = priced(sums, fixed=0.001)
    found = calibrate(runner, sums, max_batch=32, budget_s=2.0, clock=runner.clock)
    assert found == Calibration(
        32, 1, True, pytest.approx(1000), pytest.approx(1000), pytest.approx(1000), pytest.approx(0)
    )


def test_a_slow_model_leaves_time_for_its_threads(sums: bytes) -> None:
    runner = priced(sums, each=0.012, load=0.1, shared=True)
    found = calibrate(runner, sums, max_batch=1024, cores=4, load_s=0.1, budget_s=0.3, clock=runner.clock)
    assert (found.threads, found.untried_load_s, runner.loads) == (4, 0.0, 1)


@pytest.mark.parametrize("load_s", [0.2, 5.0])
def test_a_model_that_loads_for_long_is_not_loaded_again_and_that_is_told(sums: bytes, load_s: float) -> None:
    runner = priced(sums, each=0.01, load=load_s, shared=True)
    found = calibrate(runner, sums, max_batch=256, cores=8, load_s=load_s, budget_s=0.3, clock=runner.clock)
    assert (runner.loads, found.threads, found.untried_load_s, set(found.by_threads)) == (0, 1, load_s, {1})
    assert runner.now <= 0.3


@pytest.mark.parametrize(
    ("latency_us", "load_s", "threads"),
    [
        (60_000, 2.0, 2),  # one thread takes 100 ms, and two take 50
        (60_000, 0.2, 2),
        (200_000, 2.0, 1),  # one thread does
        (0, 2.0, 1),  # nobody said in what time
        (60_000, 3.0, 1),  # longer than a start may take for that
    ],
)
def test_what_one_thread_is_too_slow_for_is_loaded_again_with_more(
    sums: bytes, latency_us: int, load_s: float, threads: int
) -> None:
    runner = priced(sums, fixed=0.1, load=load_s, shared=True)
    how = {"max_batch": 1, "cores": 2, "latency_us": latency_us, "load_s": load_s, "budget_s": 0.3}
    found = calibrate(runner, sums, **how, clock=runner.clock)
    assert (found.threads, runner.threads, runner.loads) == (threads, threads, threads - 1)
    assert found.row_us == pytest.approx(100_000 / threads)
    assert found.untried_load_s == (load_s if threads == 1 else 0.0)


@pytest.mark.parametrize(("load_s", "loads"), [(0.01, 4), (0.06, 3), (0.1, 2)])
def test_what_does_not_help_is_tried_as_often_as_there_is_time_for(sums: bytes, load_s: float, loads: int) -> None:
    """The way back is a load as well."""
    runner = priced(sums, fixed=0.01, load=load_s)
    found = calibrate(runner, sums, max_batch=8, cores=8, load_s=load_s, budget_s=0.3, clock=runner.clock)
    assert (runner.loads, found.threads) == (loads, 1)
    assert runner.now <= 0.3


def test_threads_are_taken_where_they_help_and_were_granted(sums: bytes) -> None:
    for shared, cores, threads in ((True, 4, 4), (True, 1, 1), (False, 4, 1)):
        runner = priced(sums, fixed=0.01, shared=shared)
        found = calibrate(runner, sums, max_batch=2, cores=cores, budget_s=5.0, clock=runner.clock)
        assert (found.threads, runner.threads) == (threads, threads)
        assert found.batch_us == pytest.approx(10_000 / threads)
        assert set(found.by_threads) == ({1, 2, 4} if cores > 1 else set())
        assert found.fixed_us == pytest.approx(10_000 / threads)


def test_threads_are_not_tried_where_they_are_known(sums: bytes) -> None:
    runner = Priced(sums, threads=2)
    assert runner.warm_up()
    runner.fixed, runner.shared, runner.load = 0.01, True, 1e9
    found = calibrate(runner, sums, max_batch=2, budget_s=5.0, clock=runner.clock)
    assert (found.threads, found.row_us) == (2, pytest.approx(5_000))


@pytest.mark.parametrize(
    ("times", "latency_us", "threads"),
    [
        ({1: (100, 900), 2: (80, 500), 4: (70, 480)}, 0, 2),  # four are hardly faster than two
        ({1: (100, 900), 2: (80, 500), 4: (70, 300)}, 0, 4),
        ({1: (100, 900), 2: (100, 800)}, 0, 1),
        ({1: (100, 900), 2: (70, 800)}, 75, 2),  # one row alone is fast enough with two only
        ({1: (50, 900), 2: (120, 300)}, 75, 1),  # and here it is not any more
        ({1: (100, 900), 2: (90, 300)}, 75, 2),  # nothing keeps it: as much as can be done
        ({1: (100, 100)}, 0, 1),
    ],
)
def test_the_fewest_threads_that_are_worth_it(
    times: dict[int, tuple[float, float]], latency_us: float, threads: int
) -> None:
    assert best_threads(times, latency_us) == threads


def test_threads_that_are_tried() -> None:
    assert [thread_counts(cores) for cores in (1, 2, 4, 6)] == [[], [2], [4, 2], [6, 3]]


def test_the_curve_of_a_run() -> None:
    assert curve_of(11.0, 11, 21.0) == (10.0, 1.0)
    assert curve_of(10.0, 1, 10.0) == (0.0, 10.0)
    assert curve_of(10.0, 8, 8.0) == (10.0, 0.0)  # a measurement's luck
    assert curve_of(10.0, 11, 210.0) == (0.0, 20.0)  # rows that cost the more the more there are


@pytest.mark.parametrize("failing", [0, 1])
def test_threads_that_fail_are_not_kept(sums: bytes, failing: int) -> None:
    """At their first run, or at one that is made after they were found to help."""

    class Failing(Priced):
        tried = 0

        def run(self, inputs: Tensors) -> dict[str, np.ndarray]:
            if self.threads > 1:
                self.tried += 1
                if failing == 0 or len(inputs["features"]) == 1:
                    raise Internal("no memory for so many", code="MODEL_FAILED")
            return super().run(inputs)

    runner = Failing(sums)
    assert runner.warm_up()
    runner.each, runner.shared = 1e-3, True
    runner.fixed = 10e-3
    found = calibrate(runner, sums, max_batch=16, cores=4, budget_s=10, clock=runner.clock)
    assert runner.tried
    assert (found.threads, runner.threads) == (1, 1)
    assert found.measured
    assert set(found.by_threads) == {1}


def test_short_runs_get_no_threads(sums: bytes) -> None:
    runner = priced(sums, fixed=0.00005, shared=True)
    assert calibrate(runner, sums, max_batch=2, cores=4, clock=runner.clock).threads == 1


def test_the_time_of_measuring_has_an_end(sums: bytes) -> None:
    runner = priced(sums, fixed=0.03)
    found = calibrate(runner, sums, max_batch=256, budget_s=0.05, clock=runner.clock)
    assert runner.runs == 1
    assert found.max_batch == 1


def test_the_clock_of_this_machine_is_one(sums: bytes) -> None:
    runner = Runner(sums)
    assert runner.warm_up()
    found = calibrate(runner, sums, max_batch=8)
    assert found.measured
    assert found.row_us > 0
    assert 1 <= found.max_batch <= 8


def test_a_model_that_takes_no_made_up_rows_is_left_as_it_is(make_model: Build) -> None:
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    values = ([("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, [7, 11])])
    model = make_model(nodes, *values, {"to": np.array([7, 11], np.int64)})
    runner = Runner(model)
    assert not runner.warm_up()
    assert calibrate(runner, model, max_batch=99) == Calibration(99)


def turning(make_model: Build, turns: int) -> bytes:
    """A model whose run takes as long as so many turns of a loop."""
    nodes, constants = counts("most", "begins", {"most": np.array(turns, np.int64), "begins": np.array(True)})
    nodes = [*nodes, helper.make_node("Cast", ["count"], ["n"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Add", ["features", "n"], ["y"]))
    values = ([("features", TensorProto.FLOAT, ["b", 1])], [("y", TensorProto.FLOAT, ["b", 1])])
    return make_model(nodes, *values, constants)


def test_a_row_that_takes_longer_than_a_start_tries_is_timed_once_with_the_limit_of_all_runs(
    make_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_runner, "_PROBE_LIMIT_S", 0.01)
    model = turning(make_model, 200_000)  # long enough for who watches to come to it
    runner = Runner(model)
    assert runner.warm_up()
    assert runner.slow_us > 10_000
    assert (runner.ended_us, runner.expected_us(1)) == (0.0, runner.slow_us)
    found = calibrate(runner, model, max_batch=99, cores=2, load_s=0.001)
    assert (found.measured, found.row_us, found.max_batch, found.ended_us) == (True, runner.slow_us, 99, 0.0)
    assert runner.threads == 1


def test_a_row_that_took_longer_than_a_start_tries_is_not_tried_so_again(
    make_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_runner, "_PROBE_LIMIT_S", 0.05)
    limits: list[float] = []
    run = RunWatch.run

    def noted(self: RunWatch, what: Any) -> Any:
        limits.append(self.limit_s)
        return run(self, what)

    monkeypatch.setattr(RunWatch, "run", noted)
    runner = Runner(turning(make_model, 2**62), limit_s=0.2)
    assert not runner.warm_up()
    assert (limits, runner.ended_us) == ([0.05, 0.2], 200_000)


def test_what_onnxruntime_logs_has_no_colours(
    make_model: Build, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    of_runner.log_plainly()
    try:
        Runner(turning(make_model, 2**62), limit_s=0.05)
    finally:
        of_runner.ort.set_default_logger_callback(None)
    assert any("onnxruntime" in record.message and "terminate" in record.message for record in caplog.records)
    assert "\x1b" not in caplog.text + capfd.readouterr().err


def test_a_row_that_takes_longer_than_any_run_may_is_known_and_said_to_who_asks(make_model: Build) -> None:
    model = turning(make_model, 2**62)
    runner = Runner(model, limit_s=0.05)
    assert not runner.warm_up()
    assert calibrate(runner, model, max_batch=99) == Calibration(99, ended_us=50_000.0)
    assert runner.expected_us(1) == 50_000, "the first request is not run on the loop"
    with pytest.raises(DeadlineExceeded, match=r"longer than 0.05 s for one row, as when it was started") as ended:
        runner.run(runner.probe(1, seed=0))
    assert (ended.value.code, "does not help" in ended.value.next_action) == ("MODEL_TOO_SLOW", True)
    runner.note(1, 1_000_000)
    with pytest.raises(DeadlineExceeded, match="on this input"):
        runner.run(runner.probe(1, seed=0))
