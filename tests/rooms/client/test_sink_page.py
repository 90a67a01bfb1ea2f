"""What a person sees of deliveries to sinks."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client.screen import Screen
from skyriver.client.sink_page import deliveries_table, erased_lines, judged_lines, retried_text, sink_line

DELIVERY: dict[str, Any] = {
    "number": 7, "sink": "bank", "id": "t/orders:4", "event": 4, "decision": "block", "lane": None, "state": "PARKED",
    "tries": 1, "due": 0, "made": 0, "since": 0, "reason": "RECEIVER_REFUSED", "message": "it answered 422",
    "asked_by": "", "judged_by": "", "note": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, "RECEIVER_REFUSED it answered 422"),
        (
            {"state": "DROPPED", "judged_by": "ann", "note": "a mistake"},
            "ann: a mistake (before: RECEIVER_REFUSED it answered 422)",
        ),
        ({"state": "REFUSED", "judged_by": "ann", "note": "no", "reason": "", "message": ""}, "ann: no"),
        ({"state": "WAITING", "judged_by": "ann"}, "RECEIVER_REFUSED it answered 422; approved by ann"),
    ],
)
def test_why_a_delivery_is_as_it_is(changed: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    screen.out.width = 200
    told: Any = {**DELIVERY, **changed}
    screen.out.print(deliveries_table([told]))
    assert why in capsys.readouterr().out


def test_a_retry_of_nothing_says_what_there_is() -> None:
    nothing: Any = {"sink": "bank", "retried": 0, "waiting": 3, "held": 0, "awaiting_approval": 1}
    assert retried_text("orders", nothing) == (
        "0 deliveries to bank: only what is parked is tried again, and nothing is; 3 wait and are tried by themselves,"
        " 1 await approval (`skyriver sink approve orders`)."
    )
    assert retried_text("orders", {**nothing, "retried": 1}) == "1 delivery to bank: tried again."


def test_what_could_not_be_judged_is_told_with_what_to_do() -> None:
    left = {"number": 4, "code": "SAME_PERSON", "message": "ann decided it.", "next_action": "Let another person."}
    told: Any = {"judged": [1, 2], "left": [left], "more": 1_500}
    assert list(judged_lines("approve", told)) == [
        "2 deliveries approved.",
        "[yellow]left[/] 4: ann decided it.",
        "  [bold]→[/] Let another person.",
        "1,500 more await approval: ask again for the next ones.",
    ]


def test_what_was_erased_is_told_where_it_is_counted() -> None:
    counts = ("waiting", "held", "awaiting_approval", "parked", "done", "refused", "expired", "dropped")
    sink: Any = {"sink": "bank", "declared": True, "oldest": None, **dict.fromkeys(counts, 0), "done": 59}
    assert (sink_line(sink), [*erased_lines([sink])]) == ("59 done", []), "of a dispatcher of before"
    assert sink_line({**sink, "erased": 6}) == "59 done, 6 erased"
    assert [*erased_lines([{**sink, "erased": 6}, {**sink, "erased": 0}])] == [
        "bank: 6 deliveries were erased and are not listed any more; DONE counts since the start."
    ]
