"""The border of a stream over HTTP: bodies become submissions. Stateless, so it runs while a batch syncs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from msgspec.structs import asdict

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import GRID_LIMIT, FieldSpec, StreamSpec, with_roles
from skyriver.core.units import format_span
from skyriver.data.border import Reason, Rejection, RowCleaner
from skyriver.data.border_columns import TypedCleaner
from skyriver.decide.log.records import Value
from skyriver.decide.partition.gathering import block_rows
from skyriver.decide.partition.receipt import LabelRow, LabelSubmission, ReferenceSubmission, Refused, Submission, shown
from skyriver.decide.worker.answers import Form, RawRows, parse_rows

SHOWN_ROWS = 20
"""Refused rows of a reference that an answer names."""
NOT_AN_OBJECT = "a JSON object is expected, with a field for each value"


class EventBorder:
    """`summed`: fields that features sum, whose values must fit the exact sums' grid."""

    def __init__(self, stream: StreamSpec, summed: frozenset[str] = frozenset()) -> None:
        fields = with_roles(stream.fields, stream.id, stream.time)
        self._clean = RowCleaner(fields, summed).clean
        self._typed = typed = TypedCleaner(fields, summed)
        self._decoders = {Form.JSON: typed.json, Form.LINES: typed.lines, Form.MSGPACK: typed.msgpack}
        self._least = block_rows(len(stream.fields))

    def read(self, body: bytes, form: Form, arrived: int, wants_decisions: bool) -> Submission:
        """The rows of a body. Many good ones become columns right away. `arrived` in monotonic microseconds.

        Raises InvalidInput (NOT_JSON, NOT_MSGPACK)."""
        single = form is Form.JSON and body[:1] == b"{"
        typed = self._typed.one(body) if single else self._decoders[form](body)
        if typed is not None:
            if len(typed) >= self._least:
                columns = self._typed.columns(typed)
                if columns is not None:
                    return Submission(RawRows(body, form), [], arrived, wants_decisions, columns=columns)
            elif form is not Form.MSGPACK:
                rows = self._typed.rows(typed, body)
                if rows is not None:
                    return Submission(RawRows(body, form), [*rows], arrived, wants_decisions)
        return self.take(parse_rows(body, form), arrived, wants_decisions)

    def take(self, rows: Sequence[object], arrived: int, wants_decisions: bool) -> Submission:
        """Rows that are parsed already, one by one."""
        clean = self._clean
        cleaned = [
            values if type(values) is list else refused(index, values)  # type: ignore[arg-type]
            for index, row in enumerate(rows)
            for values in (clean(row) if type(row) is dict else None,)
        ]
        return Submission(rows, cleaned, arrived, wants_decisions)


def refused(index: int, rejection: Rejection | None) -> Refused:
    if rejection is None:
        return Refused(index, "", None, Reason.WRONG_TYPE, f"This is no event: {NOT_AN_OBJECT}.")
    return Refused(index, rejection.field, shown(rejection.value), rejection.reason, rejection.message)


class ReferenceBorder:
    """Rows of the stream's reference `index`. A request is taken whole or not at all: its rows are of one table that
    somebody keeps, and half of a change is not what it was. Bad rows of a list's file may be set aside."""

    def __init__(self, stream: StreamSpec, index: int) -> None:
        self._index = index
        self._reference = reference = stream.references[index]
        fields = with_roles(reference.fields, reference.id, reference.time)
        if reference.until:  # a row of a list that has no time counts from now on
            fields = tuple(f.model_copy(update={"nullable": True}) if f.role == "time" else f for f in fields)
        self._clean = RowCleaner(fields).clean
        self._clean_id = RowCleaner([f for f in fields if f.role == "id"]).clean
        self._until = next((place for place, f in enumerate(fields) if f.name == reference.until), -1)
        self._time = next(place for place, f in enumerate(reference.fields) if f.name == reference.time)

    def take(self, rows: Sequence[object], now: int, limit: int) -> ReferenceSubmission:
        """`limit` is the latest time that a row may have.

        Raises InvalidInput (REFERENCE_REFUSED) that names the rows that are not as declared."""
        return self._whole(rows, *self._sorted(rows, lambda index, row: self._row(index, row, now, limit)))

    def sort(self, rows: Sequence[object], now: int, limit: int) -> ReferenceSubmission:
        """The good rows; the bad ones are set aside."""
        cleaned, bad = self._sorted(rows, lambda index, row: self._row(index, row, now, limit))
        return ReferenceSubmission(self._index, cleaned, [(refusal, rows[refusal.index]) for refusal in bad])

    def take_off(self, rows: Sequence[object]) -> ReferenceSubmission:
        """Ids that are to be taken off a list, each as its field alone. Raises as `take`."""
        return replace(self._whole(rows, *self._sorted(rows, self._id)), removes=True)

    def _sorted(
        self, rows: Sequence[object], clean: Callable[[int, object], list[Value] | Refused]
    ) -> tuple[list[list[Value]], list[Refused]]:
        cleaned: list[list[Value]] = []
        bad: list[Refused] = []
        for index, row in enumerate(rows):
            values = clean(index, row)
            if isinstance(values, Refused):
                bad.append(values)
            else:
                cleaned.append(values)
        return cleaned, bad

    def _whole(self, rows: Sequence[object], cleaned: list[list[Value]], bad: list[Refused]) -> ReferenceSubmission:
        if bad:
            several = (
                f"{len(bad)} of {len(rows)} rows of {self._reference.name} are refused, and so none is taken; row"
                f" {bad[0].index + 1}: {bad[0].message}"
            )
            again = "Correct them and send all again: a row that was taken before may be sent again."
            raise InvalidInput(
                several if len(rows) > 1 else f"The row of {self._reference.name} is refused: {bad[0].message}",
                code="REFERENCE_REFUSED",
                where=bad[0].field,
                next_action=again if len(rows) > 1 else "Correct it: nothing was changed.",
                details=tuple(asdict(refusal) for refusal in bad[:SHOWN_ROWS]),
            )
        return ReferenceSubmission(self._index, cleaned)

    def _row(self, index: int, row: object, now: int, limit: int) -> list[Value] | Refused:
        if not isinstance(row, dict):
            return Refused(index, "", None, Reason.WRONG_TYPE, f"This is no row: {NOT_AN_OBJECT}.")
        values = self._clean(row)
        if isinstance(values, Rejection):
            return refused(index, values)
        time = values[self._time]
        until = values[self._until] if self._until >= 0 else None
        if isinstance(time, int) and isinstance(until, int) and until < time:
            name = self._reference.until
            return Refused(
                index, name, shown(row[name]), Reason.OUT_OF_RANGE, f"{name} is before {self._reference.time}."
            )
        if isinstance(time, int) and time > limit:
            name = self._reference.time
            message = f"{name} is {format_span(time - now)} ahead of the clock here."
            return Refused(index, name, shown(row[name]), Reason.AHEAD_OF_CLOCK, message)
        return values

    def _id(self, index: int, row: object) -> list[Value] | Refused:
        if not isinstance(row, dict):
            return Refused(index, "", None, Reason.WRONG_TYPE, f"This is no row: {NOT_AN_OBJECT}.")
        values = self._clean_id(row)
        return refused(index, values) if isinstance(values, Rejection) else values


class LabelBorder:
    """Rows are {"<id field>": id, "<label>": value, ... ["known_at": time]}; a value is a number or a truth."""

    def __init__(self, stream: StreamSpec) -> None:
        self._id = stream.id
        unit = stream.field(stream.time).time_unit  # as the events of this stream give their times
        known_at = FieldSpec(name="known_at", type="time", nullable=True, time_unit=unit)
        fields = [stream.field(stream.id), known_at]
        self._cleaner = RowCleaner(with_roles(fields, stream.id, known_at.name))
        self._labels = {label.name: index for index, label in enumerate(stream.labels)}

    def take(self, rows: Sequence[object], now: int, limit: int) -> LabelSubmission:
        """`now` is when labels are known that do not say it; `limit` the latest time that one may say."""
        return LabelSubmission(rows, [self._clean(index, row, now, limit) for index, row in enumerate(rows)])

    def _clean(self, index: int, row: object, now: int, limit: int) -> list[LabelRow] | Refused:
        if not isinstance(row, dict):
            return refused(index, None)
        named = {name: row[name] for name in self._labels if name in row}
        cleaned = self._cleaner.clean({name: value for name, value in row.items() if name not in named})
        if isinstance(cleaned, Rejection):
            return refused(index, cleaned)
        subject, known_at = cleaned
        assert isinstance(subject, int | str)  # an id is one of these and never missing
        if not named:
            expected = ", ".join(self._labels) or "none: the stream declares no labels"
            return Refused(index, "", None, Reason.MISSING, f"The row names no label; there are {expected}.")
        if isinstance(known_at, int) and known_at > limit:
            message = f"known_at is {format_span(known_at - now)} ahead of the clock here."
            return Refused(index, "known_at", row["known_at"], "AHEAD_OF_CLOCK", message)
        at = known_at if isinstance(known_at, int) else now
        labels = []
        for name, value in named.items():
            # A whole number of JSON may be beyond every float, for which isfinite would raise.
            if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
                message = f"{name} is {value!r:.80}, and a label is a number or a truth."
                return Refused(index, name, shown(value), Reason.WRONG_TYPE, message)
            if abs(value) >= GRID_LIMIT:
                message = f"{name} is {value!r:.80}: a label is less than {GRID_LIMIT} in absolute value."
                return Refused(index, name, shown(value), Reason.OUT_OF_GRID, message)
            labels.append(LabelRow(subject, self._labels[name], float(value), at))
        return labels
