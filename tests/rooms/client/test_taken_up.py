"""Waiting until a stream's worker decides with what was deployed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.client import shell
from skyriver.core.errors import Unavailable

BARS: Any = SimpleNamespace(tell=lambda *_: None)


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time passes by sleeping alone."""
    naps: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(naps), sleep=naps.append)
    monkeypatch.setattr(shell, "time", clock)
    return naps


def client(rows: Iterator[dict[str, Any]]) -> Any:
    return SimpleNamespace(get=lambda kinds, name: next(rows))


def row(generation: int | None, state: str = "STARTING") -> dict[str, Any]:
    status = {} if generation is None else {"generation": generation}
    return {"generation": 3, "status": status, "state": state, "message": "It starts.", "next_action": "Wait."}


def test_it_waits_until_the_worker_says_so(slept: list[float]) -> None:
    rows = iter([row(2, "READY"), row(2, "READY"), row(2), row(None), row(3, "READY")])
    shell.taken_up(client(rows), BARS, "payments")
    assert next(rows, None) is None
    assert len(slept) == 3


def test_it_does_not_wait_for_ever(slept: list[float]) -> None:
    with pytest.raises(
        Unavailable, match=r"payments is deployed, and its worker .* after 60 s. STARTING It starts."
    ) as e:
        shell.taken_up(client(itertools.repeat(row(2))), BARS, "payments")
    assert (e.value.code, e.value.where, e.value.next_action) == ("NOT_FINISHED", "stream/payments", "Wait.")
    assert sum(slept) == pytest.approx(60, abs=1)
