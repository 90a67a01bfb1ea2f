"""Decisions: what rules, their thresholds, probabilities and reasons are worth and take.

    python bench/decisions.py [--quick] [--part NAME ...]

Prints one JSON document; progress goes to stderr. --part: only that (rules, reasons, calibration, tuned, replay,
lists). Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from _document import Document, Goal
from _lists import measure_lists
from _processes import workplace
from _reasons import measure_calibration, measure_reasons, measure_rules
from _replay import measure_replay
from _tuned import measure_tuned

GOALS = (
    Goal("cost_ratio_tuned_to_default", "<=", 1, "of the cost by 0.9 and 0.5"),
    Goal("tuned_equal_to_duckdb", ">=", 1, "0 or 1"),
    Goal("replay_differences", "<=", 0, "events"),
    Goal("replay_equal_to_duckdb", ">=", 1, "0 or 1"),
    Goal("replay_events_per_second_core", ">=", 100_000, "events/s"),
    Goal("list_us_an_event", "<=", 1, "microseconds of CPU time"),
    Goal("lists_equal_to_duckdb", ">=", 1, "0 or 1"),
    Goal("rules_us_50", "<=", 5, "us"),
    Goal("reasons_us", "<=", 200, "us"),
    Goal("reasons_difference", "<=", 1e-6, "log-odds"),
    Goal("calibration_error_ratio", "<=", 0.5, "of the score's"),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    days: int = 183
    """Of the handbook's payments."""
    customers: int = 5_000
    """And twice as many terminals."""
    many: int = 10_000_000
    """Events that thresholds are chosen on to see what that takes."""
    listed: int = 1_000_000
    """Ids on a list."""


QUICK = Sizes(many=1_000_000, listed=100_000)


@dataclass(frozen=True, slots=True)
class Bench:
    """What the parts share."""

    document: Document
    sizes: Sizes
    folder: Path


PARTS: dict[str, tuple[tuple[str, ...], Callable[[Bench], None]]] = {
    "rules": (("rules_us_50",), measure_rules),
    "reasons": (("reasons_us", "reasons_difference"), measure_reasons),
    "calibration": (("calibration_error_ratio",), measure_calibration),
    "tuned": (("cost_ratio_tuned_to_default", "tuned_equal_to_duckdb"), measure_tuned),
    "replay": (
        ("replay_differences", "replay_equal_to_duckdb", "replay_events_per_second_core"),
        measure_replay,
    ),
    "lists": (("list_us_an_event", "lists_equal_to_duckdb"), measure_lists),
}


def measure(document: Document, sizes: Sizes, parts: list[str]) -> None:
    with workplace() as folder:
        bench = Bench(document, sizes, folder)
        for name, (goals, work) in PARTS.items():
            if name in parts:
                document.part(goals, lambda work=work: work(bench))
            else:
                for goal in goals:
                    document.missed(goal, f"this run leaves out {name}", wanted=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute or two")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="only this (may be given several times)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started here is ended
    document = Document("decisions", GOALS)
    document.part((), lambda: measure(document, QUICK if given.quick else Sizes(), given.part or list(PARTS)))
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
