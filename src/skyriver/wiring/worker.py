"""The process of a stream's partition: `python -m skyriver.wiring.worker CONFIG_FILE`.

Its configuration: {"stream": StreamSpec, "decide": DecideSpec | null, "directory", "objects", "kernel_cache":
directories, "queue": rows that may wait}; live settings: {"model": {"name", "version", "artifact", "features_digest"
("" or none: not known), "features": FeatureSetSpec that it was trained on | null} | null, "features": FeatureSetSpec
that is declared now | null, "rules": [[decision, when(, name)], ...], "otherwise", "fallback", "rules_version": their
number, "trial": {"number", "percent": of the keys, "rules"} of rules that are tried beside | null, "budgets",
"counters" and "combine" as DecideSpec has them (absent: none), "began": whether the stream has a log already (absent:
not known), "cheaper": a model as above (absent: none), "generation": of the declaration, which the report tells once it
is decided with (absent: not known), "objective": {"latency_us", "share", "cpus" (absent: 1)} of what is decided in time
(absent: none), "materialised": the last offset that the stream's tables cover (absent: not known), "dispatched": the
offset up to which the stream's dispatcher has read (absent: there is none), "keep": the limits of its log}. The last
five change nothing of what is decided with.

It takes the log (from a holder that is stopped or hung too), recovers, warms everything that the first event needs,
listens, and then says that it is ready. A change of the live settings is loaded beside the running engine and written
into the log before the first event that it decides; one that cannot be used is told in the report, and what was used
goes on. Changed features are built beside those that decide (`wiring.feature_changes`). SIGTERM: it finishes what
waits, takes a checkpoint and ends with 0. It ends with 1 when the log was lost or failed: the next start recovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
import socket
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from pydantic import ValidationError

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.calibration import Calibration
from skyriver.core.errors import InvalidInput, SkyriverError, Unavailable
from skyriver.core.objects import IdentifiedObjects
from skyriver.core.spec import DecideSpec, FeatureSetSpec, StreamSpec
from skyriver.data.retention import Needed, local_from
from skyriver.decide.decision.arms import in_use
from skyriver.decide.decision.choice import Choice
from skyriver.decide.decision.deciding import Deciding
from skyriver.decide.decision.model_run import ModelRun
from skyriver.decide.decision.scorer import OnnxScorer
from skyriver.decide.decision.stretches import Threads
from skyriver.decide.decision.tree_shap import compile_shares
from skyriver.decide.decision.trees import compile_sums
from skyriver.decide.decision.trial import rules_in_use
from skyriver.decide.log.checkpoint import NEVER, Counters
from skyriver.decide.log.records import ControlRecord
from skyriver.decide.partition.engine import Engine
from skyriver.decide.partition.kernel_windows import WindowsFiles
from skyriver.decide.partition.opening import Keeper, PartitionFiles
from skyriver.decide.partition.windows import FeatureSets
from skyriver.decide.worker.answers import DecisionWriter, dead_letter_json
from skyriver.decide.worker.border import EventBorder
from skyriver.decide.worker.explaining import Explaining, Sources
from skyriver.decide.worker.feeding import Feed
from skyriver.decide.worker.looking import Looks
from skyriver.decide.worker.metrics import LOOK_US, Meter, Seen, prometheus, stored_bytes
from skyriver.decide.worker.pacing import pacer_of
from skyriver.decide.worker.routes import HISTORY_LIMIT, Routes
from skyriver.decide.worker.station import Station
from skyriver.decide.worker.work import ChangeWork
from skyriver.features.kernel import leave_out_linear_algebra
from skyriver.features.plan import plan_features
from skyriver.serve.http import HttpLimits, HttpServer
from skyriver.serve.listening import unix_listener
from skyriver.serve.metrics import resident_bytes
from skyriver.wiring.erasing import Erasures
from skyriver.wiring.feature_changes import BuilderPlace, FeatureChanges
from skyriver.wiring.home import Home
from skyriver.wiring.logs import WorkerLog, keep_of, kept_as, log_reader, on_disk, take_log
from skyriver.wiring.model_files import ModelFiles
from skyriver.wiring.process import ProcessContext, SystemClock, run_to_end
from skyriver.wiring.rounds import Rounds
from skyriver.wiring.sources import open_source, source_name
from skyriver.wiring.upkeep import LogUpkeep, tier_of

LIVE_EVERY_S = 0.05
REPORT_EVERY_S = LOOK_US / 1e6
STORED_EVERY_S = 10.0
FOR_SINKS = "the dispatcher", "It is behind, or away: `skyriver ps` shows it, `skyriver explain` says why."
FOR_TABLES = "the next materialisation", "The tables are behind: `skyriver job list` shows how theirs went."
FOR_FEATURES = "the building of changed features", "It ends by itself: `skyriver stream get` shows how far it has come."
FOR_IDS = "`dedupe`", "The first decision of an id that comes again is read from the log. Declare a shorter dedupe."
"""Between two looks at how much there is on the disk."""
TOLD_DEAD = 5
"""Dead letters that the report holds."""
GRACE_S = 4.0
"""For requests under way, and again for what waits; control kills after ten."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    stream: StreamSpec
    decide: DecideSpec | None
    directory: Path
    objects: Path
    kernel_cache: Path
    queue: int
    reads: bool = False
    """Its features are also read by key."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> WorkerSettings:
        """Raises InvalidInput (BAD_CONFIG)."""
        try:
            decide = config.get("decide")
            return cls(
                stream=StreamSpec.model_validate(config["stream"]),
                decide=DecideSpec.model_validate(decide) if decide else None,
                directory=Path(config["directory"]),
                objects=Path(config["objects"]),
                kernel_cache=Path(config["kernel_cache"]),
                queue=int(config.get("queue", 10_000)),
                reads=bool(config.get("reads")),
            )
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise InvalidInput(
                f"The worker's configuration is wrong: {error!r}.",
                code="BAD_CONFIG",
                next_action="`skyriver down`, then `skyriver up`: all its parts are then of one version.",
            ) from error


class Worker:
    """Joins the parts, for as long as the process lives."""

    def __init__(
        self,
        context: ProcessContext,
        settings: WorkerSettings,
        log: WorkerLog,
        live: Mapping[str, Any] | None,
        tier: tuple[IdentifiedObjects | None, SkyriverError | None],
    ) -> None:
        self._context = context
        self._live = live
        self._settings = settings
        self._log = log
        self._opened = log.next_offset
        self._clock = clock = SystemClock()
        side = settings.directory / "side"
        windows = WindowsFiles(settings.stream, side, settings.kernel_cache, reads=settings.reads)
        self._windows = windows
        decides = settings.decide is not None
        self._files = PartitionFiles(
            settings.stream, settings.directory, log, windows if decides else None, clock, here=partial(local_from, log)
        )
        self._keeper = Keeper(self._files, clock)
        self._upkeep = LogUpkeep(log, keep_of(settings.stream), *tier, self._old_part)
        objects = DirectoryObjects(settings.objects)
        self._files_of_models = ModelFiles(Home(context.home), context.tenant, objects)
        self._choice = Choice(
            settings.stream,
            settings.decide,
            partial(_load_scorer, self._model_file, settings.kernel_cache, clock, scoring_threads := Threads()),
            windows.digest_of,
        )
        self._station = Station(
            log,
            self._open_engine,
            self._keeper,
            Looks(partial(log_reader, settings.stream, settings.directory, context.home, context.tenant, tier[0])),
            to_disk=on_disk(settings.stream),
            queue=settings.queue,
            linger_us=settings.stream.linger_us,
            meter=Meter(),
            threads=scoring_threads,
        )
        self._station.pacer = pacer_of(live or {}, clock.monotonic, clock.wall)
        self._stored: Mapping[str, int] = {}
        self._writer = DecisionWriter({})
        self._explaining = Explaining(
            lambda artifact: self._files_of_models.get(artifact, self._proof(artifact)),
            settings.kernel_cache,
            lambda: Sources.of(self._live, self._writer.names),
        )
        self._routes = Routes(
            settings.stream,
            self._station,
            EventBorder(settings.stream),
            self._writer,
            self._files.receiving,
            self._report,
            self._metrics,
            self._explaining,
            Erasures(settings.stream, settings.directory, log, self._station, self._keeper, self._upkeep).ask,
        )
        place = BuilderPlace(
            settings.stream, settings.directory, settings.kernel_cache, context.home, context.tenant, settings.reads
        )
        self._changes = FeatureChanges(place, log, windows, self._files, self._keeper, self._station)
        self._folded: tuple[str, ...] = ()
        self._feed = self._make_feed()
        self._rounds = Rounds()
        self._tried: object = None
        """The live settings, and what there was for them, that were chosen from last."""
        self._generation = 0
        """Of the declaration that is decided with."""
        self._loading = False
        self._told: dict[str, object] = {}
        self._replay = ""
        self._leaving = False
        """It is being stopped before it has opened: the replay under way ends."""
        self._listening = False

    async def run(self, listening: socket.socket, stop: asyncio.Event) -> SkyriverError | None:
        """Until `stop`; what went wrong, if that is why it ends."""
        self._files.declared = declared_features(self._live)
        self._tell()
        rounds = self._rounds
        ticking = rounds.start("The report is not renewed", self._tick, REPORT_EVERY_S)
        weighing = rounds.start("What lies on the disk is not counted", self._weigh, STORED_EVERY_S)
        stopping = asyncio.create_task(stop.wait())
        opening = asyncio.create_task(self._station.start())
        await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            self._leaving = True
            opening.cancel()
            await self._end(ticking, weighing)
            return None
        opening.result()
        self._follow_features()
        server = HttpServer(self._routes.handle, HttpLimits(body=HISTORY_LIMIT, bodies=2 * HISTORY_LIMIT))
        await server.start(listening)
        gc.collect()
        gc.freeze()  # what was made up to here lives as long as the process: no collection needs to look at it again
        self._listening = True
        self._upkeep.start()
        self._tell()
        watching = rounds.start("Releases and rules are not followed", self._watch_live, LIVE_EVERY_S)
        changing = rounds.start("Changed features are not built", self._changes.run)
        feeding = rounds.start("Nothing is taken from the broker", self._feed.run) if self._feed is not None else None
        await asyncio.wait((stopping, self._station.failed), return_when=asyncio.FIRST_COMPLETED)
        error = self._station.failed.result() if self._station.failed.done() else None
        watching.cancel()
        changing.cancel()
        self._upkeep.stop()
        self._routes.draining = True
        self._tell()
        await asyncio.wait((changing,))
        if feeding is not None:
            feeding.cancel()
            await asyncio.wait((feeding,), timeout=GRACE_S)
        await server.stop(GRACE_S)
        await self._end(ticking, weighing)
        return error

    async def _end(self, *tasks: asyncio.Task[None]) -> None:
        await self._station.drain(GRACE_S)
        for task in tasks:
            task.cancel()
        self._close()

    def _make_feed(self) -> Feed | None:
        """What takes the events of the stream's broker, if it names one."""
        stream = self._settings.stream
        if stream.source is None:
            return None
        source = open_source(stream.source, self._context.home, self._context.tenant)
        return Feed(source, source_name(stream.source), self._station, lambda: self._routes.border, self._clock)

    def _close(self) -> None:
        engine = self._station.engine
        if engine is not None and self._keeper.is_behind(engine, self._log.next_offset):
            self._keeper.begin(engine, self._log.next_offset)
        self._keeper.close()
        self._explaining.close()
        self._files.close()
        self._tell()

    def _open_engine(self) -> Engine:
        """In the log's thread."""
        self._keeper.settle()
        if self._settings.decide is not None:
            compile_sums(self._settings.kernel_cache)
            compile_shares(self._settings.kernel_cache)
        engine = self._files.open(self._choose, self._on_replay)
        self._replay = ""
        recovered = self._files.recovered
        if recovered is not None:
            self._keeper.opened(recovered.offset, engine.partition.counters.duplicates)
            for why in recovered.passed_over:
                _log.warning("%s", why)
            _log.info("open at offset %d, replayed from %d", self._log.next_offset, recovered.offset)
        return engine

    def _proof(self, artifact: str) -> Mapping[str, Any] | None:
        proof: Mapping[str, Any] | None = ((self._live or {}).get("signed") or {}).get(artifact)
        return proof

    def _model_file(self, artifact: str) -> Path:
        return self._files_of_models.open_path(artifact, self._proof(artifact))

    def _choose(self, control: ControlRecord | None, sets: FeatureSets | None) -> Deciding:
        specs, digest = (sets.specs, sets.digest) if sets is not None else ({}, "")
        return self._choice.begin(self._live, control, specs, digest)

    def _old_part(self) -> tuple[int, Needed]:
        """Effective time, and the offset below which nothing of the log is needed: for a restart, for the ids that are
        remembered, for the tables, for features that are built, for what is decided with."""
        engine = self._station.engine
        if engine is None:
            return NEVER, Needed(0, "the start of the worker")
        materialised = (self._live or {}).get("materialised")
        dispatched = (self._live or {}).get("dispatched")
        needs = (
            *([Needed(int(dispatched), *FOR_SINKS)] if dispatched is not None else []),
            Needed(0 if materialised is None else int(materialised) + 1, *FOR_TABLES),
            Needed(self._files.needed, *FOR_IDS),
            Needed(self._changes.needed, *FOR_FEATURES),
            Needed(engine.control_offset, "what is decided with"),
        )
        return engine.partition.time, min(needs, key=lambda need: need.offset)

    def _tell_again(self, engine: Engine) -> None:
        """What is decided with, at the log's end, before the log gives up the part that told of it."""
        oldest = next(iter(self._log.parts()), None)
        keep = self._upkeep.keep
        if (keep.us or keep.bytes) and oldest is not None and engine.control_offset < oldest.end:
            with contextlib.suppress(SkyriverError):  # a full queue: it is tried again
                self._station.submit(ChangeWork(lambda engine: engine.use(engine.deciding), lambda _: None))

    def _on_replay(self, stage: str, done: int, total: int) -> None:
        if self._leaving:
            raise Unavailable(
                "The stream is being stopped.",
                code="STOPPING",
                next_action="It goes on from there with the next start.",
            )
        self._replay = f"{stage} {done} of {total} records"

    # The live settings

    async def _watch_live(self) -> None:
        """What is decided with, when it changes, or the features that it needs are there."""
        live = self._context.live()
        if live is not None:
            if live.get("objective") != (self._live or {}).get("objective"):
                self._station.pacer = pacer_of(live, self._clock.monotonic, self._clock.wall, self._station.pacer)
            self._live = live
            self._files.declared = declared_features(live)
            self._upkeep.change(keep_of(kept_as(self._settings.stream, live)))
        sets, engine = self._files.sets, self._station.engine
        folded = (sets.digest, *sets.specs) if sets is not None else ()
        usable = self._files.usable(engine.partition.time) if engine is not None else frozenset()
        state = (_decided_with(self._live), engine, folded, usable)
        if engine is not None and self._live is not None and state != self._tried:
            self._follow_features()
            self._tried = state if await self._choose_again(self._live, sets, usable) else None
        if state == self._tried and self._generation != (self._live or {}).get("generation", 0):
            self._generation = (self._live or {}).get("generation", 0)
            self._tell()

    async def _choose_again(self, live: Mapping[str, Any], sets: FeatureSets | None, usable: Set[str]) -> bool:
        """With the features that decide or that are `usable`. False: try again."""
        specs, digest = (sets.specs, sets.digest) if sets is not None else ({}, "")
        found = {d: spec for d, spec in specs.items() if d == digest or d in usable}
        loop = asyncio.get_running_loop()
        deciding = await loop.run_in_executor(None, self._choice.load, live, found, digest)
        used = deciding is None or await self._use(deciding)
        self._tell()
        return used

    async def _use(self, deciding: Deciding) -> bool:
        """Whether it is in the log now."""
        done: asyncio.Future[SkyriverError | None] = asyncio.get_running_loop().create_future()
        try:
            self._station.submit(ChangeWork(lambda engine: engine.use(deciding), done.set_result))
            error = await done
        except SkyriverError as refused:
            error = refused
        if error is None:
            self._choice.deciding = deciding
        else:
            _log.info("the live settings wait: %s", error)
        return error is None

    def _follow_features(self) -> None:
        """What the border, the answers and the builder need to know of the features."""
        sets = self._files.sets
        target = self._choice.target(self._live, sets.digest if sets is not None else "")
        self._changes.want(target)
        specs = [*(sets.specs.values() if sets is not None else ()), *([target] if target is not None else [])]
        plans = [plan_features(spec, self._settings.stream) for spec in specs]
        folded = tuple(plan.digest for plan in plans)
        if folded != self._folded:
            self._folded = folded
            self._writer.names = {plan.digest: plan.names for plan in plans}
            summed = frozenset(value.field for plan in plans for value in plan.values)
            self._routes.border = EventBorder(self._settings.stream, summed)

    # What it tells

    async def _tick(self) -> None:
        self._station.tick()
        self._station.full = self._upkeep.look().full
        loading, engine = self._loading, self._station.engine
        self._loading = engine is not None and engine.loading
        if engine is not None and not self._loading:
            self._tell_again(engine)
        if loading and not self._loading:
            _give_back_memory()
        self._station.meter.look(self._clock.monotonic(), engine.partition.counters if engine is not None else None)
        self._tell()

    async def _weigh(self) -> None:
        self._stored = await asyncio.to_thread(stored_bytes, self._settings.directory)

    def _tell(self) -> None:
        report = self._report()
        if report == self._told:
            return
        if self._context.tell(report):
            self._told = report

    def _report(self) -> dict[str, object]:
        engine = self._station.engine
        deciding = engine.deciding if engine is not None else Deciding()
        letters = [*engine.partition.dead_letters][-TOLD_DEAD:] if engine is not None else []
        return {
            "ready": engine is not None and self._listening and not self._routes.draining,
            "opened": self._opened,
            "generation": self._generation,
            **self._seen().to_json(),
            "source": self._feed.report() if self._feed is not None else None,
            "pace": self._station.pacer.report() if self._station.pacer is not None else None,
            "last_dead": [dead_letter_json(letter) for letter in reversed(letters)],
            **in_use(deciding),
            "arms": self._arms(),
            "rules": self._rules(),
            "rss_mb": round(resident_bytes() / 1e6),
            **self._told_problems(),
            "features_digest": self._files.sets.digest if self._files.sets is not None else "",
            "features": self._changes.report(),
        }

    def _arms(self) -> list[dict[str, Any]]:
        return self._station.engine.arms.to_json() if self._station.engine is not None else []

    def _rules(self) -> dict[str, Any]:
        engine = self._station.engine
        return rules_in_use(engine.deciding, engine.trials) if engine is not None else {}

    def _seen(self) -> Seen:
        engine = self._station.engine
        time_now = engine.partition.time if engine is not None else NEVER
        checkpoint_offset, checkpoint_at = self._keeper.durable
        keys, size = engine.feature_size if engine is not None else (0, 0)
        return Seen(
            counters=engine.partition.counters if engine is not None else Counters(),
            recent=self._station.meter.recent(),
            offset=self._log.next_offset,
            waiting_rows=self._station.waiting_rows,
            effective_time=time_now if time_now > NEVER else None,
            materialised=(self._live or {}).get("materialised"),
            checkpoint_offset=checkpoint_offset,
            checkpoint_at=checkpoint_at,
            checkpoint_pause_us=self._keeper.pause_us,
            stored=self._stored,
            feature_keys=keys,
            feature_bytes=size,
            keys=engine.feature_keys if engine is not None else (),
            epoch=self._log.epoch,
            kept=self._upkeep.kept,
            lists=engine.partition.lists.sizes if engine is not None else (),
            budgets=engine.partition.tallies.to_json(time_now) if engine is not None else (),
        )

    def _told_problems(self) -> dict[str, str]:
        """Code and next action are those of the first problem that has them; the message has the others' in it."""
        known = [self._choice.problem, self._choice.target_problem, self._changes.problem, *self._upkeep.problems]
        problems = [p for p in (*known, *self._rounds.problems.values()) if p is not None]
        first, others = problems[0] if problems else None, problems[1:]
        place = f"{first.where}: " if first is not None and first.where else ""
        parts = [self._station.problem, self._replay, self._keeper.problem]
        parts += [f"{place}{first.message}" if first is not None else "", *map(str, others), *self._remarks()]
        return {
            "reason": first.code if first is not None else "",
            "message": " ".join(p for p in parts if p),
            "next_action": first.next_action if first is not None else "",
        }

    def _remarks(self) -> list[str]:
        step = self._files.receiving.step_us
        parts = [
            f"Version {arm['version']} of {arm['model']} was late again and again: it is not asked for"
            f" {arm['aside_seconds']:.0f} s."
            for arm in self._arms()
            if arm["aside_seconds"]
        ]
        if step:
            parts.append(f"The machine's clock was set by {step / 1e6:+.1f} s.")
        return parts

    def _metrics(self) -> bytes:
        more = [*(self._feed.metrics() if self._feed is not None else ()), *self._changes.metrics()]
        more += self._station.pacer.metrics() if self._station.pacer is not None else []
        name, meter, now = self._settings.stream.name, self._station.meter, self._clock.wall()
        return prometheus(name, self._seen(), meter, more, self._arms(), self._rules(), now=now)


def _load_scorer(
    file_of: Callable[[str], Path],
    kernels: Path,
    clock: SystemClock,
    threads: Threads,
    artifact: str,
    features: int,
    deadline_us: int,
) -> tuple[ModelRun, Calibration | None]:
    scorer = OnnxScorer.load(file_of(artifact), features, kernels, threads)
    return ModelRun(scorer, deadline_us, clock.monotonic), scorer.calibration


def declared_features(live: Mapping[str, Any] | None) -> FeatureSetSpec | None:
    found = (live or {}).get("features")
    try:
        return FeatureSetSpec.model_validate(found) if found else None
    except ValidationError:  # the choice tells of it
        return None


def _decided_with(live: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        k: v
        for k, v in (live or {}).items()
        if k not in ("began", "generation", "materialised", "dispatched", "keep", "explain", "objective")
    }


async def run(
    context: ProcessContext,
    settings: WorkerSettings,
    log: WorkerLog,
    live: Mapping[str, Any] | None,
    tier: tuple[IdentifiedObjects | None, SkyriverError | None],
) -> SkyriverError | None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    worker = Worker(context, settings, log, live, tier)
    # Whoever listened here before had the log, and has ended.
    with unix_listener(context.socket) as listening:
        return await worker.run(listening, stop)


def _give_back_memory() -> None:
    """To the system: a load leaves up to 100 MB that the C library would keep for the next one."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def work(context: ProcessContext) -> SkyriverError | None:
    settings = WorkerSettings.of(context.config)
    context.tell({"ready": False, "message": "It opens its log and loads its features."})
    live = context.live()
    settings = replace(settings, stream=kept_as(settings.stream, live))
    tier = tier_of(context.home)
    log = take_log(
        settings.stream,
        settings.directory,
        context.home,
        context.tenant,
        holder=context.name,
        began=bool((live or {}).get("began")),
        tier=tier[0],
    )
    # Before it takes any event: what acts on decisions begins here, if it is new.
    context.tell({"ready": False, "message": "It loads its features.", "opened": log.next_offset})
    failed = uvloop.run(run(context, settings, log, live, tier))
    if failed is None:
        log.close()
    else:
        log.abandon()
    return failed


if __name__ == "__main__":
    leave_out_linear_algebra()
    run_to_end("worker", work)
