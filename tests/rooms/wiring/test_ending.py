"""`down` has an end, whatever the machine does to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyriver.adapters.processes.identity import Identity
from skyriver.core.errors import Unavailable
from skyriver.wiring import ending
from skyriver.wiring.home import Home
from skyriver.wiring.living import Living


def test_a_process_that_not_even_sigkill_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    home.make()
    held = Living(Identity(4_000_000, 1, "boot"), "control", "")
    monkeypatch.setattr(ending, "processes_of", lambda home: [held])
    monkeypatch.setattr(ending, "terminate", lambda identity, grace: None)
    monkeypatch.setattr(ending, "_PARTS", (("control", "control plane", 0.0),))
    monkeypatch.setattr(ending, "HELD_SECONDS", 0.05)
    with pytest.raises(Unavailable, match="4000000") as error:
        ending.end_everything(home)
    assert error.value.code == "NOT_ENDED"
    assert error.value.next_action
