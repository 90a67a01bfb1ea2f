"""Signs of budgets of money: one that is soon spent, is, or to which nothing is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from skyriver.core.spending import BUDGET
from skyriver.observe.sight import subject_of
from skyriver.observe.signs import Seen, Sign

_KINDS: Final = {"NEAR": "budget nearly spent", "SPENT": "budget spent", "UNPRICED": "budget without prices"}


def of_budgets(seen: Seen) -> Iterator[Sign]:
    for row in seen.sight.snapshot.rows.every(BUDGET):
        if kind := _KINDS.get(row.state):
            yield Sign(subject_of(row), kind, row.message, row.next_action, "warning")
