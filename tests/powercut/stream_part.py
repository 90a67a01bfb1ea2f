"""A stream under power cuts: its log with decisions, checkpoints, ids, the side log of its windows, its tables."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import worker_process as harness

from powercut.part import Say, Told, most, need, right
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.segments.layout import Durability
from skyriver.adapters.segments.log import SegmentLog, SegmentReader, open_log
from skyriver.core.units import SECOND
from skyriver.data import ids
from skyriver.data.materialise import materialise
from skyriver.decide import journal
from skyriver.decide.blocks import events_of
from skyriver.decide.border import EventBorder, LabelBorder
from skyriver.decide.deciding import Deciding
from skyriver.decide.engine import Engine
from skyriver.decide.opening import PartitionFiles
from skyriver.decide.rules import compile_rules
from skyriver.decide.verify import verify_stream
from skyriver.decide.windows import WindowsFiles
from skyriver.features import buffers

START = 1_700_000_000 * SECOND


class StreamPart:
    """Event n follows from n. Whatever the recovery took from checkpoints, the features of all decisions are those that
    a fold of the whole log gives; and the tables, once brought up to date, have what the log has."""

    def __init__(self, name: str, durability: Durability, kernels: Path) -> None:
        self.name = name
        self._kernels = kernels
        spec = harness.declare(durability)
        self._stream, self._features = spec.streams[0], spec.feature_sets[0]
        rules = [(rule.decision, rule.when) for rule in spec.decides[0].rules]
        self._deciding = Deciding(compile_rules(rules, "approve", "review", self._stream, self._features))
        # So small that a few events fill files.
        journal.FLUSH, ids.RECENT, ids.ON_DISK, buffers.RESERVE_BYTES = 24, 16, 32, 1 << 14

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        n = 0
        for life in range(4):
            station = _Station(self, root)
            for _ in range(luck.randrange(4, 14)):
                n = station.take(n, luck.randrange(1, 9), say)
                if luck.random() < 0.3:
                    station.label(luck.randrange(n), say)
                if luck.random() < 0.4:
                    station.checkpoint()
                if luck.random() < 0.1:
                    self._materialise(root, say)
            station.close(seal=bool(life % 2))

    def check(self, root: Path, told: Told, say: Say) -> None:
        station = _Station(self, root)
        try:
            n = self._look(station, told)
            if n:
                right(station.repeat(n - 1) == 1, f"event {n - 1}, sent again, is no duplicate")
            self._materialise(root, say, told)
            n = station.take(n, 7, say)
            station.checkpoint()
            n = station.take(n, 1, say)
        finally:
            station.close(seal=False)
        station = _Station(self, root)
        try:
            need(self._look(station, [("begin", n), ("events", n)]) == n, "it does not go on")
        finally:
            station.close(seal=True)

    def _materialise(self, root: Path, say: Say, told: Told = ()) -> None:
        reader, tables = SegmentReader(_place(root) / "log"), DeltaTables(root / "home" / "tables")
        known = {words[1]: words[2] for words in told if words[0] == "named"}
        made = materialise(self._stream, reader, tables, "acme", known, lambda *_: None, end=reader.sync())
        for name, version in made:
            say("named", name, version.version)
        name, version = made[0]
        rows = pl.concat(list(tables.scan(name, version.version, ["_offset", "payment"]))).rows()
        events = [
            (r.offset + place, values[0])
            for r in reader.read(end=version.offset + 1)
            for place, (_, values) in enumerate(events_of(r))
        ]
        right(
            rows == events,
            "the table of the events has other rows than the log",
        )

    def _look(self, station: _Station, told: Told) -> int:
        """How many events there are, each with its decision."""
        numbers = [values[0] for r in station.log.read() for _, values in events_of(r)]
        n = len(numbers)
        right(numbers == list(range(n)), "the events are not those that were sent, in their order")
        right(n <= most(told, "begin", 0), f"event {n - 1} was never sent")
        if self._stream.durability == "disk":
            need(n >= most(told, "events", 0), f"{most(told, 'events', 0)} events were acknowledged, {n} are there")
        right(station.engine.partition.counters.events == n, "the partition counts other events than its log has")
        found = verify_stream(station.log, self._stream, self._features, self._kernels, lambda *_: None)
        need(not found.undecided, f"{found.undecided} events have no decision")
        right(not found.decided_twice, f"{found.decided_twice} events are decided twice")
        right(not found.different, f"other features than the log gives: {found.first_differences}")
        return n


class _Clock:
    def __init__(self) -> None:
        self.now = START

    def wall(self) -> int:
        return self.now

    def monotonic(self) -> int:
        return self.now


class _Station:
    """One life of the partition's worker, without its process."""

    def __init__(self, part: StreamPart, root: Path) -> None:
        self._stream = part._stream
        place = _place(root)
        self.log: SegmentLog = open_log(
            place / "log", durability=self._stream.durability, segment_bytes=6_000, holder="examiner"
        )
        self._clock = _Clock()
        windows = WindowsFiles(self._stream, place / "side", part._kernels)
        self._files = PartitionFiles(self._stream, place, self.log, windows, self._clock, part._features)
        self.engine: Engine = self._files.open(lambda *_: part._deciding, lambda *_: None)

    def take(self, n: int, count: int, say: Say) -> int:
        say("begin", n + count)
        self._send(range(n, n + count))
        say("events", n + count)
        return n + count

    def repeat(self, n: int) -> int:
        return self._send(range(n, n + 1))

    def _send(self, numbers: range) -> int:
        self._clock.now = max(self._clock.now, START + numbers.stop * SECOND)
        rows = [_event(number) for number in numbers]
        (receipt,) = self.engine.take([EventBorder(self._stream).take(rows, self._clock.now, True)])
        return receipt.duplicates

    def label(self, n: int, say: Say) -> None:
        row = {"payment": n, "fraud": n % 2}
        self.engine.label([LabelBorder(self._stream).take([row], self._clock.now, self._clock.now)])
        self.log.sync()

    def checkpoint(self) -> None:
        self._files.save(self.engine)()
        self._files.written()

    def close(self, *, seal: bool) -> None:
        self._files.close()
        if seal:
            self.log.close()
        else:
            self.log.abandon()


def _place(root: Path) -> Path:
    return root / "home" / "streams" / "payments"


def _event(n: int) -> dict[str, object]:
    at = START + n * SECOND
    return {"payment": n, "at": at, "customer": n * 7 % 5, "channel": f"c{n % 3}", "amount": n * 13 % 997 / 4}
