"""How the commands for deliveries end."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from skyriver.client import sinks
from skyriver.client.shell import app

DELIVERY = {
    "number": 0, "sink": "bank", "decision": "block", "event": 4, "state": "DONE", "since": 0, "tries": 1, "reason": "",
    "message": "", "judged_by": "", "note": "",
}  # fmt: skip
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


@pytest.mark.parametrize(
    ("given", "shown", "more"), [([], 100, True), (["--limit", "3"], 3, True), (["--all"], 120, False)]
)
def test_deliveries_are_listed_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, given: list[str], shown: int, more: bool
) -> None:
    asked: list[Any] = []

    def deliveries(stream: str, **which: str) -> Any:
        asked.append((stream, which))
        return ({**DELIVERY, "number": number} for number in range(120))

    monkeypatch.setattr(sinks, "connect", lambda: nullcontext(SimpleNamespace(deliveries=deliveries)))
    done = CliRunner().invoke(app, ["sink", "deliveries", "orders", "--event", "x 4", *given])
    assert asked == [("orders", {"state": "", "sink": "", "event": "x 4"})]
    assert (done.exit_code, done.stdout.count("bank"), "There are more" in done.output) == (0, shown, more)
