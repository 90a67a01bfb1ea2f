"""The footer of a Parquet file: how many rows each of its row groups has. Polars reads the rows, and does not tell.

The format: https://parquet.apache.org/docs/file-format/ (the four bytes PAR1 and the footer's length end the file; the
footer is a structure of Thrift's compact protocol).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MAGIC: Final = b"PAR1"
_LARGEST: Final = 1 << 29
"""A footer of more bytes is none."""
_ROWS, _GROUPS, _ROWS_OF_GROUP = 3, 4, 3
"""Fields: `num_rows` and `row_groups` of the footer, `num_rows` of a row group."""


class NoFooter(Exception):
    """The file is none of Parquet, or is not whole; the text says why."""


@dataclass(frozen=True, slots=True)
class Footer:
    groups: tuple[int, ...]
    """Rows of each row group, in the file's order."""
    digest: str
    """SHA-256 of its bytes: those of the columns' statistics and places are among them."""


def read_footer(path: Path) -> Footer:
    """Raises NoFooter, OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 12:
            raise NoFooter("it is too short for a Parquet file")
        file.seek(size - 8)
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _MAGIC:
            raise NoFooter("it does not end as a Parquet file does: it was cut short, or is none")
        if length > min(size - 12, _LARGEST):
            raise NoFooter("its end tells of a footer that it has no room for")
        file.seek(size - 8 - length)
        data = file.read(length)
    try:
        fields = _Compact(data).struct()
        groups = tuple(int(group[_ROWS_OF_GROUP]) for group in fields.get(_GROUPS, []))
        rows = int(fields[_ROWS])
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise NoFooter("its footer cannot be read") from error
    if sum(groups) != rows or min(groups, default=0) < 0:
        raise NoFooter("its footer contradicts itself")
    return Footer(tuple(rows for rows in groups if rows), hashlib.sha256(data).hexdigest())


class _Compact:
    """Structures of Thrift's compact protocol, as {number of the field: value}."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        match kind:
            case 1 | 2:  # of a list
                return self._byte() == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._varint())
            case 9 | 10:
                head = self._byte()
                many = head >> 4 if head >> 4 != 15 else self._varint()
                return [self._value(head & 15) for _ in range(many)]
            case 11:
                many = self._varint()
                kinds = self._byte() if many else 0
                return [(self._value(kinds >> 4), self._value(kinds & 15)) for _ in range(many)]
            case 12:
                return self.struct()
            case _:
                raise ValueError(f"no kind {kind}")

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _bytes(self, many: int) -> bytes:
        found = self._data[self._at : self._at + many]
        if len(found) != many:
            raise IndexError
        self._at += many
        return found

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
