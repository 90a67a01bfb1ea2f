"""The watching of the system: planted faults, how soon each is noticed and what it is put down to; and false alarms.

    python bench/watch.py [--quick] [--seed N] [--parts faults,week,live]

A cloud in simulated time (`_watch_world.py`): the product's control loop, kinds and watching over played processes and
measurements, a look every five seconds. After two ordinary hours one fault is planted. It is noticed if within 60 s
there is an incident with the thing that is ill in it; its cause is right if what stands first in the incident is what
was done or, where nobody did anything, the thing itself. Each fault has a process of its own, forked from the same two
hours. Then a week in which small troubles come and go, as in an ordinary one (TROUBLES): each incident of it is a false
alarm.
At last three faults in a real cloud under load (`_watch_live.py`).
Prints one JSON document; progress goes to stderr. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from _document import Document, Goal, add_parts
from _watch_faults import FAULTS, Fault, measures, sets
from _watch_live import measure_live
from _watch_world import GB, World

from skyriver.core.resources import Resource
from skyriver.core.units import DAY

GOALS = (
    Goal("noticed", ">=", 45, "of 50 faults"),
    Goal("right_cause_first", ">=", 35, "of 50 faults"),
    Goal("false_alarms_in_a_week", "<=", 1, "incidents"),
    Goal("live_told", ">=", 3, "of 3 faults in a real cloud"),
)
PARTS = {
    "faults": ("noticed", "right_cause_first"),
    "week": ("false_alarms_in_a_week",),
    "live": ("live_told",),
}
NOTICED_S = 60.0
WARM_S = 7_200.0


def examine(world: World, fault: Fault) -> dict[str, Any]:
    """What a person would know of it after a minute."""
    before = {row.name for row in world.incidents}
    planted = world.clock.monotonic()
    fault.plant(world)
    noticed: float | None = None
    while world.clock.monotonic() - planted < NOTICED_S * 1e6:
        world.look()
        after = (world.clock.monotonic() - planted) / 1e6
        told = any(_about(row, fault) for row in world.incidents if row.name not in before)
        noticed = after if noticed is None and told and after <= NOTICED_S else noticed
    fresh = [row for row in world.incidents if row.name not in before and row.state != "RESOLVED"]
    mine = [row for row in fresh if _about(row, fault)]
    said = [(c["subject"], c["kind"]) for row in mine[:1] for c in row.status["causes"][:1]]
    return {
        "fault": fault.name,
        "noticed_s": round(noticed, 1) if noticed is not None else None,
        "right": bool(said) and said[0] in fault.because,
        "incidents": len(fresh),
        "said": " / ".join(said[0]) if said else "",
        "told": mine[0].message if mine else "; ".join(row.message for row in fresh),
    }


def _about(row: Resource, fault: Fault) -> bool:
    return any(c["subject"] in fault.ill for c in row.status["conditions"])


_world: World | None = None


def _forked(place: int) -> dict[str, Any]:
    assert _world is not None
    return examine(_world, FAULTS[place])


def plant_all(seed: int) -> list[dict[str, Any]]:
    """Each in a process that begins with the same two hours."""
    global _world  # a forked process has it without copying
    _world = World(seed)
    _world.looks(WARM_S)
    quiet = [row.message for row in _world.incidents]
    if quiet:
        print(f"before anything was planted: {quiet}", file=sys.stderr)
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        return pool.map(_forked, range(len(FAULTS)), chunksize=1)


# An ordinary week.


def ordinary(world: World, days: float) -> list[str]:
    """Small troubles come and go; the incidents that this makes."""
    rng, told = world.rng, dict[str, str]()
    ends = world.clock.monotonic() + int(days * DAY)
    pending: list[tuple[int, Callable[[], None]]] = []
    while world.clock.monotonic() < ends:
        now = world.clock.monotonic()
        for due in [each for each in pending if each[0] <= now]:
            pending.remove(due)
            due[1]()
        for every_h, begin, over_s, end in TROUBLES:
            if rng.random() < 5 / 3600 / every_h:
                begin(world)
                if over_s:
                    pending.append((now + int(over_s * 1e6), lambda end=end: end(world)))  # type: ignore[misc]
        world.look()
        for row in world.incidents:
            told.setdefault(row.name, row.message)
    return [f"{name}: {message}" for name, message in told.items()]


def one_ends(world: World) -> None:
    name = world.rng.choice(world.replicas())
    if name in world.compute.running:
        world.compute.kill(name)


def nothing(world: World) -> None:
    """It is over by itself."""


TROUBLES: Sequence[tuple[float, Callable[[World], None], float, Callable[[World], None]]] = (
    (8.0, one_ends, 0.0, nothing),
    (12.0, sets(source=("DEGRADED", "It reconnects."), events=0.0), 5.0, sets(source=None, events=1.0)),
    (2.0, sets(slower=12.0), 5.0, sets(slower=1.0)),
    (6.0, sets(load=1.8, events=1.6), 600.0, sets(load=1.0, events=1.0)),
    (24.0, lambda w: w.job(f"risk-train-{w.rng.randrange(10**9)}"), 900.0, nothing),
    (40.0, lambda w: w.release(), 0.0, nothing),
    (30.0, lambda w: w.deploy(spec={"v": w.rng.random()}), 0.0, nothing),
    (5.0, sets(sink_failures=2), 20.0, sets(sink_failures=0)),
    (10.0, sets(errors=0.012), 120.0, sets(errors=0.001)),
    (15.0, sets(dead=0.03), 40.0, sets(dead=0.001)),
    (20.0, measures(disk_write_s=2.0), 5.0, sets(machine={})),
    (4.0, sets(blocked=0.06), 1800.0, sets(blocked=0.03)),
    (6.0, sets(disk_grows=0.02 * GB), 1200.0, lambda w: (sets(disk_grows=0.0)(w), setattr(w, "disk", 200.0 * GB))[0]),
    (48.0, lambda w: w.clock.set(int(3e5)), 0.0, nothing),
)
"""(every so many hours, what begins, for so many seconds, what ends it)."""


def measure_faults(document: Document, seed: int) -> None:
    found = plant_all(seed)
    for fault, row in zip(FAULTS, found, strict=True):
        document.row("skyriver", f"{fault.area}: {fault.name}", **{k: v for k, v in row.items() if k != "fault"})
    noticed = sorted(row["noticed_s"] for row in found if row["noticed_s"] is not None)
    document.measured("noticed", len(noticed), note=f"of {len(FAULTS)}, median after {median(noticed):.0f} s")
    document.measured("right_cause_first", sum(row["right"] for row in found), note=f"of {len(FAULTS)}")


def measure_week(document: Document, seed: int, days: float) -> None:
    alarms = ordinary(World(seed + 1), days)
    for alarm in alarms:
        document.row("skyriver", "false alarm", told=alarm)
    if days < 7:
        document.missed("false_alarms_in_a_week", f"only {days:g} days of it were simulated", wanted=False)
    else:
        document.measured("false_alarms_in_a_week", len(alarms))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some hours instead of the week")
    parser.add_argument("--seed", type=int, default=1)
    add_parts(parser, PARTS)
    asked = parser.parse_args()
    document = Document("watch", GOALS)
    days = 0.25 if asked.quick else 7.0
    measures: dict[str, Callable[[], None]] = {
        "faults": lambda: measure_faults(document, asked.seed),
        "week": lambda: measure_week(document, asked.seed, days),
        "live": lambda: measure_live(document),
    }
    document.parts(PARTS, measures, asked.parts)
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
