"""Lists: rows that decision rules look up, such as who is denied, or what each customer may spend.

A list is a reference of the stream with an end of validity. Theory of operation: an event sees, of the rows of an id
that stand before it in the log, the one with the newest time up to T (as features see rows of references), and that one
only up to its `until`. Who is taken off gets a row that ends where it begins. So what is on a list at any place of the
log comes from the log alone, and a replay decides as before.

Of each id its newest row is in one dictionary, so that what is asked for each event is one look into it; the rows
behind it (such whose time is still to come are before the current one) are in another, a few for people to look at.

What rules see of lists stands behind the values of an event, a place for each thing that could be named (`Lookup`);
places that no rule reads are left empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from skyriver.core.errors import Corrupt
from skyriver.core.spec import FieldType, ReferenceSpec, StreamSpec

if TYPE_CHECKING:
    from skyriver.decide.log.records import Id, Value

BEHIND = 16
"""Rows of an id that are kept behind the current one."""
JOURNAL = 16_384
"""Rows, or an eighth of the list if that is more, that a checkpoint holds beside a list that was written out before."""
RULE_TYPES: Mapping[FieldType, Literal["number", "text", "truth"]] = {
    "int": "number",
    "float": "number",
    "text": "text",
    "bool": "truth",
}


@dataclass(frozen=True, slots=True)
class Lookup:
    """Something that a rule may ask of a list: whether a row is there (`column` is -1), or a field of it."""

    name: str
    """As rules write it."""
    reference: int
    """Place of the list among the stream's references."""
    by: int
    """Place of the event's field whose value is looked up."""
    column: int
    type: FieldType

    @property
    def of_rules(self) -> Literal["number", "text", "truth"]:
        return RULE_TYPES[self.type]


def lookups_of(stream: StreamSpec) -> tuple[Lookup, ...]:
    """All there are, in the order in which they stand behind an event's values."""
    found: list[Lookup] = []
    places = {own.name: place for place, own in enumerate(stream.fields)}
    for index, reference in lists_of(stream):
        kind = reference.field(reference.id).type
        for place, own in enumerate(stream.fields):
            if own.type == kind:
                found.append(Lookup(member_name(own.name, reference.name), index, place, -1, "bool"))
        roles = (reference.id, reference.time, reference.until)
        for column, own in enumerate(reference.fields):
            if own.name not in roles and own.type in RULE_TYPES:
                name = f"{reference.name}.{own.name}"
                found.append(Lookup(name, index, places[reference.by], column, own.type))
    return tuple(found)


def lists_of(stream: StreamSpec) -> Iterator[tuple[int, ReferenceSpec]]:
    """(place among the references, the list)."""
    return ((index, reference) for index, reference in enumerate(stream.references) if reference.until)


def member_name(field: str, name: str) -> str:
    return f"{field} in {name}"


Row = tuple["Value", ...]
"""As it is logged."""


class _Whole(msgspec.Struct, array_like=True):
    rows: list[list[int | float | str | bool | None]]
    older: list[list[list[int | float | str | bool | None]]]


class _Saved(msgspec.Struct, array_like=True):
    whole: bytes
    since: list[tuple[int, list[int | float | str | bool | None]]]
    changed_at: int | None = None


_encode = msgspec.msgpack.Encoder().encode
_whole = msgspec.msgpack.Decoder(_Whole)
_saved = msgspec.msgpack.Decoder(_Saved)
_NOBODY = _encode(_Whole([], []))


class List:
    """One list. `now` is always T, which never goes back."""

    def __init__(self, spec: ReferenceSpec) -> None:
        self.spec = spec
        places = {own.name: place for place, own in enumerate(spec.fields)}
        self.id, self.time, self.until = places[spec.id], places[spec.time], places[spec.until]
        self.rows: dict[Id, Row] = {}
        """The newest row of each id."""
        self.changed_at: int | None = None
        """T when the last row came."""
        self._older: dict[Id, list[Row]] = {}
        """Behind the newest one, the newest first."""
        self._off = 0
        """Ids whose newest row says that they are off."""
        self._written = _NOBODY
        self._since: list[tuple[int, Row]] = []

    @property
    def ids(self) -> int:
        """Those that are on it, or were up to an `until`."""
        return len(self.rows) - self._off

    def as_of(self, own: Id, now: int) -> Row | None:
        """The row that counts at `now`."""
        row = self.rows.get(own)
        return self.valid(row, own, now) if row is not None else None

    def valid(self, row: Row, own: Id, now: int) -> Row | None:
        """The same from the id's newest row on."""
        at, until = self.time, self.until
        if row[at] > now:  # type: ignore[operator]  # a time is whole and never missing
            found = next((each for each in self._older.get(own, ()) if each[at] <= now), None)  # type: ignore[operator]
            if found is None:
                return None
            row = found
        end = row[until]
        return row if end is None or end > now else None  # type: ignore[operator]

    def history(self, own: Id) -> list[Row]:
        """The rows of an id that are held, the newest first."""
        newest = self.rows.get(own)
        return [newest, *self._older.get(own, ())] if newest is not None else []

    def says(self, row: Row) -> Literal["on", "off"]:
        """Whether a row puts its id on the list or takes it off."""
        return "off" if self._is_off(row) else "on"

    def page(self, start: int, count: int) -> list[Id]:
        """Ids from a place on. None leaves its place (but who is erased), so all pages together are whole."""
        return list(islice(self.rows, start, start + count))

    def learn(self, values: Sequence[Value], now: int) -> None:
        row = tuple(values)
        self._since.append((now, row))
        self._learn(row, now)

    def _learn(self, row: Row, now: int) -> None:
        self.changed_at = max(now, 0)
        own: Id = row[self.id]  # type: ignore[assignment]  # an id is one of these
        newest = self.rows.get(own)
        if newest is not None and not self._put(own, row, newest, now):
            return
        self._off += self._is_off(row) - (newest is not None and self._is_off(newest))
        self.rows[own] = row

    def _put(self, own: Id, row: Row, newest: Row, now: int) -> bool:
        """Whether the row is the newest one of its id now; else it is put among the older ones, where it counts."""
        at = self.time
        older = self._older.get(own, [])
        if row[at] > newest[at]:  # type: ignore[operator]
            older.insert(0, newest)
            current = next((n for n, each in enumerate(older) if each[at] <= now), len(older))  # type: ignore[operator]
            del older[current + BEHIND :]
            self._older[own] = older
            return True
        if row[at] == newest[at]:
            return True
        place = next((n for n, each in enumerate(older) if each[at] <= row[at]), len(older))  # type: ignore[operator]
        newer = older[place - 1] if place else newest
        if newer[at] <= now:  # type: ignore[operator]
            return False  # one that is newer is current already
        if place < len(older) and older[place][at] == row[at]:
            older[place] = row
        else:
            older.insert(place, row)
        self._older[own] = older
        return False

    def _is_off(self, row: Row) -> bool:
        until = row[self.until]
        return until is not None and until <= row[self.time]  # type: ignore[operator]

    def news(self, rows: Iterable[list[Value]], now: int) -> Iterator[list[Value]]:
        """Of rows that are sent, those to be logged: a row without a time counts from now on, and is nothing new where
        the same is said already."""
        for row in rows:
            if row[self.time] is None:
                known = self.as_of(row[self.id], now)  # type: ignore[arg-type]  # an id
                if known is not None and (*row[: self.time], known[self.time], *row[self.time + 1 :]) == known:
                    continue
                row[self.time] = now
            yield row

    def removals(self, ids: Iterable[Id], now: int) -> Iterator[list[Value]]:
        """Rows that take these off, also where they are yet to come; none for an id that is not on it."""
        for own in ids:
            times = [row[self.time] for row in self.history(own) if row[self.time] > now and not self._is_off(row)]  # type: ignore[operator]
            if self.as_of(own, now) is not None:
                times.append(now)
            for time in times:
                row: list[Value] = [None] * len(self.spec.fields)
                row[self.id], row[self.time], row[self.until] = own, time, time
                yield row

    def forget(self, own: Id) -> bool:
        """As if no row of this id had ever come; whether one had."""
        row = self.rows.pop(own, None)
        if row is None:
            return False
        self._off -= self._is_off(row)
        self._older.pop(own, None)
        self._write_out()
        return True

    def save(self) -> bytes:
        """All of it; what was written out before is not written again until much has come."""
        if len(self._since) > max(JOURNAL, len(self.rows) // 8):
            self._write_out()
        return _encode([self._written, self._since, self.changed_at])

    def _write_out(self) -> None:
        older = [[list(row) for row in rows] for rows in self._older.values()]
        self._written = _encode([list(self.rows.values()), older])
        self._since = []

    def restore(self, saved: bytes) -> None:
        """Raises Corrupt."""
        try:
            found = _saved.decode(saved)
            whole = _whole.decode(found.whole)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"What is on the list {self.spec.name} is not what was written.") from error
        self._written = found.whole
        for row in whole.rows:
            self.rows[row[self.id]] = tuple(row)  # type: ignore[index]  # an id
        self._older = {rows[0][self.id]: [tuple(row) for row in rows] for rows in whole.older}  # type: ignore[misc]
        self._off = sum(map(self._is_off, self.rows.values()))
        for now, row in found.since:
            self.learn(row, now)
        self.changed_at = found.changed_at


class ListSize(NamedTuple):
    """How many are on a list, and T when it changed last (before the first event: 0)."""

    name: str
    ids: int
    changed_at: int | None


class Lists:
    """All lists of a stream, by their place among its references."""

    def __init__(self, stream: StreamSpec) -> None:
        self._lists = {index: List(spec) for index, spec in lists_of(stream)}
        self._lookups = lookups_of(stream)

    def __len__(self) -> int:
        return len(self._lists)

    def __iter__(self) -> Iterator[List]:
        return iter(self._lists.values())

    @property
    def sizes(self) -> tuple[ListSize, ...]:
        return tuple(ListSize(each.spec.name, each.ids, each.changed_at) for each in self)

    def get(self, index: int) -> List | None:
        """None: a reference that is no list."""
        return self._lists.get(index)

    def learn(self, index: int, values: Sequence[Value], now: int) -> None:
        """A row of reference `index` that is in the log, where T is `now`."""
        found = self._lists.get(index)
        if found is not None:
            found.learn(values, now)

    def news(
        self, index: int, rows: Sequence[list[Value]], time: int, *, removes: bool
    ) -> Iterator[tuple[int, list[Value]]]:
        """Of rows that were sent for reference `index` those to be logged, each learnt; or rows that take ids off.
        `time` is T. Before the first event there is none: what counts from then on counts always."""
        found = self._lists.get(index)
        if found is None:
            yield from ((index, row) for row in rows)
            return
        now = max(time, 0)
        for row in found.removals((row[0] for row in rows), now) if removes else found.news(rows, now):  # type: ignore[misc]
            found.learn(row, time)
            yield index, row

    def forget(self, index: int, own: Id) -> bool:
        """Of reference `index`, if it is a list: see `List.forget`."""
        found = self._lists.get(index)
        return found is not None and found.forget(own)

    def save(self) -> dict[str, bytes]:
        return {each.spec.name: each.save() for each in self}

    def restore(self, saved: Mapping[str, bytes]) -> frozenset[int]:
        """Places of those that it has not. Raises Corrupt."""
        missing = set()
        for index, each in self._lists.items():
            if each.spec.name in saved:
                each.restore(saved[each.spec.name])
            else:
                missing.add(index)
        return frozenset(missing)

    def searches(self, used: Iterable[int]) -> dict[tuple[int, int], list[tuple[int, Lookup]]]:
        """What is asked for: by list and field of the event, (place of a lookup, that lookup)."""
        found: dict[tuple[int, int], list[tuple[int, Lookup]]] = {}
        for place in used:
            lookup = self._lookups[place]
            found.setdefault((lookup.reference, lookup.by), []).append((place, lookup))
        return found

    @property
    def width(self) -> int:
        return len(self._lookups)

    def beside(self, used: Sequence[int], rows: Sequence[Sequence[Value]], times: Sequence[int]) -> list[list[Value]]:
        """The values of events with those of lists behind them, as of their times. `used`: places of lookups."""
        width = self.width
        found = [[*row, *[None] * width] for row in rows]
        for (index, by), wanted in self.searches(used).items():
            as_of = self._lists[index].as_of
            for values, now in zip(found, times, strict=True):
                own = values[by]
                if own is None:
                    continue  # of something missing nothing is known
                row = as_of(own, now)  # type: ignore[arg-type]  # what is looked up is of the id's type
                start = len(values) - width
                for place, lookup in wanted:
                    if lookup.column < 0:
                        values[start + place] = row is not None
                    elif row is not None:
                        values[start + place] = row[lookup.column]
        return found
