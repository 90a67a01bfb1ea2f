"""The work of a job of an array that searches the parameters of one training: trials, as long as there are any to do.

All of them, and the training that concludes, learn from the same versions of the tables: those that the first one saw.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from skyriver.core.errors import disk_error
from skyriver.core.jobs import reserved_by_training
from skyriver.core.spec import StreamSpec, TableSpec, TrainSpec
from skyriver.data.folders import forget_unfinished, lock_within, make_folder
from skyriver.train.run import take_part
from skyriver.train.search.budget import Budget
from skyriver.train.search.journal import busy, ended
from skyriver.train.search.looking import Look
from skyriver.wiring.prices import PriceFile
from skyriver.wiring.work.history import History, delay_of, rows_of
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.kept import first_history

HISTORY_S: Final = 60.0
"""For another job of the same run to find the versions of the tables."""


def work(job: Job) -> dict[str, Any]:
    """No outputs: what came of the trials is in the study of the run."""
    model = job.app.model(job.target)
    assert model.train is not None
    since = time.time()
    if why := ended(_study(job)):
        print(f"search: nothing more to begin: {why}", file=sys.stderr, flush=True)
        return {}
    source = job.app.source(job.app.feature_set(model.train.features).source)
    fit = job.load_app().functions[model.train.function]
    look = look_of(job, model.train, since)
    assert look is not None
    take_part(
        model,
        rows_of(job, model, history_of_run(job, source)),
        fit,
        delay_us=delay_of(model.train, source),
        params=job.params,
        seed=int(job.params.get("seed", 0)),
        progress=job.progress,
        look=look,
    )
    return {}


def look_of(job: Job, spec: TrainSpec, since: float | None = None) -> Look | None:
    """Trials that are done outlive an attempt: there is one training of a model at a time, and a file for it; where
    several jobs search, one for each run. `since`: when the work of a job began that does nothing but search."""
    if spec.search is None:
        return None
    prices = PriceFile(job.home, lambda: time.time_ns() // 1_000).now()
    budget = Budget.of(spec.search, prices, reserved_by_training())
    of = {"code": job.code["bundle"], "function": spec.function}
    member = f"{job.name}.{job.attempt}"
    if "study" not in job.inputs:
        return Look(budget, _studies(job) / f"{job.target}.jsonl", of, member=member)
    return Look(budget, _study(job), of, member=member, others=lambda: _others(job), since=since)


def forget_others(job: Job) -> None:
    """Trials of runs before this one, however many were done at a time. Those of a run that was not done when this one
    was planned are left to it."""
    if "beside" not in job.inputs:  # planned by a release before
        return
    spared = {job.inputs["run"], *job.inputs["beside"]}
    for path in _studies(job).glob(f"*{job.target}.jsonl*"):
        if path.name.startswith((f"{job.target}.", f".{job.target}.")):
            path.unlink(missing_ok=True)
    for path in (_studies(job) / job.target).glob("*.jsonl*"):
        run = path.name.partition(".jsonl")[0].removeprefix(".")
        if run not in spared and _number(run) < _number(job.inputs["run"]):
            path.unlink(missing_ok=True)


def history_of_run(job: Job, source: StreamSpec | TableSpec) -> History:
    """As the first job of the run saw the tables. Raises InvalidInput (NO_DATA, NO_LABELS), Unavailable (DISK_FULL,
    STUDY_BUSY)."""
    kept = _study(job).with_suffix(".jsonl.history")
    try:
        make_folder(kept.parent)
        with kept.with_name(f"{kept.name}.lock").open("ab") as lock:
            if not lock_within(lock.fileno(), HISTORY_S):
                raise busy(f"Another job of this search has looked for the rows for {HISTORY_S:.0f} s.", kept)
            forget_unfinished(kept)
            return first_history(job, source, kept)
    except OSError as error:
        raise disk_error(error, "Which rows are trained on cannot be kept", str(kept)) from error


def _studies(job: Job) -> Path:
    return job.home.studies / job.tenant


def _study(job: Job) -> Path:
    return _studies(job) / job.target / f"{job.inputs['study']}.jsonl"


def _number(run: str) -> int:
    return int(run.rpartition("-")[2])


def _others(job: Job) -> Iterable[Path]:
    return [path for path in _study(job).parent.glob("*.jsonl") if path != _study(job)]
