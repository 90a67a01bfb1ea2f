"""Which predictions may be about a stream's subjects, and who may not predict while somebody is erased."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import Conflict
from skyriver.core.resources import Resource, Snapshot
from skyriver.serve.predicted import check_erasures, predictions_about


class Order(sr.Event):
    number: int
    at: sr.Time
    customer: str
    a: float


class Customer(sr.Event):
    customer: str
    at: sr.Time
    a: float


APP = sr.App("shop")
ORDERS = APP.stream("orders", Order, id="number", time="at", key="customer")
APP.table("customers", Customer, id="customer")


def predicted(name: str, model: str, key: Sequence[str], to: str, state: str = "SUCCEEDED", **inputs: Any) -> Resource:
    kind = to.rpartition(".")[2] if "." in to else ""
    spec = {
        "kind": "predict",
        "target": model,
        "inputs": inputs,
        "params": {"key": list(key), "to": to, "format": kind},
    }
    artifacts = {to: {"digest": f"answers of {name}"}} if kind else {}
    return Resource("t", "job", name, spec=spec, state=state, status={"outputs": {"artifacts": artifacts}})


def snapshot(*jobs: Resource, app: sr.App = APP) -> Snapshot:
    rows = [
        Resource("t", "app", "shop", spec={"spec": app.spec.to_json(), "code": {}}),
        Resource("t", "stream", "orders", spec={"stream": app.spec.stream("orders").to_json()}, parent="app/shop"),
        Resource("t", "model", "mine", parent="app/shop"),
        Resource("t", "model", "theirs", parent="app/other"),
        *jobs,
    ]
    return Snapshot({row.key: row for row in rows}, {}, {}, 1_000)


def about(*jobs: Resource, app: sr.App = APP) -> dict[str, Any]:
    found = snapshot(*jobs, app=app)
    stream = found.find("t", "stream", "orders")
    assert stream is not None
    return predictions_about(found, stream)


FILES = {"files": [{"digest": "rows"}]}


def test_columns_that_may_name_a_subject_are_found_by_where_the_rows_came_from() -> None:
    found = about(
        predicted("one", "mine", ["number"], "a", table={"name": "orders"}),
        predicted("two", "theirs", ["number"], "b", table={"name": "orders"}),
        predicted("three", "mine", ["customer"], "c", table={"name": "customers"}),
        predicted("four", "mine", ["file", "row", "customer", "shoe"], "d", **FILES),
        predicted("five", "mine", ["file", "row", "a"], "e", **FILES),
        predicted("six", "theirs", ["file", "row", "customer"], "f", **FILES),
        predicted("seven", "mine", ["file", "row", "number"], "d", **FILES),
    )
    assert found["tables"] == {
        "a": ["number"],
        "b": ["number"],
        "c": ["customer"],
        "d": ["customer", "number"],
        "e": [],
    }
    assert found["jobs"] == ["five", "four", "one", "seven", "three", "two"]


def test_an_id_that_others_have_too_is_not_taken_for_the_stream_s() -> None:
    class Parcel(sr.Event):
        number: int
        at: sr.Time

    two = sr.App("shop")
    two.stream("orders", Order, id="number", time="at", key="customer")
    two.table("parcels", Parcel, id="number")
    mine = predicted("one", "mine", ["number"], "a", table={"name": "orders"})
    other = predicted("two", "mine", ["number"], "b", table={"name": "parcels"})
    file = predicted("three", "mine", ["file", "row", "number", "customer"], "c", **FILES)
    assert about(mine, other, file, app=two)["tables"] == {"a": ["number"], "b": [], "c": ["customer"]}


def test_files_of_answers_are_told_with_their_columns_and_uploads_that_nobody_else_has() -> None:
    load = Resource("t", "job", "load", spec={"kind": "load", "inputs": {"files": [{"digest": "shared"}]}})
    found = about(
        predicted("one", "mine", ["file", "row", "customer"], "a.csv", files=[{"digest": "x"}, {"digest": "shared"}]),
        predicted("two", "mine", ["file", "row"], "b.csv", files=[{"digest": "x"}]),
        load,
        # Of an erasure they are digests.
        Resource("t", "job", "erase", spec={"kind": "erase", "inputs": {"files": ["x"]}}, state="SUCCEEDED"),
    )
    assert found["files"] == {
        "a.csv of one": {"digest": "answers of one", "columns": ["customer"]},
        "b.csv of two": {"digest": "answers of two", "columns": []},
    }
    assert (found["tables"], found["uploads"]) == ({}, ["x"])


def test_nobody_is_erased_while_predictions_of_them_may_be_written() -> None:
    with pytest.raises(Conflict) as told:
        about(predicted("one", "mine", ["number"], "a", state="RUNNING", table={"name": "orders"}))
    assert (told.value.code, told.value.where) == ("PREDICTION_RUNS", "job/one")
    about(predicted("one", "theirs", ["file", "row"], "a", state="RUNNING", **FILES))


@pytest.mark.parametrize(
    ("model", "table", "state", "dry", "refused"),
    [
        ("mine", "", "RUNNING", False, True),
        ("theirs", "orders", "PENDING", False, True),
        ("theirs", "", "RUNNING", False, False),
        ("mine", "", "SUCCEEDED", False, False),
        ("mine", "orders", "RUNNING", True, False),
    ],
)
def test_nothing_is_predicted_of_an_application_while_somebody_is_erased(
    model: str, table: str, state: str, dry: bool, refused: bool
) -> None:
    spec = {"kind": "erase", "target": "orders", "params": {"dry_run": dry}, "inputs": {}}
    found = snapshot(Resource("t", "job", "orders-erase-1", spec=spec, state=state))
    row = found.find("t", "model", model)
    assert row is not None
    if not refused:
        check_erasures(found, row, table)
        return
    with pytest.raises(Conflict) as told:
        check_erasures(found, row, table)
    assert told.value.code == "ERASURE_RUNS"
