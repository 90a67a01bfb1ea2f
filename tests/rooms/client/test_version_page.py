from typing import Any

import pytest

from skyriver.client import version_page
from skyriver.client.screen import Screen

CHECKS = [
    {"rule": "auc >= 0.8", "value": 0.87, "passed": True, "why": "it is", "wanted": ">= 0.8", "measured": "0.87",
     "evidence": "95%: 0.85 to 0.89"},
    {"rule": "night: auc >= 0.8", "value": None, "passed": True, "why": "not judged: 3 test rows", "wanted": "",
     "judged": False},
    {"rule": "size <= 1 KB", "value": 2000, "passed": False, "why": "too large", "wanted": "<= 1 KB"},
]  # fmt: skip


def _lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_gate_is_a_table_of_what_was_wanted_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    version_page.gate(Screen(as_json=False), {"gate": {"passed": False, "checks": CHECKS}})
    shown = capsys.readouterr()
    assert shown.err.strip().startswith("not judged: there is nothing to go by yet, or too little.")
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[1] == ["rule", "wanted", "measured", "evidence"]
    assert lines[2] == ["auc", ">=", "0.8", "0.87", "95%:", "0.85", "to", "0.89", "passed"]
    assert lines[3][-2:] == ["not", "judged"]
    assert lines[4] == ["size", "<=", "1", "KB", "too", "large", "FAILED"]


def test_a_gate_of_before_there_was_evidence_is_shown_by_why(capsys: pytest.CaptureFixture[str]) -> None:
    old = {"rule": "auc >= 0.8", "value": 0.87, "target": 0.8, "passed": True, "why": "auc is 0.87, wanted >= 0.8"}
    version_page.gate(Screen(as_json=False), {"gate": {"checks": [old]}})
    assert _lines(capsys)[-1][-1] == "passed"
    version_page.gate(Screen(as_json=False), {})
    assert _lines(capsys) == []


def test_slices_are_told_with_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    part: dict[str, Any] = {"name": "night", "rows": 1_200, "positives": 3, "metrics": {"auc": 0.5}, "intervals": {}}
    sure = {**part, "name": "day", "intervals": {"auc": [0.4, 0.6]}}
    version_page.slices(Screen(as_json=False), {"slices": [part, sure]})
    lines = _lines(capsys)
    assert lines[2] == ["night", "1,200", "3", "0.5000"]
    assert lines[3] == ["day", "1,200", "3", "0.5000", "(0.4000", "to", "0.6000)"]
