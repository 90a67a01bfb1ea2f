from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

import skyriver as sr
from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.spec import ModelSpec, StreamSpec, TableSpec
from skyriver.train.slices import Scored
from skyriver.train.split import Split
from skyriver.wiring.home import Home
from skyriver.wiring.work.champion_scores import get_scores, put_scores
from skyriver.wiring.work.history import History
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.slices import slices_of

app = sr.App("shop")


class Order(sr.Event):
    order: int
    at: sr.Time
    buyer: int
    shop: str | None


orders = app.stream("orders", Order, id="order", time="at", key="buyer")
back = app.labels("back", of=orders, delay="7d")
rows = app.table("rows", Order, id="order")
SLICES = [sr.Slice("even", orders.buyer == 0), sr.Slice(by="shop", most=2, least=3, least_positives=1)]


often = sr.count(by="buyer", over="7d")
behaviour = app.features("f", orders, {"buyer": orders.buyer, "often": often, "ratio": orders.buyer / often})
FEATURES = behaviour.spec.features
X = np.array([[9, n, np.nan] for n in range(10)], np.float32)
"""Of the first feature something else than in the events, so that it would be seen where it comes from."""


@app.train(behaviour, label=back)
def fit(data: sr.TrainingData) -> Any:
    raise NotImplementedError


@app.train(app.features("g", rows, {"at": rows.at.hour()}), label=rows.buyer)
def fit_rows(data: sr.TrainingData) -> Any:
    raise NotImplementedError


SHOPS = ["a", "b", "a", "c", None, "b", "a", None, "d", "a"]


def _history(home: Path, source: StreamSpec | TableSpec) -> tuple[Job, History]:
    tables = DeltaTables(Home(home).tables)
    n = np.arange(10)
    frame = pl.DataFrame(
        {"order": n, "at": n, "buyer": n % 2, "shop": SHOPS, "_offset": n, "_effective": n, "_late": n == 3}
    )
    if isinstance(source, TableSpec):
        frame = frame.drop("_offset", "_effective", "_late")
    version = tables.append(f"acme/{source.name}", [frame], offset=9, known=None)
    job: Any = SimpleNamespace(home=Home(home), table=lambda name: f"acme/{name}")
    return cast(Job, job), History(source, version, None)


def _split(test: list[int]) -> Split:
    none = np.empty(0, np.int64)
    return Split(none, none, np.array(test), np.empty(0, np.float32), none, 0, 1, 0)


def _found(home: Path, model: ModelSpec, source: StreamSpec | TableSpec, test: list[int]) -> dict[str, list[int]]:
    job, history = _history(home, source)
    found = slices_of(job, model, history, _split(test), FEATURES, X)
    return {part.name: part.rows.tolist() for part in found}


def test_of_a_stream_by_condition_and_by_value(tmp_path: Path) -> None:
    model = app.model("m", fit, slices=SLICES)
    # The fourth event was late: it is no row. The test is rows 2 to 8, which are events 2, 4, 5, 6, 7, 8, 9.
    assert _found(tmp_path, model, app.spec.streams[0], list(range(2, 9))) == {
        "even": [0, 1, 3, 5],
        "shop=a": [0, 3, 6],
        "shop=(missing)": [1, 4],
        "shop=(others)": [2, 5],
    }


def test_of_a_table_whose_test_rows_are_here_and_there(tmp_path: Path) -> None:
    model = app.model("t", fit_rows, slices=[sr.Slice("zero", rows.buyer == 0), sr.Slice(by="shop", most=1)])
    assert _found(tmp_path, model, app.spec.tables[0], [0, 3, 8, 9]) == {
        "zero": [0, 2],
        "shop=a": [0, 3],
        "shop=(others)": [1, 2],
    }


def test_by_features_that_look_at_other_events_as_the_training_computed_them(tmp_path: Path) -> None:
    new, rare = sr.Slice("new", often <= 4), sr.Slice("rare", (often > 4) & (orders.buyer == 0))
    model = app.model("f", fit, slices=[new, rare, sr.Slice("none", orders.buyer / often > 0)])
    assert _found(tmp_path, model, app.spec.streams[0], list(range(2, 9))) == {
        "new": [0, 1, 2],
        "rare": [3, 5],
        "none": [],
    }
    alone = app.model("g", fit, slices=[new])
    assert _found(tmp_path / "alone", alone, app.spec.streams[0], [3, 8]) == {"new": [0]}


def test_what_is_declared_of_few_rows_goes_along(tmp_path: Path) -> None:
    model = app.model("l", fit, slices=SLICES)
    job, history = _history(tmp_path, app.spec.streams[0])
    found = slices_of(job, model, history, _split([0, 1]), FEATURES, X)
    assert [(s.of, s.least, s.least_positives) for s in found] == [("even", 0, 0), ("shop", 3, 1), ("shop", 3, 1)]
    assert slices_of(job, app.model("none", fit), history, _split([0]), FEATURES, X) == ()


@pytest.mark.parametrize("probabilities", [True, False])
def test_scores_of_the_champion_travel(tmp_path: Path, probabilities: bool) -> None:
    objects = DirectoryObjects(tmp_path)
    scores = np.array([0.1, 0.9], np.float32)
    given = Scored(scores, scores / 2 if probabilities else None)
    found = get_scores(objects, put_scores(objects, given))
    assert found is not None
    np.testing.assert_array_equal(found.scores, scores)
    assert (found.probabilities is not None) == probabilities
    assert get_scores(objects, put_scores(objects, None)) is None
