"""A partition on disk: opening its engine from what is there, and taking checkpoints.

DIR/log/          the segment log: the truth
DIR/side/         side logs of the features (decide.windows)
DIR/ids/          the id index
DIR/checkpoint/   the two newest checkpoints
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from skyriver.core.clock import Clock
from skyriver.core.errors import SkyriverError
from skyriver.core.jobs import Progress
from skyriver.core.spec import StreamSpec
from skyriver.core.units import SECOND
from skyriver.data.log import Log
from skyriver.decide.checkpoint import KEPT, Checkpoint, CheckpointFiles
from skyriver.decide.clock import ReceivingClock
from skyriver.decide.deciding import Deciding
from skyriver.decide.engine import Engine
from skyriver.decide.journal import JournaledIds
from skyriver.decide.partition import NEVER
from skyriver.decide.recovery import Recovered, recover
from skyriver.decide.windows import SavedWindows, Windows, WindowsFiles

CHECKPOINT_EVERY_US = 5 * SECOND
CHECKPOINT_RECORDS = 50_000
CHECKPOINT_SHARE = 200
"""A checkpoint whose beginning (what events wait for) took t is followed by none for 200 t: half a percent of the
time, however large the state."""


class PartitionFiles:
    """One partition in `directory`, whose log is open. One thread at a time, but for `write`, which a checkpoint
    leaves to another one."""

    def __init__(
        self, stream: StreamSpec, directory: Path, log: Log, windows: WindowsFiles | None, clock: Clock
    ) -> None:
        self._stream = stream
        self._directory = directory
        self._log = log
        self._windows_files = windows
        self._clock = clock
        self._checkpoints = CheckpointFiles(directory / "checkpoint")
        self._windows: Windows | None = None
        self._ids: JournaledIds | None = None
        self._saved: list[tuple[bytes | None, SavedWindows | None]] = []
        """Of the newest KEPT checkpoints that this process wrote: the files of the ids, and the windows."""
        self.recovered: Recovered | None = None
        self.receiving = ReceivingClock(clock, stream.ahead_us)

    @property
    def features_digest(self) -> str:
        return self._windows_files.digest if self._windows_files is not None else ""

    def open(self, deciding: Deciding, progress: Progress) -> Engine:
        """Recovers the partition from its log, notes what is decided with, decides what was left undecided, and syncs.

        May be called again after an error. Raises Corrupt (the log), Unavailable (a full disk).
        """
        self.close()
        recovered = recover(
            self._log,
            self._stream,
            features_digest=self.features_digest,
            checkpoints=self._checkpoints.newest_first(self._log.next_offset),
            open_windows=self._open_windows,
            open_ids=self._open_ids,
            progress=progress,
        )
        self.recovered = recovered
        time = recovered.partition.time
        self.receiving.restart(time if time > NEVER else None)
        engine = Engine(recovered.partition, self._log, recovered.windows, recovered.ids, self.receiving)
        engine.use(deciding)
        engine.decide_events(recovered.undecided)
        self._log.sync()
        return engine

    def save(self, engine: Engine) -> Callable[[], None]:
        """A checkpoint of the engine as it is now, between batches and synced. What is returned makes it durable; it
        may run in another thread while the engine goes on, and `written` is to be called after it."""
        assert self._ids is not None
        ids, files = self._ids.describe()
        checkpoint, windows = engine.save(ids)
        self._saved.append((files, windows))
        return lambda: self._write(checkpoint, windows)

    def _write(self, checkpoint: Checkpoint, windows: SavedWindows | None) -> None:
        # The order is the law: what the checkpoint names must be on the disk before it is.
        if windows is not None:
            windows.flush()
        self._checkpoints.write(checkpoint)

    def written(self) -> None:
        """The last checkpoint is durable: what only older ones needed goes."""
        assert self._ids is not None
        del self._saved[:-KEPT]
        if len(self._saved) < KEPT:
            return  # one of before this process is kept too, which may need all that is there
        self._ids.release([files for files, _ in self._saved])
        oldest = self._saved[0][1]
        if oldest is not None:
            oldest.release()
        if self._windows_files is not None:
            self._windows_files.remove_others()

    def failed(self) -> None:
        """The last checkpoint could not be written."""
        self._saved.pop()

    def close(self) -> None:
        """Lets go of windows and ids; what no checkpoint has is gone from them, not from the log."""
        self._saved.clear()
        if self._windows is not None:
            self._windows.close()
            self._windows = None
        if self._ids is not None:
            self._ids.close()
            self._ids = None

    def _open_windows(self, saved: bytes | None) -> Windows | None:
        self._windows = self._windows_files.open(saved) if self._windows_files is not None else None
        return self._windows

    def _open_ids(self, saved: bytes | None) -> JournaledIds:
        if self._ids is not None:
            self._ids.close()
        self._ids = JournaledIds.open(self._directory / "ids", saved)
        return self._ids


class Keeper:
    """Takes a checkpoint every CHECKPOINT_EVERY_US or CHECKPOINT_RECORDS, one at a time. Events wait for the first
    half (`begin`: a copy of the state), the second is done in a thread."""

    def __init__(self, files: PartitionFiles, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._at = clock.monotonic()
        self.offset = -1
        """Of the last one that was begun."""
        self.durable = (0, clock.wall())
        """Of the last one that is on the disk: its offset, and when it was begun (of one of before this process: when
        it was opened), wall microseconds."""
        self.pause_us = 0
        """How long events waited for the last one."""
        self.problem = ""
        """Why the last one failed."""

    def opened(self, offset: int) -> None:
        """An engine was opened, by a replay that began at `offset`."""
        self.offset = offset
        self._at = self._clock.monotonic()
        self.durable = (offset, self._clock.wall())

    def due(self, offset: int) -> bool:
        if offset == self.offset or (self._writing is not None and not self._writing.done()):
            return False
        passed = self._clock.monotonic() - self._at
        enough = offset - self.offset >= CHECKPOINT_RECORDS or passed >= CHECKPOINT_EVERY_US
        return enough and passed >= CHECKPOINT_SHARE * self.pause_us

    def begin(self, engine: Engine, offset: int) -> None:
        """Between batches, synced. Raises Unavailable (a full disk); it is tried again after the usual time."""
        self.settle()
        self._at, self.offset = self._clock.monotonic(), offset
        self._writing = self._thread.submit(self._write, self._files.save(engine), (offset, self._clock.wall()))
        self.pause_us = self._clock.monotonic() - self._at

    def _write(self, write: Callable[[], None], durable: tuple[int, int]) -> None:
        write()
        self.durable = durable

    def settle(self) -> None:
        """Waits for the one that is being written; before another one, and before the partition is opened again."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except SkyriverError as error:
            self.problem = f"The last checkpoint failed: {error}"
            self._files.failed()
        else:
            self.problem = ""
            self._files.written()

    def close(self) -> None:
        self.settle()
        self._thread.shutdown()
