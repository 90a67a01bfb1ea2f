"""An end for runs that have none: a model may hold a loop that turns as often as a request says."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

import onnxruntime as ort

from skyriver.core.errors import DeadlineExceeded

Result = TypeVar("Result")


class RunWatch:
    """Ends a run after `limit_s`, within a tenth more. One run at a time; one thread that looks, from the first run
    on until nobody holds the watch any more."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._options = ort.RunOptions()
        self._begun_ns = 0
        """Of the run that is under way; 0: none is."""
        self._thread: threading.Thread | None = None

    def run(self, what: Callable[[ort.RunOptions], Result]) -> Result:
        """Raises DeadlineExceeded (MODEL_TOO_SLOW) when `what` was ended."""
        if self._thread is None:
            self._thread = threading.Thread(target=_look, args=(weakref.ref(self),), name="run watch", daemon=True)
            self._thread.start()
        while True:
            options = self._options
            begun = self._begun_ns = time.perf_counter_ns()
            try:
                return what(options)
            except Exception:
                if not options.terminate:
                    raise
                self._options = ort.RunOptions()
                if time.perf_counter_ns() - begun >= self.limit_s * 1e9:
                    break
                # else the run before was meant, which ended in the same moment: this one is made again
            finally:
                self._begun_ns = 0
        raise DeadlineExceeded(
            f"The model ran for {self.limit_s:g} s on this input, and was ended.",
            code="MODEL_TOO_SLOW",
            next_action="Check what in the input says how often a loop of the model turns; ask for fewer rows.",
        )

    def look(self) -> None:
        begun, options = self._begun_ns, self._options
        if begun and time.perf_counter_ns() - begun >= self.limit_s * 1e9:
            options.terminate = True


def _look(reference: weakref.ref[RunWatch]) -> None:
    while True:
        watch = reference()
        if watch is None:
            return
        watch.look()
        pause = min(1.0, watch.limit_s / 10)
        del watch
        time.sleep(pause)
