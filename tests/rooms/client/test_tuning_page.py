"""What a person sees of chosen thresholds."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client.screen import Screen
from skyriver.client.tuning_page import rule_lines, tuned

DAY = 86_400_000_000


def policy(name: str, cost: float) -> dict[str, Any]:
    decided = {"decision": "review", "events": 31.5, "positives": 3.0, "precision": 0.0952, "recall": None}
    load = {"decision": "review", "most": 60, "per_us": DAY, "busiest": 65, "periods_over": 2, "events_over": 9}
    told = {"name": name, "cost": cost, "low": cost - 10, "high": cost + 10}
    return {**told, "decided": [decided], "loads": [load]}


def told(**changed: Any) -> dict[str, Any]:
    points = [{"value": n / 100, "cost": 50.0 + abs(n - 14), "later": 0.0, "over": max(0, 5 - n)} for n in range(100)]
    return {
        "stream": "payments",
        "model": "fraud",
        "version": 3,
        "verdict": "change",
        "thresholds": [{"rule": "review", "place": 0, "in_use": 0.3, "chosen": 0.14, "low": 0.1, "high": 0.2}],
        "policies": [policy("tuned", 1322.4), policy("in use", 1809.0), policy("always review", 9000.0)],
        "gain": 486.6,
        "gain_low": 320.0,
        "gain_high": 640.0,
        "curves": [points],
        "chosen_on": {"start": 0, "end": 6 * DAY, "days": 6, "events": 5_632, "positives": 417},
        "held_out": {"start": 6 * DAY, "end": 12 * DAY, "days": 6, "events": 5_608, "positives": 476},
        "cautions": [{"code": "FEW_DAYS", "message": "There are 6 days [of them]."}],
        "costs": {"of": [], "capacity": [], "unit": "EUR"},
        "rules": [
            {
                "was": {"decision": "review", "when": "score >= 0.3"},
                "now": {"decision": "review", "when": "score >= 0.14"},
            }
        ],
        **changed,
    }


def shown(capsys: pytest.CaptureFixture[str], **changed: Any) -> str:
    tuned(Screen(as_json=False), told(**changed))
    return capsys.readouterr().out


def test_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys)
    assert (
        "payments: thresholds for fraud:3, chosen on 1970-01-01 to 1970-01-06 (5,632 events, 417 positive);"
        " measured on 1970-01-07 to 1970-01-12 (5,608 events, 476 positive)." in out
    )
    assert "review  0.3     0.14    0.1 to 0.2" in out
    assert "A day costs in EUR, on 6 later days that had no say in the choice:" in out
    assert "tuned          1,322  1,312 to 1,332  31.5          65 of 60" in out
    assert "a day costs 486.60 EUR less, 26.9% (95%: 320.00 to 640.00 less): change." in out
    assert "! There are 6 days [of them]." in out
    assert "the others as chosen, on the days it was chosen on, 1970-01-01 to 1970-01-06:" in " ".join(out.split())
    assert '"review": "score >= 0.14",  # was score >= 0.3' in out


def test_a_curve_has_the_chosen_value_and_the_one_in_use_with_their_neighbours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line.split() for line in shown(capsys).splitlines() if "█" in line]
    values = [float(line[0]) for line in lines]
    assert {0.13, 0.14, 0.15, 0.29, 0.3, 0.31} <= set(values)
    assert values == sorted(values)
    assert len(values) <= 20
    marked = {float(line[0]): " ".join(line[3:]) for line in lines if len(line) > 3}
    assert marked[0.14] == "chosen"
    assert marked[0.3] == "in use"
    assert marked[0.0] == "5 beyond capacity"
    assert max(len(line[1]) for line in lines) == 32


def test_what_costs_more_is_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, verdict="keep", gain=-3.0, gain_low=-9.0, gain_high=2.0, costs={"unit": ""})
    assert "a day costs 3.00 more, 0.2% (95%: -9.00 to 2.00 less): keep what you have." in out


@pytest.mark.parametrize(("cost", "gain"), [(7_754.0, 10_368.0), (0.0, 3.0), (-20.0, 3.0), (-20.0, -3.0)])
def test_no_share_is_told_of_what_costs_nothing_or_less_or_of_more_than_all(
    capsys: pytest.CaptureFixture[str], cost: float, gain: float
) -> None:
    policies = [policy("tuned", cost - gain), policy("in use", cost)]
    out = " ".join(shown(capsys, policies=policies, gain=gain).split())
    word = "less" if gain > 0 else "more"
    assert f"EUR {word} (95%: " in out


def test_of_rules_that_are_left_out_no_share_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    policies = [policy("tuned, without 'warm'", 1322.4), policy("in use, without 'warm'", 1809.0)]
    out = " ".join(shown(capsys, policies=policies, verdict="keep").split())
    told = "By the chosen thresholds, without 'warm', a day costs 486.60 EUR less (95%: 320.00 to 640.00 less): keep"
    assert told in out
    assert "in use, without 'warm'" in out


def test_rules_with_names_are_written_as_rules() -> None:
    named = {"decision": "block", "when": "channel == 'web' and score >= 0.5", "name": "certain"}
    assert list(rule_lines(told(rules=[{"was": named, "now": named}]))) == [
        '    sr.Rule("block", "channel == \'web\' and score >= 0.5", name="certain"),'
    ]
