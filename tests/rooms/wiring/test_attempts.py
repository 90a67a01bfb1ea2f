"""Threads that outlive whatever goes wrong in one attempt, and say it once."""

from __future__ import annotations

import errno
import logging

import pytest

from skyriver.core.errors import Conflict, SkyriverError, Unavailable
from skyriver.wiring.attempts import Attempts


class Told(list[str]):
    def __call__(self, problem: SkyriverError | None) -> None:
        self.append(problem.code if problem is not None else "")


def raising(error: Exception) -> None:
    raise error


def test_what_is_wrong_is_said_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    attempts = Attempts(
        logging.getLogger("skyriver.test"), fails="nothing is done", works="it is done again", on_problem=told
    )
    away = Unavailable("The store is away.", code="STORE_AWAY", next_action="Wait.")
    full = OSError(errno.ENOSPC, "No space left on device")
    with caplog.at_level(logging.INFO, "skyriver.test"):
        assert attempts.attempt(lambda: None)
        assert told == []
        for error in (away, away, full, ValueError("odd"), ValueError("odd")):
            assert attempts.attempt(lambda error=error: raising(error))
        assert attempts.attempt(lambda: None)
    assert told == ["STORE_AWAY", "DISK_FULL", "INTERNAL", ""]
    assert [record.getMessage() for record in caplog.records][-1] == "it is done again"
    assert sum(record.exc_info is not None for record in caplog.records) == 1, "a mistake of ours, with its place, once"


def test_it_ends_where_another_control_plane_has_taken_over() -> None:
    told = Told()
    attempts = Attempts(logging.getLogger("skyriver.test"), fails="nothing is done", works="", on_problem=told)
    fenced = Conflict("Another one has taken over.", code="FENCED", next_action="Nothing.")
    assert not attempts.attempt(lambda: raising(fenced))
    assert told == []
