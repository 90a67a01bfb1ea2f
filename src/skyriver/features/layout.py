"""How state, side rows, journal and the kernel's register are laid out: what generated code and Python share."""

from __future__ import annotations

from skyriver.features.plan import FeaturePlan

# Places in the `meta` array: what the kernel keeps between calls, and what it tells. `fold` begins with record
# META_AT and row META_OUT of the output; both, and META_FAULT (a key table or a row), say where it stopped.
META_NOW, META_ROWS, META_JOURNAL, META_AT, META_OUT, META_OFF_GRID, META_FAULT, META_SEED = range(8)
META_CURSORS = 8
# After the cursors, the times of the rows they stand at; then, for each key table: slots in use or free, first free
# slot (-1: none); then of the nodes of trails: nodes in use or free, first free one (0: none), how many are free;
# then, for each cursor, up to where rows have been found sound in this call.

# Places in a node of a trail. Nodes are numbered from 1, 0 is none.
NODE_NEXT, NODE_BEFORE, NODE_TIME, NODE_VALUE, NODE_NUMBER, NODE_COUNT = range(6)
"""`before` of a free node is -1. By kind: minimum and maximum have the bits of a float64 as their value, and a running
number; distinct has the value's key and its owner (slot and trail); decayed_mean has the high and low word of a pane's
sum behind its time, and the number of its values."""
NODE_WIDTH = 6
OWNERS = 1 << 10
"""An owner is slot * OWNERS + place of the trail."""

DONE, GROW, OUT_OF_ORDER, UNSOUND_ROW, UNKNOWN_KIND = range(5)
"""What `fold` returns."""

NEVER = -(2**62)
"""Effective time before the first event."""
MISSING = -(2**63)
"""A missing grid value or time. In the label scratch a value v is v XOR 2^63, so that 0, a hole in a file, is
missing."""
LABEL_SHIFT = 40
LOOK_AHEAD = 64
"""Records whose keys are looked up together, and rows that are checked together."""
WORDS_A_LINE = 8
"""Of the processor's cache."""
JOURNAL_WIDTH = 4
"""Words of a journal entry: offset, row * 256 + place of the label, grid value, checksum."""
JOURNAL_LABELS = 256


def _odd_constants(count: int) -> tuple[int, ...]:
    """Odd 64-bit multipliers (splitmix64 from 1): fixed for ever, they are on disk in every checksum."""
    found, state, mask = [], 1, 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z = (z ^ (z >> 31)) | 1
        found.append(z - 2**64 if z >= 2**63 else z)
    return tuple(found)


def check_multipliers(words: int) -> tuple[int, ...]:
    """The checksum of `words` words is m[0] + sum(word[i] * m[i + 1]) modulo 2^64: as the multipliers are odd, no
    damage to one word goes unnoticed; as m[0] is not 0, a row of zeros is not sound."""
    return _odd_constants(words + 1)


def cursor_place(edge: int) -> int:
    return META_CURSORS + edge


def waiting_place(plan: FeaturePlan, edge: int) -> int:
    return META_CURSORS + len(plan.edges) + edge


def table_place(plan: FeaturePlan, key: int) -> int:
    return META_CURSORS + 2 * len(plan.edges) + 2 * key


def nodes_place(plan: FeaturePlan) -> int:
    return table_place(plan, len(plan.keys))


def sound_place(plan: FeaturePlan, edge: int) -> int:
    return nodes_place(plan) + 3 + edge


def reference_place(plan: FeaturePlan, reference: int) -> int:
    """Of each reference: rows in use or free, first free one (-1: none)."""
    return sound_place(plan, len(plan.edges)) + 2 * reference


def meta_length(plan: FeaturePlan) -> int:
    return reference_place(plan, len(plan.references))
