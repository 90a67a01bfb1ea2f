"""The parts of a kernel's source that tell which side rows are sound, and what is passed with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from skyriver.features.layout import check_multipliers, cursor_place, sound_place
from skyriver.features.plan import ROW_TIME, FeaturePlan
from skyriver.features.tables import STATE_REFERENCES


def checksum(words: Iterable[str]) -> str:
    """The expression of it."""
    terms = list(words)
    constants = check_multipliers(len(terms))
    return " + ".join([f"({constants[0]})", *(f"{t} * ({m})" for t, m in zip(terms, constants[1:], strict=True))])


def soundness(plan: FeaturePlan) -> list[str]:
    """`CHECK`, `checksum`, `sound_until` and `time_of`."""
    return [
        "",
        f"CHECK = {plan.row_check}",
        "",
        "",
        "@inner",
        "def checksum(rows, r):",
        f"    return {checksum(f'rows[r, {i}]' for i in range(plan.row_check))}",
        "",
        "",
        "@inner",
        "def sound_until(rows, c, end):",
        "    # The first row from c on whose checksum is wrong, or end.",
        "    r = U64(c)",
        "    while r < U64(end) and rows[r, CHECK] == checksum(rows, r):",
        "        r += ONE",
        "    return I64(r)",
        "",
        "",
        "@inner",
        "def time_of(rows, r, n):",
        "    # Time of row r once its checksum is found right.",
        "    if r >= n:",
        "        return END",
        "    if rows[r, CHECK] != checksum(rows, r):",
        "        return UNSOUND",
        f"    return rows[r, {ROW_TIME}]",
        "",
    ]


def passed_words(plan: FeaturePlan) -> Iterator[str]:
    """`PASSED_K`: of each cursor that changes what key K has, its place and that of what it has found sound, then the
    first and the last word that it changes."""
    for k, table in enumerate(plan.keys):
        passed = []
        for e, edge in enumerate(plan.edges):
            words = [STATE_REFERENCES] if edge == table.last_edge else []
            for window in table.windows:
                if edge in (window.edge, window.delay_us):
                    words += [window.count, window.count + window.words - 1]
            if words:
                passed.append((cursor_place(e), sound_place(plan, e), min(words), max(words)))
        yield f"PASSED_{k} = np.array({passed}, np.int64)"
