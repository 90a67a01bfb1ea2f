"""Guards as they are declared, for requests of each version's own and for pairs."""

from __future__ import annotations

import pytest

import skyriver as sr
from skyriver.release.guards import AS_EVER, STANDARD, rules_of
from skyriver.release.shadow import ENOUGH, PAIRED, paired_of


def test_without_a_declaration_they_are_as_ever() -> None:
    assert rules_of(None) == AS_EVER
    assert rules_of(sr.Guards().spec) == AS_EVER
    assert paired_of(sr.Guards().spec) == PAIRED
    assert [guard.name for guard in PAIRED] == [guard.name for guard in STANDARD]


def test_of_pairs_a_ratio_of_odds_is_points_where_as_many_are_bad_as_usual() -> None:
    errors, refusals, latency, scores = (guard.test.tolerated for guard in PAIRED)
    assert (errors, latency) == (0, 0.02)
    assert refusals == pytest.approx(0.001, abs=5e-5)
    assert scores == pytest.approx(1.2 / 2.2 - 0.5)


@pytest.mark.parametrize("tolerated", [1.0, 2.0, 10.0])
def test_whatever_is_declared_there_is_a_test_for_it(tolerated: float) -> None:
    declared = sr.Guards(errors=tolerated, refusals=tolerated, scores=tolerated).spec
    for guard in rules_of(declared).guards:
        assert guard.name == "latency" or guard.test.tolerated == tolerated
        assert min(guard.test.worse) > guard.test.tolerated
    for paired in paired_of(declared):
        assert paired.test.bets


def test_so_many_pairs_as_the_guide_says_are_needed() -> None:
    assert ENOUGH == 619
