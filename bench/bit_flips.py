"""Bits that flip: random bits of all that a stream keeps are turned over, and files end early, one damage at a time.

    python bench/bit_flips.py [--flips 10000] [--seed N] [--quick]

Log segments (sealed ones and the open one), their mark and manifest, objects in the tier, side log rows, journal and
description, checkpoints, the id index. After each damage a reader reads the log, and the next worker is asked for the
decisions of old events and of new ones whose windows pass over everything: each either says what is wrong, with the
place, or says what it would have said. Prints one JSON document; progress goes to stderr. --quick: 300 of them.
Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from _document import ROOT, Document, Goal, tell

sys.path.insert(0, str(ROOT / "tests"))  # what is damaged, and how
from flips.campaign import Campaign, Outcome

FLIPS = 10_000
QUICK = 300
GOALS = (Goal("flips", ">=", FLIPS, "damages"), Goal("silent_errors", "<=", 0, "damages"))
STEP = 250


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=0, help=f"how many ({FLIPS}; with --quick {QUICK})")
    parser.add_argument("--seed", type=int, default=0, help="of what is damaged how (default: another one every time)")
    parser.add_argument("--quick", action="store_true", help="a few of them")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folders are removed
    document = Document("flips", GOALS)
    flips = given.flips or (QUICK if given.quick else FLIPS)
    seed = given.seed or random.randrange(1, 1 << 31)
    document.part([goal.name for goal in GOALS], lambda: flip(document, flips, seed, quick=flips < FLIPS))
    return 0 if document.print() else 1


def flip(document: Document, flips: int, seed: int, *, quick: bool) -> None:
    tell(f"{flips} damages with --seed {seed}")
    memory = Path("/dev/shm")  # nothing of this is about the disk, and there it takes a quarter of the time
    with tempfile.TemporaryDirectory(prefix="flips-", dir=memory if memory.is_dir() else None) as folder:
        begun = time.monotonic()
        campaign = Campaign(Path(folder) / "streams", Path(folder) / "kernels", seed)
        while (done := sum(campaign.outcome.done.values())) < flips:
            outcome = campaign.run(min(STEP, flips - done))
            tell(f"{sum(outcome.done.values())} damages, {len(outcome.silent)} silent")
    outcome = campaign.outcome
    for what, count in sorted(outcome.done.items()):
        how = {key.replace(": ", "_"): n for (of, key), n in sorted(outcome.how.items()) if of == what}
        document.row("skyriver", f"damage of {what}", damages=count, **how)
    document.row("skyriver", "all of them", seed=seed, seconds=round(time.monotonic() - begun))
    wrong = _wrong(outcome)
    document.measured("silent_errors", len(wrong), note="; ".join(wrong[:3])[:1_000])
    if quick:
        document.missed("flips", f"{flips} of them were asked for", wanted=False)
    else:
        document.measured("flips", sum(outcome.done.values()))


def _wrong(outcome: Outcome) -> list[str]:
    """What was refused without its place is as good as silent: nobody could mend it."""
    return outcome.silent + outcome.unnamed


if __name__ == "__main__":
    sys.exit(main())
