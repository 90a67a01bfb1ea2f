"""The part of a kernel's source that finds what the next events need, before it is their turn."""

from __future__ import annotations

from skyriver.data.log import RecordKind
from skyriver.features.expressions import indent
from skyriver.features.layout import (
    GROW,
    LOOK_AHEAD,
    META_FAULT,
    WORDS_A_LINE,
    cursor_place,
    sound_place,
    table_place,
    waiting_place,
)
from skyriver.features.plan import ROW_SLOTS, FeaturePlan
from skyriver.features.references import ROW_KEY
from skyriver.features.tables import STATE_KEY, STATE_REFERENCES


def look_ahead_lines(plan: FeaturePlan) -> list[str]:
    """Slots of the next records' keys, some ahead of their use: the processor finds them side by side, where
    one at a time each would wait for memory twice (index, then state). So, too, the rows that the cursors are
    to pass with these records are checked, and the state of their keys is fetched."""
    if not plan.keys:
        return []
    lines = [
        "if i == known:",
        f"    base, known, full = i, min(i + {LOOK_AHEAD}, end), -1",
        f"    for e in range({len(plan.edges)}):",
        f"        c = meta[{cursor_place(0)} + e]",
        f"        meta[{sound_place(plan, 0)} + e] = sound_until(rows, c, min(c + known - i, n))",
        f"        meta[{waiting_place(plan, 0)} + e] = time_of(rows, c, n)",
        *(
            f"    fetch_slots(rows, meta, state{k}, PASSED_{k}, o + {ROW_SLOTS + k // 2}, SHIFT{32 * (k % 2)})"
            for k in range(len(plan.keys))
        ),
        "    for b in range(base, known):",
        f"        if kind[b] != {RecordKind.EVENT.value}:",
        "            continue",
    ]
    for k in range(len(plan.keys)):
        lines += indent(_find(plan, k), 2)
    tables, columns = [table.name for table in plan.references], plan.key_columns
    for r, k in sorted({(tables.index(n.reference), columns.index(n.by)) for n in plan.spec.lookups()}):
        lines += indent(_fetch_row(plan, r, k), 2)
    return [
        *lines,
        "    if known == i:",
        f"        meta[{META_FAULT}] = full",
        f"        status = {GROW}",
        "        break",
    ]


def _find(plan: FeaturePlan, k: int) -> list[str]:
    """The slot of key k of record b, a new one if need be, into `slots`. Written out, for numba counts references
    around calls in a loop that take an array, at twice the price of the search itself."""
    at = table_place(plan, k)
    return [
        *probe_lines(k, f"index{k}", f"state{k}", STATE_KEY),
        "if s < 0:",
        f"    s = meta[{at + 1}]",
        "    if s >= 0:",
        f"        meta[{at + 1}] = state{k}[s, {STATE_KEY}]",
        f"    elif meta[{at}] < state{k}.shape[0]:",
        f"        s = meta[{at}]",
        f"        meta[{at}] = s + 1",
        "    else:",
        f"        full, known = {k}, b",
        "        break",
        f"    state{k}[s, {STATE_KEY}] = key",
        f"    state{k}[s, {STATE_REFERENCES}] = 0",
        f"    index{k}[p] = s + 1",
        f"slots[{k}, b - base] = U64(s)",
        *(f"fetch(state{k}, U64(s), U64({at}))" for at in range(WORDS_A_LINE, plan.keys[k].stride, WORDS_A_LINE)),
    ]


def _fetch_row(plan: FeaturePlan, r: int, k: int) -> list[str]:
    """The row of reference r that record b will look up by key k comes near. Written out, as `_find` is."""
    return [
        *probe_lines(k, f"found{r}", f"table{r}", ROW_KEY),
        "if s >= 0:",
        f"    fetch(table{r}, U64(s), U64({plan.references[r].stride - 1}))",
    ]


def probe_lines(k: int, index: str, table: str, key_word: int, record: str = "b") -> list[str]:
    """`s`: the slot of key k of a record in an open-addressing table, below 0 where it has none; `p`: its place in the
    index, or the free one."""
    return [
        f"key = keys[{k}, {record}]",
        f"mask = U64({index}.shape[0] - 1)",
        "p = mix(key, seed) & mask",
        f"s = I64({index}[p]) - 1",
        f"while s >= 0 and {table}[U64(s), {key_word}] != key:",
        "    p = (p + ONE) & mask",
        f"    s = I64({index}[p]) - 1",
    ]
