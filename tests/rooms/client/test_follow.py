"""Following a log that grows: all of it, in pieces, whoever prints faster than it is read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.client import follow
from skyriver.client.follow import LogReader
from skyriver.client.patience import Patience

NAME = "job/run-1"


class Printing:
    """A cloud whose one job has printed `lines`, ten bytes each, and is read in pages of two."""

    def __init__(self, lines: int, *, growing: bool) -> None:
        self.text = "".join(f"line {n:04d}\n" for n in range(lines))
        self._growing = growing

    def explain(self, name: str) -> list[dict[str, Any]]:
        return [{"state": "SUCCEEDED"}]

    def logs(self, name: str, offset: int) -> list[dict[str, Any]]:
        start = offset if offset >= 0 else max(0, len(self.text) + offset)
        if self._growing:
            self.text += "more ....\n" * 3
        page = self.text[start : start + 20]
        return [{"name": NAME, "text": page, "next": start + len(page)}]


def reader_of(cloud: Printing) -> tuple[LogReader, Patience]:
    patience = Patience(lambda text: None)
    return LogReader(cloud, NAME, patience), patience  # type: ignore[arg-type]


def test_what_prints_faster_than_it_is_read_is_shown_in_pieces() -> None:
    reader, _ = reader_of(Printing(3, growing=True))
    assert [len(reader.new()) for _ in range(3)] == [2 * follow.PAGES] * 3


def test_what_was_printed_up_to_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Printing(7 * follow.PAGES, growing=False)
    reader, patience = reader_of(cloud)
    monkeypatch.setattr(follow, "time", SimpleNamespace(sleep=lambda seconds: pytest.fail("it has ended")))
    pieces = list(follow.follow(cloud, NAME, reader, patience))  # type: ignore[arg-type]
    assert len(pieces) == 4
    assert [line for piece in pieces for _, line in piece] == cloud.text.splitlines()
