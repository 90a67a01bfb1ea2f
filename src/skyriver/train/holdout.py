"""Rows that judge trials: cut from the training part by the rule that cut the test off, so that the test chooses
nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import TrainSpec
from skyriver.core.units import format_duration
from skyriver.train.split import Rows, Split, hash_share

SHARE = 0.25
"""Of the training part (a stream's: of its time, if the test is longer than that) that is held out."""

Numbers = NDArray[np.int64]


def hold_out(spec: TrainSpec, rows: Rows, split: Split, delay_us: int | None) -> tuple[Numbers, Numbers]:
    """Rows of the training part that trials learn from, and those that judge them; `delay_us` is None for a table.

    Of a stream, or a table with times, these are its last stretch, as long as the test or a quarter of the whole, and
    what is within the label's delay before it is left out; of another table the rows whose hash is lowest. Rows of one
    group are on one side. Raises InvalidInput (NOT_ENOUGH_DATA, ONE_CLASS).
    """
    part = split.train
    if delay_us is None and not spec.time:
        place = hash_share(rows.keys[spec.group][part] if spec.group else rows.ids[part])
        judges = place < np.quantile(place, SHARE)
        learns = ~judges
    else:
        times = rows.keys[spec.time][part] if spec.time else rows.time[part]
        first, last = int(times.min()), int(times.max())
        opens = last - min(spec.test_us, round(SHARE * (last - first)))
        judges, learns = times > opens, times <= opens - (delay_us or 0)
        if spec.group:
            groups = rows.keys[spec.group][part]
            learns &= ~np.isin(groups, groups[judges])
    learned, judging = part[learns], part[judges]
    for what, numbers in (("to learn from", learned), ("to judge trials by", judging)):
        positives = int(split.labels[numbers].sum())
        if len(numbers) and 0 < positives < len(numbers):
            continue
        within = f" without the {format_duration(delay_us)} before its last stretch" if delay_us else ""
        raise InvalidInput(
            f"Of the {len(part):,} training rows, parted for a search{within}, there are {len(numbers):,} {what},"
            f" {positives:,} of them positive.",
            code="ONE_CLASS" if len(numbers) else "NOT_ENOUGH_DATA",
            next_action="Load more history with both outcomes, or train without search=.",
        )
    return learned, judging
