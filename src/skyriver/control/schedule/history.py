"""What is kept of each service's demand: a week of minutes, in a file of fixed size. Pure, and without numpy.

A minute is a record: the work that came in each of its twelve stretches of five seconds, what was judged and late, how
long a start takes, and the most that one replica took of processor and memory. Records lie in a ring by the number of
their minute, which they carry: one that was not written, or is of the week before, is told apart.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

TICK_S: Final = 5
TICKS: Final = 12
"""Of a minute."""
MINUTES: Final = 7 * 1_440
_RECORD: Final = struct.Struct("<Ie12seeeeH")
SIZE: Final = _RECORD.size
"""Bytes of a record."""
MARK: Final = b"SKYDEM\x00\x01"
"""With which a file begins: its last byte is the version of the format."""
HEAD: Final = len(MARK)
AHEAD: Final = 5
"""Minutes that a record may be ahead of the clock."""
UNKNOWN: Final = 255
_CODES: Final = 254
LEAST: Final = 6e-5
"""Of work that came: what is less is a tick that somebody asked in."""
_MOST: Final = 65_000.0
"""That a number of half precision holds."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was measured in `seconds` before `wall`."""

    wall: float
    seconds: float
    work: float
    """Replica-seconds that came."""
    judged: float
    late: float
    start_s: float
    cores: float
    """Of the replica that took most of a processor, and `rss_mb` of the one with the most memory."""
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Minute:
    number: int
    """Since 1970."""
    work: Sequence[float | None]
    """(TICKS,) replicas' work that came; None where nobody looked."""
    judged: float
    """A second, of which `late` were."""
    late: float
    start_s: float
    cores: float
    rss_mb: float


@dataclass(slots=True)
class Filling:
    """The minute that is under way, of one service."""

    number: int = -1
    work: list[float] = field(default_factory=lambda: [0.0] * TICKS)
    seconds: list[float] = field(default_factory=lambda: [0.0] * TICKS)
    judged: float = 0.0
    late: float = 0.0
    start_s: float = 0.0
    cores: float = 0.0
    rss_mb: float = 0.0

    def add(self, look: Look) -> Minute | None:
        """The minute before, once one of the next is told."""
        number, tick = divmod(int((look.wall - look.seconds / 2) // TICK_S), TICKS)
        done = None
        if number != self.number:
            done = self.minute()
            self.number = number
            self.work, self.seconds = [0.0] * TICKS, [0.0] * TICKS
            self.judged = self.late = self.start_s = self.cores = self.rss_mb = 0.0
        self.work[tick] += look.work
        self.seconds[tick] += look.seconds
        self.judged += look.judged
        self.late += look.late
        self.start_s = look.start_s
        self.cores, self.rss_mb = max(self.cores, look.cores), max(self.rss_mb, look.rss_mb)
        return done

    def minute(self) -> Minute | None:
        """None where nothing is known of it. A look that came a moment early or late leaves one tick out: it is as
        the one before it."""
        if not any(self.seconds):
            return None
        work: list[float | None] = []
        for tick, (came, seconds) in enumerate(zip(self.work, self.seconds, strict=True)):
            jittered = not seconds and any(self.seconds[tick + 1 : tick + 2] or (1.0,))
            work.append(came / seconds if seconds else work[-1] if work and jittered else None)
        known_s = max(sum(self.seconds), 1.0)
        rates = self.judged / known_s, self.late / known_s
        return Minute(self.number, work, *rates, self.start_s, self.cores, self.rss_mb)


def pack(minute: Minute) -> bytes:
    most = max((came for came in minute.work if came is not None), default=0.0)
    most = max(_half(most), LEAST) if most else 0.0
    codes = bytes(UNKNOWN if came is None else _code(came, most) for came in minute.work)
    numbers = (_half(n) for n in (minute.judged, minute.late, minute.start_s, minute.cores))
    return _RECORD.pack(minute.number, most, codes, *numbers, min(65_535, math.ceil(minute.rss_mb)))


def _code(came: float, most: float) -> int:
    """What came at all is never none."""
    return min(_CODES, max(1, round(_CODES * came / most))) if came > 0 else 0


def _half(number: float) -> float:
    return min(max(number, 0.0), _MOST) if math.isfinite(number) else 0.0


def place(number: int) -> int:
    """Of a minute's record in the file, bytes."""
    return HEAD + number % MINUTES * SIZE


def is_ours(data: bytes) -> bool:
    """Whether a file that begins so is of this format."""
    return data[:HEAD] == MARK


def is_blank(data: bytes) -> bool:
    """Whether nothing was written into a file yet that is to be of this format."""
    return not data or (is_ours(data) and not any(data[HEAD:]))


def unpack(data: bytes, now: float) -> Iterator[Minute]:
    """Of a file, in the order of time; what cannot be is left out, and what is more than some minutes after `now`,
    seconds of the wall's clock: a clock went wrong. Of a file of another format there is nothing."""
    found = {}
    if not is_ours(data):
        return
    latest = int(now // 60) + AHEAD
    for at in range(0, len(data) - HEAD - SIZE + 1, SIZE):
        number, most, codes, judged, late, start_s, cores, rss_mb = _RECORD.unpack_from(data, HEAD + at)
        numbers = (most, judged, late, start_s, cores)
        if 0 < number <= latest and place(number) == HEAD + at and all(math.isfinite(n) and n >= 0 for n in numbers):
            work = [None if code == UNKNOWN else most * code / _CODES for code in codes]
            found[number] = Minute(number, work, judged, late, start_s, cores, float(rss_mb))
    newest = max(found, default=0)
    yield from (found[number] for number in sorted(found) if number > newest - MINUTES)
