"""Rows of Parquet files, or of a Delta table, which may be larger than memory."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from skyriver.core.names import nearest
from skyriver.core.spec_augment import AugmentSpec
from skyriver.train.feed.augment import augmented
from skyriver.train.feed.footer import NoFooter, read_footer
from skyriver.train.feed.lanes import LANES, LaneOrder, Piece
from skyriver.train.feed.windows import Windows
from skyriver.train.memory import is_out_of_memory

if TYPE_CHECKING:
    import polars as pl

BLOCK_ROWS: Final = 65_536
BLOCK_BYTES: Final = 8 << 20
"""The most that a block is to have, in memory."""
_LEAST_ROWS: Final = 1_024
"""That a block may have, however wide the rows are."""
WINDOW: Final = 16
_ROWS: Final = 'Write sr.rows("folder/*.parquet", x=["a", "b"], y="label").'


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    seen: tuple[int, int, int]
    """Size, time of the last change and inode, as it was opened."""
    columns: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows of a file that are read at once."""

    file: int
    first: int
    rows: int


class FileRows:
    """What `ctx.steps` goes through: batches are tuples of float32 tensors x (n, f), y (n,) and weights (n,), the
    latter two where they were asked for.

    Memory: at most `2 * window + 2 * LANES` blocks (of at most 65,536 rows and about 8 MB) of the lanes that a worker
    has a share of, and two more that are being read.
    """

    def __init__(
        self, files: Sequence[Path], columns: Sequence[str], kinds: int, *, missing: bool, window: int, fill: bool
    ) -> None:
        """`columns`: those of x, then one each for y and weights if `kinds` is 2 or 3; `missing`: x may have some;
        `fill`: a column that a file has not is missing there."""
        self.columns, self.kinds, self._missing = tuple(columns), kinds, missing
        self._window = -(-window // LANES)
        self._files: list[_File] = []
        self._blocks: list[_Block] = []
        told = hashlib.sha256(repr((self.columns, kinds, missing, self._window)).encode())
        largest = max(_LEAST_ROWS, min(BLOCK_ROWS, BLOCK_BYTES // (4 * len(columns))))
        for path in files:
            groups, digest = self._open(path, fill=fill)
            told.update(digest.encode())
            first = 0
            for rows in _blocks(groups, largest):
                self._blocks.append(_Block(len(self._files) - 1, first, rows))
                first += rows
        self.identity = int.from_bytes(told.digest()[:7], "big")
        """Of what the rows are, and in which order they come: a training goes on with the same alone."""
        self._rows = sum(block.rows for block in self._blocks)
        if not self._rows:
            raise InvalidInput(
                f"There is no row in {_named(files)}.", code="EMPTY_FILE", next_action="Give files that have rows."
            )

    def __len__(self) -> int:
        return self._rows

    @property
    def features(self) -> int:
        return len(self.columns) - self.kinds + 1

    def batches(
        self, batch: int, epochs: int = 1, seed: int = 0, *, augment: Sequence[AugmentSpec] = ()
    ) -> Iterator[tuple[NDArray[np.float32], ...]]:
        """What `ctx.steps` hands to a single worker, as arrays, for a training of another kind; read ahead too."""
        order = self.order(min(batch, len(self)), epochs, seed)
        reader = self.reader(order)
        try:
            for step in range(order.steps):
                part = slice(0, order.count(step))
                found = self.parts(reader.take(step, part))
                epoch = step // order.steps_of_epoch
                yield augmented(found, order.rows_of(step, part), augment, seed, epoch) if augment else found
        finally:
            reader.close()

    def order(self, batch: int, epochs: int, seed: int, *, drop_last: bool = False) -> LaneOrder:
        blocks = tuple(block.rows for block in self._blocks)
        return LaneOrder(self._rows, batch, epochs, seed, drop_last, blocks, self._window)

    def reader(self, order: LaneOrder) -> Windows:
        return Windows(order, self._read, len(self.columns))

    def parts(self, table: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Of rows with all columns: x, y and weights, as far as they were asked for."""
        more = (np.ascontiguousarray(table[:, self.features + place]) for place in range(self.kinds - 1))
        return (np.ascontiguousarray(table[:, : self.features]), *more)

    def _open(self, path: Path, *, fill: bool) -> tuple[tuple[int, ...], str]:
        """The rows of its row groups, and the digest of its footer."""
        import polars as pl

        try:
            seen = _seen(path)
            footer = read_footer(path)
            schema = pl.read_parquet_schema(path)
        except (NoFooter, OSError, pl.exceptions.PolarsError) as error:
            raise _unreadable(path, error) from error
        for column in self.columns:
            if column not in schema:
                if not fill:
                    raise InvalidInput(
                        f"There is no column {column!r} in {path.name}.",
                        code="MISSING_COLUMN",
                        where=str(path),
                        next_action=f"It has {', '.join(list(schema)[:30])}.",
                    )
            elif not (schema[column].is_numeric() or schema[column] == pl.Boolean):
                raise InvalidInput(
                    f"The column {column!r} of {path.name} holds {schema[column]}, no numbers.",
                    code="WRONG_COLUMN_TYPE",
                    where=str(path),
                    next_action="Write numbers for it, as by a feature of the application, or leave it out.",
                )
        self._files.append(_File(path, seen, frozenset(schema) & frozenset(self.columns)))
        return footer.groups, footer.digest

    def _read(self, piece: Piece) -> NDArray[np.float32]:
        """Rows (n, all columns)."""
        import polars as pl

        block = self._blocks[piece.block]
        file, first, rows = self._files[block.file], block.first + piece.begin, piece.end - piece.begin
        self._check_unchanged(file)
        try:
            frame = pl.scan_parquet(file.path, glob=False, hive_partitioning=False).slice(first, rows)
            found = frame.select(_column(name, file) for name in self.columns).collect()
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            self._check_unchanged(file)
            raise _unreadable(file.path, error) from error
        self._check_unchanged(file)
        if len(found) != rows:
            raise _unreadable(file.path, f"it has {len(found)} of {rows} rows from {first} on")
        table = found.to_numpy(order="c", writable=False)
        self._check_values(table, file, first)
        return table

    def _check_unchanged(self, file: _File) -> None:
        try:
            if _seen(file.path) == file.seen:
                return
        except OSError as error:
            raise _unreadable(file.path, error) from error
        raise Conflict(
            f"{file.path.name} was changed while it is trained on: its rows are not those of the epoch before.",
            code="FILE_CHANGED",
            where=str(file.path),
            next_action="Write a file anew under another name, or train on a version of a table.",
        )

    def _check_values(self, table: NDArray[np.float32], file: _File, first: int) -> None:
        if np.isfinite(table).all():
            return
        wrong = np.isinf(table)
        wrong |= np.isnan(table) & (np.arange(len(self.columns)) >= (self.features if self._missing else 0))
        if not wrong.any():
            return
        row, column = (int(n[0]) for n in np.nonzero(wrong))
        is_nan = bool(np.isnan(table[row, column]))
        what, code = ("no value", "MISSING_VALUE") if is_nan else ("an infinite value, as float32", "NOT_FINITE")
        may = is_nan and column < self.features
        raise InvalidInput(
            f"Row {first + row + 1:,} of {file.path.name} has {what} in {self.columns[column]!r}.",
            code=code,
            where=str(file.path),
            next_action="Fill it, or write sr.rows(..., missing=True) to get NaN." if may else "Remove such rows.",
        )


def rows(
    files: str | Path | Sequence[str | Path],
    *,
    x: Sequence[str],
    y: str = "",
    weight: str = "",
    missing: bool = False,
    window: int = WINDOW,
    version: int | None = None,
) -> FileRows:
    """Rows for `ctx.steps`, of Parquet files (paths, which may have `*`) or of the folder of a Delta table, as it is
    now or at a `version`. They may be larger than memory: they are read in blocks of up to 65,536 rows, of which
    `window` (a multiple of 8) are shuffled together; see `skyriver.train.feed.lanes` for how random that is.

    `x` and `y` are columns of numbers, `weight` one of row weights. Without `missing` a row without a value in `x` is
    refused.

    Raises InvalidInput (BAD_DATASET, EMPTY_FILE, MISSING_COLUMN, WRONG_COLUMN_TYPE, UNREADABLE_FILE), NotFound
    (NO_FILE); while rows are taken also InvalidInput (MISSING_VALUE, NOT_FINITE), Conflict (FILE_CHANGED).
    """
    if isinstance(x, str) or not x:
        raise InvalidInput(f"x={x!r} is no list of columns.", code="BAD_DATASET", next_action=_ROWS)
    columns = [*x, *([y] if y else []), *([weight] if weight else [])]
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise InvalidInput(
            f"The column {twice[0]!r} is named twice: what a model learns is no input of it.",
            code="BAD_DATASET",
            next_action="Name each column once.",
        )
    if weight and not y:
        raise InvalidInput("There is a weight and no y.", code="BAD_DATASET", next_action=_ROWS)
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= 4096:
        raise InvalidInput(
            f"window={window!r} is no number of blocks from 1 to 4096.",
            code="BAD_DATASET",
            next_action="Leave it out for 16.",
        )
    given = [files] if isinstance(files, str | Path) else list(files)
    first = Path(given[0]) if len(given) == 1 else None
    is_delta = first is not None and (first / "_delta_log").is_dir()
    if version is not None and not is_delta:
        raise InvalidInput(
            f"There is no Delta table in {given[0] if given else 'nothing'}: only one has versions.",
            code="BAD_DATASET",
            next_action="Leave version= out.",
        )
    found = _of_delta(first, version, columns) if first is not None and is_delta else _of_paths(given)
    return FileRows(found, columns, 1 + bool(y) + bool(weight), missing=missing, window=window, fill=is_delta)


def _of_paths(given: Iterable[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(str, given):
        if "://" in path:
            raise InvalidInput(
                f"{path} is not on this machine.",
                code="BAD_DATASET",
                next_action="Load it into a table, or copy the files: they are read once an epoch.",
            )
        place = Path(path)
        these = sorted(place.glob("*.parquet")) if place.is_dir() else sorted(map(Path, glob.glob(path)))  # noqa: PTH207
        if not these:
            raise NotFound(f"There is no file {path}.", code="NO_FILE", where=path, next_action="Look at the path.")
        found += these
    if not found:
        raise InvalidInput("There is no file given.", code="BAD_DATASET", next_action=_ROWS)
    return list(dict.fromkeys(found))


def _of_delta(folder: Path, version: int | None, columns: Sequence[str]) -> list[Path]:
    """Its data files, in an order that the version alone decides; `columns` are those that they are read for."""
    import deltalake

    try:
        table = deltalake.DeltaTable(folder, version=version)
        features, metadata = table.protocol().reader_features or [], table.metadata()
        known = [field.name for field in table.schema().fields]
        files = sorted(Path(path.removeprefix("file://")) for path in table.file_uris())
    except (deltalake.exceptions.DeltaError, OSError, ValueError) as error:
        raise NotFound(
            f"The Delta table {folder} cannot be read{'' if version is None else f' at version {version}'}:"
            f" {_line(error)}.",
            code="NO_FILE",
            where=str(folder),
            next_action="Give the folder of a table, and a version that it has.",
        ) from error
    if "deletionVectors" in features:
        raise InvalidInput(
            f"The Delta table {folder} has rows that are deleted by vectors, which are not read here.",
            code="BAD_DATASET",
            where=str(folder),
            next_action="Rewrite the table without deletion vectors (in Spark: REORG TABLE ... APPLY (PURGE)).",
        )
    if metadata.configuration.get("delta.columnMapping.mode", "none") != "none":
        raise InvalidInput(
            f"The Delta table {folder} has column mapping: its files have other names for the columns than itself.",
            code="BAD_DATASET",
            where=str(folder),
            next_action="Write its rows into a table without column mapping, and give that one.",
        )
    for column in columns:  # a file without it is filled: only the table knows whether there is such a column
        if column not in known:
            near = get_close_matches(column, known, n=1) or known[:30]
            raise InvalidInput(
                f"There is no column {column!r} in the Delta table {folder}{nearest(column, near)}.",
                code="MISSING_COLUMN",
                where=str(folder),
                next_action="Correct the name, or give a version of the table that has the column.",
            )
        if column in metadata.partition_columns:
            raise InvalidInput(
                f"The Delta table {folder} is partitioned by {column!r}, and the files have no such column.",
                code="BAD_DATASET",
                where=str(folder),
                next_action="Leave it out, or write the same values into a column that it is not partitioned by.",
            )
    if not files:
        raise InvalidInput(f"There is no row in {folder}.", code="EMPTY_FILE", next_action="Give one that has rows.")
    return [path if path.is_absolute() else folder / path for path in files]


def _blocks(groups: Sequence[int], largest: int) -> list[int]:
    """Rows of the blocks of a file: small row groups together, large ones cut evenly."""
    found: list[int] = []
    room = 0
    for rows in groups:
        if rows <= room:
            found[-1] += rows
            room -= rows
            continue
        many = -(-rows // largest)
        found += [(n + 1) * rows // many - n * rows // many for n in range(many)]
        room = largest - rows if many == 1 else 0
    return found


def _column(name: str, file: _File) -> pl.Expr:
    import polars as pl

    if name not in file.columns:
        return pl.lit(float("nan"), pl.Float32).alias(name)
    return pl.col(name).cast(pl.Float32).fill_null(float("nan"))


def _seen(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)  # noqa: PTH116
    return found.st_size, found.st_mtime_ns, found.st_ino


def _named(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{len(files)} files"


def _line(error: object) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _unreadable(path: Path, why: object) -> InvalidInput | Unavailable:
    if isinstance(why, BaseException) and is_out_of_memory(why):
        return InvalidInput(
            f"There is not enough memory to read {path.name}.",
            code="OUT_OF_MEMORY",
            where=str(path),
            next_action=f"Hold fewer blocks, as sr.rows(..., window=8) ({WINDOW} unless given), or fewer workers=.",
        )
    if isinstance(why, OSError) and not isinstance(why, FileNotFoundError):
        return Unavailable(
            f"{path.name} cannot be read now: {why.strerror or why}.",
            code="UNREADABLE_FILE",
            where=str(path),
            next_action="See whether its disk is there, and whether it may be read; then go on.",
        )
    return InvalidInput(
        f"{path.name} cannot be read: {'it is gone' if isinstance(why, FileNotFoundError) else _line(why)}.",
        code="UNREADABLE_FILE",
        where=str(path),
        next_action="Write the file anew, whole, as Parquet; of CSV by `polars.scan_csv(FILE).sink_parquet(NEW)`.",
    )
