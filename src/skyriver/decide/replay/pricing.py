"""What decisions of many events would have cost, had their label been 1, and had it been 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import DecideSpec, FeatureSetSpec, StreamSpec
from skyriver.data.columns import Columns, Ints
from skyriver.decide.partition.windows import Floats
from skyriver.decide.rules.columns import Evaluate, Rows, compile_columns
from skyriver.decide.rules.costs import costs_of
from skyriver.decide.rules.ruleset import rules_of

Numbers = NDArray[np.float64]
Priced = Mapping[str, tuple[Numbers, Numbers]]
"""By decision: what each event costs with it where its label is 1, and where it is 0; NaN where that is not known."""


@dataclass(frozen=True, slots=True)
class _Parts:
    each: Evaluate
    positive: Evaluate
    negative: Evaluate


class Prices:
    """The costs that an application declares, for any set of features by which they can be computed."""

    def __init__(self, stream: StreamSpec, decide: DecideSpec) -> None:
        self._stream, self._decide = stream, decide
        self._compiled: dict[str, Mapping[str, _Parts]] = {}

    def of(self, digest: str, spec: FeatureSetSpec | None, columns: Columns, features: Floats | None) -> Priced:
        """Of events with these fields and features [n, F] (the set `digest`); none by features that the costs do not
        know."""
        if digest not in self._compiled:
            self._compiled[digest] = self._compile(spec)
        rows = Rows(np.full(len(columns), np.nan), features, columns)
        return {
            decision: (_numbers((parts.each, parts.positive), rows), _numbers((parts.each, parts.negative), rows))
            for decision, parts in self._compiled[digest].items()
        }

    def _compile(self, spec: FeatureSetSpec | None) -> Mapping[str, _Parts]:
        costs = self._decide.costs
        if costs is None:
            return {}
        try:
            found = costs_of(costs, rules_of(self._decide, self._stream, spec), self._stream, spec)
        except InvalidInput:  # it was deployed with other features than these
            return {}
        return {decision: _Parts(*map(compile_columns, cost.trees)) for decision, cost in found.items()}


def _numbers(parts: Sequence[Evaluate], rows: Rows) -> Numbers:
    """The sum of both."""
    total: Numbers = np.zeros(len(rows.columns))
    for part in parts:
        values, missing = part(rows)
        total = total + np.broadcast_to(np.asarray(values, np.float64), total.shape)
        if missing is not None:
            total[missing] = np.nan
    return total


def priced(prices: Priced, decisions: Sequence[str], codes: Ints) -> tuple[Numbers, Numbers]:
    """What events cost with the decisions that `codes` say (of `decisions`): where the label is 1, where it is 0."""
    found = (np.full(len(codes), np.nan), np.full(len(codes), np.nan))
    for code, decision in enumerate(decisions):
        rows = codes == code
        if decision in prices and rows.any():
            for into, values in zip(found, prices[decision], strict=True):
                into[rows] = values[rows]
    return found
