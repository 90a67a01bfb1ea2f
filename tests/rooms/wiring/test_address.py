"""Whether there is a cloud to ask, told without asking it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from skyriver.adapters.processes.identity import Identity, identify
from skyriver.core.errors import NotAllowed, Unavailable
from skyriver.trust.secretfile import write_secret
from skyriver.trust.tokens import new_token
from skyriver.wiring import address
from skyriver.wiring.address import address_of, token_of
from skyriver.wiring.home import Home
from skyriver.wiring.living import Living

WORKER = Living(Identity(2, 1, "boot"), "worker", "default.worker.orders-0")
REPLICA = Living(Identity(3, 1, "boot"), "replica", "default.replica.fraud-1-1")
OF_JOB = Living(Identity(4, 1, "boot"), "", "default.job.fit")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A cloud that was up once."""
    found = Home(tmp_path / "home")
    found.make()
    found.write_settings({"port": 7470})
    write_secret(found.token, new_token()[0].encode())
    return found


def runs(monkeypatch: pytest.MonkeyPatch, *processes: Living) -> None:
    monkeypatch.setattr(address, "processes_of", lambda home: list(processes))


@pytest.mark.parametrize(
    ("alone", "words"),
    [
        ((), "is down."),
        ((WORKER,), "are gone; worker orders-0 runs on."),
        ((WORKER, REPLICA, OF_JOB), "are gone; replica fraud-1-1, worker orders-0 run on."),
        ((OF_JOB,), "are gone; what a job had started runs on."),
    ],
)
def test_a_cloud_of_which_nothing_answers(
    home: Home, monkeypatch: pytest.MonkeyPatch, alone: tuple[Living, ...], words: str
) -> None:
    runs(monkeypatch, *alone)
    with pytest.raises(Unavailable) as away:
        address_of(home)
    assert (away.value.code, away.value.message.endswith(words)) == ("CLOUD_AWAY", True), away.value.message
    assert str(home.root) in away.value.message
    assert "`skyriver up`" in away.value.next_action


@pytest.mark.parametrize("part", ["supervisor", "control", "gateway"])
def test_a_cloud_of_which_one_part_is_left_is_asked(home: Home, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    runs(monkeypatch, Living(Identity(2, 1, "boot"), part, ""))
    assert address_of(home).url == "http://127.0.0.1:7470"


def test_a_control_plane_that_lives_is_known_by_its_run_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    runs(monkeypatch)
    mine = identify(os.getpid())
    assert mine is not None
    home.control_run.write_text(json.dumps({**asdict(mine), "ready": True}))
    assert address_of(home).home is home
    for text in (json.dumps({**asdict(mine), "start_time": 1}), "{", "[]"):
        home.control_run.write_text(text)
        with pytest.raises(Unavailable, match="is down"):
            address_of(home)


def test_a_token_file_that_is_gone_while_the_cloud_runs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.token.unlink()
    runs(monkeypatch, Living(Identity(2, 1, "boot"), "gateway", ""))
    for ask in (address_of, token_of):
        with pytest.raises(NotAllowed) as gone:
            ask(home)
        assert (gone.value.code, gone.value.where) == ("NO_TOKEN_FILE", str(home.token))
        assert "`skyriver down`, then `skyriver up`" in gone.value.next_action
    runs(monkeypatch)
    with pytest.raises(Unavailable) as none:
        address_of(home)
    assert none.value.code == "NO_CLOUD"


def test_a_token_of_the_environment_is_used_in_place_of_the_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_check_up", lambda home: None)
    mine = new_token()[0]
    monkeypatch.setenv("SKYRIVER_TOKEN", mine)
    assert address_of(home).token == mine
    home.token.unlink()
    monkeypatch.setattr(address, "processes_of", lambda home: [WORKER])
    assert address_of(home).token == mine, "who has a token needs no file"
    monkeypatch.setenv("SKYRIVER_TOKEN", "sky_short")
    with pytest.raises(NotAllowed) as bad:
        address_of(home)
    assert (bad.value.code, "sky_short" in str(bad.value)) == ("BAD_TOKEN", False)
