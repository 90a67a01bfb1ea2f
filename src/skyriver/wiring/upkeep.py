"""The thread of a worker that looks after the old part of its log, as the stream and the cloud's settings want it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread

from skyriver.core.errors import SkyriverError, told
from skyriver.core.objects import IdentifiedObjects
from skyriver.data.retention import Keep, Kept, Needed, Upkeep, segment_bytes
from skyriver.wiring.home import Home
from skyriver.wiring.logs import WorkerLog
from skyriver.wiring.tier import open_tier

EVERY_S = 0.5

_log = logging.getLogger(__name__)


def tier_of(home: Path) -> tuple[IdentifiedObjects | None, SkyriverError | None]:
    """The cloud's tier, and why it cannot be used: a stream goes on without."""
    try:
        return open_tier(Home(home)), None
    except SkyriverError as error:
        _log.error("the tier cannot be used: %s", error)
        return None, told("The tier cannot be used, so the log stays on this disk", error)


class LogUpkeep:
    """`now` tells the log's effective time and what is needed of it."""

    def __init__(
        self,
        log: WorkerLog,
        keep: Keep,
        tier: IdentifiedObjects | None,
        problem: SkyriverError | None,
        now: Callable[[], tuple[int, Needed]],
    ) -> None:
        self._log, self._tiered = log, tier is not None
        self._upkeep = Upkeep(log, keep, tier=tier is not None)
        self._problem = problem
        self.kept = self._upkeep.look()
        """As it stood when it was looked at last."""
        self._now = now
        self._asked: SimpleQueue[tuple[Callable[[], object], Future[object]]] = SimpleQueue()
        self._stop, self._look_now = Event(), Event()
        # A daemon: an upload under way must not hold up the end of the process; killed, it has not happened.
        self._thread = Thread(target=self._run, name="upkeep", daemon=True)

    @property
    def keep(self) -> Keep:
        return self._upkeep.keep

    def change(self, keep: Keep) -> None:
        """From now on; the segment that is being written keeps its size."""
        if keep != self._upkeep.keep:
            self._upkeep.keep = keep
            self._log.segment_bytes = segment_bytes(keep, tier=self._tiered)

    @property
    def problems(self) -> tuple[SkyriverError, ...]:
        return (*((self._problem,) if self._problem is not None else ()), *self._upkeep.problems)

    def look(self) -> Kept:
        self.kept = self._upkeep.look()
        return self.kept

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._look_now.set()

    def do(self, work: Callable[[], object]) -> Future[object]:
        """In this thread, which is the only other one that may change closed parts of the log."""
        done: Future[object] = Future()
        self._asked.put((work, done))
        self._look_now.set()
        return done

    def _run(self) -> None:
        before = "all is well again"
        while not self._stop.is_set():
            self._look_now.clear()
            self._do_asked()
            try:
                time, needed = self._now()
                more = self._upkeep.step(time=time, needed=needed)
            except Exception:
                _log.exception("the old part of the log is not looked after")
                more = False
            problem = " ".join(map(str, self.problems)) or "all is well again"
            if problem != before:
                before = problem
                _log.warning("the old part of the log: %s", problem)
            if not more and not self._stop.is_set():
                self._look_now.wait(EVERY_S)

    def _do_asked(self) -> None:
        while not self._stop.is_set():
            try:
                work, done = self._asked.get_nowait()
            except Empty:
                return
            try:
                done.set_result(work())
            except Exception as error:  # whoever asked is told
                done.set_exception(error)
