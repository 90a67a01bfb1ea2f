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
from skyriver.core.errors import InvalidInput, QuotaExceeded, Unavailable

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


@pytest.mark.parametrize(
    ("options", "told", "action"),
    [
        (
            {"share": 0.0},  # which is given, and not nothing
            "--share 0.0: share=0.0 is not more than 0.5.",
            "--share is a number above 0.5 and below 1: write --share 0.9.",
        ),
        (
            {"share": 2.0},
            "--share 2.0: share=2.0 is not less than 1.0.",
            "--share is a number above 0.5 and below 1: write --share 0.9.",
        ),
        (
            {"latency": "1us"},
            "--latency 1us: The service: latency='1us' is less than 1ms.",
            "--latency is a duration from 1ms to 2m: write --latency 150ms.",
        ),
        (
            {"latency": "fast"},
            "--latency fast: 'fast' is not a latency.",
            "--latency is a duration from 1ms to 2m: write --latency 150ms.",
        ),
        (
            {"hold": "1m"},
            "--hold 1m: hold is for a service whose replicas follow the load, as those of replicas=(1, 4).",
            "--hold is a duration from 1s to 30d: write --hold 5m.",
        ),
        (
            {"replicas": "4..1"},
            "--replicas 4..1 has fewer at the most than at the least.",
            "Write the least first: --replicas 1..4.",
        ),
        (
            {"replicas": "0..99"},
            "--replicas 0..99: replicas: 99 is not from 1 to 64; (0, n) sleeps while nobody asks.",
            "Write --replicas 3, or --replicas 1..8, with 64 at the most.",
        ),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_told_as_an_option_and_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], told: str, action: str
) -> None:
    fake = Fake()
    monkeypatch.setattr(services, "connect", lambda: contextlib.nullcontext(fake))
    with pytest.raises(InvalidInput) as caught:
        services.service_replay("price", **options)
    assert (caught.value.message, caught.value.next_action, fake.asked) == (told, action, [])
    services.service_replay("price")
    assert fake.asked[0]["declared"]["share"] == 0.99


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
