"""What the tests of the road share. Those of one file share one cloud, each at the stage that it names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from cloud_process import Cloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud that is not started yet."""
    made = Cloud(tmp_path_factory.mktemp("shop"))
    yield made
    made.close()
