"""The power goes at any moment: what was acknowledged is there, what is shown is whole, and work goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from powercut.examine import Report, Task, differences, examine
from powercut.layer import NoCompiler, build, environment, read_trace
from powercut.part import PARTS, PROMISE_FOLDERS

SEED = 20_261_126
CUTS = 5
"""Of each part; with the second ones some 60 in all. `bench/power_cuts.py` makes a thousand."""
LIES = 8
TESTS = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("layer"))
    except NoCompiler as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NO POWER CUTS ARE SIMULATED: {error}")


@pytest.fixture(scope="module")
def reports(library: Path) -> dict[str, Report]:
    """All parts by one child, which loads the product once."""
    return {report.part: report for report in examine([Task(part, SEED, CUTS) for part in PARTS], library)}


@pytest.mark.parametrize("part", PARTS)
def test_what_was_acknowledged_survives(part: str, reports: dict[str, Report]) -> None:
    report = reports[part]
    assert report.findings == []
    assert report.cuts >= CUTS
    assert report.acknowledged > report.cuts, "there was something to lose"


def test_cuts_fall_into_recoveries_and_follow_kills_too(reports: dict[str, Report]) -> None:
    assert sum(report.second_cuts for report in reports.values()) >= 3
    assert sum(report.kills for report in reports.values()) >= 3


def test_on_the_lenient_disk(library: Path) -> None:
    (report,) = examine([Task("objects", SEED, CUTS, ordered=True)], library)
    assert report.findings == []


def test_a_disk_that_only_says_it_has_synced_is_found_out(library: Path) -> None:
    """The negative control: where syncs of files, or of folders, do nothing, each part loses something."""
    tasks = [Task(part, SEED, LIES, "files") for part in PARTS]
    tasks += [Task(part, SEED, LIES, "folders") for part in PROMISE_FOLDERS]
    blind = [(r.part, t.lie) for t, r in zip(tasks, examine(tasks, library), strict=True) if not r.findings]
    assert blind == []


EVERYTHING = """
import ctypes, mmap, os, shutil, sys, threading
from pathlib import Path
import polars as pl
from powercut.layer import recording

library, root, trace = map(Path, sys.argv[1:4])
(root / "before").write_bytes(b"there already" * 500)
(root / "folder").mkdir()
(root / "folder" / "gone").write_bytes(b"x")
with recording(library, root, trace):
    os.chdir(root)
    Path("a").write_bytes(b"a" * 10_000)
    with open("a", "r+b") as file:
        file.seek(5_000)
        file.write(b"b" * 100)
        file.truncate(7_000)
    with open("a", "ab") as file:
        file.write(b"appended")
        os.write(os.dup(file.fileno()), b"through another descriptor")
    fd = os.open("holes", os.O_RDWR | os.O_CREAT, 0o640)
    os.pwrite(fd, b"far", 20_000)
    os.writev(fd, [b"one", b"", b"two"])
    os.pwritev(fd, [b"three", b"four"], 9_000)
    os.posix_fallocate(fd, 0, 30_000)
    os.ftruncate(fd, 29_999)
    assert ctypes.CDLL(None).fallocate(fd, 3, ctypes.c_int64(8_192), ctypes.c_int64(4_096)) == 0
    mapped = mmap.mmap(fd, 16_384)
    mapped[100:104] = b"map1"
    os.pwrite(fd, b"beside", 200)
    mapped.flush()
    mapped[12_300:12_304] = b"map2"
    os.fdatasync(fd)
    mapped[0:4] = b"map3"
    mapped.close()
    os.truncate("before", 50)
    shutil.copyfile("a", "copied")
    source, target = os.open("a", os.O_RDONLY), os.open("ranged", os.O_WRONLY | os.O_CREAT)
    os.copy_file_range(source, target, 4_000, 1_000, 50)
    os.link("a", "linked")
    os.symlink("a", "symbol")
    Path("folder/gone").unlink()
    os.mkdir("folder/deep")
    here = os.open("folder", os.O_RDONLY | os.O_DIRECTORY)
    os.mkdir("relative", dir_fd=here)
    os.close(os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.rename("new", "newer", src_dir_fd=here, dst_dir_fd=here)
    os.fsync(here)
    os.rename("folder", "renamed")
    Path("renamed/deep").rmdir()
    Path("copied").rename("renamed/newer")
    Path("renamed/newer").chmod(0o600)
    os.fchmod(fd, 0o400)
    Path("unlinked").write_text("written after it was unlinked")
    with open("unlinked", "ab") as file:
        Path("unlinked").unlink()
        file.write(b"still")
    pl.DataFrame({"n": range(5_000)}).write_parquet("frame.parquet")
    threads = [threading.Thread(target=Path(f"t{n}").write_bytes, args=(bytes([n]) * 9_000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree("renamed/relative")
    os.sync()
"""


def record(script: str, library: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """`script` below `place`/root, its trace in `place`/trace."""
    (place / "root").mkdir()
    command = [sys.executable, "-c", script, str(library), str(place / "root"), str(place / "trace")]
    paths = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**environment(library), "PYTHONPATH": paths}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_the_layer_misses_nothing(library: Path, tmp_path: Path) -> None:
    """Replayed without a cut, the trace gives the very tree that lies there."""
    replay = EVERYTHING.replace(
        "with recording(", "from powercut.disk import Disk\ndisk = Disk(root)\nwith recording("
    ) + (
        "from powercut.layer import read_trace\n"
        "for event in read_trace(trace):\n    disk.take(event)\n"
        "disk.show(root.parent / 'shown')\n"
    )
    done = record(replay, library, tmp_path)
    assert done.returncode == 0, done.stderr
    assert differences(tmp_path / "shown", tmp_path / "root") == []
    assert (tmp_path / "shown" / "a").samefile(tmp_path / "shown" / "linked")
    kinds = {event.kind.name for event in read_trace(tmp_path / "trace")}
    assert kinds >= {"CREATE", "WRITE", "TRUNCATE", "DATASYNC", "SYNC", "RANGESYNC", "SYNCALL", "RENAME", "UNLINK"}
    assert kinds >= {"RMDIR", "MKDIR", "LINK", "SYMLINK", "CHMOD"}


@pytest.mark.parametrize(
    "operation",
    [
        "libc.fopen(b'stream', b'w')",
        "libc.syscall(ctypes.c_long(74), 3)",  # fsync by its number
        "os.open('direct', os.O_WRONLY | os.O_CREAT | os.O_DSYNC)",
        "os.rename('inside', '../outside')",
    ],
)
def test_the_layer_tells_what_it_cannot_record(operation: str, library: Path, tmp_path: Path) -> None:
    script = (
        "import ctypes, os, sys\nfrom pathlib import Path\nfrom powercut.layer import recording\n"
        "library, root, trace = map(Path, sys.argv[1:4])\nlibc = ctypes.CDLL(None)\n"
        f"with recording(library, root, trace):\n    os.chdir(root)\n    Path('inside').touch()\n    {operation}\n"
    )
    done = record(script, library, tmp_path)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError, match="cannot record"):
        read_trace(tmp_path / "trace")
