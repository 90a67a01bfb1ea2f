"""The work of a look: what a stream decided of late with the version that serves, beside what that was trained on. What
was asked over HTTP is counted by replicas (`watch_requests.py`).

It reads what came since the look before, READ_OFFSETS of the log at most, and counts it into the bins of the version's
profile, by quarters of the window. Nothing else is kept of an event.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.data.decisions import Status
from skyriver.data.log import LogReader, RecordKind
from skyriver.data.profile import Counted, Profile, count
from skyriver.decide.log.blocks import DecisionBlock, decode_decisions
from skyriver.decide.log.records import DecisionRecord, decode_decision
from skyriver.observe.drift import compare, summary, too_soon
from skyriver.release.profiled import ModelProfile
from skyriver.wiring.logs import log_reader
from skyriver.wiring.tier import open_tier
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.watch_requests import look_at_requests

READ_OFFSETS: Final = 1_000_000
"""Of the log, each look: about half as many decisions. Of more the last ones are looked at."""
QUARTERS: Final = 4
SCORES: Final = "its score"
"""What the column of scores is called beside those of the features: none of them is called so."""
PART_ROWS: Final = 50_000

Rows = tuple[NDArray[np.float32], NDArray[np.float32], int]
"""Features [n, F], scores [n], when they were decided (wall microseconds)."""


def work(job: Job) -> dict[str, Any]:
    """Outputs: the version, `drift` as `observe.drift.summary` tells it, and what was counted, for the next look."""
    asked = job.inputs
    profile = columns_of(ModelProfile.parse(job.objects.get(asked["profile"])))
    if "stream" not in asked:
        return look_at_requests(asked, profile, time.time_ns() // 1_000)
    counted = Quarters(profile, int(asked["window_us"]) // QUARTERS, _before(asked))
    stream = job.app.stream(asked["stream"])
    with log_reader(
        stream, job.stream_directory(stream.name), job.home.root, job.tenant, open_tier(job.home)
    ) as reader:
        end = reader.next_offset
        start = max(counted.next_offset, end - READ_OFFSETS)
        for features, scores, at in _decided(reader, start, end, asked):
            counted.add(features, scores, at)
        counted.next_offset = end
    return told(asked, counted, time.time_ns() // 1_000)


def told(asked: Mapping[str, Any], counted: Quarters, now: int) -> dict[str, Any]:
    """Of what was counted by `now`."""
    window_us = int(asked["window_us"])
    counted.forget(now - window_us)
    whole = counted.since <= now - window_us
    drift = compare(counted.profile, counted.together()) if whole else too_soon(counted.rows)
    return {
        "version": asked["version"],
        "stream": asked["stream"],
        "at": now,
        "drift": summary(drift),
        "counted": {"version": asked["version"], "window_us": window_us, **counted.to_json()},
    }


def columns_of(profile: ModelProfile) -> Profile:
    """The features, and the scores behind them."""
    (score,) = profile.scores.columns
    columns = (*profile.inputs.columns, score.model_copy(update={"name": SCORES}))
    return profile.inputs.model_copy(update={"columns": columns})


def _before(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was counted before, if that was of the same version and window."""
    before: Mapping[str, Any] | None = asked.get("before")
    same = before is not None and all(before[what] == asked[what] for what in ("version", "window_us"))
    return before if same else None


class Quarters:
    """Rows in the bins of a profile, by the quarters of the window in which they were decided. `since`: from when on
    they were counted (wall microseconds)."""

    def __init__(self, profile: Profile, quarter_us: int, before: Mapping[str, Any] | None) -> None:
        self.profile, self._quarter_us = profile, max(1, quarter_us)
        self.next_offset = int(before["next_offset"]) if before else 0
        self.since = int(before["since"]) if before else 0
        self._counted: dict[int, list[Counted]] = {}
        for quarter, columns in before["quarters"] if before else ():
            self._counted[quarter] = [Counted(tuple(counts), missing, median) for counts, missing, median in columns]

    @property
    def rows(self) -> int:
        return sum(columns[-1].rows for columns in self._counted.values())

    def add(self, features: NDArray[np.float32], scores: NDArray[np.float32], at: int) -> None:
        columns = [*features.T, scores]
        found = [count(column, x) for column, x in zip(self.profile.columns, columns, strict=True)]
        quarter = at // self._quarter_us
        before = self._counted.get(quarter)
        self._counted[quarter] = [a + b for a, b in zip(before, found, strict=True)] if before else found
        self.since = min(self.since or at, at)

    def forget(self, until: int) -> None:
        """What was decided before."""
        self._counted = {q: columns for q, columns in self._counted.items() if (q + 1) * self._quarter_us > until}

    def together(self) -> dict[str, Counted]:
        names = [column.name for column in self.profile.columns]
        found: dict[str, Counted] = {}
        for columns in self._counted.values():
            for name, counted in zip(names, columns, strict=True):
                found[name] = found[name] + counted if name in found else counted
        return found

    def to_json(self) -> dict[str, Any]:
        quarters = [
            [quarter, [[list(c.counts), c.missing, c.median] for c in columns]]
            for quarter, columns in sorted(self._counted.items())
        ]
        return {"next_offset": self.next_offset, "since": self.since, "quarters": quarters}


def _decided(reader: LogReader, start: int, end: int, asked: Mapping[str, Any]) -> Iterator[Rows]:
    """By the version, from its features. What the log no longer holds is passed over."""
    singles: list[DecisionRecord] = []
    first, _ = reader.begin()
    for record in reader.read(max(start, first), end=end):
        if record.kind is RecordKind.DECISION:
            decision = decode_decision(record.payload)
            if (
                decision.status is Status.DECIDED
                and (decision.version, decision.features_digest) == (asked["version"], asked["features"])
                and decision.features
                and decision.score is not None
            ):
                singles.append(decision)
                if len(singles) >= PART_ROWS:
                    yield _of_singles(singles)
                    singles = []
        elif record.kind is RecordKind.DECISIONS:
            block = decode_decisions(record.payload, record.count)
            if (rows := _of_block(block, asked)) is not None:
                yield rows
    if singles:
        yield _of_singles(singles)


def _of_singles(decisions: list[DecisionRecord]) -> Rows:
    features = np.frombuffer(b"".join(d.features for d in decisions), "<f4").reshape(len(decisions), -1)
    return features, np.array([d.score for d in decisions], np.float32), decisions[-1].decided_at_us


def _of_block(block: DecisionBlock, asked: Mapping[str, Any]) -> Rows | None:
    mine = np.array(
        [
            o.status is Status.DECIDED and (o.version, o.features_digest) == (asked["version"], asked["features"])
            for o in block.outcomes
        ],
        np.bool_,
    )[block.codes]
    having = ~block.without if block.without is not None else np.ones(len(block), np.bool_)
    mine &= having & ~np.isnan(block.scores)
    return (block.features[mine[having]], block.scores[mine], block.decided_at_us) if mine.any() else None
