"""Rows that were set aside, so that one poisonous row never holds up the others.

A row whose step raised, or whose change cannot be written, is left as it is. It is tried again as soon as it changes,
and else with pauses that double from one second to a minute: what broke it may have been something else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set

from skyriver.core.errors import Internal, SkyriverError
from skyriver.core.resources import Aside, Key
from skyriver.core.rows import Rows

FIRST_PAUSE_US = 1_000_000
LONGEST_PAUSE_US = 60_000_000

log = logging.getLogger("skyriver.control")


class AsideRows:
    """Of one control plane; another one begins with none and finds them anew in its first pass."""

    def __init__(self) -> None:
        self._rows: Mapping[Key, Aside] = {}
        self._revisions: dict[Key, int] = {}
        """Of the rows when they were last tried."""

    def told(self) -> Mapping[Key, Aside]:
        return self._rows

    def keys(self) -> Set[Key]:
        return self._rows.keys()

    def problem(self) -> SkyriverError | None:
        """What to tell of them all; None when there are none."""
        if not self._rows:
            return None
        (_, kind, name), first = next(iter(sorted(self._rows.items())))
        others = f", and {len(self._rows) - 1} others" if len(self._rows) > 1 else ""
        return Internal(
            f"{kind}/{name}{others} cannot be looked after and keeps what it has: {first.message}",
            code="SET_ASIDE",
            next_action=f"`skyriver explain {kind}/{name}` tells more; it is tried again by itself.",
        )

    def resting(self, rows: Rows, now: int) -> frozenset[Key]:
        """Those that need not be tried in a pass over `rows` at `now`."""
        return frozenset(key for key, aside in self._rows.items() if self._rests(rows, key, aside, now))

    def _rests(self, rows: Rows, key: Key, aside: Aside, now: int) -> bool:
        """A clock that was set back must not make it rest for longer than the longest pause."""
        unchanged = key in rows and rows[key].revision == self._revisions[key]
        return unchanged and now < aside.again <= now + LONGEST_PAUSE_US

    def settle(self, rows: Rows, failed: Mapping[Key, str], now: int) -> None:
        """After a pass over `rows` in which those in `failed` failed, with why; resting ones were not tried."""
        resting = self.resting(rows, now)
        kept = {key: aside for key, aside in self._rows.items() if key in resting and key not in failed}
        for key, why in failed.items():
            kept[key] = self._once_more(key, why, now)
            self._revisions[key] = rows[key].revision if key in rows else 0
        for key in self._rows.keys() - kept.keys():
            log.info("no longer set aside: %s", "/".join(key))
            self._revisions.pop(key, None)
        self._rows = kept

    def _once_more(self, key: Key, why: str, now: int) -> Aside:
        before = self._rows.get(key)
        if before is None or before.message != why:
            log.error("set aside %s: %s", "/".join(key), why)
        if before is None:
            return Aside(why, 1, now, now + FIRST_PAUSE_US)
        pause = min(FIRST_PAUSE_US << min(before.attempts, 10), LONGEST_PAUSE_US)
        return Aside(why, before.attempts + 1, before.since, now + pause)
