"""A partition on disk: opening its engine from what is there, and taking checkpoints.

DIR/log/          the segment log: the truth
DIR/side/         side logs of the features (decide.windows), one for each set
DIR/building/     checkpoints of a set that is being built (decide.building)
DIR/ids/          the id index
DIR/checkpoint/   the two newest checkpoints
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from skyriver.core.clock import Clock
from skyriver.core.errors import Conflict, Corrupt, SkyriverError, disk_error
from skyriver.core.jobs import Progress
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.core.units import SECOND
from skyriver.data.folders import sync_folder
from skyriver.data.log import Log, RecordKind
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.log.checkpoint import KEPT, NEVER, Checkpoint, CheckpointFiles
from skyriver.decide.log.records import ControlRecord, decode_control
from skyriver.decide.partition.clock import ReceivingClock
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.journal import JournaledIds
from skyriver.decide.partition.kernel_windows import WindowsFiles
from skyriver.decide.partition.recovery import Recovered, recover
from skyriver.decide.partition.windows import NOTHING_NEEDED, FeatureSets, SavedWindows, Windows

_log = logging.getLogger(__name__)

CHECKPOINT_EVERY_US = 5 * SECOND
CHECKPOINT_RECORDS = 50_000
CHECKPOINT_SHARE = 200
"""A checkpoint whose beginning (what events wait for) took t is followed by none for 200 t: half a percent of the
time, however large the state."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """What a checkpoint holds on to: the files of the ids, and the windows with the digests of their features."""

    offset: int
    ids: bytes | None
    windows: SavedWindows | None
    sets: frozenset[str]
    needed: int
    """From this offset on the log is needed to go on from it."""


Choose = Callable[[ControlRecord | None, FeatureSets | None], Deciding]
"""What to decide with, from what the log says was decided with last (None: a new log) and the features there are."""


class PartitionFiles:
    """One partition in `directory`, whose log is open. One thread at a time, but for `write`, which a checkpoint
    leaves to another one. `windows` is None where the stream decides nothing, and so needs no features."""

    def __init__(
        self,
        stream: StreamSpec,
        directory: Path,
        log: Log,
        windows: WindowsFiles | None,
        clock: Clock,
        declared: FeatureSetSpec | None = None,
        here: Callable[[], int] = lambda: 0,
    ) -> None:
        """`here`: the offset from which on the log lies on this disk."""
        self._here = here
        self._stream = stream
        self._directory = directory
        self._log = log
        self._windows_files = windows
        self._clock = clock
        self._checkpoints = CheckpointFiles(directory / "checkpoint")
        self._sets: FeatureSets | None = None
        self._ids: JournaledIds | None = None
        self._saved: list[_Saved] = []
        """The newest KEPT checkpoints that this process wrote."""
        self.needed = 0
        """From this offset on the log is needed to go on from a checkpoint that is kept, and to answer ids that are
        remembered with their first decisions."""
        self.declared = declared
        """The features that the application declares now: those that a new log begins with."""
        self.building = ""
        """Digest of the features whose side log another process writes."""
        self._durable: tuple[int, frozenset[str]] = (0, frozenset())
        """Of the newest checkpoint: the sets' generation, and the digests of the features in it."""
        self._named = -1
        """The sets' generation whose folders have their names on the disk."""
        self.recovered: Recovered | None = None
        self.receiving = ReceivingClock(clock, stream.ahead_us)

    @property
    def sets(self) -> FeatureSets | None:
        """The features that are folded."""
        return self._sets

    @property
    def durable(self) -> frozenset[str]:
        """Digests of the features that are folded and that the newest checkpoint has: these survive the process."""
        generation, digests = self._durable
        return digests if self._sets is not None and self._sets.generation == generation else frozenset()

    def usable(self, time: int) -> frozenset[str]:
        """Digests of the features that may take over at this effective time: what the log names then, a restart must
        find, and they have folded all that they look back to."""
        return self.durable & self._sets.whole_at(time) if self._sets is not None else frozenset()

    def open(self, choose: Choose, progress: Progress) -> Engine:
        """Recovers the partition from its log, notes what is decided with, decides what was left undecided, and syncs.

        May be called again after an error. Raises Corrupt (the log), Unavailable (a full disk).
        """
        self.close()
        recovered = recover(
            self._log,
            self._stream,
            checkpoints=self._checkpoints.newest_first(self._log.next_offset),
            open_windows=self._open_windows,
            open_ids=self._open_ids,
            progress=progress,
        )
        time = recovered.partition.time
        if self.recovered is None:  # not at each opening after an error: a sender's clock would move time by that
            self.receiving.restart(time if time > NEVER else None)
        self.recovered = recovered
        engine = Engine(recovered.partition, self._log, recovered.windows, recovered.ids, self.receiving, self._here)
        engine.use(choose(recovered.partition.control, self._sets))
        engine.decide_events(recovered.undecided)
        self._log.sync()
        return engine

    def fold_beside(self, windows: Windows) -> None:
        """From now on these are folded too; they must stand where the engine's do. They survive the process from the
        next checkpoint on."""
        assert self._sets is not None
        self._sets.add(windows)

    def save(self, engine: Engine) -> Callable[[], None]:
        """A checkpoint of the engine as it is now, between batches and synced. What is returned makes it durable; it
        may run in another thread while the engine goes on, and `written` is to be called after it."""
        assert self._ids is not None
        ids, files = self._ids.describe()
        checkpoint, windows = engine.save(ids)
        # What neither the log has nor a label can reach: its id would be found for nothing, and take room for ever.
        self._ids.forget(min(self._log.begin()[0], windows.oldest if windows is not None else NOTHING_NEEDED))
        if self._saved and self._saved[-1].offset == checkpoint.offset:
            self._saved.pop()  # its file is replaced
        needed = min((checkpoint.offset, *(offset for offset, _ in checkpoint.horizon[:1])))
        self._saved.append(_Saved(checkpoint.offset, files, windows, checkpoint.sets, needed))
        generation = self._sets.generation if self._sets is not None else 0
        return lambda: self._write(checkpoint, windows, generation)

    def _write(self, checkpoint: Checkpoint, windows: SavedWindows | None, generation: int) -> None:
        # The order is the law: what the checkpoint names must be on the disk before it is.
        if windows is not None:
            windows.flush()
        self._log.sync_to_disk()  # else a power cut leaves checkpoints beyond the log's end, which nobody can use
        self._sync_folders(generation)
        self._checkpoints.write(checkpoint)
        self._durable = generation, checkpoint.sets

    def _sync_folders(self, generation: int) -> None:
        """The names of what a checkpoint needs, once for each change of what is folded."""
        if generation == self._named:
            return
        try:
            for folder in filter(Path.is_dir, (self._directory, self._directory / "side")):
                sync_folder(folder)
        except OSError as error:
            raise disk_error(error, "A checkpoint cannot be written", str(self._directory)) from error
        self._named = generation

    def written(self) -> None:
        """The last checkpoint is durable: what only older ones needed goes."""
        assert self._ids is not None
        del self._saved[:-KEPT]
        if len(self._saved) < KEPT:
            return  # one of before this process is kept too, which may need all that is there
        self._ids.release([saved.ids for saved in self._saved])
        oldest, self.needed = self._saved[0].windows, self._saved[0].needed
        if oldest is not None:
            oldest.release()
        if self._windows_files is not None:
            folded = self._sets.specs.keys() if self._sets is not None else ()
            self._windows_files.keep_only({self.building, *folded, *(d for saved in self._saved for d in saved.sets)})

    def failed(self) -> None:
        """The last checkpoint could not be written."""
        self._saved.pop()

    def close(self) -> None:
        """Lets go of windows and ids; what no checkpoint has is gone from them, not from the log."""
        self._saved.clear()
        self.needed = 0
        if self._sets is not None:
            self._sets.close()
            self._sets = None
        if self._ids is not None:
            self._ids.close()
            self._ids = None

    def _open_windows(self, checkpoint: Checkpoint | None) -> FeatureSets | None:
        """The sets of the checkpoint; without one, the set that decides at the end of the log, empty."""
        files = self._windows_files
        if files is None:
            return None
        if self._sets is not None:
            self._sets.close()
        if checkpoint is None:
            spec = self._last_spec(files) or self.declared
            if spec is not None and self._log.begin()[0]:  # it may not do without a checkpoint, whatever this one finds
                files.set_aside(spec)
            self._sets = FeatureSets(files.open(spec, None) if spec is not None else None)
            return self._sets
        deciding = None
        if checkpoint.features_digest:
            spec = self._spec_of(checkpoint.features_digest, checkpoint.control, files)
            deciding = files.open(spec, checkpoint.features)
        self._sets = FeatureSets(deciding)
        if checkpoint.beside is not None:
            beside = FeatureSetSpec.model_validate(checkpoint.beside.spec)
            try:
                self._sets.add(files.open(beside, checkpoint.beside.state, checkpoint.beside.whole_from))
            except (Corrupt, Conflict):
                _log.warning("the features beside those that decide are built anew", exc_info=True)
        self._durable = self._sets.generation, frozenset(self._sets.specs)
        return self._sets

    def _spec_of(self, digest: str, control: ControlRecord | None, files: WindowsFiles) -> FeatureSetSpec:
        told = FeatureSetSpec.model_validate(control.features) if control is not None and control.features else None
        for spec in (told, self.declared):
            if spec is not None and files.digest_of(spec) == digest:
                return spec
        raise Conflict(
            f"It is of other features ({digest[:12]}), and how these are computed is not known.",
            next_action="Nothing needs to be done: what it holds is computed anew from the log.",
        )

    def _last_spec(self, files: WindowsFiles) -> FeatureSetSpec | None:
        """Of the features that decide at the end of the log; None where nothing was decided yet or it is not known."""
        last: ControlRecord | None = None
        for record in self._log.read(self._log.begin()[0]):
            if record.kind is RecordKind.CONTROL:
                control = decode_control(record.payload)
                last = control if control.load is None else last
        if last is None or last.features is None:
            return None
        spec = FeatureSetSpec.model_validate(last.features)
        return spec if files.digest_of(spec) == last.features_digest else None

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
        self._demanded = False
        self.offset = -1
        """Of the last one that was begun."""
        self._duplicates = 0
        self.durable = (0, clock.wall())
        """Of the last one that is on the disk: its offset, and when it was begun (of one of before this process: when
        it was opened), wall microseconds."""
        self.pause_us = 0
        """How long events waited for the last one."""
        self.problem = ""
        """Why the last one failed."""

    def opened(self, offset: int, duplicates: int = 0) -> None:
        """An engine was opened, by a replay that began at `offset`; the checkpoint there has counted `duplicates`."""
        self.offset, self._duplicates = offset, duplicates
        self._at = self._clock.monotonic()
        self.durable = (offset, self._clock.wall())

    def is_behind(self, engine: Engine, offset: int) -> bool:
        """Whether there is something that the last one has not; events that were known already leave no record."""
        return offset != self.offset or engine.partition.counters.duplicates != self._duplicates

    def demand(self) -> None:
        """The next one is due at once."""
        self._demanded = True

    def due(self, offset: int) -> bool:
        if self._writing is not None and not self._writing.done():
            return False
        if self._demanded or offset == self.offset:
            return self._demanded
        passed = self._clock.monotonic() - self._at
        enough = offset - self.offset >= CHECKPOINT_RECORDS or passed >= CHECKPOINT_EVERY_US
        return enough and passed >= CHECKPOINT_SHARE * self.pause_us

    def begin(self, engine: Engine, offset: int) -> None:
        """Between batches, synced. Raises Unavailable (a full disk); it is tried again after the usual time."""
        self.settle()
        self._demanded = False
        self._at, self.offset = self._clock.monotonic(), offset
        self._duplicates = engine.partition.counters.duplicates
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
        except Exception as error:  # whatever it was, there is none: nothing that it was to stand for may go
            if not isinstance(error, SkyriverError):
                _log.exception("a checkpoint could not be written")
            self.problem = f"The last checkpoint failed: {error or type(error).__name__}"
            self._files.failed()
        else:
            self.problem = ""
            self._files.written()

    def close(self) -> None:
        self.settle()
        self._thread.shutdown()
