"""What can be asked of a model for many rows, and what is refused before a job begins."""

from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput, NotFound, SkyriverError
from skyriver.core.resources import Resource, Snapshot
from skyriver.release.manifest import scoring_signature
from skyriver.serve.asking import KEPT, plan_predict
from skyriver.wiring.deploy import plan_deploy


class Row(sr.Event):
    number: int
    at: sr.Time
    a: float


APP = sr.App("shop")
APP.table("rows", Row, id="number")
APP.stream("orders", Row, id="number", time="at", key="number")
FILES = {"files": [{"digest": "0" * 64, "name": "a.csv", "format": "csv"}]}
TABLE = {"table": "rows"}


def version(number: int, *fields: str) -> Resource:
    spec = {
        "model": "m",
        "version": number,
        "artifact": f"{number}" * 64,
        "fields": [{"name": name, "type": "float"} for name in fields],
        "signature": scoring_signature(len(fields)).to_json(),
    }
    return Resource("t", "version", f"m:{number}", spec=spec, state="APPROVED")


def snapshot(*more: Resource) -> Snapshot:
    app = {"spec": APP.spec.to_json(), "code": {}}
    found = [
        Resource("t", "app", "shop", spec=app),
        Resource("t", "model", "m", parent="app/shop", status={"aliases": {"champion": 2, "older": 1}}),
        Resource("t", "model", "new", parent="app/shop"),
        version(1, "a", "mean_7d"),
        version(2, "a"),
        *(Resource("t", "table", name, parent="app/shop") for name in ("rows", "rows.dead", "orders")),
        *more,
    ]
    return Snapshot({row.key: row for row in found}, {}, {}, 1_000)


def asked(target: str, inputs: dict[str, Any], *more: Resource, **params: Any) -> dict[str, Resource]:
    return {row.kind: row for row in plan_predict(snapshot(*more), "t", target, params, inputs)}


def refused(kind: type[SkyriverError], target: str, inputs: Any, *more: Resource, **params: Any) -> SkyriverError:
    with pytest.raises(kind) as caught:
        asked(target, inputs, *more, **params)
    assert caught.value.next_action
    return caught.value


def test_a_job_and_the_tables_of_its_answers() -> None:
    rows = plan_predict(snapshot(), "t", "m", {"cores": 3}, TABLE)
    assert [row.ref for row in rows] == [
        "operation/m-predict-1",
        "job/m-predict-1",
        "table/m-predictions",
        "table/m-predictions.dead",
    ]
    job = rows[1]
    assert (job.spec["lane"], job.spec["limits"]["cpus"]) == ("table/m-predictions", 3.0)
    told = dict(job.spec["inputs"]["version"])
    assert told.pop("proof")["artifact"] == told["artifact"]
    assert told == {name: version(2, "a").spec[name] for name in ("model", "version", "artifact", "fields")}
    assert job.spec["inputs"]["table"] == {"name": "rows", "id": "number"}
    assert rows[2].spec["columns"] == ["number", "score", "model", "version"]
    again = plan_predict(snapshot(rows[2], rows[3]), "t", "m", {}, TABLE)
    assert [row.kind for row in again] == ["operation", "job"], "they are there"


def test_a_file_gets_no_table() -> None:
    rows = asked("m:1", FILES, to="answers.csv", key=["who"], max_bad=0.5)
    assert set(rows) == {"operation", "job"}
    params = {"to": "answers.csv", "format": "csv", "key": ["file", "row", "who"], "max_bad": 0.5, "cores": 1}
    assert rows["job"].spec["params"] == params
    assert rows["job"].spec["lane"] == "job/m-predict-1"


@pytest.mark.parametrize(("target", "number"), [("m", 2), ("m@champion", 2), ("m@older", 1), ("m:1", 1)])
def test_which_version(target: str, number: int) -> None:
    assert asked(target, FILES)["job"].spec["inputs"]["version"]["version"] == number


def test_a_version_that_there_is_not() -> None:
    assert "aliases" not in refused(NotFound, "nobody", FILES).message
    assert refused(NotFound, "m:7", FILES).message
    assert refused(NotFound, "m@best", FILES).next_action == "It has @champion, @older."
    assert refused(Conflict, "new", FILES).code == "NO_VERSION"


def test_what_is_scored() -> None:
    refused(NotFound, "m", {"table": "nothing"})
    assert refused(InvalidInput, "m", {"table": "rows.dead"}).code == "NO_FIELDS"
    missing = refused(InvalidInput, "m:1", TABLE)
    assert (missing.code, missing.where) == ("MISSING_COLUMN", "table/rows")
    assert "'mean_7d'" in missing.message
    assert "stream replay orders --model m:1" in refused(InvalidInput, "m:1", {"table": "orders"}).next_action
    assert refused(InvalidInput, "m", {"files": []}).code == "NO_FILES"
    assert refused(InvalidInput, "m", {"files": [{"digest": "0", "format": "xls"}]}).code == "UNKNOWN_FORMAT"
    for inputs in ({}, {**FILES, **TABLE}):
        assert refused(InvalidInput, "m", inputs).code == "BAD_PARAMETER"


@pytest.mark.parametrize(
    "params",
    [
        {"key": ["score"]},
        {"key": ["row"]},
        {"key": ["a", "a"]},
        {"key": "a"},
        {"cores": 0},
        {"cores": True},
        {"max_bad": 2},
        {"max_bad": "all"},
        {"into": "x"},
    ],
)
def test_parameters_that_mean_nothing(params: dict[str, Any]) -> None:
    assert refused(InvalidInput, "m", FILES, **params).code == "BAD_PARAMETER"


def test_where_answers_go() -> None:
    assert refused(InvalidInput, "m", FILES, to="a.xlsx").code == "UNKNOWN_FORMAT"
    assert refused(InvalidInput, "m", FILES, to="../a.csv").code == "BAD_NAME"
    assert refused(InvalidInput, "m", FILES, to="No Table").code == "BAD_NAME"
    assert refused(Conflict, "m", FILES, to="rows").code == "TABLE_TAKEN"
    made = asked("m", TABLE, to="scores")["table"]
    others = Resource("t", "table", "scores", spec=made.spec | {"columns": ["x"]}, parent="model/m")
    assert refused(Conflict, "m", TABLE, others, to="scores").code == "TABLE_TAKEN"


def test_a_table_of_answers_is_none_of_an_application() -> None:
    named = sr.App("shop")
    named.table("scores", Row, id="number")
    rows = asked("m", TABLE, to="scores")
    scores = Resource("t", "table", "scores", spec=rows["table"].spec, parent="model/m")
    with pytest.raises(Conflict) as caught:
        plan_deploy(snapshot(scores), "t", named.spec, {}, files={}, prune=True)
    assert caught.value.code == "NAME_TAKEN"


def test_files_of_long_ago_are_removed() -> None:
    def done(number: int) -> Resource:
        status = {"outputs": {"artifacts": {"x.csv": {"digest": f"{number}"}}}}
        spec = {"kind": "predict", "target": "m"}
        return Resource(
            "t", "job", f"m-predict-{number}", spec=spec, state="SUCCEEDED", status=status, created_at=number
        )

    jobs = [done(number) for number in range(1, KEPT + 2)]
    running = Resource("t", "job", "m-predict-99", spec={"kind": "predict", "target": "m"}, state="RUNNING")
    inputs = asked("m", FILES, *jobs, running, to="x.csv")["job"].spec["inputs"]
    assert inputs["gone"] == ["1", "2"]
    assert set(inputs["ended"]) == {job.name for job in jobs}
