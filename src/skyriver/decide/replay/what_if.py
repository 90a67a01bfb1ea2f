"""What a replay comes to: then against now, by decision, by segment, by what turned out to be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from skyriver.decide.replay.comparison import SHOWN

_MANY = 100_000
"""Groups that are gathered before they are put together."""
PARTS = ("live", "history")
_OUTCOME = ("live", "then", "now")
_COSTS = ("costed", "then_sum", "now_sum")
"""Of an event whose label and costs are known: 1, and what it cost with the decision of then, and of now."""


class Summary:
    """Frames of rows, as `Comparison` gives them with the label of each event, in; figures out. Small, whatever comes
    in. `then` of loaded history is what decides at the log's end, where something else is asked for, else nothing."""

    def __init__(self, by: Sequence[str], edges: Mapping[str, Sequence[float] | None]) -> None:
        """`edges`: between the bins of a field; none: by its values."""
        self._edges = {name: edges.get(name) for name in by}
        self._outcomes = _Groups((*_OUTCOME, "label"))
        self._segments = {name: _Groups((*_OUTCOME, "value")) for name in by}

    def add(self, rows: pl.DataFrame) -> None:
        """With the columns `then_cost` and `now_cost` where decisions have costs."""
        rows = rows.with_columns(live=~pl.col("history"))
        if "now_cost" in rows.columns:
            known = pl.col("now_cost").is_not_null() & (pl.col("then_cost").is_not_null() | pl.col("then").is_null())
            rows = rows.with_columns(
                costed=known, then_sum=pl.when(known).then("then_cost"), now_sum=pl.when(known).then("now_cost")
            )
        self._outcomes.add(rows)
        for name, groups in self._segments.items():
            edges, column = self._edges[name], pl.col(f"by_{name}")
            if edges is None:
                value = column.cast(pl.String)
            else:
                numbers = rows[f"by_{name}"].to_numpy()
                bins = pl.Series(np.searchsorted(np.array(edges), numbers, side="right"), dtype=pl.Int64)
                value = pl.when(column.is_not_null()).then(bins)
            costs = [name for name in _COSTS if name in rows.columns]
            groups.add(rows.select(*_OUTCOME, *costs, value=value))

    def to_json(self) -> dict[str, Any]:
        outcomes = self._outcomes.frame()
        found: dict[str, Any] = {}
        for part in PARTS:
            own = outcomes.filter(pl.col("live") == (part == "live"))
            found[part] = self._part(part, own) if own.height else None
        return found

    def _part(self, part: str, rows: pl.DataFrame) -> dict[str, Any]:
        cross = rows.group_by("then", "now").agg(pl.col("len").sum()).sort("then", "now")
        return {
            "events": int(rows["len"].sum()),
            "compared": not rows["then"].has_nulls(),
            "cross": [{"then": r["then"], "now": r["now"], "events": r["len"]} for r in cross.rows(named=True)],
            "labels": _labels(rows),
            "cost": _cost(rows),
            "segments": [
                {"by": name, "segments": self._told(groups.frame(), part, self._edges[name])}
                for name, groups in self._segments.items()
            ],
        }

    def _told(self, groups: pl.DataFrame, part: str, edges: Sequence[float] | None) -> list[dict[str, Any]]:
        """Bins in order; of values those of which most is changed, or in history those that are most frequent."""
        groups = groups.filter(pl.col("live") == (part == "live"))
        found = []
        for (value,), own in groups.group_by("value"):
            moves = own.filter(pl.col("then").ne_missing(pl.col("now"))).sort("len", descending=True)
            changed = int(moves["len"].sum()) if not own["then"].has_nulls() else 0
            found.append(
                {
                    **_segment(value, edges),
                    "events": int(own["len"].sum()),
                    "changed": changed,
                    "cost": _cost(own),
                    "moves": [
                        {"then": move["then"], "now": move["now"], "events": move["len"]}
                        for move in moves.head(SHOWN).rows(named=True)
                    ],
                    "_order": (-1 if value is None else value) if edges is not None else (-changed, str(value)),
                }
            )
        if edges is None and groups["then"].has_nulls():
            found.sort(key=lambda s: (-s["events"], str(s["value"])))
        else:
            found.sort(key=lambda s: s["_order"])
        return [{k: v for k, v in s.items() if k != "_order"} for s in (found if edges is not None else found[:SHOWN])]


class _Groups:
    """How many rows have each combination of the values of some columns."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._parts: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame) -> None:
        sums = [pl.col(name).sum() for name in _COSTS if name in rows.columns]
        self._parts.append(rows.group_by(self._columns).agg(pl.len(), *sums))
        if sum(part.height for part in self._parts) > _MANY and len(self._parts) > 1:
            self._parts = [self.frame()]

    def frame(self) -> pl.DataFrame:
        if not self._parts:
            return pl.DataFrame(
                schema={**dict.fromkeys(self._columns, pl.String), "live": pl.Boolean, "len": pl.UInt32}
            )
        parts = pl.concat(self._parts)
        return parts.group_by(self._columns).agg(pl.col("len", *(c for c in _COSTS if c in parts.columns)).sum())


def _segment(value: Any, edges: Sequence[float] | None) -> dict[str, Any]:
    """A value, or a bin from `low` (included) to `high`; None: missing, or without an end."""
    if edges is None:
        return {"value": value}
    if value is None:
        return {"low": None, "high": None, "missing": True}
    return {
        "low": edges[value - 1] if value else None,
        "high": edges[value] if value < len(edges) else None,
        "missing": False,
    }


def _cost(rows: pl.DataFrame) -> dict[str, Any] | None:
    """Of the events whose label and costs are known."""
    if "costed" not in rows.columns:
        return None
    then, now = float(rows["then_sum"].sum()), float(rows["now_sum"].sum())
    return {"events": int(rows["costed"].sum()), "then": None if rows["then"].has_nulls() else then, "now": now}


def _labels(rows: pl.DataFrame) -> dict[str, Any] | None:
    """Of each decision, then and now: of how many events the label is known, and of how many it is 1."""
    known = rows.filter(pl.col("label").is_not_null())
    if not known.height:
        return None
    positive = pl.col("len").filter(pl.col("label") > 0.5).sum()
    total = known.select(known=pl.col("len").sum(), positives=positive).row(0, named=True)
    by: dict[str, dict[str, Any]] = {}
    for when in ("then", "now"):
        for row in known.group_by(when).agg(known=pl.col("len").sum(), positives=positive).rows(named=True):
            if row[when] is not None:
                by.setdefault(row[when], {})[when] = _quality(row["known"], row["positives"], total["positives"])
    nothing = _quality(0, 0, total["positives"])
    decisions = [
        {"decision": decision, "then": own.get("then", nothing), "now": own.get("now", nothing)}
        for decision, own in sorted(by.items())
    ]
    return {"known": int(total["known"]), "positives": int(total["positives"]), "decisions": decisions}


def _quality(known: int, positives: int, all_positives: int) -> dict[str, Any]:
    """`precision`: the share of positives among those with this decision; `recall`: of all positives, those here."""
    return {
        "known": int(known),
        "positives": int(positives),
        "precision": positives / known if known else None,
        "recall": positives / all_positives if all_positives else None,
    }
