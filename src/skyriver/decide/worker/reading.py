"""Features of rows as of now, by their keys, as replicas ask for them (see `skyriver.serve.read_format`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import StreamSpec
from skyriver.data.border import Rejection, RowCleaner
from skyriver.decide.log.records import Value
from skyriver.decide.partition.engine import AsOf
from skyriver.serve.read_format import MOST_ROWS, ReadAnswer


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    features: str
    rows: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=MOST_ROWS)]


class ReadBorder:
    def __init__(self, stream: StreamSpec) -> None:
        self._clean = RowCleaner([f.model_copy(update={"nullable": True}) for f in stream.fields]).clean
        self._decode = msgspec.json.Decoder(_Asked).decode

    def take(self, body: bytes) -> tuple[str, Sequence[Sequence[Value]]]:
        """Which features, and the rows. Raises InvalidInput (BAD_READ, or why a value is refused)."""
        try:
            asked = self._decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidInput(
                f"Features cannot be read so: {error}.",
                code="BAD_READ",
                next_action='Send {"features": digest, "rows": [...]}.',
            ) from error
        return asked.features, [self._row(number, row) for number, row in enumerate(asked.rows, 1)]

    def _row(self, number: int, row: dict[str, Any]) -> list[Value]:
        values = self._clean(row)
        if isinstance(values, Rejection):
            raise InvalidInput(
                f"Row {number}: {values.message}",
                code=values.reason.name,
                where=values.field,
                next_action="Send values as the stream's events have them.",
            )
        return values


def encode_as_of(found: AsOf, now: int) -> bytes:
    """`now` of the receiving clock."""
    read = found.read
    known = [of_key.tobytes() for of_key in read.known]
    features = read.features.astype("<f4", copy=False).tobytes()
    return msgspec.msgpack.encode(ReadAnswer(found.offset, now - found.time, read.keys, known, features))
