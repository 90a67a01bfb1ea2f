"""How advice looks on the screen."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client.advice_page import NAMED, advice, missing_advice
from skyriver.client.screen import Screen
from skyriver.core.contract_advice import Advice, Declaration, NoAdvice


def declared(line: str, hours: float, late: float, verdict: str = "") -> Declaration:
    return {
        "line": line,
        "replica_hours": hours,
        "core_hours": hours,
        "memory_gb_hours": hours / 2,
        "cost": f"{hours * 0.0221:.6f}",
        "late": late,
        "verdict": verdict,
    }


NOW = declared("sr.Service(replicas=3)", 2_190.0, 0.0)
THEN = declared('sr.Service(replicas=(1, 3), latency="50ms")', 830.0, 0.004)
BROKEN = declared("sr.Service()", 730.0, 0.09, "9% would be late, and 0.5% may be.")


def shown(capsys: pytest.CaptureFixture[str], currency: str = "EUR", **told: Any) -> tuple[str, str]:
    item: Any = {
        "name": "quote",
        "app": "pricing",
        "now": NOW,
        "proposed": THEN,
        "saves": 0.621,
        "since": "2026-11-20T00:00:00Z",
        "until": "2026-11-27T00:00:00Z",
        "known_hours": 167.5,
        "late": 0.001,
        "why": "1.14 replicas on the mean would have done for 3.",
        "looked_at": [BROKEN, THEN],
        **told,
    }
    found: Advice = {
        "state": "DONE",
        "done": 1.0,
        "items": [item],
        "currency": currency,
        "as_of": "2026-11-01",
        "source": "HOME/prices.toml",
        "failed": [],
    }
    advice(Screen(as_json=False), found)
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_what_to_write_instead_is_told_with_what_it_saves(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys)
    line = next(line for line in out.splitlines() if line.startswith("quote "))
    assert line.split("  ")[0] == "quote"
    for part in (NOW["line"], THEN["line"], "48.40 -> 18.34", "0.000% -> 0.400%", "7.0 days"):
        assert part in line
    assert "quote: 1.14 replicas on the mean would have done for 3. It saves 62%." in out
    assert "9% would be late, and 0.5% may be." in out
    assert "By prices as of 2026-11-01 (HOME/prices.toml)" in err


def test_without_prices_it_is_in_core_hours(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = shown(capsys, currency="")
    assert "COST A MONTH, core-hours" in out
    assert "2,190 -> 830" in out


@pytest.mark.parametrize("currency", ["EUR", ""])
def test_what_nobody_knows_costs_no_number(capsys: pytest.CaptureFixture[str], currency: str) -> None:
    unknown: Any = {**NOW, "replica_hours": None, "core_hours": None, "cost": None, "late": None}
    out, _ = shown(capsys, currency, now=unknown, proposed=None, saves=0.0, looked_at=[], why="Nothing is known.")
    line = next(line for line in out.splitlines() if line.startswith("quote "))
    assert line.split()[-5:] == ["-", "-", "-", "7.0", "days"]


def test_where_nothing_is_proposed_it_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = shown(capsys, proposed=None, saves=0.0, since=None, looked_at=[], why="There is no history.")
    assert "quote: There is no history.\n" in out
    assert "->" not in out
    assert " none" in out


def test_services_without_advice_are_named_with_why_and_what_to_do() -> None:
    failed: list[NoAdvice] = [
        {"name": f"s{n}", "app": "shop", "code": "REPLAY_FAILED", "message": f"Why {n}.", "next_action": f"Do {n}."}
        for n in range(NAMED + 2)
    ]
    assert missing_advice(failed[:1]).message == "No advice on s0: Why 0. All others are answered."
    raised = missing_advice(failed)
    assert raised.message.endswith("No advice on s2: Why 2. Nor on 2 more. All others are answered.")
    assert (raised.code, raised.next_action, len(raised.details)) == ("NO_ADVICE", "Do 0.", NAMED + 2)
