"""The other scalers with their defaults, and with the settings among which hindsight may choose, one lane each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from _elastic_peers import Fixed, Hpa, HpaSetting, Keda, KedaSetting, Kpa, KpaSetting, RayServe, ServeSetting
from _elastic_world import Scaler, Trace

TARGETS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
WINDOWS_S, HOLDS_S = (30, 60, 120), (60, 300, 900)


@dataclass(frozen=True, slots=True)
class System:
    """`settings`: of a trace; the first is the default."""

    name: str
    settings: Callable[[Trace], Sequence[Any]]
    scaler: Callable[[Sequence[Any]], Scaler]


def _sizes(trace: Trace) -> list[int]:
    return [Fixed.peak(trace), *range(1, int(np.ceil(trace.work.max())) + 1)]


HPA = [HpaSetting(), *(HpaSetting(target, hold) for target, hold in product(TARGETS, HOLDS_S))]
KEDA = [KedaSetting(), *(KedaSetting(*each) for each in product(TARGETS, HOLDS_S, WINDOWS_S))]
KPA = [KpaSetting(), *(KpaSetting(*each) for each in product(TARGETS, (30, 60, 180), (0, 300, 900)))]
SERVE = [
    ServeSetting(),
    *(ServeSetting(5 * target, 30, up, down) for target, up, down in product(TARGETS, (0, 10, 30), HOLDS_S)),
]
SYSTEMS = (
    System("fixed peak", _sizes, Fixed),
    System("hpa", lambda _: HPA, Hpa),
    System("keda", lambda _: KEDA, Keda),
    System("knative", lambda _: KPA, Kpa),
    System("ray serve", lambda _: SERVE, RayServe),
)
