"""What every load does with its files: clean them, count, and keep what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from skyriver.core.errors import InvalidInput, disk_error
from skyriver.core.jobs import Progress
from skyriver.core.spec import FieldSpec
from skyriver.data.border_frame import BAD_SCHEMA, CleanFrame
from skyriver.data.files import LoadFile, open_source
from skyriver.data.tables import Tables, TableVersion

EXAMPLES = 10
DEAD_SCHEMA: dict[str, pl.DataType] = {"_offset": pl.Int64(), "file": pl.String(), **BAD_SCHEMA}
"""The table of rows that loads refused; `_offset` is the load's."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of a load's rows: `rows_read` are `rows_good` and the bad ones, of which `duplicates` and
    `label_duplicates` were left out. Times are of events, microseconds, None without any."""

    rows_read: int
    rows_good: int
    bad: Mapping[str, int]
    """By reason."""
    examples: tuple[dict[str, Any], ...]
    """The first bad rows: file, row, field, reason, message."""
    duplicates: int
    labels: int
    label_duplicates: int
    first_time: int | None
    last_time: int | None
    ignored: Mapping[str, tuple[str, ...]]
    """Columns that no field took, by file."""
    repeated: bool = False
    """This load had been done before; nothing was read."""
    version: TableVersion | None = None
    """Of a plain table."""
    references: int = 0
    """Rows of references."""

    def to_json(self) -> dict[str, Any]:
        return {
            "rows_read": self.rows_read,
            "rows_good": self.rows_good,
            "bad": dict(self.bad),
            "examples": list(self.examples),
            "duplicates": self.duplicates,
            "labels": self.labels,
            "references": self.references,
            "label_duplicates": self.label_duplicates,
            "first_time": self.first_time,
            "last_time": self.last_time,
            "ignored": {name: list(columns) for name, columns in self.ignored.items()},
            "repeated": self.repeated,
        }


@dataclass(slots=True)
class Intake:
    """Counts what the border says, and keeps bad rows on disk: there may be millions before a load is refused."""

    work_dir: Path
    progress: Progress
    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)
    dead: list[Path] = field(default_factory=list)
    ignored: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def clean(self, file: LoadFile, fields: Sequence[FieldSpec], summed: frozenset[str]) -> Iterator[CleanFrame]:
        """The good rows of a file; fields that it does not have and that may be missing there are for the caller."""
        source = open_source(file.path, file.name, file.format)
        done = 0
        for cleaned in source.clean(fields, summed):
            done += len(cleaned.good) + len(cleaned.bad)
            self.rows += len(cleaned.good) + len(cleaned.bad)
            self.refuse(file.name, cleaned.bad)
            self.progress(f"cleaning {file.name}", done, 0)
            yield cleaned
        others = source.ignored(fields)
        if others:
            self.ignored[file.name] = tuple(others)

    def refuse(self, file: str, bad: pl.DataFrame) -> None:
        if not len(bad):
            return
        self.bad.update(bad["reason"].to_list())
        for row in bad.head(EXAMPLES - len(self.examples)).iter_rows(named=True):
            self.examples.append({"file": file, **{key: row[key] for key in ("row", "field", "reason", "message")}})
        path = self.work_dir / f"dead-{len(self.dead):06d}.arrow"
        bad.select(pl.lit(file).alias("file"), pl.all()).write_ipc(path)
        self.dead.append(path)

    def check(self, max_bad: float) -> None:
        """Raises InvalidInput when there were no files, or too many of their rows were bad."""
        if not self.rows:
            raise InvalidInput(
                "A load needs at least one file.", code="NO_FILES", next_action="Name a file that has rows."
            )
        action = "Correct the files or the declaration of the fields, or raise max_bad."
        check_bad(self.rows, self.bad, self.examples, max_bad, action)

    def report(
        self,
        *,
        duplicates: int,
        labels: int = 0,
        references: int = 0,
        label_duplicates: int = 0,
        first_time: int | None = None,
        last_time: int | None = None,
        version: TableVersion | None = None,
    ) -> LoadReport:
        return LoadReport(
            rows_read=self.rows,
            rows_good=self.rows - self.bad.total(),
            bad=dict(self.bad),
            examples=tuple(self.examples),
            duplicates=duplicates,
            labels=labels,
            references=references,
            label_duplicates=label_duplicates,
            first_time=first_time,
            last_time=last_time,
            ignored=dict(self.ignored),
            version=version,
        )


def check_bad(
    rows: int, bad: Counter[str], examples: Sequence[Mapping[str, Any]], max_bad: float, next_action: str
) -> None:
    """Raises InvalidInput (TOO_MANY_BAD_ROWS) where more than the share `max_bad` of the rows are bad: `bad` counts
    them by reason, `examples` are the first."""
    count = bad.total()
    if count > max_bad * rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.most_common())
        first = examples[0]
        raise InvalidInput(
            f"{count} of {rows} rows are bad ({reasons}); at most {max_bad:.1%} may be."
            f" The first is row {first['row']}: {first['message']}",
            code="TOO_MANY_BAD_ROWS",
            where=first["file"],
            next_action=next_action,
            details=tuple(dict(example) for example in examples),
        )


def append_dead(
    tables: Tables, name: str, dead: Sequence[Path], offset: int, *, version_offset: int | None = None
) -> TableVersion | None:
    """Appends refused rows of the load at `offset` to the table `name`; None when there are none. `version_offset` is
    the table's own, where that of the load will not do."""
    if not dead:
        return None
    frames = [pl.read_ipc(path).select(pl.lit(offset, dtype=pl.Int64).alias("_offset"), pl.all()) for path in dead]
    return tables.append(name, frames, offset=offset if version_offset is None else version_offset, known=None)


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, "The files cannot be written", str(folder)) from error
