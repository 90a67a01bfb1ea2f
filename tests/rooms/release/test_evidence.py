import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import nchypergeom_fisher

from skyriver.release.evidence import Counted, OddsTest, PairedTest, Pairs, mean_evidence, needed, pairs_needed

ODDS = (1.5, 2.0, 4.0, 16.0)

margins = st.tuples(st.integers(1, 25), st.integers(1, 25)).flatmap(
    lambda of: st.tuples(st.just(of[0]), st.just(of[1]), st.integers(0, of[0] + of[1]))
)


def exact(champion: int, candidate: int, bad: int, odds: Fraction) -> dict[int, Fraction]:
    """Fisher's noncentral hypergeometric distribution by its definition."""
    weights = {
        x: math.comb(candidate, x) * math.comb(champion, bad - x) * odds**x
        for x in range(max(0, bad - champion), min(bad, candidate) + 1)
    }
    total = sum(weights.values())
    return {x: Fraction(weight) / total for x, weight in weights.items()}


@given(margins, st.sampled_from(ODDS), st.sampled_from((1.0, 1.25)))
def test_the_factor_is_the_ratio_of_the_two_likelihoods(
    of: tuple[int, int, int], odds: float, tolerated: float
) -> None:
    champion, candidate, bad = of
    worse = exact(champion, candidate, bad, Fraction(odds))
    same = exact(champion, candidate, bad, Fraction(tolerated))
    test = OddsTest((odds,), tolerated)
    for x, chance in worse.items():
        (log,) = test.look(test.start, Counted(champion, bad - x), Counted(candidate, x))
        assert math.exp(log) == pytest.approx(float(chance / same[x]), rel=1e-9)


@given(margins, st.sampled_from((Fraction(1, 3), Fraction(1), Fraction(5, 4))), st.sampled_from((math.inf, 2.0)))
def test_nobody_who_is_not_worse_than_tolerated_can_expect_a_factor_above_one(
    of: tuple[int, int, int], truth: Fraction, at_most: float
) -> None:
    champion, candidate, bad = of
    test = OddsTest(ODDS, tolerated=1.25, at_most=at_most)
    expected = [0.0] * len(ODDS)
    for x, chance in exact(champion, candidate, bad, truth).items():
        logs = test.look(test.start, Counted(champion, bad - x), Counted(candidate, x))
        expected = [e + float(chance) * math.exp(log) for e, log in zip(expected, logs, strict=True)]
    assert all(e <= 1 + 1e-9 for e in expected)
    if truth == Fraction(5, 4) and at_most == math.inf:
        assert expected == pytest.approx([1.0] * len(ODDS), rel=1e-9), "on the border nothing is given away"


def test_large_counts_too_as_another_implementation_has_it() -> None:
    champion, candidate, bad, odds = 40_000, 9_000, 2_500, 1.5
    for x in (400, 460, 600):
        worse = nchypergeom_fisher.logpmf(x, champion + candidate, bad, candidate, odds)
        same = nchypergeom_fisher.logpmf(x, champion + candidate, bad, candidate, 1.0)
        (log,) = OddsTest((odds,)).look((0.0,), Counted(champion, bad - x), Counted(candidate, x))
        assert log == pytest.approx(worse - same, rel=1e-6)


def test_a_look_without_a_bad_request_or_without_a_request_of_one_of_them_tells_nothing() -> None:
    test = OddsTest(ODDS)
    logs = (0.5, 0.1, -3.0, 2.0)
    for champion, candidate in (
        (Counted(100, 0), Counted(10, 0)),
        (Counted(0, 0), Counted(10, 10)),
        (Counted(100, 7), Counted(0, 0)),
        (Counted(3, 3), Counted(2, 2)),
    ):
        assert test.look(logs, champion, candidate) == logs


def test_a_bad_hour_of_both_is_no_evidence() -> None:
    test = OddsTest(ODDS)
    logs = test.start
    for _ in range(200):
        logs = test.look(logs, Counted(90, 45), Counted(10, 5))
    assert mean_evidence(logs) < 0


def test_a_candidate_that_fails_always_is_found_after_a_few_requests() -> None:
    test = OddsTest((2.0, 8.0, 64.0, 1024.0))
    logs = test.start
    for _ in range(3):
        logs = test.look(logs, Counted(99, 0), Counted(1, 1))
    assert mean_evidence(logs) >= math.log(150)


def test_a_burst_is_no_more_than_one_look() -> None:
    test = OddsTest(ODDS, at_most=4.0)
    logs = test.look(test.start, Counted(1_000, 10), Counted(1_000, 900))
    assert mean_evidence(logs) <= math.log(4)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_of_candidates_that_are_as_good_few_are_ever_accused(share: float) -> None:
    """Ville's inequality, tried: at alpha 0.1 and 400 looks, of 300 candidates fewer than 30 and a little more."""
    rng = random.Random(f"{share}")
    test, accused = OddsTest(ODDS), 0
    for _ in range(300):
        logs = test.start
        for _ in range(400):
            total = max(1, round(50 * share)) if share < 1 else 50
            candidate = sum(rng.random() < 0.05 for _ in range(total))
            champion = sum(rng.random() < 0.05 for _ in range(50 - total))
            logs = test.look(logs, Counted(50 - total, champion), Counted(total, candidate))
            if mean_evidence(logs) >= math.log(10):
                accused += 1
                break
    assert accused <= 40


def test_as_many_requests_as_are_said_to_be_needed_are_enough_for_nine_in_ten() -> None:
    rng, test = random.Random(7), OddsTest((1.5, 2.0, 4.0, 8.0, 16.0))
    enough = needed(0.005, 5.0, test, 0.1, evidence=150)
    assert 100 < enough < 1_500
    found = 0
    for _ in range(60):
        logs, asked = test.start, 0
        while asked < enough and mean_evidence(logs) < math.log(150):
            asked += 10
            bad = sum(rng.random() < 5 * 0.005 / (0.995 + 5 * 0.005) for _ in range(10))
            logs = test.look(logs, Counted(90, sum(rng.random() < 0.005 for _ in range(90))), Counted(10, bad))
        found += mean_evidence(logs) >= math.log(150)
    assert found >= 51


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Counted(3, 4),
        lambda: Counted(3, -1),
        lambda: OddsTest(()),
        lambda: OddsTest((1.0,)),
        lambda: OddsTest((1.5,), tolerated=2.0),
        lambda: OddsTest((1.5,), at_most=1.0),
        lambda: needed(0.0, 2.0, OddsTest((2.0,)), 0.1, 50),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"bad ones of|no test of odds|shares are between"):
        wrong()


@given(
    st.integers(1, 40),
    st.sampled_from((0.0, 0.01, 0.05)),
    st.sampled_from((math.inf, 2.0)),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_of_pairs_too_nobody_within_what_is_tolerated_can_expect_a_factor_above_one(
    total: int, tolerated: float, at_most: float, discordant: float, part: float
) -> None:
    """Whatever share of the pairs differs: the expectation over all that one look can show."""
    test = PairedTest(tolerated, at_most=at_most)
    worse = part * min(discordant, (discordant + tolerated) / 2)
    better = discordant - worse
    assert worse - better <= tolerated + 1e-12
    expected = [0.0] * len(test.bets)
    for up in range(total + 1):
        for down in range(total + 1 - up):
            ways = math.comb(total, up) * math.comb(total - up, down)
            chance = ways * worse**up * better**down * max(0.0, 1 - discordant) ** (total - up - down)
            for place, log in enumerate(test.look(test.start, Pairs(total, up, down))):
                expected[place] += chance * math.exp(log)
    assert all(e <= 1 + 1e-9 for e in expected)


def test_pairs_on_the_border_of_what_is_tolerated_give_nothing_away() -> None:
    test = PairedTest(0.05)
    expected = [0.0] * len(test.bets)
    for chance, seen in ((0.3, (1, 0)), (0.25, (0, 1)), (0.45, (0, 0))):
        logs = test.look(test.start, Pairs(1, *seen))
        expected = [e + chance * math.exp(log) for e, log in zip(expected, logs, strict=True)]
    assert expected == pytest.approx([1.0] * len(test.bets), rel=1e-9)


def test_pairs_find_out_what_fails_more_often_with_so_many_as_are_said_to_be_needed() -> None:
    rng, test, evidence = random.Random(5), PairedTest(), 400.0
    enough, found = pairs_needed(0.005, 0.05, test, evidence), 0
    for _ in range(200):
        worse = sum(rng.random() < 0.055 * 0.995 for _ in range(enough))
        better = sum(rng.random() < 0.005 * 0.945 for _ in range(enough))
        found += mean_evidence(test.look(test.start, Pairs(enough, worse, better))) >= math.log(evidence)
    assert found >= 180


@pytest.mark.parametrize("wrong", [(1, 1, 1), (1, -1, 0), (2, 0, 3)])
def test_pairs_that_cannot_be_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="of"):
        Pairs(*wrong)


@pytest.mark.parametrize(
    "wrong", [{"bets": ()}, {"bets": (1.0,)}, {"tolerated": -0.1}, {"tolerated": 0.3, "bets": (0.8,)}]
)
def test_tests_of_pairs_that_could_lose_more_than_all_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no test of pairs"):
        PairedTest(**wrong)


def test_counts_without_bound_take_no_time_without_bound() -> None:
    test = OddsTest(ODDS)
    huge = test.look(test.start, Counted(10**15, 10**14), Counted(10**14, 2 * 10**13))
    assert huge[0] > 1_000
    same = test.look(test.start, Counted(10**12, 10**11), Counted(10**11, 10**10))
    assert all(log < 0 for log in same)
