"""What of a machine is counted for jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyriver.wiring.capacity import machine_gpus, visible


@pytest.mark.parametrize(
    ("seen", "count"), [(None, 3), ("", 0), ("-1", 0), ("2", 1), ("2,0", 2), ("0,1,2,3", 3), ("GPU-8a, GPU-9b", 2)]
)
def test_gpus_are_the_files_of_their_driver_as_far_as_they_may_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str | None, count: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine_gpus(tmp_path, seen) == count


@pytest.mark.parametrize(("seen", "told"), [(None, "0,2"), ("5,6,7", "5,7"), ("GPU-a, GPU-b,GPU-c", "GPU-a,GPU-c")])
def test_a_job_sees_those_that_are_its_own(seen: str | None, told: str) -> None:
    assert visible([0, 2], seen) == told


def test_a_job_that_asks_for_none_sees_none_and_one_whose_gpus_are_gone_too_few() -> None:
    assert visible([], None) == visible([], "5,6") == ""
    assert visible([0, 2], "5,6") == "5"
