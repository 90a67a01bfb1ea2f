"""The process that builds the state of changed features beside a worker: `python -m skyriver.wiring.builder`.

The worker that begins it writes one line of JSON to its standard input, {"stream": StreamSpec, "features":
FeatureSetSpec, "home", "tenant": its name, "directory": of the partition, "side", "building", "kernel_cache":
directories, "share": of a core}, and keeps that open: when it ends, for whatever reason, this process ends too. On its
standard output stand lines {"offset", "end", "events": read so far, "events_per_second", "seconds": of CPU, "rss_mb"};
the last one has "built": true. What went wrong is one line {"problem": as an answer of the API tells it}, and exit
code 1.

It runs at a lower priority. Only one process at a time writes into "building" and the set's side log: a lock sees
to it that one of a worker before has ended.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from skyriver.core.errors import Internal, SkyriverError
from skyriver.core.spec import FeatureSetSpec, StreamSpec
from skyriver.decide.partition.building import Resting, build
from skyriver.decide.partition.kernel_windows import WindowsFiles
from skyriver.features.kernel import leave_out_linear_algebra
from skyriver.serve.metrics import resident_bytes
from skyriver.wiring.home import Home
from skyriver.wiring.logs import log_reader
from skyriver.wiring.process import SystemClock
from skyriver.wiring.tier import open_tier

TELL_EVERY_S = 0.25
NICE = 5
"""A third of what a worker gets where both want the same core: enough to get on under a load that never ends."""


_log = logging.getLogger(__name__)


class Left(Exception):
    """The worker has ended."""


def _run(config: dict[str, Any]) -> None:
    stream = StreamSpec.model_validate(config["stream"])
    features = FeatureSetSpec.model_validate(config["features"])
    directory = Path(config["building"])
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    began, told = time.monotonic(), 0.0
    line: dict[str, object] = {}

    def tell(offset: int, end: int, events: int) -> None:
        nonlocal told
        now = time.monotonic()
        rate = round(events / max(now - began, 1e-3), 1)
        line.update(offset=offset, end=end, events=events, events_per_second=rate)
        if now - told >= TELL_EVERY_S:
            told = now
            say()

    def say(**more: object) -> None:
        cost = {"seconds": round(time.process_time(), 2), "rss_mb": round(resident_bytes() / 1e6)}
        print(json.dumps({**line, **cost, **more}), flush=True)

    with (directory / "lock").open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _sleep(100_000)
        home = Path(config["home"])
        files = WindowsFiles(stream, Path(config["side"]), Path(config["kernel_cache"]), reads=config["reads"])
        resting = Resting(float(config["share"]), SystemClock(), _sleep)
        with log_reader(stream, Path(config["directory"]), home, config["tenant"], open_tier(Home(home))) as reader:
            files.prepare(features)
            began = time.monotonic()
            build(reader, files, features, directory, resting, tell)
            say(built=True)


def _sleep(us: int) -> None:
    """Raises Left when the worker has let go of the standard input."""
    ready, _, _ = select.select([sys.stdin.fileno()], [], [], us / 1e6)
    if ready and not os.read(sys.stdin.fileno(), 1):
        raise Left


def _problem(error: Exception) -> dict[str, Any]:
    found = error if isinstance(error, SkyriverError) else Internal(f"{type(error).__name__}: {error}.")
    return found.to_problem()


def main() -> int:
    os.nice(NICE)
    line = b""
    while not line.endswith(b"\n"):  # not by sys.stdin: what it buffers, select would not see
        part = os.read(sys.stdin.fileno(), 1 << 16)
        if not part:
            return 1
        line += part
    try:
        _run(json.loads(line))
    except Left:
        return 1
    except Exception as error:  # whatever it was: the worker tells it, and its log has the rest
        if not isinstance(error, SkyriverError):
            _log.exception("the features are not built")
        print(json.dumps({"problem": _problem(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    leave_out_linear_algebra()
    sys.exit(main())
