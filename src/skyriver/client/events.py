"""Rows of a Python program as JSON: what they may hold, and how it is told which one holds something else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from skyriver.core.errors import InvalidInput


def rows_as_json(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """NaN is a missing value, null, as it is in files; times are written as ISO 8601. Raises InvalidInput (NOT_JSON)
    that names the row, counted from 0, and the field."""
    if isinstance(rows, Mapping | str | bytes) or not isinstance(rows, Iterable):
        raise InvalidInput(
            f"A list of rows is expected, and this is a {type(rows).__name__}.",
            code="NOT_A_LIST",
            next_action="Put a single row into a list: [row].",
        )
    return json.dumps([_row(row, number) for number, row in enumerate(rows)], allow_nan=False).encode()


def _row(row: object, number: int) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise _refused(f"Row {number} is a {_type(row)}, and not a dict of named values.", "")
    return {str(name): _value(value, name, number) for name, value in row.items()}


def _value(value: object, name: str, number: int) -> object:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise _refused(f"Row {number}: {name} is {value}, and not finite.", name)
        return None if math.isnan(value) else float(value)
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(f"Row {number}: {name} is a {_type(value)}, which JSON has not.", name) from error
    return value  # a list or a dict: the stream refuses it, with the field's name


def _type(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _refused(message: str, field: str) -> InvalidInput:
    action = "Rows hold numbers, texts, truths, times (datetime) and None; write float(x) of a Decimal, x.item() of a"
    return InvalidInput(message, code="NOT_JSON", where=field, next_action=f"{action} number of NumPy.")
