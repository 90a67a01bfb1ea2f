from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from small_jobs import make_home, processes


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The home of small jobs; nothing of it stays."""
    make_home(tmp_path)
    yield tmp_path
    processes(tmp_path).stop_all()
