"""What a person sees of versions of rules."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client.rules_page import listed, page, told
from skyriver.client.screen import Screen

VERSION: dict[str, Any] = {
    "name": "payments-r2",
    "stream": "payments",
    "version": 2,
    "state": "CANARY",
    "reason": "",
    "message": "",
    "since": 0,
    "rules": [{"decision": "block", "when": "score >= 0.8"}, {"decision": "hold", "when": "a[0] > 1", "name": "b"}],
    "warnings": ["b of payments never fires: it is decided before"],
    "origin": "tune",
    "why": "[cheaper]",
    "gain": {
        "value": 12.5,
        "low": 3.0,
        "high": 21.0,
        "unit": "EUR",
        "per": "day",
        "job": "payments-tune-1",
        "rules_version": 1,
    },
    "percent": 10.0,
    "in_use": True,
    "compared": {
        "live": 1,
        "events": 2_000,
        "differed": 30,
        "said": [
            {"live": "approve", "candidate": "block", "events": 30, "per_1000": 15.0},
            {"live": "approve", "candidate": "approve", "events": 1_970, "per_1000": 985.0},
        ],
        "decided_by_live": {"approve": 1_800},
        "decided_by_candidate": {"approve": 197, "block": 3},
    },
    "history": [{"state": "CANDIDATE", "at": 0, "by": "ana", "why": "[cheaper]"}],
}


def shown(capsys: pytest.CaptureFixture[str], show: Any, what: Any) -> str:
    show(Screen(as_json=False), what)
    ended = capsys.readouterr()
    return " ".join((ended.out + ended.err).split())


def test_all_of_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, page, VERSION)
    for part in (
        "version 2 of the rules of payments is CANARY for 10% of the keys for",
        "from tuned: [cheaper]",
        "gain 12.5 EUR a day (3 to 21), by payments-tune-1",
        "rules block if score >= 0.8 hold if a[0] > 1 (b)",
        "history 1970-01-01 00:00:00 UTC CANDIDATE by ana: [cheaper]",
        "On 2,000 events it differs from version 1 30 times: it changes 15.0 decisions of 1,000.",
        "approve block 30 15.0 approve approve 1,970 985.0",
        "DECISION VERSION 1 VERSION 2 approve 1,800 (100.0%) 197 (98.5%) block 0 (0.0%) 3 (1.5%)",
    ):
        assert part in text, part


def test_a_shadow_would_change_and_what_was_not_compared_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    shadow = {**VERSION, "state": "SHADOW", "percent": 0.0, "in_use": False}
    text = shown(capsys, page, shadow)
    assert "SHADOW for" in text
    assert "not in use yet" in text
    assert "it would change 15.0 decisions of 1,000" in text
    none = {**VERSION["compared"], "events": 0, "differed": 0, "said": [], "decided_by_candidate": {}}
    text = shown(capsys, page, {**shadow, "compared": none})
    assert text.endswith("No event was compared yet."), "and no empty table"
    assert "differs" not in shown(capsys, page, {**shadow, "compared": None})


def test_a_line_of_each_and_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, listed, [VERSION])
    assert "2 CANARY 10%" in text
    assert "tuned 30 of 2,000 [cheaper]" in text
    assert "payments is CANARY for 10% of the keys." in shown(capsys, told, VERSION)
    candidate = {**VERSION, "state": "CANDIDATE", "percent": 0.0, "in_use": False}
    assert "! b of payments never fires" in shown(capsys, told, candidate)
    live = {**VERSION, "state": "LIVE", "percent": 0.0, "in_use": False}
    assert "`skyriver stream get payments` shows why" in shown(capsys, told, live)
