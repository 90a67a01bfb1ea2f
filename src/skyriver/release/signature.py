"""What goes into a model and what comes out, in the words of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ANY = -1
"""An axis of any length in `TensorSpec.shape`."""

_NUMBERS = ("FP16", "FP32", "FP64")
_TAKEN = ("model", "version", "predictions")
"""What an answer says beside its outputs."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """`datatype` is BOOL, BYTES (texts), FP16, FP32, FP64, INT8..INT64 or UINT8..UINT64; BF16 and others have no
    NumPy type and are not served."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def input(self, name: str) -> TensorSpec | None:
        return next((t for t in self.inputs if t.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        return next((t for t in self.outputs if t.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a version's manifest."""
        return {"inputs": [t.to_json() for t in self.inputs], "outputs": [t.to_json() for t in self.outputs]}

    @classmethod
    def from_json(cls, document: Mapping[str, Sequence[Mapping[str, Any]]]) -> Signature:
        return cls(
            *(
                tuple(TensorSpec(t["name"], t["datatype"], tuple(t["shape"])) for t in document[side])
                for side in ("inputs", "outputs")
            )
        )


def takes_pictures(spec: TensorSpec) -> bool:
    """UINT8, and of a row's three axes the last is channels: grey, RGB or RGBA."""
    axes = picture_axes(spec)
    return spec.datatype == "UINT8" and len(axes) == 3 and axes[2] in (1, 3, 4)


def picture_axes(spec: TensorSpec) -> tuple[int, ...]:
    """Height, width and channels, where the input takes pictures."""
    leading = len(spec.shape) == 4 and spec.shape[0] in (ANY, 1)
    return spec.shape[1:] if leading else spec.shape


def answer_names(signature: Signature) -> list[tuple[str, str]]:
    """(as it is answered, as the model calls it) of each output."""
    return [(f"{t.name}_" if t.name in _TAKEN else t.name, t.name) for t in signature.outputs]


def score_of(signature: Signature) -> str | None:
    """The output that versions of a model are compared by: `score`, or the first of numbers of which each row has one;
    None where there is none."""
    found = [t.name for t in signature.outputs if t.datatype in _NUMBERS and all(n == 1 for n in t.shape[1:])]
    return "score" if "score" in found else next(iter(found), None)


def cast_instead(side: str, told: str) -> str:
    """What to do about an input or output of a type that is not served; `told` is how its file or runtime calls it."""
    if "bfloat16" not in told.lower():
        return "Cast it inside the model."
    where = "and a Cast to BFLOAT16 behind it" if side == "input" else "and a Cast to FLOAT before it"
    return (
        f"Give the model an {side} of FP32 {where} (ONNX operator Cast), and send FP32: it holds each value of BF16"
        " exactly, and NumPy has no type for BF16."
    )
