"""What the exam of `Compute` plays with: processes whose configuration says what they do.

A configuration of the exam is {"acts": [[word, argument], ...]}, done in order:

- tell REPORT: writes it as the report, with `live` (the live settings) and `config` added
- print TEXT: prints a line
- exit CODE, die SIGNAL: ends so
- take MEGABYTES: takes that much memory and keeps it
- listen CODE: from now on a request to end ends it with that exit code (without, SIGTERM ends it)
- deaf: from now on a request to end is ignored
- wait: for ever; a change of the live settings is told

After the last it ends with 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from skyriver.control.compute import Compute
from skyriver.core.exam import must

DEADLINE = 60.0

PROGRAM = """
import json, os, pathlib, signal, sys, time
given = json.loads(pathlib.Path(sys.argv[1]).read_text())
process, config = given["process"], given["config"]
kept, told, seen = [], {}, None
def live():
    return json.loads(pathlib.Path(process["live_file"]).read_text())
def tell(report):
    global told, seen
    told, seen = report, live()
    path = pathlib.Path(process["status_file"])
    body = {"token": process["token"], **report, "live": seen, "config": config}
    path.with_suffix(".new").write_text(json.dumps(body))
    path.with_suffix(".new").replace(path)
while True:  # until the control plane has recorded it
    try:
        if json.loads(pathlib.Path(process["run_file"]).read_text())["token"] == process["token"]:
            break
    except (OSError, ValueError):
        pass
    time.sleep(0.005)
for word, argument in config["acts"]:
    match word:
        case "tell": tell(argument)
        case "print": print(argument, flush=True)
        case "exit": sys.exit(argument)
        case "die": os.kill(os.getpid(), argument)
        case "take":
            for _ in range(argument):
                kept.append(bytearray(os.urandom(1000) * 1000))
                time.sleep(0.002)
        case "listen": signal.signal(signal.SIGTERM, lambda *_, code=argument: os._exit(code))
        case "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "wait":
            while True:
                time.sleep(0.01)
                if told and live() != seen:
                    tell(told)
"""
"""The same as a program for real processes: a stage runs it as `skyriver.wiring.job`, `.replica` and `.worker`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """`again` gives what the next control plane would have, of the same processes; `kill` sends SIGKILL to the process
    that does the work; `add_environment` makes the environment of that digest."""

    compute: Compute
    again: Callable[[], Compute]
    kill: Callable[[str], None]
    add_environment: Callable[[str], None]


def wait_for(law: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        must(time.monotonic() < deadline, law)
        time.sleep(0.01)
