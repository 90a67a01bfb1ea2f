"""Lines of requests: kept in files that are bounded, found again, and lost rather than waited for."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.haproxy import access_log
from skyriver.adapters.haproxy.access_log import FILE, SOCKET, AccessLog, Receiver, line_of
from skyriver.control.gateway_stage import wait_for
from skyriver.control.request_log import RequestQuery


def line(number: int, **others: Any) -> bytes:
    told = {
        "time": str(1_000_000_000 + 1_000_000 * number),
        "accepted": 999.0,
        "id": f"r{number}",
        "tenant": "acme",
        "of": "acme/model/fraud",
        "asks": "-",
        "method": "POST",
        "status": 200,
        "code": "-",
        "bytes_in": 10,
        "bytes_out": 20,
        "receive_ms": 0,
        "queue_ms": -1,
        "connect_ms": 0,
        "answer_ms": 3,
        "total_ms": 4,
        "server": "fraud-1:0a0b0c0d",
        "end": "--",
    }
    return json.dumps(told | others, separators=(",", ":")).encode() + b"\n"


def ids(log: AccessLog, **query: Any) -> list[str]:
    return [found["id"] for found in log.find(RequestQuery(**query))]


def test_a_line_is_read_as_it_is_told() -> None:
    read = line_of(line(1).strip())
    assert read is not None
    assert (read["of"], read["server"], read["code"], read["queue_ms"]) == ("model/fraud", "fraud-1", "", None)
    for text in (b"", b"Proxy way_in started.", line(1)[:50], b"{}", b'{"server":1}', b"{1}"):
        assert line_of(text) is None


@pytest.mark.parametrize(
    ("key", "part", "method", "of", "asks"),
    [
        ("acme/model/fraud", "-", "POST", "model/fraud", "predict"),
        ("acme/model/fraud", "-", "GET", "model/fraud", "look"),
        ("acme/stream/pay", "events", "POST", "stream/pay", "events"),
        ("acme/stream/pay", "-", "GET", "stream/pay", ""),
        ("-", "jobs", "GET", "control", "jobs"),
        ("-", "-", "<BADREQ>", "", ""),
    ],
)
def test_what_was_asked_is_told_by_its_name(key: str, part: str, method: str, of: str, asks: str) -> None:
    read = line_of(line(1, of=key, asks=part, method=method).strip())
    assert read is not None
    assert (read["of"], read["asks"]) == (of, asks)


def test_what_is_looked_for_is_found_newest_first(tmp_path: Path) -> None:
    log = AccessLog(tmp_path)
    log.write(line(1) + line(2, status=429, code="RATE_LIMITED") + b"Proxy way_in started.\n")
    log.write(line(3, tenant="globex") + line(4, of="acme/stream/pay", status=503) + line(5, status=500))
    assert ids(log) == ["r5", "r4", "r3", "r2", "r1"]
    assert ids(log, tenant="acme", limit=3) == ["r5", "r4", "r2"]
    assert ids(log, id="r4") == ["r4"]
    assert ids(log, id="r") == [], "no part of an id"
    assert ids(log, status=(500, 599)) == ["r5", "r4"]
    assert ids(log, status=(429, 429)) == ["r2"]
    assert ids(log, of="pay") == ids(log, of="stream/pay") == ["r4"]
    assert ids(log, of="model/pay") == []
    assert ids(log, since=1_003.0) == ["r5", "r4", "r3"]
    assert AccessLog(tmp_path / "nowhere").find(RequestQuery()) == []


def test_files_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    most = 10 * len(line(1))
    log = AccessLog(tmp_path, file_bytes=most, files=3)
    for number in range(1_000, 1_100):
        log.write(line(number))
    log.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert (len(sizes), max(sizes) <= most + 100) == (3, True)
    found = ids(log, limit=1_000)
    assert found == [f"r{number}" for number in reversed(range(1_100 - len(found), 1_100))]
    assert 18 <= len(found) <= 30
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_disk_that_is_full_loses_lines_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log, write = AccessLog(tmp_path), os.write
    log.write(line(1))

    def half(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2])

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for failing in (half, full, half):
        monkeypatch.setattr(os, "write", failing)
        log.write(line(2) + line(3))
    assert (log.lost, len(caplog.records)) == (6, 1), "told once"
    monkeypatch.setattr(os, "write", write)
    log.write(line(4))
    assert (ids(log), log.lost) == (["r4", "r1"], 0)
    assert "6 were not" in caplog.text


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(line(1) + line(2)[:40])
    log = AccessLog(tmp_path)
    log.write(line(3))
    assert ids(log) == ["r3", "r1"]
    (tmp_path / FILE).unlink()
    log.write(line(4))
    assert ids(log) == ["r4"], "a file that somebody removed is made again"


@contextlib.contextmanager
def receiving(folder: Path) -> Iterator[AccessLog]:
    log, over = AccessLog(folder), threading.Event()
    thread = threading.Thread(target=Receiver(folder, log).run, args=(over.wait,))
    thread.start()
    try:
        wait_for("it listens", lambda: listens(folder))
        yield log
    finally:
        over.set()
        thread.join(60)
        assert not thread.is_alive()


def listens(folder: Path) -> bool:
    try:
        connected(folder).close()
    except OSError:
        return False
    return True


def connected(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(folder / SOCKET))
    except OSError:
        connection.close()
        raise
    return connection


def test_lines_of_several_come_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "WAIT_SECONDS", 0.05)
    with receiving(tmp_path) as log, connected(tmp_path) as one, connected(tmp_path) as two:
        text = line(1)
        one.sendall(text[:30])
        two.sendall(line(2) + line(3)[:10])
        wait_for("a whole line is there", lambda: ids(log) == ["r2"])
        one.sendall(text[30:] + b"x" * 5_000)  # what has no end is dropped
        wait_for("the rest came", lambda: set(ids(log)) == {"r1", "r2"})
        two.close()
        one.sendall(b"\n" + b"".join(line(number) for number in range(10, 3_000)))
        wait_for("many came", lambda: len(ids(log, limit=5_000)) >= 2_991)
    with receiving(tmp_path) as log, connected(tmp_path) as again:
        again.sendall(line(9_999))
        wait_for("a new one goes on", lambda: ids(log, limit=1) == ["r9999"])
