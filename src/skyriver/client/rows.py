"""Reading events from a file on the user's side, as plain rows to be sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from skyriver.core.errors import InvalidInput


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of JSON lines (`-`, a pipe or a device: what comes there), CSV or Parquet. Types are the file's; the stream
    checks them.

    Raises InvalidInput naming the file and line.
    """
    if str(path) == "-":
        return _json_lines(sys.stdin.read(), "standard input")
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe, /dev/stdin, /dev/null
        return _json_lines(read_text(path), str(path))
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
    import polars as pl  # 0.1 s and 50 MB that only this needs

    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, try_parse_dates=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        what = str(error).strip().split("\n")[0]
        raise InvalidInput(
            f"The file cannot be read: {what}.",
            code="UNREADABLE_FILE",
            where=path.name,
            next_action="Write it again; it may have been cut off on its way here.",
        ) from error
    times = [name for name, kind in frame.schema.items() if kind.is_temporal()]
    return frame.with_columns(pl.col(times).cast(pl.String)).to_dicts() if times else frame.to_dicts()


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


def _json_lines(text: str, name: str) -> list[dict[str, Any]]:
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
        rows.append(row)
    return rows


def _bad_line(message: str, name: str, number: int) -> InvalidInput:
    action = 'Write one object a line, as in {"id": 1, "amount": 9.5}; nothing was sent.'
    return InvalidInput(message, code="BAD_JSON", where=f"{name}:{number}", next_action=action)
