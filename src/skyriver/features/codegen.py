"""From a plan to the Python source of its kernel, which numba compiles.

The source holds numbers and places only, never a name or text of the specification. A plan of a stream gives
`fold` (records in log order: cursors, the event's side row, its features), `grow` (the index of a key table anew)
and, if it has trails, `thread` (the index and the free ones of their nodes anew); a plan of a table gives `project`
(rows to features). The laws of windows and trails are told in `skyriver.features.plan`; those of expressions in
`skyriver.core.expr`.
"""

from __future__ import annotations

from collections.abc import Iterator

from skyriver.features.expressions import feature_lines, indent, weight_lines
from skyriver.features.fold_source import Fold, placed
from skyriver.features.layout import (
    META_SEED,
    NODE_NEXT,
    nodes_place,
    table_place,
)
from skyriver.features.plan import FeaturePlan
from skyriver.features.prelude import PRELUDE
from skyriver.features.references import REFERENCE_FUNCTIONS
from skyriver.features.soundness import passed_words, soundness
from skyriver.features.trails import trail_functions


def kernel_source(plan: FeaturePlan) -> str:
    """The same plan always gives the same text."""
    if plan.of_stream:
        trails = [trail_functions(nodes_place(plan)), *trail_constants(plan), _thread(plan)] if plan.trails else []
        references = [reference_functions()] if plan.references else []
        return "\n".join([PRELUDE, *trails, *references, *soundness(plan), *passed_words(plan), Fold(plan).text()])
    return "\n".join([PRELUDE, _project(plan)])


def trail_constants(plan: FeaturePlan) -> Iterator[str]:
    """Of each trail, by its place in the plan: its spans. Weights are as the expressions ask for them."""
    for place, trail in enumerate(plan.trails):
        yield f"SPANS_{place} = np.array({list(trail.spans)}, np.int64)"
    yield from weight_lines(plan)


def _thread(plan: FeaturePlan) -> str:
    """`chains`, all zeros, gets the nodes of distinct counts; free ones are those that no trail has."""
    lines = ["", "", "def thread(nodes, chains, meta" + _states(plan) + "):", "    find_free(nodes, meta)"]
    for k, _, trail in placed(plan):
        if trail.kind == "distinct":
            lines += [
                f"    for s in range(meta[{table_place(plan, k)}]):",
                f"        m = state{k}[s, {trail.oldest(trail.spans[-1])}]",
                "        while m != 0:",
                "            chain(nodes, chains, meta, m)",
                f"            m = nodes[m, {NODE_NEXT}]",
            ]
    return "\n".join([*lines, "    return 0", ""])


def reference_functions() -> str:
    return REFERENCE_FUNCTIONS.replace("SEED", str(META_SEED))


def _states(plan: FeaturePlan) -> str:
    return "".join(f", state{k}" for k in range(len(plan.keys)))


def _project(plan: FeaturePlan) -> str:
    lines = [
        "",
        "def project(values, times, out, exact):",
        "    for i in range(out.shape[0]):",
        *indent(feature_lines(plan, "i"), 2),
        "    return 0",
        "",
    ]
    return "\n".join(lines)
