"""The house: who may import whom, and what a process may load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_contracts_of_the_layers_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("skyriver.wiring.command", "pydantic httpx numpy polars granian sqlalchemy"),
        ("skyriver.wiring.control", "numpy numba polars deltalake lightgbm onnx onnxruntime"),
        ("skyriver.wiring.replica", "numba polars deltalake lightgbm onnx sqlalchemy fastapi"),
        ("skyriver.wiring.worker", "deltalake lightgbm onnx sqlalchemy fastapi polars"),
    ],
)
def test_a_process_loads_only_what_it_needs(module: str, forbidden: str) -> None:
    loaded = run_python(f"import sys, {module}; print(*(n for n in {forbidden.split()!r} if n in sys.modules))")
    assert loaded.split() == []


def test_nothing_in_the_source_knows_the_examples() -> None:
    words = ("payment", "fraud", "terminal", "patient", "diagnosis")
    allowed = {"core/app.py", "client/demo.py"}  # a docstring's example; the walk through the risk example
    found = []
    for path in sorted((ROOT / "src" / "skyriver").rglob("*.py")):
        name = str(path.relative_to(ROOT / "src" / "skyriver"))
        code = [line.split("#")[0] for line in path.read_text().splitlines()]
        inside_text = False
        for number, line in enumerate(code, 1):
            quotes = line.count('"""')
            if name not in allowed and not inside_text and quotes == 0:
                found += [f"{name}:{number}: {line.strip()}" for word in words if word in line.lower()]
            inside_text ^= quotes % 2 == 1
    assert found == []


def test_every_room_has_its_essay() -> None:
    rooms = {p.name for p in (ROOT / "src" / "skyriver").iterdir() if p.is_dir() and not p.name.startswith("_")}
    essays = {p.stem for p in (ROOT / "docs" / "rooms").glob("*.md")}
    assert rooms - essays == set()
