"""Reading events from a file on the user's side, as plain rows to be sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from skyriver.core.errors import InvalidInput


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of JSON lines (`-`: standard input), CSV or Parquet. Types are the file's; the stream checks them.

    Raises InvalidInput naming the file and line.
    """
    if str(path) == "-":
        return _json_lines(sys.stdin.read(), "standard input")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.", code="NO_FILE")
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path.read_text(), path.name)
    if path.suffix not in (".csv", ".parquet"):
        raise InvalidInput(f"{path.name} is neither .jsonl, .csv nor .parquet.", code="UNKNOWN_FORMAT")
    import polars as pl  # 0.1 s and 50 MB that only this needs

    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, try_parse_dates=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"{path.name} cannot be read: {error}", code="UNREADABLE_FILE") from error
    times = [name for name, kind in frame.schema.items() if kind.is_temporal()]
    return frame.with_columns(pl.col(times).cast(pl.String)).to_dicts() if times else frame.to_dicts()


def _json_lines(text: str, name: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"The line is not JSON: {error}.", code="BAD_JSON", where=f"{name}:{number}") from error
        if not isinstance(row, dict):
            raise InvalidInput("The line is not a JSON object.", code="BAD_JSON", where=f"{name}:{number}")
        rows.append(row)
    return rows
