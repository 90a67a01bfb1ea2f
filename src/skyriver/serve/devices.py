"""Where a model runs: `cpu`, `cuda` or `cuda:N`. What was asked for is what is used, or there is an error; never
another device in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from skyriver.core.errors import InvalidInput, Unavailable

CPU = "cpu"
_CPU_PROVIDER = "CPUExecutionProvider"
_CUDA_PROVIDER = "CUDAExecutionProvider"


def providers_of(device: str, available: Sequence[str]) -> list[Any]:
    """Raises InvalidInput (BAD_DEVICE, DEVICE_MISSING)."""
    if device == CPU:
        return [_CPU_PROVIDER]
    kind, separator, number = device.partition(":")
    if kind != "cuda" or (separator and not (number.isdecimal() and len(number) < 4)):
        raise InvalidInput(
            f"{device[:40]!r} is no device.", code="BAD_DEVICE", next_action="There are cpu, cuda and cuda:NUMBER."
        )
    if _CUDA_PROVIDER not in available:
        raise InvalidInput(
            f"onnxruntime {ort.__version__} cannot run on {device} here: its providers are {', '.join(available)}.",
            code="DEVICE_MISSING",
            next_action="Install onnxruntime-gpu in place of onnxruntime, or serve the model on the cpu.",
        )
    return [(_CUDA_PROVIDER, {"device_id": int(number or 0)}), _CPU_PROVIDER]


def check_device(device: str, used: Sequence[str]) -> None:
    """Raises Unavailable (DEVICE_FAILED) where a session was made, but not on `device`."""
    if device != CPU and _CUDA_PROVIDER not in used:
        raise Unavailable(
            f"The model could not be put on {device}: onnxruntime would run it on {', '.join(used)}.",
            code="DEVICE_FAILED",
            next_action="`nvidia-smi` shows whether the driver sees the GPU, and the log why CUDA did not start.",
        )
