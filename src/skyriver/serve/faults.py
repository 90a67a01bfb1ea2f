"""What is wrong with rows of named fields, in words; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

from skyriver.core.errors import InvalidInput
from skyriver.data.border import Reason, Rejection
from skyriver.serve.tensors import show

_NAMED: Final = 30
"""Fields that an error lists."""
_TOLD: Final = 5
"""Fields that its message names."""
ERRORS_SHOWN: Final = 20
_LONGEST: Final = 64
"""Characters of a name for which a near one is looked for."""


def fault_of(wrong: Rejection) -> dict[str, Any]:
    """What is wrong with a row, for `invalid_fields`."""
    return {
        "field": wrong.field,
        "value": _short(wrong.value),
        "reason": str(wrong.reason),
        "message": wrong.message,
    }


def faults_of(
    row: Mapping[str, object], wrong: Rejection, names: Set[str], required: Sequence[str]
) -> list[dict[str, Any]]:
    """The same, with all names of the row that are none of `names`, and all of `required` that are not there: who
    misspells a field leaves one out, too, and wants to be told of both."""
    absent = [name for name in required if name not in row]
    found = [fault_of(wrong)]
    unknown = (name for name in row if name not in names and name != wrong.field)
    for name in islice(unknown, ERRORS_SHOWN):  # a body may have a million of them
        near = get_close_matches(name, (absent or sorted(names))[:_NAMED], n=1) if len(name) <= _LONGEST else []
        message = f"{show(name)} is no field of it{f': is {show(near[0])} meant?' if near else '.'}"
        found.append(fault_of(Rejection(name, row[name], Reason.UNKNOWN_FIELD, message)))
    for name in (name for name in absent if name != wrong.field):
        found.append(fault_of(Rejection(name, None, Reason.MISSING, f"{name} is missing.")))
    if wrong.reason not in (Reason.UNKNOWN_FIELD, Reason.MISSING):
        return found
    return sorted(found, key=lambda fault: bool(fault["reason"] != Reason.UNKNOWN_FIELD))


def invalid_fields(errors: Sequence[dict[str, Any]], next_action: str) -> InvalidInput:
    """`errors`: as `fault_of` has them, with the number of the `row` where rows were asked for."""
    first = errors[0]
    of_row = [error for error in errors if error.get("row") == first.get("row")]
    return InvalidInput(
        _told(of_row),
        code="INVALID_FIELD",
        where=f"row {first['row']}, {first['field']}" if "row" in first else first["field"],
        next_action=next_action,
        details=tuple(errors[:ERRORS_SHOWN]),
    )


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _told(errors: Sequence[Mapping[str, Any]]) -> str:
    """In one sentence each; those that are missing in one together."""
    missing = [str(error["field"]) for error in errors if error["reason"] == Reason.MISSING]
    others = [str(error["message"]) for error in errors if error["reason"] != Reason.MISSING]
    told = others[:_TOLD] + (["Others are no fields of it either."] if len(others) > _TOLD else [])
    if len(missing) == 1:
        told += [str(error["message"]) for error in errors if error["reason"] == Reason.MISSING]
    elif missing:
        names, more = missing[:_TOLD], len(missing) - _TOLD
        last = f"{more} more" if more > 0 else names.pop()
        told.append(f"{', '.join(names)} and {last} are missing.")
    return " ".join(told)


def _short(value: object) -> object:
    """A refused value as it goes back: a plain one as it is, what is long or nested cut."""
    plain = value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 80)
    return value if plain else show(value)
