"""Of an application's specification: fields, and how they are cleaned. By itself: what serves a model knows no more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from skyriver.core.spec_base import FieldName, Spec

FieldType = Literal["int", "float", "text", "bool", "time"]
GRID_LIMIT = 2**22
"""Absolute values of summed fields stay below this unless the field declares more (DESIGN 6.2)."""


class FieldSpec(Spec):
    """One field and its border cleaning, stateless, the same for files, streams and HTTP (DESIGN 6.3).

    In this order: a value is converted to `type` (a text that spells a number counts only in CSV, where
    everything is text), a number is multiplied by `scale` (given in cents, wanted in EUR: 0.01), missing (null,
    absent, NaN) becomes `fill` if there is one, then `ge`..`one_of` are checked. Missing without `fill` is an
    error unless `nullable`. A time is given as ISO 8601 (UTC unless it names an offset) or as a whole number
    of `time_unit` since 1970, and becomes int64 microseconds.
    """

    name: FieldName
    type: FieldType
    nullable: bool = False
    fill: float | int | str | bool | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    one_of: tuple[str | int, ...] = ()
    max_length: int = 4096
    """Of a text, in characters."""
    unit: str = ""
    """What a number counts, e.g. "EUR": shown to people, carried into signatures."""
    scale: float = 1.0
    time_unit: Literal["s", "ms", "us", "ns"] = "us"
    role: Literal["", "id", "time"] = Field(default="", exclude=True)
    """What it is to its row, for the border: an id is no empty text, and of the time of an event a wrong unit is found
    out. Not declared here and not kept: see `with_roles`."""


def with_roles(fields: Iterable[FieldSpec], id: str, time: str = "") -> tuple[FieldSpec, ...]:
    """The fields, of which the border knows what they are."""
    roles = {id: "id", time: "time"}
    return tuple(f.model_copy(update={"role": roles[f.name]}) if f.name in roles else f for f in fields)
