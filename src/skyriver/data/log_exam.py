"""The exam of `Log` and `LogReader`: runs on every implementation, the twin in memory and one of your own too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from skyriver.core.errors import Conflict, Corrupt, InvalidInput, Unavailable
from skyriver.core.exam import must, must_raise
from skyriver.data.log import Log, LogReader, Record, RecordKind


class LogHarness(Protocol):
    """One log, and hands that do to it what happens to logs."""

    def open(self) -> Log:
        """A writer; the one before was closed or has crashed. The first call makes the log, empty."""
        ...

    def reader(self) -> LogReader: ...

    def crash(self) -> None:
        """The writer's process ends at once (kill -9; at the level "disk": the power); what was not synced may be
        there later or not."""
        ...

    def usurp(self) -> Log:
        """Another process takes the log, which the writer has not noticed yet."""
        ...

    def limit_room(self, room: int | None) -> None:
        """From now on the disk takes about `room` more bytes; None: any number."""
        ...

    def rot(self, offset: int) -> None:
        """Changes a stored byte of the record that covers `offset`, which was synced; the log is closed."""
        ...


Make = Callable[[], LogHarness]


def check_log(make: Make) -> None:
    """Raises AssertionError naming the law that does not hold. `make` gives a new log each time."""
    for check in LOG_CHECKS:
        check(make)


def event(number: int, size: int = 20) -> Record:
    return Record(RecordKind.EVENT, 1000 + number, number.to_bytes(8, "little") * max(1, size // 8))


def _contents(records: Iterable[Record]) -> list[tuple[int, int, RecordKind, int, int, bytes]]:
    return [(r.offset, r.count, r.kind, r.time, r.key_id, r.payload) for r in records]


def _placed(records: Sequence[Record], offset: int = 0) -> list[tuple[int, int, RecordKind, int, int, bytes]]:
    placed = []
    for r in records:
        placed.append((offset, r.count, r.kind, r.time, r.key_id, r.payload))
        offset += r.count
    return placed


def offsets_are_dense_from_0(make: Make) -> None:
    log = make().open()
    must(log.next_offset == 0, "an empty log's next offset is 0")
    must(list(log.read()) == [], "an empty log has no records")
    must(log.append([event(0)]) == 0, "the first record has offset 0")
    must(log.append([event(1), Record(RecordKind.HISTORY, 5, b"rows", count=7), event(2)]) == 1, "the next one has 1")
    must(log.next_offset == 10, "a record takes `count` offsets")
    must(log.append([]) == 10 and log.next_offset == 10, "appending nothing changes nothing")
    must(log.append([event(3)]) == 10, "append returns the first offset")
    must([r.offset for r in log.read()] == [0, 1, 2, 9, 10], "records are read with the offsets they were given")
    log.close()


def records_come_back_as_they_were(make: Make) -> None:
    harness = make()
    log = harness.open()
    records = [
        Record(RecordKind.EVENT, 0, b""),
        Record(RecordKind.LABEL, -(2**63), b"\0" * 100),
        Record(RecordKind.CONTROL, 2**63 - 1, bytes(range(256))),
        Record(RecordKind.DECISION, -1, b"x", key_id=2**64 - 1),
        Record(RecordKind.HISTORY, 1, bytes(range(256)) * 20_000, count=2**32 - 1),
        Record(RecordKind.DEAD, 7, b"why", key_id=1),
        Record(RecordKind.EVENTS, 8, b"events", count=3),
        Record(RecordKind.DECISIONS, 8, b"decisions", count=3),
        Record(RecordKind.REFERENCE, 8, b"row"),
    ]
    must({r.kind for r in records} == set(RecordKind), "this exam knows all kinds")
    log.append(records)
    must(_contents(log.read()) == _placed(records), "the writer reads what it appended")
    log.sync()
    must(_contents(harness.reader().read()) == _placed(records), "a reader reads what was synced")
    must(all(type(r.kind) is RecordKind and r.epoch == log.epoch for r in log.read()), "with kind and epoch")
    must(all(type(r) is Record for r in harness.reader().read()), "as Records")
    log.close()
    must(_contents(harness.reader().read()) == _placed(records), "a closed log keeps them")
    again = harness.open()
    must(_contents(again.read()) == _placed(records), "and the next writer finds them")
    must(again.next_offset == sum(r.count for r in records), "with the offset after the last")
    again.close()


def reading_begins_with_the_record_that_covers_the_start(make: Make) -> None:
    harness = make()
    log = harness.open()
    records = [Record(RecordKind.HISTORY, n, bytes([n]) * (n * 37 % 50), count=1 + n % 3) for n in range(200)]
    log.append(records)
    log.sync()
    placed = _placed(records)
    for source in (log, harness.reader()):
        for start in (0, 1, 2, 50, 101, 202, log.next_offset - 1):
            for end in (None, start, start + 1, start + 60, log.next_offset, log.next_offset + 5):
                expected = [p for p in placed if p[0] + p[1] > start and (end is None or p[0] < end)]
                found = _contents(source.read(start, end=end))
                must(found == expected, f"read({start}, end={end}) gives the records from start up to end")
        must(list(source.read(log.next_offset)) == [], "nothing is behind the last record")
        must(list(source.read(10**9)) == [], "nothing is far behind it")
        must_raise(InvalidInput, partial(source.read, -1), "there is no offset below 0")
    log.close()


def a_reading_ends_where_the_log_did_when_it_was_asked_for(make: Make) -> None:
    harness = make()
    log = harness.open()
    log.append([event(0), event(1)])
    log.sync()
    reader = harness.reader()
    asked = [log.read(), reader.read()]
    log.append([event(2)])
    log.sync()
    for records in asked:
        must([r.offset for r in records] == [0, 1], "what came after the call is not in it")
    must(reader.next_offset == 3, "the same reader sees what came since")
    must([r.offset for r in reader.read(1)] == [1, 2], "the same reader reads what came since")
    log.close()


def a_reader_sees_what_was_synced(make: Make) -> None:
    harness = make()
    log = harness.open()
    reader = harness.reader()
    must(reader.next_offset == 0 and list(reader.read()) == [], "an empty log reads as empty")
    for number in range(300):
        log.append([event(number)])
        must(log.next_offset == number + 1, "what was appended counts")
        must(len(list(log.read(number))) == 1, "and its writer can read it")
        must(reader.next_offset <= number + 1, "a reader sees nothing that is not there")
        log.sync()
        must(reader.next_offset == number + 1, "a reader sees all that was synced")
        must([r.offset for r in reader.read(number)] == [number], "and reads it")
    must(_contents(reader.read()) == _placed([event(n) for n in range(300)]), "all of it, in order")
    log.close()


def what_was_synced_survives_a_crash(make: Make) -> None:
    harness = make()
    written: list[Record] = []
    synced = 0
    for life in range(5):
        log = harness.open()
        held = _contents(log.read())
        must(held[:synced] == _placed(written[:synced]), "what was synced is there, whole and in order")
        must(held == _placed(written[: len(held)]), "of the rest there is a beginning, and nothing else")
        must(log.next_offset == len(held), "the next offset follows the last record")
        must(_contents(harness.reader().read()) == held, "readers see the same")
        del written[len(held) :]
        for batch in range(4):
            records = [event(100 * life + 10 * batch + n) for n in range(3)]
            log.append(records)
            written += records
            if batch < 3:
                log.sync()
                synced = len(written)
        harness.crash()
        must(_contents(harness.reader().read())[:synced] == _placed(written[:synced]), "also before the next open")


def each_open_raises_the_epoch(make: Make) -> None:
    harness = make()
    epochs = []
    for number in range(4):
        log = harness.open()
        epochs.append(log.epoch)
        if number % 2:
            log.append([event(number)])
            log.sync()
        if number < 2:
            log.close()
        else:
            harness.crash()
    must(epochs == list(range(epochs[0], epochs[0] + 4)) and epochs[0] > 0, "each open raises the epoch by one")
    must([r.epoch for r in harness.reader().read()] == [epochs[1], epochs[3]], "records have their writer's epoch")


def an_older_holder_cannot_write(make: Make) -> None:
    harness = make()
    old = harness.open()
    old.append([event(0)])
    old.sync()
    old.append([event(66)])
    new = harness.usurp()
    must(new.epoch > old.epoch, "the new holder's epoch is higher")

    def write() -> None:
        old.append([event(67)])
        old.sync()

    must_raise(Conflict, old.sync, "what the old holder had not synced can no longer be")
    must_raise(Conflict, write, "the old holder cannot write")
    must([r.payload for r in new.read()] == [event(0).payload], "nothing of it is in the log")
    must(new.append([event(1)]) == 1, "the new holder goes on after what was synced")
    new.sync()
    must_raise(Conflict, write, "the old holder cannot write later either")
    must(_contents(harness.reader().read()) == _placed([event(0), event(1)]), "readers see the new holder's records")
    new.close()


def a_closed_log_is_closed(make: Make) -> None:
    harness = make()
    log = harness.open()
    log.append([event(0)])
    log.close()
    log.close()
    must_raise(Conflict, lambda: log.append([event(1)]), "a closed log takes no records")
    must_raise(Conflict, log.sync, "a closed log does not sync")
    must(_contents(harness.reader().read()) == _placed([event(0)]), "close syncs")


def a_full_disk_changes_nothing(make: Make) -> None:
    harness = make()
    log = harness.open()
    kept = [event(n) for n in range(3)]
    log.append(kept)
    log.sync()

    def write(records: Sequence[Record]) -> None:
        log.append(records)
        log.sync()

    harness.limit_room(5000)
    for _ in range(2):
        error = must_raise(Unavailable, lambda: write([event(7, 400)] * 100), "no room is told", code="DISK_FULL")
        must(bool(error.next_action) or bool(error.where), "with what can be done, or where")
        must(log.next_offset == 3, "the log is as it was before")
        must(_contents(log.read()) == _placed(kept), "the log is as it was before")
        must(_contents(harness.reader().read()) == _placed(kept), "readers see nothing of it")
    small = [event(8, 64)]
    write(small)
    must(_contents(log.read()) == _placed(kept + small), "what has room is taken")
    harness.limit_room(None)
    more = [event(9, 400)] * 100
    write(more)
    must(_contents(log.read()) == _placed(kept + small + more), "with room again the log goes on")
    harness.crash()
    again = harness.open()
    must(_contents(again.read()) == _placed(kept + small + more), "and nothing else is found after a crash")
    again.close()


def a_record_without_a_place_is_refused(make: Make) -> None:
    log = make().open()
    good = event(0)
    for bad in (
        Record(RecordKind.EVENT, 2**63, b""),
        Record(RecordKind.EVENT, 0, b"", count=0),
        Record(RecordKind.EVENT, 0, b"", count=-1),
        Record(RecordKind.EVENT, 0, b"", key_id=-1),
        Record(RecordKind.EVENT, 0, b"", count=2**32),
        Record(0, 0, b""),  # type: ignore[arg-type]
        Record(99, 0, b""),  # type: ignore[arg-type]
    ):
        must_raise(InvalidInput, partial(log.append, [good, bad]), f"{bad} is refused")
        must(log.next_offset == 0 and list(log.read()) == [], "and nothing is appended with it")
    log.append([good])
    log.sync()
    must(_contents(log.read()) == _placed([good]), "the log goes on")
    log.close()


def rot_is_told_and_never_served(make: Make) -> None:
    records = [event(n, 80) for n in range(40)]
    for rotten in (0, 17, 38):
        harness = make()
        log = harness.open()
        for record in records:
            log.append([record])
            log.sync()
        log.close()
        harness.rot(rotten)
        reader = harness.reader()
        served: list[Record] = []

        def serve(reader: LogReader = reader, served: list[Record] = served) -> None:
            served.extend(reader.read())

        error = must_raise(Corrupt, serve, "a record that is not what was written is told")
        must(bool(error.where), "with the place")
        must(_contents(served) == _placed(records)[: len(served)], "what is served is what was written")
        must(len(served) <= rotten, "up to the bad one at most")
        if rotten < 38:
            must([r.offset for r in reader.read(39)] == [39], "the records behind it can still be read")


LOG_CHECKS: tuple[Callable[[Make], None], ...] = (
    offsets_are_dense_from_0,
    records_come_back_as_they_were,
    reading_begins_with_the_record_that_covers_the_start,
    a_reading_ends_where_the_log_did_when_it_was_asked_for,
    a_reader_sees_what_was_synced,
    what_was_synced_survives_a_crash,
    each_open_raises_the_epoch,
    an_older_holder_cannot_write,
    a_closed_log_is_closed,
    a_full_disk_changes_nothing,
    a_record_without_a_place_is_refused,
    rot_is_told_and_never_served,
)
