"""The work of a look for quality: what a stream decided with the version that serves, once labels tell, beside how good
the version was on its test rows.

The scores are those that it gave then, from the stream's tables, which the job before brought up to date: nothing is
computed again. Events count whose labels have had their time; one without a label counts as 0, as in a training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import NotFound
from skyriver.core.spec import GateSpec, StreamSpec
from skyriver.data.decisions import Status
from skyriver.data.materialise import schemas_of_stream
from skyriver.observe.quality import Measure, Quality, Reference, average_precision_at, judge
from skyriver.train.metrics import roc_auc
from skyriver.wiring.work.history import delay_of
from skyriver.wiring.work.job import Job

MOST_ROWS: Final = 2_000_000
"""Of more the newest ones are judged."""
METRICS: Final = ("average_precision", "auc")

Columns = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Labels [n] and scores [n], in the order of effective time."""


def work(job: Job) -> dict[str, Any]:
    """Outputs: the version, how many looks have judged it, and `Quality` as values."""
    asked, model = job.inputs, job.app.model(job.target)
    assert model.train is not None
    stream = job.app.stream(asked["stream"])
    name = metric_of(model.gate)
    reference = _reference(asked, name)
    look = int(asked["looks"]) + 1
    if reference is None:
        why = f"Its {name} on the test rows is not known well enough to compare with: of too few positives."
        found = Quality(None, None, math.nan, math.nan, 0, 0, None, why)
    else:
        labels, scores = _decided(job, stream, model.train.label, delay_of(model.train, stream) or 0)
        measure: Measure = roc_auc if name == "auc" else average_precision_at(reference.share)
        found = judge(
            measure,
            labels,
            scores,
            reference=reference,
            tolerance=float(asked["tolerance"]),
            look=look,
            name=name.replace("_", " "),
        )
    told = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(found).items()}
    judged = look if found.worse is not None else look - 1
    return {"version": asked["version"], "stream": stream.name, "metric": name, "looks": judged, **told}


def metric_of(gate: GateSpec) -> str:
    """The first one that the gate has a rule on; the others may be met by who is worse."""
    return next((rule.metric for rule in gate.rules if rule.metric in METRICS), METRICS[0])


def _reference(asked: Mapping[str, Any], name: str) -> Reference | None:
    value, interval, test = asked["metrics"].get(name), asked["intervals"].get(name), asked["test"]
    if value is None or interval is None or len(test) < 4 or not 0 < int(test[3]) < int(test[2]):
        return None
    return Reference.of(float(value), (float(interval[0]), float(interval[1])), int(test[2]), int(test[3]))


def _decided(job: Job, stream: StreamSpec, label: str, delay_us: int) -> Columns:
    """By the version, in the last window of which labels are known."""
    events = _events(job, stream, delay_us)
    offsets = events["_offset"].to_numpy()
    decisions = _gathered(
        job,
        stream,
        f"{stream.name}.decisions",
        ("event_offset", "status", "score", "model", "version"),
        pl.col("event_offset").is_between(*((offsets.min(), offsets.max()) if len(offsets) else (0, -1)))
        & (pl.col("status") == Status.DECIDED.value)
        & (pl.col("model") == job.target)
        & (pl.col("version") == job.inputs["version"])
        & pl.col("score").is_not_null(),
    )
    both = events.join(decisions, left_on="_offset", right_on="event_offset").sort("_effective", "_offset")
    known = _gathered(
        job,
        stream,
        f"{stream.name}.labels",
        ("_offset", "label", "subject", "value"),
        (pl.col("label") == label) & pl.col("subject").is_in(both[stream.id].implode()),
    )
    last_told = known.sort("_offset").unique("subject", keep="last").select("subject", "value")
    rows = both.join(last_told, left_on=stream.id, right_on="subject", how="left", maintain_order="left")
    labels = rows["value"].fill_null(0.0).cast(pl.Float32).to_numpy()
    return labels, rows["score"].cast(pl.Float32).to_numpy()


def _events(job: Job, stream: StreamSpec, delay_us: int) -> pl.DataFrame:
    """Of the window that ends where labels are known; its beginning moves while newer ones are read."""
    window_us, newest = int(job.inputs["window_us"]), 0
    parts: list[tuple[int, pl.DataFrame]] = []
    columns, wanted = (stream.id, "_offset", "_effective", "_late"), ~pl.col("_late") & (pl.col("_offset") >= 0)
    for frame in _scan(job, stream, stream.name, columns):
        kept = frame.filter(wanted)
        last = int(kept["_effective"].to_numpy().max(initial=0))
        newest = max(newest, last)
        parts = [part for part in (*parts, (last, kept)) if part[0] > newest - delay_us - window_us]
    end = newest - delay_us
    within = pl.col("_effective").is_between(end - window_us, end, closed="right")
    events = pl.concat([part for _, part in parts]).filter(within)
    return events.sort("_effective", "_offset").tail(MOST_ROWS).drop("_late")


def _gathered(job: Job, stream: StreamSpec, table: str, columns: Sequence[str], wanted: pl.Expr) -> pl.DataFrame:
    return pl.concat([frame.filter(wanted) for frame in _scan(job, stream, table, columns)])


def _scan(job: Job, stream: StreamSpec, table: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The rows of a table of the stream, behind a frame without any: it may not be there yet."""
    schema = schemas_of_stream(stream)[table]
    yield pl.DataFrame(schema={name: schema[name] for name in columns})
    tables, name = DeltaTables(job.home.tables), job.table(table)
    with suppress(NotFound):
        yield from tables.scan(name, tables.latest(name).version, columns)
