"""Sorting more rows than fit in memory.

Rows are collected up to RUN_BYTES, sorted, and written as a run: files of CHUNK_ROWS rows. Then all runs are merged:
each has a chunk in memory, and what lies below the least of the chunks' last values is complete, so that it can be
sorted and given out. Rows that are the same by all sort columns stay in the order in which they came. A chunk is
removed once it was read, so the disk holds the rows once, packed (lz4).

Memory: RUN_BYTES and what sorting them needs, then a chunk a run. Only rows that have the same first sort column are
held together, however many they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

RUN_BYTES = 192 << 20
PARTS_BYTES = 64 << 20
CHUNK_ROWS = 32_768


class Sorter:
    """Sorts rows by `by`, the first of which is a whole number; its files are `folder`/`name`-..."""

    def __init__(self, folder: Path, name: str, by: Sequence[str]) -> None:
        self._folder = folder
        self._name = name
        self._by = list(by)
        self._waiting: list[pl.DataFrame] = []
        self._bytes = 0
        self._runs: list[list[Path]] = []

    def add(self, frame: pl.DataFrame) -> None:
        if not len(frame):
            return
        self._waiting.append(frame)
        self._bytes += int(frame.estimated_size())
        if self._bytes >= RUN_BYTES:
            self._write()

    def sorted(self) -> Iterator[pl.DataFrame]:
        """All rows, in order, in frames that are not empty; once."""
        if not self._runs:
            waiting, self._waiting = self._waiting, []
            if waiting:
                yield pl.concat(waiting).sort(self._by, maintain_order=True)
            return
        self._write()
        yield from merge([read_chunks(run) for run in self._runs], self._by)

    def _write(self) -> None:
        if not self._waiting:
            return
        run, self._waiting, self._bytes = pl.concat(self._waiting), [], 0
        number = len(self._runs)
        pieces = run.sort(self._by, maintain_order=True).iter_slices(CHUNK_ROWS)
        self._runs.append(
            [
                write_chunk(self._folder / f"{self._name}-{number:04d}-{place:05d}.arrow", piece)
                for place, piece in enumerate(pieces)
            ]
        )


def write_chunk(path: Path, frame: pl.DataFrame) -> Path:
    frame.write_ipc(path, compression="lz4")
    return path


def read_chunks(paths: Sequence[Path]) -> Iterator[pl.DataFrame]:
    """The frames in these files, each removed once it was read."""
    for path in paths:
        frame = pl.read_ipc(path)
        path.unlink()
        yield frame


def merge(sources: Sequence[Iterator[pl.DataFrame]], by: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The rows of all sources, each of which is sorted by `by`, in one order; what is the same comes in the order of
    the sources."""
    first, by = by[0], list(by)
    going = [_Source(frames, first) for frames in sources]
    while going := [source for source in going if source.fill()]:
        if len(going) == 1:
            yield going[0].rows
            yield from going[0].frames
            return
        bound = min((source.rows[first][-1] for source in going if not source.ended), default=None)
        parts = [part for source in going if len(part := source.take(bound))]
        if parts:
            yield pl.concat(parts).sort(by, maintain_order=True)
        else:  # what has the least value may go on in the next chunk
            for source in going:
                if not source.ended and source.rows[first][-1] == bound:
                    source.more()


class _Source:
    def __init__(self, frames: Iterator[pl.DataFrame], first: str) -> None:
        self.frames = frames
        self.ended = False
        self._first = first
        self.rows = pl.DataFrame()

    def fill(self) -> bool:
        """Whether there are rows, now that more were asked for where there were none."""
        while not len(self.rows) and not self.ended:
            self.more()
        return len(self.rows) > 0

    def more(self) -> None:
        following = next(self.frames, None)
        if following is None:
            self.ended = True
        else:
            self.rows = pl.concat([self.rows, following]) if len(self.rows) else following

    def take(self, bound: int | None) -> pl.DataFrame:
        """The rows below `bound`, or all; they are not here any more."""
        count = len(self.rows) if bound is None else int(self.rows[self._first].search_sorted(bound, "left"))
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken


class Parts:
    """Rows split by a hash of their `_subject` into `count` parts, on disk: all rows of one are in the same part."""

    def __init__(self, folder: Path, name: str, count: int, schema: Mapping[str, pl.DataType]) -> None:
        self.count = count
        self._folder = folder
        self._name = name
        self._schema = dict(schema)
        self._waiting: list[pl.DataFrame] = []
        self._bytes = 0
        self._files: list[list[Path]] = [[] for _ in range(count)]

    def add(self, frame: pl.DataFrame) -> None:
        if not len(frame):
            return
        self._waiting.append(frame)
        self._bytes += int(frame.estimated_size())
        if self._bytes >= PARTS_BYTES:
            self._write()

    def read(self, number: int) -> pl.DataFrame:
        """The rows of a part in the order in which they came; once."""
        self._write()
        return pl.concat([pl.DataFrame(schema=self._schema), *read_chunks(self._files[number])])

    def _write(self) -> None:
        if not self._waiting:
            return
        frame, self._waiting, self._bytes = pl.concat(self._waiting), [], 0
        part = pl.col("_subject").hash(seed=0) % self.count
        for (number,), piece in (
            frame.with_columns(part.alias("_part"))
            .partition_by("_part", as_dict=True, include_key=False, maintain_order=True)
            .items()
        ):
            path = self._folder / f"{self._name}-{number:05d}-{len(self._files[number]):05d}.arrow"
            self._files[number].append(write_chunk(path, piece))
