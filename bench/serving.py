"""How fast models answer: the product beside a bare loop and its peers, in one run.

    python bench/serving.py [--quick] [--parts bare,replica,...]

Prints one JSON document; progress goes to stderr. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import _serving_scenes as scenes
import _serving_systems as systems
from _document import Document, Goal
from _processes import Failed, workplace
from _serving_models import CASES, TREES_1, Models
from _serving_rates import Rates, Timing, Turn
from _serving_slow import slow_replica
from _serving_systems import System

GOALS = (
    Goal("ratio_to_bare_1", ">=", 0.85, "requests"),
    Goal("ratio_to_bare_2", ">=", 0.65, "requests"),
    Goal("replica_ratio_to_triton", ">=", 1.2, "requests"),
    Goal("gateway_ratio_to_triton", ">=", 1.0, "requests"),
    Goal("p50_one_connection_ratio_to_triton", "<=", 1.2, "p50"),
    Goal("ratio_to_ray_serve_haproxy", ">=", 4, "requests"),
    Goal("p99_ratio_to_ray_serve_haproxy", "<=", 0.25, "p99"),
    Goal("ratio_to_litserve", ">=", 15, "requests"),
    Goal("prediction_log_requests_ratio", ">=", 0.98, "requests"),
    Goal("prediction_log_p99_ratio", "<=", 1.02, "p99"),
    Goal("overload_goodput", ">=", 0.9, "of capacity"),
    Goal("overload_p99_to_deadline", "<=", 1, "of the deadline"),
    Goal("slow_replica_ejected_seconds", "<=", 2, "s"),
    Goal("slow_replica_p99_ratio", "<=", 1.3, "p99"),
    Goal("gateway_kill_lost_requests", "<=", 0, "requests"),
    Goal("swap_failed_requests", "<=", 0, "requests"),
    Goal("wake_p95_seconds", "<=", 1.5, "s"),
    Goal("wake_lost_requests", "<=", 0, "requests"),
    Goal("standalone_first_prediction_seconds", "<=", 2, "s"),
)
SYSTEMS = ("bare", "replica", "log", "gateway", "triton", "rayserve", "litserve", "bentoml")
SCENES: dict[str, tuple[Callable[[Document, Models, scenes.Scenes], None], tuple[str, ...]]] = {
    "overload": (scenes.overload, ("overload_goodput", "overload_p99_to_deadline")),
    "slow-replica": (slow_replica, ("slow_replica_ejected_seconds", "slow_replica_p99_ratio")),
    "gateway-kills": (scenes.gateway_kills, ("gateway_kill_lost_requests",)),
    "swaps": (scenes.swaps, ("swap_failed_requests",)),
    "wake": (scenes.wake, ("wake_p95_seconds", "wake_lost_requests")),
    "standalone": (scenes.standalone, ("standalone_first_prediction_seconds",)),
}
PARTS = (*SYSTEMS, *SCENES)

ONE, MANY = (TREES_1, 1), (TREES_1, 32)
BARE, BARE_2 = "bare Granian, 1 worker", "bare Granian, 2 workers"
REPLICA, GATEWAY, GATEWAY_2 = "skyriver replica alone", "skyriver, 1 replica", "skyriver, 2 replicas"
TRITON, RAY, RAY_DEFAULT = "Triton", "Ray Serve, HAProxy mode", "Ray Serve, default mode"
LITSERVE, BENTOML = "LitServe", "BentoML"
LOGGED, UNLOGGED = "skyriver replica that logs its predictions", "skyriver replica that logs none"

Start = Callable[[Models], AbstractContextManager[System]]
STARTS: dict[str, tuple[str, Start]] = {
    BARE: ("bare", lambda models: systems.bare(models, 1)),
    BARE_2: ("bare", lambda models: systems.bare(models, 2)),
    REPLICA: ("replica", systems.replica),
    GATEWAY: ("gateway", lambda models: systems.gateway(models, 1)),
    GATEWAY_2: ("gateway", lambda models: systems.gateway(models, 2)),
    LOGGED: ("log", lambda models: systems.logged(models, "on")),
    UNLOGGED: ("log", lambda models: systems.logged(models, "off")),
    TRITON: ("triton", systems.triton),
    RAY: ("rayserve", lambda models: systems.ray_serve(models, 2, haproxy=True)),
    RAY_DEFAULT: ("rayserve", lambda models: systems.ray_serve(models, 2, haproxy=False)),
    LITSERVE: ("litserve", lambda models: systems.litserve(models, 2)),
    BENTOML: ("bentoml", lambda models: systems.bentoml(models, 2)),
}
"""By name: the part that it belongs to, and how it is started."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """`goal` is `figure` of `ours` by that of `theirs`."""

    goal: str
    ours: str
    theirs: str
    turn: Turn
    figure: str = "per_second"


@dataclass(frozen=True, slots=True)
class Block:
    """Systems that are measured in turn. A peer that works while nobody asks it (Ray) shares no block with others than
    the one it is compared with."""

    names: tuple[str, ...]
    ratios: tuple[Ratio, ...]
    others: bool = False
    """Whether all cases and connections are measured, not only those of the ratios."""


BLOCKS = (
    Block(
        (BARE, REPLICA, GATEWAY, TRITON),
        (
            Ratio("ratio_to_bare_1", GATEWAY, BARE, MANY),
            Ratio("replica_ratio_to_triton", REPLICA, TRITON, MANY),
            Ratio("gateway_ratio_to_triton", GATEWAY, TRITON, MANY),
            Ratio("p50_one_connection_ratio_to_triton", GATEWAY, TRITON, ONE, "p50_ms"),
        ),
        others=True,
    ),
    Block(
        (LOGGED, UNLOGGED),
        (
            Ratio("prediction_log_requests_ratio", LOGGED, UNLOGGED, MANY),
            Ratio("prediction_log_p99_ratio", LOGGED, UNLOGGED, MANY, "p99_ms"),
        ),
    ),
    Block((BARE_2, GATEWAY_2), (Ratio("ratio_to_bare_2", GATEWAY_2, BARE_2, MANY),)),
    Block(
        (RAY, GATEWAY_2),
        (
            Ratio("ratio_to_ray_serve_haproxy", GATEWAY_2, RAY, MANY),
            Ratio("p99_ratio_to_ray_serve_haproxy", GATEWAY_2, RAY, MANY, "p99_ms"),
        ),
    ),
    Block((LITSERVE, GATEWAY_2), (Ratio("ratio_to_litserve", GATEWAY_2, LITSERVE, MANY),)),
    Block((BENTOML,), ()),
    Block((RAY_DEFAULT,), ()),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    goals: Timing
    """Of turns on which goals stand."""
    others: Timing
    turns: tuple[Turn, ...]
    """Those on which none stands."""
    full: bool
    """Whether blocks without goals are measured."""
    scenes: scenes.Scenes
    realtime: bool = False


ALL = tuple((case, connections) for case in CASES for connections in (1, 32, 256))
FULL = Sizes(Timing(4, 7), Timing(3, 3), tuple(turn for turn in ALL if turn not in (ONE, MANY)), True, scenes.FULL)
QUICK = Sizes(Timing(2, 3), Timing(1, 1), tuple((case, 32) for case in CASES[1:]), False, scenes.QUICK)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: at most ten minutes in all")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--realtime", action="store_true", help="before all other work of the machine (for root)")
    given = parser.parse_args()
    parts = given.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started here is ended
    document = Document("serving", GOALS)
    measure(document, replace(QUICK if given.quick else FULL, realtime=given.realtime), parts)
    return 0 if document.print() else 1


def measure(document: Document, sizes: Sizes, parts: Collection[str]) -> None:
    with workplace() as folder:
        models = Models.write(folder / "models")
        for block in BLOCKS:
            _measure_block(document, block, sizes, parts, models, folder)
        for part, (work, goals) in SCENES.items():
            if part in parts:
                document.part(goals, partial(work, document, models, replace(sizes.scenes, realtime=sizes.realtime)))
            else:
                for goal in goals:
                    document.missed(goal, "its part was left out", wanted=False)


def _measure_block(
    document: Document, block: Block, sizes: Sizes, parts: Collection[str], models: Models, folder: Path
) -> None:
    taken = [name for name in block.names if STARTS[name][0] in parts]
    ratios = [ratio for ratio in block.ratios if ratio.ours in taken and ratio.theirs in taken]
    for ratio in block.ratios:
        if ratio not in ratios:
            document.missed(ratio.goal, "its part was left out", wanted=False)
    if not taken or (block.ratios and not ratios and not block.others) or not (block.ratios or sizes.full):
        return
    rates = Rates(document, models, folder, sizes.realtime)

    def work() -> None:
        turns = dict.fromkeys([ratio.turn for ratio in block.ratios] or [MANY], sizes.goals)
        if block.others:
            turns |= dict.fromkeys(sizes.turns, sizes.others)
        rates.measure({name: STARTS[name][1] for name in taken}, turns)
        for ratio in ratios:
            try:
                rates.ratio(ratio.goal, ratio.ours, ratio.theirs, ratio.turn, ratio.figure)
            except Failed as error:
                document.missed(ratio.goal, str(error))

    document.part([ratio.goal for ratio in ratios], work)


if __name__ == "__main__":
    sys.exit(main())
