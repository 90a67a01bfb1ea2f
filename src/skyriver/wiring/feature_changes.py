"""Changed features beside those that decide: a process builds their state, the worker opens it and folds both.

IDLE -> BUILDING (`wiring.builder` folds the log) -> JOINING (the worker opens what was built, and folds what came since
between batches) -> SAVING (a checkpoint with both) -> READY: a model version that was trained on them may decide.
Where the log has given up what they look back to, WAITING comes before READY: both are folded until they have all of
it. Whatever ends half-way is begun again from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from skyriver.core.errors import Corrupt, Internal, SkyriverError, from_problem, told
from skyriver.core.processes import how_it_ended
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.data.log import Log
from skyriver.decide.log.checkpoint import NEVER, CheckpointFiles
from skyriver.decide.partition.building import built
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.folding import Folding
from skyriver.decide.partition.kernel_windows import KernelWindows, WindowsFiles
from skyriver.decide.partition.opening import Keeper, PartitionFiles
from skyriver.decide.partition.partition import BEYOND
from skyriver.decide.worker.station import Station
from skyriver.decide.worker.work import ChangeWork

SHARE = 0.5
"""Of a core, that a builder takes (at a lower priority than the worker) while it gets on."""
LOOK_S = 0.05
NOT_BUILT = "The changed features are not built"
AGAIN_S = 5.0
"""After a builder failed."""
STEP_S = 0.002
"""So long live events wait at most for one step of the joining, unless it gets nowhere in such steps."""

_log = logging.getLogger(__name__)


class Phase(StrEnum):
    IDLE = "idle"
    BUILDING = "building"
    JOINING = "joining"
    SAVING = "saving"
    WAITING = "waiting"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class BuilderPlace:
    """What a builder needs besides the features."""

    stream: StreamSpec
    directory: Path
    """Of the partition."""
    kernel_cache: Path
    home: Path
    tenant: str
    reads: bool = False


class FeatureChanges:
    """All on the loop's thread."""

    def __init__(
        self,
        place: BuilderPlace,
        log: Log,
        windows: WindowsFiles,
        files: PartitionFiles,
        keeper: Keeper,
        station: Station,
    ) -> None:
        self._place = place
        self._log = log
        self._windows = windows
        self._files = files
        self._keeper = keeper
        self._station = station
        self._process: asyncio.subprocess.Process | None = None
        self._told: dict[str, Any] = {}
        self._began = 0.0
        self._wanted: FeatureSetSpec | None = None
        self._digest = ""
        self.phase = Phase.IDLE
        self.problem: SkyriverError | None = None
        self.needed = BEYOND
        """From this offset on the log is read by what is under way."""

    def want(self, features: FeatureSetSpec | None) -> None:
        """From now on these are to be folded beside the features that decide; None: nothing."""
        self._wanted = features
        self._digest = self._windows.digest_of(features) if features is not None else ""

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                try:
                    await self._look()
                except Exception as error:  # whatever it was, the features of before go on deciding
                    _log.exception("the changed features are not built")
                    self.problem = told(NOT_BUILT, error)
                    await asyncio.sleep(AGAIN_S)
        finally:
            await self._stop()

    def metrics(self) -> Iterator[tuple[str, str, str, float]]:
        """For Prometheus: (name, kind, what it is, value)."""
        found = self.report()
        if found is None:
            return
        told = "Changed features are computed beside those that decide; 1: a version trained on them may decide."
        yield "skyriver_feature_change_ready", "gauge", told, float(found["state"] == Phase.READY)
        told = "Records of the log that they have not seen."
        yield "skyriver_feature_change_behind_records", "gauge", told, found["end"] - found["offset"]
        told = "Events that building them read."
        yield "skyriver_feature_change_events_total", "counter", told, found["events"]
        told = "Events a second that building them gets on with."
        yield "skyriver_feature_change_events_per_second", "gauge", told, found["events_per_second"]
        told = "Of CPU, that building them took."
        yield "skyriver_feature_change_cpu_seconds_total", "counter", told, found["cpu_seconds"]
        yield "skyriver_feature_change_memory_bytes", "gauge", "That they take.", found["memory_mb"] * 1e6
        yield "skyriver_feature_change_disk_bytes", "gauge", "That they take.", found["disk_mb"] * 1e6

    def report(self) -> dict[str, Any] | None:
        """How far it is, and what it costs; None where no features change."""
        if self._wanted is None or self.phase is Phase.IDLE:
            return None
        beside = self._files.sets.beside if self._files.sets is not None else None
        memory = beside.size[1] if beside is not None else 0
        told = self._told
        return {
            "digest": self._digest,
            "state": "compiling" if self.phase is Phase.BUILDING and "offset" not in told else str(self.phase),
            "offset": told.get("offset", 0) if self.phase is Phase.BUILDING else self._log.next_offset,
            "end": self._log.next_offset,
            "events": told.get("events", 0),
            "events_per_second": told.get("events_per_second", 0.0),
            "cpu_seconds": told.get("seconds", 0.0),
            "whole_from": beside.whole_from if self.phase is Phase.WAITING and beside is not None else None,
            "memory_mb": told.get("rss_mb", 0) if self.phase is Phase.BUILDING else round(memory / 1e6, 1),
            "disk_mb": round(self._windows.disk_bytes(self._digest) / 1e6, 1),
        }

    async def _look(self) -> None:
        sets = self._files.sets
        if self._station.engine is None or sets is None:
            return
        wanted, digest = self._wanted, self._digest
        if digest != self._files.building:
            await self._stop()
            self._files.building = digest
        if sets.beside is not None and sets.beside.digest != digest:
            await self._change(lambda engine: sets.drop())
        if wanted is None:
            self.phase, self.problem = Phase.IDLE, None
            return
        if digest in sets.specs:
            self._look_for_checkpoint(digest)
        elif await self._is_built(wanted):
            await self._join(wanted, digest)

    def _look_for_checkpoint(self, digest: str) -> None:
        if self.phase is Phase.READY:
            return
        if digest not in self._files.durable:
            self.phase = Phase.SAVING
            self._keeper.demand()
            return
        self.phase = Phase.READY if digest in self._files.usable(self._time) else Phase.WAITING
        self.problem = None
        shutil.rmtree(self._directory, ignore_errors=True)
        if self.phase is Phase.READY:
            _log.info("the features %s are ready to decide", digest[:12])

    @property
    def _time(self) -> int:
        return self._station.engine.partition.time if self._station.engine is not None else NEVER

    @property
    def _directory(self) -> Path:
        return self._place.directory / "building"

    async def _is_built(self, features: FeatureSetSpec) -> bool:
        """Whether a builder has done its work; begins one if none is at it."""
        self.phase = Phase.BUILDING
        if self._process is None:
            await self._begin(features)
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if line:
            self._told = json.loads(line)
            self.needed = self._told.get("offset", self.needed)
            return False
        code = await self._process.wait()
        self._process = None
        if code == 0 and self._told.get("built"):
            return True
        problem = self._told.get("problem") or Internal(how_it_ended(code)).to_problem()
        self.problem = told(NOT_BUILT, from_problem(problem["status"], problem))
        _log.error("%s", self.problem)
        self.needed = BEYOND
        await asyncio.sleep(AGAIN_S)
        return False

    async def _begin(self, features: FeatureSetSpec) -> None:
        place, self.problem, self._told = self._place, None, {}
        self.needed = self._log.begin()[0]
        config = {
            "stream": place.stream.to_json(),
            "features": features.to_json(),
            "home": str(place.home),
            "tenant": place.tenant,
            "directory": str(place.directory),
            "side": str(place.directory / "side"),
            "building": str(self._directory),
            "kernel_cache": str(place.kernel_cache),
            "reads": place.reads,
            "share": SHARE,
        }
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skyriver.wiring.builder", stdin=pipe, stdout=pipe
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(config).encode() + b"\n")
        await self._process.stdin.drain()

    async def _stop(self) -> None:
        process, self._process = self._process, None
        self.phase, self.needed = Phase.IDLE, BEYOND
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _join(self, features: FeatureSetSpec, digest: str) -> None:
        """Opens what was built, folds what came since, and goes on with it beside."""
        self.phase = Phase.JOINING
        loop = asyncio.get_running_loop()
        windows, offset = await loop.run_in_executor(None, self._open, features, digest)
        joining = _Joining(self._log, self._files, windows, offset)
        try:
            while not joining.done:
                await self._change(joining.step)
            self._keeper.demand()
        finally:
            self.needed = BEYOND
            if not joining.done:
                joining.cancelled = True
                windows.close()

    def _open(self, features: FeatureSetSpec, digest: str) -> tuple[KernelWindows, int]:
        saved = built(CheckpointFiles(self._directory), digest, self._log.next_offset)
        if saved is None:
            raise Corrupt("What was built of them is damaged.", code="CHECKPOINT_CORRUPT", where=str(self._directory))
        return self._windows.open(features, saved.features, saved.whole_from), saved.offset

    async def _change(self, change: Callable[[Engine], None]) -> None:
        done: asyncio.Future[SkyriverError | None] = asyncio.get_running_loop().create_future()

        def answer(error: SkyriverError | None) -> None:
            if not done.done():  # cancelled: nobody waits for it any more
                done.set_result(error)

        self._station.submit(ChangeWork(change, answer))
        error = await done
        if error is not None:
            raise error


class _Joining:
    """Brings windows to the log's end in steps between batches, and then has the engine fold them."""

    def __init__(self, log: Log, files: PartitionFiles, windows: KernelWindows, offset: int) -> None:
        self._log = log
        self._files = files
        self._windows = windows
        self._offset = offset
        self._behind = log.next_offset - offset
        self._seconds = STEP_S
        self.done = False
        self.cancelled = False
        """Its windows are closed: a step that waits in the station does nothing any more."""

    def step(self, _engine: Engine) -> None:
        if self.cancelled:
            return
        folding = Folding(self._windows, chunk=256)
        until = time.monotonic() + self._seconds
        for record in self._log.read(self._offset):
            folding.apply(record)
            self._offset = record.offset + record.count
            if time.monotonic() >= until:
                break
        folding.flush()
        behind = self._log.next_offset - self._offset
        if not behind and self._files.sets is not None:
            self._files.fold_beside(self._windows)
            self.done = True
        elif behind >= self._behind:
            self._seconds *= 2
        self._behind = behind
