"""Rates and latencies of several systems in turn, in rounds, and the ratios between them.

On a shared machine a system's figures follow its neighbours, so all systems have their turn in every round, in
another order each time, and a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from _document import Document, tell
from _processes import Failed
from _serving_models import Case, Models
from _serving_systems import System
from _serving_wrk import Figures, find_wrk, load, realtime, resident_megabytes

Turn = tuple[Case, int]
"""What is asked, on how many connections."""


@dataclass(frozen=True, slots=True)
class Timing:
    seconds: float
    """Of one turn."""
    rounds: int


@dataclass
class Rates:
    """Figures of systems that run beside each other: by system and turn, one a round."""

    document: Document
    models: Models
    folder: Path
    realtime: bool = False
    found: dict[tuple[str, Turn], list[Figures]] = field(default_factory=dict)

    def measure(
        self, starts: Mapping[str, Callable[[Models], AbstractContextManager[System]]], turns: Mapping[Turn, Timing]
    ) -> None:
        """A row for each turn of each system. One that cannot be started is a row with the reason."""
        find_wrk()
        load_before = os.getloadavg()[0]
        with ExitStack() as stack:
            running = {}
            for name, start in starts.items():
                tell(f"starting {name} ...")
                try:
                    running[name] = stack.enter_context(start(self.models))
                except (Failed, OSError) as error:
                    self.document.row(name, "could not be started", reason=str(error)[-600:])
            for turn, timing in turns.items():
                taking = {name: system for name, system in running.items() if turn[0] in system.cases}
                self._turn(taking, turn, timing)
            for name, system in running.items():
                self._rows(name, system, load_before)

    def _turn(self, systems: Mapping[str, System], turn: Turn, timing: Timing) -> None:
        names = list(systems)
        for name in names:
            self._load(name, systems[name], turn, 1.0)  # a warm-up, thrown away
        for number in range(timing.rounds if names else 0):
            at = number % len(names)
            for name in names[at:] + names[:at]:
                figures = self._load(name, systems[name], turn, timing.seconds)
                self.found.setdefault((name, turn), []).append(figures)

    def _load(self, name: str, system: System, turn: Turn, seconds: float) -> Figures:
        case, connections = turn
        body, pids = self.models.body(case), system.pids()
        with realtime(pids) if self.realtime else nullcontext():
            found = load(self.folder, system.url(case), body, system.token, connections, seconds, pids)
        if found.wrong or found.broken:
            raise Failed(f"{name}: {found.wrong} wrong answers and {found.broken} broken connections for {case}")
        return found

    def _rows(self, name: str, system: System, load_before: float) -> None:
        memory = resident_megabytes(system.pids())
        for (of, (case, connections)), rounds in self.found.items():
            if of != name:
                continue
            self.document.row(
                name,
                f"{case}, {connections} connection{'s' if connections > 1 else ''}",
                workers=system.workers,
                requests_per_second=round(median(r.per_second for r in rounds)),
                p50_ms=round(median(r.p50_ms for r in rounds), 3),
                p99_ms=round(median(r.p99_ms for r in rounds), 2),
                cpu_us_a_request=round(median(r.cpu_us for r in rounds), 1),
                rss_megabytes=memory,
                wrk_share_of_a_core=round(median(r.wrk_share for r in rounds), 2),
                rounds=len(rounds),
                load_average_before_and_after=[round(load_before, 1), round(os.getloadavg()[0], 1)],
            )

    def ratio(self, goal: str, ours: str, theirs: str, turn: Turn, figure: str) -> None:
        """Measures `goal`; beside it how they compare by CPU time. Raises Failed when one has no figures."""
        mine, others = self.found.get((ours, turn)), self.found.get((theirs, turn))
        if not mine or not others:
            raise Failed(f"{theirs if mine else ours} was not measured")
        by_round = [getattr(a, figure) / getattr(b, figure) for a, b in zip(mine, others, strict=True)]
        cpu = median(b.cpu_us / a.cpu_us for a, b in zip(mine, others, strict=True))
        note = (
            f"rounds from {min(by_round):.2f} to {max(by_round):.2f}; "
            f"{cpu:.2f} times the requests a CPU second, of all processes"
        )
        self.document.measured(goal, round(median(by_round), 3), note=note)
