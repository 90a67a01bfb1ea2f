"""What lists said at each event of a stream's history: columns for rules that read lists, from the tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.spec import StreamSpec
from skyriver.data.columns import Columns, join
from skyriver.data.operations import reference_table
from skyriver.decide.log.lists import Lists, lists_of, lookups_of
from skyriver.decide.log.lists_columns import beside
from skyriver.wiring.work.history import History
from skyriver.wiring.work.job import Job

Ints = NDArray[np.int64]


def looked_up(stream: StreamSpec, used: Sequence[int]) -> list[str]:
    """The fields of events that these lookups read."""
    lookups = lookups_of(stream)
    return [stream.fields[lookups[place].by].name for place in used]


def list_columns(
    job: Job, history: History, used: Sequence[int], events: Columns, offsets: Ints, times: Ints
) -> Columns:
    """The columns of `events`, which have the fields of `looked_up`, with those of lists behind them. An event sees the
    rows that stand before it in the log (`offsets`), as of its effective time (`times`)."""
    assert isinstance(history.source, StreamSpec)
    lists, parts, done = Lists(history.source), [], 0
    for offset, index, values in _rows(job, history):
        before = int(np.searchsorted(offsets, offset))
        if before > done:
            parts.append(beside(lists, used, events.part(done, before), times[done:before]))
            done = before
        lists.learn(index, values, int(times[before - 1]) if before else int(times[0]))
    parts.append(beside(lists, used, events.part(done, len(events)), times[done:]))
    return join(parts)


def _rows(job: Job, history: History) -> list[tuple[int, int, list[int | float | str | bool | None]]]:
    """(offset, place of its list, values) of each row of a list, as they were logged."""
    stream, tables = history.source, DeltaTables(job.home.tables)
    assert isinstance(stream, StreamSpec)
    found: list[tuple[int, int, list[int | float | str | bool | None]]] = []
    for index, reference in lists_of(stream):
        version = history.references.get(reference.name)
        if version is None:
            continue
        columns = ["_offset", *(own.name for own in reference.fields)]
        for frame in tables.scan(job.table(reference_table(stream.name, reference.name)), version.version, columns):
            found += [(offset, index, values) for offset, *values in frame.select(columns).iter_rows()]
    return sorted(found, key=lambda row: row[0])
