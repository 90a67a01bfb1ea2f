"""Searches whose trials are done several at a time, as the jobs of their runs do them, with real files."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Unavailable
from skyriver.core.spec import AppSpec, GateSpec, ModelSpec
from skyriver.wiring.home import Home
from skyriver.wiring.model_files import ModelFiles
from skyriver.wiring.work import search, train
from skyriver.wiring.work.job import Job

ROWS = 300
CODE = {"bundle": "0" * 64, "main": "app.py"}


def _app(**given: Any) -> AppSpec:
    app = sr.App("shop")
    sale = type("Sale", (sr.Event,), {"__annotations__": {"sale": int, "price": float, "back": int}})
    sales = app.table("sales", sale, id="sale")
    features = app.features("f", sales, {"price": sales.price})
    trained = app.train(features, label=sales.back, search=sr.Search({"leaves": sr.Int(2, 30)}, trials=6, **given))
    app.model("m", trained(_fit))
    return app.spec


def _fit(data: Any) -> Any:
    import lightgbm

    leaves = data.params.get("leaves", 4)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": leaves}
    return lightgbm.train(settings, lightgbm.Dataset(data.x, data.y), 4)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    luck, home = np.random.default_rng(1), Home(tmp_path)
    price = luck.random(ROWS)
    back = (price + luck.normal(scale=0.3, size=ROWS) > 0.6).astype(int)
    rows = pl.DataFrame({"sale": np.arange(ROWS), "price": price, "back": back, "_offset": np.arange(ROWS)})
    DeltaTables(home.tables).append("acme/sales", [rows], offset=ROWS, known=None)
    return home


def _job(home: Home, kind: str, run: int, fit: Callable[[Any], Any], app: AppSpec, **inputs: Any) -> Job:
    model = ModelSpec.model_validate(app.models[0]).model_copy(update={"gate": GateSpec(same_features=False)})
    assert model.train is not None
    objects = DirectoryObjects(home.objects)
    study = {"study": f"m-run-{run}"} if model.train.search and model.train.search.parallel > 1 else {}
    found: Any = SimpleNamespace(
        name=f"m-run-{run}-{kind}", tenant="acme", target="m", attempt=1, workers=0, gpus=0, index=None,
        app=app.model_copy(update={"models": (model,)}), code=CODE, params={}, home=home, work_dir=home.root,
        inputs={"champion": None, "run": f"m-run-{run}", "beside": [], **study, **inputs},
        table=lambda name: f"acme/{name}", objects=objects, model_files=ModelFiles(home, "acme", objects),
        load_app=lambda: SimpleNamespace(functions={model.train.function: fit}),
        progress=lambda stage, done, total: None, curve=lambda *told: None, kept_curve=lambda: None,
    )  # fmt: skip
    return cast(Job, found)


def _files(home: Home) -> list[str]:
    return sorted(path.name for path in home.studies.rglob("*") if path.is_file())


def test_two_runs_of_one_model_at_once_leave_each_other_s_trials_alone(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    app, calls = _app(parallel=2), [0]

    def counted(data: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:  # all of the second run, while the first one searches
            search.work(_job(home, "search-0", 2, _fit, app))
            train.work(_job(home, "train", 2, _fit, app, beside=["m-run-1"]))
        return _fit(data)

    search.work(_job(home, "search-0", 1, counted, app))
    assert calls == [6]
    assert {name.partition(".")[0] for name in _files(home)} == {"m-run-1"}
    train.work(_job(home, "train", 1, counted, app))
    told = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("trial ") for line in told) == 10, "the second run took two over"
    assert _files(home) == []


def test_who_finds_nothing_to_do_reads_no_table(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = _app(parallel=2)
    search.work(_job(home, "search-0", 1, _fit, app))
    monkeypatch.setattr(search, "rows_of", lambda *given: pytest.fail("it reads the table"))
    assert search.work(_job(home, "search-1", 1, _fit, app)) == {}
    assert "nothing more to begin: 6 trials" in capsys.readouterr().err


@pytest.mark.parametrize("parallel", [1, 2])
def test_another_number_at_a_time_leaves_nothing(home: Home, parallel: int) -> None:
    before = _app(**({"parallel": 2} if parallel == 1 else {}))

    def fails(data: Any) -> Any:
        raise KeyboardInterrupt

    kind: Any = search if parallel == 1 else train
    with pytest.raises(KeyboardInterrupt):
        kind.work(_job(home, "search-0" if parallel == 1 else "train", 1, fails, before))
    assert _files(home)
    after = _app(**({"parallel": 2} if parallel == 2 else {}))
    train.work(_job(home, "train", 2, _fit, after))
    assert _files(home) == []


def test_what_was_half_written_when_its_writer_was_killed_goes(home: Home) -> None:
    """Of this run when its study is opened, of runs before it when it is done, of one beside it not at all."""
    app = _app(parallel=2)
    folder = home.studies / "acme/m"
    for name in ("m-run-1.jsonl", "m-run-3.jsonl", "m-run-4.jsonl", "m-run-4.jsonl.history"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".{name}.new").write_bytes(b"{")
    (folder.parent / ".m.jsonl.new").write_bytes(b"{")
    search.work(_job(home, "search-0", 4, _fit, app))
    assert [name for name in _files(home) if name.endswith(".new")] == [
        ".m-run-1.jsonl.new", ".m-run-3.jsonl.new", ".m.jsonl.new"
    ]  # fmt: skip
    train.work(_job(home, "train", 4, _fit, app, beside=["m-run-3"]))
    assert _files(home) == [".m-run-3.jsonl.new"]


def test_a_run_whose_rows_are_not_known_searches_what_there_is(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    work = _job(home, "search-0", 1, _fit, _app(parallel=2))
    source = work.app.source("sales")
    version = search.history_of_run(work, source).table.version
    for damaged in (b"{", b'{"name": "sales", "table_version": 900, "rows": 1}'):
        (home.studies / "acme/m/m-run-1.jsonl.history").write_bytes(damaged)
        assert search.history_of_run(work, source).table.version == version
        assert "cannot be had any more" in capsys.readouterr().err


def test_a_job_that_is_stopped_while_it_looks_for_the_rows_holds_nobody_up_for_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = _job(home, "search-0", 1, _fit, _app(parallel=2))
    source = work.app.source("sales")
    search.history_of_run(work, source)
    monkeypatch.setattr(search, "HISTORY_S", 0.01)
    with (home.studies / "acme/m/m-run-1.jsonl.history.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable) as caught:
            search.history_of_run(work, source)
    assert (caught.value.code, "tried again" in caught.value.next_action) == ("STUDY_BUSY", True)
    assert search.history_of_run(work, source)


def test_what_trials_share_is_read_only(home: Home) -> None:
    seen: list[bool] = []

    def looks(data: Any) -> Any:
        seen.append(data.time.flags.writeable or data.x.flags.writeable or data.y.flags.writeable)
        return _fit(data)

    search.work(_job(home, "search-0", 1, looks, _app(parallel=2)))
    assert seen == [False] * 6
