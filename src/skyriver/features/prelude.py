"""The small functions that every kernel begins with, as text; `skyriver.features.codegen` adds what the plan needs."""

from __future__ import annotations

from skyriver.features.layout import META_SEED, MISSING
from skyriver.features.tables import STATE_KEY, STATE_REFERENCES

PRELUDE = f'''\
"""Made by skyriver.features.codegen; made anew when it is lost or damaged."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

U64, I64, F64 = np.uint64, np.int64, np.float64
NAN = np.nan
NONE = np.int64(0)
MISSING = np.int64({MISSING})
UNSOUND = np.int64({MISSING})
END = np.int64({2**63 - 1})
ZERO, ONE = np.uint64(0), np.uint64(1)
SHIFT0, SHIFT31, SHIFT32, SHIFT33, SHIFT63 = np.uint64(0), np.uint64(31), np.uint64(32), np.uint64(33), np.uint64(63)
LOW31, LOW32 = np.uint64(2**31 - 1), np.uint64(2**32 - 1)
LOW53 = np.int64({2**53 - 1})

inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # called from here alone: a seventh less to compile


@intrinsic
def fetch(typing, array, row, column):
    # Tells the processor that this word will be written: it comes near while others are worked on.
    def lines(context, builder, signature, given):
        kind = signature.args[0]
        words = context.make_array(kind)(context, builder, given[0])
        at = cgutils.get_item_pointer(context, builder, kind, words, given[1:], wraparound=False)
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        taken = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], taken)
        builder.call(prefetch, [builder.bitcast(at, byte), number(1), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, row, column), lines


@inner
def fetch_slots(rows, meta, state, passed, word, shift):
    # What the cursors will change when they pass the rows that were found sound.
    for p in range(passed.shape[0]):
        for r in range(U64(meta[passed[p, 0]]), U64(meta[passed[p, 1]])):
            s = (U64(rows[r, word]) >> shift) & LOW32
            fetch(state, s, U64(passed[p, 2]))
            fetch(state, s, U64(passed[p, 3]))


@inner
def add(state, slot, at, value):
    low = state[slot, at + 1] + value
    carry = (value >> 63) + np.int64(np.uint64(low) < np.uint64(value))
    if carry != 0:  # seldom: without it a window would touch a word more
        state[slot, at] += carry
    state[slot, at + 1] = low


@inner
def total(state, slot, at, unit):
    # The 128-bit sum as two parts that are exact in float64; their sum is rounded once, unit is a power of two.
    low = state[slot, at + 1]
    upper = (state[slot, at] << 11) | ((low >> 53) & 2047)
    return (np.float64(upper) * {2.0**53!r} + np.float64(low & LOW53)) * unit


@inner
def mean(state, slot, at, count, unit):
    number = state[slot, count]
    if number == 0:
        return 0.0
    return total(state, slot, at, unit) / np.float64(number)


@inner
def square(value):
    # The 128 bits of value^2, value up to 2^62.
    magnitude = U64(abs(value))
    low, high = magnitude & LOW32, magnitude >> SHIFT32
    middle = low * high
    first = low * low
    below = first + ((middle & LOW31) << SHIFT33)
    return high * high + (middle >> SHIFT31) + U64(below < first), below


@inner
def add_square(state, slot, at, value, by):
    # 192 bits, the highest word first.
    high, low = square(value)
    a, b = U64(state[slot, at + 2]), U64(state[slot, at + 1])
    if by > 0:
        c = a + low
        carry = U64(c < a)
        d = b + high
        over = U64(d < b)
        e = d + carry
        state[slot, at] += I64(over + U64(e < d))
    else:
        c = a - low
        carry = U64(c > a)
        d = b - high
        over = U64(d > b)
        e = d - carry
        state[slot, at] -= I64(over + U64(e > d))
    state[slot, at + 2], state[slot, at + 1] = I64(c), I64(e)


@inner
def product(a, b):
    # The 128 bits of a * b, unsigned.
    low_a, high_a, low_b, high_b = a & LOW32, a >> SHIFT32, b & LOW32, b >> SHIFT32
    first = low_a * low_b
    middle = high_a * low_b + (first >> SHIFT32)
    other = low_a * high_b + (middle & LOW32)
    return high_a * high_b + (middle >> SHIFT32) + (other >> SHIFT32), (other << SHIFT32) | (first & LOW32)


@inner
def deviation(state, slot, at, squares, count, unit):
    # n * sum(x^2) - sum(x)^2 in 256 bits: what is rounded is the difference alone, which two large sums may leave.
    number = state[slot, count]
    if number < 2:
        return 0.0
    n = U64(number)
    h0, l0 = product(n, U64(state[slot, squares + 2]))
    h1, l1 = product(n, U64(state[slot, squares + 1]))
    h2, l2 = product(n, U64(state[slot, squares]))
    p0 = l0
    p1 = l1 + h0
    carry = U64(p1 < l1)
    p2 = l2 + h1
    p3 = h2 + U64(p2 < l2)
    p2 += carry
    p3 += U64(p2 < carry)
    low, high = U64(state[slot, at + 1]), U64(state[slot, at])
    if state[slot, at] < 0:
        low = ~low + ONE
        high = ~high + U64(low == ZERO)
    h0, l0 = product(low, low)
    h1, l1 = product(low, high)
    h2, l2 = product(high, high)
    # l0, then 2 * (h1, l1) one word up, then (h2, l2) two words up.
    q0 = l0
    twice_low, twice_high, twice_over = l1 << ONE, (h1 << ONE) | (l1 >> SHIFT63), h1 >> SHIFT63
    q1 = h0 + twice_low
    carry = U64(q1 < h0)
    q2 = l2 + twice_high
    q3 = h2 + twice_over + U64(q2 < l2)
    q2 += carry
    q3 += U64(q2 < carry)
    d0 = p0 - q0
    borrow = U64(p0 < q0)
    d1 = p1 - q1
    next_borrow = U64(p1 < q1) | U64(d1 < borrow)
    d1 -= borrow
    d2 = p2 - q2
    last_borrow = U64(p2 < q2) | U64(d2 < next_borrow)
    d2 -= next_borrow
    d3 = p3 - q3 - last_borrow
    difference = ((F64(d3) * {2.0**64!r} + F64(d2)) * {2.0**64!r} + F64(d1)) * {2.0**64!r} + F64(d0)
    return np.sqrt(difference) / F64(number) * unit


@inner
def replace_square(state, slot, at, old, new, inside):
    if inside and old != 0:
        add_square(state, slot, at, old ^ MISSING, -1)
    if inside and new != 0:
        add_square(state, slot, at, new ^ MISSING, 1)


@inner
def replace(state, slot, at, old, new, inside):
    # Of labels as the scratch holds them, where the subject is inside the window.
    if inside and old != 0:
        add(state, slot, at, -(old ^ MISSING))
    if inside and new != 0:
        add(state, slot, at, new ^ MISSING)


@inner
def on_grid(x, scale, limit):
    if abs(x) <= limit:
        return np.int64(np.rint(x * scale))
    return MISSING


@inner
def is_off_grid(x, on_grid):
    return np.int64(on_grid == MISSING and x == x)


@inner
def when(truth, a, b):
    # 1 or 0; missing where an operand is.
    if a != a or b != b:
        return NAN
    return 1.0 if truth else 0.0


@inner
def divide(a, b):
    return NAN if b == 0.0 else a / b


@inner
def bits_of(x):
    return np.float64(x).view(np.int64)


@inner
def float_of(bits):
    return np.int64(bits).view(np.float64)


@inner
def recent(value, time, now, span):
    return value if time > now - span else NAN


@inner
def number_of(time):
    return NAN if time == MISSING else np.float64(time)


@inner
def mix(key, seed):
    h = np.uint64(key ^ seed)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@inner
def minute_of(us):
    return NAN if us == MISSING else np.float64(us // 60000000 % 60)


@inner
def hour_of(us):
    return NAN if us == MISSING else np.float64(us // 3600000000 % 24)


@inner
def weekday_of(us):
    return NAN if us == MISSING else np.float64((us // 86400000000 + 3) % 7)


@inner
def month_and_day(us):
    # Howard Hinnant's civil_from_days: eras of 400 years that begin on 1 March.
    day = us // 86400000000 + 719468
    day_of_era = day % 146097
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return month, day_of_year - (153 * shifted + 2) // 5 + 1


@inner
def month_of(us):
    return NAN if us == MISSING else np.float64(month_and_day(us)[0])


@inner
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
