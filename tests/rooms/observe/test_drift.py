"""What is drift, and what is chance, a weekend, or a heavy key."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, ks_2samp

from skyriver.data.profile import Counted, count, profile_of
from skyriver.observe.drift import ONCE_IN, Drift, _chi_square, _kolmogorov, compare, limit_of, summary


def column(values: object) -> np.ndarray:
    return np.array(values, np.float32)


def look(before: np.ndarray, after: np.ndarray) -> Drift:
    profile = profile_of(["x"], [column(before)])
    return compare(profile, {"x": count(profile.columns[0], column(after))})


def test_what_it_says_of_a_change_is_for_a_person() -> None:
    rng = np.random.default_rng(0)
    profile = profile_of(["amount", "age"], [column(rng.normal(34, 10, 20_000)), column(rng.normal(40, 9, 20_000))])
    amount, age = profile.columns
    gone = np.where(rng.random(2_000) < 0.2, np.nan, rng.normal(61, 10, 2_000))
    found = compare(
        profile, {"amount": count(amount, column(gone)), "age": count(age, column(rng.normal(40, 9, 2_000)))}
    )
    assert (found.verdict, [f.column for f in found.drifted]) == ("drifted", ["amount"])
    assert found.findings[0].severity == "great"
    assert "1 of 2 columns have drifted: amount: index" in found.message
    assert "median 33.9" in found.message
    assert "missing 0%, now 19%" in found.message
    told = summary(found)
    assert [c["column"] for c in told["columns"]] == ["amount", "age"]  # type: ignore[attr-defined]


def test_too_few_rows_say_nothing() -> None:
    rng = np.random.default_rng(0)
    found = look(rng.normal(size=5_000), rng.normal(5, 1, 400))
    assert (found.verdict, found.rows) == ("unknown", 400)
    assert "500 are needed" in found.message


@pytest.mark.parametrize("rows", [500, 2_000, 50_000])
def test_a_small_change_of_many_rows_does_not_matter_and_a_great_one_of_few_is_seen(rows: int) -> None:
    rng = np.random.default_rng(rows)
    before = rng.normal(size=50_000)
    assert look(before, rng.normal(0.1, 1, rows)).verdict == "none"
    assert look(before, rng.normal(0.7, 1, rows)).verdict == "drifted"


def test_a_year_of_hourly_looks_at_thirty_columns_is_quiet() -> None:
    """The bins' counts are drawn, which is the same and quicker: 262,800 looks at days of 500 rows, the fewest."""
    rng = np.random.default_rng(5)
    (own,) = profile_of(["x"], [column(rng.normal(size=20_000))]).columns
    shares, loudest = np.array(own.counts) / own.rows, 0.0
    counts = rng.multinomial(500, shares, size=262_800)
    q = np.maximum(counts, 0.5) / 500
    index = ((q - shares) * np.log(q / shares)).sum(axis=1) - (len(shares) - 1) * (1 / 20_000 + 1 / 500)
    loudest = float(index.max())
    limit = limit_of(own, Counted(tuple([25] * 20), 0))
    assert loudest < limit
    assert limit < 0.3, "and a great change is seen of so few, too"


def test_weekends_and_heavy_keys_that_were_there_before_are_no_drift() -> None:
    rng = np.random.default_rng(7)

    def day(number: int, shift: float = 0.0) -> np.ndarray:
        heavy = rng.normal(3, 0.1, 150 if rng.random() < 0.3 else 0)  # a key that comes on some days
        return np.concatenate([rng.normal(1.0 if number % 7 >= 5 else 0.0, 1, 1_000) + shift, heavy])

    profile = profile_of(["x"], [column(np.concatenate([day(n) for n in range(28)]))])

    def verdict(x: np.ndarray) -> str:
        return compare(profile, {"x": count(profile.columns[0], column(x))}).verdict

    assert [verdict(day(n)) for n in range(200)] == ["none"] * 200
    assert verdict(day(0, shift=2.5)) == "drifted"


def test_the_quantile_and_the_chance_are_those_of_others() -> None:
    for free in (1, 5, 19):
        exact = chi2.isf(1 / ONCE_IN, free)
        assert exact < _chi_square(free) < 1.2 * exact, "so far out it is a little careful"
    rng = np.random.default_rng(1)
    for n, m in ((200, 300), (2_000, 500)):
        x, y = rng.normal(size=n), rng.normal(0.15, 1, m)
        other = ks_2samp(x, y, method="asymp")
        assert _kolmogorov(float(other.statistic), n, m) == pytest.approx(other.pvalue, abs=0.02)
    assert _kolmogorov(0.0, 100, 100) == 1.0
    assert _kolmogorov(1.0, 0, 100) == 1.0
