"""What is told of the cloud's own parts by the files that they leave on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyriver.core.errors import NotFound
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
