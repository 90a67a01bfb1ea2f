"""Whether what a stream decided by is what a model is trained on: the features that its log recorded, held against the
rows of the training, bit for bit. The rows are there already, so that it costs a look at the end of the log; `skyriver
stream verify` compares all of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from skyriver.core.spec import StreamSpec
from skyriver.decide.log.blocks import decisions_of
from skyriver.features.plan import FeaturePlan
from skyriver.release.measured import FeatureDifference, SameFeatures
from skyriver.train.split import Rows
from skyriver.wiring.logs import log_reader
from skyriver.wiring.tier import open_tier
from skyriver.wiring.work.history import History, fields_of
from skyriver.wiring.work.job import Job

ROWS = 10_000
"""The last ones of the history."""
OFFSETS_A_ROW = 5
"""Of the log, that are read: an event, its decision, labels and rows of references between them."""
SHOWN = 5


def same_features(job: Job, history: History, plan: FeaturePlan, rows: Rows) -> SameFeatures | None:
    """None where the rows are not of a stream. Raises Corrupt, Unavailable, Conflict, as reading a log does."""
    stream = history.source
    if not isinstance(stream, StreamSpec):
        return None
    first = max(0, len(rows.ids) - ROWS)
    offsets = fields_of(job, history, ("_offset",), first, len(rows.ids))["_offset"].to_numpy()
    place = {int(offset): first + at for at, offset in enumerate(offsets) if offset >= 0}
    if not place:
        return SameFeatures(compared=0, different=0, first=(), why=f"no event of {stream.name} is in its log")
    return _compared(job, stream, plan, rows.x, place)


def _compared(
    job: Job, stream: StreamSpec, plan: FeaturePlan, x: NDArray[np.float32], place: Mapping[int, int]
) -> SameFeatures:
    compared = different = 0
    shown: list[FeatureDifference] = []
    directory = job.stream_directory(stream.name)
    with log_reader(stream, directory, job.home.root, job.tenant, open_tier(job.home)) as reader:
        newest, reach = max(place), OFFSETS_A_ROW * ROWS
        start = max(min(place), newest - reach, reader.begin()[0])
        for record in reader.read(start, end=min(reader.next_offset, newest + reach)):
            for decision in decisions_of(record):
                row = place.get(decision.event_offset)
                if row is None or not decision.features or decision.features_digest != plan.digest:
                    continue
                compared += 1
                if decision.features == x[row].tobytes():
                    continue
                different += 1
                if len(shown) < SHOWN:
                    shown += _named(str(decision.id), plan, np.frombuffer(decision.features, "<f4"), x[row])
    why = "" if compared else f"nothing was decided by these features in the newest {len(place):,} events"
    return SameFeatures(compared=compared, different=different, first=tuple(shown[:SHOWN]), why=why)


def _named(
    event: str, plan: FeaturePlan, recorded: NDArray[np.float32], computed: NDArray[np.float32]
) -> list[FeatureDifference]:
    return [
        FeatureDifference(event, name, _known(then), _known(now))
        for name, then, now in zip(plan.names, recorded, computed, strict=True)
        if then.tobytes() != now.tobytes()
    ]


def _known(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None
