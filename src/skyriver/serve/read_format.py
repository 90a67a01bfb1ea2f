"""What a replica asks of a stream's worker, and is answered: features of rows as of now, by their keys.

Asked as JSON {"features": digest, "rows": [{field: value}, ...]}: fields of the event that are not given are missing.
Answered as MessagePack, for features may be NaN and infinite and MUST come as they are, bit for bit.
"""

from __future__ import annotations

import msgspec

READ_PATH = b"/internal/features"
MOST_ROWS = 64
"""Of a body, and of what one turn of the worker reads: decisions wait for no more."""
MOST_BYTES = 1 << 20
"""Of a body: it is read on the thread that decides."""


class ReadAnswer(msgspec.Struct):
    """offset, age_us: of the record that the features are as of, and how long ago the last event up to it was. keys:
    fields of keys; known: of each key, a byte a row, whether it has an event in some window. features: float32,
    little endian, row by row."""

    offset: int
    age_us: int
    keys: tuple[str, ...]
    known: list[bytes]
    features: bytes
