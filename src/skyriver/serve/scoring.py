"""Scoring many rows, piece by piece: each piece's answers are a file, and a piece whose file is there is not scored
again.

    FOLDER/input.json                what the pieces are of; another input begins anew
    FOLDER/<file>-<first>-<last>[-<mark>].bad.parquet   rows of a piece that were refused, where there are any
    FOLDER/<file>-<first>-<last>[-<mark>].parquet       its answers, written last

One thread reads; as many as there are cores clean and score, which is done outside of Python's lock. In memory are two
pieces a core, whatever the input's size, and a piece has fewer rows the more columns it has.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import polars as pl

from skyriver.core.jobs import Progress
from skyriver.core.names import digest
from skyriver.data.border_frame import BAD_SCHEMA
from skyriver.data.folders import make_folder, replace_file
from skyriver.data.intake import check_bad
from skyriver.serve.frames import Scored

EXAMPLES = 10
PIECE_VALUES = 1 << 20
"""Of a piece, with all its columns: 8 MiB of numbers."""
PIECE_ROWS = 1 << 16
DEAD_SCHEMA: dict[str, pl.DataType] = {"file": pl.String(), **BAD_SCHEMA}


@dataclass(frozen=True, slots=True)
class Task:
    """A piece to be scored: `score` gives its key columns and answers, and the rows that were refused."""

    file: str
    number: int
    """Of the file among those of the input."""
    first: int
    rows: int
    score: Callable[[], tuple[pl.DataFrame, Scored]]
    mark: str = ""
    """Of what the piece holds, where that may change between attempts: rows of a table can be rewritten."""


def mark_of(frame: pl.DataFrame) -> str:
    return hashlib.blake2b(frame.hash_rows().to_numpy().tobytes(), digest_size=8).hexdigest()


def rows_of_piece(columns: int) -> int:
    return max(1_024, min(PIECE_ROWS, PIECE_VALUES // max(1, columns)))


@dataclass(slots=True)
class Tally:
    """What became of the rows; `resumed` are those that an attempt before this one had scored."""

    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)
    resumed: int = 0
    parts: list[Path] = field(default_factory=list)
    dead: list[Path] = field(default_factory=list)

    def check(self, max_bad: float) -> None:
        """Raises InvalidInput (TOO_MANY_BAD_ROWS)."""
        action = "Correct the rows, or allow more of them with --max-bad."
        check_bad(self.rows, self.bad, self.examples, max_bad, action)


class ScoringFolder:
    """What a scoring has done so far, on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, source: Mapping[str, Any]) -> bool:
        """Makes it ready for this input; True where pieces of another one were there, which are removed."""
        wanted, known = digest(dict(source)), self.known()
        anew = known is not None and digest(known) != wanted
        if anew:
            shutil.rmtree(self.path)
        make_folder(self.path)
        if known is None or anew:
            for left in self.path.iterdir():
                left.unlink()
            replace_file(self.path / "input.json", json.dumps(dict(source)).encode())
        return anew

    def known(self) -> dict[str, Any] | None:
        """The input that it is of."""
        return self._read("input.json")

    def outcome(self) -> dict[str, Any] | None:
        """What `close` was told."""
        return self._read("outcome.json")

    def close(self, outcome: Mapping[str, Any]) -> None:
        """All is done, and where it was to go: an attempt that comes after this one finds the outcome."""
        replace_file(self.path / "outcome.json", json.dumps(dict(outcome)).encode())
        for part in self.path.glob("*.parquet"):
            part.unlink()

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def part(self, task: Task) -> Path:
        mark = f"-{task.mark}" if task.mark else ""
        return self.path / f"{task.number:04d}-{task.first:012d}-{task.first + task.rows - 1:012d}{mark}.parquet"

    def others(self, tally: Tally) -> bool:
        """Whether there are answers for what is no longer there."""
        return bool(set(self.path.glob("*.parquet")) - {*tally.parts, *tally.dead})


def dead_of(part: Path) -> Path:
    return part.with_suffix(".bad.parquet")


def score_all(tasks: Iterator[Task], folder: ScoringFolder, threads: int, progress: Progress, total: int) -> Tally:
    """All answers as files of the folder. `total` rows are expected; 0: that is not known."""
    tally = Tally()
    under_way: deque[tuple[Task, Future[None]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="score") as pool:
        try:
            for task in tasks:
                if folder.part(task).exists():
                    tally.resumed += task.rows
                    done: Future[None] = Future()
                    done.set_result(None)
                else:
                    done = pool.submit(_score, task, folder)
                under_way.append((task, done))
                while len(under_way) > 2 * threads:
                    _take(*under_way.popleft(), folder, tally)
                    progress("score", tally.rows, total)
            while under_way:
                _take(*under_way.popleft(), folder, tally)
                progress("score", tally.rows, total)
        finally:
            pool.shutdown(cancel_futures=True)
    return tally


def _score(task: Task, folder: ScoringFolder) -> None:
    keys, scored = task.score()
    part = folder.part(task)
    if len(scored.bad):
        dead = scored.bad.select(pl.lit(task.file).alias("file"), pl.all())
        _write(dead_of(part), dead)
    _write(part, pl.concat([keys, scored.outputs], how="horizontal"))


def _write(path: Path, frame: pl.DataFrame) -> None:
    packed = io.BytesIO()
    frame.write_parquet(packed, compression="lz4", statistics=False)
    replace_file(path, packed.getvalue())


def _take(task: Task, done: Future[None], folder: ScoringFolder, tally: Tally) -> None:
    done.result()
    part = folder.part(task)
    tally.rows += task.rows
    tally.parts.append(part)
    if dead_of(part).exists():
        bad = pl.read_parquet(dead_of(part))
        tally.dead.append(dead_of(part))
        tally.bad.update(bad["reason"].to_list())
        for row in bad.head(EXAMPLES - len(tally.examples)).iter_rows(named=True):
            tally.examples.append({key: row[key] for key in ("file", "row", "field", "reason", "message")})


class PartFrames(Sequence[pl.DataFrame]):
    """Parts as frames, each read when it is asked for, with constant columns behind."""

    def __init__(self, parts: Sequence[Path], **constants: str | int) -> None:
        self._parts = parts
        types = {str: pl.String(), int: pl.Int64()}
        self._constants = [pl.lit(value, dtype=types[type(value)]).alias(name) for name, value in constants.items()]

    @overload
    def __getitem__(self, place: int) -> pl.DataFrame: ...
    @overload
    def __getitem__(self, place: slice) -> PartFrames: ...
    def __getitem__(self, place: int | slice) -> pl.DataFrame | PartFrames:
        if isinstance(place, slice):
            raise TypeError("frames are read one by one")
        return pl.read_parquet(self._parts[place]).with_columns(self._constants)

    def __len__(self) -> int:
        return len(self._parts)

    def scan(self) -> pl.LazyFrame:
        return pl.scan_parquet([*self._parts], glob=False).with_columns(self._constants)
