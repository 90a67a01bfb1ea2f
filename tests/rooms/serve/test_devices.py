"""What was asked for is what a model runs on, or an error."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from skyriver.core.errors import InvalidInput, Unavailable
from skyriver.serve.devices import check_device, providers_of
from skyriver.serve.runner import Runner

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_the_processor_is_asked_for_alone() -> None:
    assert providers_of("cpu", [CUDA, CPU]) == [CPU]


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_a_gpu_is_asked_for_by_its_number(device: str, number: int) -> None:
    assert providers_of(device, [CUDA, CPU]) == [(CUDA, {"device_id": number}), CPU]


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99999", "CPU", "x" * 10_000])
def test_what_is_no_device(device: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        providers_of(device, [CUDA, CPU])
    assert caught.value.code == "BAD_DEVICE"
    assert len(str(caught.value)) < 200


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_gpu_that_this_installation_cannot_use_is_an_error(sums: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        Runner(sums, device="cuda")
    assert caught.value.code == "DEVICE_MISSING"
    assert "onnxruntime-gpu" in caught.value.next_action


def test_a_session_that_went_elsewhere_is_an_error() -> None:
    check_device("cpu", [CPU])
    check_device("cuda:1", [CUDA, CPU])
    with pytest.raises(Unavailable) as caught:
        check_device("cuda:1", [CPU])
    assert caught.value.code == "DEVICE_FAILED"
