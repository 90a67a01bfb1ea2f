"""Where a cloud's tier is said to be: what cannot be used is refused where it is set, and what was set before stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.wiring.home import Home
from skyriver.wiring.tier import VARIABLE, keep_tier_settings, open_tier


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def place_of(home: Home) -> str:
    return str(json.loads(home.tier_settings.read_bytes())["place"])


UNREACHABLE = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "secret-s"}


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("ftp://x", "BAD_TIER"),
        ("relative/path", "BAD_TIER"),
        ("s4://user:secret-s@host/x", "BAD_TIER"),
        ("s3://bucket?x", "BAD_OBJECTS"),
        ("s3://bucket/x", "OBJECTS_UNREACHABLE"),
        ("/proc/none/here", "OBJECTS_UNAVAILABLE"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_and_the_old_one_stays(
    home: Home, tmp_path: Path, place: str, code: str
) -> None:
    keep_tier_settings(home, {VARIABLE: str(tmp_path / "tier")})
    before = home.tier_settings.read_bytes()
    with pytest.raises(SkyriverError) as told:
        keep_tier_settings(home, {VARIABLE: place, **UNREACHABLE})
    assert told.value.code == code
    assert "nothing was started and the setting is as before" in told.value.message
    assert told.value.where
    assert told.value.next_action
    assert "secret-s" not in str(told.value)
    assert home.tier_settings.read_bytes() == before
    assert open_tier(home) is not None


def test_what_is_set_already_is_not_asked_again(home: Home, tmp_path: Path) -> None:
    keep_tier_settings(home, {VARIABLE: str(tmp_path / "tier")})
    (tmp_path / "tier" / "identity").chmod(0o600)
    (tmp_path / "tier" / "identity").write_text("rotten")  # a cloud starts while its tier is ill
    keep_tier_settings(home, {VARIABLE: str(tmp_path / "tier")})
    keep_tier_settings(home, {})
    assert place_of(home) == str(tmp_path / "tier")
    keep_tier_settings(home, {VARIABLE: "none"})
    assert open_tier(home) is None


def test_a_cloud_that_runs_tells_that_another_place_is_not_taken(home: Home, tmp_path: Path) -> None:
    told: list[str] = []
    keep_tier_settings(home, {VARIABLE: str(tmp_path / "tier")})
    keep_tier_settings(home, {VARIABLE: str(tmp_path / "tier")}, runs=True, told=told.append)
    assert told == []
    keep_tier_settings(home, {VARIABLE: "ftp://x"}, runs=True, told=told.append)
    assert len(told) == 1
    assert f"{VARIABLE} is not taken: this cloud runs with {tmp_path / 'tier'}." in told[0]
    assert "skyriver down" in told[0]
    keep_tier_settings(home, {VARIABLE: str(tmp_path / "tier"), **UNREACHABLE}, runs=True, told=told.append)
    assert "and other keys" in told[1]
    assert "secret-s" not in told[1]
    assert place_of(home) == str(tmp_path / "tier")


def test_settings_that_are_damaged_are_told_and_replaced(home: Home, tmp_path: Path) -> None:
    home.tier_settings.write_bytes(b"[]")
    with pytest.raises(SkyriverError, match="not what was written"):
        open_tier(home)
    keep_tier_settings(home, {VARIABLE: str(tmp_path / "tier")})
    assert open_tier(home) is not None


def test_up_refuses_it_and_starts_nothing(home: Home) -> None:
    """As a user sees it."""
    command = [str(Path(sys.executable).with_name("skyriver")), "--home", str(home.root), "up"]
    done = subprocess.run(
        command, env={**os.environ, VARIABLE: "ftp://x"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == InvalidInput("").exit_code
    said = " ".join((done.stdout + done.stderr).split())
    assert "'ftp://x' is no place for a tier." in said
    assert "s3://BUCKET/PREFIX" in said
    assert "Traceback" not in said
    assert not home.tier_settings.exists()
    assert not home.control_run.exists()
