"""Sends a share of a chunk's payments and labels over HTTP: a process of its own, which is killed like all others.

    python stream_producer.py SETTINGS.json NUMBER

Each answer becomes a line of the file `answers`-NUMBER before the next batch is sent, so another producer goes on where
a killed one was: what was answered and not written down is sent once more, and must be answered as it was.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from skyriver.client.api import Client
from skyriver.core.errors import SkyriverError

STREAM = "payments"
AGAIN = 0.04
"""Share of batches that are sent twice."""
LABEL_BATCH = 500
LARGEST = 400
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Settings:
    """`pace`: a file that says how many of its rows a producer may have sent by now, and how many it is to send in a
    second (0: as fast as it goes)."""

    url: str
    token: str
    payments: str
    labels: str
    answers: str
    pace: str
    producers: int

    def answers_of(self, number: int) -> Path:
        return Path(f"{self.answers}-{number}")


@dataclass(slots=True)
class Answered:
    """How far a producer has come, by its answers."""

    rows: int = 0
    labels: int = 0
    lines: int = 0


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The whole lines; one that was torn by a kill is not there."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def decided(decision: Mapping[str, Any] | None) -> list[Any] | None:
    """What is kept of an answered decision."""
    if decision is None:
        return None
    return [decision[name] for name in ("id", "event_offset", "status", "decision", "score", "version")]


class Producer:
    def __init__(self, settings: Settings, number: int) -> None:
        self._settings = settings
        self._path = settings.answers_of(number)
        self._parent = os.getppid()
        payments = pl.read_parquet(settings.payments).with_columns(pl.col("at").dt.epoch("us"))
        labels = pl.read_parquet(settings.labels).with_columns(pl.col("known_at").dt.epoch("us"))
        self._rows = payments.gather_every(settings.producers, number).to_dicts()
        self._labels = labels.gather_every(settings.producers, number).to_dicts()
        self._done = self._resume()
        self._out = self._path.open("ab", buffering=0)
        self._client = Client(settings.url, settings.token)
        self._luck = random.Random()

    def _resume(self) -> Answered:
        lines = read_answers(self._path)
        if self._path.exists():
            data = self._path.read_bytes()
            os.truncate(self._path, data.rfind(b"\n") + 1)
        done = Answered(lines=len(lines))
        for line in lines:
            done.rows, done.labels = max(done.rows, line.get("rows", 0)), max(done.labels, line.get("labels", 0))
        return done

    def run(self) -> None:
        done, total = self._done, len(self._rows)
        while done.rows < total:
            allowed, rate = self._pace()
            end = min(done.rows + round(LARGEST ** self._luck.random()), total, allowed)
            if end <= done.rows:
                time.sleep(0.02)
                continue
            batch = self._rows[done.rows : end]
            if rate:
                time.sleep(min(1.0, len(batch) / rate))
            self._send(batch, end)
            if self._luck.random() < AGAIN:
                self._send([{**row, "amount": 1.0} for row in batch], end)
            done.rows = end
            known = len(self._labels) * end // total
            if known - done.labels >= LABEL_BATCH or end == total:
                self._tell(known)

    def _pace(self) -> tuple[int, float]:
        if os.getppid() != self._parent:
            sys.exit("the campaign is gone")
        allowed, rate = Path(self._settings.pace).read_text().split()
        return int(allowed), float(rate)

    def _send(self, batch: Sequence[Mapping[str, Any]], end: int) -> None:
        answer = self._ask(lambda: self._client.send(STREAM, batch, wait=True, retry_seconds=0.0))
        line = {"rows": end, "decisions": [decided(d) for d in answer["decisions"]], "sent": len(batch)}
        if answer["rejected"] or [d and d["id"] for d in answer["decisions"]] != [row["payment"] for row in batch]:
            line["wrong"] = f"{answer['rejected'][:2]}, decisions on {len(answer['decisions'])} of {len(batch)}"
        self._write(line)

    def _tell(self, known: int) -> None:
        done = self._done
        while done.labels < known:
            end = min(known, done.labels + LABEL_BATCH)
            batch = self._labels[done.labels : end]
            answer = self._ask(lambda b=batch: self._client.send_labels(STREAM, b, retry_seconds=0.0))
            line: dict[str, Any] = {"labels": end}
            if answer["rejected"] or answer["accepted"] != len(batch):
                line["wrong"] = f"labels were answered with {answer}"[:300]
            done.labels = end
            self._write(line)

    def _ask(self, call: Any) -> Any:
        """Again and again: whatever was dead is to be back within PATIENCE_SECONDS."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return call()
            except SkyriverError as error:
                if error.http_status not in (429, 502, 503, 504) or time.monotonic() > deadline:
                    raise
                self._pace()
                time.sleep(0.05)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")


if __name__ == "__main__":
    Producer(Settings(**json.loads(Path(sys.argv[1]).read_text())), int(sys.argv[2])).run()
