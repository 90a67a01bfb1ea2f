"""A training on workers, as the job of a model does it: rows in, one model out that is examined like any other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.curves import Tell, untold
from skyriver.core.errors import SkyriverError, disk_error
from skyriver.core.jobs import Progress
from skyriver.core.spec_augment import AugmentSpec
from skyriver.train.data import TrainingData
from skyriver.train.export import Export, Exported
from skyriver.train.parity import CLEAN, unusual
from skyriver.train.spread.checkpoints import Checkpoints
from skyriver.train.spread.context import Context, Diverged
from skyriver.train.spread.given import get, put, read
from skyriver.train.spread.launcher import Change, Launcher

log = logging.getLogger(__name__)

SHARDS: Final = 8
"""Of a step, where the results are the same bits on any number of workers."""

_EXAMINED: Final = ("test", "validation")

Function = Callable[[Context], Any]


def to_bytes(exported: Exported) -> bytes:
    """No pickle: it comes from a process that runs the user's code."""
    parts = [exported.onnx, exported.text or b""]
    about = {"differs": exported.differs, "onnx": len(exported.onnx), "has_text": exported.text is not None}
    return b"\n".join([json.dumps(about).encode(), b"".join(parts)])


def from_bytes(data: bytes) -> Exported:
    head, body = data.split(b"\n", 1)
    about = json.loads(head)
    end = about["onnx"]
    return Exported(body[:end], body[end:] if about["has_text"] else None, about["differs"])


@dataclass(frozen=True, slots=True)
class _Called:
    """What a worker does: the function, loaded in its process."""

    load: Callable[[], Function]
    folder: Path
    augment: tuple[AugmentSpec, ...]

    def __call__(self, ctx: Context) -> Any:
        data = ctx.data = get(self.folder, self.augment)
        ctx.augment = self.augment
        try:
            return self.load()(ctx)
        except Diverged as error:
            columns = unusual(data.x, data.names)
            if columns:
                error.next_action = f"If the net takes no such values: {columns}. {CLEAN} Else lower the learning rate."
            raise


@dataclass(frozen=True, slots=True)
class _Exported:
    """What comes of the worker that is done first."""

    export: Export
    folder: Path

    def __call__(self, ctx: Context, model: Any) -> bytes:
        return to_bytes(self.export(model, *(read(self.folder / f"{name}.npy") for name in _EXAMINED)))


@dataclass(slots=True)
class Spread:
    """`load` is pickled: it gives the function in a worker's process. There are `workers` at most, on as many cores;
    with `all_of_them`, or a `device` "cuda" of which each has one, so many whether it pays or not. `folder` is this
    attempt's; what is in `checkpoints` is gone on from, and outlives it, if it is of the same rows, parameters and
    `code`. `tell` takes the loss and what is reported, step by step."""

    load: Callable[[], Function]
    workers: int
    exact: bool
    folder: Path
    checkpoints: Path
    code: Mapping[str, str]
    progress: Progress
    tell: Tell = untold
    all_of_them: bool = False
    device: str = "cpu"
    attempt: int = 0
    """Of this training: one before it that lives on changes nothing any more."""
    launcher: Launcher | None = None
    _kept: Checkpoints | None = None
    _steps: int = 0
    _batch: int = 0
    _told: int = 0

    def fit(
        self, data: TrainingData, export: Export, test: NDArray[np.float32], validation: NDArray[np.float32]
    ) -> Exported:
        """The function does not get the rows of `test` and `validation`, by which its model is examined. Raises
        Stopped, JobFailed, Unavailable, and what `export` does as JobFailed."""
        try:
            put(self.folder, data)
            for name, x in zip(_EXAMINED, (test, validation), strict=True):
                np.save(self.folder / f"{name}.npy", x)
        except OSError as error:
            raise disk_error(error, "The rows of the training cannot be kept", str(self.folder)) from error
        context = {
            "shards": SHARDS if self.exact else 0,
            "seed": data.seed,
            "params": dict(data.params),
            "device": self.device,
        }
        all_of_them = self.all_of_them or self.device != "cpu"  # what pays is known of cores alone
        self.launcher = Launcher(
            _Called(self.load, self.folder, data.augment),
            _Exported(export, self.folder),
            self.workers,
            {"context": context},
            on_plan=self._plan,
            on_beat=self._beat,
            on_change=self._change,
            checkpoints=self._checkpoints(data),
            attempt=self.attempt,
            cores=0 if all_of_them else self.workers,
            on_choice=lambda choice: log.info("%s", choice.why),
        )
        try:
            return from_bytes(self.launcher.run())
        except SkyriverError as error:
            error.where = error.where or export.function
            raise
        finally:
            self._kept, self.launcher = self.launcher.checkpoints, None

    def stop(self, within_s: float) -> bool:
        """As `Launcher.stop`; False: nothing is going on that it could stop."""
        if self.launcher is None:
            return False
        self.launcher.stop(within_s)
        return True

    def forget(self) -> None:
        """The checkpoints, once what came of it is safe; unless a later attempt has them."""
        if self._kept is not None:
            self._kept.remove()
        with contextlib.suppress(OSError):  # something of another attempt is there
            self.checkpoints.rmdir()

    def _checkpoints(self, data: TrainingData) -> Path:
        """The folder of this training's. The attempt before may have had other rows: tables grow. Raises JobFailed
        (FENCED)."""
        of = hashlib.sha256(json.dumps([dict(self.code), dict(data.params), data.seed, self.exact]).encode())
        for column in (data.x, data.y, data.time, data.weights):
            if column is not None:
                of.update(np.ascontiguousarray(column).data)
        mine = self.checkpoints / of.hexdigest()[:32]
        for other in self.checkpoints.glob("*"):
            if other != mine:
                Checkpoints(other, attempt=self.attempt).supersede()
                log.warning("rows, parameters or code are others than in the attempt before: it begins anew")
        return mine

    def _plan(self, steps: int, batch: int) -> None:
        self._steps, self._batch = steps, batch

    def _beat(self, step: int, loss: float, values: Mapping[str, float]) -> None:
        self.progress("fit", step, self._steps)
        samples = max(0, step - self._told) * self._batch
        self._told = step
        self.tell(step, {"loss": loss, **values}, samples, self._steps)

    def _change(self, change: Change) -> None:
        if change.generation == 1:  # those before are an earlier attempt's
            self._told = change.step
        who = "1 worker goes" if change.workers == 1 else f"{change.workers} workers go"
        log.info("%s on from step %s: %s", who, f"{change.step:,}", change.why)
