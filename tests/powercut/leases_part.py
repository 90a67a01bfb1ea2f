"""Leases under power cuts: no token is ever given twice."""

from __future__ import annotations

import random
from pathlib import Path

from powercut.part import Say, Told, most, need
from skyriver.adapters.flock.leases import FileLeases

_TTL_US = 10_000_000
_NAMES = ("control", "rollout")


class LeasesPart:
    name = "leases"

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        for _ in range(10):
            leases = self._open(root)
            for name in _NAMES:
                lease = leases.acquire(name, "worker", ttl_us=_TTL_US)
                say(name, lease.token)
                if luck.random() < 0.5:
                    leases.release(lease)
            leases.close()

    def check(self, root: Path, told: Told, say: Say) -> None:
        leases = self._open(root)
        for name in _NAMES:
            lease = leases.acquire(name, "examiner", ttl_us=_TTL_US)
            need(lease.token > most(told, name, 0), f"token {lease.token} of {name} was given before")
            say(name, lease.token)
            leases.renew(lease)
        leases.close()

    def _open(self, root: Path) -> FileLeases:
        return FileLeases(root / "home" / "leases")
