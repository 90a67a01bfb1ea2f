"""What the tests of the road share. Those of one file share one cloud, each at the stage that it names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process
from cloud_process import Cloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, kernels: Path) -> Iterator[Cloud]:
    """A cloud that is not started yet."""
    made = Cloud(tmp_path_factory.mktemp("shop"), kernels=kernels)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, kernels: Path) -> Iterator[worker_process.Worker]:
    """A stream's worker that runs, without a cloud."""
    found = worker_process.Worker(tmp_path_factory.mktemp("w"), kernels, worker_process.declare())
    found.start()
    yield found
    found.close()


@pytest.fixture
def compiled(bench: Any, kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench of streams: its features too are compiled by the first run only."""
    from _processes import workplace  # of the bench, which the fixture of the file has put in reach

    @contextmanager
    def place() -> Iterator[Path]:
        with workplace() as folder:
            (folder / "kernels").symlink_to(kernels)
            yield folder

    monkeypatch.setattr(bench, "workplace", place)


@pytest.fixture
def http(worker: worker_process.Worker) -> Iterator[Any]:
    with worker.connection() as connection:
        yield connection
