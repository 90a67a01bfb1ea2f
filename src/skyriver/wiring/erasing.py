"""A worker's part in erasing a subject: its log, its memory, its checkpoints.

The job of the erasure (`skyriver.wiring.work.erase`) writes what is to be done into a file of the stream's directory
and asks for it until it is done; a worker that was started again meanwhile begins anew, and finds less to do.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from skyriver.core.errors import Internal, InvalidInput, NotFound, SkyriverError, Unavailable
from skyriver.core.spec import StreamSpec
from skyriver.data.log import Log, Record
from skyriver.data.retention import RewritableLog
from skyriver.decide.log.erasing import ErasingWork, read_work
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.opening import Keeper
from skyriver.decide.worker.station import Station
from skyriver.decide.worker.work import ChangeWork
from skyriver.wiring.upkeep import LogUpkeep

FOLDER = "erasing"
LOOK_S = 0.02
DROP_S = 0.2
CHECKPOINT_S = 300.0
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Erased:
    """How far it is: closed parts of the log that were gone through, records that were written anew, and keys and rows
    of references that the features held. It is about what is below the offset `end`; `ids` are of events that came
    after it was looked for. `copies`: objects of parts as they were, in tiers that are not set."""

    state: str = "running"
    parts: int = 0
    of: int = 0
    records: int = 0
    keys: int = 0
    end: int = 0
    ids: tuple[int | str, ...] = ()
    copies: tuple[str, ...] = ()


class Erasures:
    """All on the loop's thread; one at a time."""

    def __init__(
        self, stream: StreamSpec, directory: Path, log: Log, station: Station, keeper: Keeper, upkeep: LogUpkeep
    ) -> None:
        self._stream = stream
        self._directory = directory / FOLDER
        self._log = log
        self._station = station
        self._keeper = keeper
        self._upkeep = upkeep
        self._name = ""
        self._erased = Erased()
        self._task: asyncio.Task[None] | None = None

    def ask(self, name: str) -> dict[str, object]:
        """Begins it, if it was not; how far it is. Raises what went wrong with it, once: asked again it begins anew."""
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name[:80]!r} names no erasure.",
                code="BAD_ERASURE",
                next_action="Give the name of the job that erases.",
            )
        if self._task is None or (self._name != name and self._task.done()):
            path = self._directory / name
            try:
                work = read_work(path.read_bytes())
            except FileNotFoundError as error:
                raise NotFound(
                    f"There is no erasure {name}.",
                    where=str(path),
                    next_action="Erase it again: `skyriver erase STREAM KEY`.",
                ) from error
            self._name, self._erased = name, Erased()
            self._task = asyncio.get_running_loop().create_task(self._run(work))
        elif self._name != name:
            raise Unavailable(
                f"The erasure {self._name} goes on.", code="ERASURE_RUNS", next_action="It is begun when that is done."
            )
        elif self._task.done() and (failed := self._task.exception()) is not None:
            self._task = None
            if isinstance(failed, SkyriverError):
                raise failed
            _log.error("an erasure failed", exc_info=failed)
            raise Internal(f"The subject is not erased from the log: {failed!r}.", next_action="Erase it again.")
        if self._erased.state == "done":
            self._task = None  # who asks again, after it was told so, has a reason
        return asdict(self._erased)

    async def _run(self, work: ErasingWork) -> None:
        by, log, erased = work.erasing(self._stream), self._rewritable(), self._erased
        before = set(by.ids)

        def begin(engine: Engine) -> None:
            """All at one place of the log: what the features hold, and what is written once more, ends there."""
            log.end_part()
            erased.end = self._log.next_offset
            for record in self._log.read(work.end, end=erased.end):
                by.find(record)
            erased.keys = engine.erase(by, erased.end)

        await self._change(begin)
        erased.ids = tuple(by.ids - before)
        bases = [part.base for part in log.parts() if part.base < erased.end]
        erased.of = len(bases)

        def changed(record: Record) -> bytes | None:
            return by.changed(record) if record.offset < erased.end else None

        def rewrite() -> None:
            for base in bases:
                if base >= log.first_offset:  # else it was given up meanwhile
                    erased.records += log.rewrite(base, changed)
                erased.parts += 1

        await asyncio.wrap_future(self._upkeep.do(rewrite))
        while await self._drops():
            await asyncio.sleep(DROP_S)
        # Two checkpoints are kept, told apart by their offsets: after these both know nothing of the subject.
        for _ in range(2):
            await self._change(lambda engine: engine.use(engine.deciding))
            await self._checkpoint()
        erased.copies = tuple(log.copies())
        erased.state = "done"
        _log.info("the erasure %s: %d records in %d parts of the log", self._name, erased.records, erased.of)

    def _rewritable(self) -> RewritableLog:
        if not hasattr(self._log, "rewrite"):
            raise InvalidInput(
                f"The log of {self._stream.name} is not kept in files: it cannot be written once more.",
                code="LOG_NOT_REWRITABLE",
                next_action="Purge its stream in NATS, and begin with a stream of another name.",
            )
        return cast("RewritableLog", self._log)

    async def _drops(self) -> bool:
        found: list[bool] = []
        await self._change(lambda engine: found.append(engine.dropping))
        return found[0]

    async def _checkpoint(self) -> None:
        offset, deadline = self._log.next_offset, time.monotonic() + CHECKPOINT_S
        while self._keeper.durable[0] < offset:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"No checkpoint is made: {self._keeper.problem or 'it takes too long'}.",
                    code="NO_CHECKPOINT",
                    next_action="Erase it again: it goes on from here.",
                )
            self._keeper.demand()
            self._station.tick()
            await asyncio.sleep(LOOK_S)

    async def _change(self, change: Callable[[Engine], object]) -> None:
        """Between two batches, in the log's thread. A full queue is waited for."""
        done: asyncio.Future[SkyriverError | None] = asyncio.get_running_loop().create_future()

        def run(engine: Engine) -> None:
            change(engine)

        while True:
            try:
                self._station.submit(ChangeWork(run, done.set_result))
                break
            except SkyriverError as full:
                if full.http_status not in (429, 503):
                    raise
                await asyncio.sleep(LOOK_S)
        error = await done
        if error is not None:
            raise error
