"""Reading events from a file on the user's side, as plain rows to be sent."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skyriver.core.errors import InvalidInput

_WHOLE = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DELIMITERS = (",", ";", "\t")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def file_format(path: Path) -> str:
    """By its ending; text may be packed with gzip (`.csv.gz`)."""
    endings = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
    packed = path.suffix == ".gz"
    found = endings.get(Path(path.stem).suffix if packed else path.suffix)
    if found is None or (packed and found == "parquet"):
        raise InvalidInput(
            f"{path.name} is of no known format.",
            code="UNKNOWN_FORMAT",
            next_action=f"Give files that end in {', '.join(endings)}; text may be packed, as in .csv.gz.",
        )
    return found


def read_rows(path: Path, types: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """`numbered_rows` without their numbers."""
    return [row for _, row in numbered_rows(path, types)]


def numbered_rows(path: Path, types: Mapping[str, str] | None = None) -> list[tuple[int, dict[str, Any]]]:
    """Rows, with the lines where they end (in Parquet: their places, from 1), of JSON lines (`-`, a pipe or a device:
    what comes there), CSV or Parquet, for the stream to check. A cell of a CSV becomes what `types` say of its column
    ("int", "float", "bool", "time" or "text") where it is that; of a column of which they say nothing, what it looks
    like. So a cell that is wrong is wrong alone.

    Raises InvalidInput naming the file and line.
    """
    if str(path) == "-":
        return _json_lines(sys.stdin.read(), "standard input")
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe, /dev/stdin, /dev/null
        return _json_lines(read_text(path), str(path))
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder.", code="NO_FILE", next_action="Name one file in it.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.", code="NO_FILE", next_action="Check its path.")
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        return _json_lines(read_text(path), path.name)
    if path.suffix not in (".csv", ".parquet"):
        raise InvalidInput(
            f"{path.name} is of no known format.",
            code="UNKNOWN_FORMAT",
            next_action="Give a file that ends in .jsonl, .ndjson, .csv or .parquet.",
        )
    if path.suffix == ".csv":
        return _csv_rows(path, types or {})
    import polars as pl  # 0.1 s and 50 MB that only this needs

    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        what = str(error).strip().split("\n")[0]
        raise InvalidInput(
            f"The file cannot be read: {what}.",
            code="UNREADABLE_FILE",
            where=path.name,
            next_action="Write it again; it may have been cut off on its way here.",
        ) from error
    times = [name for name, kind in frame.schema.items() if kind.is_temporal()]
    return [*enumerate((frame.with_columns(pl.col(times).cast(pl.String)) if times else frame).to_dicts(), 1)]


def _csv_rows(path: Path, types: Mapping[str, str]) -> list[tuple[int, dict[str, Any]]]:
    """Delimiters, names and empty lines as `skyriver table load` takes them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            delimiter = max(_DELIMITERS, key=lambda sign: len(next(csv.reader([head], delimiter=sign), [])))
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader, [])]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise _bad_csv(f"The header names {twice!r} more than once.", path.name, "Rename one of them.")
            kinds = [types.get(name, "") for name in names]
            rows = []
            for cells in reader:
                if len(cells) != len(names) and any(cells):
                    message = f"The row has {len(cells)} cells, the header {len(names)}."
                    raise _bad_csv(message, f"{path.name}:{reader.line_num}", "Correct it; nothing was sent.")
                if any(cells):
                    row = {n: _cell(text, kind) for n, text, kind in zip(names, cells, kinds, strict=True)}
                    rows.append((reader.line_num, row))
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        action = "Save it as CSV in UTF-8; it may have been cut off on its way here."
        raise _bad_csv(f"The file cannot be read: {why}.", path.name, action) from error


def _bad_csv(message: str, where: str, action: str) -> InvalidInput:
    return InvalidInput(message, code="UNREADABLE_FILE", where=where, next_action=action)


def _cell(text: str, kind: str) -> Any:
    """What a cell of a CSV says, None for nothing; the text where it is not of this kind."""
    if not text or kind == "text":
        return text or None
    bare = text.strip(" \t")
    if kind == "bool" or not kind:
        truth = _TRUTHS.get(bare.lower())
        if truth is not None and (kind or not bare.isdigit()):
            return truth
    elif not bare or (kind in ("int", "float") and bare.lower() == "nan"):
        return None
    if kind != "bool" and _WHOLE.fullmatch(bare):
        return int(bare)
    if kind in ("float", "") and len(bare) <= 400 and _NUMBER.fullmatch(bare) and math.isfinite(number := float(bare)):
        return number  # an infinity has no JSON: it would keep back all rows of its request
    return text


def read_text(path: Path) -> str:
    """Raises InvalidInput for a file that is away, closed to us or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidInput(f"There is no file {path}.", code="NO_FILE", next_action="Check its path.") from error
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error.strerror)
        raise InvalidInput(
            f"The file cannot be read: {why}.",
            code="UNREADABLE_FILE",
            where=str(path),
            next_action="Check its format and its mode.",
        ) from error


def _json_lines(text: str, name: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _bad_line(f"The line is not JSON: {error}.", name, number) from error
        if not isinstance(row, dict):
            raise _bad_line("The line is JSON, but not an object.", name, number)
        rows.append((number, row))
    return rows


def _bad_line(message: str, name: str, number: int) -> InvalidInput:
    action = 'Write one object a line, as in {"id": 1, "amount": 9.5}; nothing was sent.'
    return InvalidInput(message, code="BAD_JSON", where=f"{name}:{number}", next_action=action)
