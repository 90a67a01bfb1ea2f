"""The functions of trails, as text: a kernel has them when its plan has trails.

A trail is kept by its own key's events: each one takes away what is too old for a span (from the shortest to the
longest, for the longest gives the node back), then enters. So what a feature reads is always the state as of T.
"""

from __future__ import annotations

from skyriver.features.layout import (
    META_SEED,
    NODE_BEFORE,
    NODE_COUNT,
    NODE_NEXT,
    NODE_NUMBER,
    NODE_TIME,
    NODE_VALUE,
)


def trail_functions(used: int) -> str:
    """`used` is the place in `meta` of what is told about nodes."""
    return _TEXT.replace("USED", str(used)).replace("FREE", str(used + 1)).replace("SPARE", str(used + 2))


_TEXT = f"""\

@inner
def take(nodes, meta):
    m = meta[FREE]
    if m != 0:
        meta[FREE] = nodes[m, {NODE_NEXT}]
        meta[SPARE] -= 1
    else:
        m = meta[USED]
        meta[USED] = m + 1
    return m


@inner
def give(nodes, meta, m):
    nodes[m, {NODE_NEXT}], nodes[m, {NODE_BEFORE}] = meta[FREE], -1
    meta[FREE] = m
    meta[SPARE] += 1


@inner
def append(nodes, meta, state, s, at, step, windows, m):
    # Node m becomes the newest one; where a span is empty, also its oldest.
    tail = state[s, at]
    nodes[m, {NODE_NEXT}], nodes[m, {NODE_BEFORE}] = 0, tail
    if tail != 0:
        nodes[tail, {NODE_NEXT}] = m
    state[s, at] = m
    for place in range(at + 1, at + 1 + step * windows, step):
        if state[s, place] == 0:
            state[s, place] = m


@inner
def forget(nodes, state, s, at, step, windows, m):
    # Spans do not begin with m any more, the list goes around it.
    following, before = nodes[m, {NODE_NEXT}], nodes[m, {NODE_BEFORE}]
    for place in range(at + 1, at + 1 + step * windows, step):
        if state[s, place] == m:
            state[s, place] = following
    if before != 0:
        nodes[before, {NODE_NEXT}] = following
    if following != 0:
        nodes[following, {NODE_BEFORE}] = before
    else:
        state[s, at] = before


@inner
def expire(nodes, meta, state, s, at, now, spans):
    last = spans.shape[0] - 1
    for w in range(last):
        m = state[s, at + 1 + w]
        while m != 0 and nodes[m, {NODE_TIME}] <= now - spans[w]:
            m = nodes[m, {NODE_NEXT}]
        state[s, at + 1 + w] = m
    m = state[s, at + 1 + last]
    while m != 0 and nodes[m, {NODE_TIME}] <= now - spans[last]:
        following = nodes[m, {NODE_NEXT}]
        give(nodes, meta, m)
        m = following
    state[s, at + 1 + last] = m
    if m == 0:
        state[s, at] = 0
    else:
        nodes[m, {NODE_BEFORE}] = 0


@inner
def lower(nodes, meta, state, s, at, now, spans, limit, x):
    # A minimum of x; of a maximum x is negated. Without a limit only the smallest value of a pane matters.
    expire(nodes, meta, state, s, at, now, spans)
    if x != x:
        return
    windows = spans.shape[0]
    number = nodes[state[s, at], {NODE_NUMBER}] + 1
    oldest = state[s, at + windows]
    if limit != 0 and oldest != 0 and nodes[oldest, {NODE_NUMBER}] <= number - limit:
        forget(nodes, state, s, at, 1, windows, oldest)
        give(nodes, meta, oldest)
    tail = state[s, at]
    while tail != 0 and float_of(nodes[tail, {NODE_VALUE}]) >= x:
        forget(nodes, state, s, at, 1, windows, tail)
        give(nodes, meta, tail)
        tail = state[s, at]
    if limit == 0 and tail != 0 and nodes[tail, {NODE_TIME}] == now:
        return
    m = take(nodes, meta)
    nodes[m, {NODE_TIME}], nodes[m, {NODE_VALUE}], nodes[m, {NODE_NUMBER}] = now, bits_of(x), number
    append(nodes, meta, state, s, at, 1, windows, m)


@inner
def lowest(nodes, m):
    return float_of(nodes[m, {NODE_VALUE}]) if m != 0 else NAN


@inner
def chain_of(chains, meta, value, owner):
    return mix(value, I64(mix(owner, meta[{META_SEED}]))) & U64(chains.shape[1] - 1)


@inner
def unchain(nodes, chains, meta, m):
    p = chain_of(chains, meta, nodes[m, {NODE_VALUE}], nodes[m, {NODE_NUMBER}])
    at = I64(chains[0, p])
    if at == m:
        chains[0, p] = chains[1, m]
        return
    while chains[1, at] != m:
        at = I64(chains[1, at])
    chains[1, at] = chains[1, m]


@inner
def chain(nodes, chains, meta, m):
    p = chain_of(chains, meta, nodes[m, {NODE_VALUE}], nodes[m, {NODE_NUMBER}])
    chains[1, m] = chains[0, p]
    chains[0, p] = m


@inner
def drop(nodes, chains, meta, state, s, at, windows):
    # The oldest node is not counted any more, in no span.
    m = state[s, at + 2 * windows - 1]
    for place in range(at + 1, at + 1 + 2 * windows, 2):
        if state[s, place] == m:
            state[s, place + 1] -= 1
    forget(nodes, state, s, at, 2, windows, m)
    unchain(nodes, chains, meta, m)
    give(nodes, meta, m)


@inner
def differ(nodes, chains, meta, state, s, at, now, spans, limit, value, owner):
    windows = spans.shape[0]
    for w in range(windows - 1):
        m, place = state[s, at + 1 + 2 * w], at + 1 + 2 * w
        while m != 0 and nodes[m, {NODE_TIME}] <= now - spans[w]:
            m = nodes[m, {NODE_NEXT}]
            state[s, place + 1] -= 1
        state[s, place] = m
    longest = at + 2 * windows - 1
    while state[s, longest] != 0 and nodes[state[s, longest], {NODE_TIME}] <= now - spans[windows - 1]:
        drop(nodes, chains, meta, state, s, at, windows)
    if value == MISSING:
        return
    m = I64(chains[0, chain_of(chains, meta, value, owner)])
    while m != 0 and (nodes[m, {NODE_VALUE}] != value or nodes[m, {NODE_NUMBER}] != owner):
        m = I64(chains[1, m])
    if m != 0:
        for w in range(windows):
            if nodes[m, {NODE_TIME}] <= now - spans[w]:
                state[s, at + 2 + 2 * w] += 1
        forget(nodes, state, s, at, 2, windows, m)
        nodes[m, {NODE_TIME}] = now
    else:
        if state[s, longest + 1] == limit:
            drop(nodes, chains, meta, state, s, at, windows)
        m = take(nodes, meta)
        nodes[m, {NODE_TIME}], nodes[m, {NODE_VALUE}], nodes[m, {NODE_NUMBER}] = now, value, owner
        chain(nodes, chains, meta, m)
        for w in range(windows):
            state[s, at + 2 + 2 * w] += 1
    append(nodes, meta, state, s, at, 2, windows, m)


@inner
def collect(nodes, meta, state, s, at, now, spans, g):
    expire(nodes, meta, state, s, at, now, spans)
    if g == MISSING:
        return
    m = state[s, at]
    if m == 0 or nodes[m, {NODE_TIME}] != now:
        m = take(nodes, meta)
        nodes[m, {NODE_TIME}], nodes[m, {NODE_VALUE}], nodes[m, {NODE_NUMBER}], nodes[m, {NODE_COUNT}] = now, 0, 0, 0
        append(nodes, meta, state, s, at, 1, spans.shape[0], m)
    add(nodes, m, {NODE_VALUE}, g)
    nodes[m, {NODE_COUNT}] += 1


@inner
def decayed(nodes, m, now, weights, unit):
    # Oldest pane first; a sum is rounded once, before it is weighed.
    above, below = 0.0, 0.0
    while m != 0:
        weight = weights[now - nodes[m, {NODE_TIME}]]
        above += weight * total(nodes, m, {NODE_VALUE}, unit)
        below += weight * F64(nodes[m, {NODE_COUNT}])
        m = nodes[m, {NODE_NEXT}]
    return above / below if below > 0.0 else 0.0


@inner
def clear(nodes, meta, state, s, at, longest):
    m = state[s, longest]
    while m != 0:
        following = nodes[m, {NODE_NEXT}]
        give(nodes, meta, m)
        m = following
    for place in range(at, longest + 1):
        state[s, place] = 0


@inner
def clear_distinct(nodes, chains, meta, state, s, at, longest):
    m = state[s, longest]
    while m != 0:
        unchain(nodes, chains, meta, m)
        m = nodes[m, {NODE_NEXT}]
    clear(nodes, meta, state, s, at, longest)
    state[s, longest + 1] = 0


@inner
def find_free(nodes, meta):
    meta[FREE], meta[SPARE] = 0, 0
    for m in range(meta[USED] - 1, 0, -1):
        if nodes[m, {NODE_BEFORE}] < 0:
            give(nodes, meta, m)

"""
