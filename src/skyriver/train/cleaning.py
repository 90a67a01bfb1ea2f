"""Cleaning that is fitted: what to fill with, where to clip, by what to scale. It belongs to the model version.

It is fitted on the training rows alone, acts after the features and travels inside the ONNX graph (DESIGN 6.3): whoever
has the model cleans as the training did, be it a replica, a stream or a backfill. Cleaning is float32 throughout and
element by element, in NumPy and in ONNX alike, so both give the same numbers, to the last bit (only the sign of a zero
may get lost in ONNX Runtime, which no comparison sees).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from skyriver.core.spec import CleanSpec

Floats = NDArray[np.float32]
INPUT, CLEANED = "features", "cleaned"


@dataclass(frozen=True, slots=True)
class Cleaning:
    """A value a feature each, float32 [F]; None for a step that is not done. The steps are done in this order."""

    low: Floats | None = None
    high: Floats | None = None
    fill: Floats | None = None
    mean: Floats | None = None
    deviation: Floats | None = None

    def apply(self, x: Floats) -> Floats:
        """`x` float32 [n, F], missing is NaN; a copy where there is something to do."""
        if self.low is not None:
            x = np.where(x < self.low, self.low, x)
        if self.high is not None:
            x = np.where(x > self.high, self.high, x)
        if self.fill is not None:
            x = np.where(np.isnan(x), self.fill, x)
        if self.mean is not None and self.deviation is not None:
            x = (x - self.mean) / self.deviation
        return x

    def before(self, model: bytes) -> bytes:
        """The ONNX `model` with these steps before it; it takes raw features then."""
        steps = list(self._steps())
        if not steps:
            return model
        found = onnx.load_from_string(model)
        graph = found.graph
        for node in graph.node:
            node.input[:] = [CLEANED if name == INPUT else name for name in node.input]
        nodes, source = [], INPUT
        for place, (name, kind, constant) in enumerate(steps):
            target = CLEANED if place == len(steps) - 1 else f"after_{name}"
            graph.initializer.append(numpy_helper.from_array(constant, name))
            nodes += _nodes(kind, source, name, target)
            source = target
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *rest])
        onnx.checker.check_model(found)
        data: bytes = found.SerializeToString(deterministic=True)
        return data

    def _steps(self) -> Any:
        """(name, operator, constant) of each."""
        if self.low is not None:
            yield "low", "Less", self.low
        if self.high is not None:
            yield "high", "Greater", self.high
        if self.fill is not None:
            yield "fill", "IsNaN", self.fill
        if self.mean is not None and self.deviation is not None:
            yield "mean", "Sub", self.mean
            yield "deviation", "Div", self.deviation


def _nodes(kind: str, source: str, constant: str, target: str) -> list[Any]:
    if kind in ("Sub", "Div"):
        return [helper.make_node(kind, [source, constant], [target])]
    inputs = [source] if kind == "IsNaN" else [source, constant]
    return [
        helper.make_node(kind, inputs, [f"where_{constant}"]),
        helper.make_node("Where", [f"where_{constant}", constant, source], [target]),
    ]


def fit_cleaning(spec: CleanSpec | None, x: Floats) -> Cleaning:
    """Fitted on the training rows `x` float32 [n, F]. A feature that is missing in all of them is filled with 0 and
    neither clipped nor scaled."""
    if spec is None or not len(x):
        return Cleaning()
    low = high = fill = mean = deviation = None
    if spec.clip is not None:
        low, high = (by_column(x, lambda c, q=share: np.quantile(c, q), -np.inf if n == 0 else np.inf)
                     for n, share in enumerate(spec.clip))  # fmt: skip
    clipped = Cleaning(low, high)
    if spec.fill is not None:
        middle = np.median if spec.fill == "median" else np.mean
        fill = by_column(clipped.apply(x), lambda c: middle(c), 0.0)
    if spec.scale:
        whole = Cleaning(low, high, fill).apply(x)
        mean = by_column(whole, lambda c: np.mean(c), 0.0)
        deviation = by_column(whole, lambda c: np.std(c) or 1.0, 1.0)
    return Cleaning(low, high, fill, mean, deviation)


def by_column(x: Floats, measure: Any, otherwise: float) -> Floats:
    """Of the values of each column that are there, in float64."""
    found = np.full(x.shape[1], otherwise, np.float32)
    for place in range(x.shape[1]):
        column = x[:, place].astype(np.float64)
        there = column[~np.isnan(column)]
        if len(there):
            found[place] = measure(there)
    return found
