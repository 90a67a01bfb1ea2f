"""Why an event got its decision, as the command line asks for it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from skyriver.client import cli
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
