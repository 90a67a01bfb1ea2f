"""Environments of peers, each of its own: nothing of theirs enters the product's."""

from __future__ import annotations

import sys
from pathlib import Path

from _document import ROOT
from _processes import run

PEERS = ROOT / "bench" / "peers"
INSTALL_SECONDS = 900.0


def peer_python(name: str) -> str:
    """A Python that has what peers/<name>.txt asks for, in an environment that is made if need be. Raises Failed."""
    folder, wanted = PEERS / ".venvs" / name, (PEERS / f"{name}.txt").read_text()
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if done.exists() and done.read_text() == wanted:
        return str(python)
    if not python.exists():
        run([sys.executable, "-m", "venv", str(folder)], timeout=120).check()
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"]
    run([*command, str(PEERS / f"{name}.txt")], timeout=INSTALL_SECONDS).check()
    done.write_text(wanted)
    return str(python)


def duckdb_python() -> str:
    """A Python that has DuckDB: this one, or that of an environment made for it. Raises Failed."""
    if run([sys.executable, "-c", "import duckdb"], timeout=60).code == 0:
        return sys.executable
    return peer_python("duckdb")


def python_of(name: str) -> Path:
    return Path(duckdb_python() if name == "duckdb" else peer_python(name))
