"""The exam of `Tables`: runs on every implementation, the twin in memory and one of your own too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import polars as pl

from skyriver.core.errors import Conflict, Corrupt, InvalidInput, NotFound
from skyriver.core.exam import must, must_raise
from skyriver.data.tables import CompactingTables, StreamTables, Tables, TableVersion

Open = Callable[[], Tables]
Make = Callable[[], Open]
Damage = Callable[[str, int], None]

NAME = "acme/payments"
SCHEMA: dict[str, pl.DataType] = {
    "id": pl.Int64(),
    "amount": pl.Float64(),
    "note": pl.String(),
    "late": pl.Boolean(),
    "features": pl.List(pl.Float32()),
}


def check_tables(make: Make, damage: Damage | None = None) -> None:
    """Raises AssertionError naming the law that does not hold.

    `make` gives a new, empty place each time: a function that opens it, as another process would. `damage(name,
    version)` changes the stored bytes of rows that this version of a table of the last made place added; without it the
    law about damaged bytes is not examined.
    """
    for check in TABLES_CHECKS:
        check(make)
    if damage is not None:
        damaged_rows_are_never_given(make, damage)


def frame(start: int, rows: int) -> pl.DataFrame:
    numbers = list(range(start, start + rows))
    return pl.DataFrame(
        {
            "id": numbers,
            "amount": [None if n % 7 == 0 else n / 3 for n in numbers],
            "note": [None if n % 5 == 0 else f"n{n}, ü" for n in numbers],
            "late": [n % 2 == 0 for n in numbers],
            "features": [[n / 2, None] if n % 3 else [] for n in numbers],
        },
        schema=SCHEMA,
    )


def read(tables: Tables, version: int, name: str = NAME) -> pl.DataFrame:
    return pl.concat(list(tables.scan(name, version)))


def what_was_appended_is_read_in_order(make: Make) -> None:
    tables = make()()
    first = tables.append(NAME, [frame(0, 10), frame(10, 5)], offset=14, known=None)
    second = tables.append(NAME, [frame(15, 3)], offset=20, known=first.version)
    must((first.rows, second.rows) == (15, 18), "rows are those of the whole version")
    must((first.offset, second.offset) == (14, 20), "a version keeps its writer's offset")
    must(second.version == first.version + 1, "versions follow each other")
    must(0 < first.bytes <= second.bytes, "bytes are those of the whole version")
    must(tables.latest(NAME) == second, "latest is the newest version")
    must(tables.describe(NAME, first.version) == first, "describe gives what append returned")
    must(read(tables, first.version).equals(frame(0, 15)), "an older version is still as it was")
    must(read(tables, second.version).equals(frame(0, 18)), "rows come in the order in which they were appended")
    must(read(tables, second.version).schema == pl.Schema(SCHEMA), "columns keep their types")


def columns_come_as_asked_for(make: Make) -> None:
    tables = make()()
    version = tables.append(NAME, [frame(0, 4)], offset=0, known=None).version
    pieces = list(tables.scan(NAME, version, ["note", "id"]))
    must(pl.concat(pieces).equals(frame(0, 4).select("note", "id")), "columns come in the order asked for")
    must_raise(
        InvalidInput, lambda: list(tables.scan(NAME, version, ["id", "no"])), "an unknown column", code="UNKNOWN_COLUMN"
    )


def pieces_are_bounded(make: Make) -> None:
    tables = make()()
    rows = 1_500_000
    numbers = pl.DataFrame({"id": pl.Series(range(rows), dtype=pl.Int64)})
    version = tables.append(NAME, [numbers], offset=0, known=None).version
    sizes, seen = [], 0
    for piece in tables.scan(NAME, version):
        must(piece["id"][0] == seen, "pieces follow each other")
        sizes.append(len(piece))
        seen += len(piece)
    must(seen == rows, "all rows are in some piece")
    must(max(sizes) <= 1 << 20, "a piece has at most about a million rows")


def a_repeated_append_changes_nothing(make: Make) -> None:
    opened = make()
    tables = opened()
    first = tables.append(NAME, [frame(0, 10)], offset=9, known=None)
    for again in (9, 3, -1):
        must(tables.append(NAME, [frame(0, 10)], offset=again, known=None) == first, "an offset not above: no change")
    must(opened().append(NAME, [frame(50, 1)], offset=9, known=0) == first, "also for another writer")
    must(read(tables, first.version).equals(frame(0, 10)), "the rows are there once")


def an_append_without_rows_is_a_version(make: Make) -> None:
    tables = make()()
    must_raise(InvalidInput, lambda: tables.append(NAME, [], offset=0, known=None), "nothing", code="NO_SCHEMA")
    must_raise(NotFound, lambda: tables.latest(NAME), "a refused append made no table")
    empty = tables.append(NAME, [frame(0, 0)], offset=5, known=None)
    must((empty.rows, empty.offset) == (0, 5), "an append of no rows keeps its offset")
    must(read(tables, empty.version).equals(frame(0, 0)), "a version without rows is one piece without rows")
    later = tables.append(NAME, [], offset=7, known=empty.version)
    must((later.rows, later.offset) == (0, 7), "once the schema is known, no frame is needed")


def the_first_append_fixes_the_schema(make: Make) -> None:
    tables = make()()
    first = tables.append(NAME, [frame(0, 2)], offset=0, known=None)
    wrong = [
        frame(2, 2).drop("note"),
        frame(2, 2).with_columns(more=pl.lit(1)),
        frame(2, 2).with_columns(pl.col("id").cast(pl.Int32)),
        frame(2, 2).select("amount", "id", "note", "late", "features"),
    ]
    for other in wrong:
        must_raise(
            InvalidInput,
            partial(tables.append, NAME, [frame(2, 2), other], offset=9, known=None),
            "a frame with another schema is refused",
            code="SCHEMA_MISMATCH",
        )
    must(tables.latest(NAME) == first, "a refused append leaves the table as it was")
    must(tables.append(NAME, [frame(2, 2)], offset=1, known=None).rows == 4, "and open for the next one")


def what_is_not_there_is_not_found(make: Make) -> None:
    tables = make()()
    must_raise(NotFound, lambda: tables.latest(NAME), "latest of an unknown table")
    must_raise(NotFound, lambda: tables.describe(NAME, 0), "describe of an unknown table")
    must_raise(NotFound, lambda: list(tables.scan(NAME, 0)), "scan of an unknown table")
    last = tables.append(NAME, [frame(0, 1)], offset=0, known=None).version
    must_raise(NotFound, lambda: tables.describe(NAME, last + 1), "describe of an unknown version")
    must_raise(NotFound, lambda: list(tables.scan(NAME, last + 1)), "scan of an unknown version")
    must_raise(NotFound, lambda: tables.latest("other/payments"), "a table of another tenant")
    must_raise(
        Corrupt, lambda: tables.append(NAME, [frame(1, 1)], offset=9, known=last + 1), "a known version that is gone"
    )
    must(tables.latest(NAME).version == last, "nothing was appended then")


def names_are_checked_and_listed(make: Make) -> None:
    tables = make()()
    must(tables.names("acme") == [], "a tenant without tables has none")
    for name in ("acme/payments.labels", "acme/payments", "globex/payments", "acme/items"):
        tables.append(name, [frame(0, 1)], offset=0, known=None)
    must(tables.names("acme") == ["acme/items", "acme/payments", "acme/payments.labels"], "names of a tenant, sorted")
    for bad in ("payments", "acme/", "acme/../globex", "acme/a/b", "acme/.hidden", "Acme/x", "acme/a..b"):
        must_raise(
            InvalidInput,
            partial(tables.append, bad, [frame(0, 1)], offset=0, known=None),
            "a bad name",
            code="BAD_NAME",
        )
        must_raise(InvalidInput, partial(tables.latest, bad), "a bad name", code="BAD_NAME")


def another_opening_sees_the_same(make: Make) -> None:
    opened = make()
    first = opened().append(NAME, [frame(0, 3)], offset=2, known=None)
    second = opened().append(NAME, [frame(3, 3)], offset=5, known=first.version)
    third = opened().append(NAME, [frame(6, 3)], offset=8, known=None)
    reader = opened()
    must(reader.latest(NAME) == third, "what one opening appended, another one reads")
    must(reader.describe(NAME, 1) == second, "with the same versions")
    must(read(reader, third.version).equals(frame(0, 9)), "and the same rows")


def many_versions_are_one_table(make: Make) -> None:
    opened = make()
    tables = opened()
    known = None
    for number in range(105):
        known = tables.append(NAME, [frame(number, 1)], offset=number, known=known).version
    must(known == 104, "each append is one version")
    must(read(opened(), 104).equals(frame(0, 105)), "all of them are read, in order")
    must(read(opened(), 51).equals(frame(0, 52)), "and any older version too")


def one_writer_at_a_time(make: Make) -> None:
    opened = make()
    opened().append(NAME, [frame(0, 1)], offset=0, known=None)
    start = threading.Barrier(2)
    outcomes: list[str] = []

    def write(first: int) -> None:
        tables = opened()
        start.wait(timeout=30)
        for number in range(20):
            try:
                tables.append(NAME, [frame(first + number, 1)], offset=first + number, known=None)
                outcomes.append("written")
            except Conflict as error:
                outcomes.append(error.code)

    threads = [threading.Thread(target=write, args=(first,)) for first in (1_000, 2_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    must(len(outcomes) == 40, "two writers at a time get a version or a Conflict, nothing else")
    last = opened().latest(NAME)
    rows = read(opened(), last.version)
    must(last.rows == len(rows) == rows["id"].n_unique(), "no version is lost and none is torn")
    must(rows["id"].is_sorted(), "an offset not above the last one's changed nothing")


def a_reader_is_not_disturbed_by_a_writer(make: Make) -> None:
    opened = make()
    writer, reader = opened(), opened()
    known = writer.append(NAME, [frame(0, 3), frame(3, 3)], offset=5, known=None).version

    def follow() -> Iterator[pl.DataFrame]:
        pieces = reader.scan(NAME, known)
        yield next(pieces)
        writer.append(NAME, [frame(6, 3)], offset=8, known=known)
        yield from pieces

    must(pl.concat(list(follow())).equals(frame(0, 6)), "a version never changes, also while it is read")


def damaged_rows_are_never_given(make: Make, damage: Damage) -> None:
    opened = make()
    writer = opened()
    for number in range(3):
        writer.append(NAME, [frame(number * 10, 10)], offset=number, known=None)
    damage(NAME, 1)
    reader = opened()
    must_raise(Corrupt, lambda: list(reader.scan(NAME, 2)), "a file that is not what was written is Corrupt")
    must_raise(Corrupt, lambda: list(reader.scan(NAME, 1)), "whichever version it is read for")
    must(read(reader, 0).equals(frame(0, 10)), "versions without it are read")


# Tables that put small appends together

CompactOpen = Callable[[], CompactingTables]
CompactMake = Callable[[], CompactOpen]
MANY = 300
"""Appends after which there surely is something to put together."""


def check_compacting(make: CompactMake) -> None:
    """As `check_tables`; runs the checks of that too."""
    check_tables(make)
    for check in COMPACTING_CHECKS:
        check(make)


def _append_until_compacted(tables: CompactingTables, first: int = 0) -> TableVersion:
    """Row n is appended at offset n; gives the version that put them together."""
    for number in range(first, first + MANY):
        last = tables.append(NAME, [frame(number, 1)], offset=number, known=None)
        made = tables.compact(NAME, known=last.version)
        must((made.rows, made.offset) == (last.rows, last.offset), "putting together changes neither rows nor offset")
        if made.version != last.version:
            must(made.version == last.version + 1, "it is one version")
            return made
        must(made == last, "without much to do it gives the last version")
    raise AssertionError(f"broken law: {MANY} appends are put together at some time")


def every_version_reads_as_before(make: CompactMake) -> None:
    opened = make()
    tables = opened()
    made = _append_until_compacted(tables)
    reader = opened()
    must(reader.latest(NAME) == made, "it is the latest")
    for version in range(0, made.version, 7):
        must(reader.describe(NAME, version).rows == version + 1, "older versions are described as before")
        must(read(reader, version).equals(frame(0, version + 1)), "and read as before")
    must(read(reader, made.version).equals(frame(0, made.rows)), "the new one has the same rows in the same order")
    must(read(reader, made.version).schema == pl.Schema(SCHEMA), "and the same types")


def appends_go_on_after_it(make: CompactMake) -> None:
    opened = make()
    made = _append_until_compacted(opened())
    tables = opened()
    must(tables.append(NAME, [frame(500, 1)], offset=made.offset, known=None) == made, "what was there is not repeated")
    rows = made.rows
    last = tables.append(NAME, [frame(rows, 2)], offset=made.offset + 1, known=made.version)
    must((last.version, last.rows) == (made.version + 1, rows + 2), "the next append follows it")
    must(read(opened(), last.version).equals(frame(0, rows + 2)), "with its rows behind the others")
    must_raise(
        InvalidInput,
        lambda: tables.append(NAME, [frame(0, 1).select("id")], offset=last.offset + 1, known=None),
        "the schema stays fixed",
        code="SCHEMA_MISMATCH",
    )


def it_may_be_done_again_and_again(make: CompactMake) -> None:
    opened = make()
    first = _append_until_compacted(opened())
    again = opened().compact(NAME, known=first.version)
    must(again == first, "at once there is nothing more to do")
    second = _append_until_compacted(opened(), first=first.rows)
    reader = opened()
    for version in (first.version - 1, first.version, first.version + 1, second.version):
        rows = reader.describe(NAME, version).rows
        must(read(reader, version).equals(frame(0, rows)), "versions of all times are read")


def a_reader_is_not_disturbed_by_it(make: CompactMake) -> None:
    opened = make()
    tables, reader = opened(), opened()
    last = tables.append(NAME, [frame(0, 3), frame(3, 3)], offset=5, known=None)
    pieces = reader.scan(NAME, last.version)
    first = next(pieces)
    _append_until_compacted(tables, first=6)
    must(pl.concat([first, *pieces]).equals(frame(0, 6)), "a version never changes, also while it is read")


def what_is_not_there_is_not_put_together(make: CompactMake) -> None:
    tables = make()()
    must_raise(NotFound, lambda: tables.compact(NAME, known=None), "an unknown table")
    last = tables.append(NAME, [frame(0, 1)], offset=0, known=None)
    must_raise(Corrupt, lambda: tables.compact(NAME, known=last.version + 1), "a known version that is gone")


# Tables that may get more columns

GrowOpen = Callable[[], StreamTables]
GrowMake = Callable[[], GrowOpen]
MORE: dict[str, pl.DataType] = {**SCHEMA, "arm": pl.String(), "weight": pl.Float64()}


def check_growing(make: GrowMake) -> None:
    for check in GROWING_CHECKS:
        check(make)


def _wider(rows: pl.DataFrame, arm: str | None = None) -> pl.DataFrame:
    weight = pl.lit(None if arm is None else 0.5, pl.Float64())
    return rows.with_columns(arm=pl.lit(arm, pl.String()), weight=weight)


def columns_are_added_behind_the_others(make: GrowMake) -> None:
    opened = make()
    tables = opened()
    must_raise(NotFound, lambda: tables.widen(NAME, MORE, known=None), "an unknown table")
    last = tables.append(NAME, [frame(0, 3)], offset=4, known=None)
    must(tables.widen(NAME, SCHEMA, known=last.version) == last, "a table that has them all stays as it is")
    for wrong in ({"arm": pl.String(), **SCHEMA}, {**SCHEMA, "id": pl.String()}, {"id": pl.Int64()}):
        must_raise(
            InvalidInput,
            partial(tables.widen, NAME, wrong, known=None),
            "columns that it has stay as they are",
            code="SCHEMA_MISMATCH",
        )
    must(tables.latest(NAME) == last, "a refused change leaves the table as it was")
    wide = tables.widen(NAME, MORE, known=last.version)
    must((wide.version, wide.rows, wide.offset) == (last.version + 1, 3, 4), "it is a version with the same rows")
    must(opened().widen(NAME, MORE, known=None) == wide, "once is enough")
    must(read(opened(), wide.version).equals(_wider(frame(0, 3))), "they are null in the rows that were there")
    must(read(opened(), last.version).equals(_wider(frame(0, 3))), "also where an older version is read")
    must_raise(
        InvalidInput,
        lambda: tables.append(NAME, [frame(3, 1)], offset=5, known=None),
        "from now on rows have them",
        code="SCHEMA_MISMATCH",
    )
    tables.append(NAME, [_wider(frame(3, 2), "canary")], offset=6, known=wide.version)
    expected = pl.concat([_wider(frame(0, 3)), _wider(frame(3, 2), "canary")])
    reader = opened()
    newest = reader.latest(NAME).version
    must(read(reader, newest).equals(expected), "old and new rows are one table")
    found = pl.concat(list(reader.scan(NAME, newest, ["weight", "id"])))
    must(found.equals(expected.select("weight", "id")), "read by the columns asked for")
    must_raise(Corrupt, lambda: tables.widen(NAME, MORE, known=newest + 1), "a known version that is gone")


def old_and_new_rows_are_put_together(make: GrowMake) -> None:
    opened = make()
    tables = opened()
    tables.append(NAME, [frame(0, 2)], offset=1, known=None)
    tables.append(NAME, [frame(2, 1)], offset=2, known=None)
    tables.widen(NAME, MORE, known=None)
    for number in range(3, MANY):
        last = tables.append(NAME, [_wider(frame(number, 1), "a")], offset=number, known=None)
        made = tables.compact(NAME, known=last.version)
        if made.version != last.version:
            break
    must(made.version != last.version, "many appends are put together at some time")
    expected = pl.concat([_wider(frame(0, 3)), _wider(frame(3, made.rows - 3), "a")])
    must(read(opened(), made.version).equals(expected), "with the same rows")
    must(read(opened(), 0).equals(_wider(frame(0, 2))), "and versions of before are read")


# Tables whose rows can get other values

RewriteOpen = Callable[[], StreamTables]
RewriteMake = Callable[[], RewriteOpen]


def nobody(rows: pl.DataFrame) -> pl.DataFrame | None:
    """Every third row's."""
    gone = (pl.col("id") % 3 == 0) & (pl.col("id") >= 0)
    if not rows.select(gone.any()).item():
        return None
    return rows.with_columns(id=pl.when(gone).then(-pl.col("id") - 1).otherwise("id"), note=pl.when(~gone).then("note"))


def _rewritten(start: int, rows: int) -> pl.DataFrame:
    found = nobody(frame(start, rows))
    assert found is not None
    return found


def rows_get_other_values_in_all_versions(make: RewriteMake) -> None:
    opened = make()
    tables = opened()
    for number in range(5):
        last = tables.append(NAME, [frame(10 * number, 10)], offset=10 * number + 9, known=None)
    must(tables.rewrite(NAME, lambda _: None, known=last.version) == last, "where nothing is changed, none is made")
    made = tables.rewrite(NAME, nobody, known=last.version)
    must((made.version, made.rows, made.offset) == (last.version + 1, 50, 49), "a version with the rows of the last")
    reader = opened()
    for version in range(made.version + 1):
        rows = reader.describe(NAME, version).rows
        must(rows == min(10 * version + 10, 50), "older versions have their rows")
        must(read(reader, version).equals(_rewritten(0, rows)), "with the new values")
    must(read(reader, made.version).schema == pl.Schema(SCHEMA), "and their types")
    must(opened().rewrite(NAME, nobody, known=made.version) == made, "done again it changes nothing")
    after = opened().append(NAME, [frame(50, 2)], offset=51, known=made.version)
    must(after.version == made.version + 1, "appends follow it")
    must(read(reader, after.version).equals(pl.concat([_rewritten(0, 50), frame(50, 2)])), "with rows as they are")


def it_goes_with_putting_together_and_more_columns(make: RewriteMake) -> None:
    opened = make()
    made = _append_until_compacted(opened())
    rows = made.rows
    tables = opened()
    last = tables.append(NAME, [frame(rows, 4)], offset=rows + 3, known=None)
    last = tables.widen(NAME, MORE, known=last.version)
    last = tables.rewrite(NAME, nobody, known=last.version)
    must(read(opened(), last.version).equals(_wider(_rewritten(0, rows + 4))), "all files are rewritten")
    again = _append_until_wide(opened(), rows + 4)
    must(read(opened(), again.version).head(rows + 4).equals(_wider(_rewritten(0, rows + 4))), "and put together later")


def _append_until_wide(tables: StreamTables, first: int) -> TableVersion:
    for number in range(first, first + MANY):
        last = tables.append(NAME, [_wider(frame(number, 1))], offset=number, known=None)
        made = tables.compact(NAME, known=last.version)
        if made.version != last.version:
            return made
    raise AssertionError(f"broken law: {MANY} appends are put together at some time")


def what_is_not_there_gets_no_values(make: RewriteMake) -> None:
    tables = make()()
    must_raise(NotFound, lambda: tables.rewrite(NAME, nobody, known=None), "an unknown table")
    last = tables.append(NAME, [frame(0, 1)], offset=0, known=None)
    must_raise(Corrupt, lambda: tables.rewrite(NAME, nobody, known=last.version + 1), "a known version that is gone")


REWRITING_CHECKS: tuple[Callable[[RewriteMake], None], ...] = (
    rows_get_other_values_in_all_versions,
    it_goes_with_putting_together_and_more_columns,
    what_is_not_there_gets_no_values,
)

GROWING_CHECKS: tuple[Callable[[GrowMake], None], ...] = (
    columns_are_added_behind_the_others,
    old_and_new_rows_are_put_together,
)

COMPACTING_CHECKS: tuple[Callable[[CompactMake], None], ...] = (
    every_version_reads_as_before,
    appends_go_on_after_it,
    it_may_be_done_again_and_again,
    a_reader_is_not_disturbed_by_it,
    what_is_not_there_is_not_put_together,
)


TABLES_CHECKS: tuple[Callable[[Make], None], ...] = (
    what_was_appended_is_read_in_order,
    columns_come_as_asked_for,
    pieces_are_bounded,
    a_repeated_append_changes_nothing,
    an_append_without_rows_is_a_version,
    the_first_append_fixes_the_schema,
    what_is_not_there_is_not_found,
    names_are_checked_and_listed,
    another_opening_sees_the_same,
    many_versions_are_one_table,
    one_writer_at_a_time,
    a_reader_is_not_disturbed_by_a_writer,
)
