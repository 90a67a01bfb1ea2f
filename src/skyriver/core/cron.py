"""Times of a schedule: cron expressions in a time zone, as whole microseconds of UTC.

As Debian's cron has it: a time that does not exist on the day on which clocks go forward counts as the first one after
the gap, and one that exists twice counts once, unless the schedule runs every few minutes or every hour: that goes by
what passes, not by the clock on the wall.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from skyriver.core.errors import InvalidInput

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_cron(expression: str, zone: str) -> None:
    """Raises InvalidInput (BAD_SCHEDULE) for an expression of other than five fields, one that never comes, or a zone
    that there is not."""
    _zone(zone)
    if not isinstance(expression, str) or len(expression.split()) != 5:
        raise _bad(f"{expression!r} has not the five fields minute, hour, day of month, month and day of week.")
    if next_slot(expression, zone, 0) is None:
        raise _bad(f"{expression!r} never comes.")


def next_slot(expression: str, zone: str, after: int) -> int | None:
    """The first time of the schedule after `after`; None when there is none within 50 years."""
    return next(_slots(expression, zone, after, reverse=False), None)


def last_slots(expression: str, zone: str, after: int, until: int, limit: int) -> list[int]:
    """The last `limit` times of the schedule in (after, until], in their order. What it costs goes by `limit`, not by
    how far apart the two are."""
    found: list[int] = []
    for slot in _slots(expression, zone, until + 1, reverse=True):
        if slot <= after or len(found) == limit:
            break
        found.append(slot)
    return found[::-1]


def _slots(expression: str, zone: str, start: int, *, reverse: bool) -> Iterator[int]:
    local = (_EPOCH + timedelta(microseconds=start)).astimezone(_zone(zone))
    try:
        times = CronSim(expression, local, reverse=reverse)
    except CronSimError as error:
        raise _bad(f"{expression!r} is not a cron expression: {error}.") from error
    for found in times:
        slot = (found.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
        if (slot < start) if reverse else (slot > start):
            yield slot


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise _bad(f"There is no time zone {name!r}.", 'Name one as "Europe/Berlin" or "UTC".') from error


def _bad(message: str, next_action: str = 'Write e.g. "0 3 * * *" for three in the night.') -> InvalidInput:
    return InvalidInput(message, code="BAD_SCHEDULE", next_action=next_action)
