"""The feature kernel alone: no log, no border, no model; columns in memory in, features out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from _payments import FULL_WINDOWS_DAYS, plan_of

from skyriver.core.spec import AppSpec
from skyriver.data.log import RecordKind
from skyriver.features.kernel import load_kernel
from skyriver.features.side import memory_side
from skyriver.features.state import EventBatch, FeatureState

RELEASE_RECORDS = 65_536
"""After so many the rows that no window needs any more are given back, as a worker does with each checkpoint."""


@dataclass(frozen=True, slots=True)
class KernelFigures:
    """Of the events after all windows are full."""

    events: int
    cpu_seconds: float
    keys: int
    bytes_a_key: float

    @property
    def rate(self) -> float:
        """Events per CPU second."""
        return self.events / self.cpu_seconds


def batches(payments: pl.DataFrame, size: int) -> Iterator[EventBatch]:
    """`size` records each: the events, and each fraud's label right behind its event."""
    fraud = payments["fraud"].to_numpy()
    count = len(payments)
    event_at = np.arange(count) + np.concatenate([[0], np.cumsum(fraud)[:-1]])
    label_at = event_at[fraud == 1] + 1
    total = count + len(label_at)
    kind = np.full(total, RecordKind.EVENT, np.uint8)
    kind[label_at] = RecordKind.LABEL
    rows = np.zeros(total, np.int64)
    rows[label_at] = np.flatnonzero(fraud)

    def column(name: str, dtype: type) -> np.ndarray:
        found = np.zeros(total, dtype)
        found[event_at] = payments[name].to_numpy()
        return found

    at, amount = column("at", np.int64), column("amount", np.float64)
    customer, terminal = column("customer", np.int64), column("terminal", np.int64)
    offset, ones = np.arange(total, dtype=np.int64), np.ones(size)
    for start in range(0, total, size):
        part = slice(start, min(start + size, total))
        length = part.stop - part.start
        yield EventBatch(
            kind=kind[part],
            effective=at[part],
            offset=offset[part],
            columns={"amount": amount[part]},
            keys={"customer": customer[part], "terminal": terminal[part]},
            subject_row=rows[part],
            label=np.zeros(length, np.uint8),
            value=ones[:length],
        )


def measure(app: AppSpec, payments: pl.DataFrame, kernels: Path, size: int) -> KernelFigures:
    plan = plan_of(app)
    state = FeatureState(plan, memory_side(plan), load_kernel(plan, kernels))
    out = np.empty((size, len(plan.names)), np.float32)
    full = int(payments["at"][0]) + FULL_WINDOWS_DAYS * 86_400_000_000
    events, seconds = 0, 0.0
    for number, batch in enumerate(batches(payments, size)):
        before = time.process_time()
        found = state.fold(batch, out)
        if number % (RELEASE_RECORDS // size) == 0:
            state.side.release(state.mark())
        spent = time.process_time() - before
        if batch.effective[0] >= full:
            events, seconds = events + found, seconds + spent
    active = sum(state.active_keys.values())
    state.side.close()
    return KernelFigures(events, seconds, active, state.memory_bytes / active)
