"""A stream's log in NATS JetStream against the log in files, at the same durability, in the same run.

    python bench/nats_log.py [--quick]

The server is the one of the tests: on this machine, over TCP, `sync_interval: always`. A batch is appended and synced;
then all of it is read. Beside it stands what the disk does: as many bytes and their fdatasync. Prints one JSON
document; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _document import Document

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from broker_servers import NatsServer

from skyriver.adapters.nats.log import nats_reader, open_nats_log
from skyriver.adapters.segments.log import open_log
from skyriver.adapters.segments.reader import SegmentReader
from skyriver.data.log import LogReader, Record, RecordKind
from skyriver.decide.worker.sources import Access

CASES = ((1, 200), (1, 11_600), (100, 200), (100, 11_600))
"""Records of a batch, and bytes of each."""


def batches(write: Callable[[list[Record]], None], records: list[Record], seconds: float) -> tuple[int, float, float]:
    """(batches, median and 99th percentile of one, ms)."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        write(records)
        took.append((time.perf_counter() - begin) * 1e3)
    took.sort()
    return len(took), statistics.median(took), took[int(len(took) * 0.99)]


def measure(document: Document, server: NatsServer, folder: Path, count: int, size: int, seconds: float) -> None:
    case = f"{count} x {size} bytes"
    records = [Record(RecordKind.EVENT, number, os.urandom(size)) for number in range(count)]
    bare = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)

    def write_bare(given: list[Record]) -> None:
        os.write(bare, b"".join(record.payload for record in given))
        os.fdatasync(bare)

    def access() -> Access:
        return Access(monitor=f"http://127.0.0.1:{server.monitor}")

    name = f"bench-{count}-{size}"
    directory = folder / name
    logs: dict[str, Any] = {
        "files": open_log(directory, durability="disk", holder="bench"),
        "nats": open_nats_log(server.url, name, access, holder="bench"),
    }
    readers: dict[str, LogReader] = {"files": SegmentReader(directory), "nats": nats_reader(server.url, name, access)}
    found: dict[str, tuple[float, float]] = {}
    done, median, p99 = batches(write_bare, records, seconds)
    document.row("write and fdatasync", case, batches=done, p50_ms=round(median, 3), p99_ms=round(p99, 3))
    os.close(bare)
    for system, log in logs.items():

        def write(given: list[Record], log: Any = log) -> None:
            log.append(given)
            log.sync()

        cpu = time.process_time()
        done, median, p99 = batches(write, records, seconds)
        cpu_us = (time.process_time() - cpu) / (done * count) * 1e6
        log.close()
        begin = time.perf_counter()
        read = sum(1 for _ in readers[system].read())
        rate = read / (time.perf_counter() - begin)
        assert read == done * count
        found[system] = (median, rate)
        document.row(
            system,
            case,
            batches=done,
            p50_ms=round(median, 3),
            p99_ms=round(p99, 3),
            records_per_second=round(done * count / seconds),
            client_cpu_us_per_record=round(cpu_us, 2),
            read_per_second=round(rate),
        )
    readers["nats"].close()  # type: ignore[attr-defined]
    (slow, slow_read), (fast, fast_read) = found["nats"], found["files"]
    document.row("nats to files", case, batch_time=round(slow / fast, 2), read_rate=round(slow_read / fast_read, 3))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a second for each figure instead of five")
    seconds = 1.0 if parser.parse_args().quick else 5.0
    document = Document("nats_log", ())
    server = NatsServer(mqtt=False)
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for count, size in CASES:
                measure(document, server, Path(folder), count, size, seconds)
    finally:
        server.close()
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
