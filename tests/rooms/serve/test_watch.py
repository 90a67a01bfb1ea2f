"""Runs without an end are ended, and no others."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import onnxruntime as ort
import pytest

from skyriver.core.errors import DeadlineExceeded
from skyriver.serve.watch import RunWatch


def obeys(options: ort.RunOptions) -> str:
    """A run that never ends by itself; it ends, with an error, when it is told to."""
    end = time.monotonic() + 60
    while not options.terminate:
        assert time.monotonic() < end
        time.sleep(0.005)
    raise RuntimeError("Exiting due to terminate flag being set to true")


def test_a_run_without_an_end_is_ended_and_the_next_one_is_not() -> None:
    watch = RunWatch(0.2)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded) as caught:
            watch.run(obeys)
        assert caught.value.code == "MODEL_TOO_SLOW"
        assert watch.run(lambda options: "done") == "done"


def test_an_error_of_the_run_itself_stays_what_it_is() -> None:
    def fails(options: ort.RunOptions) -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        RunWatch(60).run(fails)


def test_a_run_that_was_not_meant_is_made_again() -> None:
    """The order to end comes for the run before, in the moment in which this one begins."""
    runs: list[ort.RunOptions] = []

    def run(options: ort.RunOptions) -> str:
        runs.append(options)
        if len(runs) == 1:
            options.terminate = True
            raise RuntimeError("Exiting due to terminate flag being set to true")
        return "done"

    assert RunWatch(60).run(run) == "done"
    assert not runs[1].terminate


def test_nobody_looks_after_a_watch_that_is_gone() -> None:
    watch = RunWatch(0.1)
    watch.run(lambda options: None)
    (looking,) = (t for t in threading.enumerate() if t.name == "run watch" and t is watch._thread)
    gone = weakref.ref(watch)
    del watch
    gc.collect()
    looking.join(60)
    assert gone() is None
    assert not looking.is_alive()
