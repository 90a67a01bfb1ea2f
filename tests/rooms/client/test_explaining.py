"""Why an event got its decision, as the command line asks for it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from skyriver.client import cli, show
from skyriver.client.screen import Screen
from skyriver.core.errors import NotFound


def test_a_stream_that_is_not_there_is_named_with_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(stream: str, event: str) -> Any:
        raise NotFound("Nothing is at this address.", code="UNKNOWN_ROUTE", next_action="x")

    client = SimpleNamespace(decision=unknown, list=lambda _: [{"name": "payments"}])
    monkeypatch.setattr(cli, "connect", lambda: nullcontext(client))
    done = CliRunner().invoke(cli.app, ["explain", "decision", "c1", "--stream", "payment"])
    assert isinstance(done.exception, NotFound)
    assert str(done.exception) == "There is no stream 'payment'. Did you mean payments?"
    assert done.exception.code == "NOT_FOUND"


def test_moments_are_told_as_times_and_nothing_that_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    at = 1_795_000_000_000_000
    status = {"looked": at, "judged": at + 1_000_000, "failures": 2, "dead_pid": 71_234, "last_end": "It was ended."}
    nothing: dict[str, Any] = {"reason": "", "message": "", "next_action": "", "waits_for": (), "tried": ()}
    nothing |= {"next_pass": (), "helps": (), "processes": {}, "log": (), "since": 0, "spec": {}}
    show.explained(
        Screen(as_json=False), [{"kind": "watch", "name": "risk", "state": "WATCHING", "status": status} | nothing]
    )
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "watch risk is WATCHING",
        "failures 2",
        "judged 2026-11-18 11:06:41 UTC",
        "last_end It was ended.",
        "looked 2026-11-18 11:06:40 UTC",
    ]
