"""A stretch of a stream's past: what is asked of it, its events, and what comes of deciding them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.data.columns import Bools, Column, Columns, Ints, join
from skyriver.decide.decision.choice import WantedModel
from skyriver.decide.log.blocks import DecisionBlock
from skyriver.decide.log.recorded import Recorded
from skyriver.decide.partition.windows import Floats
from skyriver.decide.rules.ruleset import RuleText
from skyriver.decide.streams.asking import DecisionBounds

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class AskedRules:
    rules: tuple[RuleText, ...]
    otherwise: str
    fallback: str
    bounds: DecisionBounds | None = None
    """None: as they were then."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Events with an effective time in [start, end); None: as it was used then."""

    start: int
    end: int
    model: WantedModel | None = None
    rules: AskedRules | None = None

    def inside(self, effective: Ints) -> Bools:
        found: Bools = (effective >= self.start) & (effective < self.end)
        return found

    @property
    def as_it_was(self) -> bool:
        return self.model is None and self.rules is None


@dataclass(frozen=True, slots=True)
class Events:
    """Of n events: offsets, effective times, fields; which came late."""

    offsets: Ints
    effective: Ints
    columns: Columns
    late: Bools

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, places: Ints) -> Events:
        return Events(self.offsets[places], self.effective[places], self.columns.take(places), self.late[places])


@dataclass(frozen=True, slots=True)
class DecidedAgain:
    """Events in the order in which they were decided. `then` is None in loaded history. `features` of those that are
    not late, by the set `digest`, which `spec` is; `comparable` bool [n]: not where the time caused what the
    record says, and another version is asked now."""

    events: Events
    then: Recorded | None
    now: DecisionBlock
    features: Floats | None
    digest: str
    spec: FeatureSetSpec | None
    comparable: Bools
    unasked: DecisionBlock | None = None
    """Of loaded history: by what decides at the log's end, where something else is asked for."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.spec.names if self.spec is not None else ()


@dataclass(slots=True)
class Counts:
    """`events` and rows of loaded `history` in the stretch, without those that were `erased`; of them `late`,
    `undecided` (no decision in the log), `cut` (their windows reach back to what the log has given up), `untold` (the
    log no longer tells what decided)."""

    events: int = 0
    history: int = 0
    erased: int = 0
    late: int = 0
    undecided: int = 0
    cut: int = 0
    recorded_features: int = 0
    """Not computed, for the log has given up what they look back to, but taken from the record."""
    untold: int = 0
    feature_sets: set[str] = field(default_factory=set)
    budgets_cut: int = 0
    """Held to budgets or counters, of which the log has not all decisions any more: given up, or erased, which
    count as they were made, but with other rules nobody can say what they would be."""
    lists_cut: int = 0
    """Decided by rules that read lists, of which the log may have given up rows."""


def joined(parts: Sequence[Events]) -> Events:
    return Events(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.effective for part in parts]),
        join([part.columns for part in parts]),
        np.concatenate([part.late for part in parts]),
    )


def columns_of(frame: pl.DataFrame, stream: StreamSpec) -> Columns:
    """The fields of rows of loaded history."""
    columns = []
    for own in stream.fields:
        series = frame[own.name]
        missing = series.is_null().to_numpy() if series.null_count() else None
        if own.type == "text":
            columns.append(Column("text", series.to_list(), missing))
            continue
        filler = float("nan") if own.type == "float" else False if own.type == "bool" else 0
        values = series.to_physical() if own.type == "time" else series
        columns.append(Column(own.type, values.fill_null(filler).to_numpy(), missing))
    return Columns(tuple(columns), frame.height)
