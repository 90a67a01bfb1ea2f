"""The small functions that every kernel begins with, as text; `skyriver.features.codegen` adds what the plan needs."""

from __future__ import annotations

from skyriver.features.layout import META_SEED, MISSING
from skyriver.features.plan import STATE_KEY, STATE_REFERENCES

PRELUDE = f'''\
"""Made by skyriver.features.codegen; made anew when it is lost or damaged."""

import numpy as np
from numba import njit

U64, I64, F64 = np.uint64, np.int64, np.float64
NAN = np.nan
NONE = np.int64(0)
MISSING = np.int64({MISSING})
UNSOUND = np.int64({MISSING})
END = np.int64({2**63 - 1})
ONE = np.uint64(1)
SHIFT32 = np.uint64(32)
LOW53 = np.int64({2**53 - 1})


@njit(nogil=True)
def add(state, slot, at, value):
    low = state[slot, at + 1] + value
    state[slot, at] += (value >> 63) + np.int64(np.uint64(low) < np.uint64(value))
    state[slot, at + 1] = low


@njit(nogil=True)
def total(state, slot, at, unit):
    # The 128-bit sum as two parts that are exact in float64; their sum is rounded once, unit is a power of two.
    low = state[slot, at + 1]
    upper = (state[slot, at] << 11) | ((low >> 53) & 2047)
    return (np.float64(upper) * {2.0**53!r} + np.float64(low & LOW53)) * unit


@njit(nogil=True)
def mean(state, slot, at, count, unit):
    number = state[slot, count]
    if number == 0:
        return 0.0
    return total(state, slot, at, unit) / np.float64(number)


@njit(nogil=True)
def replace(state, slot, at, old, new, inside):
    # Of labels as the scratch holds them, where the subject is inside the window.
    if inside and old != 0:
        add(state, slot, at, -(old ^ MISSING))
    if inside and new != 0:
        add(state, slot, at, new ^ MISSING)


@njit(nogil=True)
def on_grid(x, scale, limit):
    if abs(x) <= limit:
        return np.int64(np.rint(x * scale))
    return MISSING


@njit(nogil=True)
def is_off_grid(x, on_grid):
    return np.int64(on_grid == MISSING and x == x)


@njit(nogil=True)
def when(truth, a, b):
    # 1 or 0; missing where an operand is.
    if a != a or b != b:
        return NAN
    return 1.0 if truth else 0.0


@njit(nogil=True)
def divide(a, b):
    return NAN if b == 0.0 else a / b


@njit(nogil=True)
def number_of(time):
    return NAN if time == MISSING else np.float64(time)


@njit(nogil=True)
def put(line, out, exact, row):
    for place in range(line.shape[0]):
        out[row, place] = line[place]
    if exact.shape[0] > 0:
        for place in range(line.shape[0]):
            exact[row, place] = line[place]


@njit(nogil=True)
def mix(key, seed):
    h = np.uint64(key ^ seed)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@njit(nogil=True)
def minute_of(us):
    return NAN if us == MISSING else np.float64(us // 60000000 % 60)


@njit(nogil=True)
def hour_of(us):
    return NAN if us == MISSING else np.float64(us // 3600000000 % 24)


@njit(nogil=True)
def weekday_of(us):
    return NAN if us == MISSING else np.float64((us // 86400000000 + 3) % 7)


@njit(nogil=True)
def month_and_day(us):
    # Howard Hinnant's civil_from_days: eras of 400 years that begin on 1 March.
    day = us // 86400000000 + 719468
    day_of_era = day % 146097
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return month, day_of_year - (153 * shifted + 2) // 5 + 1


@njit(nogil=True)
def month_of(us):
    return NAN if us == MISSING else np.float64(month_and_day(us)[0])


@njit(nogil=True)
def day_of(us):
    return NAN if us == MISSING else np.float64(month_and_day(us)[1])


def grow(index, state, meta, at):
    # Keys without references are dropped, their slots chained; the given index, all zeros, gets the others.
    free = np.int64(-1)
    dropped = np.int64(0)
    seed, mask = meta[{META_SEED}], np.uint64(index.shape[0] - 1)
    for slot in range(meta[at]):
        if state[slot, {STATE_REFERENCES}] > 0:
            key = state[slot, {STATE_KEY}]
            p = mix(key, seed) & mask
            while index[p] != 0:
                p = (p + ONE) & mask
            index[p] = slot + 1
        else:
            state[slot, {STATE_KEY}] = free
            state[slot, {STATE_REFERENCES}] = -1
            free = np.int64(slot)
            dropped += 1
    meta[at + 1] = free
    return dropped

'''
