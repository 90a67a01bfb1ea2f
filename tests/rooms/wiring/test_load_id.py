"""A load is named by what it brings, so that another job can finish it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import skyriver as sr
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Unavailable
from skyriver.core.spec import AppSpec, StreamSpec
from skyriver.data.tables import TableVersion
from skyriver.wiring.home import Home
from skyriver.wiring.work import load as module
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.load import load_id, summed_fields


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int


def test_the_same_files_into_the_same_stream_are_the_same_load() -> None:
    app = sr.App("risk")
    app.stream("payments", Payment, id="payment", time="at", key="customer")
    stream = app.spec.streams[0]
    file = {"digest": "a" * 64, "name": "one.csv", "format": "csv", "label": ""}
    first = load_id(stream, [file])
    assert load_id(stream, [{**file, "name": "renamed.csv"}]) == first
    assert load_id(stream, [{k: v for k, v in file.items() if k != "label"}]) == first
    others = [[{**file, "digest": "b" * 64}], [{**file, "label": "fraud"}], [file, file]]
    ids = {load_id(stream, files) for files in others}
    ids.add(load_id(stream.model_copy(update={"disorder_us": 1}), [file]))
    ids.add(load_id(stream, [file], frozenset({"customer"})))
    ids.add(load_id(stream, [file], ahead=1))
    assert len(ids | {first}) == 7


class Worker:
    """Answers blocks as a stream's worker does, and is away from block `gone` on."""

    def __init__(self) -> None:
        self.gone = 1
        self.end = 0
        self.answers: dict[tuple[str, str], dict[str, int]] = {}

    def post(self, http: object, block: Path, headers: dict[str, str]) -> dict[str, int]:
        key = (headers["x-load"], headers["x-sequence"])
        if key not in self.answers:
            if int(headers["x-sequence"]) >= self.gone:
                raise Unavailable("away", code="WORKER_AWAY")
            rows = len(pl.read_ipc_stream(block))
            self.end += rows
            self.answers[key] = {"appended": rows, "duplicates": 0, "last_offset": self.end - 1}
        return self.answers[key]


def job(home: Path, stream: StreamSpec, number: int, app: AppSpec) -> Job:
    objects = DirectoryObjects(home / "objects")
    rows = [{"payment": n, "at": n if n % 2 else "soon", "customer": 1} for n in range(20)]
    digest = objects.put("\n".join(json.dumps(row) for row in rows).encode())
    work_dir = home / f"work-{number}"
    work_dir.mkdir()
    return Job(
        name=f"payments-load-{number}",
        tenant="acme",
        target=stream.name,
        app=app,
        code={},
        params={},
        inputs={"files": [{"digest": digest, "name": "rows.jsonl", "format": "jsonl"}]},
        known={},
        home=Home(home),
        work_dir=work_dir,
        objects=objects,
        progress=lambda stage, done, total: None,
    )


def test_a_load_that_was_cut_off_is_finished_by_the_next_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = sr.App("risk")
    app.stream("payments", Payment, id="payment", time="at", key="customer", max_bad=0.9)
    stream, worker = app.spec.streams[0], Worker()
    monkeypatch.setattr("skyriver.data.stream_load.BLOCK_ROWS", 4)
    monkeypatch.setattr(module, "_post", worker.post)
    monkeypatch.setattr(module, "_end_of_log", lambda job, stream: worker.end)
    monkeypatch.setattr(module, "bring_up_to_date", lambda job, stream: {})
    with pytest.raises(Unavailable):
        module.work(job(tmp_path, stream, 1, app.spec))
    worker.gone = 100
    monkeypatch.setattr(module, "bring_up_to_date", killed)
    with pytest.raises(KeyboardInterrupt):
        module.work(job(tmp_path, stream, 2, app.spec))
    assert worker.end == 10
    monkeypatch.setattr(module, "bring_up_to_date", lambda job, stream: {})
    found = module.work(job(tmp_path, stream, 3, app.spec))
    assert worker.end == 10
    assert found["repeated"]
    assert found["counts"] == {"rows_read": 20, "rows_good": 10, "rows_bad": 10, "duplicates": 10, "labels": 0}
    assert found["tables"]["payments.rejected"]["rows"] == 10


def killed(job: Job, stream: StreamSpec) -> dict[str, TableVersion]:
    raise KeyboardInterrupt


def test_only_what_is_summed_must_fit_the_grid() -> None:
    app = sr.App("risk")

    class Sale(sr.Event):
        sale: int
        at: sr.Time
        card: str
        shop: str | None
        amount: float
        points: int

    sales = app.stream("sales", Sale, id="sale", time="at", key="card")
    windows = {
        "shops": sr.distinct("shop", by="card", over="1d"),
        "most": sr.maximum("points", by="card", over="1d"),
        "mean": sr.mean("amount", by="card", over="1d"),
    }
    app.features("habits", sales, windows)
    assert summed_fields(app.spec, app.spec.streams[0]) == {"amount"}
