"""What is shown of cases of review: nothing that is hidden from the second person, and no number without its doubt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from skyriver.client import review_page as page
from skyriver.client.screen import Screen
from skyriver.client.sink_page import dispatcher_lines
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting import cases
from skyriver.decide.acting.case_view import in_full, in_short
from skyriver.decide.acting.cases import Case, ClosedWhy, Reviewer
from skyriver.decide.log.records import DecisionRecord

HOUR = 3_600_000_000
RECORD = DecisionRecord(17, 9, Status.DECIDED, "look", 0.5, b"", "m", 2, "", "", Reason.NONE, 0, 0, rule="large")
CASE = Case(
    id=17,
    event=9,
    key=3,
    decision="look",
    label="bad",
    answers={"hold": 1.0, "ship": 0.0},
    opened_at=0,
    within_us=4 * HOUR,
    lease_us=HOUR,
    expires_us=24 * HOUR,
    unanswered="hold",
    second=True,
    probability=0.5,
    miss_cost=10.0,
    record=RECORD,
    offset=18,
    values={"amount": 10.0, "note": "[bold]x[/]", "shop": None},
    names=(),
)
ANA, BEN = Reviewer("ana"), Reviewer("ben")
FIRST = cases.answer(cases.claim(CASE, ANA, 1), ANA, 1, "hold", "as last week", 2)


def shown(case: Case, capsys: pytest.CaptureFixture[str], earlier: list[Case] | None = None) -> str:
    page.show_case(Screen(as_json=False), "orders", in_full(case, earlier or [], HOUR), None)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_a_case_that_waits(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(CASE, capsys, [replace(FIRST, id=5)])
    assert "case 17 of orders: look of 9, 60 min ago" in text
    assert "the rule large fired; the score is 0.5, by m:2" in text
    assert "expected  5, from a probability of 0.5 and a miss that costs 10" in text
    assert "due       in 3 h, expires in 23 h" in text
    assert "[bold]x[/]" in text, "an event's text is shown as it is"
    assert "missing" in text
    assert "case 5, 60 min ago, SECOND" in text
    assert "as last week" not in text, "what is not closed is not told"
    assert "skyriver review claim orders 17" in text


def test_the_first_opinion_is_hidden_from_the_second_person(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(cases.claim(FIRST, BEN, 3), capsys)
    assert "ana, 60 min ago: not told yet" in text
    assert "as last week" not in text
    torn = cases.answer(cases.claim(FIRST, BEN, 3), BEN, 2, "ship", "a regular", 4)
    text = shown(torn, capsys)
    assert "ESCALATED: two people disagree" in text
    assert "ana, 60 min ago: hold: as last week" in text


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (cases.claim(CASE, ANA, 0), "Case 17 of orders is CLAIMED: ana holds it for another 60 min (claim 1)."),
        (FIRST, "Case 17 of orders is SECOND: another person must answer too."),
        (
            cases.escalate(cases.claim(CASE, ANA, 0), ANA, 1, "ours"),
            "Case 17 of orders is ESCALATED: ana handed it up: ours.",
        ),
        (
            cases.give_up(CASE, ClosedWhy.UNANSWERED, 1),
            "Case 17 of orders is EXPIRED: hold, expired: nobody answered in time.",
        ),
        (CASE, "Case 17 of orders is OPEN: it waits for somebody to claim it."),
    ],
)
def test_what_an_act_made_of_it(case: Case, line: str) -> None:
    assert page.became("orders", in_full(case, [], 0)) == line  # type: ignore[arg-type]


def test_a_list_and_an_empty_one(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    items: Any = [in_short(CASE), in_short(cases.give_up(CASE, ClosedWhy.QUEUE_FULL, 1))]
    page.show_list(screen, "orders", {"items": items, "total": 7, "now": HOUR, "next": "x"})
    told = capsys.readouterr()
    assert [line.split()[:2] for line in told.out.splitlines()] == [["CASE", "EVENT"], ["17", "9"], ["17", "9"]]
    assert "queue_full" in told.out
    assert "2 of 7" in told.err
    assert "--all" in told.err
    page.show_list(screen, "orders", {"items": items[:1], "total": 1, "now": HOUR, "next": None})
    assert "in 3 h (01-01 04:00)" in capsys.readouterr().out
    page.show_list(screen, "orders", {"items": items[:1], "total": 1, "now": 6 * HOUR, "next": None})
    assert "OVERDUE by 2 h (01-01 04:00)" in capsys.readouterr().out
    page.show_list(screen, "orders", {"items": [], "total": 0, "now": HOUR, "next": None})
    assert capsys.readouterr().err.strip() == "No case of orders is there."


def test_numbers_come_with_their_doubt(capsys: pytest.CaptureFixture[str]) -> None:
    from skyriver.decide.acting.case_stats import difference, kappa, share

    change = {"days": 7, "recent": share(1, 40), "before": share(20, 40)}
    told: Any = {
        "lanes": [{"lane": "first", "waiting": 2, "held": 1, "oldest_us": HOUR}],
        "closed": {"decided": 3, "unanswered": 1, "queue_full": 1, "in_time": share(3, 5)},
        "labels": {"unsent": 1, "refused": 0},
        "reviewers": [
            {
                "by": "ana",
                "answered": 80,
                "median_us": HOUR,
                "positives": share(21, 80),
                "agreed": share(0, 0),
                "truth": {"true_positives": 3, "false_positives": 1, "true_negatives": 2, "false_negatives": 0},
                "change": {**change, "difference": difference((1, 40), (20, 40)), "others": None},
            }
        ],
        "pairs": [{"a": "ana", "b": "ben", **kappa({(1.0, 1.0): 10, (0.0, 0.0): 10})}],
        "before": [{"by": "", "counts": {"decided": 1_200}}],
        "now": 0,
    }
    page.show_stats(Screen(as_json=False), "orders", told)
    text = capsys.readouterr()
    assert "in time 3 of 5 (23 to 88%)" in text.out
    assert "5 of 6 right" in text.out
    assert "-48% (-62 to -29)" in text.out
    assert "1.00 (0.68 to 1.00)" in text.out
    assert "1,200 older cases" in text.err


def test_the_page_of_a_stream_tells_how_many_wait() -> None:
    told: Any = {
        "state": "READY",
        "reason": "REVIEWS_OVERDUE",
        "message": "3 cases of review are overdue.",
        "next_action": "Look.",
        "pid": 0,
        "rss_mb": 0.0,
        "cpu_seconds": 0.0,
        "offset": 9,
        "behind": 0,
        "missed": 0,
        "sinks": [],
        "reviews": {"open": 12, "overdue": 3, "unsent": 1, "refused": 0},
    }
    lines = dict(dispatcher_lines(told))
    assert lines["reviews"] == "12 open, 3 overdue, 1 answers on their way to labels"
    assert "REVIEWS_OVERDUE" in lines[""]
    told["reviews"] = {"open": 0, "overdue": 0, "unsent": 0, "refused": 0}
    assert dict(dispatcher_lines(told))["reviews"] == "no case is open"
    assert "reviews" not in dict(dispatcher_lines({**told, "reviews": None}))
