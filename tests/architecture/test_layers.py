"""The house: who may import whom, and what a process may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_contracts_of_the_layers_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("skyriver.wiring.command", "pydantic httpx numpy polars granian sqlalchemy"),
        ("skyriver.wiring.control", "numpy numba polars deltalake lightgbm onnx onnxruntime"),
        ("skyriver.wiring.replica", "numba polars deltalake lightgbm onnx sqlalchemy fastapi"),
        ("skyriver.wiring.activator", "numpy onnxruntime pydantic polars sqlalchemy fastapi"),
        ("skyriver.wiring.dispatcher", "deltalake lightgbm onnx onnxruntime numba sqlalchemy fastapi polars"),
        ("skyriver.wiring.worker", "deltalake lightgbm onnx sqlalchemy fastapi polars"),
    ],
)
def test_a_process_loads_only_what_it_needs(module: str, forbidden: str) -> None:
    loaded = run_python(f"import sys, {module}; print(*(n for n in {forbidden.split()!r} if n in sys.modules))")
    assert loaded.split() == []


def words_of(path: Path) -> list[tuple[int, str]]:
    """Names and texts of a module, without its docstrings and comments."""
    tree = ast.parse(path.read_text())
    expressions = [n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    docstrings = set(map(id, expressions))
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word):
                found.append((node.lineno, word))
            case ast.Constant(value=str(word)) if id(node) not in docstrings:
                found.append((node.lineno, word))
    return found


def test_nothing_in_the_source_knows_the_examples() -> None:
    source = ROOT / "src" / "skyriver"
    # The walk through one of the examples; names of an exam's own making.
    free = {p for p in source.rglob("*.py") if p.name == "demo.py" or p.stem.endswith(("_exam", "_stage"))}
    found = [
        f"{path.relative_to(source)}:{line}: {word}"
        for path in sorted(source.rglob("*.py"))
        if path not in free and "examples" not in path.parts
        for line, word in words_of(path)
        if any(known in word.lower() for known in ("payment", "fraud", "patient", "diagnosis"))
    ]
    assert [f for f in found if "risk or diagnosis" not in f] == []  # the command line names the examples it writes


def test_every_room_has_its_essay() -> None:
    rooms = {p.name for p in (ROOT / "src" / "skyriver").iterdir() if p.is_dir() and not p.name.startswith("_")}
    essays = {p.stem for p in (ROOT / "docs" / "rooms").glob("*.md")}
    assert rooms - essays == set()
