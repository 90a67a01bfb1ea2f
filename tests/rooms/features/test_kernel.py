"""The cache of compiled kernels: atomic, shared, and never trusted further than its sums."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import skyriver as sr
from skyriver.core.errors import Unavailable
from skyriver.features.codegen import kernel_source
from skyriver.features.kernel import load_kernel
from skyriver.features.plan import FeaturePlan, plan_features


class Row(sr.Event):
    id: int
    x: float


@pytest.fixture(scope="module")
def plan() -> FeaturePlan:
    """Of a table: the smallest kernel, compiled in half a second."""
    app = sr.App("test")
    table = app.table("rows", Row, id="id")
    return plan_features(app.features("set", table, {"double": table.x * 2}).spec, app.spec.tables[0])


@pytest.fixture(scope="module")
def cache(plan: FeaturePlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kernels")
    assert load_kernel(plan, path).compiled
    return path


def test_the_second_load_comes_from_the_cache(plan: FeaturePlan, cache: Path) -> None:
    assert not load_kernel(plan, cache).compiled


@pytest.mark.parametrize("pattern", ["*.py", "*.sums", "__pycache__/*.nbi", "__pycache__/*.nbc"])
@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_what_is_damaged_is_made_anew(plan: FeaturePlan, cache: Path, pattern: str, damage: str) -> None:
    assert not load_kernel(plan, cache).compiled
    for path in (cache / plan.digest).glob(pattern):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        match damage:
            case "flip":
                path.write_bytes(data)
            case "cut":
                path.write_bytes(data[: len(data) // 2])
            case _:
                path.unlink()
    assert load_kernel(plan, cache).compiled
    assert not load_kernel(plan, cache).compiled


def test_a_cache_that_cannot_be_written_is_told(plan: FeaturePlan, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(Unavailable) as raised:
        load_kernel(plan, blocked)
    assert raised.value.code == "KERNEL_CACHE"


def test_names_and_texts_of_the_specification_never_reach_the_source() -> None:
    class Odd(sr.Event):
        id: int
        os_system: float

    app = sr.App("test")
    table = app.table("rows", Odd, id="id")
    plan = plan_features(app.features("set", table, {"evil": table.os_system + 0.5}).spec, app.spec.tables[0])
    assert "os_system" not in kernel_source(plan)
    assert "evil" not in kernel_source(plan)


_LOAD = """
import sys
from pathlib import Path
import skyriver as sr
from skyriver.features.kernel import load_kernel
from skyriver.features.plan import plan_features

class Row(sr.Event):
    id: int
    x: float

app = sr.App("test")
table = app.table("rows", Row, id="id")
plan = plan_features(app.features("set", table, {"double": table.x * 2}).spec, app.spec.tables[0])
print("ready", flush=True)
sys.stdin.readline()
print(load_kernel(plan, Path(sys.argv[1])).compiled)
print([name for name in ("polars", "deltalake", "onnx", "lightgbm") if name in sys.modules])
"""


def test_of_processes_at_once_one_compiles_and_all_load(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LOAD, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    results = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        results.append(process.communicate(timeout=300)[0].split("\n"))
    assert sorted(r[0] for r in results) == ["False", "False", "True"]
    assert {r[1] for r in results} == {"[]"}


def test_a_process_that_leaves_out_linear_algebra_compiles_without_it() -> None:
    code = """
import sys
from skyriver.features.kernel import leave_out_linear_algebra
import numba

leave_out_linear_algebra()
assert numba.njit("int64(int64)")(lambda x: x + 1)(1) == 2
print([name for name, module in sys.modules.items() if name.startswith("scipy.linalg") and module])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "[]\n"
