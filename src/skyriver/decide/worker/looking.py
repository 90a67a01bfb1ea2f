"""Looking up old decisions: those of events that are no longer in memory, in threads, while batches go on.

The log may be on a slow disk, in a tier that is away, or damaged there. So whoever asks for such a decision waits for
it alone, at most so long, and gets alone what went wrong; at most MOST ask at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

from skyriver.core.errors import Internal, NotFound, QuotaExceeded, SkyriverError, Unavailable
from skyriver.data.log import LogReader, RecordKind
from skyriver.decide.log.blocks import decisions_in_log
from skyriver.decide.log.records import DecisionRecord, Id
from skyriver.decide.partition.receipt import Receipt

THREADS = 2
MOST = 1000
"""Look-ups that run or wait."""
LOOK_S, LOOK_EACH_S = 10.0, 0.001
"""So long one may take, and more for each decision."""

Found = Mapping[int, DecisionRecord]
"""By the offset of the event; one of history has none."""
Read = Callable[[LogReader, Sequence[int]], Found | SkyriverError]

_log = logging.getLogger(__name__)


class Looks:
    """On the loop's thread. `open_reader` opens the log for reading, in the thread that reads."""

    def __init__(self, open_reader: Callable[[], AbstractContextManager[LogReader]]) -> None:
        self._open_reader = open_reader
        self._threads = ThreadPoolExecutor(THREADS, "look")
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self, offsets: Sequence[int], answer: Callable[[Found | SkyriverError], None], read: Read = decisions_in_log
    ) -> None:
        """Looks up the decisions of the events at these offsets. `answer` is called once, later."""
        task = asyncio.get_running_loop().create_task(self._look(offsets, answer, read, len(self._tasks)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """What is under way is not waited for."""
        for task in self._tasks:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look(
        self, offsets: Sequence[int], answer: Callable[[Found | SkyriverError], None], read: Read, before: int
    ) -> None:
        try:
            answer(await self._found(offsets, read, before))
        except Exception:  # nothing that goes wrong with one answer may keep the others from theirs
            _log.exception("an answer could not be given")

    async def _found(self, offsets: Sequence[int], read: Read, before: int) -> Found | SkyriverError:
        if before >= MOST:
            return QuotaExceeded(
                f"{before} old decisions are being looked up.", code="LOOKS_FULL", next_action="Try again in a second."
            )
        reading: Future[Found | SkyriverError] = self._threads.submit(self._read, offsets, read)
        try:
            async with asyncio.timeout(LOOK_S + LOOK_EACH_S * len(offsets)):
                return await asyncio.wrap_future(reading)
        except TimeoutError:
            return Unavailable(
                "The log is slow to read where this old decision is.",
                code="LOOK_LATE",
                next_action="Try again in a second; where the log has a tier, see whether that answers.",
            )
        except SkyriverError as error:
            _log.warning("an old decision was not found: %s", error)
            return error
        except Exception:
            _log.exception("an old decision could not be looked up")
            return Internal("The old decision could not be looked up.", next_action="The worker's log says why.")

    def _read(self, offsets: Sequence[int], read: Read) -> Found | SkyriverError:
        with self._open_reader() as reader:
            return read(reader, offsets)


def decision_or_why(own: Id, log: LogReader, offsets: Sequence[int]) -> Found | SkyriverError:
    """A `Read` of the one event with this id, which says of one of history that it has no decision."""
    found = decisions_in_log(log, offsets)
    (offset,) = offsets
    if offset in found or next(iter(log.read(offset))).kind is not RecordKind.HISTORY:
        return found
    return NotFound(
        f"The event {own!r} is loaded history, which is not decided.",
        code="NOT_DECIDED",
        next_action="Ask for an event that was sent: those are decided.",
    )


def fill(receipt: Receipt, found: Found) -> Receipt:
    """With the decisions that it sought."""
    for place, offset in receipt.sought or ():
        receipt.decisions[place] = found.get(offset)
    receipt.sought = None
    return receipt
