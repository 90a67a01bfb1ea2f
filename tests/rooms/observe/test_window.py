"""Rows of a window by quarters and by places of their keys."""

from __future__ import annotations

import numpy as np
import pytest

from skyriver.data.profile import count, profile_of
from skyriver.observe.drift import compare
from skyriver.observe.window import PLACES, Window, places_of

WINDOW = 4_000
PROFILE = profile_of(["a", "b"], [np.arange(2_000, dtype=np.float32), np.array([0, 1, np.nan, 1] * 500, np.float32)])


def filled(parts: int = 6) -> tuple[Window, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    window = Window(PROFILE, WINDOW)
    x, scores = rng.normal(1_000, 900, (parts * 50, 1)), rng.integers(-1, 4, parts * 50) / 2.0
    scores[scores < 0] = np.nan
    x[::17] = np.nan
    keys = rng.integers(0, 200, parts * 50)
    for part in range(parts):
        rows = slice(part * 50, part * 50 + 50)
        window.add(x[rows].astype(np.float32), scores[rows].astype(np.float32), places_of(keys[rows]), part * 1_000)
        window.looked(200, 100 if part == 5 else 200, part * 1_000)
    return window, x.astype(np.float32), scores.astype(np.float32), keys


def test_it_counts_as_a_profile_does_and_places_add_up_to_it() -> None:
    window, x, scores, keys = filled()
    for column, values in zip(PROFILE.columns, (x[:, 0], scores), strict=True):
        whole, known = window.together()[column.name], count(column, values)
        assert (whole.counts, whole.missing) == (known.counts, known.missing)
        places = window.by_place()[column.name]
        assert len(places) == PLACES
        own = count(column, values[places_of(keys) == 3])
        assert (places[3].counts, places[3].missing) == (own.counts, own.missing)
    assert window.rows == 300


def test_it_is_kept_and_forgets_by_quarters() -> None:
    window, *_ = filled()
    window.next_offset = 77
    again = Window.from_bytes(PROFILE, WINDOW, window.to_bytes())
    assert again.together() == window.together()
    assert (again.next_offset, again.since, again.share) == (77, window.since, pytest.approx(1_100 / 1_200))
    assert again.to_bytes() == window.to_bytes(), "the same is the same object"
    again.forget(2_000)
    assert again.rows == 200
    assert again.share == pytest.approx(700 / 800)
    again.forget(10_000)
    assert (again.rows, again.share) == (0, 1.0)
    with pytest.raises(ValueError, match="another profile"):
        Window.from_bytes(profile_of(["a"], [np.arange(9, dtype=np.float32)]), WINDOW, window.to_bytes())


def test_places_are_even_also_of_keys_that_count_up() -> None:
    held = np.bincount(places_of(np.arange(32_000)), minlength=PLACES)
    assert 850 < held.min() <= held.max() < 1_150


def heavy_days(seed: int, keys: int, sigma: float, days: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Some keys make most of the 3,000 rows of a day, each with values of its own, and they come on some days alone."""
    rng = np.random.default_rng(seed)
    rate, level = rng.lognormal(0, sigma, keys), rng.normal(0, 1, keys)
    rate *= 3_000 / (0.3 * rate.sum())
    found = []
    for _ in range(days):
        rows = rng.poisson(rate * (rng.random(keys) < 0.3) * rng.lognormal(0, 0.5, keys))
        key = rng.permutation(np.repeat(np.arange(keys), rows))
        found.append((key, (level[key] + rng.normal(0, 0.3, len(key))).astype(np.float32)))
    return found


def alarms(days: list[tuple[np.ndarray, np.ndarray]], shift: float, *, by_place: bool = True) -> list[int]:
    """On which of the days after the 28 of the training it is drift, by a window of a day."""
    x = np.concatenate([x for _, x in days[:28]])
    profile, found = profile_of(["x", "score"], [x, x]), []
    for number, (key, values) in enumerate(days[28:]):
        window, moved = Window(profile, 4), (values + shift).astype(np.float32)
        window.add(moved[:, None], moved, places_of(key), 1)
        drift = compare(profile, window.together(), window.by_place() if by_place else None)
        if drift.verdict == "drifted":
            found.append(number)
    return found


@pytest.mark.parametrize(("seed", "keys", "sigma", "loud"), [(2, 200, 1.0, 5), (0, 200, 2.0, 5), (2, 2_000, 1.5, 1)])
def test_heavy_keys_that_come_and_go_are_no_drift_and_what_all_do_is(
    seed: int, keys: int, sigma: float, loud: int
) -> None:
    """120 daily looks. `loud`: how many false alarms there are at least where rows are taken for draws."""
    days = heavy_days(seed, keys, sigma, 28 + 120)
    assert len(alarms(days, 0.0, by_place=False)) >= loud
    assert len(alarms(days, 0.0)) <= 1
    true = alarms(days, 2.0)
    assert true[0] <= 2, "within three days"
    assert len(true) > 60
