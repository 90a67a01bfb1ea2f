"""What becomes of the old part of a log: given up after a time or beyond a size, and kept elsewhere before that.

A log gives up only closed parts of it, whole ones, from its beginning; what it holds stays one piece without holes,
that begins at `first_offset`. What may go is decided here, purely; the log's own thread is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from skyriver.core.errors import SkyriverError, Unavailable, told
from skyriver.data.log import LogReader, Record


@dataclass(frozen=True, slots=True)
class Part:
    """A closed part of a log: offsets from `base` up to (excluding) `end`, the last of which has effective time
    `time`. `local`: it lies on this machine's disk; `tiered`: its whole bytes are in the tier that is set, as they were
    read back from there."""

    base: int
    end: int
    time: int
    bytes: int
    local: bool = True
    tiered: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the closed parts."""

    bytes: int = 0
    local_bytes: int = 0
    lag_bytes: int = 0
    """Of those on this disk, what is not in the tier that is set."""
    unreachable: SkyriverError | None = None
    """What is neither here nor in that tier, and what to do."""


class RetainedLog(LogReader, Protocol):
    """A log whose beginning can be given up. For its writer.

    MUST: `remove_before` removes parts that end at or below `offset`, oldest first, and never the one that is being
    written; it returns the new first offset, from which on all is there, also when the process is killed in the middle
    of it, and after the end of the power. Reading below the first offset raises NotFound (OFFSET_GONE) naming it.
    `parts`, `remove_before` and what stands at `first_offset` may be used from one other thread than the log's own,
    while that goes on.
    """

    @property
    def first_offset(self) -> int:
        """The offset of the first record that is there, or that will be."""
        ...

    @property
    def open_bytes(self) -> int:
        """Of the part that is being written."""
        ...

    def parts(self) -> Sequence[Part]:
        """The closed ones, in order, without gaps, from `first_offset` on."""
        ...

    def remove_before(self, offset: int) -> int: ...


class TieredLog(RetainedLog, Protocol):
    """A log whose closed parts can lie elsewhere, and are read from there.

    MUST: `tier_next` copies the oldest part that is not in the tier into it and reads it back; only then is it
    `tiered`. `drop_local` removes tiered parts from this disk, oldest first, until at most `limit` bytes of the log lie
    on it or nothing more may go; readers go on. Killed at any point, nothing is lost, and nothing is named that is
    not there. `tier_next` raises what the tier raises; all is as before then, and the log itself goes on.
    As with `remove_before`, one other thread may call them.

    A part that is in another tier than the one that is set (`IdentifiedObjects.identity`) is not `tiered`: it goes to
    this one too if it is here, and if it is not, `sizes` names both places until it is found; reading it raises
    Unavailable naming them. What was put into a tier is deleted only there.

    `sizes` takes as long with a hundred thousand parts as with one, and waits for nothing.
    """

    def sizes(self) -> Sizes: ...

    def tier_next(self) -> bool:
        """False when there was nothing to do."""
        ...

    def drop_local(self, limit: int) -> None: ...


Changed = Callable[[Record], bytes | None]
"""The payload that a record gets; None: the one that it has."""


class RewritableLog(TieredLog, Protocol):
    """A log whose closed parts can be written once more with other payloads, for somebody is to be erased from it.

    MUST: `end_part`, in the log's own thread, closes the part that is being written, so that all that was synced lies
    in closed ones. `rewrite` gives the records of a closed part other payloads and returns how many it changed; their
    kinds, places, counts, times and epochs stay. When it returns, the payloads of before are in no file of the log and
    in no object of the tier that is set. Killed at any point the part is whole, as it was or as it is to be, here and
    in the tier, and calling it again does the rest. Readings go on, those that are under way with what they opened.
    As with `remove_before`, one other thread may call it. Raises what the tier raises; Unavailable (TIER_NOT_SET) for a
    part that went to a tier where none is set now: what is there would come back with it.
    """

    def end_part(self) -> None: ...

    def rewrite(self, base: int, changed: Changed) -> int:
        """`base`: the first offset of the part. Raises NotFound (OFFSET_GONE) where no closed part begins there."""
        ...

    def copies(self) -> Sequence[str]:
        """Where parts lie as they were before they were written once more: objects that are to be deleted yet, and
        those in tiers that are not set, which nobody here can delete."""
        ...


def local_from(log: RetainedLog) -> int:
    """The offset from which on the log lies on this disk, as far as it knows."""
    parts = log.parts()
    away = next((part.end for part in reversed(parts) if not part.local), None)
    return away if away is not None else log.first_offset


@dataclass(frozen=True, slots=True)
class Keep:
    """What a stream declares. 0: no limit."""

    us: int = 0
    """How long a record is kept, in the time of the events."""
    bytes: int = 0
    """How large the log may be, wherever its parts lie."""
    local_bytes: int = 0
    """How much of it may lie on this disk, where there is a tier."""


@dataclass(frozen=True, slots=True)
class Needed:
    """Nothing goes at or above `offset`."""

    offset: int
    by: str = ""
    remedy: str = ""


MOST_SEGMENT, LEAST_SEGMENT = 64 << 20, 1 << 20


def segment_bytes(keep: Keep, *, tier: bool) -> int:
    """Of a part: small enough that a limit is kept to an eighth of it."""
    limits = [limit for limit in (keep.bytes, keep.local_bytes if tier else 0) if limit]
    return max(LEAST_SEGMENT, min(MOST_SEGMENT, *(limit // 8 for limit in limits))) if limits else MOST_SEGMENT


def removable(parts: Sequence[Part], keep: Keep, *, total: int, time: int, needed: int) -> int:
    """The offset below which the log can go: what is too old or too much, but nothing at or above `needed`.
    `total` is what the log has in bytes, `time` its effective time now."""
    offset = parts[0].base if parts else 0
    for part in parts:
        too_old = keep.us and part.time < time - keep.us
        too_much = keep.bytes and total > keep.bytes
        if part.end > needed or not (too_old or too_much):
            break
        offset, total = part.end, total - part.bytes
    return offset


@dataclass(frozen=True, slots=True)
class Kept:
    """How it stands."""

    first_offset: int = 0
    bytes: int = 0
    local_bytes: int = 0
    lag_bytes: int = 0
    """Closed and not in the tier yet; 0 without a tier."""
    full: SkyriverError | None = None
    """The disk's share is used up by what the tier does not take: nothing may be appended until it does."""


class Upkeep:
    """Gives up and tiers what is to go, a step at a time, on a thread of its own. `tier`: the log has one."""

    def __init__(self, log: TieredLog, keep: Keep, *, tier: bool) -> None:
        self._log, self._tier = log, tier
        self.keep = keep
        """May be replaced at any time."""
        self._problems: tuple[SkyriverError, ...] = ()

    @property
    def problems(self) -> tuple[SkyriverError, ...]:
        """What went wrong in the last step, and what stands."""
        unreachable = self._log.sizes().unreachable
        return self._problems if unreachable is None else (*self._problems, unreachable)

    def step(self, *, time: int, needed: Needed) -> bool:
        """Whether there is more to do at once: one part goes to the tier at most. What goes wrong is in `problems`."""
        problems: list[SkyriverError] = []
        more = False
        try:
            if (held := self._remove(time, needed)) is not None:
                problems.append(held)
        except SkyriverError as error:
            problems.append(told("The log's old part stays where it is", error))
        if self._tier:
            try:
                more = self._log.tier_next()
            except SkyriverError as error:
                problems.append(told("The log's old part stays where it is", error))
            try:
                if self.keep.local_bytes:
                    self._log.drop_local(self.keep.local_bytes // 2)
            except SkyriverError as error:
                if error.code not in {problem.code for problem in problems}:  # the same tier does not answer again
                    problems.append(told("The log's old part stays on this disk", error))
        self._problems = tuple(problems)
        return more

    def look(self) -> Kept:
        """How it stands now. On any thread: a step may wait for the tier for long."""
        sizes, open_bytes = self._log.sizes(), self._log.open_bytes
        local, total = open_bytes + sizes.local_bytes, open_bytes + sizes.bytes
        lag = sizes.lag_bytes if self._tier else 0
        full = None
        if lag and self.keep.local_bytes and local > self.keep.local_bytes:
            full = Unavailable(
                f"{local / 1e6:.0f} MB of the log lie on this disk, {self.keep.local_bytes / 1e6:.0f} MB may, and"
                f" {lag / 1e6:.0f} MB of them are not in the tier yet. {' '.join(map(str, self.problems))}".strip(),
                code="TIER_BEHIND",
                next_action="Events are taken again once the tier has them. Mend the tier, or raise local_bytes.",
            )
        return Kept(self._log.first_offset, total, local, lag, full)

    def _remove(self, time: int, needed: Needed) -> SkyriverError | None:
        """Tells if much of what is too old or too much is still needed."""
        if not (self.keep.us or self.keep.bytes):
            return None
        log = self._log
        parts, total = log.parts(), log.open_bytes + log.sizes().bytes
        unneeded = parts[-1].end if parts else 0
        due = removable(parts, self.keep, total=total, time=time, needed=unneeded)
        offset = removable(parts, self.keep, total=total, time=time, needed=needed.offset)
        if offset > log.first_offset:
            log.remove_before(offset)
        old = list(takewhile(lambda part: part.base < due, parts))
        held = sum(part.bytes for part in old if part.base >= offset)
        total -= sum(part.bytes for part in old) - held
        if 2 * held <= total or held < LEAST_SEGMENT:
            return None
        return SkyriverError(
            f"{held / 1e6:.0f} MB of the log's {total / 1e6:.0f} MB are older, or more, than its retention says, and"
            f" stay: {needed.by} still needs them.",
            code="RETENTION_WAITS",
            next_action=needed.remedy,
        )
