"""What a worker takes over when its live settings change."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.decide.worker.overload import Objective
from skyriver.wiring import worker as module
from skyriver.wiring.worker import Worker


def test_another_latency_goes_on_with_what_was_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "keep_of", lambda kept: kept)
    monkeypatch.setattr(module, "kept_as", lambda stream, live: stream)
    told: dict[str, Any] = {}
    parts: Any = SimpleNamespace(
        _context=SimpleNamespace(live=lambda: told),
        _clock=SimpleNamespace(monotonic=lambda: 0, wall=lambda: 0),
        _settings=SimpleNamespace(stream=None),
        _station=SimpleNamespace(engine=None, pacer=None),
        _files=SimpleNamespace(sets=None, declared=None),
        _upkeep=SimpleNamespace(change=lambda keep: None),
        _live=None,
        _tried=None,
    )

    def pacer_at(objective: dict[str, Any] | None) -> Any:
        told.clear()
        told.update({"objective": objective} if objective else {})
        parts._context.live = lambda: dict(told)
        asyncio.run(Worker._watch_live(parts))
        return parts._station.pacer

    first = pacer_at({"latency_us": 50_000, "share": 0.99})
    assert pacer_at({"latency_us": 80_000, "share": 0.9}) is first
    assert first.objective == Objective(80_000, 0.9)
    assert pacer_at(None) is None
