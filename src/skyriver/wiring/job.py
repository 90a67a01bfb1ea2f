"""A job's process: `python -m skyriver.wiring.job CONFIG`. Does one kind of work and reports its outcome.

The control plane knows a job by its report: progress while it runs, then `outcome` with outputs, or with reason,
message and next action. What the report says was done is durable before it is said. The log has a failure's details.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from skyriver.core.errors import SkyriverError, Unavailable
from skyriver.core.jobs import Fault
from skyriver.wiring.capacity import VISIBLE, visible
from skyriver.wiring.process import ProcessContext, read_config
from skyriver.wiring.tracking import Tracking
from skyriver.wiring.work.job import Job

REPORT_EVERY_SECONDS = 0.1
WORK: Mapping[str, str] = {
    "load": "load",
    "materialise": "materialise",
    "search": "search",
    "train": "train",
    "compress": "compress",
    "import": "take_in",
    "verify": "verify",
    "tune": "tune",
    "replay": "replay",
    "predict": "predict",
    "environment": "environment",
    "call": "call",
    "erase": "erase",
    "watch": "watch",
    "judge": "judge",
}
"""Kind of work -> module of `skyriver.wiring.work`. Loaded by name: a load has no use for the weight of a trainer."""


class Reporter:
    """The job's progress as its report, replaced at most ten times a second; keeps how long each stage took. What the
    job tells by step is part of it."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self._last = 0.0
        self._stage = ""
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._progress: dict[str, Any] = {}
        self._curve: dict[str, Any] = {}
        self.stages: dict[str, float] = {}
        self.tracking = Tracking(self._take, _say, context.config.get("curve"))

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._close(now)
            self._stage, self._since, self._last = stage, now, 0.0
            _say(f"{stage} ...")
        if now - self._last >= REPORT_EVERY_SECONDS:
            self._last = now
            self._tell({"progress": {"stage": stage, "done": done, "total": total}})

    def _take(self, curve: Mapping[str, Any]) -> None:
        """From the thread of the tracking."""
        told: dict[str, Any] = {"curve": curve}
        if curve["of"]:
            told["progress"] = {"stage": self._stage, "done": min(curve["step"], curve["of"]), "total": curve["of"]}
        with suppress(OSError):  # a full disk: what is told next may find room
            self._tell(told)

    def _tell(self, told: Mapping[str, Any]) -> None:
        with self._lock:
            self._progress, self._curve = told.get("progress", self._progress), told.get("curve", self._curve)
            self._context.report(self._told())

    def _told(self) -> dict[str, Any]:
        curve = {"curve": self._curve} if self._curve else {}
        return {**({"progress": self._progress} if self._progress else {}), "stages": dict(self.stages), **curve}

    def _close(self, now: float) -> None:
        if self._stage:
            self.stages[self._stage] = round(self.stages.get(self._stage, 0.0) + now - self._since, 3)

    def finish(self, outcome: Mapping[str, Any]) -> None:
        self._close(time.monotonic())
        self.tracking.finish()
        with self._lock:
            curve = {"curve": self._curve} if self._curve else {}
            self._context.report({"stages": self.stages, **curve, **outcome})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    context = read_config()
    reporter = Reporter(context)
    config = context.config
    print(f"job {config['job']}: {config['kind']} {config['target']}", file=sys.stderr, flush=True)
    os.environ[VISIBLE] = visible(config.get("gpus", ()), os.environ.get(VISIBLE))  # before anything looks
    try:
        module = import_module(f"skyriver.wiring.work.{WORK[config['kind']]}")
        work: Callable[[Job], dict[str, Any]] = module.work
        outputs = work(Job.of(context, reporter, reporter.tracking))
    except SkyriverError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        print(f"failed: {error.code} {error}", file=sys.stderr)
        place = f"{error.where}: " if error.where else ""
        action = error.next_action or f"`skyriver logs {config['job']}` has the details."
        told = {"reason": error.code, "message": place + error.message, "next_action": action}
        if isinstance(error, Unavailable):
            told["fault"] = Fault.MACHINE.value
        reporter.finish({"outcome": "failed", **told})
        return 1
    except MemoryError as error:
        traceback.print_exc()
        message = "It wanted more memory than it may have" + (f": {error}." if str(error) else ".")
        reporter.finish({"outcome": "failed", "reason": "OUT_OF_MEMORY", "message": message})
        return 1
    except Exception as error:  # our mistake: the log holds all of it, the report one line
        traceback.print_exc()
        told = {"reason": "INTERNAL", "message": f"{type(error).__name__}: {error}"}
        reporter.finish(
            {"outcome": "failed", **told, "next_action": f"`skyriver logs {config['job']}` has the details."}
        )
        return 1
    reporter.finish({"outcome": "succeeded", "outputs": outputs})
    print("done", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
