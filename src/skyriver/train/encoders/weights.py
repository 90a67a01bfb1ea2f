"""Weights of an encoder from a file: data only, and only what fits."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from skyriver.core.errors import InvalidInput
from skyriver.train.encoders.encoder import Encoder

_COUNTED: Final = ".num_batches_tracked"
"""How many batches a training saw: of no use to an encoder, and not in every file."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Of a .safetensors file, or of one that torch wrote, read without running anything that it says.

    Raises InvalidInput (BAD_WEIGHTS) where it is cut short, or holds anything but tensors."""
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InvalidInput(
            f"{path} cannot be read as weights: {str(error).splitlines()[0][:200] if str(error) else 'it is empty'}",
            code="BAD_WEIGHTS",
            where=str(path),
            next_action="It may be cut short: get the whole file again, best as .safetensors.",
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise InvalidInput(
            f"{path} holds something else than tensors by name.",
            code="BAD_WEIGHTS",
            where=str(path),
            next_action="Save model.state_dict() of the encoder, best as .safetensors.",
        )
    return dict(found)


def load_weights(encoder: Encoder, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises InvalidInput (FOREIGN_WEIGHTS, TENSOR_MISSING, TENSOR_SHAPE, TENSOR_NOT_FINITE), and changes nothing
    then."""
    wanted = {name: tensor for name, tensor in encoder.state_dict().items() if not name.endswith(_COUNTED)}
    given = {name: tensor for name, tensor in encoder.named(tensors).items() if not name.endswith(_COUNTED)}
    missing = [name for name in wanted if name not in given]
    if len(missing) == len(wanted):
        raise InvalidInput(
            f"None of the {len(tensors)} tensors belongs to this encoder; the first is {next(iter(tensors), None)!r}.",
            code="FOREIGN_WEIGHTS",
            where=where,
            next_action="The file is of another model: give the one that belongs to the configuration.",
        )
    if missing:
        raise InvalidInput(
            f"{len(missing)} of {len(wanted)} tensors are missing, among them {missing[0]!r}.",
            code="TENSOR_MISSING",
            where=where,
            next_action="The file is of a smaller model, or not whole: give the one that belongs to the configuration.",
        )
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise InvalidInput(
                f"{name!r} is {list(given[name].shape)}, {list(tensor.shape)} is wanted.",
                code="TENSOR_SHAPE",
                where=where,
                next_action="Give the weights and the configuration of one and the same model.",
            )
        if not bool(torch.isfinite(given[name]).all()):
            raise InvalidInput(
                f"{name!r} has values that are no numbers.",
                code="TENSOR_NOT_FINITE",
                where=where,
                next_action="Its training diverged, or the file is damaged: take an earlier one.",
            )
    if surplus := [name for name in given if name not in wanted]:
        raise InvalidInput(
            f"{len(surplus)} tensors have no place in this encoder, among them {surplus[0]!r}.",
            code="FOREIGN_WEIGHTS",
            where=where,
            next_action="The file is of a larger model: give the one that belongs to the configuration.",
        )
    encoder.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in given.items()}, strict=False)
