"""What `up --foreground` says before it becomes the supervisor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from free_ports import free_port

from skyriver.adapters.processes.identity import Identity
from skyriver.wiring import cloud
from skyriver.wiring.home import Home
from skyriver.wiring.living import Living


def become(path: str, command: list[str]) -> NoReturn:
    """As `execv` does, it does not come back."""
    raise SystemExit


@pytest.mark.parametrize("module", ["", "supervisor"])
def test_it_says_whether_it_starts_a_cloud_or_takes_one_over(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    home = Home(tmp_path / "home")
    home.make()
    home.write_settings({"port": port})
    running = [Living(Identity(2, 1, "boot"), module, "")] if module else []
    monkeypatch.delenv("SKYRIVER_PORT", raising=False)
    monkeypatch.setattr(cloud, "processes_of", lambda home: running)
    monkeypatch.setattr(cloud.os, "execv", become)
    said: list[str] = []
    with pytest.raises(SystemExit):
        cloud.serve_in_foreground(home, None, said.append)
    text = " ".join(said)
    assert (str(port) in text, "Ctrl-C ends it" in text) == (True, True)
    assert ("takes over what runs" in text, "comes up" in text) == (bool(running), not running)
