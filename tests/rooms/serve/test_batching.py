"""Natural batching on a real loop with a model that is a function."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.core.errors import DeadlineExceeded, InvalidInput, SkyriverError, Unavailable
from skyriver.serve import batching
from skyriver.serve.batching import NO_DEADLINE, Ask, Batcher
from skyriver.serve.metrics import Counters
from skyriver.serve.pace import Pace
from skyriver.serve.runner import Array, Runner, Tensors


class Doubler:
    """y = 2x; records the rows of its runs, refuses a 13, can be made to wait, and to cost as much as wanted."""

    def __init__(self, batching: bool = True, cost_us: float = 0) -> None:
        self.batching = batching
        self.cost_us = cost_us
        self.runs: list[int] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def run(self, inputs: Tensors) -> dict[str, Array]:
        assert self.gate.wait(60)
        x = inputs["x"]
        self.runs.append(len(x))
        self.threads.add(threading.get_ident())
        if (x == 13).any():
            raise InvalidInput("thirteen", code="MODEL_REFUSED_INPUT")
        return {"y": x * 2}

    def expected_us(self, rows: int) -> float:
        return self.cost_us

    def note(self, rows: int, nanoseconds: int) -> None: ...


SOON_NS = 200_000_000
"""A deadline that passes soon, and not before what has it was taken."""

Scene = Callable[[Doubler, Batcher], Coroutine[Any, Any, None]]


def play(scene: Scene, model: Doubler | None = None, **options: Any) -> Doubler:
    model = model or Doubler()

    async def main() -> None:
        batcher = Batcher(model, asyncio.get_running_loop(), Counters(), **options)
        try:
            await asyncio.wait_for(scene(model, batcher), 60)
        finally:
            batcher.close()

    asyncio.run(main())
    return model


def ask(batcher: Batcher, *values: float) -> asyncio.Future[list[float] | SkyriverError]:
    future: asyncio.Future[list[float] | SkyriverError] = asyncio.get_running_loop().create_future()

    def answer(result: Tensors | SkyriverError) -> None:
        future.set_result(result if isinstance(result, SkyriverError) else result["y"].tolist())

    batcher.submit(Ask({"x": np.array(values, np.float32)}, answer))
    return future


async def hold(model: Doubler, batcher: Batcher) -> None:
    """A run is under way on the thread until `model.gate` is set: what comes meanwhile waits, however slow this is."""
    model.gate.clear()
    model.cost_us = 1e9
    ask(batcher, 0)
    await asyncio.sleep(0)


def test_what_waits_runs_together_and_is_given_back_to_whom_it_belongs() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        model.gate.clear()
        model.cost_us = 1e9  # on the thread, so that others can come meanwhile
        first = ask(batcher, 1)
        await asyncio.sleep(0)
        others = [ask(batcher, k, k + 0.5) for k in range(2, 6)]
        model.gate.set()
        assert await first == [2]
        for k, other in zip(range(2, 6), others, strict=True):
            assert await other == [2 * k, 2 * k + 1]

    assert play(scene).runs == [1, 8]


def test_requests_of_one_turn_of_the_loop_are_one_run() -> None:
    """However long each of them took to be read."""

    async def scene(model: Doubler, batcher: Batcher) -> None:
        for _ in range(3):
            asked = []
            for value in range(5):
                read = time.perf_counter_ns() + 100_000
                while time.perf_counter_ns() < read:
                    pass
                asked.append(ask(batcher, value))
            assert [await each for each in asked] == [[0], [2], [4], [6], [8]]

    assert play(scene).runs == [5] * 3


def test_one_that_comes_alone_is_run_with_the_next_turn() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        asked = ask(batcher, 4)
        assert not asked.done()
        await asyncio.sleep(0)
        assert asked.done()

    assert play(scene).runs == [1]


@pytest.mark.parametrize("cost_us", [0, 1e9])
def test_long_runs_leave_the_loop_free_and_short_ones_do_not_leave_it(cost_us: float) -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        assert await ask(batcher, 4) == [8]

    model = play(scene, Doubler(cost_us=cost_us))
    assert (threading.get_ident() in model.threads) is (cost_us == 0)


def test_one_long_run_follows_another_while_the_loop_is_busy() -> None:
    """As it is at overload, with refusing."""

    async def scene(model: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        late = ask_until(batcher, 1, time.perf_counter_ns() + SOON_NS)
        waiting = [ask(batcher, value) for value in range(4)]
        while time.perf_counter_ns() < late.until_ns:
            pass
        model.gate.set()
        give_up = time.monotonic() + 60
        while len(model.runs) < 5 and time.monotonic() < give_up:
            pass  # the loop does not turn
        assert model.runs == [1] * 5
        assert not any(each.done() for each in waiting)
        assert [await each for each in waiting] == [[0], [2], [4], [6]]
        assert isinstance(await late.future, DeadlineExceeded)
        assert (batcher.waiting, batcher.running) == (0, 0)
        assert await ask(batcher, 7) == [14]

    play(scene, Doubler(batching=False))


def test_runs_that_became_short_come_back_to_the_loop() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        waiting = [ask(batcher, value) for value in range(3)]
        model.cost_us = 0
        model.threads.clear()
        model.gate.set()
        assert [await each for each in waiting] == [[0], [2], [4]]

    model = play(scene, Doubler(batching=False))
    assert threading.get_ident() in model.threads
    assert len(model.threads) == 2  # the held run was the thread's last


def test_a_batch_has_a_limit_of_rows_that_one_request_may_pass() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        waiting = [ask(batcher, *([1.0] * rows)) for rows in (3, 2, 9, 1)]
        model.gate.set()
        for future in waiting:
            await future

    assert play(scene, max_rows=4).runs == [1, 3, 2, 9, 1]


def test_rows_of_different_shapes_do_not_share_a_run() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        answers: list[object] = []
        await hold(model, batcher)
        for shape in ((1, 2), (1, 2), (1, 3)):
            batcher.submit(Ask({"x": np.ones(shape, np.float32)}, answers.append))
        model.gate.set()
        while len(answers) < 3:
            await asyncio.sleep(0)

    assert play(scene).runs == [1, 2, 1]


def test_a_model_that_does_not_batch_runs_one_by_one() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        futures = [ask(batcher, k) for k in range(5)]
        assert [await f for f in futures] == [[2 * k] for k in range(5)]

    assert play(scene, Doubler(batching=False)).runs == [1] * 5


def test_one_requests_values_do_not_fail_the_others() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        futures = [ask(batcher, k) for k in (1, 13, 3)]
        model.gate.set()
        first, unlucky, third = [await f for f in futures]
        assert (first, third) == ([2], [6])
        assert isinstance(unlucky, InvalidInput)

    assert play(scene).runs == [1, 3, 1, 1, 1]


class Stuck(Doubler):
    """Ends every run of several rows as one that took too long, when `shared` is set, and learns from it."""

    def __init__(self, cost_us: float = 0) -> None:
        super().__init__(cost_us=cost_us)
        self.entered = threading.Event()
        self.shared = threading.Event()

    def run(self, inputs: Tensors) -> dict[str, Array]:
        outputs = super().run(inputs)
        if len(inputs["x"]) > 1:
            self.entered.set()
            assert self.shared.wait(60)
            self.cost_us = 1e9
            raise DeadlineExceeded("ended", code="MODEL_TOO_SLOW")
        return outputs


def test_a_run_that_took_too_long_is_made_again_on_the_thread_for_those_who_still_wait() -> None:
    model = Stuck()

    async def scene(_: Doubler, batcher: Batcher) -> None:
        soon = time.perf_counter_ns() + 2_000_000_000
        late = [ask_until(batcher, value, soon) for value in range(3)]
        patient = ask(batcher, 3)
        threading.Timer(2.1, model.shared.set).start()  # the loop itself waits: the model seemed to be fast
        assert await patient == [6]
        for each in late:
            error = await each.future
            assert isinstance(error, DeadlineExceeded)
            assert error.code == "DEADLINE_EXCEEDED"
        assert (batcher.waiting, batcher.running, batcher._rows) == (0, 0, 0)

    play(scene, model)
    assert model.runs == [4, 1]
    assert len(model.threads) == 2


def test_who_leaves_or_is_too_late_during_a_run_that_fails_is_not_run_again() -> None:
    model = Stuck(cost_us=1e9)

    async def scene(_: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        answers: list[object] = []
        gone = Ask({"x": np.array([1], np.float32)}, answers.append)
        batcher.submit(gone)
        late = ask_until(batcher, 2, time.perf_counter_ns() + 2_000_000_000)
        patient = ask(batcher, 3)
        model.gate.set()
        while not model.entered.is_set():
            await asyncio.sleep(0.001)
        batcher.withdraw(gone)
        while time.perf_counter_ns() < late.until_ns:
            await asyncio.sleep(0.01)
        model.shared.set()
        assert await patient == [6]
        assert isinstance(await late.future, DeadlineExceeded)
        assert answers == []
        assert (batcher.waiting, batcher._rows) == (0, 0)

    assert play(scene, model).runs == [1, 3, 1]


@pytest.mark.parametrize("cost_us", [0.0, 1e9])
def test_what_is_withdrawn_leaves_its_place_and_is_not_run(cost_us: float) -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        answers: list[object] = []
        under_way = Ask({"x": np.ones(1, np.float32)}, answers.append)
        model.gate.clear()
        model.cost_us = 1e9
        batcher.submit(under_way)
        await asyncio.sleep(0)
        gone = [Ask({"x": np.array([value], np.float32)}, answers.append) for value in range(3)]
        batcher.submit(*gone[:2])
        staying = ask(batcher, 5)
        batcher.submit(gone[2])
        assert (batcher.waiting, batcher._rows) == (4, 5)
        batcher.withdraw(*gone, under_way)
        batcher.withdraw(*gone)
        assert (batcher.waiting, batcher._rows) == (1, 2)
        model.cost_us = cost_us
        model.gate.set()
        assert await staying == [10]
        assert (batcher.waiting, batcher._rows, answers) == (0, 0, [])

    assert play(scene).runs == [1, 1]


@pytest.mark.parametrize("cost_us", [0.0, 1e9])
def test_what_cannot_be_put_together_is_run_one_by_one(monkeypatch: pytest.MonkeyPatch, cost_us: float) -> None:
    def no_memory(*_: object) -> Array:
        raise MemoryError

    async def scene(model: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        model.cost_us = cost_us
        futures = [ask(batcher, k) for k in range(3)]
        monkeypatch.setattr(np, "concatenate", no_memory)
        model.gate.set()
        assert [await f for f in futures] == [[0], [2], [4]]
        assert await ask(batcher, 7) == [14]

    assert play(scene).runs == [1] * 5


def test_too_many_waiting_are_refused_and_those_that_wait_are_answered() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        model.gate.clear()
        model.cost_us = 1e9
        under_way = ask(batcher, 0)
        await asyncio.sleep(0)
        waiting = [ask(batcher, k) for k in range(3)]
        with pytest.raises(Unavailable) as caught:
            ask(batcher, 9)
        assert caught.value.code == "OVERLOADED"
        assert batcher.waiting == 3
        model.gate.set()
        await under_way
        assert [await f for f in waiting] == [[0], [2], [4]]

    play(scene, limit=3)


def test_a_request_of_many_runs_is_taken_whole_or_not_at_all() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        model.gate.clear()
        model.cost_us = 1e9
        done: list[object] = []
        asks = [Ask({"x": np.ones(1, np.float32)}, done.append) for _ in range(5)]
        batcher.submit(*asks)  # alone, a request may bring more than may wait
        with pytest.raises(Unavailable):
            batcher.submit(*asks)
        await asyncio.sleep(0)
        assert batcher.waiting == 4
        model.gate.set()
        while len(done) < 5:
            await asyncio.sleep(0.001)

    play(scene, Doubler(batching=False), limit=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), max_size=40), st.integers(1, 8))
def test_every_answer_belongs_to_its_question(requests: list[tuple[int, bool, bool]], max_rows: int) -> None:
    """Whatever comes in whatever sizes, with pauses or without, some of it wrong."""

    async def scene(model: Doubler, batcher: Batcher) -> None:
        futures = []
        for number, (rows, wrong, pause) in enumerate(requests):
            values = [1000.0 * number + row for row in range(rows)]
            if wrong:
                values[-1] = 13
            futures.append((wrong, values, ask(batcher, *values)))
            if pause:
                await asyncio.sleep(0)
        for wrong, values, future in futures:
            result = await future
            assert isinstance(result, SkyriverError) if wrong else result == [2 * v for v in values]

    play(scene, max_rows=max_rows)


def test_uneven_inputs_never_share_a_run() -> None:
    """Two requests with 2 + 1 and 1 + 2 rows are three rows each together, but each other's rows."""

    class Pairs(Doubler):
        def run(self, inputs: Tensors) -> dict[str, Array]:
            super().run(inputs)
            return {"y": inputs["x"], "z": inputs["w"]}

    async def scene(model: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        answers: list[Tensors | SkyriverError] = []
        for x, w in (([1, 2], [3]), ([4], [5, 6])):
            batcher.submit(Ask({"x": np.array(x), "w": np.array(w)}, answers.append))
        model.gate.set()
        while len(answers) < 2:
            await asyncio.sleep(0.005)
        given = [{name: array.tolist() for name, array in one.items()} for one in answers if isinstance(one, dict)]
        assert given == [{"y": [1, 2], "z": [3]}, {"y": [4], "z": [5, 6]}]

    play(scene, Pairs())


def test_what_is_too_late_is_not_run() -> None:
    pace = Pace()

    async def scene(model: Doubler, batcher: Batcher) -> None:
        with pytest.raises(DeadlineExceeded):  # before the queue
            ask_until(batcher, 1, time.perf_counter_ns())
        await hold(model, batcher)
        late = ask_until(batcher, 2, time.perf_counter_ns() + SOON_NS)
        in_time = ask_until(batcher, 3, time.perf_counter_ns() + 60_000_000_000)
        while time.perf_counter_ns() < late.until_ns:
            await asyncio.sleep(0.005)
        model.gate.set()
        error = await late.future
        assert isinstance(error, DeadlineExceeded)
        assert (error.code, error.http_status) == ("DEADLINE_EXCEEDED", 504)
        assert await in_time.future == [6]
        assert model.runs == [1, 1]  # the held one and the one in time

        await hold(model, batcher)  # and where nothing else waits, the next one is taken at once
        pace.row_ns = 0  # of a machine of which nothing is known, however slow this one is
        alone = ask_until(batcher, 4, time.perf_counter_ns() + SOON_NS)
        while time.perf_counter_ns() < alone.until_ns:
            await asyncio.sleep(0.005)
        model.gate.set()
        assert isinstance(await alone.future, DeadlineExceeded)
        assert await ask(batcher, 5) == [10]
        assert batcher.waiting == 0

    play(scene, pace=pace)


@dataclass
class Waiting:
    future: asyncio.Future[list[float] | SkyriverError]
    until_ns: int


def ask_until(batcher: Batcher, value: float, until_ns: int) -> Waiting:
    future: asyncio.Future[list[float] | SkyriverError] = asyncio.get_running_loop().create_future()

    def answer(result: Tensors | SkyriverError) -> None:
        future.set_result(result if isinstance(result, SkyriverError) else result["y"].tolist())

    batcher.submit(Ask({"x": np.array([value], np.float32)}, answer, until_ns))
    return Waiting(future, until_ns)


def test_what_could_not_be_answered_in_time_is_refused_when_it_comes() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        taken = ask(batcher, 1), ask_until(batcher, 2, time.perf_counter_ns() + 100_000_000_000).future
        with pytest.raises(Unavailable, match="3 requests are ahead of it, too many to answer it in time"):
            ask_until(batcher, 3, time.perf_counter_ns() + 30_000_000_000)  # 3 rows ahead, of 10 s each
        with pytest.raises(Unavailable, match="3 requests are ahead of it"):
            batcher.check(time.perf_counter_ns() + 30_000_000_000)  # before it is read
        batcher.check(time.perf_counter_ns() + 40_000_000_000)
        batcher.check(NO_DEADLINE)
        model.gate.set()
        assert [await each for each in taken] == [[2], [4]]

    assert play(scene, pace=Pace(row_ns=10e9)).runs[0] == 1


class Timed(Doubler):
    """On a clock of its own, `time` for the batcher; what runs take is learned as a `Runner` learns it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fixed_ms: float, row_ms: float) -> None:
        super().__init__()
        self.fixed_ms, self.row_ms = fixed_ms, row_ms
        self.now_ns = 1_000_000_000
        self._row_us = self._least_us = 0.0
        monkeypatch.setattr(batching, "time", self)

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def run(self, inputs: Tensors) -> dict[str, Array]:
        self.now_ns += int(1e6 * (self.fixed_ms + self.row_ms * len(inputs["x"])))
        return super().run(inputs)

    note = Runner.note  # type: ignore[assignment]
    expected_us = Runner.expected_us  # type: ignore[assignment]

    def within(self, milliseconds: float) -> int:
        return self.now_ns + int(1e6 * milliseconds)


def test_who_has_less_time_than_a_row_ever_took_is_told_that_no_replica_answers_it_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Timed(monkeypatch, 0, 5_000)

    async def scene(_: Doubler, batcher: Batcher) -> None:
        assert await ask_until(batcher, 1, model.within(3_000)).future == [2], "none was run yet: only a run can show"
        with pytest.raises(DeadlineExceeded, match="The model takes 5 s for one row, and the request has 3 s") as told:
            ask_until(batcher, 2, model.within(3_000))
        assert "does not help" in told.value.next_action
        with pytest.raises(DeadlineExceeded, match="no replica answers it in time"):
            batcher.check(model.within(3_000))
        batcher.check(model.within(4_100))
        model.now_ns += 11_000_000_000
        assert await ask_until(batcher, 4, model.within(3_000)).future == [8], "it is tried again"

    play(scene, model, inline_us=1e12)


@pytest.mark.parametrize("lone", [True, False])
def test_full_runs_do_not_say_what_one_row_takes(monkeypatch: pytest.MonkeyPatch, lone: bool) -> None:
    model = Timed(monkeypatch, 10, 1)

    async def scene(_: Doubler, batcher: Batcher) -> None:
        if lone:
            assert await ask(batcher, 1) == [2]
        for _ in range(300):
            await asyncio.gather(*(ask(batcher, 1) for _ in range(64)))
        assert await ask_until(batcher, 3, model.within(12)).future == [6], "74 ms are for 64 rows: it takes 11"
        with pytest.raises(
            DeadlineExceeded, match=r"The model takes 0\.011 s for one row, and the request has 0\.008 s"
        ):
            ask_until(batcher, 3, model.within(8))

    play(scene, model, inline_us=1e12, max_rows=64)


def test_in_a_burst_who_would_wait_too_long_may_send_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Timed(monkeypatch, 10, 1)

    async def scene(_: Doubler, batcher: Batcher) -> None:
        for _ in range(300):
            burst = [ask(batcher, 1) for _ in range(128)]
            await asyncio.sleep(0)
            await asyncio.gather(*burst)
        waiting = [ask(batcher, 1) for _ in range(64)]
        with pytest.raises(Unavailable, match="64 requests are ahead of it, too many to answer it in time"):
            ask_until(batcher, 3, model.within(50))
        await asyncio.gather(*waiting)

    play(scene, model, inline_us=1e12, max_rows=64)


def test_a_row_that_was_slow_once_is_not_slow_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Timed(monkeypatch, 0, 15)

    async def scene(_: Doubler, batcher: Batcher) -> None:
        assert await ask(batcher, 1) == [2]
        model.row_ms = 150  # others have the machine
        for _ in range(300):
            await ask(batcher, 1)
        model.row_ms = 15
        assert await ask_until(batcher, 3, model.within(20)).future == [6]

    play(scene, model, inline_us=1e12)


def test_with_nobody_ahead_it_is_tried_whatever_the_pace_was() -> None:
    async def scene(model: Doubler, batcher: Batcher) -> None:
        for value in range(3):
            assert await ask_until(batcher, value, time.perf_counter_ns() + 9_000_000_000).future == [2 * value]

    play(scene, pace=Pace(row_ns=10e9))


def test_the_pace_is_learned_while_one_run_follows_another() -> None:
    pace = Pace()

    async def scene(model: Doubler, batcher: Batcher) -> None:
        assert await ask(batcher, 1) == [2]
        assert pace.row_ns == 0  # nobody waited
        await hold(model, batcher)
        waiting = [ask(batcher, value) for value in range(5)]
        begun = time.perf_counter_ns()
        model.gate.set()
        for each in waiting:
            await each
        assert 0 < pace.row_ns <= time.perf_counter_ns() - begun

    assert play(scene, Doubler(batching=False), pace=pace).runs == [1] * 7


def test_rows_that_went_are_ahead_of_nobody() -> None:
    pace = Pace()

    async def scene(model: Doubler, batcher: Batcher) -> None:
        await hold(model, batcher)
        late = ask_until(batcher, 1, time.perf_counter_ns() + SOON_NS)
        others = [ask(batcher, 2, 13), ask(batcher, 3)]
        while time.perf_counter_ns() < late.until_ns:
            await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(late.future, *others)
        pace.row_ns = 10e9  # with a single row ahead it would be refused
        assert await ask_until(batcher, 4, time.perf_counter_ns() + 9_000_000_000).future == [8]

    play(scene, pace=pace)
