"""How the commands for deliveries end."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from skyriver.client import sinks
from skyriver.client.shell import app

LEFT = {"number": 4, "code": "SAME_PERSON", "message": "ann decided it.", "next_action": "Let another person."}


@pytest.mark.parametrize("verb", ["approve", "refuse"])
@pytest.mark.parametrize(("left", "code"), [([], 0), ([LEFT], 6)])
def test_who_left_some_ends_with_a_conflict_and_not_with_a_fault(
    monkeypatch: pytest.MonkeyPatch, verb: str, left: list[Any], code: int
) -> None:
    client = SimpleNamespace(judge_deliveries=lambda *_, **__: {"judged": [1], "left": left, "more": 0})
    monkeypatch.setattr(sinks, "connect", lambda: nullcontext(client))
    done = CliRunner().invoke(app, ["sink", verb, "orders", "1", "4", "--reason", "x"])
    assert done.exit_code == code, done.output
    assert "1 delivery" in done.output
