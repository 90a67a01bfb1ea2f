"""Senders that do everything wrong: each is refused with its reason, and the stream goes on."""

from __future__ import annotations

import json
import socket
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from worker_process import payment

NUMBERS = count(1_000_000)
PATH = "/streams/payments/events"
MSGPACK = {"content-type": "application/msgpack"}
LINES = {"content-type": "application/x-ndjson"}


def goes_on(worker: Any) -> None:
    """A good event of somebody else is decided."""
    with worker.connection() as other:
        status, answer = other.send_events(payment(next(NUMBERS)))
    assert (status, answer["accepted"], answer["decisions"][0]["status"]) == (200, 1, "decided")


def events(worker: Any) -> int:
    """How many were taken until now."""
    with worker.connection() as other:
        return int(other.ask("GET", "/streams/payments")[1]["events"])


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"colour": "red"}, "colour", "UNKNOWN_FIELD"),
        ({"amount": "12"}, "amount", "WRONG_TYPE"),
        ({"customer": 1.5}, "customer", "WRONG_TYPE"),
        ({"payment": True}, "payment", "WRONG_TYPE"),
        ({"customer": None}, "customer", "MISSING"),
        ({"amount": 1e9}, "amount", "OUT_OF_RANGE"),
        ({"customer": 2**70}, "customer", "OUT_OF_RANGE"),
        ({"channel": "a\0b"}, "channel", "BAD_TEXT"),
        ({"channel": "x" * 5000}, "channel", "TOO_LONG"),
        ({"at": "tomorrow"}, "at", "BAD_TIME"),
        ({"at": "2099-01-01T00:00:00Z"}, "at", "AHEAD_OF_CLOCK"),
    ],
)
@pytest.mark.parametrize("others", [0, 40])
def test_an_event_that_is_wrong_is_named_alone_and_among_good_ones(
    worker: Any, http: Any, change: dict[str, Any], field: str, reason: str, others: int
) -> None:
    rows = [payment(next(NUMBERS)) for _ in range(others)]
    rows.insert(others // 2, payment(next(NUMBERS)) | change)
    form, body = LINES, b"\n".join(map(msgspec.json.encode, rows))
    if change.get("customer") != 2**70:  # which MessagePack cannot say
        status, answer = http.ask("POST", PATH, msgspec.msgpack.encode(rows[others // 2 : others // 2 + 1]), MSGPACK)
        assert (status, answer["errors"][0]["field"], answer["errors"][0]["reason"]) == (422, field, reason)
    status, answer = http.ask("POST", PATH + "?wait=decision", body, form)
    refused = answer["rejected"] if others else answer["errors"]
    assert status == (200 if others else 422)
    assert [(r["index"], r["field"], r["reason"]) for r in refused] == [(others // 2, field, reason)]
    if others:
        assert answer["accepted"] == others
        assert [d is None for d in answer["decisions"]] == [row is rows[others // 2] for row in rows]
    goes_on(worker)


def test_a_missing_key_is_named(worker: Any, http: Any) -> None:
    rows = [payment(next(NUMBERS)) for _ in range(40)]
    del rows[3]["customer"]
    _, answer = http.ask("POST", PATH, b"\n".join(map(msgspec.json.encode, rows)), LINES)
    assert [(r["index"], r["field"], r["reason"]) for r in answer["rejected"]] == [(3, "customer", "MISSING")]
    goes_on(worker)


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b'[{"payment": 1', {}, "NOT_JSON"),
        (b'{"payment": 1, "channel": "\xff\xfe"}', {}, "NOT_JSON"),
        (b'{"channel": "\\ud800"}', {}, "NOT_JSON"),
        (b"[" * 100_000, {}, "NOT_JSON"),
        (b'{"payment": 1}\n{"payment"', LINES, "NOT_JSON"),
        (b"\xc1", MSGPACK, "NOT_MSGPACK"),
        (b"\x91" * 100_000 + b"\x01", MSGPACK, "NOT_MSGPACK"),
        (b"\x91\x81\xa1\xff\x01", MSGPACK, "NOT_MSGPACK"),
        (b"\x91\x81\xc0\x01", MSGPACK, "NOT_MSGPACK"),
        (msgspec.msgpack.encode([{"payment": msgspec.msgpack.Ext(5, b"x")}]), MSGPACK, "NOT_MSGPACK"),
        (b"\xdd\xff\xff\xff\xff\x80", MSGPACK, "NOT_MSGPACK"),
    ],
    ids=[
        *("cut", "utf-8", "surrogate", "deep", "cut line"),
        *("no msgpack", "deep msgpack", "bad text", "nil key", "extension", "four billion rows"),
    ],
)
def test_a_body_that_does_not_parse_is_refused_whole(
    worker: Any, http: Any, body: bytes, headers: dict[str, str], code: str
) -> None:
    before = events(worker)
    status, answer = http.ask("POST", PATH, body, headers)
    assert (status, answer["code"]) == (400, code)
    goes_on(worker)
    assert events(worker) == before + 1


def test_a_binary_batch_is_taken_as_its_json_is(worker: Any, http: Any) -> None:
    rows = [payment(next(NUMBERS)) for _ in range(100)]
    for part in (rows, rows[:3], [rows[0] | {"payment": next(NUMBERS), "amount": float("inf")}]):
        body = msgspec.msgpack.encode(part)
        status, answer = http.ask("POST", PATH + "?wait=decision", body, MSGPACK)
        if part is rows:
            assert (status, answer["accepted"]) == (200, 100)
            assert [d["id"] for d in answer["decisions"]] == [row["payment"] for row in rows]
            first = answer["decisions"]
        elif len(part) == 3:
            assert (answer["accepted"], answer["duplicates"], answer["decisions"]) == (0, 3, first[:3])
        else:
            assert (status, answer["errors"][0]["reason"]) == (422, "NOT_FINITE")


def test_a_refused_value_is_not_sent_back_whole(worker: Any, http: Any) -> None:
    for value in (b"x" * 1_000_000, "x" * 1_000_000, [1] * 100_000, {"a": "x" * 1_000_000}):
        body = msgspec.msgpack.encode([payment(next(NUMBERS)) | {"amount": value}])
        status, answer = http.ask("POST", PATH, body, MSGPACK)
        assert (status, answer["errors"][0]["reason"]) == (422, "WRONG_TYPE")
        assert len(json.dumps(answer)) < 2_000
    goes_on(worker)


def test_an_event_of_50_megabytes(worker: Any, http: Any) -> None:
    body = b'{"payment": 1, "channel": "' + b"x" * (50 << 20) + b'"}'
    status, answer = http.ask("POST", PATH, body)
    assert (status, answer["code"]) == (413, "BODY_TOO_LARGE")
    goes_on(worker)


def test_a_sender_that_stops_in_the_middle(worker: Any) -> None:
    """It holds up nobody, nothing of it is taken, and whoever goes on is served."""
    body = json.dumps(payment(next(NUMBERS))).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    waiting = connected(worker)
    gone = connected(worker)
    for sender in (waiting, gone):
        sender.sendall(head + body[:20])
    before = events(worker)
    goes_on(worker)
    gone.close()
    goes_on(worker)
    assert events(worker) == before + 2
    waiting.sendall(body[20:])
    assert waiting.recv(1000).startswith(b"HTTP/1.1 200")
    waiting.close()


def test_a_caller_that_does_not_read_its_answers(worker: Any) -> None:
    """Its answers wait in its own connection, of which no more is read; others do not notice."""
    slow = connected(worker)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    rows = [payment(next(NUMBERS)) for _ in range(500)]
    body = json.dumps(rows).encode()
    request = f"POST {PATH}?wait=decision HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    sent, deadline, stuck = 0, time.monotonic() + harness.DEADLINE, 0.0
    while stuck < 0.5:
        assert time.monotonic() < deadline
        begun = time.monotonic()
        try:
            sent += slow.send(request[sent % len(request) :])
            stuck = 0.0
        except BlockingIOError:
            time.sleep(0.01)
            stuck += time.monotonic() - begun
        assert sent < 100 * len(request), "it is read without end"
    goes_on(worker)
    slow.close()
    goes_on(worker)


def connected(worker: Any) -> socket.socket:
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sender.settimeout(harness.DEADLINE)
    sender.connect(str(worker.directory / "s"))
    return sender


def test_after_all_that_each_event_is_decided_once(worker: Any) -> None:
    goes_on(worker)
    assert worker.stop() == 0
    report = worker.verify(harness.reader(worker))
    assert (report.undecided, report.decided_twice, report.different) == (0, 0, 0)
    assert report.compared == report.decisions
