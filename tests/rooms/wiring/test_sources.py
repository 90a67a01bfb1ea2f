"""What a machine knows of brokers: files of credentials, and whether a broker's client is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.spec import AppSpec, FieldSpec, StreamSpec
from skyriver.trust.secretfile import write_secret
from skyriver.wiring.sources import check_sources, open_source, read_access, source_name

SPEC = sr.Mqtt("mqtts://broker.plant", topic="a/#", durable="risk", credentials="plant").spec
GOOD = 'hosts = ["other:1", "broker.plant:8883"]\nuser = "ann"\npassword = "s3cret"\nca = "/etc/ca.pem"\n'


def write(home: Path, text: str, *, mode: int = 0o600) -> Path:
    path = home / "brokers" / "default" / "plant.toml"
    write_secret(path, text.encode())
    path.chmod(mode)
    return path


def test_credentials_are_read_at_each_connection(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert read_access(SPEC, tmp_path, "default").password == "s3cret"
    write(tmp_path, GOOD.replace("s3cret", "changed"))
    found = read_access(SPEC, tmp_path, "default")
    assert (found.user, found.password, found.ca) == ("ann", "changed", "/etc/ca.pem")
    assert "changed" not in repr(found)


@pytest.mark.parametrize(
    ("text", "mode", "code"),
    [
        (None, 0, "NO_CREDENTIALS"),
        (GOOD, 0o640, "SECRET_EXPOSED"),
        (GOOD.replace("broker.plant:8883", "broker.plant:1883"), 0o600, "CREDENTIALS_OF_OTHER_HOST"),
        ('user = "ann"', 0o600, "BAD_CREDENTIALS"),
        ("hosts = []", 0o600, "BAD_CREDENTIALS"),
        (GOOD + 'pasword = "s3cret"', 0o600, "BAD_CREDENTIALS"),
        (GOOD + "token = 5", 0o600, "BAD_CREDENTIALS"),
        ("s3cret", 0o600, "BAD_CREDENTIALS"),
    ],
)
def test_what_is_wrong_with_credentials_is_told_without_them(
    tmp_path: Path, text: str | None, mode: int, code: str
) -> None:
    if text is not None:
        write(tmp_path, text, mode=mode)
    with pytest.raises(sr.SkyriverError) as wrong:
        read_access(SPEC, tmp_path, "default")
    assert wrong.value.code == code
    assert wrong.value.next_action or code == "BAD_CREDENTIALS"
    assert "s3cret" not in str(wrong.value)


def test_a_tenants_credentials_are_its_own(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(sr.SkyriverError) as wrong:
        read_access(SPEC, tmp_path, "another")
    assert wrong.value.code == "NO_CREDENTIALS"


def app_with(source: Any) -> AppSpec:
    fields = (FieldSpec(name="n", type="int"), FieldSpec(name="at", type="time"), FieldSpec(name="k", type="int"))
    stream = StreamSpec(name="readings", fields=fields, id="n", time="at", key="k", source=source)
    return AppSpec(name="plant", streams=(stream,))


@pytest.mark.parametrize(
    ("spec", "module", "extra"),
    [
        (SPEC, "paho", "skyriver[mqtt]"),
        (sr.Nats("nats://h", subject="a", durable="d").spec, "nats", "skyriver[nats]"),
    ],
)
def test_a_client_that_is_not_installed_is_told_at_deploy(
    spec: Any, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sources(app_with(spec))
    check_sources(app_with(None))
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(sr.SkyriverError) as missing:
        check_sources(app_with(spec))
    assert (missing.value.code, missing.value.exit_code) == ("NO_DRIVER", 2)
    assert f"pip install '{extra}'" in missing.value.next_action


def test_each_kind_of_source_can_be_opened(tmp_path: Path) -> None:
    nats = sr.Nats("nats://h", subject="a.>", durable="d").spec
    assert type(open_source(SPEC, tmp_path, "default")).__name__ == "MqttSource"
    assert type(open_source(nats, tmp_path, "default")).__name__ == "NatsSource"
    assert source_name(SPEC) == "mqtts://broker.plant:8883 a/#"
    assert source_name(nats) == "nats://h:4222 a.>"
