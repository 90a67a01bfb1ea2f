"""A thousand simulated power cuts under the store, the log, objects, tables, streams and the home.

    python bench/power_cuts.py [--quick] [--seed N]

Prints one JSON document; progress goes to stderr. What is simulated: docs/decisions/0006-power-cuts.md. --quick makes a
quarter of the cuts. Exit code 1: a goal does not hold. A cut that broke something is told with its part and seed, by
which it happens again.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from _document import ROOT, Document, Goal, tell

sys.path.insert(0, str(ROOT / "tests"))  # the examination is shared with the tests
from powercut.examine import Report, Task, examine
from powercut.layer import Lie, build
from powercut.part import PARTS, PROMISE_FOLDERS

CUTS = 1_000
GOALS = (
    Goal("power_cuts", ">=", CUTS, "cuts"),
    Goal("acknowledged_lost", "<=", 0, "cuts"),
    Goal("silent_errors", "<=", 0, "cuts"),
    Goal("not_recovered", "<=", 0, "cuts"),
    Goal("lying_disks_found", ">=", 1, "share"),
)
PLACES = 26
"""Places of the cuts in one recorded piece of work; each gives one cut or two."""
LENIENT_PLACES = 10
LIE_PLACES = 12
CHILD_SECONDS = 900.0


@dataclass
class Found:
    """Over all cuts of the strict disk; a cut is counted once, by the first law that it broke."""

    cuts: int = 0
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, report: Report) -> None:
        self.cuts += report.cuts
        self.broken.update(finding.what for finding in report.findings)
        for finding in report.findings:
            tell(f"BROKEN {report.part}, seed {report.seed}: {finding}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the cuts")
    parser.add_argument("--seed", type=int, default=0, help="of the first piece of work; others follow")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the child that was started here is ended
    document = Document("power_cuts", GOALS)
    with tempfile.TemporaryDirectory(prefix="powercut-") as place:
        folder = Path(place)
        cuts = CUTS // 4 if given.quick else CUTS
        measured = ["power_cuts", "acknowledged_lost", "silent_errors", "not_recovered"]
        document.part(measured, lambda: measure_cuts(document, folder, given.seed, cuts))
        document.part(["lying_disks_found"], lambda: measure_control(document, folder, given.seed))
    return 0 if document.print() else 1


def measure_cuts(document: Document, folder: Path, seed: int, cuts: int) -> None:
    found = cut_power(document, folder, seed, cuts)
    if cuts < CUTS:
        document.missed("power_cuts", f"--quick makes {found.cuts}", wanted=False)
    else:
        document.measured("power_cuts", found.cuts)
    document.measured("acknowledged_lost", found.broken["lost"])
    document.measured("silent_errors", found.broken["wrong"])
    document.measured("not_recovered", found.broken["stuck"])


def cut_power(document: Document, folder: Path, seed: int, cuts: int) -> Found:
    """At least so many cuts on the strict disk, the same share for each part, and some on the lenient one beside."""
    library, found, lenient = build(folder), Found(), Found()
    works = -(-cuts // (PLACES * len(PARTS)))
    for part in PARTS:
        begun = time.perf_counter()
        tasks = [Task(part, seed + number, PLACES) for number in range(works)]
        reports = examine(tasks, library, timeout=CHILD_SECONDS)
        for report in reports:
            found.add(report)
        (ordered,) = examine([Task(part, seed, LENIENT_PLACES, ordered=True)], library, timeout=CHILD_SECONDS)
        lenient.add(ordered)
        document.row(
            "skyriver",
            f"{part}: power cuts",
            cuts=sum(r.cuts for r in reports),
            of_which_into_a_recovery=sum(r.second_cuts for r in reports),
            kills_before=sum(r.kills for r in reports),
            cuts_on_the_lenient_disk=ordered.cuts,
            file_operations=sum(r.events for r in reports),
            syncs=sum(r.syncs for r in reports),
            broken=sum(len(r.findings) for r in (*reports, ordered)),
            seconds=round(time.perf_counter() - begun, 1),
        )
    found.broken += lenient.broken
    return found


def measure_control(document: Document, folder: Path, seed: int) -> None:
    """Disks that say "synced" and are not: each part must lose something on them, or the examination is blind."""
    lies: list[tuple[Lie, tuple[str, ...]]] = [("files", PARTS), ("folders", PROMISE_FOLDERS)]
    noticed = disks = 0
    for lie, parts in lies:
        reports = examine([Task(part, seed, LIE_PLACES, lie) for part in parts], build(folder), timeout=CHILD_SECONDS)
        blind = [report.part for report in reports if not report.findings]
        noticed, disks = noticed + len(parts) - len(blind), disks + len(parts)
        document.row(
            "control",
            f"a disk on which syncs of {lie} do nothing",
            cuts=sum(r.cuts for r in reports),
            broken=sum(len(r.findings) for r in reports),
            parts_that_noticed_nothing=blind,
        )
    document.measured("lying_disks_found", round(noticed / disks, 3))


if __name__ == "__main__":
    sys.exit(main())
