"""From JSON to tensors: strict, naming what is wrong.

A number stands for a number only (no texts, no booleans), whole where the datatype is whole, and inside its range: a
value that FP32 cannot hold is refused rather than made infinite. `null` in a tensor of floats is a missing value
and becomes NaN, as the model's border wants it (DESIGN 6.3); in any other tensor it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from skyriver.core.errors import InvalidInput
from skyriver.release.signature import ANY, TensorSpec
from skyriver.serve.runner import NUMPY_TYPES, Array

_FP16_MAX = math.nextafter(65520.0, 0.0)
_FP32_MAX = math.nextafter(2.0**128 - 2.0**103, 0.0)
"""The largest that is rounded to a finite number: 3.4028235e38, the largest FP32 as it is printed, lies above it."""

_MOST_ELEMENTS = 1 << 40
"""More than a body can hold, less than what overflows."""


def _whole(low: int, high: int) -> Any:
    return list[Annotated[int, Meta(ge=low, le=high)]]


def _float(limit: float) -> Any:
    return list[Annotated[float, Meta(ge=-limit, le=limit)] | None]


_LISTS: Mapping[str, Any] = {
    "BOOL": list[bool],
    "BYTES": list[str],
    "FP16": _float(_FP16_MAX),
    "FP32": _float(_FP32_MAX),
    "FP64": list[float | None],
    **{f"INT{bits}": _whole(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": _whole(0, 2**bits - 1) for bits in (8, 16, 32)},
    "UINT64": list[int],  # its end is beyond what a constraint can say; NumPy refuses the rest
}
_DECODERS = {datatype: msgspec.json.Decoder(kind) for datatype, kind in _LISTS.items()}
_ANY = msgspec.json.Decoder()


def tensor_of_json(spec: TensorSpec, shape: Sequence[int], data: msgspec.Raw) -> Array:
    """The tensor of an Open Inference Protocol input; `data` is flat (row-major) or nested as `shape` says.

    Raises InvalidInput naming the tensor, what was given and what is wanted.
    """
    check_shape(spec, shape)
    try:
        flat = _DECODERS[spec.datatype].decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        flat = _flat_of_any(spec, shape, data)
    if len(flat) != (wanted := math.prod(shape)):
        raise InvalidInput(
            f"Input {spec.name!r}: {len(flat)} values are given,"
            f" the shape {shape_text(shape)} has {count_text(wanted)}.",
            code="WRONG_SIZE",
            where=spec.name,
            next_action="Send as many values as the shape has, or the shape of those that are sent.",
        )
    return array_of(spec, flat).reshape(shape)


def check_shape(spec: TensorSpec, shape: Sequence[int]) -> None:
    fits = len(shape) == len(spec.shape)
    if fits:
        for given, wanted in zip(shape, spec.shape, strict=True):
            if given < 0 or (given != wanted and wanted != ANY):
                fits = False
    if not fits:
        raise InvalidInput(
            f"Input {spec.name!r}: the shape {shape_text(shape)} is given, {list(spec.shape)} is wanted"
            f"{' (-1: any length)' if ANY in spec.shape else ''}.",
            code="WRONG_SHAPE",
            where=spec.name,
            next_action="Send a tensor of that shape."
            if all(given >= 0 for given in shape)
            else "A length that is sent is that of the data: it is not negative.",
        )
    if 0 in shape and math.prod([axis or 1 for axis in shape]) > _MOST_ELEMENTS:  # it hides what NumPy cannot say
        raise InvalidInput(
            f"Input {spec.name!r}: the shape {shape_text(shape)} is larger than any request.",
            code="WRONG_SHAPE",
            where=spec.name,
            next_action="Send a smaller shape.",
        )


def array_of(spec: TensorSpec, flat: Sequence[object]) -> Array:
    """A one-dimensional array of checked values."""
    try:
        return np.array(flat, dtype=NUMPY_TYPES[spec.datatype])
    except OverflowError as error:
        raise InvalidInput(
            f"Input {spec.name!r}: a value does not fit {spec.datatype}.",
            code="WRONG_VALUE",
            where=spec.name,
            next_action=f"Send values that {spec.datatype} can hold.",
        ) from error


def values_of(spec: TensorSpec, flat: list[object]) -> list[object]:
    """`flat` with every value as the datatype wants it. Raises InvalidInput naming the first that is not."""
    try:
        checked: list[object] = msgspec.convert(flat, _LISTS[spec.datatype])
    except msgspec.ValidationError as error:
        position, given = _first_wrong(spec, flat)
        raise InvalidInput(
            f"Input {spec.name!r}: {show(given)} at position {position} is no {spec.datatype} value:"
            f" {_wanted(spec.datatype, given)}.",
            code="WRONG_VALUE",
            where=spec.name,
            next_action="A number is written without quotes."
            if isinstance(given, str) and spec.datatype != "BYTES"
            else "",
        ) from error
    return checked


def _wanted(datatype: str, given: object) -> str:
    kind = NUMPY_TYPES[datatype]
    if kind.kind in "bO":
        return "true or false is wanted" if kind.kind == "b" else "a text is wanted"
    if isinstance(given, bool) or not isinstance(given, int | float):
        return "a number is wanted" if kind.kind == "f" else "a whole number is wanted"
    if kind.kind == "f":
        return f"its values are from {np.finfo(kind).min:.4g} to {np.finfo(kind).max:.4g}"
    if isinstance(given, float) and not given.is_integer():
        return "a whole number is wanted"
    return f"its values are from {np.iinfo(str(kind)).min} to {np.iinfo(str(kind)).max}"


def flatten(name: str, value: object, shape: Sequence[int]) -> list[object]:
    """The values of nested lists, row-major. Raises InvalidInput (WRONG_SHAPE) where the nesting is not `shape`
    (-1: any length, but the same everywhere)."""
    lengths = list(shape)
    level: list[object] = [value]
    for axis in range(len(lengths)):
        below: list[object] = []
        for part in level:
            if not isinstance(part, list) or (lengths[axis] not in (ANY, len(part))):
                given = f"a list of {len(part)}" if isinstance(part, list) else show(part)
                wanted = "a list" if lengths[axis] == ANY else f"a list of {lengths[axis]}"
                raise InvalidInput(
                    f"Input {name!r}: {given} stands where {wanted} is wanted (shape {list(shape)}).",
                    code="WRONG_SHAPE",
                    where=name,
                    next_action="Give all lists of one level the same length, as the shape has it.",
                )
            lengths[axis] = len(part)
            below.extend(part)
        level = below
    for part in level:
        if isinstance(part, list | dict):
            raise InvalidInput(
                f"Input {name!r}: {show(part)} stands where a single value is wanted (shape {list(shape)}).",
                code="WRONG_SHAPE",
                where=name,
                next_action="Nest the lists as deep as the shape is long.",
            )
    return level


def show(value: object) -> str:
    """A value as JSON, cut: it is quoted in errors."""
    try:
        text = msgspec.json.encode(value[:80] if isinstance(value, str | list | bytes) else value).decode(
            errors="replace"
        )
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def quoted(name: str) -> str:
    """A name that somebody sent, cut: it is quoted in errors."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def count_text(count: int) -> str:
    """Python itself refuses to print numbers of very many digits, and who reads an error has no use for them."""
    return str(count) if abs(count) < 1 << 64 else "..."


def shape_text(shape: Sequence[int]) -> str:
    axes = [count_text(axis) for axis in shape[:20]]
    return f"[{', '.join(axes)}{', ...' if len(shape) > 20 else ''}]"


def _flat_of_any(spec: TensorSpec, shape: Sequence[int], data: msgspec.Raw) -> list[object]:
    if not bytes(data):
        raise InvalidInput(
            f"Input {spec.name!r} has no data.",
            code="MISSING_DATA",
            where=spec.name,
            next_action="Send its values as `data`, a list.",
        )
    try:
        value = _ANY.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"Input {spec.name!r}: {error}.",
            code="BAD_JSON",
            where=spec.name,
            next_action="Send `data` as JSON: a list of values.",
        ) from error
    if not isinstance(value, list):
        raise InvalidInput(
            f"Input {spec.name!r}: data is {show(value)}, a list is wanted.",
            code="WRONG_VALUE",
            where=spec.name,
            next_action="Send its values as `data`, a list.",
        )
    nested = any(isinstance(part, list) for part in value)
    return values_of(spec, flatten(spec.name, value, shape) if nested else value)


def _first_wrong(spec: TensorSpec, flat: list[object]) -> tuple[int, object]:
    for position, value in enumerate(flat):
        try:
            msgspec.convert([value], _LISTS[spec.datatype])
        except msgspec.ValidationError:
            return position, value
    return 0, flat
