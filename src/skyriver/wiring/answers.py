"""Sends what reviewers answered to the stream's worker, as labels.

A label is sent until the stream's log shows it. One whose answer was lost is not sent again before the log was read up
to its end: a second one could come after a label from elsewhere, and override it. One that is erased while it is on its
way cannot be called back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from skyriver.control.asking import Asker
from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.spec import StreamSpec
from skyriver.core.units import SECOND, iso_time
from skyriver.decide.acting.case_book import DueLabel
from skyriver.decide.acting.database import Transaction
from skyriver.decide.acting.reviewing import Reviewing

SEEN_US = 10 * SECOND
"""In which the log shows what was sent."""
FIRST_PAUSE_US, LONGEST_PAUSE_US = SECOND, 60 * SECOND
_PASSES = frozenset({"AHEAD_OF_CLOCK"})
"""Reasons for which a label is refused that are none tomorrow."""

Result = TypeVar("Result")
Within = Callable[[Callable[[Transaction], Any]], Awaitable[Any]]
"""Runs something within a transaction, on the database's thread."""
_log = logging.getLogger(__name__)


class Answers:
    """`caught_up`: the log was read up to its end."""

    def __init__(
        self,
        stream: StreamSpec,
        reviewing: Reviewing,
        asker: Asker,
        worker: Path,
        within: Within,
        caught_up: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._reviewing = reviewing
        self._asker = asker
        self._worker = worker
        self._within = within
        self._caught_up = caught_up
        self._thread = ThreadPoolExecutor(1, "answers")

    async def send(self) -> None:
        """What is due now."""
        if not self._reviewing.unsent:
            return
        for label in await self._within(self._reviewing.due_labels):
            if label.attempts and not self._caught_up():
                continue
            # Noted before: who is killed behind the sending must not take it for a first one.
            if not await self._within(partial(self._begin, label)):
                continue
            sending = asyncio.get_running_loop().run_in_executor(self._thread, self._send, label)
            await self._within(partial(self._became, label, await sending))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _begin(self, label: DueLabel, do: Transaction) -> bool:
        return self._reviewing.note_sending(do, label, SEEN_US)

    def _became(self, label: DueLabel, error: SkyriverError | None, do: Transaction) -> None:
        reasons = {str(detail.get("reason")) for detail in error.details} if error is not None else set()
        if error is None:
            return
        if isinstance(error, InvalidInput) and not reasons & _PASSES:
            _log.error("the answer to case %d is refused as a label: %s", label.case, error)
            self._reviewing.refused(do, label, f"{error.code}: {error.message}")
        else:
            pause = min(FIRST_PAUSE_US << min(label.attempts, 10), LONGEST_PAUSE_US)
            self._reviewing.put_off(do, label, pause)

    def _send(self, label: DueLabel) -> SkyriverError | None:
        row = {self._stream.id: label.event, label.label: label.value, "known_at": iso_time(label.known_at)}
        try:
            self._asker.ask(str(self._worker), "POST", f"/streams/{self._stream.name}/labels", body=row)
        except SkyriverError as error:
            return error
        return None
