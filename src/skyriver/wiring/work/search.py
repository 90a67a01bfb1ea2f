"""The work of a job of an array that searches the parameters of one training: trials, as long as there are any to do.

All of them, and the training that concludes, learn from the same versions of the tables: those that the first one saw.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from skyriver.core.errors import disk_error
from skyriver.core.jobs import asks_for
from skyriver.core.resources import Limits
from skyriver.core.spec import StreamSpec, TableSpec, TrainSpec
from skyriver.data.folders import replace_file
from skyriver.release.manifest import SourceRef
from skyriver.train.run import take_part
from skyriver.train.search.budget import Budget
from skyriver.train.search.looking import Look
from skyriver.wiring.prices import PriceFile
from skyriver.wiring.work.history import History, delay_of, history_at, newest_history, rows_of
from skyriver.wiring.work.job import Job


def work(job: Job) -> dict[str, Any]:
    """No outputs: what came of the trials is in the study of the run."""
    model = job.app.model(job.target)
    assert model.train is not None
    source = job.app.source(job.app.feature_set(model.train.features).source)
    fit = job.load_app().functions[model.train.function]
    look = look_of(job, model.train)
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


def look_of(job: Job, spec: TrainSpec) -> Look | None:
    """Trials that are done outlive an attempt: there is one training of a model at a time, and a file for it; where
    several jobs search, one for each run."""
    if spec.search is None:
        return None
    asked = asks_for({})  # what a training reserves, and costs
    prices = PriceFile(job.home, lambda: time.time_ns() // 1_000).now() if spec.search.money else None
    budget = Budget.of(spec.search, prices, Limits(asked.cpus, asked.memory_mb))
    of = {"code": job.code["bundle"], "function": spec.function}
    member = f"{job.name}.{job.attempt}"
    if "study" not in job.inputs:
        return Look(budget, _studies(job) / f"{job.target}.jsonl", of, member=member)
    return Look(budget, _study(job), of, member=member, others=lambda: _others(job))


def forget_others(job: Job) -> None:
    """Studies of runs before this one, which nobody goes on with: trainings of one model run one after the other."""
    if "study" not in job.inputs:
        return
    for other in _others(job):
        if _number(other) < _number(_study(job)):
            for path in other.parent.glob(f"{other.name}*"):
                path.unlink(missing_ok=True)


def history_of_run(job: Job, source: StreamSpec | TableSpec) -> History:
    """As the first job of the run saw the tables. Raises InvalidInput (NO_DATA, NO_LABELS), Unavailable (DISK_FULL)."""
    kept = _study(job).with_suffix(".jsonl.history")
    if not kept.exists():
        found = newest_history(job, source)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _put_first(kept, found.ref.model_dump_json().encode(), job)
        except OSError as error:
            raise disk_error(error, "Which rows are trained on cannot be kept", str(kept)) from error
    return history_at(job, source, SourceRef.model_validate_json(kept.read_bytes()))


def _put_first(path: Path, data: bytes, job: Job) -> None:
    """Of several at once one is the first."""
    own = path.with_name(f"{path.name}.{job.name}.{job.attempt}")
    replace_file(own, data)
    with suppress(FileExistsError):
        path.hardlink_to(own)
    own.unlink()


def _studies(job: Job) -> Path:
    return job.home.studies / job.tenant


def _study(job: Job) -> Path:
    return _studies(job) / job.target / f"{job.inputs['study']}.jsonl"


def _number(study: Path) -> int:
    """Of its run."""
    return int(study.stem.rpartition("-")[2])


def _others(job: Job) -> Iterable[Path]:
    return [path for path in _study(job).parent.glob("*.jsonl") if path != _study(job)]
