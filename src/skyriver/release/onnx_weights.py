"""Weights that were saved beside a model are put into it, so that what is checked and kept is one file.

MLflow saves models so (`save_as_external_data`). A model names the file of each tensor; here such a name only chooses
among the files that came with it, and is never a path on a disk.

This module loads `onnx`, so only jobs import it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]  # its stubs are a package
from onnx import ModelProto, TensorProto

from skyriver.core.errors import InvalidInput
from skyriver.release.onnx_check import Limits


def whole(data: bytes, beside: Mapping[str, Path], limits: Limits | None = None) -> bytes:
    """`data` with all its weights in it; itself where they are already, and where it is no ONNX model, which the check
    will tell. Raises InvalidInput (ONNX_EXTERNAL_DATA, ONNX_TOO_LARGE)."""
    limits = limits or Limits()
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return data
    room = limits.bytes - len(data)
    outside = [tensor for tensor in _tensors(model, limits.depth) if tensor.data_location == TensorProto.EXTERNAL]
    for tensor in outside:
        taken = _weights(tensor, beside, room)
        room -= len(taken)
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
        tensor.raw_data = taken
    return bytes(model.SerializeToString()) if outside else data


def _tensors(root: Message, depth: int) -> Iterator[TensorProto]:
    """Wherever one can stand; what is nested too deeply is left for the check to refuse."""
    pending: list[tuple[Message, int]] = [(root, 0)]
    while pending:
        message, at = pending.pop()
        if isinstance(message, TensorProto):
            yield message
        elif at < depth:
            for descriptor, value in message.ListFields():
                if descriptor.message_type is not None:
                    pending.extend((part, at + 1) for part in ((value,) if isinstance(value, Message) else value))


def _weights(tensor: TensorProto, beside: Mapping[str, Path], room: int) -> bytes:
    told = {entry.key: entry.value for entry in tensor.external_data}
    path = beside.get(told.get("location", ""))
    if path is None:
        raise _refused(
            tensor, f"its weights are in {told.get('location', '')[:200]!r}, which did not come with the model"
        )
    size = path.stat().st_size
    try:
        offset = int(told.get("offset", "0"))
        length = int(told["length"]) if "length" in told else size - offset
    except ValueError:
        offset = length = -1
    if not 0 <= offset <= offset + length <= size:
        raise _refused(tensor, f"its weights are said to be where the file of {size:,} bytes has none")
    if length > room:
        raise InvalidInput(
            "The model has too many bytes with its weights in it.",
            code="ONNX_TOO_LARGE",
            where=f"the tensor {tensor.name!r}",
            next_action="Train a smaller model, or store its weights in fewer bits.",
        )
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _refused(tensor: TensorProto, why: str) -> InvalidInput:
    return InvalidInput(
        f"The tensor {tensor.name!r} cannot be read: {why}.",
        code="ONNX_EXTERNAL_DATA",
        where=f"the tensor {tensor.name!r}",
        next_action="Save the model in one file: `onnx.save_model(onnx.load(FILE), 'whole.onnx')`.",
    )
