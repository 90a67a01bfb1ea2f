"""Kills: a cloud at work whose processes die at any moment, and what is lost of it; then a stream, through which all
the simulated payments go while every part of it dies, and which is disturbed otherwise; then simulated power cuts; then
bits that flip in what a stream keeps.

    python bench/faults.py [--kills 1000] [--minutes N] [--seed N] [--quick] [--stop] [--kills-only] [--streams]
        [--flips 10000]

Prints one JSON document; progress goes to stderr. --quick kills 100 times each and cuts a quarter of the times.
--streams does the part with the stream alone, --kills-only leaves out the power cuts. --minutes ends each killing after
so long, however many were killed by then; what came of them is examined all the same. --stop ends that of the cloud at
the first thing that is wrong. --flips says how many bits flip (`bit_flips.py` does it alone).
Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import _stream_faults
import bit_flips
import power_cuts
from _document import ROOT, Document, Goal, tell

sys.path.insert(0, str(ROOT / "tests"))  # the cloud of the tests, and those who kill it
from cloud_process import Cloud
from kills.campaign import Campaign, Outcome
from kills.journal import quantile
from kills.victims import KINDS

GOALS = (
    Goal("kills", ">=", 1_000, "kills"),
    Goal("acknowledged_lost", "<=", 0, "writes"),
    Goal("decided_twice", "<=", 0, "events"),
    Goal("actions_twice", "<=", 0, "actions"),
    Goal("failed_requests_control_dead", "<=", 0, "requests"),
    Goal("failed_requests_nothing_dead", "<=", 0, "requests"),
    Goal("not_ready_again", "<=", 0, "things"),
    Goal("left_or_wrong", "<=", 0, "things"),
    *_stream_faults.GOALS,
    Goal("power_cuts", ">=", power_cuts.CUTS, "cuts"),
    Goal("power_cuts_broken", "<=", 0, "cuts"),
    *bit_flips.GOALS,
)
FLIPS = tuple(goal.name for goal in bit_flips.GOALS)
CUTS = ("power_cuts", "power_cuts_broken")
BOTH = ("acknowledged_lost", "decided_twice")
"""Goals that hold for the cloud and for the stream together."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, help="how many (1000; with --quick 100)")
    parser.add_argument("--minutes", type=float, default=90.0, help="for how long at most")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed when (default: another one every time)")
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--kills-only", action="store_true", help="no power cuts")
    parser.add_argument("--streams", action="store_true", help="the part with the stream alone")
    parser.add_argument("--flips", type=int, default=0, help="how many bits flip (10000; with --quick 300)")
    parser.add_argument("--stop", action="store_true", help="end at the first thing that is wrong")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started here is ended
    document = Document("faults", GOALS)
    kills = given.kills or (100 if given.quick else 1_000)
    seed = given.seed or random.randrange(1, 1 << 31)
    flips = given.flips or (bit_flips.QUICK if given.quick else bit_flips.FLIPS)
    try:
        measure_all(document, kills, seed, flips, given)
    finally:
        held = document.print()  # also when it is ended half-way
    return 0 if held else 1


def measure_all(document: Document, kills: int, seed: int, flips: int, given: argparse.Namespace) -> None:
    others = {*CUTS, *BOTH, *FLIPS, *(goal.name for goal in _stream_faults.GOALS)}
    of_cloud = [goal.name for goal in GOALS if goal.name not in others]
    counted = Counted(document)
    if given.streams:
        leave_out(document, of_cloud, "--streams leaves it out")
    else:
        document.part([*of_cloud, *BOTH], lambda: measure(document, counted, kills, seed, given))
    document.part([*_stream_faults.KILLED, *BOTH], lambda: measure_streams(document, counted, kills, seed, given))
    document.part(["disturbances_wrong"], lambda: _stream_faults.disturb(document, quick=given.quick))
    if given.kills_only or given.streams:
        leave_out(document, CUTS, "power cuts are left out")
    else:
        document.part(CUTS, lambda: cut_power(document, quick=given.quick))
    if given.kills_only:
        leave_out(document, FLIPS, "--kills-only leaves them out")
    else:
        document.part(FLIPS, lambda: bit_flips.flip(document, flips, seed, quick=flips < bit_flips.FLIPS))


def leave_out(document: Document, names: Sequence[str], reason: str) -> None:
    for name in names:
        document.missed(name, reason, wanted=False)


class Counted:
    """What was lost and what was decided twice, over all campaigns."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: dict[str, list[str]] = {name: [] for name in BOTH}

    def add(self, lost: Sequence[str], decided_twice: Sequence[str]) -> None:
        for name, found in zip(BOTH, (lost, decided_twice), strict=True):
            total = self._found[name]
            total += found
            self._document.measured(name, len(total), note="; ".join(total[:3])[:1_000])


def measure_streams(document: Document, counted: Counted, kills: int, seed: int, given: argparse.Namespace) -> None:
    outcome = _stream_faults.kill_stream(document, kills, seed, minutes=given.minutes, quick=given.quick)
    counted.add(outcome.lost, outcome.decided_twice)


def cut_power(document: Document, *, quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="powercut-") as folder:
        found = power_cuts.cut_power(document, Path(folder), 0, power_cuts.CUTS // 4 if quick else power_cuts.CUTS)
    if quick:
        document.missed("power_cuts", f"--quick: {found.cuts} of them", wanted=False)
    else:
        document.measured("power_cuts", found.cuts)
    document.measured("power_cuts_broken", found.broken.total())


def measure(document: Document, counted: Counted, kills: int, seed: int, given: argparse.Namespace) -> None:
    tell(f"{kills} kills with --seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="srb-"))
    cloud = Cloud(folder)
    try:
        until = time.monotonic() + 60 * given.minutes
        outcome = Campaign(cloud, seed, stop=given.stop).run(kills, lambda: time.monotonic() > until)
    finally:
        cloud.close()
    _rows(document, outcome, seed)
    journal = outcome.journal
    few = given.quick and len(journal.kills) >= kills
    if few:
        document.missed("kills", f"--quick: {len(journal.kills)} of them", wanted=False)
    else:
        document.measured("kills", len(journal.kills))
    counted.add(journal.lost, journal.decided_twice)
    for name, found in (
        ("actions_twice", journal.twice),
        ("failed_requests_control_dead", outcome.failed("control")),
        ("failed_requests_nothing_dead", outcome.failed("nothing")),
        ("not_ready_again", outcome.not_ready_again),
        ("left_or_wrong", journal.wrong),
    ):
        document.measured(name, len(found), note="; ".join(found[:3])[:1_000])


def _rows(document: Document, outcome: Outcome, seed: int) -> None:
    journal = outcome.journal
    for kind in KINDS:
        for stopped in (False, True):
            killed = [k for k in journal.kills if k.kind == kind and k.stopped == stopped]
            found = journal.recoveries(kind, stopped=stopped)
            alone = journal.recoveries(kind, stopped=stopped, alone=True)
            if not killed:
                continue
            figures: dict[str, float] = {"kills": len(killed), "over": sum(bool(k.over) for k in killed)}
            for case, times in (("", found), ("alone_", alone)):
                if times:
                    quantiles = {f"{case}p50_seconds": 0.5, f"{case}p95_seconds": 0.95, f"{case}max_seconds": 1.0}
                    figures |= {name: round(quantile(times, share), 2) for name, share in quantiles.items()}
            case = f"recovery of a {'stopped' if stopped else 'killed'} {kind}"
            document.row("skyriver", case, alone=len(alone), **figures)
    moments = {m: sum(k.moment == m for k in journal.kills) for m in sorted({k.moment for k in journal.kills})}
    document.row("skyriver", "kills by moment", seed=seed, seconds=round(outcome.seconds), ups=outcome.ups, **moments)
    for what in ("prediction", "event", "api"):
        failed = journal.failed_by(what)
        slowest = round(journal.slowest.get(what, 0.0), 2)
        asked = journal.asked[what]
        document.row(
            "skyriver", f"{what}s, failed by what was dead", asked=asked, slowest_seconds=slowest, failed=failed
        )
        document.row("skyriver", f"why {what}s failed", **{blame: journal.whys(what, blame) for blame in failed})
    document.row("skyriver", "examined", **outcome.checked)


if __name__ == "__main__":
    sys.exit(main())
