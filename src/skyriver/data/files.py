"""Files as they are given: CSV, Parquet and JSON lines, read in bounded pieces and cleaned at the border.

What is wrong with a file as a whole refuses it whole (DESIGN 6.4): InvalidInput whose `where` is the file's name, with
one of the codes UNKNOWN_FORMAT, UNREADABLE_FILE, EMPTY_FILE, MISSING_COLUMN, DUPLICATE_COLUMN, WRONG_COLUMN_TYPE.
What is wrong with a row is in the `bad` frame of its piece. A file may turn out to be broken after many good
pieces, so nothing of it counts before it is read to the end.

CSV: UTF-8, a header, separated by comma, semicolon or tab (whichever splits the header most), quoted by `"`;
a value without text is missing, a line without any value does not count. Gzip is taken for CSV and JSON lines alike.
JSON lines: one object a line, at most LINE_LIMIT bytes; what does not parse is a bad row. Columns that nobody asked
for are ignored and named.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol, assert_never

import msgspec
import polars as pl

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import FieldSpec, FieldType
from skyriver.data.border import Reason, Rejection, RowCleaner, Value
from skyriver.data.border_frame import RAW_LIMIT, CleanFrame, bad_rows, clean_frame, frame_of, schema_of
from skyriver.data.operations import FORMATS

PIECE_ROWS = 131_072
LINE_ROWS = 32_768
"""Rows of a piece: of columns, and of JSON lines, which weigh more."""
LINE_LIMIT = 1 << 20
_HEAD = 1 << 20
_DELIMITERS = ",;\t"
_GZIP = b"\x1f\x8b"
_NAMED = 20
"""How many ignored columns are named."""


@dataclass(frozen=True, slots=True)
class LoadFile:
    """A file of a load. `name` is what its owner calls it, `label` the label that it holds, `reference` the
    reference whose rows it holds (both "": rows of the source)."""

    path: Path
    name: str
    format: str
    label: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that follow each other, the `first` with this number. `clean` may be called in any thread; it raises
    InvalidInput when the file is to be refused whole."""

    first: int
    rows: int
    clean: Callable[[], CleanFrame]


class SourceFile(Protocol):
    """An opened file. Rows are numbered from 1, a header and empty lines not counted."""

    name: str

    def has(self, column: str) -> bool:
        """Whether rows may hold this column; JSON lines may hold any."""
        ...

    def type_of(self, column: str) -> FieldType:
        """The type by which the values of a column can be read as they are: text in CSV, in JSON lines that of the
        first one that is there. Raises InvalidInput (MISSING_COLUMN, WRONG_COLUMN_TYPE)."""
        ...

    def pieces(self, fields: Sequence[FieldSpec], summed: frozenset[str], rows: int) -> Iterator[Piece]:
        """The file's rows, in order, at most `rows` a piece: the same pieces whenever it is read. Raises InvalidInput
        when the file is to be refused whole."""
        ...

    def clean(self, fields: Sequence[FieldSpec], summed: frozenset[str]) -> Iterator[CleanFrame]:
        """All pieces, cleaned one after the other."""
        for piece in self.pieces(fields, summed, PIECE_ROWS):
            yield piece.clean()

    def ignored(self, fields: Sequence[FieldSpec]) -> list[str]:
        """Columns that are in the file and not among the fields; complete once the file was read to its end."""
        ...


def open_source(path: Path, name: str, format: str) -> SourceFile:
    """Looks at a file's head. Raises InvalidInput with the codes of this module's head."""
    match format:
        case "csv":
            return CsvFile(path, name)
        case "parquet":
            return ParquetFile(path, name)
        case "jsonl":
            return JsonLinesFile(path, name)
        case _:
            known = f"Give files that end in .{', .'.join(FORMATS)}."
            return _refuse(name, "UNKNOWN_FORMAT", f"{format!r} is not a format that can be read.", known)


class CsvFile(SourceFile):
    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self.columns, self._delimiter = self._header()

    def has(self, column: str) -> bool:
        return column in self.columns

    def ignored(self, fields: Sequence[FieldSpec]) -> list[str]:
        return _others(self.columns, fields)

    def type_of(self, column: str) -> FieldType:
        _check_named(self.name, self.columns, column)
        return "text"

    def pieces(self, fields: Sequence[FieldSpec], summed: frozenset[str], rows: int) -> Iterator[Piece]:
        _check_columns(self.name, self.columns, fields)
        seen = 0
        with _readable(self.name):
            frame = pl.scan_csv(self._path, separator=self._delimiter, infer_schema=False, glob=False)
            if len(frame.collect_schema()) != len(self.columns):
                _unreadable(self.name, "its header is not like that of a CSV")
        for piece in _pieces(self.name, frame, rows):
            piece.columns = self.columns
            filled = piece.filter(~pl.all_horizontal(pl.all().is_null()))
            clean = partial(clean_frame, filled, fields, summed, text_numbers=True, first_row=seen + 1)
            yield Piece(seen + 1, len(filled), clean)
            seen += len(filled)
        _check_rows(self.name, seen)

    def _header(self) -> tuple[list[str], str]:
        """The names of the columns and the delimiter."""
        with _readable(self.name), _open(self._path) as file:
            head = file.read(_HEAD)
        if not head.strip(b"\r\n \t\0"):
            _check_rows(self.name, 0)
        try:
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
        except UnicodeDecodeError:
            _refuse(self.name, "UNREADABLE_FILE", "The file is not UTF-8 text.", "Save it as CSV in UTF-8.")
        found: tuple[list[str], str] = ([], ",")
        try:
            for delimiter in _DELIMITERS:
                header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
                found = max(found, (header, delimiter), key=lambda pair: len(pair[0]))
        except csv.Error as error:
            _unreadable(self.name, f"its header cannot be read: {error}")
        columns = [column.strip() for column in found[0]]
        twice = next((c for c in columns if columns.count(c) > 1), None)
        if twice is not None:
            _refuse(self.name, "DUPLICATE_COLUMN", f"The header names {twice!r} more than once.", "Rename one of them.")
        return columns, found[1]


class ParquetFile(SourceFile):
    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        with _readable(name):
            self._frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            self._schema = self._frame.collect_schema()

    def has(self, column: str) -> bool:
        return column in self._schema

    def ignored(self, fields: Sequence[FieldSpec]) -> list[str]:
        return _others(self._schema.names(), fields)

    def type_of(self, column: str) -> FieldType:
        _check_named(self.name, self._schema.names(), column)
        return type_of(self.name, column, self._schema[column])

    def pieces(self, fields: Sequence[FieldSpec], summed: frozenset[str], rows: int) -> Iterator[Piece]:
        _check_columns(self.name, self._schema.names(), fields)
        for field in fields:
            _check_type(self.name, field, self._schema[field.name])
        seen = 0
        for piece in _pieces(self.name, self._frame.select([field.name for field in fields]), rows):
            yield Piece(seen + 1, len(piece), partial(clean_frame, piece, fields, summed, first_row=seen + 1))
            seen += len(piece)
        _check_rows(self.name, seen)


class JsonLinesFile(SourceFile):
    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self._others: dict[str, None] = {}

    def has(self, column: str) -> bool:
        return True

    def ignored(self, fields: Sequence[FieldSpec]) -> list[str]:
        return list(self._others)[:_NAMED]

    def type_of(self, column: str) -> FieldType:
        for line in islice(self._lines(), LINE_ROWS):
            row = _parse(line)
            match row.get(column) if isinstance(row, dict) else None:
                case bool():
                    return "bool"
                case int():
                    return "int"
                case float():
                    return "float"
                case str():
                    return "text"
        return "text"

    def pieces(self, fields: Sequence[FieldSpec], summed: frozenset[str], rows: int) -> Iterator[Piece]:
        cleaner = RowCleaner(fields, summed)
        seen = 0
        lines = self._lines()
        while piece := list(islice(lines, min(rows, LINE_ROWS))):
            if not seen and piece[0].startswith(b"["):
                _refuse(self.name, "UNREADABLE_FILE", "The file is a JSON array.", "Write one object on each line.")
            yield Piece(seen + 1, len(piece), partial(self._clean_piece, piece, seen + 1, cleaner))
            seen += len(piece)
        _check_rows(self.name, seen)

    def _lines(self) -> Iterator[bytes]:
        with _readable(self.name), _open(self._path) as file:
            while line := file.readline(LINE_LIMIT + 1):
                if len(line) > LINE_LIMIT:
                    _unreadable(self.name, f"it has a line of more than {LINE_LIMIT} bytes")
                line = line.removeprefix(codecs.BOM_UTF8).strip()
                if line:
                    yield line

    def _clean_piece(self, lines: list[bytes], first: int, cleaner: RowCleaner) -> CleanFrame:
        names = frozenset(field.name for field in cleaner.fields)
        values: list[list[Value]] = []
        rows: list[int] = []
        bad: list[tuple[int, Rejection, str]] = []
        for number, line in enumerate(lines, first):
            row = _parse(line)
            if isinstance(row, dict) and not names.issuperset(row):
                self._note_others(row, names)
                row = {key: value for key, value in row.items() if key in names}
            answer = cleaner.clean(row) if isinstance(row, dict) else row
            if isinstance(answer, Rejection):
                bad.append((number, answer, line.decode(errors="replace")[:RAW_LIMIT]))
            else:
                values.append(answer)
                rows.append(number)
        if first == 1 and sum(rejection.reason is Reason.UNREADABLE for _, rejection, _ in bad) == len(lines):
            _unreadable(self.name, f"none of its first {len(lines)} lines is a JSON object")
        return CleanFrame(
            frame_of(values, schema_of(cleaner.fields)), pl.Series("row", rows, dtype=pl.Int64), bad_rows(bad)
        )

    def _note_others(self, row: dict[str, object], names: frozenset[str]) -> None:
        for key in row:
            if key not in names and len(self._others) < _NAMED:
                self._others[key] = None


_decoder = msgspec.json.Decoder()


def _parse(line: bytes) -> dict[str, object] | Rejection:
    try:
        row = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejection("", None, Reason.UNREADABLE, f"The line is not JSON: {error}.")
    if isinstance(row, dict):
        return row
    return Rejection("", None, Reason.UNREADABLE, "The line is JSON, but not an object.")


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _pieces(name: str, frame: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    pieces = frame.collect_batches(chunk_size=rows, maintain_order=True)
    while True:
        with _readable(name):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Translates what the libraries raise when a file is not what it should be."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, zlib.error) as error:
        first = str(error).strip().split("\n")[0]
        raise InvalidInput(
            f"The file cannot be read: {first[:200]}.",
            code="UNREADABLE_FILE",
            where=name,
            next_action="Write it again; it may have been cut off on its way here.",
        ) from error


def _check_columns(name: str, columns: Sequence[str], fields: Sequence[FieldSpec]) -> None:
    missing = [field.name for field in fields if field.name not in columns]
    if missing:
        _refuse(
            name,
            "MISSING_COLUMN",
            f"There is no column {', '.join(map(repr, missing))}. The file has {', '.join(columns[:50])}.",
            "Rename the file's columns, or the fields in the declaration.",
        )


def _check_named(name: str, columns: Sequence[str], column: str) -> None:
    if column not in columns:
        _refuse(
            name,
            "MISSING_COLUMN",
            f"There is no column {column!r}. The file has {', '.join(columns[:50])}.",
            "Name one that is there.",
        )


def type_of(name: str, column: str, dtype: pl.DataType) -> FieldType:
    """The type whose values a column of this kind holds. Raises InvalidInput (WRONG_COLUMN_TYPE)."""
    kinds: tuple[FieldType, ...] = ("int", "bool", "text", "time", "float")
    found = next((kind for kind in kinds if _fits(kind, dtype)), None)
    if found is None:
        _refuse(name, "WRONG_COLUMN_TYPE", f"The column {column!r} is {dtype}.", "Write numbers, texts or times there.")
    return found


def _check_type(name: str, field: FieldSpec, dtype: pl.DataType) -> None:
    if not _fits(field.type, dtype):
        advice = "Write it with that type."
        if field.type == "int" and dtype.is_float():
            advice = "Whole numbers with gaps often turn into floats on their way (in pandas use the type Int64)."
        _refuse(
            name,
            "WRONG_COLUMN_TYPE",
            f"The column {field.name!r} is {dtype}; the field is declared {field.type}.",
            advice,
        )


def _fits(kind: FieldType, dtype: pl.DataType) -> bool:
    if dtype == pl.Null:
        return True
    match kind:
        case "int":
            return dtype.is_integer()
        case "float":
            return dtype.is_numeric()
        case "bool":
            return dtype == pl.Boolean
        case "text":
            return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
        case "time":
            return dtype.is_integer() or isinstance(dtype, pl.String | pl.Date | pl.Datetime)
        case other:
            assert_never(other)


def _check_rows(name: str, rows: int) -> None:
    if not rows:
        _refuse(name, "EMPTY_FILE", "The file has no rows.", "Leave it out of the load.")


def _others(columns: Sequence[str], fields: Sequence[FieldSpec]) -> list[str]:
    taken = {field.name for field in fields}
    return [column for column in columns if column not in taken][:_NAMED]


def _unreadable(name: str, why: str) -> NoReturn:
    _refuse(name, "UNREADABLE_FILE", f"The file cannot be read: {why}.", "Check its format and write it again.")


def _refuse(name: str, code: str, message: str, next_action: str) -> NoReturn:
    raise InvalidInput(message, code=code, where=name, next_action=next_action)
