"""What is told where there is no terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from skyriver.client import show
from skyriver.client.screen import Screen


def operation(state: str, message: str = "", **progress: Any) -> dict[str, Any]:
    step = {"ref": "job/a-train", "title": "train", "state": state, "progress": progress or None, "message": message}
    return {"status": {"steps": [step]}}


def test_a_step_that_waits_says_why_once_and_each_state_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(as_json=False).progress() as bars:
        told = bars.follow()
        told(operation("PENDING"))
        told(operation("QUEUED", "It is number 2 in the queue, behind b-train."))
        told(operation("QUEUED", "It is number 1 in the queue, behind b-train."))
        told(operation("RUNNING", stage="fit", done=1, total=4))
        told(operation("RUNNING", stage="fit", done=2, total=4))
        told(operation("FAILED", "It exited with 1."))
        told(operation("SUCCEEDED"))
    assert capsys.readouterr().err.splitlines() == [
        "  train QUEUED  It is number 2 in the queue, behind b-train.",
        "  train RUNNING",
        "  train SUCCEEDED",
    ]


def test_a_program_that_asked_for_json_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(as_json=True).progress() as bars:
        bars.follow()(operation("RUNNING"))
    assert capsys.readouterr() == ("", "")


def test_of_a_bar_that_was_written_over_its_end_is_shown_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    line = "\r\x1b[1m1/7\x1b[0m loss: 0.72\x08\x08\r\x1b[1m7/7\x1b[0m loss: 0.70\x08\x08"
    more = ["plain [1] text", "windows\r", "done: 3\r\x1b[K", "\x1b]0;title\x07text"]
    show.log_lines(Screen(as_json=False), [("a-train", printed) for printed in (line, *more)])
    assert capsys.readouterr().out.splitlines() == [
        "a-train | 7/7 loss: 0.70",
        "a-train | plain [1] text",
        "a-train | windows",
        "a-train | done: 3",
        "a-train | text",
    ]


def test_a_program_gets_what_was_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show.log_lines(Screen(as_json=True), [("a-train", "1/2\r2/2")])
    assert json.loads(capsys.readouterr().out) == {"name": "a-train", "line": "1/2\r2/2"}
