"""A made-up request to a model, as a command that can be typed."""

from __future__ import annotations

import json
import math
import shlex

from skyriver.release.signature import ANY, Signature, TensorSpec

_IN_FULL = 64
"""Values; more of them are written by a program."""


def curl_line(url: str, model: str, signature: Signature) -> str:
    """Asks `/predict` for one row of made-up values, each input in its own shape."""
    to = f"{url}/predict/{model}"
    if sum(math.prod(_row_shape(t)) for t in signature.inputs) <= _IN_FULL:
        row = {t.name: _nested(_value(t), _row_shape(t)) for t in signature.inputs}
        return f"curl -s {to} -d {shlex.quote(json.dumps(row))}"
    pairs = (f"{t.name!r}: {_repeated(repr(_value(t)), _row_shape(t))}" for t in signature.inputs)
    program = f"import json; print(json.dumps({{{', '.join(pairs)}}}))"
    return f"python3 -c {shlex.quote(program)} | curl -s {to} -d @-"


def _row_shape(tensor: TensorSpec) -> tuple[int, ...]:
    """Of one row, without a leading axis that is free or 1; axes of any length are 1, and one value has no shape."""
    row = tensor.shape[1:] if tensor.shape and tensor.shape[0] in (ANY, 1) else tensor.shape
    return () if math.prod(row) == 1 and ANY not in row else tuple(1 if axis == ANY else axis for axis in row)


def _value(tensor: TensorSpec) -> object:
    match tensor.datatype:
        case "BYTES":
            return "text"
        case "BOOL":
            return True
        case "FP16" | "FP32" | "FP64":
            return 0.5
        case _:
            return 0  # an index into anything


def _nested(value: object, shape: tuple[int, ...]) -> object:
    for axis in reversed(shape):
        value = [value] * axis
    return value


def _repeated(value: str, shape: tuple[int, ...]) -> str:
    for axis in reversed(shape):
        value = f"[{value}] * {axis}"
    return value
