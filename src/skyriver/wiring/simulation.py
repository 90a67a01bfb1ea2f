"""A cloud in memory and in a time of its own: the real loop over the real kinds, with nothing real around it.

What takes a cluster hours takes this milliseconds, and is the same each time: a day of retries, a failover, ten
thousand jobs. The caller plays the processes (`compute.report`, `compute.kill`) and the requests (`gateway.busy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from skyriver.adapters.memory.compute import MemoryCompute
from skyriver.adapters.memory.store import MemoryStore
from skyriver.control.loop import ControlLoop
from skyriver.control.store import Store
from skyriver.core.errors import SkyriverError
from skyriver.core.resources import Change, Kind, Pool, RouteTable
from skyriver.wiring.kinds import KINDS

PASS_US: Final = 100_000


class SimulatedClock:
    """Both times in microseconds; `set` moves the wall clock alone, as an administrator does."""

    def __init__(self, start: int = 1_000_000) -> None:
        self._monotonic = start
        self._offset = 0

    def wall(self) -> int:
        return self._monotonic + self._offset

    def monotonic(self) -> int:
        return self._monotonic

    def advance(self, microseconds: int) -> None:
        self._monotonic += microseconds

    def set(self, by: int) -> None:
        self._offset += by


class SimulatedGateway:
    """Keeps the table that it was given, over the ends of control planes. `busy`: requests under way by server;
    `trouble`: why it takes no table; `left`: what it has no room for."""

    def __init__(self) -> None:
        self.applied = RouteTable()
        self.applications = 0
        self.busy: dict[str, int] = {}
        self.trouble: SkyriverError | None = None
        self.left: Sequence[Pool] = ()

    def start(self) -> None:
        """It always runs."""

    def apply(self, table: RouteTable) -> Sequence[Pool]:
        if self.trouble is not None:
            raise self.trouble
        self.applications += table != self.applied
        self.applied = table
        return self.left

    def table(self) -> RouteTable:
        return self.applied

    def sessions(self) -> Mapping[str, int]:
        return self.busy

    def look(self) -> Mapping[str, int]:
        return {}

    def stop(self) -> None:
        """Nothing is held open."""

    def split(self, name: str) -> tuple[tuple[str, int], ...]:
        return next(r.split for r in self.applied.routes if r.name == name)

    def servers(self, pool: str) -> list[str]:
        return [s.name for p in self.applied.pools if p.name == pool for s in p.servers]


class Simulation:
    """One control plane at a time; `start_control` begins another one, which knows nothing but store and gateway."""

    def __init__(self, kinds: Mapping[str, Kind] = KINDS, *, store: Store | None = None) -> None:
        self.store: Store = store or MemoryStore()
        self.compute = MemoryCompute()
        self.gateway = SimulatedGateway()
        self.clock = SimulatedClock()
        self.kinds = dict(kinds)
        self.lost: list[SkyriverError] = []
        self.start_control()

    def start_control(self) -> ControlLoop:
        self.fence = self.store.acquire("simulation")
        self.loop = ControlLoop(
            store=self.store,
            compute=self.compute,
            gateway=self.gateway,
            kinds=self.kinds,
            clock=self.clock,
            fence=self.fence,
            on_lost=self.lost.append,
        )
        return self.loop

    def settle(self, passes: int = 50) -> int:
        """Passes, 0.1 s apart, until one changes neither rows nor processes; how many. Raises AssertionError when none
        does."""
        for number in range(1, passes + 1):
            self.clock.advance(PASS_US)
            before = dict(self.compute.running)
            if not self.loop.run_pass() and self.compute.running == before:
                return number
        raise AssertionError(f"it does not settle within {passes} passes")

    def commit(self, changes: Sequence[Change]) -> None:
        """What a caller of the API writes, and all that follows from it."""
        self.store.commit(changes, audit=(), fence=self.fence, actor="simulation", now=self.clock.wall())
        self.settle()

    def run(self, seconds: float) -> None:
        """Time goes by, with what follows from it."""
        end = self.clock.monotonic() + int(seconds * 1e6)
        while self.clock.monotonic() < end:
            self.clock.advance(PASS_US)
            while self.loop.run_pass():
                pass
