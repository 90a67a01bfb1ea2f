"""What is told of the cloud's own parts by the files that they leave on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skyriver.core.errors import NotFound
from skyriver.wiring.cloud import tell_trouble
from skyriver.wiring.home import Home
from skyriver.wiring.parts import part_log


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("supervisor", "logs/supervisor.log"),
        ("control plane", "logs/control.log"),
        ("gateway", "gateway/haproxy.log"),
    ],
)
def test_the_last_lines_of_a_part_are_whole(part: str, file: str, tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(NotFound) as missing:
        part_log(home, part, 3)
    assert (missing.value.code, missing.value.where) == ("NO_LOG", str(tmp_path / file))
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_bytes(b"one\ntwo\n\xff")
    assert part_log(home, part, 5) == ["one", "two", "\ufffd"]
    assert part_log(home, part, 2) == ["two", "\ufffd"]
    assert part_log(home, part, 0) == []
    (tmp_path / file).write_text("".join(f"{n} {'x' * 300}\n" for n in range(1_000)))
    assert [line.split()[0] for line in part_log(home, part, 3)] == ["997", "998", "999"]


def test_up_tells_what_the_control_plane_cannot_do(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    told: list[str] = []
    tell_trouble(home, told.append)
    assert told == [], "nothing is known of it"
    trouble = {
        "code": "STORE_CORRUPT",
        "detail": "A row fails its checksum.",
        "next_action": "Restore the last backup.",
    }
    home.control_run.write_text(json.dumps({"troubles": [trouble]}))
    tell_trouble(home, told.append)
    (text,) = told
    assert all(part in text for part in trouble.values())
