"""What a training's own steps take, measured while they are done: none is done for it alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import Final

import torch
from torch.distributed import HashStore, PrefixStore, ProcessGroupGloo

from skyriver.train.spread.pays import Timed

MEASURE_S: Final = 0.5
"""Of a setting; the first step, which warms caches and pools of threads, does not count."""
LEAST_STEPS: Final = 3
LONG_S: Final = 5.0
"""Or so many seconds of steps, where steps are long: one is enough then, the first one too."""
PAIR_BYTES: Final = 32 << 20
"""Of a larger gradient so much is summed, and the rest reckoned: it takes memory twice."""
PAIR_CALLS: Final = 5
PAIR_S: Final = 10.0
_LAPS: Final = ("passes", "load", "reduce", "update")


@dataclass(slots=True)
class Stopwatch:
    """Of the steps of one setting: `start`, then `lap(what)` for the time since the last of these, then `step`."""

    _at: float = 0.0
    _now: dict[str, float] = field(default_factory=dict)
    _steps: list[dict[str, float]] = field(default_factory=list)

    def begin(self) -> None:
        """Another setting."""
        self._steps = []

    def start(self) -> None:
        self._at, self._now = time.monotonic(), dict.fromkeys(_LAPS, 0.0)

    def lap(self, what: str) -> None:
        now = time.monotonic()
        self._now[what] += now - self._at
        self._at = now

    def step(self) -> None:
        self._steps.append(self._now)

    def found(self, fetch_s: float, ahead: bool) -> Timed | None:
        """Once there is enough: medians, which a step with more to do (a validation) does not change."""
        whole = [sum(each.values()) for each in self._steps]
        if sum(whole) >= LONG_S:
            counted: Sequence[dict[str, float]] = self._steps[1:] or self._steps
        elif len(whole) > LEAST_STEPS and sum(whole[1:]) >= MEASURE_S:
            counted = self._steps[1:]
        else:
            return None
        step = median(sum(each.values()) for each in counted)
        load, reduce, update = (median(each[name] for each in counted) for name in ("load", "reduce", "update"))
        return Timed(max(0.0, step - load - reduce - update), update, reduce, load, fetch_s, ahead)


def pair_seconds(size: int, dtype: torch.dtype) -> float:
    """That two workers of this machine take to sum a vector of so many numbers, as their backend does it: two threads
    of this process are its ends. 0, where they cannot be connected: the law then promises too much, and more workers
    are tried."""
    store, took = HashStore(), list[float]()
    some = max(1, min(size, PAIR_BYTES // torch.empty(0, dtype=dtype).element_size()))

    def end(rank: int) -> None:
        with suppress(RuntimeError):  # all that the backend throws
            group = ProcessGroupGloo(PrefixStore("pair", store), rank, 2, timedelta(seconds=PAIR_S))
            vector = torch.zeros(some, dtype=dtype)
            for _ in range(PAIR_CALLS):
                begun = time.monotonic()
                group.allreduce([vector]).wait()
                if rank == 0:
                    took.append(time.monotonic() - begun)

    other = threading.Thread(target=end, args=(1,))
    other.start()
    end(0)
    other.join()
    return float(median(took) * size / some) if len(took) == PAIR_CALLS else 0.0
