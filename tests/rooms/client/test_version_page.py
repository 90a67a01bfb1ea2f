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


def test_what_a_training_was_examined_for_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        "metric": "auc",
        "value": 0.8,
        "trained": 0.9,
        "verdict": "holds: better than x",
        "baselines": [{"name": "x", "rows": 1000, "metrics": {"auc": 0.7}, "difference": [0.1, 0.05, 0.15]}],
        "curve": [[100, 0.7], [1000, 0.8]],
        "prequential": [[0, 1, 10, 10, 5, {"auc": 0.75}], [1, 2, 20, 10, 5, {"auc": 0.8}]],
        "search": {
            "metric": "auc", "best": 1, "value": 0.85, "params": {"rate": 0.123456, "kind": "a"}, "learned": 900,
            "judged": 100, "seconds": 2.0, "ended": "3 trials", "counts": {"complete": 2, "failed": 1}, "trials": [],
        },
    }  # fmt: skip
    version_page.examined(Screen(as_json=False), told)
    shown = capsys.readouterr()
    both = " ".join((shown.out + shown.err).split())
    assert "x 0.7000 +0.1000 (+0.0500 to +0.1500) 1,000" in both
    assert "gap: auc 0.9000 on training rows, 0.8000 on test rows" in both
    assert "learning curve: 0.7000 with 100 rows, 0.8000 with 1,000 rows" in both
    assert "prequential: auc 0.7500, 0.8000 of 2 stretches" in both
    assert "search: rate=0.1235, kind=a is the best of 3 trials, 1 failed: auc 0.8500 on 100 held-out" in both
    assert "verdict: holds: better than x" in both
