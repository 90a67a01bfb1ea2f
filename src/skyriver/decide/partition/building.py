"""Building the state of a changed feature set from the log, beside the worker that decides by the set before.

It folds the log in large batches, from its first offset on, and keeps checkpoints of its own, so that it goes on where
it was when it is begun again. Of a log that has given up its beginning the features are whole from the time on at which
they look back no further than the log does: what was built says so (`whole_from`), and decides from then on. It ends
when it is close behind the log's end: the worker opens what was built, folds the rest, and goes on with both sets
(DESIGN 6.8).

Cost: one core for a `share` of the time, the memory of the set's key tables and of one batch, the disk of its side log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skyriver.core.clock import Clock
from skyriver.core.errors import Conflict, Corrupt
from skyriver.core.spec import FeatureSetSpec
from skyriver.core.units import SECOND
from skyriver.data.log import WholeReader
from skyriver.decide.log.checkpoint import NEVER, Checkpoint, CheckpointFiles, Counters, is_of, last_before
from skyriver.decide.partition.folding import Folding
from skyriver.decide.partition.kernel_windows import KernelWindows, WindowsFiles
from skyriver.decide.partition.windows import SavedWindows
from skyriver.features.plan import EVER

CLOSE_RECORDS = 5_000
"""So far behind the log's end a set is handed over: a tenth of a second of folding."""
SLICE_US = 20_000
"""It rests after each of these, as its share asks."""
SAVE_EVERY_US = SECOND
SAVE_SHARE = 20
"""A checkpoint that took t is followed by none for 20 t, nor for SAVE_EVERY_US. What was folded since the last one is
lost with the worker, and a worker that dies often must get its features built all the same."""

Tell = Callable[[int, int, int], None]
"""(offset that it has come to, the log's end, events that it has read)."""


@dataclass(frozen=True, slots=True)
class Resting:
    """How the share of a core is kept. `sleep` takes microseconds."""

    share: float
    clock: Clock
    sleep: Callable[[int], None]


def build(
    reader: WholeReader, files: WindowsFiles, features: FeatureSetSpec, directory: Path, resting: Resting, tell: Tell
) -> int:
    """Folds `features` until they are close to the log's end; checkpoints are kept in `directory`. Returns the offset
    of the last one, which has the state of all records below it. Raises Corrupt (the log), Unavailable, NotFound
    (OFFSET_GONE) where the log gave up what it was about to read: it is to be begun again; Conflict (REFERENCES_GONE)
    where it gave up rows that the features may look up."""
    checkpoints = CheckpointFiles(directory)
    windows, start = _resume(checkpoints, files, features, reader)
    try:
        return _Build(reader, windows, checkpoints, resting, tell).run(start)
    finally:
        windows.close()


def _resume(
    checkpoints: CheckpointFiles, files: WindowsFiles, features: FeatureSetSpec, reader: WholeReader
) -> tuple[KernelWindows, int]:
    first, gone = reader.begin()
    saved = built(checkpoints, files.digest_of(features), reader.next_offset)
    # Only one that surely is of this log: a wrong one would decide wrongly, and another one only takes time.
    if saved is not None and saved.last is not None and saved.last.offset >= first and is_of(saved, reader):
        try:
            return files.open(features, saved.features, saved.whole_from), saved.offset
        except (Corrupt, Conflict):
            pass  # it is built from the beginning
    checkpoints.clear()
    reach = files.prepare(features).plan.reach
    if first and reach == EVER:
        raise Conflict(
            f"The features {features.name} look up references, whose rows may be of any age, and the log has given up"
            f" what was before its offset {first}.",
            code="REFERENCES_GONE",
            next_action="Declare a stream of another name with these features, and load events, labels and references"
            " there from this stream's tables.",
        )
    return files.open(features, None, gone + reach if first else NEVER), first


def built(checkpoints: CheckpointFiles, digest: str, log_end: int) -> Checkpoint | None:
    """The newest checkpoint of this feature set."""
    return next((c for c in checkpoints.newest_first(log_end) if c.features_digest == digest), None)


class _Build:
    def __init__(
        self, reader: WholeReader, windows: KernelWindows, checkpoints: CheckpointFiles, resting: Resting, tell: Tell
    ) -> None:
        self._reader = reader
        self._windows = windows
        self._checkpoints = checkpoints
        self._resting = resting
        self._tell = tell
        self._woke = resting.clock.monotonic()
        self._save_at = self._woke + SAVE_EVERY_US
        self._hurry = False
        self.events = 0
        self._saved: SavedWindows | None = None

    def run(self, start: int) -> int:
        at, end = start, self._reader.sync()  # no further: what is saved must not outlive its records
        while end - at > CLOSE_RECORDS:
            folded = end - at
            at = self._fold(at, end)
            came = self._reader.sync() - end
            self._hurry = came > folded // 2  # else it would not get there at its share
            end += came
        self._save(at)
        self._tell(at, end, self.events)
        return at

    def _fold(self, start: int, end: int) -> int:
        """All records from `start` up to `end`."""
        folding, before = Folding(self._windows), self.events
        clock = self._resting.clock
        at = start
        for record in self._reader.read(start, end=end):
            folding.apply(record)
            at = record.offset + record.count
            now = clock.monotonic()
            if now - self._woke >= SLICE_US:
                self._tell(at, end, before + folding.events)
                if now >= self._save_at:
                    folding.flush()
                    self._save(at)
                    now = clock.monotonic()
                self._rest(now - self._woke)
        folding.flush()
        self.events = before + folding.events
        return at

    def _rest(self, worked_us: int) -> None:
        share = self._resting.share
        self._resting.sleep(0 if self._hurry else round(worked_us * (1 - share) / share))
        self._woke = self._resting.clock.monotonic()

    def _save(self, offset: int) -> None:
        began = self._resting.clock.monotonic()
        saved = self._windows.save()
        saved.flush()
        checkpoint = Checkpoint(
            offset=offset,
            time=NEVER,
            features_digest=self._windows.digest,
            features=saved.state,
            ids=b"",
            counters=Counters(),
            horizon=(),
            control=None,
            loads=(),
            whole_from=self._windows.whole_from,
            last=last_before(offset, self._reader),
        )
        self._checkpoints.write(checkpoint)
        if self._saved is not None:
            self._saved.release()
        self._saved = saved
        now = self._resting.clock.monotonic()
        self._save_at = now + max(SAVE_EVERY_US, SAVE_SHARE * (now - began))
