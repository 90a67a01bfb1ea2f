"""The connection on which a replica reads features: bounded in time and room, whatever the worker does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from skyriver.core.errors import SkyriverError
from skyriver.serve.batching import NO_DEADLINE
from skyriver.serve.read_format import MOST_BYTES, MOST_ROWS, ReadAnswer
from skyriver.serve.reader import FeatureReader, FeaturesFound, Place

Found = FeaturesFound | SkyriverError
DIGEST = "d" * 64
WRONG = 666
"""No worker takes it."""


class Worker:
    """Answers one number a row, twice; `hold` keeps it from answering, `say` is another answer."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.bodies: list[Any] = []
        self.connections = 0
        self.held = asyncio.Event()
        self.held.set()
        self.say: tuple[int, bytes] | None = None
        self.close_after = 0
        """So many answers a connection; 0: it stays; -1: none."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 22)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.close()
        Path(self.path).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        answers = 0
        try:
            while not self.close_after or answers < self.close_after:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"content-length" in line)
                body = json.loads(await reader.readexactly(length))
                self.bodies.append(body)
                await self.held.wait()
                status, answer = self.say or self.answer(body["rows"])
                writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(answer), answer))
                answers += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    def answer(self, rows: list[Any]) -> tuple[int, bytes]:
        if any(row["n"] == WRONG for row in rows):
            return 422, json.dumps({"code": "OUT_OF_RANGE", "detail": "n is wrong.", "status": 422}).encode()
        numbers = np.array([[row["n"], row["n"] * 2] for row in rows], np.float32)
        known = np.array([row["n"] >= 0 for row in rows]).tobytes()
        return 200, msgspec.msgpack.encode(ReadAnswer(7, 1_000, ("customer",), [known], numbers.tobytes()))


class House:
    def __init__(self, worker: Worker, reader: FeatureReader) -> None:
        self.worker = worker
        self.reader = reader
        self.found: list[Found] = []

    def ask(self, *numbers: int, within_s: float | None = None, fill: str = "") -> int:
        """The place of its answer in `found`, where it stands once it was given."""
        place, rows = len(self.found), [json.dumps({"n": n, "fill": fill}).encode() for n in numbers]
        self.found.append(None)  # type: ignore[arg-type]
        until = NO_DEADLINE if within_s is None else time.perf_counter_ns() + int(within_s * 1e9)
        self.reader.ask(rows, until, lambda found: self._take(place, found))
        return place

    def _take(self, place: int, found: Found) -> None:
        assert self.found[place] is None, "it is answered once"
        self.found[place] = found

    async def until_told(self) -> None:
        async with asyncio.timeout(60):
            while None in self.found:
                await asyncio.sleep(0.001)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.001)

    def codes(self) -> list[str]:
        return [found.code if isinstance(found, SkyriverError) else "" for found in self.found]


def run(tmp_path: Path, test: Callable[[House], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        worker = Worker(tmp_path / "w.sock")
        await worker.start()
        place = Place("orders", worker.path, DIGEST)
        house = House(worker, FeatureReader(place, asyncio.get_running_loop(), **{"timeout_s": 60.0, **options}))
        await test(house)
        house.reader.close()
        await worker.stop()

    asyncio.run(main())


def values(found: Found) -> list[list[float]]:
    assert isinstance(found, FeaturesFound), found
    return found.features.tolist()  # type: ignore[no-any-return]


def test_what_waits_is_asked_in_one_body_over_one_connection(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.ask(1, -2)
        house.ask(3)
        await house.until_told()
        first, second = house.found
        assert (values(first), values(second)) == ([[1, 2], [-2, -4]], [[3, 6]])
        assert isinstance(first, FeaturesFound)
        assert (first.offset, first.age_us, first.unknown) == (7, 1_000, ("", "customer"))
        for n in range(5):
            house.ask(n)
            await house.until_told()
        assert [len(body["rows"]) for body in house.worker.bodies] == [3, 1, 1, 1, 1, 1]
        assert {body["features"] for body in house.worker.bodies} == {DIGEST}
        assert house.worker.connections == 1

    run(tmp_path, test)


def test_a_body_has_so_many_rows_and_bytes_and_one_is_under_way(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.worker.held.clear()
        house.ask(1)
        await house.until(lambda: len(house.worker.bodies) == 1)
        for n in range(MOST_ROWS + 10):
            house.ask(n)
        for n in range(3):
            house.ask(n, fill="x" * (MOST_BYTES // 2))
        await asyncio.sleep(0.01)
        assert len(house.worker.bodies) == 1
        house.worker.held.set()
        await house.until_told()
        assert [len(body["rows"]) for body in house.worker.bodies] == [1, MOST_ROWS, 10 + 1, 1, 1]
        assert house.codes() == [""] * len(house.found)

    run(tmp_path, test)


def test_more_than_may_wait_is_refused_at_once(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.worker.held.clear()
        house.ask(0)
        await house.until(lambda: len(house.worker.bodies) == 1)
        places = [house.ask(n) for n in range(12)]
        assert [house.codes()[place] for place in places] == [""] * 10 + ["OVERLOADED"] * 2
        house.worker.held.set()
        await house.until_told()
        assert house.codes().count("OVERLOADED") == 2

    run(tmp_path, test, limit=10)


def test_a_worker_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.ask(1)
        await house.until_told()
        house.worker.held.clear()
        began = time.monotonic()
        house.ask(2)
        await asyncio.sleep(0.01)
        house.ask(3)
        await house.until_told()
        assert house.codes() == ["", "STATE_AWAY", "STATE_AWAY"]
        assert 2.0 <= time.monotonic() - began < 30
        house.worker.held.set()
        house.ask(4)
        await house.until_told()
        assert values(house.found[3]) == [[4, 8]], "and not the late answer to those before"
        assert house.worker.connections == 2

    run(tmp_path, test, timeout_s=2.0)


def test_nobody_waits_beyond_their_own_deadline(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.worker.held.clear()
        house.ask(1, within_s=0.05)
        house.ask(2)
        house.ask(3, within_s=-1)
        assert house.codes()[2] == "DEADLINE_EXCEEDED"
        await house.until(lambda: house.codes()[0] == "DEADLINE_EXCEEDED")
        house.worker.held.set()
        await house.until_told()
        assert values(house.found[1]) == [[2, 4]], "the body goes on for the others"

    run(tmp_path, test)


def test_a_worker_that_is_away_is_told_and_found_again(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.ask(1)
        await house.until_told()
        await house.worker.stop()
        house.ask(2)
        await house.until_told()
        await house.worker.start()
        house.ask(3)
        await house.until_told()
        assert house.codes() == ["", "STATE_AWAY", ""]

    run(tmp_path, test)


def test_a_worker_that_was_never_started_is_away() -> None:
    async def main() -> None:
        house = House(None, FeatureReader(Place("orders", "", DIGEST), asyncio.get_running_loop()))  # type: ignore[arg-type]
        house.ask(1)
        await house.until_told()
        assert house.codes() == ["STATE_AWAY"]

    asyncio.run(main())


def test_a_worker_that_ends_each_connection_at_once_is_away(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.worker.close_after = -1
        for n in range(3):
            house.ask(n)
            await house.until_told()
        assert house.codes() == ["STATE_AWAY"] * 3
        house.worker.close_after = 0
        house.ask(3)
        await house.until_told()
        assert values(house.found[3]) == [[3, 6]]

    run(tmp_path, test)


def test_what_was_sent_on_a_connection_that_ended_idle_is_sent_once_more(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.worker.close_after = 1
        for n in range(4):
            house.ask(n)
            await house.until_told()
        assert house.codes() == [""] * 4

    run(tmp_path, test)


def test_what_the_worker_refuses_is_told_to_whom_it_is_the_fault_of(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        for n in (1, WRONG, 2):
            house.ask(n)
        await house.until_told()
        assert house.codes() == ["", "OUT_OF_RANGE", ""]
        assert (values(house.found[0]), values(house.found[2])) == ([[1, 2]], [[2, 4]])
        assert [len(body["rows"]) for body in house.worker.bodies] == [3, 1, 1, 1]

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (409, "FEATURES_NOT_BUILT", "FEATURES_NOT_BUILT"),
        (429, "READS_FULL", "OVERLOADED"),
        (503, "RECOVERING", "STATE_AWAY"),
        (500, "INTERNAL", "STATE_AWAY"),
        (404, "UNKNOWN_ROUTE", "STATE_AWAY"),
        (422, "OUT_OF_RANGE", "OUT_OF_RANGE"),
    ],
)
def test_what_the_worker_cannot_answer_is_a_state_that_cannot_be_read(
    tmp_path: Path, status: int, code: str, told: str
) -> None:
    async def test(house: House) -> None:
        house.worker.say = status, json.dumps({"code": code, "detail": "Why.", "status": status}).encode()
        house.ask(1)
        await house.until_told()
        (error,) = house.found
        assert isinstance(error, SkyriverError)
        assert (error.code, "Why." in error.message) == (told, True)
        assert error.http_status == (422 if status == 422 else 503)

    run(tmp_path, test)


@pytest.mark.parametrize("body", [b"", b"\x81", msgspec.msgpack.encode(ReadAnswer(1, 2, ("a",), [b"\x01"], b"123"))])
def test_an_answer_that_is_none_is_not_taken_for_one(tmp_path: Path, body: bytes) -> None:
    async def test(house: House) -> None:
        house.worker.say = 200, body
        house.ask(1)
        await house.until_told()
        assert house.codes() == ["STATE_AWAY"]

    run(tmp_path, test)


def test_a_stream_without_events_has_no_age(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        never = ReadAnswer(0, 1_700_000_000_000_000 + (1 << 62), ("customer",), [b"\x00"], np.zeros(2, "<f4").tobytes())
        house.worker.say = 200, msgspec.msgpack.encode(never)
        house.ask(1)
        await house.until_told()
        (found,) = house.found
        assert isinstance(found, FeaturesFound)
        assert found.age_us is None

    run(tmp_path, test)


def test_who_waits_when_it_is_closed_is_told(tmp_path: Path) -> None:
    async def test(house: House) -> None:
        house.worker.held.clear()
        house.ask(1)
        await house.until(lambda: len(house.worker.bodies) == 1)
        house.ask(2)
        house.reader.close()
        assert house.codes() == ["STATE_AWAY", "STATE_AWAY"]
        house.worker.held.set()

    run(tmp_path, test)
