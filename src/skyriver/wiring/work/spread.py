"""A model's training on several processes: which function they call, where their checkpoints are, how they end."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skyriver.client.appfile import load_app
from skyriver.core.spec import TrainSpec
from skyriver.train.packages import missing
from skyriver.wiring.work.job import Job

if TYPE_CHECKING:
    from skyriver.train.spread.fit import Spread

log = logging.getLogger("skyriver.train.spread")

STOP_S: Final = 8.0
"""Before the grace of who asked it to end is over."""


def load_function(path: Path, function: str) -> Callable[[Any], Any]:
    """In a worker's process."""
    return load_app(path).functions[function]


def _end() -> None:
    """As by the signal, for whoever looks how this process ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _tell() -> None:
    """What is said of a training goes into the job's log, a line each."""
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
        log.propagate = False


@contextmanager
def spread_of(job: Job, spec: TrainSpec, checkpoints: Path) -> Iterator[Spread | None]:
    """None: the function is called once, in this process. While it is open SIGTERM lets the workers end their step and
    leave a checkpoint, from which the next attempt goes on; then it ends this process. Checkpoints are left to who
    calls `forget`, once what came of it is safe. Raises InvalidInput (MISSING_PACKAGE)."""
    if not spec.workers:
        yield None
        return
    try:
        from skyriver.train.spread.fit import Spread
        from skyriver.train.spread.launcher import Stopped
    except ModuleNotFoundError as error:
        raise missing(error.name or "torch", "torch", "A training on workers", where=spec.function) from error
    _tell()
    if 0 < job.workers < spec.workers:
        log.info("workers=%s are declared; there is room for %s here", spec.workers, job.workers)
    spread = Spread(
        partial(load_function, job.app_path, spec.function),
        job.workers or spec.workers,
        spec.exact,
        job.work_dir / "spread",
        checkpoints,
        {"code": job.code["bundle"], "function": spec.function},
        job.progress,
        job.curve,
        device="cuda" if spec.gpus else "cpu",
        attempt=job.attempt,
    )

    def asked(*_: object) -> None:
        if not spread.stop(STOP_S):  # nothing would be lost
            _end()

    before = signal.signal(signal.SIGTERM, asked)
    try:
        yield spread
    except Stopped:
        _end()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
