"""From a plan of a stream to the source of `read`: features as of what was folded, without an event of their own.

What an event gives is told by `fold`; what is asked for enters no window and leaves no trace. The key's state is
copied and made as old as `now` there, so the expressions are those of `fold`, over the same words: a value read
has the same bits. What `read` is given of the state is compiled as read-only.

It is a source of its own, for only who asks should wait until it is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator

from skyriver.features.codegen import reference_functions, trail_constants
from skyriver.features.expressions import feature_lines, indent
from skyriver.features.fold_source import placed
from skyriver.features.layout import META_NOW, META_SEED, NODE_NEXT, NODE_TIME, nodes_place
from skyriver.features.look_ahead import probe_lines
from skyriver.features.plan import FeaturePlan
from skyriver.features.prelude import PRELUDE
from skyriver.features.tables import STATE_KEY, STATE_REFERENCES, KeyTable, Trail
from skyriver.features.trails import trail_functions


def read_source(plan: FeaturePlan) -> str:
    """The same plan always gives the same text."""
    trails = [trail_functions(nodes_place(plan)), _PASS_OLD, *trail_constants(plan)] if plan.trails else []
    references = [reference_functions()] if plan.references else []
    return "\n".join([PRELUDE, *trails, *references, *_read(plan)])


_PASS_OLD = f"""\

@inner
def pass_old(nodes, state, at, now, spans, step):
    # Each span of the copy begins with its first node that is not too old; where nodes are counted, with fewer.
    for w in range(spans.shape[0]):
        place = at + 1 + step * w
        m = state[0, place]
        while m != 0 and nodes[m, {NODE_TIME}] <= now - spans[w]:
            m = nodes[m, {NODE_NEXT}]
            if step == 2:
                state[0, place + 1] -= 1
        state[0, place] = m

"""


def _read(plan: FeaturePlan) -> Iterator[str]:
    tables = "".join(f", index{k}, held{k}" for k in range(len(plan.keys)))
    tables += ", nodes" if plan.trails else ""
    tables += "".join(f", found{r}, table{r}" for r in range(len(plan.references)))
    yield from [
        "",
        f"def read(values, times, keys, meta, known, out, exact{tables}):",
        f"    t, seed = meta[{META_NOW}], meta[{META_SEED}]",
        "    o = t - t  # as in `fold`",
    ]
    for k, table in enumerate(plan.keys):
        yield f"    state{k}, s{k} = np.empty((1, {table.stride}), np.int64), ZERO"
    yield "    for i in range(out.shape[0]):"
    for k, table in enumerate(plan.keys):
        yield from indent(_copy(k, table), 2)
    for k, place, trail in placed(plan):
        yield from indent(_trail(k, place, trail), 2)
    yield from indent(feature_lines(plan, "i"), 2)
    yield from ["    return 0", ""]


def _copy(k: int, table: KeyTable) -> list[str]:
    """The state of key k of what is asked for, `known` whether it has any; then what of it expressions read."""
    times = [last.at for last in table.lasts] + ([table.since] if table.since >= 0 else [])
    lines = [
        *probe_lines(k, f"index{k}", f"held{k}", STATE_KEY, "i"),
        f"known[{k}, i] = s >= 0 and held{k}[U64(s), {STATE_REFERENCES}] > 0",
        f"if known[{k}, i]:",
        f"    for word in range({table.stride}):",
        f"        state{k}[0, word] = held{k}[U64(s), word]",
        "else:",
        f"    state{k}[0, :] = 0",
        *(f"    state{k}[0, {at}] = MISSING  # older than any span" for at in times),
    ]
    for last in table.lasts:
        pair = f"state{k}[0, {last.at}], float_of(state{k}[0, {last.at + 1}])"
        lines.append(f"time_{k}_{last.at}, value_{k}_{last.at} = {pair}")
    if table.since >= 0:
        lines.append(f"before_{k} = state{k}[0, {table.since}]")
    return lines


def _trail(k: int, place: int, trail: Trail) -> list[str]:
    now = "t" if trail.pane_us == 1 else f"t // {trail.pane_us}"
    step = 2 if trail.kind == "distinct" else 1
    return [f"pass_old(nodes, state{k}, o + {trail.at}, {now}, SPANS_{place}, o + {step})"]
