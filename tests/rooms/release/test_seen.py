"""What a guard saw, in words."""

from __future__ import annotations

import pytest

from skyriver.release.guards import Breach
from skyriver.release.seen import odds, share, told_of_each, told_of_pairs


@pytest.mark.parametrize(
    ("found", "seen", "told"),
    [
        (
            Breach("scores", "above p50", 80.0),
            {"champion": [1_000, 100, 500, 900, 900, 500, 100], "candidate": [200, 0, 40, 150, 200, 160, 50]},
            "80% of version 3's 200 scores are above the median of version 2's; of version 2's own 1,000 it is 50%",
        ),
        (
            Breach("accepted", "bad", 80.0),
            {"champion": [1_000, 10], "candidate": [50, 5]},
            "10% of version 3's 50 answers have the worse accepted, as the application reports; of version 2's own"
            " 1,000 it is 1%",
        ),
        (Breach("errors", "bad", 80.0), {"champion": [9, 1], "candidate": [9, 9]}, ""),
        (Breach("latency", "bad", 80.0), {"champion": [9, 1]}, ""),
        (Breach("latency", "bad", 80.0), {}, ""),
    ],
)
def test_each_with_its_own_requests(found: Breach, seen: dict[str, list[int]], told: str) -> None:
    assert told_of_each(found, seen, (2, 3)) == told


def test_both_with_the_same_requests() -> None:
    assert told_of_pairs(Breach("scores", "below p10", 80.0), [[500, 90, 10]], (2, 3)) == (
        "of 500 requests that both answered, 90 of version 3's scores alone are below the 10% point of version 2's, and"
        " 10 of version 2's alone"
    )
    assert told_of_pairs(Breach("scores", "above p10", 80.0), [[500, 90, 10]], (2, 3)) == ""


def test_numbers_are_as_exact_as_they_are_worth() -> None:
    parts = [(1, 3), (1, 300), (0, 5), (1, 50_000), (299, 300), (5, 5)]
    assert [share(*part) for part in parts] == ["33%", "0.33%", "0%", "under 0.01%", "99.7%", "100%"]
    assert odds(2e40) == "The evidence is over 1,000,000,000 to 1 against chance."
