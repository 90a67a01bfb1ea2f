"""Changed features are joined to those that decide: what becomes of it when the worker stops."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.adapters.memory.log import MemoryLogStore
from skyriver.core.errors import Unavailable
from skyriver.data.log import Record, RecordKind
from skyriver.decide.log.records import encode_event
from skyriver.decide.worker.work import ChangeWork
from skyriver.wiring import feature_changes as module
from skyriver.wiring.feature_changes import FeatureChanges


class FakeWindows:
    """As those of a kernel, once they are closed."""

    digest = "changed"
    closed = False

    def fold_events(self, offsets: Any, effective: Any, rows: Any) -> Any:
        if self.closed:
            raise Unavailable("Bad file descriptor.", code="DISK_FAILED")
        return []

    def close(self) -> None:
        self.closed = True


class Changes(FeatureChanges):
    """What a builder made is there."""

    joins: FakeWindows

    async def _is_built(self, features: Any) -> bool:
        return True

    def _open(self, features: Any, digest: str) -> Any:
        return self.joins, 0


def test_a_worker_that_stops_while_features_are_joined_does_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    log = MemoryLogStore().open()
    log.append([Record(RecordKind.EVENT, n, encode_event(0, [n])) for n in range(9)])
    log.sync()
    waiting: list[ChangeWork] = []
    engine: Any = object()
    sets = SimpleNamespace(beside=None, specs={}, digest="deciding")
    parts: Any = SimpleNamespace(
        place=SimpleNamespace(directory=tmp_path),
        windows=SimpleNamespace(digest_of=lambda _: "changed"),
        files=SimpleNamespace(sets=sets, building="", durable=frozenset()),
        station=SimpleNamespace(engine=engine, submit=waiting.append),
        wanted=object(),
    )

    async def test() -> None:
        changes = Changes(parts.place, log, parts.windows, parts.files, parts.keeper, parts.station)
        changes.joins = windows
        changes.want(parts.wanted)
        running = asyncio.create_task(changes.run())
        async with asyncio.timeout(60):
            while not waiting:
                await asyncio.sleep(0.001)
        running.cancel()  # what is in the station's queue is done before it ends
        await asyncio.wait((running,))

    parts.keeper, windows = SimpleNamespace(demand=lambda: None), FakeWindows()
    asyncio.run(test())
    assert windows.closed
    (work,) = waiting
    work.change(engine)
    work.answer(None)
    assert caplog.text == ""
