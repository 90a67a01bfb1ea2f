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
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.log.blocks import decisions_of, events_of
from skyriver.decide.partition import journal
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.kernel_windows import WindowsFiles, memory_windows
from skyriver.decide.partition.opening import PartitionFiles
from skyriver.decide.replay.verify import verify_stream
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.decide.worker.border import EventBorder, LabelBorder
from skyriver.features import buffers

START = 1_700_000_000 * SECOND


class StreamPart:
    """Event n follows from n. Whatever the recovery took from checkpoints, the features of all decisions are those that
    a fold of the whole log gives; and the tables, once brought up to date, have what the log has.

    With `retention` the log gives up all that a start from a checkpoint does not need, though its features look back
    to its very beginning: without a checkpoint it could not go on. Then it has no labels and no tables."""

    def __init__(self, name: str, durability: Durability, kernels: Path, *, retention: bool = False) -> None:
        self.name = name
        self._kernels = kernels
        self._retention = retention
        spec = harness.declare(durability)
        self._stream, self._features = spec.streams[0], spec.feature_sets[0]
        if retention:
            self._stream = self._stream.model_copy(update={"dedupe_us": 20 * SECOND})
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
                if luck.random() < 0.3 and not self._retention:
                    station.label(luck.randrange(n), say)
                if luck.random() < 0.4:
                    station.checkpoint()
                if luck.random() < 0.1 and not self._retention:
                    self._materialise(root, say)
            station.close(seal=bool(life % 2))

    def check(self, root: Path, told: Told, say: Say) -> None:
        station = _Station(self, root)
        try:
            n = self._look(station, told)
            if n:
                right(station.repeat(n - 1) == 1, f"event {n - 1}, sent again, is no duplicate")
            if not self._retention:
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
        first, _ = station.log.begin()
        numbers = [values[0] for r in station.log.read(first) for _, values in events_of(r)]
        begin = numbers[0] if numbers and first else 0
        n = begin + len(numbers)
        right(numbers == list(range(begin, n)), "the events are not those that were sent, in their order")
        right(n <= most(told, "begin", 0), f"event {n - 1} was never sent")
        if self._stream.durability == "disk":
            need(n >= most(told, "events", 0), f"{most(told, 'events', 0)} events were acknowledged, {n} are there")
        right(station.engine.partition.counters.events == n, "the partition counts other events than its log has")
        if self._retention:
            self._look_at_decisions(station, range(begin, n))
            return n
        found = verify_stream(station.log, self._stream, self._features, self._kernels, lambda *_: None)
        need(not found.undecided, f"{found.undecided} events have no decision")
        right(not found.decided_twice, f"{found.decided_twice} events are decided twice")
        right(not found.different, f"other features than the log gives: {found.first_differences}")
        return n

    def _look_at_decisions(self, station: _Station, events: range) -> None:
        """Each event has one, with the features that a fold of all events gives, those that were given up too."""
        first, _ = station.log.begin()
        found = [d for r in station.log.read(first) for d in decisions_of(r) if d.id in events]
        need([d.id for d in found] == list(events), "the events are not decided, each once")
        prepared = WindowsFiles(self._stream, Path(), self._kernels).prepare(self._features)
        windows = memory_windows(self._stream, prepared.plan, prepared.kernel)
        rows = [list(_event(n).values()) for n in range(events.stop)]
        times = [row[1] for row in rows]
        features = windows.fold_events(range(events.stop), times, rows)  # type: ignore[arg-type]
        windows.close()
        different = [d.id for d in found if d.features != features[d.id].tobytes()]  # type: ignore[call-overload]
        right(not different, f"other features than the events give: {different}")


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
        self._stream, self._part = part._stream, part
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
        if self._part._retention:  # what is decided with is told at the log's end, as the worker does
            self.engine.use(self._part._deciding)
            self.log.sync()
        self._files.save(self.engine)()
        self._files.written()
        if self._part._retention:
            self.log.remove_before(min(self._files.needed, self.engine.control_offset))

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
