"""Leases in memory: the twin of those in files and in PostgreSQL, for tests and simulations."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from skyriver.core.leases import Lease, check_lease, lasts_until, lease_held, lease_lost


def _boot_time_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


@dataclass(slots=True)
class MemoryKeeper:
    """What all `MemoryLeases` of one space share: name -> its last lease, and when that ends. `clock` is the keeper's,
    in microseconds."""

    clock: Callable[[], int] = _boot_time_us
    mutex: threading.Lock = field(default_factory=threading.Lock)
    given: dict[str, tuple[Lease, int]] = field(default_factory=dict)

    def held(self, name: str) -> Lease | None:
        lease, until = self.given.get(name, (None, 0))
        return lease if self.clock() < until else None


class MemoryLeases:
    """`Leases` for one holder. `clock`: its own one, in microseconds."""

    def __init__(self, keeper: MemoryKeeper | None = None, *, clock: Callable[[], int] = _boot_time_us) -> None:
        self._keeper = keeper or MemoryKeeper()
        self._clock = clock
        self._mine: dict[Lease, tuple[int, int]] = {}
        """(time to live, until when by the own clock)"""

    def acquire(self, name: str, holder: str, *, ttl_us: int) -> Lease:
        check_lease(name, holder, ttl_us)
        asked = self._clock()
        keeper = self._keeper
        with keeper.mutex:
            if (held := keeper.held(name)) is not None:
                raise lease_held(name, held.holder)
            before, _ = keeper.given.get(name, (None, 0))
            lease = Lease(name, holder, before.token + 1 if before else 1)
            keeper.given[name] = (lease, keeper.clock() + ttl_us)
            self._mine[lease] = (ttl_us, lasts_until(asked, ttl_us))
        return lease

    def renew(self, lease: Lease) -> None:
        asked = self._clock()
        keeper = self._keeper
        with keeper.mutex:
            if lease not in self._mine or keeper.given[lease.name][0] != lease:
                self._mine.pop(lease, None)
                raise lease_lost(lease)
            ttl_us, _ = self._mine[lease]
            keeper.given[lease.name] = (lease, keeper.clock() + ttl_us)
            self._mine[lease] = (ttl_us, lasts_until(asked, ttl_us))

    def release(self, lease: Lease) -> None:
        with self._keeper.mutex:
            if self._mine.pop(lease, None) and self._keeper.given[lease.name][0] == lease:
                self._keeper.given[lease.name] = (lease, 0)

    def holds(self, lease: Lease) -> bool:
        return self._clock() < self._mine.get(lease, (0, 0))[1]

    def holder(self, name: str) -> Lease | None:
        with self._keeper.mutex:
            return self._keeper.held(name)

    def close(self) -> None:
        with self._keeper.mutex:
            self._mine.clear()
