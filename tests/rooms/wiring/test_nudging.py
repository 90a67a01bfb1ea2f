"""What tells the control plane that somebody waits, before its next pass would find it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from skyriver.wiring import activator as module
from skyriver.wiring.activator import Reports
from skyriver.wiring.nudging import listen, nudge, take


@pytest.fixture
def place() -> Any:
    """Short: a socket's path has at most 107 bytes."""
    path = Path(f"/tmp/nudge-{os.getpid()}.sock")
    yield path
    path.unlink(missing_ok=True)


def test_one_nudge_or_many_are_one_look(place: Path) -> None:
    looks: list[int] = []
    with_nobody = nudge(place)
    assert with_nobody is None
    listening = listen(place)
    assert listening is not None
    with listening:
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        for _ in range(1_000):  # more than the system keeps: nobody waits for a control plane that is stopped
            nudge(place)
        take(listening, lambda: looks.append(1))
        with pytest.raises(BlockingIOError):
            listening.recv(1)
        nudge(place)
        assert listening.recv(1) == b"!"
    assert looks == [1]


def test_who_comes_later_takes_the_place_over(place: Path) -> None:
    first, second = listen(place), listen(place)
    assert first is not None
    assert second is not None
    with first, second:
        nudge(place)
        assert second.recv(1) == b"!"
        with pytest.raises(BlockingIOError):
            first.recv(1)


def test_where_it_cannot_listen_passes_come_by_themselves() -> None:
    assert listen(Path("/tmp") / ("x" * 200)) is None


def test_the_activator_nudges_when_something_waits_newly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    nudged: list[Path] = []

    class Context:
        home = tmp_path

        def report(self, report: dict[str, Any]) -> None:
            assert len(nudged) <= len(told)
            told.append(report)

    monkeypatch.setattr(module, "nudge", nudged.append)
    reports = Reports(Context())  # type: ignore[arg-type]
    waiting = [{}, {"a": 1}, {"a": 7}, {"a": 7, "b": 1}, {"b": 1}, {}, {"a": 1}]
    counts = []
    for each in waiting:
        reports({"waiting": each})
        counts.append(len(nudged))
    assert [report["waiting"] for report in told] == waiting
    assert counts == [0, 1, 1, 2, 2, 2, 3]
    assert {path.name for path in nudged} == {"nudge.sock"}
