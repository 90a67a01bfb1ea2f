"""The week of demand that is kept of each service, as the thread that scales writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from skyriver.core.errors import Unavailable
from skyriver.observe.demand import Measured
from skyriver.wiring.histories import FOLDER, Histories, read_history

LATER = 100_000.0


def test_what_is_stale_is_not_known_and_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    histories = Histories(tmp_path)

    def note(walls: Sequence[float], **told: Measured) -> None:
        for wall in walls:
            histories.note({name.replace("_", "/"): seen for name, seen in told.items()}, wall, 5.0)

    seen = Measured(work=2.5, judged=5.0, start_s=0.5, cores=0.4, rss_mb=90.0)
    walls = [60_000.0 + 5 * n for n in range(1, 30)]
    note(walls[:6], t_price=seen, t_fraud=seen)
    note(walls[6:12], t_price=Measured(stale="Nobody looked."), t_fraud=seen)
    note(walls[12:], t_price=seen, t_fraud=seen)
    price, fraud = (read_history(tmp_path, "t", name, LATER) for name in ("price", "fraud"))
    assert [came is None for came in price[0].work] == [False] * 6 + [True] * 6
    assert fraud[0].work == pytest.approx([0.5] * 12, rel=0.01)
    histories.keep({"t/fraud"})
    assert read_history(tmp_path, "t", "price", LATER) == []
    histories.keep(set())
    assert not (tmp_path / FOLDER / "t").exists()
    assert read_history(tmp_path, "t", "never", LATER) == []


def test_a_file_of_another_format_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / FOLDER / "t" / "price"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x01" * 4_000)
    histories = Histories(tmp_path)
    for wall in range(60_005, 60_200, 5):
        histories.note({"t/price": Measured(work=1.0)}, float(wall), 5.0)
    assert [minute.number for minute in read_history(tmp_path, "t", "price", LATER)] == [1_000, 1_001, 1_002]


def test_a_disk_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("no folder")
    histories = Histories(tmp_path)
    for wall in range(60_005, 60_200, 5):
        histories.note({"t/price": Measured(work=1.0)}, float(wall), 5.0)
    histories.keep({"t/price"})
    with pytest.raises(Unavailable, match="cannot be read: Not a directory"):
        read_history(tmp_path, "t", "price", LATER)
