"""Features of a stream as of what was folded last, read without folding.

reader = load_reader(plan, cache)
reader.read(state, columns, keys, known, out)      # changes nothing of `state`
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from skyriver.core.errors import Internal
from skyriver.features.kernel import Function, load_functions
from skyriver.features.plan import FeaturePlan
from skyriver.features.read_source import read_source
from skyriver.features.state import FeatureState, Ints


class Reader:
    """Reads states of `plan`: each feature as an event at `state.now` with the same fields would find it, without
    counting that event. Not while the state is folding: the thread that folds reads."""

    def __init__(self, plan: FeaturePlan, function: Function) -> None:
        self.plan = plan
        self._function = function
        self._no_exact = np.empty((0, len(plan.names)), np.float64)

    def read(
        self,
        state: FeatureState,
        columns: Mapping[str, NDArray[np.float64] | Ints],
        keys: Mapping[str, Ints],
        known: NDArray[np.bool_],
        out: NDArray[np.float32],
        exact: NDArray[np.float64] | None = None,
    ) -> None:
        """`columns` are those of the plan's number fields, float64 [n], missing NaN, and of its time fields, int64 [n],
        missing INT64_MIN; `keys` int64 [n] those of its key columns. Row i of `out` float32 [n, features] gets the
        features that are asked for in place i, and `exact` float64, if given, the same before rounding. `known` bool
        [key tables, n] gets, by the plan's key tables, whether the key has an event in some window; one that has none
        has the features of a key that was never seen."""
        if state.plan.digest != self.plan.digest:
            raise Internal("The reader is of other features than the state.")
        n, wide = len(out), len(self.plan.names)
        values, times, stacked_keys = state.stacked(columns, keys, n)
        exact = self._no_exact if exact is None else exact
        right = out.shape == (n, wide) and known.shape == (len(self.plan.keys), n)
        if not right or exact.shape not in ((0, wide), (n, wide)):  # the kernel trusts lengths
            raise Internal(f"There is no room for {n} times {wide} features.")
        meta, arrays = state.held
        self._function(values, times, stacked_keys, meta, known, out, exact, *arrays)


def load_reader(plan: FeaturePlan, cache_dir: Path) -> Reader:
    """Compiled into `cache_dir` first if it is not there. Raises Unavailable (KERNEL_CACHE)."""
    made, _ = load_functions(read_source(plan).encode(), {"read": _signature(plan)}, cache_dir / plan.digest)
    return Reader(plan, made["read"])


def _signature(plan: FeaturePlan) -> tuple[Any, ...]:
    def read(kind: Any, dimensions: int) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    words, meta, index = read(types.int64, 2), read(types.int64, 1), read(types.int32, 1)
    asked = (read(types.float64, 2), words, words)
    outputs = (types.boolean[:, ::1], types.float32[:, ::1], types.float64[:, ::1])
    nodes = (words,) if plan.trails else ()
    tables, references = [index, words] * len(plan.keys), [index, words] * len(plan.references)
    return (*asked, meta, *outputs, *tables, *nodes, *references)
