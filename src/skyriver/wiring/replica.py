"""The process of one replica: `python -m skyriver.wiring.replica CONFIG_FILE`.

Its configuration: {"model", "version", "artifact": digest, "objects": directory, "fields": [...] or null,
"max_batch": 256, "queue": 1024, "grace_s": 9, "device": "cpu", "cores": 1, "calibrate": true, "run_limit_s": 30}.
Its live settings: {"proof": that its version is signed}; "latency_us": in which its answers are wanted; "cores" that it
may use, and "parallel": with how many threads that was best when it was measured, which count at its start; where it
reads features of a stream, "from_stream": {"stream", "socket": of its worker ("": not started yet), "features": digest,
"keys", "reads": names of fields, "fields": [...] of its events, "on_unknown", "on_old", "max_age_us", "fallback"}; and,
while another version is its shadow, "shadow": {"version", "share": percent, "slower": how many times as long a slow
answer takes, "sockets"}; and, while somebody
compares what it is asked with its training rows, "log": {"profile": digest}; and, while another version has a share of
the keys, "sharing", as `serve.passing.SharingSettings` has it.
It reads the model, tries it, listens, and then says that it is ready.
A model that cannot be served is said in the report ("failed", "reason", "message") and ends the process with 3:
starting it again would not help. SIGTERM lets it finish what runs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from pydantic import ValidationError

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Conflict, InvalidInput, SkyriverError, Unavailable
from skyriver.core.spec_streams import FieldSpec
from skyriver.release.profiled import ModelProfile
from skyriver.serve.by_key import FromStream
from skyriver.serve.calibration import Calibration, calibrate
from skyriver.serve.devices import CPU
from skyriver.serve.listening import unix_listener
from skyriver.serve.passing import SharingSettings
from skyriver.serve.replica import GRACE_S, Replica, ReplicaSettings, serve_replica
from skyriver.serve.runner import RUN_LIMIT_S, Runner
from skyriver.serve.shadow import ShadowSettings
from skyriver.wiring.home import Home
from skyriver.wiring.model_files import ModelFiles
from skyriver.wiring.process import ProcessContext, read_config

EXIT_FAILED = 3
_FREE = 4 << 30
"""Bytes, for what is between the layers of a model, and all else."""
_COPIES = 6

# Counts by places are thousands of numbers: `json` would keep requests waiting for 2 ms. The hook is for NumPy's own.
_ENCODER = msgspec.json.Encoder(enc_hook=lambda number: number.item())
_log = logging.getLogger(__name__)


def settings_of(config: Mapping[str, Any]) -> ReplicaSettings:
    """Raises InvalidInput (BAD_CONFIG)."""
    try:
        fields = config.get("fields")
        return ReplicaSettings(
            model=config["model"],
            version=int(config["version"]),
            fields=None if fields is None else tuple(FieldSpec.model_validate(field) for field in fields),
            max_batch=int(config.get("max_batch", 256)),
            queue=int(config.get("queue", 1024)),
            grace_s=float(config.get("grace_s", GRACE_S)),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InvalidInput(
            f"The replica's configuration is wrong: {error!r}.",
            code="BAD_CONFIG",
            next_action="`skyriver down`, then `skyriver up`: all its parts are then of one version.",
        ) from error


def load(model: bytes, settings: ReplicaSettings, config: Mapping[str, Any]) -> tuple[Runner, ReplicaSettings]:
    """The model, and the settings with what was found out about it. The memory of this process has a limit from now on:
    what a run takes cannot be seen in a file."""
    device = str(config.get("device", CPU))
    if device == CPU:
        limit_memory(len(model))
    cores = int(config.get("cores", 1))
    parallel = Parallel(machine_name() if cores > 1 else "", cores, int(config.get("latency_us", 0)))
    known = parallel.known(config.get("parallel"))
    limit_s = float(config.get("run_limit_s", RUN_LIMIT_S))
    started = time.perf_counter()
    runner = Runner(model, device=device, limit_s=limit_s, threads=int(known["threads"]) if known else 1)
    load_s = time.perf_counter() - started
    if not runner.warm_up():
        _log.warning("the model does not take made-up rows, so the first request pays for its first run")
    if not config.get("calibrate", True):
        return runner, settings
    found = calibrate(
        runner,
        model,
        max_batch=settings.max_batch,
        cores=1 if known else parallel.cores,
        latency_us=parallel.latency_us,
        load_s=load_s,
    )
    told = known or parallel.told(found)
    return runner, replace(settings, calibration=found, told={"parallel": told} if told else {})


@dataclass(frozen=True, slots=True)
class Parallel:
    """For what threads are measured: what they are best for is known to who starts with the same."""

    machine: str
    cores: int
    latency_us: int

    def known(self, told: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """What was `told` before, where it was for the same; else {}."""
        if not told or any(told.get(what) != value for what, value in asdict(self).items()):
            return {}
        threads = told.get("threads")
        return told if isinstance(threads, int) and 1 <= threads <= self.cores else {}

    def told(self, found: Calibration) -> dict[str, Any]:
        """{} where nothing was found out that is worth keeping."""
        if len(found.by_threads) < 2 and not found.untried_load_s:
            return {}
        rates = {str(n): [round(one), round(rate, 1)] for n, (one, rate) in sorted(found.by_threads.items())}
        untried = {"untried_load_s": round(found.untried_load_s, 2)} if found.untried_load_s else {}
        return {**asdict(self), "threads": found.threads, "measured": rates, **untried}


def machine_name() -> str:
    """Of its processor; machines of one name are alike."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, os.uname().machine)}, {os.cpu_count()} cores"


def model_of(context: ProcessContext) -> bytes:
    """The file of its version, whole and signed. Raises Corrupt."""
    objects = DirectoryObjects(Path(context.config["objects"]))
    files = ModelFiles(Home(context.home), context.tenant, objects)
    return files.get(context.config["artifact"], context.live_now().get("proof"))


def limit_memory(model_bytes: int) -> None:
    """Lowers RLIMIT_DATA, never raises it: `_FREE` and what a loaded model and its copies take."""
    wanted = _FREE + _COPIES * model_bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > wanted:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


async def run(context: ProcessContext, runner: Runner, settings: ReplicaSettings, listening: socket.socket) -> int:
    """Returns how many connections were cut off at the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    follow = partial(follow_live, context)
    report = partial(context.report, encode=_ENCODER.encode)
    return await serve_replica(runner, settings, listening, stop=stop, report=report, follow=follow)


def follow_live(context: ProcessContext, replica: Replica) -> None:
    """What is wrong with the live settings keeps nobody from being answered by what was told before."""
    try:
        live = context.live()
        if live is not None:
            replica.answer_within(int(live.get("latency_us", 0)))
            told = live.get("from_stream")
            replica.read_from(FromStream.of(told) if told is not None else None)
            copies = live.get("shadow")
            replica.copy_to(ShadowSettings.of(copies) if copies is not None else None)
            shares = live.get("sharing")
            replica.share_by(SharingSettings.of(shares) if shares is not None else None)
            follow_log(context, replica, (live.get("log") or {}).get("profile", ""))
    except (OSError, ValueError, SkyriverError) as error:
        _log.error("the live settings cannot be used: %s", error)


def follow_log(context: ProcessContext, replica: Replica, profile: str) -> None:
    """`profile`: the digest of that by which it is to count; "": it is not to. Raises SkyriverError."""
    if profile != replica.logged:
        objects = DirectoryObjects(Path(context.config["objects"]))
        replica.log_by(ModelProfile.parse(objects.get(profile)) if profile else None, profile)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    context = read_config(sys.argv)
    try:
        settings = settings_of(context.config)
        live = context.live_now()
        sizing: dict[str, Any] = {what: live[what] for what in ("latency_us", "cores", "parallel") if what in live}
        sizing["cores"] = min(int(sizing.get("cores", 1)), len(os.sched_getaffinity(0)))
        runner, settings = load(model_of(context), settings, {**context.config, **sizing})
        gc.collect()
        gc.freeze()  # what was imported lives as long as the process: no collection needs to look at it again
        with unix_listener(context.socket) as listening:
            cut = uvloop.run(run(context, runner, settings, listening))
        if cut:
            _log.warning("%d connections were cut off at the end", cut)
            logging.shutdown()
            os._exit(0)  # a run that has no end would hold the exit up: the interpreter waits for its thread
    except (Conflict, Unavailable) as error:  # may be over at the next start
        _log.exception("the replica cannot serve now")
        context.report({"ready": False, "reason": error.code, "message": str(error)})
        return error.exit_code
    except SkyriverError as error:
        _log.exception("the replica cannot serve")
        context.report({"ready": False, "failed": True, "reason": error.code, "message": str(error)})
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
