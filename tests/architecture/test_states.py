"""The tables of states are sound, and the diagrams in the documents are those of the tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyriver.core.resources import Kind
from skyriver.wiring.diagrams import diagrams
from skyriver.wiring.kinds import KINDS

STATES = Path(__file__).parents[2] / "docs" / "states.md"


def test_the_diagrams_are_those_of_the_tables() -> None:
    assert STATES.read_text() == diagrams(KINDS), "`make docs` writes them anew"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_state_is_reached_and_only_final_ones_are_never_left(kind: Kind) -> None:
    states = {s for move in kind.moves for s in move} | {kind.initial, *kind.final}
    reached, before = {kind.initial}, set[str]()
    while reached != before:
        before, reached = reached, reached | {after for start, after in kind.moves if start in reached}
    assert states <= reached, f"never reached: {sorted(states - reached)}"
    left = {start for start, after in kind.moves if start != after}
    assert not left & kind.final, f"final, and left: {sorted(left & kind.final)}"
