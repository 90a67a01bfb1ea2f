"""Where a cloud lies and listens: what is named wins over the environment, the environment over the default."""

from pathlib import Path

import pytest

from skyriver.adapters.processes.identity import Identity
from skyriver.core.errors import InvalidInput
from skyriver.wiring import cloud, watched
from skyriver.wiring.home import Home, port_of_environment


def test_the_home_is_the_named_one_else_the_environments_else_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere/data")
    monkeypatch.delenv("SKYRIVER_HOME", raising=False)
    assert Home.at(None).root == Path("/somewhere/data/skyriver")
    monkeypatch.setenv("SKYRIVER_HOME", "/somewhere/else")
    assert Home.at(None).root == Path("/somewhere/else")
    assert Home.at("/named").root == Path("/named")


@pytest.mark.parametrize(("text", "port"), [("", None), ("7471", 7471), ("1", 1), ("65535", 65535)])
def test_the_environment_names_a_port(monkeypatch: pytest.MonkeyPatch, text: str, port: int | None) -> None:
    monkeypatch.setenv("SKYRIVER_PORT", text)
    assert port_of_environment() == port


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "7470.5", " "])
def test_a_port_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SKYRIVER_PORT", text)
    with pytest.raises(InvalidInput) as refused:
        port_of_environment()
    assert refused.value.code == "BAD_PORT"
    assert text in refused.value.message


@pytest.mark.parametrize("left", [b"", bytes(600), bytes(512) + b'"boot": "b"}', b"[1]", b"null", b'{"pid": 1}'])
def test_what_a_power_cut_left_of_run_files_is_in_nobodys_way(left: bytes, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    home.control_run.write_bytes(left)
    home.supervisor_run.write_bytes(left)
    assert not cloud._control_ready(home)
    assert watched.ControlPlane(home).ended(Identity(1, 1, "b")) == ("ended", None)
    assert watched.read_parts(home) == {"gateway": watched.PartState(), "control": watched.PartState()}
