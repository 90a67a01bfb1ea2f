"""Cores that replicas take which are there whatever is asked of them, as measured: what a shared machine sets aside for
those of which nobody declared it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

UNDECLARED_CORES: Final = 1.0
"""Of a replica whose cores nobody declared, until they are measured. A row does not tell who declared just that."""
LEVEL_HALF_S: Final = 30.0
"""What a second took is no level yet: of a burst that ends sooner nothing is set aside."""
PEAK_HALF_S: Final = 600.0
"""What it took at the most counts half after so long: it may come again."""
MARGIN: Final = 1.25
"""As far as to a core: one that is busy all the time holds what it takes."""
STEP: Final = 0.05
"""What is set aside is a multiple of it, and this at least: grants do not move with each look."""


@dataclass(slots=True)
class _Seen:
    level: float
    peak: float
    second: float


class Usage:
    """Of services by tenant/name, each told of at its own looks. `peaks`: what `remember` gave."""

    def __init__(self, peaks: Mapping[str, float] | None = None) -> None:
        self._peaks = {name: float(peak) for name, peak in (peaks or {}).items() if 0 <= float(peak) < math.inf}
        self._seen: dict[str, _Seen] = {}

    def note(self, name: str, cores: float, second: float) -> None:
        """That the busiest of its replicas took since the last look; `second` is monotonic."""
        known = self._seen.get(name)
        if known is None:
            self._seen[name] = _Seen(cores, max(cores, self._peaks.pop(name, 0.0)), second)
            return
        passed = max(0.0, second - known.second)
        level = cores + (known.level - cores) * 0.5 ** (passed / LEVEL_HALF_S)
        self._seen[name] = _Seen(level, max(level, known.peak * 0.5 ** (passed / PEAK_HALF_S)), second)

    def held(self, name: str) -> float:
        """Cores to set aside for each of its replicas."""
        known = self._seen.get(name)
        peak = known.peak if known is not None else self._peaks.get(name)
        if peak is None:
            return UNDECLARED_CORES
        holds = max(peak, min(MARGIN * peak, UNDECLARED_CORES))
        return max(STEP, math.ceil(round(holds / STEP, 6)) * STEP)

    def keep(self, names: Iterable[str]) -> None:
        """Of others nothing is known any more."""
        there = set(names)
        self._seen = {name: seen for name, seen in self._seen.items() if name in there}
        self._peaks = {name: peak for name, peak in self._peaks.items() if name in there}

    def remember(self) -> dict[str, float]:
        """JSON."""
        return {**self._peaks, **{name: round(seen.peak, 3) for name, seen in self._seen.items()}}
