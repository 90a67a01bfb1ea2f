"""A stream's log: in files of this machine, or where the stream says."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from skyriver.adapters.segments.log import log_gone, open_log
from skyriver.adapters.segments.reader import SegmentReader
from skyriver.core.objects import IdentifiedObjects
from skyriver.core.spec import StreamSpec
from skyriver.data.log import Log, WholeReader
from skyriver.data.retention import Keep, TieredLog, segment_bytes
from skyriver.wiring.sources import read_access

_log = logging.getLogger(__name__)


class WorkerLog(Log, TieredLog, Protocol):
    """What a worker writes."""

    segment_bytes: int
    """How large a segment becomes before the next one begins."""

    def abandon(self) -> None:
        """Lets go of it as the end of the process would."""
        ...


def kept_as(stream: StreamSpec, live: Mapping[str, Any] | None) -> StreamSpec:
    """With the limits of its log that are declared now: they come with the live settings."""
    return stream.model_copy(update={limit: int(value) for limit, value in (live or {}).get("keep", {}).items()})


def keep_of(stream: StreamSpec) -> Keep:
    return Keep(stream.retention_us, stream.retention_bytes, stream.local_bytes)


def on_disk(stream: StreamSpec) -> bool:
    """Whether its log waits for a disk, and so in a thread."""
    return stream.durability == "disk" or stream.log is not None


def take_log(
    stream: StreamSpec,
    directory: Path,
    home: Path,
    tenant: str,
    *,
    holder: str,
    began: bool,
    tier: IdentifiedObjects | None,
) -> WorkerLog:
    """The log of the partition in `directory`, from whoever holds it. `began`: the control plane has seen it begin.

    Raises Unavailable (LOG_GONE) where the log of a stream that has begun is missing: a new one in its place would
    give old offsets to new events and decide known events again."""
    began = began or any((directory / "checkpoint").glob("*"))
    if stream.log is not None:
        from skyriver.adapters.nats.log import open_nats_log  # an extra

        place = stream.log
        return open_nats_log(
            place.url, place.name, lambda: read_access(place, home, tenant), holder=holder, began=began
        )
    if began and not any((directory / "log").glob("*.log")):
        raise log_gone(directory / "log", "is missing")
    log = open_log(
        directory / "log",
        durability=stream.durability,
        segment_bytes=segment_bytes(keep_of(stream), tier=tier is not None),
        holder=holder,
        take_over=True,
        tier=tier,
    )
    if log.torn is not None:
        _log.warning("the log's end was torn: %s", log.torn)
    return log


@contextmanager
def log_reader(
    stream: StreamSpec, directory: Path, home: Path, tenant: str, tier: IdentifiedObjects | None = None
) -> Iterator[WholeReader]:
    """`directory` is the partition's."""
    if stream.log is None:
        yield SegmentReader(directory / "log", tier)
        return
    from skyriver.adapters.nats.log import nats_reader  # an extra

    place = stream.log
    reader = nats_reader(place.url, place.name, lambda: read_access(place, home, tenant))
    try:
        yield reader
    finally:
        reader.close()
