from __future__ import annotations

import time
from typing import Any

import pytest

from skyriver.client.decision_page import show_decision
from skyriver.client.screen import Screen

DECIDED: dict[str, Any] = {
    "event_offset": 5_123,
    "id": 77,
    "status": "decided",
    "decision": "block",
    "score": 0.973_125,
    "features": {"mean_7d": 12.5, "[odd]": None},
    "model": "fraud",
    "version": 3,
    "rules_digest": "r",
    "features_digest": "f",
    "reason": "",
    "decided_at_us": 0,
    "latency_us": 412,
    "arm": "",
    "shadow_version": 0,
    "shadow_score": None,
    "rule": "certain",
}


REASONS = [
    {"feature": "[odd]", "value": 7, "contribution": 1.25, "text": "[odd] is 7"},
    {"feature": "mean_7d", "value": None, "contribution": -0.5, "text": "mean_7d is missing"},
]


def shown(capsys: pytest.CaptureFixture[str], **changed: Any) -> str:
    now = int(time.time() * 1e6)
    show_decision(Screen(as_json=False), "payments", {**DECIDED, "decided_at_us": now - 180_000_000, **changed})
    return capsys.readouterr().out


def test_a_decision_by_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    assert lines[:4] == [
        "77 of payments: block, 3 min ago",
        "  why    the rule certain fired",
        "  score  0.973125, by fraud:3",
        "  took   0.412 ms from its arrival; the event is at offset 5,123",
    ]
    assert [line.split() for line in lines[5:7]] == [["mean_7d", "12.5"], ["[odd]", "missing"]]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rule": "", "decision": "approve"}, "why    no rule fired"),
        (
            {"rule": "", "score": None, "status": "fallback", "reason": "MODEL_LATE"},
            "no score (MODEL_LATE), so it gets",
        ),
        (
            {"score": None, "status": "fallback", "reason": "NO_VERSION"},
            "certain fired, for there was no score (NO_VERSION)",
        ),
        ({"rule": "", "score": None, "status": "late", "reason": "LATE"}, "came later than the stream's disorder"),
        (
            {"reason": "BUDGET_SPENT", "budgets_spent": [{"decision": "block", "most": 1000, "per": "1h", "by": ""}]},
            "the rule certain fired, and the budget of block was spent (1,000 within 1h)\n",
        ),
        (
            {
                "reason": "BUDGET_SPENT",
                "budgets_spent": [
                    {"decision": "block", "most": 3, "per": "1h", "by": "customer"},
                    {"decision": "block", "most": 9, "per": "1d", "by": ""},
                    {"decision": "review", "most": 5, "per": "1d", "by": ""},
                ],
            },
            "the rule certain fired, and the budget of block was spent (3 within 1h of one customer or 9 within 1d) and"
            " the budget of review was spent (5 within 1d)\n",
        ),
        ({"reason": "BUDGET_SPENT", "budgets_spent": []}, "a budget of what its rules decided was spent; they are not"),
        ({"arm": "canary"}, "by fraud:3, its canary"),
        ({"status": "fallback", "version": 2}, "by fraud:2, which stood in"),
        ({"shadow_version": 4, "shadow_score": 0.25}, "shadow version 4 said 0.25"),
        ({"shadow_version": 4}, "shadow version 4 said nothing in time"),
        ({"features": None}, "at offset 5,123"),
        ({"id": "[bold]x[/]"}, "[bold]x[/] of payments"),
        ({"probability": 0.81234}, "which is a probability of 0.812"),
        ({"reasons": REASONS, "reasons_unit": "log-odds"}, "moved most by, in log-odds\n      +1.250  [odd] is 7"),
        ({"reasons": REASONS, "reasons_unit": "log-odds"}, "  -0.500  mean_7d is missing"),
        ({"reasons": [], "reasons_why": "there are none."}, "no reasons are told, for there are none"),
    ],
)
def test_what_else_there_is(capsys: pytest.CaptureFixture[str], changed: dict[str, Any], told: str) -> None:
    assert told in shown(capsys, **changed)
