"""How many servers keep requests from waiting by chance, against Erlang's formula in plain numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skyriver.control.schedule.chance import MOST_TIMES, by_chance, servers


def waits_longer(n: int, load: float, left_s: float, service_s: float) -> float:
    """Of M/M/n, by its probabilities of state."""
    if n <= load:
        return 1.0
    terms = [load**k / math.factorial(k) for k in range(n)]
    queued = load**n / math.factorial(n) * n / (n - load)
    return queued / (sum(terms) + queued) * math.exp(-(n - load) * left_s / service_s)


CASES = [
    (load, left_s, service_s, allowed)
    for load in (0.05, 0.5, 1.37, 1.5, 3.0, 10.0, 30.0)
    for left_s, service_s in ((0.15, 0.05), (0.1, 0.05), (0.15, 0.012), (0.05, 0.02))
    for allowed in (0.1, 0.01, 0.001)
]


@pytest.mark.parametrize("load", sorted({case[0] for case in CASES}))
def test_they_are_the_fewest_that_do(load: float) -> None:
    for _, left_s, service_s, allowed in [case for case in CASES if case[0] == load]:
        needed = min(n for n in range(1, 100) if waits_longer(n, load, left_s, service_s) <= allowed)
        (found,) = servers(*(np.array([x]) for x in (load, left_s, service_s, allowed)))
        assert math.ceil(found - 1e-9) == needed, (left_s, service_s, allowed)


def test_of_a_large_load_hardly_more() -> None:
    (found,) = servers(*(np.array([x]) for x in (65.0, 0.1, 0.05, 0.01)))
    needed = min(n for n in range(1, 100) if waits_longer(n, 65.0, 0.1, 0.05) <= 0.01)
    assert needed <= math.ceil(found) <= needed + 2


def test_there_is_a_bound_where_no_number_would_do() -> None:
    (found,) = servers(*(np.array([x]) for x in (2.0, 1e-9, 1.0, 1e-9)))
    assert found == MOST_TIMES * 2


def test_services_do_not_mix() -> None:
    columns = [np.array([case[i] for case in CASES]) for i in range(4)]
    together = servers(*columns)
    alone = [servers(*(np.array([x]) for x in case))[0] for case in CASES]
    np.testing.assert_allclose(together, alone)


def test_the_share_that_waits_is_the_same_formula() -> None:
    for n, load in ((2, 0.5), (3, 1.5), (13, 10.0)):
        (share,) = by_chance(np.array([load]), np.array([float(n)]), 0.15, 0.05)  # 0.1 s are left after the work
        assert share == pytest.approx(waits_longer(n, load, 0.1, 0.05))
