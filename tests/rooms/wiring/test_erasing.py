"""Erasures that did not get to their end, and what is erased where no process has it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.flock.lock import take_lock
from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.errors import Conflict
from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting.deliveries import Deliveries
from skyriver.decide.acting.dispatching import Dispatch
from skyriver.decide.log.erasing import ErasingWork, read_work
from skyriver.decide.log.following import Decided, Step
from skyriver.decide.log.records import DecisionRecord
from skyriver.wiring.dispatcher import erase_in_file
from skyriver.wiring.work.erase import _Erasure

STREAM = StreamSpec(
    name="orders",
    fields=(
        FieldSpec(name="order", type="text"),
        FieldSpec(name="at", type="time"),
        FieldSpec(name="who", type="text"),
    ),
    id="order",
    time="at",
    key="who",
)


def plan(who: str, said: str = "") -> ErasingWork:
    return ErasingWork("who", who, ["at"], False, b"s" * 32, [], 7, [f"order of {who}"], [3], said)


class Recorded(_Erasure):
    """Erases nothing, and tells whom it was to erase."""

    asked: list[tuple[str, Any]]

    def _erase(self, plan: ErasingWork) -> dict[str, Any]:
        type(self).asked.append((self._path.name, plan.value))
        return {"who": "nobody"}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("skyriver.wiring.work.erase._Erasure", Recorded)
    monkeypatch.setattr(
        Recorded, "_plan", lambda self, field, value: plan(value, self._job.inputs["subject"]["digest"])
    )
    Recorded.asked = []
    objects = DirectoryObjects(tmp_path / "objects")
    home = SimpleNamespace(tables=tmp_path / "tables")
    app = SimpleNamespace(stream=lambda name: STREAM)
    made = SimpleNamespace(name="orders-erase-5", target="orders", app=app, params={}, home=home, objects=objects)
    made.stream_directory = lambda name: tmp_path / "stream"
    made.inputs = {"subject": {"digest": say(objects, "ann")}}
    made.folder = tmp_path / "stream" / "erasing"
    made.folder.mkdir(parents=True)
    return made


def say(objects: DirectoryObjects, who: str) -> str:
    return objects.put(json.dumps({"field": "", "value": who, "beside": "x"}).encode())


def left(job: Any, name: str, who: str) -> str:
    """What an erasure left that failed; the digest of who it was."""
    said = say(job.objects, f"{who} ")
    (job.folder / name).write_bytes(msgspec.msgpack.encode(plan(who, said)))
    return said


def test_what_was_left_of_the_same_subject_is_gone_on_with(job: Any) -> None:
    said = left(job, "orders-erase-3", "ann")
    assert Recorded(job).run() == {"who": "nobody"}
    assert Recorded.asked == [("orders-erase-3", "ann")], "with the surrogates that some of it has already"
    assert [path.name for path in job.folder.iterdir()] == ["orders-erase-5.proof"]
    assert not job.objects.has(said)
    assert not job.objects.has(job.inputs["subject"]["digest"])
    assert Recorded(job).run() == {"who": "nobody"}
    assert len(Recorded.asked) == 1, "its end was not seen: it is told again"


def test_what_was_left_of_another_one_is_ended_too(job: Any) -> None:
    said = left(job, "orders-erase-3", "bob")
    (job.folder / "orders-erase-2.proof").write_text("{}")
    Recorded(job).run()
    assert Recorded.asked == [("orders-erase-3", "bob"), ("orders-erase-5", "ann")]
    assert {path.suffix for path in job.folder.iterdir()} == {".proof"}
    assert not job.objects.has(said)


def test_a_job_that_goes_on_has_its_own_secret(job: Any) -> None:
    left(job, "orders-erase-5", "ann")
    Recorded(job).run()
    assert Recorded.asked == [("orders-erase-5", "ann")]


def test_an_object_that_says_nobody_is_not_deleted(job: Any) -> None:
    model = job.objects.put(b"a model")
    job.inputs = {"subject": {"digest": model}}
    with pytest.raises(Exception, match="not said who"):
        Recorded(job).run()
    assert job.objects.has(model)


def test_deliveries_are_erased_where_no_dispatcher_is(tmp_path: Path) -> None:
    file = tmp_path / "dispatch" / "state.sqlite"
    database = SqliteFile(file)
    deliveries = Deliveries(STREAM, "t")
    dispatch = Dispatch(database, [deliveries])
    dispatch.declare({"sinks": [{"to": "bank", "on": ["block"]}]})
    dispatch.open(0)
    for offset, who in ((0, "ann"), (2, "bob")):
        record = DecisionRecord(
            offset, f"order of {who}", Status.DECIDED, "block", 0.5, b"", "m", 3, "r", "f", Reason.NONE, 5, 7
        )
        dispatch.take(Step([Decided(record, {"order": record.id, "at": 5, "who": who}, offset + 1)], offset + 2), 5)
    database.close()
    lock = take_lock(file.parent, "a dispatcher", take_over=False, wait_us=0)
    monkey = pytest.MonkeyPatch()
    monkey.setattr("skyriver.wiring.dispatcher.LOCK_US", 1_000)
    with pytest.raises(Conflict) as told:
        erase_in_file(file, STREAM, "t", ["order of ann"])
    monkey.undo()
    assert told.value.code == "DISPATCH_HELD"
    lock.release()
    assert erase_in_file(file, STREAM, "t", ["order of ann"]) == 1
    assert erase_in_file(file, STREAM, "t", ["order of ann"]) == 0
    content = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert b"order of ann" not in content
    assert b"order of bob" in content


def test_the_file_of_an_erasure_is_read_as_it_was_written() -> None:
    assert read_work(msgspec.msgpack.encode(plan("ann", "d"))) == plan("ann", "d")
