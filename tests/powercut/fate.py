"""What becomes of what was pending when the power went: the choices that the model (disk.py) leaves open."""

from __future__ import annotations

import random
from collections.abc import Callable

from powercut.disk import PAGE, SECTOR, Change, Effect, File, change_content, resize_content


class Fate:
    """What becomes of what is pending, chosen once for a cut, from `seed`."""

    WAYS = ("nothing", "everything", "names", "data", "moment", "chaos", "chaos", "chaos")

    def __init__(self, seed: int) -> None:
        self._luck = random.Random(seed)
        self.way = self._luck.choice(self.WAYS)
        self._moment = 0
        """At the way "moment", the disk is as it was then, and the operation after that is torn."""
        self._unit = self._luck.choice((SECTOR, PAGE))

    def begin(self, oldest: int, moment: int) -> None:
        """What is pending is from `oldest` on; the power goes after `moment`."""
        self._moment = self._luck.randint(oldest - 1, moment)

    def names(self, changes: list[Change], *, ordered: bool) -> list[Effect]:
        """Those that happened; what they need is taken along."""
        if self.way in ("nothing", "data") or not changes:
            return []
        luck = self._luck
        if self.way == "moment":
            return [e for change in changes if change.moment <= self._moment for e in change.effects]
        if self.way == "chaos" and ordered:
            return [e for change in changes[: luck.randint(0, len(changes))] for e in change.effects]
        if self.way == "chaos":
            share = luck.choice((0.2, 0.5, 0.8))
            effects = [e for change in changes for e in change.effects]
            return [e for e in effects if luck.random() < share]
        return [e for change in changes for e in change.effects]

    def data(self, file: File) -> bytes:
        if not file.pending:
            return bytes(file.base)
        everything, luck = len(file.pending), self._luck
        match self.way:
            case "nothing":
                return self._scattered(file, lambda _: 0, 0)
            case "everything" | "data":
                return bytes(file.now)
            case "names":
                return self._scattered(file, lambda _: 0, luck.choice((0, everything)))
            case "moment":
                done = sum(moment <= self._moment for moment, _, _ in file.pending)
                return self._torn(file, done)
        match luck.randrange(5):
            case 0:
                return self._scattered(file, lambda _: 0, luck.choice((0, everything, luck.randint(0, everything))))
            case 1:
                return bytes(file.now)
            case 2:
                return self._torn(file, luck.randint(0, everything))
            case 3:  # later sectors without earlier ones
                return self._scattered(file, lambda _: luck.choice((0, everything)), everything)
        return self._scattered(file, lambda _: luck.randint(0, everything), luck.randint(0, everything))

    def _torn(self, file: File, done: int) -> bytes:
        """The first `done` operations, and the beginning of the next one."""
        end, size = -1, done
        if done < len(file.pending) and file.pending[done][2] is not None:
            _, offset, data = file.pending[done]
            end = (offset + self._luck.randint(0, len(data or b""))) // SECTOR
            size = done + self._luck.choice((0, 1))
        begun = range(file.pending[done][1] // SECTOR, end) if end >= 0 else range(0)
        return self._scattered(file, lambda sector: done + (sector in begun), size, SECTOR)

    def _scattered(self, file: File, time_of: Callable[[int], int], size_time: int, unit: int = 0) -> bytes:
        """Each unit as it was after `time_of(its first sector)` pending operations, the size after `size_time`."""
        unit = unit or self._unit
        size_time = max(size_time, file.synced_size)
        wanted: dict[int, list[int]] = {}
        for start in sorted(_touched(file, unit)):
            chosen = time_of(start // SECTOR)
            for sector in range(start // SECTOR, (start + unit) // SECTOR):
                wanted.setdefault(max(chosen, file.synced.get(sector, 0)), []).append(sector)
        state, out = bytearray(file.base), bytearray(file.base)
        size = len(file.base)
        for time in range(len(file.pending) + 1):
            if time:
                change_content(state, file.pending[time - 1])
            if time == size_time:
                size = len(state)
            for sector in wanted.get(time, ()):
                start = sector * SECTOR
                kept = bytes(state[start : start + SECTOR])
                if len(out) < start + SECTOR:
                    resize_content(out, start + SECTOR)
                out[start : start + SECTOR] = kept.ljust(SECTOR, b"\0")
        resize_content(out, size)
        return bytes(out)


def _touched(file: File, unit: int) -> set[int]:
    """Starts of the units that pending operations write or cut."""
    found: set[int] = set()
    size = len(file.base)
    for _, at, data in file.pending:
        low, high = (at, at + len(data)) if data is not None else (min(at, size), max(at, size))
        size = max(size, high) if data is not None else at
        found.update(range(low // unit * unit, -(-high // unit) * unit, unit))
    return found
