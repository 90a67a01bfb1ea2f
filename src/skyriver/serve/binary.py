"""Tensors as bytes: the binary tensor extension of the Open Inference Protocol; pure.

Little-endian, row-major, without padding; a boolean is a byte of 0 or 1, a text its length in four bytes and then
UTF-8. The bytes of all tensors stand behind the JSON, in the order of the JSON, and a header says where that ends.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from skyriver.core.errors import InvalidInput
from skyriver.release.signature import ANY, TensorSpec
from skyriver.serve.runner import NUMPY_TYPES, Array
from skyriver.serve.tensors import check_shape, count_text, shape_text

_LENGTH = struct.Struct("<I")


def tensor_of_bytes(spec: TensorSpec, shape: Sequence[int], data: memoryview) -> Array:
    """Raises InvalidInput naming the tensor, what was given and what is wanted. The array may be a view of `data`."""
    check_shape(spec, shape)
    elements = math.prod(shape)
    if spec.datatype == "BYTES":
        return _texts(spec, elements, data).reshape(shape)
    kind = NUMPY_TYPES[spec.datatype]
    if len(data) != elements * kind.itemsize:
        raise _wrong_size(spec, f"{len(data)} bytes", f"{count_text(elements * kind.itemsize)} bytes", shape)
    if spec.datatype == "BOOL":
        given = np.frombuffer(data, np.uint8)
        if given.size and given.max() > 1:
            position = int(np.argmax(given > 1))
            raise InvalidInput(
                f"Input {spec.name!r}: the byte {given[position]} at position {position} is no BOOL value (0 or 1).",
                code="WRONG_VALUE",
                where=spec.name,
                next_action="Send the byte 0 or 1 for each value.",
            )
    array = np.frombuffer(data, kind).reshape(shape)
    return array if array.flags.aligned else array.copy()


def raw_shape(spec: TensorSpec, size: int) -> tuple[int, ...]:
    """The shape of a tensor that is sent without one: its only axis of any length is what `size` bytes say.

    Raises InvalidInput (WRONG_SHAPE) where that does not tell it.
    """
    if spec.datatype == "BYTES":
        free = math.prod(axis for axis in spec.shape if axis != ANY)
        if free == 1:
            return (1,) * len(spec.shape)
    elif spec.shape.count(ANY) <= 1:
        row = math.prod(axis for axis in spec.shape if axis != ANY) * NUMPY_TYPES[spec.datatype].itemsize
        return tuple(size // max(row, 1) if axis == ANY else axis for axis in spec.shape)
    raise InvalidInput(
        f"Input {spec.name!r}: bytes alone do not tell a shape like {list(spec.shape)}.",
        code="WRONG_SHAPE",
        where=spec.name,
        next_action="Send the JSON with shape and `binary_data_size` before the bytes.",
    )


def bytes_of_tensor(array: Array) -> bytes:
    if array.dtype.kind != "O":
        return array.tobytes()
    parts: list[bytes] = []
    for text in array.ravel():
        encoded = text.encode() if isinstance(text, str) else bytes(text)
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def _texts(spec: TensorSpec, elements: int, data: memoryview) -> Array:
    if elements * _LENGTH.size > len(data):  # else a few bytes could claim any number of them
        raise _wrong_size(spec, f"{len(data)} bytes", f"{count_text(elements)} texts with their lengths", ())
    texts = np.empty(elements, np.object_)
    at = 0
    for position in range(elements):
        start = at + _LENGTH.size
        if start > len(data):
            raise _wrong_size(spec, f"{position} texts", f"{elements}", ())
        at = start + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise InvalidInput(
                f"Input {spec.name!r}: the text at position {position} has {at - start} bytes by its length,"
                f" {len(data) - start} follow.",
                code="WRONG_SIZE",
                where=spec.name,
                next_action="Write before each text its length in bytes: 4 bytes, little-endian.",
            )
        try:
            texts[position] = str(data[start:at], "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"Input {spec.name!r}: the text at position {position} is not UTF-8: byte {error.start} of it.",
                code="WRONG_VALUE",
                where=spec.name,
                next_action="Send texts in UTF-8.",
            ) from error
    if at != len(data):
        raise _wrong_size(spec, f"{len(data)} bytes", f"{at} for {elements} texts", ())
    return texts


def _wrong_size(spec: TensorSpec, given: str, wanted: str, shape: Sequence[int]) -> InvalidInput:
    told = f" (shape {shape_text(shape)})" if shape else ""
    return InvalidInput(
        f"Input {spec.name!r}: {given} are given, {wanted} are wanted{told}.",
        code="WRONG_SIZE",
        where=spec.name,
        next_action="Send all elements of the shape and nothing else; before each text stands its length in 4 bytes.",
    )
