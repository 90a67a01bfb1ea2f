"""What a block of history must be before it enters the log. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.spec import StreamSpec
from skyriver.core.units import format_span
from skyriver.decide.log.history import Block

Ints = NDArray[np.int64]


def check_times(block: Block, stream: StreamSpec, *, time: int, now: int, limit: int) -> None:
    """Refuses a block that begins before effective `time` less the disorder, or goes beyond `limit` (DESIGN 6.1)."""
    times = block.times[block.events]
    if not len(times):
        return
    first, last = int(times[0]), int(times[-1])
    if first < time - stream.disorder_us:
        raise Conflict(
            f"The load begins {format_span(time - first)} before the last event of {stream.name}, and windows only move"
            f" forward: at most {format_span(stream.disorder_us)}, its disorder, is taken.",
            code="HISTORY_AFTER_LIVE",
            next_action="Load history before the first live event; for older history, declare the stream under another"
            " name and load all of it there.",
        )
    if last > limit:
        raise InvalidInput(
            f"The block holds an event {format_span(last - now)} ahead of the clock here.",
            code="AHEAD_OF_CLOCK",
            next_action="Set the clocks of both machines, and load it again.",
        )


def effective_times(block: Block, time: int) -> Ints:
    """T after each row: the greatest time of an event so far; labels do not move it."""
    own = np.where(block.events, block.times, time)
    return np.maximum(np.maximum.accumulate(own), time)


def repeated(
    keys: Ints, texts: Sequence[str] | None, times: Ints, known: Ints, horizons: Ints, period_us: int
) -> NDArray[np.bool_]:
    """Which events of a block are duplicates: `known` before, at an offset not below its horizon, or earlier in the
    block by at most the period. All int64 [events]; `times` are effective. `texts`: the ids, where they are such."""
    if texts is not None and len(set(keys.tolist())) < len(keys):  # a key may be that of two of them
        places: dict[str, int] = {}
        keys = np.array([places.setdefault(text, len(places)) for text in texts], np.int64)
    order = np.argsort(keys, kind="stable")
    again = (keys[order][1:] == keys[order][:-1]) & (times[order][1:] - times[order][:-1] <= period_us)
    found = known >= horizons
    if period_us:
        found[order[1:]] |= again
    result: NDArray[np.bool_] = found
    return result
