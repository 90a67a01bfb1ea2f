"""The process of one replica: `python -m skyriver.wiring.replica CONFIG_FILE`.

Its configuration: {"model", "version", "artifact": digest, "objects": directory, "fields": [...] or null,
"max_batch": 256, "queue": 1024, "grace_s": 9, "device": "cpu", "cores": 1, "calibrate": true, "run_limit_s": 30}.
Its live settings: {"proof": that its version is signed}; "latency_us": in which its answers are wanted; "cores" that it
may use, "parallel": with how many threads that was best when it was measured, and "curve": what a run took then, which
count at its start; where it reads features of a stream, "from_stream": {"stream", "socket": of its worker ("": not
started yet), "features": digest, "keys", "reads": names of fields, "fields": [...] of its events, "on_unknown",
"on_old", "max_age_us", "fallback"}; and, while another version is its shadow, "shadow": {"version", "share": percent,
"slower": how many times as long a slow answer takes, "sockets"}; and, while somebody compares what it is asked with its
training rows, "log": {"profile": digest}; and, while another version has a share of the keys, "sharing", as
`serve.passing.SharingSettings` has it.
It reads the model, tries it, listens, and then says that it is ready.
A model that cannot be served is said in the report ("failed", "reason", "message") and ends the process with 3:
starting it again would not help. SIGTERM lets it finish what runs.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvloop

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Conflict, InvalidInput, SkyriverError, Unavailable
from skyriver.serve.calibration import Calibration, calibrate
from skyriver.serve.curve import DOUBTED, is_curve, is_for_the_same
from skyriver.serve.devices import CPU
from skyriver.serve.listening import unix_listener
from skyriver.serve.replica import GRACE_S, Replica, ReplicaSettings, serve_replica
from skyriver.serve.runner import LONG_ROW_S, RUN_LIMIT_S, RUNTIME, Runner, log_plainly
from skyriver.wiring.home import Home
from skyriver.wiring.model_files import ModelFiles
from skyriver.wiring.process import ProcessContext, read_config

if TYPE_CHECKING:
    from skyriver.core.spec_fields import FieldSpec

EXIT_FAILED = 3
_FREE = 4 << 30
"""Bytes, for what is between the layers of a model, and all else."""
_COPIES = 6
_SIZING: Final = ("latency_us", "cores", "parallel", "curve")
_NEEDED_FOR: Final = {
    "from_stream": ("skyriver.core.spec_fields", "skyriver.serve.by_key"),
    "shadow": ("skyriver.serve.shadow",),
    "sharing": ("skyriver.serve.passing",),
    "log": ("skyriver.release.profiled", "skyriver.serve.prediction_log"),
}
"""Modules, by what only some live settings say: together with pydantic they are half of what a start would load."""

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
            fields=None if fields is None else _fields_of(fields),
            max_batch=int(config.get("max_batch", 256)),
            queue=int(config.get("queue", 1024)),
            grace_s=float(config.get("grace_s", GRACE_S)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"The replica's configuration is wrong: {error!r}.",
            code="BAD_CONFIG",
            next_action="`skyriver down`, then `skyriver up`: all its parts are then of one version.",
        ) from error


def _fields_of(fields: Iterable[Mapping[str, Any]]) -> tuple[FieldSpec, ...]:
    from skyriver.core.spec_fields import FieldSpec  # as _NEEDED_FOR

    return tuple(FieldSpec.model_validate(field) for field in fields)


def load(model: bytes, settings: ReplicaSettings, config: Mapping[str, Any]) -> tuple[Runner, ReplicaSettings]:
    """The model, and the settings with what was found out about it. The memory of this process has a limit from now on:
    what a run takes cannot be seen in a file."""
    device = str(config.get("device", CPU))
    if device == CPU:
        limit_memory(len(model))
    cores = int(config.get("cores", 1))
    parallel = Parallel(machine_name() if cores > 1 else "", cores, int(config.get("latency_us", 0)))
    known = parallel.known(config.get("parallel"))
    threads = int(known["threads"]) if known else 1
    measured_for = {
        "machine": machine_name(),
        "runtime": RUNTIME,
        "device": device,
        "most": settings.max_batch,
        "threads": threads,
    }
    curve = known_curve(config.get("curve"), measured_for) if known or cores == 1 else None
    limit_s = float(config.get("run_limit_s", RUN_LIMIT_S))
    started = time.perf_counter()
    batching = known_batching(curve)
    runner = Runner(model, device=device, limit_s=limit_s, threads=threads, batching=batching)
    load_s = time.perf_counter() - started
    if not runner.warm_up():
        _log.warning("the model %s", _why_cold(runner))
    if not config.get("calibrate", True):
        return runner, settings
    if curve is not None and runner.warm and runner.expected_us(1) > DOUBTED * curve["row_us"]:
        kept = {"parallel": known} if known else {}
        return runner, replace(settings, calibration=Calibration.of(curve), measured_for=measured_for, told=kept)
    if batching is False and runner.warm:
        runner.try_batching()
    found = calibrate(
        runner,
        model,
        max_batch=settings.max_batch,
        cores=1 if known else parallel.cores,
        latency_us=parallel.latency_us,
        load_s=load_s,
    )
    told = known or parallel.told(found)
    measured_for["threads"] = found.threads
    told_too = {"parallel": told} if told else {}
    return runner, replace(settings, calibration=found, measured_for=measured_for, told=told_too)


def known_curve(told: Mapping[str, Any] | None, measured_for: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was told before, where it was for the same."""
    return told if told and is_curve(told) and is_for_the_same(told, measured_for) else None


def known_batching(curve: Mapping[str, Any] | None) -> bool | None:
    """Whether rows may share a run, by the `curve`; None: it is to be tried. That they may is so at any moment. That
    they may not is believed only of rows that take too long to be tried: it may have been a busy moment."""
    if curve is None or not (curve["batching"] or curve["row_us"] > LONG_ROW_S * 1e6):
        return None
    return bool(curve["batching"])


def _why_cold(runner: Runner) -> str:
    if runner.ended_us:
        return f"took longer than {runner.ended_us / 1e6:g} s for one made-up row, and was ended: it may answer nothing"
    return "does not take made-up rows, so the first request pays for its first run"


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
    follow = partial(follow_live, context, live=Prepared(context.live))
    report = partial(context.report, encode=_ENCODER.encode)
    return await serve_replica(runner, settings, listening, stop=stop, report=report, follow=follow)


class Prepared:
    """Live settings, held back until what they need is loaded, in a thread: on the loop, requests would wait for it."""

    def __init__(self, live: Callable[[], dict[str, Any] | None]) -> None:
        self._live = live
        self._held: dict[str, Any] | None = None
        self._loading: threading.Thread | None = None

    def __call__(self) -> dict[str, Any] | None:
        """As `ProcessContext.live`."""
        if (told := self._live()) is not None:
            self._held = told
        if self._held is None or (self._loading is not None and self._loading.is_alive()):
            return None
        if any(name not in sys.modules for name in needed_for(self._held)):
            self._loading = threading.Thread(target=load_for, args=(self._held,), name="loading", daemon=True)
            self._loading.start()
            return None
        told, self._held = self._held, None
        return told


def needed_for(live: Mapping[str, Any]) -> list[str]:
    """Modules."""
    return [name for what, names in _NEEDED_FOR.items() if live.get(what) for name in names]


def load_for(live: Mapping[str, Any]) -> None:
    for name in needed_for(live):
        importlib.import_module(name)


def follow_live(
    context: ProcessContext, replica: Replica, live: Callable[[], dict[str, Any] | None] | None = None
) -> None:
    """What is wrong with the live settings keeps nobody from being answered by what was told before."""
    try:
        now = (live or context.live)()
        if now is not None:
            replica.answer_within(int(now.get("latency_us", 0)))
            follow_others(replica, now)
            follow_log(context, replica, (now.get("log") or {}).get("profile", ""))
    except (OSError, ValueError, SkyriverError) as error:
        _log.error("the live settings cannot be used: %s", error)


def follow_others(replica: Replica, live: Mapping[str, Any]) -> None:
    """The stream that it reads features of, and versions that it copies or passes requests to. Raises SkyriverError."""
    if (told := live.get("from_stream")) is None:
        replica.read_from(None)
    else:
        from skyriver.serve.by_key import FromStream

        replica.read_from(FromStream.of(told))
    if (told := live.get("shadow")) is None:
        replica.copy_to(None)
    else:
        from skyriver.serve.shadow import ShadowSettings

        replica.copy_to(ShadowSettings.of(told))
    if (told := live.get("sharing")) is None:
        replica.share_by(None)
    else:
        from skyriver.serve.passing import SharingSettings

        replica.share_by(SharingSettings.of(told))


def follow_log(context: ProcessContext, replica: Replica, profile: str) -> None:
    """`profile`: the digest of that by which it is to count; "": it is not to. Raises SkyriverError."""
    if profile != replica.logged:
        from skyriver.release.profiled import ModelProfile  # as _NEEDED_FOR

        objects = DirectoryObjects(Path(context.config["objects"]))
        replica.log_by(ModelProfile.parse(objects.get(profile)) if profile else None, profile)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log_plainly()
    context = read_config(sys.argv)
    try:
        settings = settings_of(context.config)
        live = context.live_now()
        load_for(live)
        sizing: dict[str, Any] = {what: live[what] for what in _SIZING if what in live}
        sizing["cores"] = min(int(sizing.get("cores", 1)), len(os.sched_getaffinity(0)))
        runner, settings = load(model_of(context), settings, {**context.config, **sizing})
        settings = replace(settings, told={**settings.told, "machine_cores": len(os.sched_getaffinity(0))})
        # What was imported lives as long as the process: no collection needs to look at it again, nor to look now for
        # the few objects that nobody holds, for which somebody who woke the service would wait 20 ms and more.
        gc.freeze()
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
