"""What a stream is given: the simulated payments, a part as a history, the others in turns live and as a load."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "risk"
CHANGES = (
    ('    gate=sr.Gate(average_precision=">= 0.60", against="champion", tolerance=0.01),\n', ""),
    ("    compress=sr.Compress(max_loss=0.005),\n", ""),
    (
        'decisions.example("block", score=0.95).example("review", score=0.5).example("approve", score=0.1)\n',
        """\
decisions.sink("bank", on=("deny", "block"), ordered="customer")
decisions.sink("ledger", on=("deny", "block"), parallel=16)
for reviewable in ("review", "check"):
    decisions.review(reviewable, label=reviewed, answers={"block": 1, "approve": 0}, second_opinion=0.2)
""",
    ),
    (
        'frauds = app.labels("fraud", of=payments, delay="7d")\n',
        """\
frauds = app.labels("fraud", of=payments, delay="7d")
reviewed = app.labels("reviewed", of=payments, delay="0us")
app.list("denied", of=payments, id="customer")
""",
    ),
    ('{"block": "score >= 0.9"', '{"deny": "customer in denied", "check": "amount >= 150", "block": "score >= 0.9"'),
)
"""A model of a few trees is enough here, however bad it is; the rules are changed, so no example of them would hold.
What is decided is acted on by two receivers and by people, whose answers are a label that no feature reads; a list
decides with the model."""
HELD_BACK = 0.02
"""Share of live payments that are sent up to HELD_HOURS after their time; the stream takes four hours as known now."""
HELD_HOURS = 6
DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Payments of some days. Live ones in the order in which they are sent, with what became known meanwhile."""

    number: int
    how: Literal["live", "load"]
    payments: Path
    labels: Path
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`folder` has risk.py and data/ as the simulator wrote it."""

    folder: Path
    history: Path
    chunks: tuple[Chunk, ...]

    @property
    def app(self) -> Path:
        return self.folder / "risk.py"


def make_plan(folder: Path, *, scale: str, stream_days: int, chunks: int, seed: int) -> Plan:
    """The same arguments give the same plan. Every third chunk is a load."""
    text = (EXAMPLE / "risk.py").read_text()
    for old, new in CHANGES:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "risk.py").write_text(text)
    data = folder / "data"
    command = [sys.executable, str(EXAMPLE / "simulate.py"), "--scale", scale, "--out", str(data)]
    subprocess.run([*command, "--stream-days", str(stream_days)], check=True, capture_output=True, timeout=300)
    stream = pl.read_parquet(data / "stream.parquet").sort("at", "payment")
    labels = pl.read_parquet(data / "stream_labels.parquet").sort("known_at", "payment")
    luck = np.random.default_rng(seed)
    found, told = [], 0
    for number, rows in enumerate(np.array_split(np.arange(len(stream)), chunks)):
        part = stream[int(rows[0]) : int(rows[-1]) + 1]
        how: Literal["live", "load"] = "load" if number % 3 == 2 else "live"
        known = labels["known_at"].search_sorted(part["at"][-1], side="right") if how == "live" else told
        found.append(_write(folder / "chunks", number, how, part, labels[told:known], luck))
        told = int(known)
    return Plan(folder, data / "payments.parquet", tuple(found))


def _write(
    folder: Path,
    number: int,
    how: Literal["live", "load"],
    payments: pl.DataFrame,
    labels: pl.DataFrame,
    luck: np.random.Generator,
) -> Chunk:
    folder.mkdir(exist_ok=True)
    if how == "live":
        held = np.where(luck.random(len(payments)) < HELD_BACK, luck.integers(0, HELD_HOURS * 3_600, len(payments)), 0)
        sent_at = payments["at"].dt.epoch("us").to_numpy() + held * 1_000_000
        payments = payments[np.argsort(sent_at, kind="stable")]
    chunk = Chunk(number, how, folder / f"{number}.parquet", folder / f"{number}-labels.parquet", len(payments))
    payments.write_parquet(chunk.payments)
    labels.write_parquet(chunk.labels)
    return chunk
