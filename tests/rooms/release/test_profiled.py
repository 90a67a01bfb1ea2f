"""What is kept of the rows that a version was made of, and that it tells later rows apart."""

import numpy as np
import pytest

from skyriver.core.errors import InvalidInput
from skyriver.data.profile import count
from skyriver.observe.drift import compare
from skyriver.release.profiled import MOST_ROWS, ModelProfile, evenly, profile_model

NAMES = ("amount", "night")


def _rows(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(shift, 1, n), rng.integers(0, 2, n)], axis=1).astype(np.float32)


def test_of_the_training_rows_alone_and_through_its_bytes() -> None:
    x = _rows(6_000, 1)
    x[4_000:] = np.nan  # the test rows, which must not count
    profile = profile_model(NAMES, x, np.arange(4_000), np.linspace(0, 1, 2_000, dtype=np.float32))
    again = ModelProfile.parse(profile.model_dump_json().encode())
    assert again == profile
    assert (again.inputs.rows, again.scores.rows) == (4_000, 2_000)
    assert all(column.missing == 0 for column in again.inputs.columns)


@pytest.mark.parametrize(("shift", "drifted"), [(0.0, []), (1.0, ["amount"])])
def test_later_rows_are_compared_with_what_was_kept(shift: float, drifted: list[str]) -> None:
    x = _rows(20_000, 1)
    kept = profile_model(NAMES, x, np.arange(20_000), x[:, 0]).model_dump_json().encode()
    inputs, now = ModelProfile.parse(kept).inputs, _rows(5_000, 2, shift)
    found = compare(inputs, {c.name: count(c, now[:, place]) for place, c in enumerate(inputs.columns)})
    assert [finding.column for finding in found.drifted] == drifted


def test_of_many_rows_some_evenly_spaced() -> None:
    places = evenly(np.arange(10, 10 + 3 * MOST_ROWS), MOST_ROWS)
    assert len(places) == MOST_ROWS
    assert set(np.diff(places).tolist()) == {3}
    assert evenly(np.arange(7), 7).tolist() == list(range(7))


def test_thirty_features_stay_small() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (20_000, 30)).astype(np.float32)
    profile = profile_model(tuple(f"f{n}" for n in range(30)), x, np.arange(20_000), x[:, 0])
    assert len(profile.model_dump_json()) < 60_000


@pytest.mark.parametrize("data", [b"", b"{}", b'{"inputs": 1, "scores": 2}'], ids=["empty", "nothing", "wrong"])
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="no profile of a version") as refused:
        ModelProfile.parse(data)
    assert refused.value.code == "BAD_PROFILE"
