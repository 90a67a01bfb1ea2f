"""What a training was examined for, as its version's record keeps it."""

from __future__ import annotations

from collections import Counter
from typing import Final

from skyriver.release.measured import (
    BaselineRecord,
    CurvePoint,
    Difference,
    Examination,
    SearchRecord,
    StretchRecord,
    TrialRecord,
)
from skyriver.train.examine import Beside
from skyriver.train.run import Trained
from skyriver.train.search.study import Found

MOST_TRIALS: Final = 200
"""That a record keeps; the log of the job has every one."""


def examination(trained: Trained) -> Examination | None:
    found = trained.examined
    if found is None:
        return None
    return Examination(
        metric=found.metric,
        value=found.value,
        trained=found.trained,
        verdict=found.verdict,
        baselines=tuple(_baseline(each) for each in found.baselines),
        curve=tuple(CurvePoint(point.rows, point.value) for point in found.curve),
        prequential=tuple(
            StretchRecord(j.from_us, j.to_us, j.learned, j.rows, j.positives, j.metrics) for j in found.prequential
        ),
        search=None if trained.found is None else _search(trained.found),
    )


def _baseline(each: Beside) -> BaselineRecord:
    difference = None if each.difference is None else Difference(*each.difference)
    return BaselineRecord(name=each.name, rows=each.rows, metrics=each.metrics, difference=difference)


def _search(found: Found) -> SearchRecord:
    return SearchRecord(
        metric=found.metric,
        best=found.best.number,
        value=found.read(found.best.value or 0.0),
        params=found.best.params,
        learned=found.learned,
        judged=found.judged,
        seconds=round(found.seconds, 3),
        ended=found.ended,
        counts=dict(Counter(trial.state for trial in found.trials)),
        trials=tuple(
            TrialRecord(
                t.number,
                t.state,
                t.params,
                None if t.value is None else found.read(t.value),
                t.step or (t.looks[-1][0] if t.looks else 0),
                round(t.seconds, 3),
                t.error,
            )
            for t in found.trials[:MOST_TRIALS]
        ),
    )
