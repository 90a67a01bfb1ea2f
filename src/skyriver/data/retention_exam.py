"""The exam of `RetainedLog`, `TieredLog` and `RewritableLog`: runs on every implementation, beside that of `Log`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from typing import Protocol

from skyriver.core.errors import Conflict, Corrupt, NotFound, SkyriverError, Unavailable
from skyriver.core.exam import must, must_raise
from skyriver.data.log import Log, LogReader, Record, RecordKind
from skyriver.data.retention import RewritableLog

RECORDS = 60


class WritableLog(Log, RewritableLog, Protocol):
    """Both sides of it."""


class Reader(LogReader, Protocol):
    @property
    def first_offset(self) -> int: ...


class RetentionHarness(Protocol):
    """One log that closes a part every few records of 100 bytes, with a tier."""

    def open(self) -> WritableLog: ...

    def reader(self) -> Reader: ...

    def crash(self) -> None: ...

    def usurp(self) -> WritableLog: ...

    def tier_away(self) -> AbstractContextManager[None]:
        """While it lasts, the tier raises Unavailable."""
        ...

    def rot_in_tier(self, base: int) -> None:
        """Changes a byte of the tier's object of the part that begins with `base`."""
        ...

    def switch_tier(self) -> None:
        """From the next opening on the other one of two tiers is set; the second is empty at first."""
        ...

    def objects(self) -> int:
        """How many there are in the tier that is set."""
        ...


Make = Callable[[], RetentionHarness]


def check_retained_log(make: Make) -> None:
    """Raises AssertionError naming the law that does not hold. `make` gives a new log each time."""
    for check in RETENTION_CHECKS:
        check(make)


def _record(number: int) -> Record:
    return Record(RecordKind.EVENT, 1000 + number, number.to_bytes(4, "little") * 25)


def _fill(log: WritableLog, start: int = 0, count: int = RECORDS) -> None:
    for number in range(start, start + count):
        log.append([_record(number)])
        log.sync()


def _whole(source: LogReader, first: int, end: int, what: str) -> None:
    found = [(r.offset, r.time, r.payload) for r in source.read(first)]
    must(found == [(n, 1000 + n, _record(n).payload) for n in range(first, end)], what)


def _read(source: LogReader, start: int) -> list[Record]:
    return list(source.read(start))


def parts_are_what_is_closed(make: Make) -> None:
    log = make().open()
    must(list(log.parts()) == [] and log.first_offset == 0, "an empty log has no closed part, and begins at 0")
    must(log.begin() == (0, 0), "it is whole")
    _fill(log)
    parts = log.parts()
    must(len(parts) > 3, "the exam needs a log that closes parts")
    must(parts[0].base == 0 and all(a.end == b.base for a, b in pairwise(parts)), "without gaps")
    must(parts[-1].end <= log.next_offset, "up to the part that is being written")
    must(all(part.time == 1000 + part.end - 1 for part in parts), "a part's time is that of its last record")
    must(all(part.bytes >= 100 * (part.end - part.base) for part in parts), "a part has at least its records' bytes")
    must(all(part.local and not part.tiered for part in parts), "nothing leaves by itself")
    log.close()


def whole_parts_are_given_up(make: Make) -> None:
    harness = make()
    log = harness.open()
    _fill(log)
    parts = log.parts()
    reader = harness.reader()
    _whole(reader, 0, RECORDS, "all is there")
    must(log.remove_before(parts[1].end - 1) == parts[1].base, "a part that is needed in part stays whole")
    must(log.first_offset == reader.first_offset == parts[1].base, "writer and reader know where it begins")
    begin = (parts[1].base, parts[0].time)
    must(log.begin() == reader.begin() == begin, "and the time of the last record before it")
    must(log.remove_before(0) == parts[1].base, "what is gone is gone")
    first = parts[1].base
    for source in (log, reader, harness.reader()):
        _whole(source, first, RECORDS, "the rest is whole")
        for gone in (0, first - 1):
            told = must_raise(NotFound, partial(_read, source, gone), "gone is told", code="OFFSET_GONE")
            must(str(first) in told.message and bool(told.next_action), "naming the first that is there")
    _fill(log, RECORDS, 10)
    harness.crash()
    _whole(harness.reader(), first, RECORDS + 10, "a crash changes nothing")
    log = harness.open()
    must(log.first_offset == first and log.next_offset == RECORDS + 10, "the next writer begins where it begins")
    _whole(log, first, RECORDS + 10, "and has all of it")
    log.close()
    must_raise(Conflict, lambda: log.remove_before(RECORDS), "a closed log gives up nothing")
    _whole(harness.reader(), first, RECORDS + 10, "and is whole")


def what_is_being_written_stays(make: Make) -> None:
    harness = make()
    log = harness.open()
    _fill(log)
    last = log.parts()[-1].end
    must(log.remove_before(10**9) == last, "all that is closed can go")
    _whole(harness.reader(), last, RECORDS, "what is being written stays")
    _fill(log, RECORDS)
    _whole(log, last, 2 * RECORDS, "and goes on")
    log.close()
    again = harness.open()
    _whole(again, last, 2 * RECORDS, "and is found by the next writer")
    again.close()


def an_older_holder_gives_up_nothing(make: Make) -> None:
    harness = make()
    old = harness.open()
    _fill(old)
    new = harness.usurp()
    must_raise(Conflict, lambda: old.remove_before(10**9), "who has lost the log gives up nothing of it")
    must_raise(Conflict, old.tier_next, "and tiers nothing")
    _whole(new, 0, RECORDS, "it is whole")
    new.close()


def what_is_in_the_tier_is_read_from_there(make: Make) -> None:
    harness = make()
    log = harness.open()
    must(not log.tier_next(), "of an empty log nothing goes to the tier")
    _fill(log)
    reader, during = harness.reader(), log.read()
    next(during)
    while log.tier_next():
        pass
    parts = log.parts()
    must(all(part.tiered and part.local for part in parts), "all that is closed is in the tier, and still here")
    must(harness.objects() == len(parts), "as one object a part")
    log.drop_local(sum(part.bytes for part in parts[2:]) + log.open_bytes)
    must([part.local for part in log.parts()] == [n >= 2 for n in range(len(parts))], "the oldest leave the disk")
    log.drop_local(0)
    must(not any(part.local for part in log.parts()), "and all that is closed, if there is no room for it")
    must(len(list(during)) == RECORDS - 1, "a reading that is under way goes on")
    for source in (log, reader, harness.reader()):
        _whole(source, 0, RECORDS, "all is read as before")
        for start in (0, 7, parts[1].base, RECORDS - 1):
            _whole(source, start, RECORDS, "from any offset")
    _fill(log, RECORDS, 10)
    harness.crash()
    log = harness.open()
    _whole(log, 0, RECORDS + 10, "a crash changes nothing")
    first = log.remove_before(parts[2].end)
    must(first == parts[2].end, "what is in the tier can be given up")
    while log.tier_next():
        pass
    must(harness.objects() == len(log.parts()), "its objects go too, and no others")
    _whole(harness.reader(), first, RECORDS + 10, "the rest is whole")
    log.close()


def without_the_tier_the_log_goes_on(make: Make) -> None:
    harness = make()
    log = harness.open()
    _fill(log)
    must(log.tier_next(), "one part is there")
    with harness.tier_away():
        must_raise(Unavailable, log.tier_next, "a tier that is away is told")
        must([part.tiered for part in log.parts()][:2] == [True, False], "nothing is named that is not there")
        _fill(log, RECORDS)
        log.drop_local(0)
        must([part.local for part in log.parts()][:2] == [False, True], "what it has not stays here")
        told = must_raise(SkyriverError, lambda: list(harness.reader().read()), "what is there alone is away")
        must(not isinstance(told, NotFound | Corrupt), "away is neither gone nor damaged")
        _whole(harness.reader(), log.parts()[1].base, 2 * RECORDS, "what is here is read")
    while log.tier_next():
        pass
    must(all(part.tiered for part in log.parts()), "it goes on when the tier is back")
    _whole(harness.reader(), log.first_offset, 2 * RECORDS, "all is there")
    log.close()


def rot_in_the_tier_is_told_and_never_served(make: Make) -> None:
    harness = make()
    log = harness.open()
    _fill(log)
    while log.tier_next():
        pass
    log.drop_local(0)
    parts = log.parts()
    harness.rot_in_tier(parts[1].base)
    for source in (log, harness.reader()):
        served: list[Record] = []

        def serve(source: LogReader = source, served: list[Record] = served) -> None:
            served.extend(source.read())

        error = must_raise(Corrupt, serve, "an object that is not what was put is told")
        must(bool(error.where) and bool(error.next_action), "with the place, and what to do")
        must([r.payload for r in served] == [_record(n).payload for n in range(len(served))], "what is served is right")
        must(len(served) <= parts[1].end, "and ends before it")
        _whole(source, parts[2].base, RECORDS, "what is behind it can be read")
    log.close()


def another_tier_is_told_from_the_one_before(make: Make) -> None:
    harness = make()
    log = harness.open()
    _fill(log)
    while log.tier_next():
        pass
    parts = log.parts()
    log.drop_local(sum(part.bytes for part in parts[3:]) + log.open_bytes)
    must([part.local for part in log.parts()] == [n >= 3 for n in range(len(parts))], "three are only there")
    must(log.sizes().unreachable is None, "and can be read")
    log.close()
    harness.switch_tier()
    log = harness.open()
    log.drop_local(0)
    must([part.local for part in log.parts()[3:]] == [True] * len(log.parts()[3:]), "what it has not stays here")
    while log.tier_next():
        pass
    must([part.tiered for part in log.parts()[:4]] == [False, False, False, True], "what is here goes there too")
    must(log.sizes().unreachable is not None, "what is only in the other one is told")
    for source in (log, harness.reader()):
        must_raise(Unavailable, partial(_read, source, 0), "and cannot be read", code="TIER_CHANGED")
        _whole(source, parts[3].base, RECORDS, "the rest can")
    log.remove_before(parts[0].end)
    while log.tier_next():
        pass
    log.close()
    harness.switch_tier()
    log = harness.open()
    while log.tier_next():
        pass
    must(log.sizes().unreachable is None, "with the first one set again all is there")
    must(all(part.tiered for part in log.parts()), "and in it")
    _whole(log, parts[1].base, RECORDS, "all is read")
    must(harness.objects() == len(log.parts()), "what was given up meanwhile is deleted where it was")
    log.close()


def sums_are_of_the_parts(make: Make) -> None:
    harness = make()
    log = harness.open()

    def right() -> None:
        parts, sizes = log.parts(), log.sizes()
        must(sizes.bytes == sum(part.bytes for part in parts), "the sum of all parts")
        must(sizes.local_bytes == sum(part.bytes for part in parts if part.local), "of those that are here")
        lag = sum(part.bytes for part in parts if part.local and not part.tiered)
        must(sizes.lag_bytes == lag, "of those that have yet to go to the tier")

    for first in range(0, 3 * RECORDS, RECORDS):
        _fill(log, first)
        right()
        for _ in range(2):
            log.tier_next()
            right()
        log.drop_local(log.sizes().local_bytes // 2)
        right()
        log.remove_before(log.parts()[1].end)
        right()
        harness.crash()
        log = harness.open()
        right()
    log.close()


EMPTIED = b"nobody"


def _emptied(record: Record) -> bytes | None:
    """Every third record's new payload."""
    return EMPTIED if record.offset % 3 == 0 else None


def _emptied_up_to(source: LogReader, first: int, end: int, until: int, what: str) -> None:
    """Every third one is emptied below `until`; all the rest is as it was."""
    found = [(r.offset, r.time, r.count, r.payload) for r in source.read(first)]
    payloads = [EMPTIED if n < until and n % 3 == 0 else _record(n).payload for n in range(first, end)]
    must(found == [(n, 1000 + n, 1, payload) for n, payload in enumerate(payloads, first)], what)


def _rewrite_all(log: WritableLog) -> int:
    return sum(log.rewrite(part.base, _emptied) for part in log.parts())


def parts_are_written_once_more(make: Make) -> None:
    harness = make()
    log = harness.open()
    _fill(log)
    reader, before = harness.reader(), log.parts()
    _whole(reader, 0, RECORDS, "all is there")
    during = reader.read()
    next(during)
    _whole(log, 0, RECORDS, "the writer has read all of it too")
    must(log.rewrite(before[1].base, lambda _: None) == 0, "what is not changed is not counted")
    must(log.parts() == before, "nor written")
    end = log.parts()[-1].end
    must(_rewrite_all(log) == len(range(0, end, 3)), "it says how many have another payload")
    must(_rewrite_all(log) == 0, "once")
    must([(p.base, p.end, p.time) for p in log.parts()] == [(p.base, p.end, p.time) for p in before], "parts stay")
    must(sum(part.bytes for part in log.parts()) < sum(part.bytes for part in before), "their sizes do not")
    must(log.sizes().bytes == sum(part.bytes for part in log.parts()), "and the sum is right")
    must(len(list(during)) == RECORDS - 1, "a reading that is under way goes on")
    for source in (log, reader, harness.reader()):
        _emptied_up_to(source, 0, RECORDS, end, "all are emptied, and nothing else")
        _emptied_up_to(source, 31, RECORDS, end, "from any offset")
    must_raise(NotFound, lambda: log.rewrite(1, _emptied), "a part is named by its first offset", code="OFFSET_GONE")
    must_raise(NotFound, lambda: log.rewrite(end, _emptied), "and closed", code="OFFSET_GONE")
    log.end_part()
    log.end_part()
    must(log.parts()[-1].end == RECORDS, "what is being written can be closed, and nothing need not be")
    must(log.rewrite(end, _emptied) == len([n for n in range(end, RECORDS) if n % 3 == 0]), "and written once more")
    _fill(log, RECORDS, 10)
    harness.crash()
    log = harness.open()
    for source in (log, reader, harness.reader()):
        _emptied_up_to(source, 0, RECORDS + 10, RECORDS, "a crash changes nothing")
    log.close()
    must_raise(Conflict, lambda: log.rewrite(0, lambda _: b"late"), "a closed log changes nothing")


def an_older_holder_writes_nothing_once_more(make: Make) -> None:
    harness = make()
    old = harness.open()
    _fill(old)
    new = harness.usurp()
    must_raise(Conflict, lambda: _rewrite_all(old), "who has lost the log changes nothing of it")
    _whole(new, 0, RECORDS, "it is as it was")
    _whole(harness.reader(), 0, RECORDS, "for all")
    new.close()


def what_is_in_the_tier_is_written_once_more(make: Make) -> None:
    harness = make()
    log = harness.open()
    _fill(log)
    while log.tier_next():
        pass
    parts, objects = log.parts(), harness.objects()
    log.drop_local(sum(part.bytes for part in parts[3:]) + log.open_bytes)
    must([part.local for part in log.parts()][:4] == [False, False, False, True], "some are only there")
    reader = harness.reader()
    _whole(reader, 0, RECORDS, "and are read")
    with harness.tier_away():
        must_raise(Unavailable, lambda: log.rewrite(parts[0].base, _emptied), "a tier that is away is told")
        must_raise(Unavailable, lambda: log.rewrite(parts[4].base, _emptied), "also where the part is here")
    _whole(reader, 0, RECORDS, "nothing has changed then")
    end = parts[-1].end
    must(_rewrite_all(log) == len(range(0, end, 3)), "it is done when it is back")
    must(
        [(p.local, p.tiered) for p in log.parts()] == [(n >= 3, True) for n in range(len(parts))], "parts lie as before"
    )
    must(harness.objects() == objects and log.copies() == [], "and nothing is left of what was there before")
    log.drop_local(0)
    for source in (log, reader, harness.reader()):
        _emptied_up_to(source, 0, RECORDS, end, "all are emptied there too")
    harness.crash()
    log = harness.open()
    log.remove_before(parts[1].end)
    while log.tier_next():
        pass
    must(harness.objects() == len(log.parts()), "what is given up goes, and no other object")
    _emptied_up_to(harness.reader(), parts[1].end, RECORDS, end, "the rest is there")
    log.close()


def copies_in_another_tier_are_told(make: Make) -> None:
    harness = make()
    log = harness.open()
    _fill(log)
    while log.tier_next():
        pass
    parts = log.parts()
    log.close()
    harness.switch_tier()
    log = harness.open()
    while log.tier_next():
        pass
    must(log.rewrite(parts[0].base, _emptied) > 0, "a part that lies in two tiers is written once more in one")
    must(len(log.copies()) == 1, "the other one has it as it was, which is told")
    _emptied_up_to(harness.reader(), 0, RECORDS, parts[0].end, "and not read")
    log.close()
    harness.switch_tier()
    log = harness.open()
    while log.tier_next():
        pass
    must(log.copies() == [], "once that is set again it goes")
    log.drop_local(0)
    _emptied_up_to(harness.reader(), 0, RECORDS, parts[0].end, "and never comes back")
    log.close()


RETENTION_CHECKS: tuple[Callable[[Make], None], ...] = (
    parts_are_what_is_closed,
    whole_parts_are_given_up,
    what_is_being_written_stays,
    an_older_holder_gives_up_nothing,
    what_is_in_the_tier_is_read_from_there,
    without_the_tier_the_log_goes_on,
    rot_in_the_tier_is_told_and_never_served,
    another_tier_is_told_from_the_one_before,
    sums_are_of_the_parts,
    parts_are_written_once_more,
    an_older_holder_writes_nothing_once_more,
    what_is_in_the_tier_is_written_once_more,
    copies_in_another_tier_are_told,
)
