"""A pass over the log that is under way when something is erased: what it read of a part that is rewritten since."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skyriver.core.spec import FieldSpec, StreamSpec
from skyriver.data.decisions import Reason, Status
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log import following
from skyriver.decide.log.records import DecisionRecord, encode, encode_event
from skyriver.wiring.dispatcher import Dispatcher, DispatcherSettings
from skyriver.wiring.process import ProcessContext

FIELDS = (FieldSpec(name="order", type="int"), FieldSpec(name="at", type="time"))
STREAM = StreamSpec(name="orders", fields=FIELDS, id="order", time="at", key="order")


class Rewritten:
    """A log of ten events and decisions, which is rewritten without one of them while it is read for the first time."""

    def __init__(self, dispatcher: Dispatcher, erased: int) -> None:
        self._dispatcher = dispatcher
        self._erased = erased
        self._reads = 0

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        self._reads += 1
        old = self._reads == 1
        for number in range(start // 2, 10):
            status = Status.DECIDED if old or number != self._erased else Status.ERASED
            found = DecisionRecord(2 * number, number, status, "block", 0.5, b"", "m", 1, "", "", Reason.NONE, 0, 0)
            yield Record(RecordKind.EVENT, 0, encode_event(0, [number, number]), offset=2 * number)
            yield Record(RecordKind.DECISION, 0, encode(found), offset=2 * number + 1)
            if old and number == 2:
                self._dispatcher._erase({"ids": [self._erased]})


def test_what_is_erased_does_not_come_back_from_what_was_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "STEP_DECISIONS", 1)
    files = [tmp_path / name for name in ("socket", "status", "live")]
    context = ProcessContext("d", "t", tmp_path, *files, None, tmp_path, "", {})
    live: dict[str, Any] = {"sinks": [{"to": "bank", "on": ["block"]}]}
    dispatcher = Dispatcher(context, DispatcherSettings(STREAM, tmp_path, 0), live)
    log = Rewritten(dispatcher, erased=5)
    monkeypatch.setattr(dispatcher, "_open", lambda: log)
    dispatcher._dispatch.open(0)
    dispatcher._ready = True
    passes = []
    while (start := dispatcher._dispatch.offset) < 20:
        assert dispatcher._read(start, 20, lambda: None) == ""
        passes.append(start)
    assert passes == [0, 6]
    with dispatcher._database.transaction() as do:
        found = [event for (event,) in do.run("SELECT event FROM deliveries ORDER BY number")]
    assert found == [str(number) for number in range(10) if number != 5]
    dispatcher._log_thread.shutdown()
    dispatcher._database_thread.shutdown()
    dispatcher._answers.close()
    dispatcher._database.close()
