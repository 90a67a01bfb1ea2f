"""Peers: each in an environment of its own, on the same payments, on one core, its result held against DuckDB's."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from _document import Document
from _environments import PEERS, python_of
from _payments import NAMES
from _processes import Failed, clean_environment, run
from _stream_worker import cores, on_core

TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Peer:
    """`options` are of its script; {work} in them is a fresh folder."""

    system: str
    case: str
    environment: str
    script: str
    options: tuple[str, ...] = ()
    kind: str = "csv"
    """Of the files that it reads."""
    checked: bool = True
    """Whether it computes the twelve features; else it leaves something out, which its case says."""


DUCKDB = Peer("DuckDB", "batch, window functions", "duckdb", "duckdb_windows.py", kind="parquet")
BYTEWAX = "bytewax_features.py"
BYTEWAX_RECOVERY = Peer(
    "Bytewax", "recovery each 10 s (the default)", "bytewax", BYTEWAX, ("--recovery", "{work}/recovery")
)
FLINK_SQL = Peer("Flink SQL", "in the JVM, seven chained OVER windows, no checkpoints", "flink", "flink_sql.py")
ALWAYS = (
    Peer("Bytewax", "without recovery", "bytewax", BYTEWAX),
    BYTEWAX_RECOVERY,
    FLINK_SQL,
    Peer("PyFlink", "DataStream, thread mode, no checkpoints", "flink", "pyflink_features.py"),
    Peer("PySpark", "batch, window functions", "spark", "spark_windows.py", kind="parquet"),
)
IN_FULL = (
    Peer(
        "Bytewax",
        "recovery each second",
        "bytewax",
        BYTEWAX,
        ("--recovery", "{work}/recovery", "--epoch", "1"),
    ),
    Peer("Bytewax", "recovery each 10 s, and scored by ONNX Runtime", "bytewax-scoring", BYTEWAX,
         ("--recovery", "{work}/recovery", "--model", "{model}"), checked=False),
    Peer("Flink SQL", "without the labels' delay: six chained OVER windows, less than the others do", "flink",
         "flink_sql.py", ("--no-delay",), checked=False),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Files:
    """`sample` and `payments`, each as .csv (without a header) and .parquet, in `folder`; the trained `model`."""

    folder: Path
    model: Path

    @classmethod
    def write(cls, folder: Path, sample: pl.DataFrame, payments: pl.DataFrame, model: bytes) -> Files:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in (("sample", sample), ("payments", payments)):
            frame.write_csv(folder / f"{name}.csv", include_header=False)
            frame.write_parquet(folder / f"{name}.parquet")
        (folder / "model.onnx").write_bytes(model)
        return cls(folder, folder / "model.onnx")


def measure_peer(document: Document, peer: Peer, files: Files, reference: pl.DataFrame | None) -> pl.DataFrame | None:
    """Its row; what it found of the sample. A peer that cannot be installed or run is a row with the reason."""
    work = files.folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        found = _run(peer, files, work)
        features = _read(work / "features") if peer.checked else None
    except Failed as error:
        document.row(peer.system, peer.case, reason=str(error)[-600:])
        return None
    figures: dict[str, Any] = {
        "version": found["version"],
        "events": found["events"],
        "events_per_second": round(found["events"] / found["wall"]),
        "events_per_cpu_second": round(found["events"] / found["cpu"]),
        "cpu_seconds": round(found["cpu"], 2),
    }
    if features is not None and reference is not None:
        figures |= differences(features, reference)
    document.row(peer.system, peer.case, **figures)
    return features


def rate(document: Document, peer: Peer) -> float:
    """Events per CPU second in the peer's row. Raises Failed with the reason why there is none."""
    row = next((r for r in document.rows if r["system"] == peer.system and r["case"] == peer.case), None)
    if row is None or "events_per_cpu_second" not in row:
        raise Failed(f"{peer.system} was not measured: {(row or {}).get('reason', 'left out')}")
    return float(row["events_per_cpu_second"])


def _run(peer: Peer, files: Files, work: Path) -> dict[str, Any]:
    python = python_of(peer.environment)
    options = [option.format(work=work, model=files.model) for option in peer.options]
    inputs = [str(files.folder / f"{name}.{peer.kind}") for name in ("sample", "payments")]
    command = [str(python), str(PEERS / peer.script), *inputs, "--out", str(work / "features"), *options]
    # Flink looks for `python` on the path.
    path = os.pathsep.join([str(python.parent), clean_environment()["PATH"]])
    with on_core(cores()[0]):
        done = run(command, timeout=600, cwd=work, env=clean_environment(PATH=path)).check()
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _read(folder: Path) -> pl.DataFrame:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(("_", "."))]
    names = ("payment", *NAMES)
    schema = dict.fromkeys(names, pl.Float64)
    frames = [pl.read_csv(path, has_header=False, schema=schema) for path in files if path.stat().st_size]
    if not frames:
        raise Failed("it has written no features")
    return pl.concat(frames).sort("payment")


def differences(found: pl.DataFrame, reference: pl.DataFrame, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Whether all features of all payments are DuckDB's, within `tolerance`, absolute or relative."""
    if not found["payment"].equals(reference["payment"]):
        return {"equal_to_duckdb": False, "different": f"{len(found)} payments instead of {len(reference)}"}
    wrong = []
    for name in NAMES:
        ours, theirs = found[name], reference[name]
        if not ((ours - theirs).abs() <= tolerance * (1 + theirs.abs())).all():
            wrong.append(name)
    return {"equal_to_duckdb": not wrong, "compared": len(found)} | ({"different": ", ".join(wrong)} if wrong else {})
