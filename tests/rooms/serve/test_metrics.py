"""Counting, quantiles and the text for Prometheus."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skyriver.serve.metrics import Counters, Histogram, prometheus

VALUES = st.integers(0, 2**27)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(st.lists(VALUES, min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_within_an_eighth(values: list[int], share: float) -> None:
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert exact / 1.13 - 1 <= filled(values).quantile(share) <= exact * 1.13 + 1


@given(st.lists(VALUES, max_size=100))
def test_counts_below_powers_of_two_are_exact(values: list[int]) -> None:
    for bound, count in filled(values).cumulative():
        assert count == sum(1 for value in values if value < bound)


@given(st.lists(VALUES, min_size=1), st.lists(VALUES, min_size=1))
def test_a_quantile_since_a_copy_knows_only_what_came_after(old: list[int], new: list[int]) -> None:
    histogram = filled(old)
    before = histogram.counts.copy()
    for value in new:
        histogram.add(value)
    assert histogram.quantile(0.5, before) == filled(new).quantile(0.5)


def test_what_is_beyond_all_buckets_is_counted() -> None:
    histogram = filled([2**40, -1])
    assert histogram.count == 2
    assert histogram.quantile(1.0) >= 2**28


def test_nothing_has_a_quantile_of_zero() -> None:
    assert Histogram().quantile(0.5) == 0


def test_whose_fault_an_answer_was() -> None:
    counters = Counters()
    for status in (200, 200, 400, 422, 501, 503, 500):
        counters.answered(status, 10)
    assert (counters.requests, counters.errors, counters.refused, counters.overloaded) == (7, 1, 3, 1)
    counters.answered(503, 10)
    counters.unread += 1
    assert (counters.requests, counters.errors, counters.overloaded) == (8, 1, 1)


def test_the_text_is_what_prometheus_reads() -> None:
    counters = Counters()
    counters.answered(200, 100)
    counters.answered(422, 5_000)
    text = prometheus(counters, {"model": 'a"b'}, waiting=3, running=1, connections=2).decode()
    assert 'skyriver_requests_total{model="a\\"b",code="200"} 1' in text
    assert 'skyriver_request_seconds_bucket{model="a\\"b",le="0.000127"} 1' in text
    assert 'skyriver_request_seconds_bucket{model="a\\"b",le="+Inf"} 2' in text
    assert 'skyriver_request_seconds_sum{model="a\\"b"} 0.0051' in text
    assert 'skyriver_waiting_requests{model="a\\"b"} 3' in text
    line = re.compile(r'(#.*|[a-z_]+\{[a-z_]+="(?:[^"\\]|\\.)*"(,[a-z_]+="[^"]*")*\} [-+0-9.e]+(inf)?)')
    assert all(line.fullmatch(part) for part in text.splitlines())
