"""What was decided again, held against what was decided then: counts, and a row an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl

from skyriver.core.spec import StreamSpec
from skyriver.data.border_frame import schema_of
from skyriver.data.columns import Bools, Column
from skyriver.data.decisions import Outcome
from skyriver.decide.log.blocks import DecisionBlock
from skyriver.decide.log.recorded import Recorded, of_outcomes
from skyriver.decide.partition.sorting import place_of
from skyriver.decide.partition.windows import Floats
from skyriver.decide.replay.pricing import Prices, priced
from skyriver.decide.replay.stretch import DecidedAgain

SHOWN = 10
SAMPLE = 1_000_000
"""Values of a field at most that its bins are chosen by."""


@dataclass(frozen=True, slots=True)
class Changed:
    """An event that is decided otherwise now; scores are None where there was none. It is named by its offset alone: a
    summary stays when its subject is erased, rows do not."""

    offset: int
    then: str
    now: str
    then_score: float | None
    now_score: float | None


@dataclass(slots=True)
class Tally:
    """`compared` with a decision of then, of which `changed` have another decision now. `differences`: how many have
    another value of each field of the record, to the bit. `by_time`: of those that cannot be compared, why."""

    compared: int = 0
    changed: int = 0
    different: int = 0
    """In any field."""
    differences: Counter[str] = field(default_factory=Counter)
    by_time: Counter[str] = field(default_factory=Counter)
    first_changed: list[Changed] = field(default_factory=list)
    first_different: list[int] = field(default_factory=list)
    """Offsets."""

    def to_json(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in ("compared", "changed", "different", "first_different")}
        counted = {name: dict(+getattr(self, name)) for name in ("differences", "by_time")}
        return {**found, **counted, "first_changed": [asdict(each) for each in self.first_changed]}


class Sample:
    """Every n-th of a row of numbers, so that they are never more than SAMPLE."""

    def __init__(self, limit: int = SAMPLE) -> None:
        self._limit, self._step, self._skip = limit, 1, 0
        self._parts: list[np.ndarray] = []
        self._count = 0

    def add(self, values: np.ndarray) -> None:
        taken = values[self._skip :: self._step]
        self._skip = (self._skip - len(values)) % self._step
        self._parts.append(taken[~np.isnan(taken)])
        self._count += len(self._parts[-1])
        while self._count > self._limit:
            kept = self.values[::2]
            self._parts, self._count = [kept], len(kept)
            self._step *= 2

    @property
    def values(self) -> np.ndarray:
        return np.concatenate([np.empty(0), *self._parts])

    def edges(self, bins: int = SHOWN) -> list[float] | None:
        """Between bins of as many values each, as far as these differ; None where there are so few that each is one."""
        values = self.values
        if len(np.unique(values)) <= bins:
            return None
        found = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
        return [float(edge) for edge in found if edge > values.min()]


class Comparison:
    """Told what was decided again, it counts, and gives a frame with a row for each event to `keep`, in order."""

    def __init__(
        self,
        stream: StreamSpec,
        by: Sequence[str],
        keep: Callable[[pl.DataFrame], None],
        prices: Prices | None = None,
    ) -> None:
        """`by`: fields of the stream, or features, by which changes are told. `prices`: where decisions have costs."""
        self._stream, self._keep, self._prices = stream, keep, prices
        self._id, self._key, self._time = (place_of(stream, name) for name in (stream.id, stream.key, stream.time))
        self._fields = {f.name: (place, f.type) for place, f in enumerate(stream.fields)}
        self._schema = schema_of(stream.fields)
        self._by = tuple(by)
        self.tally = Tally()
        self.samples = {name: Sample() for name in by if name not in self._fields or self._fields[name][1] == "float"}

    def __call__(self, again: DecidedAgain) -> None:
        if again.then is not None:
            self._count(again, again.then)
        self._keep(self._frame(again))

    def _count(self, again: DecidedAgain, then: Recorded) -> None:
        tally, now = self.tally, again.now
        tally.compared += len(then)
        for outcome, count in _counts(then, ~again.comparable):
            tally.by_time[outcome.reason.value] += count
        different = _other_numbers(then.scores, now.scores)
        tally.differences["score"] += int(np.count_nonzero(different))
        nothing = np.full(len(then), np.nan, np.float32)
        others = _other_numbers(then.probabilities, now.probabilities if now.probabilities is not None else nothing)
        tally.differences["probability"] += int(np.count_nonzero(others))
        different |= others
        vectors = _other_features(again, then)
        tally.differences["features"] += int(np.count_nonzero(vectors))
        different |= vectors
        pairs = then.codes * len(now.outcomes) + now.codes
        changed = np.zeros(len(then), np.bool_)
        for pair, count in zip(*map(np.ndarray.tolist, np.unique(pairs, return_counts=True)), strict=True):
            one, other = then.outcomes[pair // len(now.outcomes)], now.outcomes[pair % len(now.outcomes)]
            if one == other:
                continue
            rows = pairs == pair
            different |= rows
            for name in Outcome.__struct_fields__:
                if getattr(one, name) != getattr(other, name):
                    tally.differences[name] += count
            if one.decision != other.decision:
                changed |= rows
        tally.changed += int(np.count_nonzero(changed))
        tally.different += int(np.count_nonzero(different))
        for place in np.flatnonzero(changed)[: SHOWN - len(tally.first_changed)].tolist():
            tally.first_changed.append(_changed(again, then, place))
        for place in np.flatnonzero(different)[: SHOWN - len(tally.first_different)].tolist():
            tally.first_different.append(int(again.events.offsets[place]))

    def _frame(self, again: DecidedAgain) -> pl.DataFrame:
        events, now = again.events, again.now
        then = again.then if again.then is not None else again.unasked
        columns = events.columns.columns
        n = len(events)
        found = {
            "event_offset": pl.Series(events.offsets, dtype=pl.Int64),
            "id": self._series(self._stream.id, columns[self._id]),
            "key": self._series(self._stream.key, columns[self._key]),
            "time": self._series(self._stream.time, columns[self._time]).cast(pl.Datetime("us", "UTC")),
            **_told("then", then, then.scores if then is not None else None, n),
            **_told("now", now, now.scores, n),
            "comparable": pl.Series(again.comparable),
            "history": pl.Series(np.full(n, again.then is None)),
            "_effective": pl.Series(events.effective, dtype=pl.Int64),
            **self._costs(again),
        }
        for name in self._by:
            values = self._of(name, again)
            if name in self.samples:
                self.samples[name].add(values.cast(pl.Float64).fill_null(float("nan")).to_numpy())
            found[f"by_{name}"] = values
        return pl.DataFrame(found)

    def _costs(self, again: DecidedAgain) -> dict[str, pl.Series]:
        """Of the decisions then and now, where the label is 1 and where it is 0."""
        if self._prices is None:
            return {}
        features, late = again.features, again.events.late
        if features is not None and late.any():
            spread = np.full((len(late), features.shape[1]), np.nan, np.float32)
            spread[~late] = features
            features = spread
        prices = self._prices.of(again.digest, again.spec, again.events.columns, features)
        found = {}
        for when, told in (("then", again.then if again.then is not None else again.unasked), ("now", again.now)):
            costs: Sequence[np.ndarray] = [np.full(len(late), np.nan)] * 2
            if told is not None:
                decisions = [outcome.decision for outcome in told.outcomes]
                costs = priced(prices, decisions, told.codes.astype(np.int64))
            for label, values in zip((1, 0), costs, strict=True):
                found[f"_{when}_cost_{label}"] = pl.Series(values).fill_nan(None)
        return found

    def _series(self, name: str, column: Column) -> pl.Series:
        if isinstance(column.values, list):
            return pl.Series(column.values, dtype=pl.String)
        values = pl.Series(column.values).cast(self._schema[name])
        if column.missing is None:
            return values
        return pl.select(pl.when(~pl.Series(column.missing)).then(values)).to_series()

    def _of(self, name: str, again: DecidedAgain) -> pl.Series:
        if name in self._fields:
            return self._series(name, again.events.columns.columns[self._fields[name][0]])
        values = np.full(len(again.events), np.nan)
        if again.features is not None and name in again.names:
            values[~again.events.late] = again.features[:, again.names.index(name)]
        return pl.Series(values).fill_nan(None)


def _other_numbers(then: Floats, now: Floats) -> Bools:
    found: Bools = (then.view(np.uint32) != now.view(np.uint32)) & ~(np.isnan(then) & np.isnan(now))
    return found


def _other_features(again: DecidedAgain, then: Recorded) -> Bools:
    """Of which the record has other values of the same features."""
    found = np.zeros(len(then), np.bool_)
    if again.features is None:
        return found
    same = then.having & of_outcomes(then, [o.features_digest == again.digest for o in then.outcomes])
    same &= ~again.events.late
    if not same.any():
        return found
    row, own = np.cumsum(then.having) - 1, np.cumsum(~again.events.late) - 1
    one, other = then.features[row[same]], again.features[own[same]]
    found[same] = (one.view(np.uint32) != np.ascontiguousarray(other).view(np.uint32)).any(axis=1)
    return found


def _counts(then: Recorded, rows: Bools) -> list[tuple[Outcome, int]]:
    if not rows.any():
        return []
    return list(zip(then.outcomes, np.bincount(then.codes[rows], minlength=len(then.outcomes)).tolist(), strict=True))


def _told(what: str, told: Recorded | DecisionBlock | None, scores: Floats | None, n: int) -> dict[str, pl.Series]:
    """Columns `what`, `what`_rule, `what`_reason, `what`_version and `what`_score."""
    if told is None or scores is None:
        texts = {f"{what}{part}": pl.Series([None] * n, dtype=pl.String) for part in ("", "_rule", "_reason")}
        nothing = {f"{what}_version": pl.Int64, f"{what}_score": pl.Float32}
        return texts | {name: pl.Series([None] * n, dtype=dtype) for name, dtype in nothing.items()}
    codes = pl.Series(told.codes.astype(np.uint32))

    def each(values: list[str] | list[int]) -> pl.Series:
        return pl.Series(values).gather(codes)

    return {
        what: each([outcome.decision for outcome in told.outcomes]),
        f"{what}_rule": each([outcome.rule for outcome in told.outcomes]),
        f"{what}_reason": each([outcome.reason.value for outcome in told.outcomes]),
        f"{what}_version": each([outcome.version for outcome in told.outcomes]),
        f"{what}_score": pl.Series(scores).fill_nan(None),
    }


def _changed(again: DecidedAgain, then: Recorded, place: int) -> Changed:
    now = again.now
    return Changed(
        int(again.events.offsets[place]),
        then.outcomes[then.codes[place]].decision,
        now.outcomes[now.codes[place]].decision,
        _score(then.scores[place]),
        _score(now.scores[place]),
    )


def _score(score: np.float32) -> float | None:
    return None if np.isnan(score) else float(score)
