"""The commands for the audit trail."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from skyriver.client import audit, cli

ROW = {
    "seq": 7,
    "at": 1_795_000_000_000_000,
    "tenant": "default",
    "actor": "ana",
    "permission": "apps:write",
    "action": "deploy",
    "target": "app/shop",
    "details": {"create": 3, "why": "a [new] one"},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def page(**given: Any) -> dict[str, Any]:
        found.append(given)
        return {"items": [ROW] if given["target"] != "none" else [], "next": "abc" if given["limit"] == 1 else None}

    client = SimpleNamespace(audit_page=page, audit_row=lambda number: {**ROW, "seq": number})
    monkeypatch.setattr(audit, "connect", lambda: nullcontext(client))
    return found


def run(*arguments: str) -> tuple[str, str]:
    done = CliRunner().invoke(cli.app, ["audit", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_the_newest_are_listed_and_the_way_to_older_ones_is_told(asked: list[Any]) -> None:
    out, err = run("list", "--target", "shop", "--since", "1h", "--limit", "1")
    assert asked == [{"newest": True, "target": "shop", "since": "1h", "limit": 1, "cursor": ""}]
    head, row = (line.split() for line in out.splitlines())
    assert head == ["NUMBER", "TIME", "(UTC)", "WHO", "DID", "TO", "DETAILS"]
    assert row[:6] == ["7", "2026-11-18", "11:06:40", "ana", "deploy", "app/shop"]
    assert "[new]" in out
    assert err.strip().endswith("--cursor abc")
    run("list", "--cursor", "abc")
    assert asked[-1]["cursor"] == "abc"
    assert json.loads(run("list", "--json")[0])["items"] == [ROW]
    assert "Nothing of that kind was done." in run("list", "--target", "none")[1]


def test_one_is_told_in_full(asked: list[Any]) -> None:
    out, _ = run("get", "9")
    assert out.splitlines() == [
        "9  ana did deploy to app/shop",
        "  when       2026-11-18 11:06:40 UTC",
        "  permission apps:write",
        "  create     3",
        "  why        a [new] one",
    ]
