from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from small_jobs import make_home, processes

from skyriver.data import ids
from skyriver.decide.partition import journal
from skyriver.features import buffers


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The home of small jobs; nothing of it stays."""
    make_home(tmp_path)
    yield tmp_path
    processes(tmp_path).stop_all()


@pytest.fixture(autouse=True)
def sizes_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examinations make files small, so that a few events fill them; tests that come later in this process do not."""
    for of, names in ((journal, ["FLUSH"]), (ids, ["RECENT", "ON_DISK"]), (buffers, ["RESERVE_BYTES"])):
        for name in names:
            monkeypatch.setattr(of, name, getattr(of, name))


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small disk of its own: of 40 MB, or as many as the test says."""
    folder = Path(tempfile.mkdtemp(prefix="dist-"))
    size = f"size={getattr(request, 'param', 40)}m,mode=0700"
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        folder.rmdir()
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no disk of its own can be mounted here (it takes root): {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
