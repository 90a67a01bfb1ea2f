"""The work of a look: what a stream decided of late with the version that serves, beside what that was trained on. What
was asked over HTTP is counted by replicas (`watch_requests.py`).

It reads what came since the look before, READ_OFFSETS of the log at most, of more as much in PIECES that lie evenly
over it, so that neither a pause nor a busy day leaves a hole. Decisions are counted into the bins of the version's
profile, by quarters of the window and by places of the stream's key (`observe.window`). Nothing else is kept of an
event. What was counted is an object; the look after the next one deletes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import NotFound
from skyriver.core.spec import StreamSpec
from skyriver.data.columns import decode_events
from skyriver.data.decisions import Status
from skyriver.data.keys import key_of
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.data.profile import Profile
from skyriver.decide.log.blocks import DecisionBlock, decode_decisions
from skyriver.decide.log.records import DecisionRecord, decode_decision, decode_event
from skyriver.observe.drift import compare, summary, too_soon
from skyriver.observe.window import Window, places_of
from skyriver.release.profiled import ModelProfile
from skyriver.wiring.logs import log_reader
from skyriver.wiring.tier import open_tier
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.watch_requests import look_at_requests

READ_OFFSETS: Final = 1_000_000
"""Of the log, each look: about half as many decisions."""
PIECES: Final = 20
SCORES: Final = "its score"
"""What the column of scores is called beside those of the features: none of them is called so."""
PART_ROWS: Final = 50_000
SEEN_ALL: Final = 0.995

Rows = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], int]
"""Features [n, F], scores [n], places of keys [n], when they were decided (wall microseconds)."""


def work(job: Job) -> dict[str, Any]:
    """Outputs: the version, `drift` as `observe.drift.summary` tells it, and where what was counted is, for the next
    look."""
    asked = job.inputs
    profile = columns_of(ModelProfile.parse(job.objects.get(asked["profile"])))
    if "stream" not in asked:
        return look_at_requests(asked, profile, time.time_ns() // 1_000)
    window = _before(job, profile)
    stream = job.app.stream(asked["stream"])
    with log_reader(
        stream, job.stream_directory(stream.name), job.home.root, job.tenant, open_tier(job.home)
    ) as reader:
        read(window, reader, stream, asked)
    now = time.time_ns() // 1_000
    found = told(asked, window, now)
    kept = job.objects.put(window.to_bytes())
    before = asked.get("before") or {}
    for gone in (before.get("last"), None if _same(asked) else before.get("object")):
        if gone is not None and gone != kept:
            job.objects.delete(gone)
    last = before.get("object") if _same(asked) and before.get("object") != kept else None
    counted = {"version": asked["version"], "window_us": asked["window_us"], "object": kept, "last": last}
    return {**found, "counted": counted}


def read(window: Window, reader: LogReader, stream: StreamSpec, asked: Mapping[str, Any]) -> None:
    """Adds what the log has beyond the look before. What it no longer holds leaves a hole: a whole window begins anew.
    Of a version that is new here the last READ_OFFSETS are read."""
    (first, _), end = reader.begin(), reader.next_offset
    known = window.next_offset
    start = max(first, known or end - READ_OFFSETS)
    if known and first > known:
        window.since = 0
    before = start
    for piece_start, piece_end in pieces(start, end):
        at = 0
        for features, scores, places, at in _decided(reader, piece_start, piece_end, stream, asked):
            window.add(features, scores, places, at)
        window.looked(piece_end - before, piece_end - piece_start, at or time.time_ns() // 1_000)
        before = piece_end
    window.next_offset = end


def pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    """What is read of the offsets from `start` to `end`."""
    there = end - start
    if there <= READ_OFFSETS:
        yield start, end
        return
    for piece in range(1, PIECES + 1):
        last = start + there * piece // PIECES
        yield last - READ_OFFSETS // PIECES, last


def told(asked: Mapping[str, Any], window: Window, now: int) -> dict[str, Any]:
    """Of what was counted by `now`."""
    window_us = int(asked["window_us"])
    window.forget(now - window_us)
    whole = 0 < window.since <= now - window_us
    drift = compare(window.profile, window.together(), window.by_place()) if whole else too_soon(window.rows)
    found = summary(drift)
    if window.share < SEEN_ALL:
        found["message"] = f"{found['message']} Of what came in the window {window.share:.0%} was looked at, evenly."
    return {
        "version": asked["version"],
        "stream": asked["stream"],
        "at": now,
        "share": round(window.share, 4),
        "drift": found,
    }


def _same(asked: Mapping[str, Any]) -> bool:
    """Whether what was counted before is of the same version and window, and of this form."""
    before: Mapping[str, Any] | None = asked.get("before")
    return (
        before is not None
        and "object" in before
        and all(before[what] == asked[what] for what in ("version", "window_us"))
    )


def _before(job: Job, profile: Profile) -> Window:
    window_us = int(job.inputs["window_us"])
    if _same(job.inputs):
        # It is counted anew where somebody took the object away.
        with suppress(NotFound, ValueError):
            return Window.from_bytes(profile, window_us, job.objects.get(job.inputs["before"]["object"]))
    return Window(profile, window_us)


def columns_of(profile: ModelProfile) -> Profile:
    """The features, and the scores behind them."""
    (score,) = profile.scores.columns
    columns = (*profile.inputs.columns, score.model_copy(update={"name": SCORES}))
    return profile.inputs.model_copy(update={"columns": columns})


def _decided(reader: LogReader, start: int, end: int, stream: StreamSpec, asked: Mapping[str, Any]) -> Iterator[Rows]:
    """By the version, from its features."""
    singles: list[tuple[DecisionRecord, int]] = []
    keys = _Keys(stream)
    for record in reader.read(start, end=end):
        if record.offset < start:
            continue  # a block that begins before
        keys.see(record)
        if record.kind is RecordKind.DECISION:
            decision = decode_decision(record.payload)
            key = keys.of(decision.event_offset)
            if (
                decision.status is Status.DECIDED
                and (decision.version, decision.features_digest) == (asked["version"], asked["features"])
                and decision.features
                and decision.score is not None
            ):
                singles.append((decision, key))
                if len(singles) >= PART_ROWS:
                    yield _of_singles(singles)
                    singles = []
        elif record.kind is RecordKind.DECISIONS:
            block = decode_decisions(record.payload, record.count)
            if (rows := _of_block(block, asked, keys)) is not None:
                yield rows
    if singles:
        yield _of_singles(singles)


class _Keys:
    """The keys of events that were read, by their offsets. Decisions follow their events soon."""

    def __init__(self, stream: StreamSpec) -> None:
        self._place = [field.name for field in stream.fields].index(stream.key)
        self._singles: dict[int, int] = {}
        self._blocks: dict[int, NDArray[np.int64]] = {}

    def see(self, record: Record) -> None:
        if record.kind is RecordKind.EVENT:
            _, values = decode_event(record.payload)
            value = values[self._place]
            self._singles[record.offset] = key_of(value if isinstance(value, str) else int(value or 0))
        elif record.kind is RecordKind.EVENTS:
            self._blocks[record.offset] = decode_events(record.payload, record.count).columns.keys(self._place)

    def of(self, offset: int) -> int:
        """An event before what was read is a key of its own."""
        return self._singles.pop(offset, offset)

    def of_block(self, first: int, count: int) -> NDArray[np.int64]:
        own = self._blocks.pop(first, None)
        return own if own is not None and len(own) == count else np.arange(first, first + count)


def _of_singles(decided: list[tuple[DecisionRecord, int]]) -> Rows:
    features = np.frombuffer(b"".join(d.features for d, _ in decided), "<f4").reshape(len(decided), -1)
    scores = np.array([d.score for d, _ in decided], np.float32)
    return features, scores, places_of(np.array([key for _, key in decided], np.int64)), decided[-1][0].decided_at_us


def _of_block(block: DecisionBlock, asked: Mapping[str, Any], keys: _Keys) -> Rows | None:
    mine = np.array(
        [
            o.status is Status.DECIDED and (o.version, o.features_digest) == (asked["version"], asked["features"])
            for o in block.outcomes
        ],
        np.bool_,
    )[block.codes]
    having = ~block.without if block.without is not None else np.ones(len(block), np.bool_)
    mine &= having & ~np.isnan(block.scores)
    places = places_of(keys.of_block(block.first, len(block)))
    if not mine.any():
        return None
    return block.features[mine[having]], block.scores[mine], places[mine], block.decided_at_us
