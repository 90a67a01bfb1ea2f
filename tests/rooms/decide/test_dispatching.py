"""Decisions come to a dispatcher's parts once, whatever ends in between, and requests are done once for their key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.errors import Corrupt, InvalidInput, NotFound, Unavailable
from skyriver.decide.acting.database import Transaction
from skyriver.decide.acting.dispatching import KEPT_ANSWERS_US, Ask, Dispatch, Routes
from skyriver.decide.log.following import Decided, Step
from skyriver.decide.log.records import DecisionRecord, Reason, Status


class Notes:
    """A part that writes down what it gets."""

    broken = False

    def prepare(self, do: Transaction) -> None:
        do.run("CREATE TABLE IF NOT EXISTS notes (offset INTEGER, text TEXT)")

    def declare(self, live: Mapping[str, Any]) -> None: ...

    def wants(self, record: DecisionRecord) -> bool:
        return record.decision == "block"

    def take(self, do: Transaction, decided: Sequence[Decided], now: int) -> None:
        do.run_many("INSERT INTO notes VALUES (?, 'block')", [(d.record.event_offset,) for d in decided])
        if self.broken:
            raise RuntimeError("half-way")

    def tick(self, do: Transaction, now: int) -> None: ...

    def erase(self, do: Transaction, now: int) -> int:
        do.run("DELETE FROM notes WHERE text IN (SELECT event FROM erased)")
        return do.changed

    def routes(self) -> Routes:
        return {("POST", "/notes/{number}/say"): self._say, ("GET", "/notes"): self._list}

    def report(self, do: Transaction) -> Mapping[str, Any]:
        return {"notes": do.run("SELECT count(*) FROM notes")[0][0]}

    def full(self) -> str:
        return ""

    def _say(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        do.run("INSERT INTO notes VALUES (?, ?)", (ask.number("number"), ask.text("text")))
        if ask.body.get("fail"):
            raise InvalidInput("no")
        return {"said": ask.text("text"), "by": ask.actor}

    def _list(self, do: Transaction, ask: Ask) -> Mapping[str, Any]:
        return {"items": [row[0] for row in do.run("SELECT offset FROM notes ORDER BY rowid")]}


def decided(offset: int, decision: str = "block") -> Decided:
    record = DecisionRecord(offset, offset, Status.DECIDED, decision, 0.9, b"", "m", 1, "", "", Reason.NONE, 0, 0)
    return Decided(record, {"amount": 1.0}, offset + 1)


def opened(path: Path | None, part: Notes, begin: int = 0, **more: Any) -> tuple[Dispatch, SqliteFile]:
    database = SqliteFile(path)
    dispatch = Dispatch(database, [part])
    dispatch.open(begin, **more)
    return dispatch, database


def test_a_step_that_fails_leaves_nothing_and_one_that_ends_is_there_after_any_end(tmp_path: Path) -> None:
    part = Notes()
    dispatch, database = opened(tmp_path / "state.sqlite", part)
    dispatch.take(Step([decided(1), decided(3)], 5), 0)
    part.broken = True
    with pytest.raises(RuntimeError):
        dispatch.take(Step([decided(7)], 9), 0)
    assert dispatch.offset == 5
    database.close()
    part.broken = False
    dispatch, database = opened(tmp_path / "state.sqlite", part)
    assert dispatch.offset == 5
    assert dispatch.answer("GET", "/notes", Ask()) == {"items": [1, 3]}
    database.close()


def test_where_it_begins() -> None:
    dispatch, _ = opened(None, Notes(), 40)
    assert dispatch.offset == 40
    with pytest.raises(Unavailable) as caught:
        opened(None, Notes(), 40, began=True)
    assert caught.value.code == "DISPATCH_GONE"
    dispatch, _ = opened(None, Notes(), 40, began=True, again=7)
    assert dispatch.offset == 7


def test_what_was_decided_while_nothing_was_declared_is_passed_over(tmp_path: Path) -> None:
    dispatch, database = opened(tmp_path / "s", Notes(), 40, began=True, again=0)
    dispatch.take(Step([], 50), 0)
    database.close()
    for begin, expected in ((40, 50), (90, 90), (90, 90)):
        dispatch, database = opened(tmp_path / "s", Notes(), begin, began=True)
        assert dispatch.offset == expected
        database.close()


def test_what_the_log_gave_up_is_counted() -> None:
    dispatch, _ = opened(None, Notes())
    dispatch.skip(100)
    dispatch.skip(130)
    assert (dispatch.offset, dispatch.missed) == (130, 130)
    with pytest.raises(Corrupt) as caught:
        dispatch.check_end(129)
    assert caught.value.code == "DISPATCH_AHEAD"


def test_a_request_is_done_once_for_its_key() -> None:
    dispatch, _ = opened(None, Notes())
    ask = Ask(actor="ann", key="k", body={"text": "hello"})
    for _ in range(2):
        assert dispatch.answer("POST", "/notes/17/say", ask) == {"said": "hello", "by": "ann"}
    dispatch.answer("POST", "/notes/18/say", Ask(actor="bob", key="k", body={"text": "hello"}))
    assert dispatch.answer("GET", "/notes", Ask()) == {"items": [17, 18]}
    with pytest.raises(InvalidInput) as caught:
        dispatch.answer("POST", "/notes/19/say", ask)
    assert caught.value.code == "IDEMPOTENCY_KEY_REUSED"
    dispatch.tick(KEPT_ANSWERS_US + 1)
    dispatch.answer("POST", "/notes/19/say", ask)
    assert dispatch.tick(0) == {"notes": 3}


def test_a_request_that_is_refused_did_nothing() -> None:
    dispatch, _ = opened(None, Notes())
    with pytest.raises(InvalidInput):
        dispatch.answer("POST", "/notes/17/say", Ask(key="k", body={"text": "x", "fail": True}))
    assert dispatch.answer("POST", "/notes/17/say", Ask(key="k", body={"text": "x"})) == {"said": "x", "by": ""}
    assert dispatch.answer("GET", "/notes", Ask()) == {"items": [17]}
    for method, path in (("GET", "/notes/1"), ("GET", "/nothing"), ("POST", "/notes"), ("POST", "/notes/x/say")):
        with pytest.raises(NotFound) as caught:
            dispatch.answer(method, path, Ask(body={"text": "x"}))
        assert caught.value.next_action


def test_a_damaged_state_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    dispatch, database = opened(path, Notes())
    for start in range(0, 4_000, 50):
        dispatch.take(Step([decided(n) for n in range(start, start + 50)], start + 50), 0)
    database.close()
    data = bytearray(path.read_bytes())
    data[-4_096:-4_000] = b"\xff" * 96
    path.write_bytes(data)
    with pytest.raises(Corrupt) as caught:
        opened(path, Notes())
    assert caught.value.code == "DISPATCH_DAMAGED"
    assert "begin" in caught.value.next_action


def test_what_was_read_before_something_was_erased_is_not_taken() -> None:
    dispatch, _ = opened(None, Notes())
    erasures = dispatch.erasures
    assert dispatch.take(Step([decided(1)], 3), 0, erasures) == ""
    dispatch.erase([5], 0)
    assert dispatch.take(Step([decided(5)], 7), 0, erasures) is None
    assert (dispatch.offset, dispatch.answer("GET", "/notes", Ask())) == (3, {"items": [1]})
    assert dispatch.take(Step([], 7), 0, dispatch.erasures) == ""
    assert dispatch.offset == 7


def test_nothing_is_left_in_the_file_of_what_was_erased(tmp_path: Path) -> None:
    """Also where it was deleted before: what a database deletes stays in free pages of its file."""
    path = tmp_path / "state.sqlite"
    dispatch, database = opened(path, Notes())
    word = json.dumps("somebody-4711")
    for number in range(400):
        body = {"text": word if number % 3 == 0 else f"another {number}"}
        dispatch.answer("POST", f"/notes/{number}/say", Ask(key=str(number), body=body))
    with database.transaction() as do:
        do.run("DELETE FROM notes WHERE offset < 100")
    assert dispatch.erase(["somebody-4711"], 0) == 100
    assert dispatch.erase(["somebody-4711"], 0) == 0
    files = [file for file in tmp_path.iterdir() if b"somebody-4711" in file.read_bytes()]
    assert files == []
    assert len(dispatch.answer("GET", "/notes", Ask())["items"]) == 200
    database.close()
    assert not [file for file in tmp_path.iterdir() if b"somebody-4711" in file.read_bytes()]
