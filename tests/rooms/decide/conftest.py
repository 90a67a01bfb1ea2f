"""A partition in memory: the log's twin, and fakes for windows, ids, the model and the clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from skyriver.adapters.memory.log import MemoryLog, MemoryLogStore
from skyriver.core.errors import Conflict, Unavailable
from skyriver.core.spec import FieldSpec, LabelSpec, StreamSpec
from skyriver.core.units import SECOND
from skyriver.data.columns import Columns
from skyriver.data.log import Record, RecordKind
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.scoring import Effort
from skyriver.decide.log.blocks import decisions_in_log, decisions_of, events_of
from skyriver.decide.log.checkpoint import Checkpoint
from skyriver.decide.log.records import DecisionRecord, Id, LabelRecord, ModelInUse, Value
from skyriver.decide.partition.clock import ReceivingClock
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.receipt import LabelReceipt, Receipt
from skyriver.decide.partition.recovery import Recovered, recover
from skyriver.decide.partition.windows import FeaturesRead, SavedWindows, not_built
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.decide.worker.border import EventBorder, LabelBorder
from skyriver.decide.worker.looking import fill

STREAM = StreamSpec(
    name="payments",
    fields=(
        FieldSpec(name="payment", type="int"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="customer", type="int"),
        FieldSpec(name="amount", type="float", ge=0),
    ),
    id="payment",
    time="at",
    key="customer",
    labels=(LabelSpec(name="fraud", delay_us=0), LabelSpec(name="dispute", delay_us=0)),
    disorder_us=5 * SECOND,
    ahead_us=60 * SECOND,
    dedupe_us=3600 * SECOND,
)
START = 1_700_000_000 * SECOND
"""Wall time when a test begins."""
MODEL = ModelInUse("fraud", 1, "digest")


class HandClock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.wall_us = START
        self.steady_us = 500

    def wall(self) -> int:
        return self.wall_us

    def monotonic(self) -> int:
        return self.steady_us

    def pass_(self, us: int) -> None:
        self.wall_us += us
        self.steady_us += us


class FakeIds:
    def __init__(self, known: dict[int, int] | None = None) -> None:
        self.known = dict(known or {})

    def find(self, keys: Any) -> Any:
        return np.array([self.known.get(k, -1) for k in keys.tolist()], np.int64)

    def add(self, keys: Any, offsets: Any) -> None:
        for key, offset in zip(keys.tolist(), offsets.tolist(), strict=True):
            assert all(offset > o for o in list(self.known.values())[-1:]), "offsets ascend"
            self.known[key] = offset


class FakeWindows:
    """Features: the amount, and how many events the customer has had, plus 1000 for each of their labels."""

    names = ("amount", "count")
    spec = None
    reach = 0
    whole_from = -(2**62)
    keys = ()

    def __init__(self, digest: str = "features-1", saved: bytes | None = None) -> None:
        self.digest = digest
        self.counts: dict[str, int] = {}
        self.customers: dict[int, int] = {}
        if saved is not None:
            self.digest, self.counts, customers = json.loads(saved)
            self.customers = dict(customers)
        self.folded: list[int] = []
        self.room = 1_000_000
        self.broken = False
        self.closed = False

    @property
    def size(self) -> tuple[int, int]:
        return len(self.counts), 100 * len(self.counts)

    def switch(self, digest: str) -> None:
        if digest != self.digest:
            raise Conflict("They are not folded.")

    def reserve(self, rows: int) -> None:
        if rows > self.room:
            raise Unavailable("no room", code="DISK_FULL")

    def fold_events(self, offsets: Sequence[int], effective: Sequence[int], rows: Sequence[Sequence[Value]]) -> Any:
        if self.broken:
            raise Unavailable("broken", code="DISK_FAILED")
        out = []
        for offset, row in zip(offsets, rows, strict=True):
            key = str(row[2])
            self.counts[key] = self.counts.get(key, 0) + 1
            self.customers[offset] = row[2]  # type: ignore[assignment]
            self.folded.append(offset)
            out.append((row[3], self.counts[key]))
        return np.array(out, np.float32).reshape(-1, 2)

    def read(self, digest: str, rows: Sequence[Sequence[Value]]) -> FeaturesRead:
        if digest != self.digest:
            raise not_built(digest)
        found = [(row[3], self.counts.get(str(row[2]), 0)) for row in rows]
        known = np.array([[str(row[2]) in self.counts for row in rows]])
        return FeaturesRead(("customer",), known, np.array(found, np.float32).reshape(-1, 2))

    def fold_columns(self, offsets: Any, effective: Any, columns: Columns) -> Any:
        return self.fold_events(offsets.tolist(), effective.tolist(), columns.rows())

    def fold_labels(self, offsets: Sequence[int], labels: Sequence[LabelRecord]) -> None:
        for label in labels:
            if label.subject_offset in self.customers:
                self.counts[str(self.customers[label.subject_offset])] += 1000

    def fold_block(self, first_offset: int, block: Any) -> Any:
        rows = block.rows(named=True)
        found = []
        for place, row in enumerate(rows):
            if row["_kind"] == RecordKind.EVENT:
                values = [row["payment"], row["at"], row["customer"], row["amount"]]
                found.append(self.fold_events([first_offset + place], [row["_effective"]], [values])[0])
            else:
                self.fold_labels([first_offset + place], [LabelRecord(0, 0, row["_value"], 0, row["_subject_offset"])])
        return np.array(found, np.float32).reshape(-1, 2)

    def save(self) -> SavedWindows:
        state = json.dumps([self.digest, self.counts, list(self.customers.items())]).encode()
        return SavedWindows(state, lambda: None, lambda: None)

    def close(self) -> None:
        self.closed = True


class FakeModel:
    """score = amount / 100; it raises for an amount of 13, gives NaN for 14 and infinity for 15."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def score(self, features: Any) -> Any:
        self.runs.append(len(features))
        amounts = features[:, 0]
        if 13 in amounts:
            raise RuntimeError("unlucky")
        scores = amounts / np.float32(100)
        scores[amounts == 14] = np.nan
        scores[amounts == 15] = np.inf
        return scores


@dataclass
class House:
    """One partition, with all that outlives its process."""

    stream: StreamSpec = STREAM
    store: MemoryLogStore = field(default_factory=MemoryLogStore)
    clock: HandClock = field(default_factory=HandClock)
    model: FakeModel = field(default_factory=FakeModel)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    """Newest first."""
    features_digest: str = "features-1"
    with_features: bool = True
    reach: int = 0
    """How far back its features look."""
    block_rows: int = 0
    """From how many rows on a batch is a block; 0: as the product has it."""
    log: MemoryLog = field(init=False)
    engine: Engine = field(init=False)
    windows: FakeWindows | None = None
    recovered: Recovered = field(init=False)

    def deciding(
        self, *, model: bool = True, version: int = 1, rules: bool = True, when: str = "score >= 0.9"
    ) -> Deciding:
        if not rules:
            return Deciding()
        compiled = compile_rules([("block", when)], "approve", "review", self.stream, None)
        if not model:
            return Deciding(compiled)
        return Deciding(compiled, ModelInUse("fraud", version, "digest"), self.model)

    def start(self, deciding: Deciding | None = None) -> House:
        """What a process does at its start; what it had not synced before is gone."""
        self.log = self.store.open()
        return self.recover(deciding)

    def recover(self, deciding: Deciding | None = None) -> House:
        """What it does after an error, too."""
        self.recovered = recover(
            self.log,
            self.stream,
            checkpoints=iter(self.checkpoints),
            open_windows=self._open_windows,
            open_ids=lambda saved: FakeIds({int(k): v for k, v in json.loads(saved).items()} if saved else None),
            progress=lambda *_: None,
        )
        partition = self.recovered.partition
        last = partition.time if partition.counters.events or partition.counters.history_rows else None
        receiving = ReceivingClock(self.clock, self.stream.ahead_us, last)
        self.engine = Engine(partition, self.log, self.recovered.windows, self.recovered.ids, receiving)
        if self.block_rows:
            self.engine._block_rows = self.block_rows
        self.engine.use(deciding if deciding is not None else self.deciding())
        self.engine.decide_events(self.recovered.undecided)
        self.log.sync()
        return self

    def _open_windows(self, checkpoint: Checkpoint | None) -> FakeWindows | None:
        if not self.with_features:
            return None
        if checkpoint is not None and checkpoint.features_digest != self.features_digest:
            raise Conflict("It is of other features.")
        self.windows = FakeWindows(self.features_digest, checkpoint.features if checkpoint is not None else None)
        self.windows.reach = self.reach
        return self.windows

    def save(self) -> None:
        known = self.recovered.ids.known  # type: ignore[attr-defined]
        checkpoint, _ = self.engine.save(json.dumps(known).encode())
        self.checkpoints.insert(0, checkpoint)

    def event(self, payment: Any, at: float = 0.0, customer: int = 1, amount: float = 10.0) -> dict[str, Any]:
        """`at` in seconds after START."""
        return {"payment": payment, "at": START + round(at * SECOND), "customer": customer, "amount": amount}

    def send(self, *rows: object, wait: bool = True, effort: Effort = Effort.FULL) -> Receipt:
        border = EventBorder(self.stream)
        receipts = self.engine.decide([border.take(list(rows), self.clock.monotonic(), wait)], effort)
        self.log.sync()
        return self.look(receipts[0])

    def look(self, receipt: Receipt) -> Receipt:
        """With the decisions that are only in the log."""
        return fill(receipt, decisions_in_log(self.store.reader(), [offset for _, offset in receipt.sought or ()]))

    def find(self, event_id: Id) -> DecisionRecord | None:
        offset, recent = self.engine.find(event_id)
        return recent or (decisions_in_log(self.store.reader(), [offset]).get(offset) if offset >= 0 else None)

    def send_labels(self, *rows: object) -> LabelReceipt:
        limit = self.clock.wall() + self.stream.ahead_us
        submission = LabelBorder(self.stream).take(list(rows), self.clock.wall(), limit)
        receipt = self.engine.label([submission])[0]
        self.log.sync()
        return receipt

    def records(self, *kinds: RecordKind) -> list[Record]:
        return [r for r in self.store.reader().read(self.store.first_offset) if not kinds or r.kind in kinds]

    def decisions(self) -> list[DecisionRecord]:
        return [decision for record in self.records() for decision in decisions_of(record)]

    def events(self) -> list[tuple[int, list[Value]]]:
        """(flags, values) of all that were taken."""
        return [event for record in self.records() for event in events_of(record)]


@pytest.fixture
def house() -> House:
    return House().start()


@pytest.fixture
def make_house() -> Callable[..., House]:
    return House
