"""A month of the handbook's payments decided again: as it was, when nothing may differ; by other rules, when DuckDB
says the same from what was recorded; and what that takes beside a bare read of the same log."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _payments
import polars as pl
from _document import tell
from _environments import duckdb_python
from _processes import run

from skyriver.adapters.segments.log import open_log
from skyriver.adapters.segments.reader import SegmentReader
from skyriver.core.spec import AppSpec
from skyriver.core.units import DAY
from skyriver.decide.decision.choice import Choice
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.scorer import OnnxScorer
from skyriver.decide.log.blocks import decisions_of, events_of
from skyriver.decide.log.history import read_block
from skyriver.decide.log.records import LoadStep, ModelInUse
from skyriver.decide.partition.kernel_windows import WindowsFiles
from skyriver.decide.partition.opening import PartitionFiles
from skyriver.decide.replay.comparison import Comparison
from skyriver.decide.replay.past import CHUNK
from skyriver.decide.replay.replaying import Replay
from skyriver.decide.replay.stretch import Asked, AskedRules
from skyriver.decide.rules.ruleset import rules_of
from skyriver.decide.worker.border import EventBorder, LabelBorder
from skyriver.wiring.process import SystemClock

if TYPE_CHECKING:
    from decisions import Bench

LIVE_DAYS, ALONE_DAYS = 30, 2
BATCH = 1_000
OTHER = AskedRules((("block", "score >= 0.8"), ("review", "score >= 0.4 or amount > 200")), "approve", "approve")
OTHER_IN_SQL = "case when score >= 0.8 then 'block' when score >= 0.4 or amount > 200 then 'review' else 'approve' end"
_QUERY = "import duckdb, json, sys; print(json.dumps(duckdb.sql(sys.argv[1]).fetchall()))"


@dataclass(frozen=True, slots=True)
class Past:
    app: AppSpec
    folder: Path
    scorer: OnnxScorer
    days: int
    start: int
    """Effective time of the first event that was decided live."""
    events: int

    def reader(self) -> SegmentReader:
        return SegmentReader(self.folder / "log")


def measure_replay(bench: Bench) -> None:
    document = bench.document
    past = make(bench, LIVE_DAYS, BATCH)
    tally, rate, ratio = _measure_as_it_was(bench, past, f"{LIVE_DAYS} days, a thousand events a batch")
    whole = tally["compared"] == past.events
    document.measured(
        "replay_differences",
        tally["different"],
        broken="" if whole else f"{tally['compared']} of {past.events} events were compared",
    )
    document.measured(
        "replay_events_per_second_core",
        round(rate),
        note=f"features, 100 trees, rules and comparison; {ratio:.0f} times the CPU time of a bare read",
    )
    rows: list[pl.DataFrame] = []
    _replay(past, Asked(past.start, 2**62, None, OTHER), rows.append)
    counted = Counter(dict_of(pl.concat(rows, how="vertical_relaxed").group_by("then", "now").len().rows()))
    theirs = Counter(dict_of(_by_duckdb(past)))
    if counted != theirs:
        document.row("duckdb", "the month by other rules", wrong=f"{counted} here, {theirs} there")
    document.measured("replay_equal_to_duckdb", float(counted == theirs), note=f"{len(theirs)} pairs of decisions")
    _measure_as_it_was(bench, make(bench, ALONE_DAYS, 1), f"{ALONE_DAYS} days, each event alone")


def _measure_as_it_was(bench: Bench, past: Past, case: str) -> tuple[dict[str, Any], float, float]:
    """What differs, events per CPU second, and how many times the CPU time of a bare read that takes."""
    bare = min(_bare(past) for _ in range(3))
    best, tally = float("inf"), {}
    for _ in range(3):
        spent, comparison = _replay(past, Asked(past.start, 2**62), lambda _: None)
        best, tally = min(best, spent), comparison.tally.to_json()
    bench.document.row(
        "skyriver",
        f"decided again as it was: {case}",
        events=past.events,
        different=tally["different"],
        cpu_seconds=round(best, 2),
        cpu_seconds_of_a_bare_read=round(bare, 3),
        events_per_cpu_second=round(past.events / best),
        times_real_speed=round(past.days * 86_400 / best),
    )
    return tally, past.events / best, best / bare


def dict_of(rows: list[Any]) -> dict[tuple[str, str], int]:
    return {(then, now): count for then, now, count in rows}


def make(bench: Bench, days: int, batch: int) -> Past:
    """All but the last days is history; these are live, so many events a batch, the labels of its frauds behind it."""
    folder, app = bench.folder / f"replay-{batch}", _payments.declare()
    stream, features = app.streams[0], app.feature_sets[0]
    customers = bench.sizes.customers
    payments = _payments.handbook(bench.sizes.days, customers=customers, terminals=2 * customers)
    start = int(payments["at"][-1]) - days * DAY
    history, live = payments.filter(pl.col("at") < start), payments.filter(pl.col("at") >= start)
    tell(f"a log of {history.height} payments of history and {live.height} live ones ...")
    folder.mkdir()
    model = folder / "model.onnx"
    model.write_bytes(_payments.train(app, history[-300_000:], bench.folder / "kernels"))
    scorer = OnnxScorer.load(model, len(features.features), bench.folder / "kernels")
    log = open_log(folder / "log", durability="process", holder="bench")
    windows = WindowsFiles(stream, folder / "side", bench.folder / "kernels")
    files = PartitionFiles(stream, folder, log, windows, SystemClock(), features)
    deciding = Deciding(
        rules_of(app.decides[0], stream, features), ModelInUse("fraud", 1, "model"), scorer, windows.digest_of(features)
    )
    engine = files.open(lambda *_: deciding, lambda *_: None)
    for number, block in enumerate(_payments.blocks(app, history)):
        engine.load(read_block(block, stream), LoadStep("history", number, 0, last=False))
    border, labels = EventBorder(stream), LabelBorder(stream)
    wall = SystemClock().wall()
    for at in range(0, live.height, batch):
        part = live[at : at + batch]
        engine.decide([border.take(part.drop("fraud").to_dicts(), -1, False)])
        if frauds := part.filter(pl.col("fraud") == 1).select("payment", "fraud").to_dicts():
            engine.label([labels.take(frauds, wall, wall)])
        log.sync()
    files.close()
    log.close()
    return Past(app, folder, scorer, days, start, live.height)


def _bare(past: Past) -> float:
    """CPU seconds."""
    reader = past.reader()
    first = next(r.offset for r in reader.read(0) if r.time >= past.start)
    began = time.process_time()
    for _ in reader.read(first):
        pass
    return time.process_time() - began


def _replay(past: Past, asked: Asked, keep: Callable[[pl.DataFrame], None]) -> tuple[float, Comparison]:
    """CPU seconds of it, with the folding of the 37 days before."""
    stream, declared = past.app.streams[0], past.app.feature_sets[0]
    windows = WindowsFiles(stream, past.folder / "again", past.folder.parent / "kernels")
    comparison = Comparison(stream, (), keep)
    began = time.process_time()
    replay = Replay(
        past.reader(),
        stream,
        asked,
        choice=Choice(stream, past.app.decides[0], lambda *_: (past.scorer, None), windows.digest_of),
        declared=declared,
        digest_of=windows.digest_of,
        open_windows=lambda features: windows.open(features, None),
        decided=comparison,
        progress=lambda *_: None,
        chunk=CHUNK,
    )
    replay.run()
    spent = time.process_time() - began
    replay.close()
    return spent, comparison


def _by_duckdb(past: Past) -> list[Any]:
    """(then, now, events) from what was recorded."""
    amounts: dict[int, Any] = {}
    recorded = []
    for record in past.reader().read(0):
        for place, (_, values) in enumerate(events_of(record)):
            amounts[record.offset + place] = values[4]
        recorded += [(amounts.pop(d.event_offset), d.score, d.decision) for d in decisions_of(record)]
    path = past.folder / "recorded.parquet"
    schema = {"amount": pl.Float64, "score": pl.Float64, "decision": pl.String}
    pl.DataFrame(recorded, schema=schema, orient="row").write_parquet(path)
    query = f"select decision, {OTHER_IN_SQL} as now, count(*) from '{path}' group by all"
    found: list[Any] = json.loads(run([duckdb_python(), "-c", _QUERY, query], timeout=300).check().stdout)
    return found
