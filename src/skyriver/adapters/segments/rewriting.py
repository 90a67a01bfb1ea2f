"""A closed segment once more, with other payloads: the same header, frames with the same places, a new seal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from skyriver.adapters.segments.layout import (
    SEGMENT_HEADER_BYTES,
    TAG_OF_KIND,
    SegmentHeader,
    SparseIndex,
    pack_frame,
    pack_seal,
)
from skyriver.data.log import Record
from skyriver.data.retention import Changed

_FLUSH_BYTES = 1 << 20


def write_changed(path: Path, header: SegmentHeader, records: Iterable[Record], changed: Changed) -> int:
    """Writes `records`, all of a segment, into a new file at `path`, which is on the disk then; returns how many have
    another payload. Where none has, or it fails, there is no file. Raises OSError."""
    count, index, position = 0, SparseIndex(header.base), SEGMENT_HEADER_BYTES
    time, offset = 0, header.base
    buffer = bytearray(header.pack())
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for record in records:
            payload = changed(record)
            if payload is not None and payload != record.payload:
                record = replace(record, payload=payload)
                count += 1
            index.note(record.offset, position)
            # All of it is on the disk before it has a name that counts: nobody will ask how far back that was known.
            frame = pack_frame(
                TAG_OF_KIND[record.kind],
                record,
                record.offset,
                record.epoch,
                position - SEGMENT_HEADER_BYTES,
                header.seed,
            )
            buffer += frame
            position += len(frame)
            time, offset = record.time, record.offset + record.count
            if len(buffer) > _FLUSH_BYTES:
                _write(fd, buffer)
                buffer.clear()
        if count:
            buffer += pack_seal(index, time, offset, header.epoch, header.seed)
            _write(fd, buffer)
            os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(fd)
    if not count:
        path.unlink()
    return count


def _write(fd: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    view.release()
