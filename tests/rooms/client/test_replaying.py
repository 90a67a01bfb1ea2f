"""`skyriver service replay` and `deploy --dry-run`: what is told where there is nothing to replay, or not soon."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.client import cli, services
from skyriver.client.advice_page import advice
from skyriver.client.cost_calls import CostCalls
from skyriver.client.flows import Pause
from skyriver.client.screen import Screen
from skyriver.core.errors import QuotaExceeded, Unavailable

NOTHING: dict[str, Any] = {"state": "DONE", "done": 1.0, "items": [], "currency": "", "as_of": "", "source": ""}
CHANGES = [{"action": "update", "kind": "service", "name": name} for name in ("price", "fraud")]
SPEC: Any = SimpleNamespace(model=lambda name: SimpleNamespace(serve=SimpleNamespace(to_json=dict)))


class Fake:
    def __init__(self, *fails: Exception) -> None:
        self.asked: list[dict[str, Any]] = []
        self.fails = list(fails)

    def get(self, nouns: str, name: str) -> Any:
        return {"spec": {"serve": {"replicas": 2, "share": 0.99}}}

    def advice(self, name: str, **asked: Any) -> Any:
        self.asked.append(asked)
        if self.fails:
            raise self.fails.pop(0)
        return NOTHING


def test_a_service_without_a_version_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake: Any = Fake()
    monkeypatch.setattr(services, "connect", lambda: contextlib.nullcontext(fake))
    services.service_replay("price")
    cli._try_out(fake, Screen(as_json=False), SPEC, CHANGES[:1])
    told = capsys.readouterr()
    assert (told.out + told.err).count("price has no version yet: there is nothing to replay.") == 2
    advice(Screen(as_json=False), NOTHING)  # type: ignore[arg-type]
    assert "no service with a version yet" in capsys.readouterr().err


def test_a_share_of_nothing_is_asked_for_and_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setattr(services, "connect", lambda: contextlib.nullcontext(fake))
    services.service_replay("price", share=0.0)
    services.service_replay("price")
    assert [asked["declared"]["share"] for asked in fake.asked] == [0.0, 0.99]


def test_a_dry_run_goes_on_without_a_replay_that_is_not_done_soon(capsys: pytest.CaptureFixture[str]) -> None:
    late = Unavailable("It is not done within 60 s.", code="NOT_FINISHED", next_action="Ask again.")
    fake: Any = Fake(late, QuotaExceeded("Too many wait.", code="TOO_MANY", next_action="Ask again."))
    cli._try_out(fake, Screen(as_json=False), SPEC, CHANGES)
    told = capsys.readouterr().err
    assert "price is not tried on its own history: It is not done within 60 s." in told
    assert "fraud is not tried on its own history: Too many wait." in told
    assert 0 <= fake.asked[1]["seconds"] <= fake.asked[0]["seconds"] <= cli.TRY_OUT_S


def test_who_waits_for_so_long_only_is_told_that_it_is_not_done() -> None:
    calls: Any = SimpleNamespace(_base="/v1")
    waiting = SimpleNamespace(json=lambda: {**NOTHING, "state": "WAITING"})
    asking = CostCalls.advice.flow(calls, "price", seconds=0.0)  # type: ignore[attr-defined]
    next(asking)
    with pytest.raises(Unavailable, match="The replay of price is not done within 0 s") as told:
        asking.send(waiting)
    assert told.value.code == "NOT_FINISHED"
    patient = CostCalls.advice.flow(calls, "price")  # type: ignore[attr-defined]
    next(patient)
    assert isinstance(patient.send(waiting), Pause)
