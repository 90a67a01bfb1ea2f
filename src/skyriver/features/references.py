"""Rows of references, as a kernel keeps them: what `sr.lookup` reads.

Theory of operation. A feature sees, of the rows that stand before its event in the log, the newest one whose time has
come: the greatest time up to T, of several with that time the last one in the log. T never goes back, so of one id
only the row that is current and those whose time is still to come can ever be asked for. They are a list from the
newest to the oldest, which the next row of the id shortens: mostly one row, which is overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skyriver.core.spec import FeatureSetSpec, ReferenceSpec

ROW_KEY, ROW_ROLE, ROW_AT, ROW_NEXT, ROW_VALUES = range(5)
"""Places in a row: the next one is older, -1 for none; of a free row the key is the next free one."""
NEWEST, OLDER, FREE = 1, 2, -1
"""Roles. The index knows the newest row of each id."""
INDEX_BYTES = 16


@dataclass(frozen=True, slots=True)
class ReferenceTable:
    """What is kept of one reference. Of the fields, places are those in a row as it is logged."""

    name: str
    index: int
    """Its place in the stream's references."""
    id: str
    id_place: int
    text_id: bool
    time: str
    time_place: int
    fields: tuple[str, ...]
    """Those that are looked up, in the order of a row's values."""
    field_places: tuple[int, ...]

    @property
    def stride(self) -> int:
        """Words of a row."""
        return ROW_VALUES + len(self.fields)

    @property
    def row_bytes(self) -> int:
        """Memory of a row, with its places in the index."""
        return 8 * self.stride + INDEX_BYTES

    def word(self, field: str) -> int:
        return ROW_VALUES + self.fields.index(field)


def reference_tables(features: FeatureSetSpec, references: Sequence[ReferenceSpec]) -> tuple[ReferenceTable, ...]:
    """Those that `features` look something up in, in the order of the stream's references."""
    found: dict[str, dict[str, None]] = {}
    for lookup in features.lookups():
        found.setdefault(lookup.reference, {})[lookup.column] = None
    tables = []
    for index, reference in enumerate(references):
        if reference.name not in found:
            continue
        places = {f.name: place for place, f in enumerate(reference.fields)}
        fields = tuple(found[reference.name])
        tables.append(
            ReferenceTable(
                reference.name,
                index,
                reference.id,
                places[reference.id],
                reference.field(reference.id).type == "text",
                reference.time,
                places[reference.time],
                fields,
                tuple(places[name] for name in fields),
            )
        )
    return tuple(tables)


REFERENCE_FUNCTIONS = f"""\

@inner
def row_of(index, table, key, seed):
    # The newest row of the key, -1 for none, and its place in the index.
    mask = U64(index.shape[0] - 1)
    p = mix(key, seed) & mask
    s = I64(index[p]) - 1
    while s >= 0 and table[s, {ROW_KEY}] != key:
        p = (p + ONE) & mask
        s = I64(index[p]) - 1
    return s, p


@inner
def as_of(index, table, key, now, seed):
    # The row of the key that is current at `now`, -1 for none.
    s, p = row_of(index, table, key, seed)
    while s >= 0 and table[s, {ROW_AT}] > now:
        s = table[s, {ROW_NEXT}]
    return s


@inner
def looked_up(table, s, at):
    return float_of(table[s, at]) if s >= 0 else NAN


@inner
def free_row(meta, at):
    s = meta[at + 1]
    return s if s >= 0 else meta[at]


@inner
def take_row(table, meta, at):
    s = meta[at + 1]
    if s >= 0:
        meta[at + 1] = table[s, {ROW_KEY}]
    else:
        s = meta[at]
        meta[at] = s + 1
    return s


@inner
def drop_rows(table, meta, at, s):
    # This one and all older ones.
    while s >= 0:
        older = table[s, {ROW_NEXT}]
        table[s, {ROW_KEY}], table[s, {ROW_ROLE}] = meta[at + 1], {FREE}
        meta[at + 1] = s
        s = older


@inner
def fill_row(table, s, key, role, time, older, given, r):
    table[s, {ROW_KEY}], table[s, {ROW_ROLE}] = key, role
    table[s, {ROW_AT}], table[s, {ROW_NEXT}] = time, older
    for word in range({ROW_VALUES}, table.shape[1]):
        table[s, word] = bits_of(given[r, word - {ROW_VALUES}])


@inner
def learn(index, table, meta, at, key, time, now, given, r, seed):
    # Row r of what is given. False where there is no room for one more: nothing was changed.
    if free_row(meta, at) >= table.shape[0]:
        return False
    newest, p = row_of(index, table, key, seed)
    if newest < 0:
        s = take_row(table, meta, at)
        fill_row(table, s, key, I64({NEWEST}), time, I64(-1), given, r)
        index[p] = s + 1
        return True
    newer, s = I64(-1), newest
    while s >= 0 and table[s, {ROW_AT}] > time:
        newer, s = s, table[s, {ROW_NEXT}]
    if newer >= 0 and table[newer, {ROW_AT}] <= now:
        return True  # one that is newer is current already
    if s >= 0 and (time <= now or table[s, {ROW_AT}] == time):
        fill_row(table, s, key, table[s, {ROW_ROLE}], time, table[s, {ROW_NEXT}], given, r)
    else:
        n = take_row(table, meta, at)
        if newer >= 0:
            fill_row(table, n, key, I64({OLDER}), time, s, given, r)
            table[newer, {ROW_NEXT}] = n
        else:  # the index goes on pointing at the newest one
            for word in range(table.shape[1]):
                table[n, word] = table[newest, word]
            table[n, {ROW_ROLE}] = {OLDER}
            fill_row(table, newest, key, I64({NEWEST}), time, n, given, r)
    s = newest
    while s >= 0 and table[s, {ROW_AT}] > now:
        s = table[s, {ROW_NEXT}]
    if s >= 0:
        drop_rows(table, meta, at, table[s, {ROW_NEXT}])
        table[s, {ROW_NEXT}] = -1
    return True


def find_rows(index, table, meta, at):
    # The given index, all zeros, gets the newest rows; free ones are chained.
    free, seed, mask = I64(-1), meta[SEED], U64(index.shape[0] - 1)
    for s in range(meta[at]):
        if table[s, {ROW_ROLE}] == {NEWEST}:
            p = mix(table[s, {ROW_KEY}], seed) & mask
            while index[p] != 0:
                p = (p + ONE) & mask
            index[p] = s + 1
        elif table[s, {ROW_ROLE}] != {OLDER}:
            table[s, {ROW_KEY}], table[s, {ROW_ROLE}] = free, {FREE}
            free = I64(s)
    meta[at + 1] = free
    return 0

"""
