"""Lists that rules read: what a look into one costs an event and takes in memory, while the list changes; and the
decisions held against DuckDB's, which computes who was on it at each event from all rows that were told."""

from __future__ import annotations

import json
import random
import statistics
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from _document import tell
from _environments import duckdb_python
from _processes import run

import skyriver as sr
from skyriver.adapters.memory.log import MemoryLogStore
from skyriver.data.columns import decode_events
from skyriver.data.log import RecordKind
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.log.blocks import decisions_of
from skyriver.decide.log.lists import Lists
from skyriver.decide.log.records import decode_reference
from skyriver.decide.partition.clock import ReceivingClock
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.journal import JournaledIds
from skyriver.decide.partition.partition import Partition
from skyriver.decide.partition.receipt import Submission
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.decide.worker.answers import Form
from skyriver.decide.worker.border import EventBorder, ReferenceBorder
from skyriver.wiring.process import SystemClock

if TYPE_CHECKING:
    from decisions import Bench

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
FEW, BATCH, BATCHES, ROUNDS = 1_000, 1_000, 20, 9
WIDER = 10
"""As many customers as this times the ids on the list buy: most are not on it."""
_QUERY = "import duckdb, json, sys; print(json.dumps(duckdb.sql(sys.argv[1]).fetchall()))"
_BLOCKED = """
    select count(*) from (
        select e.place, e.t, arg_max(coalesce(r.until, 9223372036854775807), (r.at, r.place)) as ends
        from '{events}' e join '{rows}' r on r.customer = e.customer and r.place < e.place and r.at <= e.t
        group by e.place, e.t
    ) where ends > t
"""


class Purchase(sr.Event):
    purchase: int
    at: sr.Time
    customer: int
    amount: float


APP = sr.App("lists")
PURCHASES = APP.stream("purchases", Purchase, id="purchase", time="at", key="customer", dedupe="0s")
APP.list("denied", of=PURCHASES, id="customer")
STREAM = APP.spec.stream("purchases")


class Stream:
    """A partition with its log in memory, and a list with `ids` on it."""

    def __init__(self, folder: Path, when: str, ids: int) -> None:
        self.store = MemoryLogStore()
        clock = SystemClock()
        index = JournaledIds.open(folder, None)
        self.engine = Engine(Partition(STREAM), self.store.open(), None, index, ReceivingClock(clock, STREAM.ahead_us))
        rules = compile_rules([("block", when)], "accept", "accept", STREAM, None, without_score=True)
        self.engine.use(Deciding(rules))
        self._rows, self._now = ReferenceBorder(STREAM, 0), clock.wall()
        numbers = random.Random(1).sample(range(WIDER * ids), ids)
        for start in range(0, ids, 10_000):
            self.tell([{"customer": number} for number in numbers[start : start + 10_000]])

    def tell(self, rows: Sequence[dict[str, int]]) -> None:
        self.engine.learn([self._rows.take(rows, self._now, self._now)])
        self.engine._log.sync()

    def take_off(self, customers: Sequence[int]) -> None:
        self.engine.learn([self._rows.take_off([{"customer": customer} for customer in customers])])
        self.engine._log.sync()

    def decide(self, batches: Sequence[Submission]) -> float:
        """CPU seconds."""
        began = time.process_time()
        for batch in batches:
            self.engine.take([batch])
        return time.process_time() - began


def measure_lists(bench: Bench) -> None:
    document, many = bench.document, bench.sizes.listed
    costs = {}
    for ids in (FEW, many):
        listed = Stream(bench.folder / f"listed-{ids}", "customer in denied", ids)
        plain = Stream(bench.folder / f"plain-{ids}", "amount > 990", 1)
        took: dict[str, list[float]] = {"without": [], "with": []}
        for turn in range(ROUNDS):  # in turn: what else the machine does is the same for both
            batches = [_batch(turn * BATCHES + n, WIDER * ids) for n in range(BATCHES)]
            took["without"].append(plain.decide(batches))
            took["with"].append(listed.decide(batches))
        per_event = {name: statistics.median(all_of) / BATCHES / BATCH * 1e6 for name, all_of in took.items()}
        costs[ids] = per_event["with"] - per_event["without"]
        first, again = _saved(listed), _saved(listed)
        document.row(
            "skyriver",
            f"rule on a list of {ids:,}",
            us_an_event=round(per_event["with"], 3),
            us_an_event_without=round(per_event["without"], 3),
            bytes_an_id=_bytes_an_id(listed),
            checkpoint_ms_when_all_changed=round(first * 1e3, 1),
            checkpoint_ms_unchanged=round(again * 1e3, 1),
        )
        tell(f"a list of {ids:,}: {costs[ids]:.2f} us an event")
    document.measured(
        "list_us_an_event", round(costs[many], 3), note=f"one look into a list of {many:,}, most look in vain"
    )
    _examine(bench)


def _saved(stream: Stream) -> float:
    """CPU seconds that a checkpoint's events wait for its lists."""
    began = time.process_time()
    stream.engine.partition.lists.save()
    return time.process_time() - began


def _bytes_an_id(stream: Stream) -> int:
    lists = Lists(STREAM)
    tracemalloc.start()
    for record in stream.store.reader().read(0):
        if record.kind is RecordKind.REFERENCE:
            lists.learn(*decode_reference(record.payload), record.time)
    lists.save()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return round(held / next(iter(lists)).ids)


def _batch(number: int, customers: int) -> Submission:
    luck, border = random.Random(number), EventBorder(STREAM)
    rows = [
        {
            "purchase": number * BATCH + n,
            "at": START + number * SECOND,
            "customer": luck.randrange(customers),
            "amount": luck.random() * 1_000,
        }
        for n in range(BATCH)
    ]
    return border.read(json.dumps(rows).encode(), Form.JSON, 0, False)


def _examine(bench: Bench) -> None:
    """A list that changes between batches, some rows for a while, some late, some taken off."""
    stream, luck, customers = Stream(bench.folder / "examined", "customer in denied", 0), random.Random(7), 3_000
    for number in range(200):
        now = START + number * SECOND
        stream.engine.take([_batch(number, customers)])
        rows = [{"customer": luck.randrange(customers)} for _ in range(60)]
        for row in rows[20:]:
            row["at"] = now + luck.randrange(-20, 1) * SECOND
        for row in rows[40:]:
            row["until"] = row["at"] + luck.randrange(60) * SECOND
        stream.tell(rows)
        stream.take_off([luck.randrange(customers) for _ in range(20)])
    events: list[tuple[int, int, int]] = []
    told: list[tuple[int, int, int, int | None]] = []
    blocked = 0
    for record in stream.store.reader().read(0):
        if record.kind is RecordKind.EVENTS:
            block = decode_events(record.payload, record.count)
            customers_of = block.columns.columns[2].to_list()
            numbered = enumerate(zip(block.effective.tolist(), customers_of, strict=True), record.offset)
            events += [(offset, at, customer) for offset, (at, customer) in numbered]
        elif record.kind is RecordKind.REFERENCE:
            _, (customer, _, at, until) = decode_reference(record.payload)
            told.append((record.offset, customer, at, until))
        blocked += sum(decision.decision == "block" for decision in decisions_of(record))
    expected = _by_duckdb(bench.folder, events, told)
    case = "blocked while the list changes"
    bench.document.row("skyriver", case, events=len(events), rows=len(told), blocked=blocked)
    bench.document.row("duckdb", case, blocked=expected)
    bench.document.measured("lists_equal_to_duckdb", int(blocked == expected and 0 < blocked < len(events)))


def _by_duckdb(folder: Path, events: list[Any], told: list[Any]) -> int:
    """How many events are of a customer who is on the list then."""
    frames = {
        "events": pl.DataFrame(events, ["place", "t", "customer"], orient="row"),
        "rows": pl.DataFrame(told, dict.fromkeys(("place", "customer", "at", "until"), pl.Int64), orient="row"),
    }
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    query = _BLOCKED.format(**{name: folder / f"{name}.parquet" for name in frames})
    ((found,),) = json.loads(run([duckdb_python(), "-c", _QUERY, query], timeout=300).check().stdout)
    return int(found)
