"""Scoring many rows as a job: what it answers, what it refuses, and how it goes on after its process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper

import skyriver as sr
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import InvalidInput
from skyriver.serve import scoring
from skyriver.wiring.home import Home
from skyriver.wiring.work import predict
from skyriver.wiring.work.job import Job

PIECE = 1_024
FIELDS = ({"name": "a", "type": "float", "ge": 0.0}, {"name": "b", "type": "float", "nullable": True})


class Row(sr.Event):
    number: int
    a: float
    b: float | None


APP = sr.App("shop")
APP.table("rows", Row, id="number")


def sums() -> bytes:
    """score[n] = a + b of x[n, 2]."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["score"], keepdims=0)],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [onnx.numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def rows(count: int) -> pl.DataFrame:
    """Every hundredth has no b, which is missing; every thousandth a bad a."""
    luck = np.random.default_rng(count)
    a = luck.random(count)
    a[999::1000] = -1
    b = pl.Series(luck.random(count)).set(pl.Series(np.arange(count) % 100 == 0), None)
    return pl.DataFrame({"number": np.arange(count), "a": a, "b": b})


def job(home: Path, name: str = "m-predict-1", **changes: Any) -> Job:
    objects = DirectoryObjects(home / "objects")
    version = {"model": "m", "version": 3, "artifact": objects.put(sums()), "fields": list(FIELDS)}
    inputs = {"version": version, "gone": [], "ended": [], **changes.pop("inputs", {})}
    params = {"to": "scores", "format": "", "key": ["file", "row"], "max_bad": 0.05, "cores": 2}
    return Job(
        name=name,
        tenant="acme",
        target="m",
        app=APP.spec,
        code={},
        params={**params, **changes.pop("params", {})},
        inputs=inputs,
        known={},
        home=Home(home),
        work_dir=home,
        objects=objects,
        progress=changes.pop("progress", lambda *_: None),
    )


def file(home: Path, frame: pl.DataFrame, kind: str = "parquet", name: str = "rows") -> dict[str, str]:
    path = home / f"{name}.{kind}"
    write: dict[str, Callable[[Path], None]] = {
        "parquet": frame.write_parquet,
        "csv": frame.write_csv,
        "jsonl": frame.write_ndjson,
    }
    write[kind](path)
    return {"digest": DirectoryObjects(home / "objects").put_file(path), "name": path.name, "format": kind}


def table(home: Path, name: str) -> pl.DataFrame:
    tables = DeltaTables(home / "tables")
    return pl.concat(list(tables.scan(f"acme/{name}", tables.latest(f"acme/{name}").version)))


def expected(frame: pl.DataFrame) -> pl.DataFrame:
    """(row, score) of the good ones."""
    score = (frame["a"].cast(pl.Float32) + frame["b"].cast(pl.Float32)).fill_null(float("nan"))
    told = pl.DataFrame({"row": np.arange(1, len(frame) + 1), "score": score})
    return told.filter(frame["a"] >= 0)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "PIECE_ROWS", PIECE)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_files_into_a_table(tmp_path: Path, kind: str) -> None:
    one, two = rows(5_000), rows(2_500)
    files = [file(tmp_path, one, kind, "one"), file(tmp_path, two, kind, "two")]
    params = {"key": ["file", "row", "number"]}
    outputs = predict.work(job(tmp_path, inputs={"files": files}, params=params))
    assert outputs["counts"] == {"rows_read": 7_500, "rows_scored": 7_493, "rows_bad": 7}
    assert outputs["bad_by_reason"] == {"OUT_OF_RANGE": 7}
    assert (outputs["to"], outputs["tables"]["scores"]["rows"], outputs["resumed"]) == ("scores", 7_493, 0)
    found = table(tmp_path, "scores")
    assert found.columns == ["file", "row", "number", "score", "model", "version"]
    assert set(found.select("model", "version").unique().rows()) == {("m", 3)}
    for name, frame in (("one", one), ("two", two)):
        mine = found.filter(pl.col("file") == f"{name}.{kind}")
        assert mine.select("row", "score").equals(expected(frame)), "each row once, in order"
        assert (mine["number"].cast(pl.Int64) + 1).equals(mine["row"].rename("number"))
    dead = table(tmp_path, "scores.dead").select("file", "row", "field", "reason")
    assert dead.head(1).rows() == [(f"one.{kind}", 1_000, "a", "OUT_OF_RANGE")]
    assert len(dead) == 7


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_table_into_a_file(tmp_path: Path, kind: str) -> None:
    frame, tables = rows(3_000), DeltaTables(tmp_path / "tables")
    good = frame.filter(pl.col("a") >= 0)
    tables.append("acme/rows", [good[:1_700], good[1_700:]], offset=0, known=None)
    params = {"to": f"answers.{kind}", "format": kind, "key": ["number"]}
    outputs = predict.work(job(tmp_path, inputs={"table": {"name": "rows", "id": "number"}}, params=params))
    [name] = outputs["artifacts"]
    assert name == f"answers.{kind}"
    path = DirectoryObjects(tmp_path / "objects").open_path(outputs["artifacts"][name]["digest"])
    read: dict[str, Callable[[Path], pl.DataFrame]] = {
        "parquet": pl.read_parquet,
        "csv": pl.read_csv,
        "jsonl": pl.read_ndjson,
    }
    found = read[kind](path)
    assert found.columns == ["number", "score", "model", "version"]
    assert found["number"].equals(good["number"])
    score = found["score"].cast(pl.Float32)
    assert score.fill_null(float("nan")).equals(expected(frame)["score"]), "bit for bit, also as text"
    assert outputs["tables"] == {}


KILLED = """
import os, pickle, signal, sys
sys.path.insert(0, {tests!r})
import test_predict_work as mine
from dataclasses import replace
from pathlib import Path
from skyriver.serve import scoring
from skyriver.wiring.work import predict
scoring.PIECE_ROWS = mine.PIECE
def progress(stage, done, total):
    if done >= {after} or stage == {stage!r}:
        os.kill(os.getpid(), signal.SIGKILL)
predict.work(mine.job(Path({home!r}), inputs={inputs!r}, progress=progress))
"""


def kill(home: Path, inputs: dict[str, Any], *, after: int, stage: str = "") -> None:
    tests = str(Path(__file__).parent)
    script = KILLED.format(tests=tests, after=after, home=str(home), inputs=inputs, stage=stage)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def test_a_killed_job_goes_on_from_what_is_done(tmp_path: Path) -> None:
    frame = rows(20 * PIECE)
    inputs = {"files": [file(tmp_path, frame)]}
    kill(tmp_path, inputs, after=8 * PIECE)
    done = len(list((tmp_path / "predictions" / "acme" / "m-predict-1").glob("*0.parquet")))
    kill(tmp_path, inputs, after=15 * PIECE)
    kill(tmp_path, inputs, after=10**9, stage="write")  # all is scored
    outputs = predict.work(job(tmp_path, inputs=inputs))
    assert outputs["resumed"] == 20 * PIECE
    assert done < 20
    assert table(tmp_path, "scores").select("row", "score").equals(expected(frame)), "no row twice, none missing"
    again = predict.work(job(tmp_path, inputs=inputs))
    assert again == outputs, "killed between its end and its report: nothing is done twice"
    assert len(table(tmp_path, "scores")) == outputs["counts"]["rows_scored"]


def test_an_append_that_was_not_told_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"files": [file(tmp_path, rows(3_000))]}
    with monkeypatch.context() as patched:
        patched.setattr(scoring.ScoringFolder, "close", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict.work(job(tmp_path, inputs=inputs))
    first = table(tmp_path, "scores")
    outputs = predict.work(job(tmp_path, inputs=inputs))
    assert table(tmp_path, "scores").equals(first)
    assert (outputs["tables"]["scores"]["version"], len(table(tmp_path, "scores.dead"))) == (0, 3)
    predict.work(job(tmp_path, "m-predict-2", inputs={**inputs, "ended": ["m-predict-1"]}))
    assert len(table(tmp_path, "scores")) == 2 * len(first), "another job's answers come behind"
    assert not (tmp_path / "predictions" / "acme" / "m-predict-1").exists()


def test_a_table_that_was_rewritten_meanwhile_is_scored_anew(tmp_path: Path) -> None:
    tables = DeltaTables(tmp_path / "tables")
    tables.append("acme/rows", [rows(900)], offset=0, known=None)
    asked = job(tmp_path, inputs={"table": {"name": "rows", "id": "number"}}, params={"key": ["number"]})

    def cut(stage: str, *_: object) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict.work(replace(asked, progress=cut))
    tables.append("acme/rows", [rows(50)], offset=1, known=None)  # rows that came later are not its
    with pytest.raises(KeyboardInterrupt):
        predict.work(replace(asked, progress=cut))
    tables.rewrite("acme/rows", lambda frame: frame.with_columns(a=pl.lit(2.0)), known=None)
    outputs = predict.work(asked)
    assert (outputs["began_anew"], outputs["resumed"], outputs["counts"]["rows_read"]) == (True, 0, 900)
    assert (table(tmp_path, "scores")["score"].fill_nan(3.0) >= 2.0).all()


BAD: dict[str, tuple[pl.DataFrame, str, str]] = {
    "a column is missing": (rows(10).drop("b"), "MISSING_COLUMN", "'b'"),
    "a column of another type": (rows(10).with_columns(a=pl.lit("x")), "WRONG_COLUMN_TYPE", "'a'"),
    "no rows": (rows(10)[:0], "EMPTY_FILE", "no rows"),
    "too many are bad": (rows(10).with_columns(a=-pl.col("a")), "TOO_MANY_BAD_ROWS", "10 of 10 rows are bad"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_refused_whole(tmp_path: Path, what: str) -> None:
    frame, code, words = BAD[what]
    with pytest.raises(InvalidInput) as caught:
        predict.work(job(tmp_path, inputs={"files": [file(tmp_path, frame)]}))
    assert (caught.value.code, caught.value.where) == (code, "rows.parquet")
    assert words in caught.value.message
    assert caught.value.next_action
    assert not (tmp_path / "tables" / "acme" / "scores").exists()


def test_a_key_that_is_not_there_and_a_table_without_rows(tmp_path: Path) -> None:
    given = {"files": [file(tmp_path, rows(10))]}
    with pytest.raises(InvalidInput, match="no column 'who'"):
        predict.work(job(tmp_path, inputs=given, params={"key": ["file", "row", "who"]}))
    with pytest.raises(InvalidInput, match="rows holds no rows yet"):
        predict.work(job(tmp_path, inputs={"table": {"name": "rows", "id": "number"}}, params={"key": ["number"]}))


MEMORY = """
import re, sys
sys.path.insert(0, {tests!r})
import test_predict_work as mine
from pathlib import Path
from skyriver.wiring.work import predict
home = Path({home!r})
def peak(count):
    inputs = {{"files": [{{**mine.DISK, "digest": (home / str(count)).read_text()}}]}}
    params = {{"to": "x.parquet", "format": "parquet"}}
    predict.work(mine.job(home, f"m-predict-{{count}}", inputs=inputs, params=params))
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
small, large = peak({small}), peak({large})
print(small, large)
"""
DISK = {"name": "rows.parquet", "format": "parquet"}


def test_more_rows_take_no_more_memory(tmp_path: Path) -> None:
    """40 times the rows, 190 MB more of them in memory if they were all there. What counts is the peak of this program
    (VmHWM): that of getrusage may be of the one that started it."""
    small, large = 200_000, 8_000_000
    for count in (small, large):
        (tmp_path / str(count)).write_text(file(tmp_path, rows(count))["digest"])
    script = MEMORY.format(tests=str(Path(__file__).parent), home=str(tmp_path), small=small, large=large)
    environment = {**os.environ, "POLARS_MAX_THREADS": "2"}  # as a job of two cores has it
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr.decode()
    before, after = map(int, ended.stdout.split())
    assert after - before < 90_000, f"{before:,} KB for {small:,} rows, {after:,} KB for {large:,}"
