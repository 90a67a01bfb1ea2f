"""Requests of many runs, in a replica on the test's own loop: others get their turns, and nothing runs for nobody."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import onnx.parser
import pytest
import uvloop

from skyriver.core.errors import Internal
from skyriver.serve.fields import MOST_RUNS
from skyriver.serve.listening import unix_listener
from skyriver.serve.replica import Replica, ReplicaSettings
from skyriver.serve.runner import Array, Runner, Tensors
from skyriver.serve.runs import RUNS_WAITING

MODEL = onnx.parser.parse_model(
    """<ir_version: 10, opset_import: ["" : 21]> one (float[1, 2] x) => (float[1, 2] y) { y = Add(x, x) }"""
).SerializeToString()


class Counting(Runner):
    """Runs on the thread, one after the other, when `gate` is open; fails on a -13."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(MODEL)
        self.runs = 0

    def run(self, inputs: Tensors) -> dict[str, Array]:
        assert self.gate.wait(60)
        self.runs += 1
        if (inputs["x"] == -13).any():
            raise Internal("thirteen", code="MODEL_FAILED")
        return super().run(inputs)

    def expected_us(self, rows: int) -> float:
        return 1e9 if rows else 0.0


class Client:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def send(self, document: Any) -> asyncio.StreamReader:
        body = json.dumps(document).encode()
        self.reader, self.writer = await asyncio.open_unix_connection(str(self.path))
        self.writer.write(b"POST /predict HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        return self.reader

    async def answer(self) -> tuple[int, Any]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(line.split(": ")[1]) for line in head if line.startswith("content-length"))
        body = await self.reader.readexactly(length)
        self.writer.close()
        return int(head[0].split()[1]), json.loads(body)


def play(folder: Path, scene: Callable[[Counting, Replica, Callable[[], Client]], Awaitable[None]]) -> None:
    async def main() -> None:
        runner = Counting()
        replica = Replica(runner, ReplicaSettings("sums", 1, grace_s=1.0))
        with unix_listener(folder / "socket") as listening:
            await replica.start(listening)
            try:
                await asyncio.wait_for(scene(runner, replica, lambda: Client(folder / "socket")), 60)
            finally:
                runner.gate.set()
                await replica.stop()

    uvloop.run(main())


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not within 20 s"
        await asyncio.sleep(0.002)


def rows(*values: float) -> dict[str, Any]:
    return {"rows": [{"x": [value, value]} for value in values]}


def test_its_answers_are_in_order_and_others_get_their_turns(tmp_path: Path) -> None:
    async def scene(runner: Counting, replica: Replica, client: Callable[[], Client]) -> None:
        runner.gate.clear()
        many, other = client(), client()
        await many.send(rows(*range(500)))
        await until(lambda: replica._batcher.waiting == RUNS_WAITING - 1)
        await other.send({"x": [7, 7]})
        await until(lambda: replica._batcher.waiting == RUNS_WAITING)
        runner.gate.set()
        assert (await other.answer())[1]["y"] == [14, 14]
        ahead = runner.runs
        status, told = await many.answer()
        assert (status, [one["y"][0] for one in told["predictions"]]) == (200, [2 * value for value in range(500)])
        assert ahead < 250
        assert runner.runs == 501

    play(tmp_path, scene)


@pytest.mark.parametrize("leave", ["close", "abort"])
def test_when_its_client_leaves_no_more_is_run(tmp_path: Path, leave: str) -> None:
    async def scene(runner: Counting, replica: Replica, client: Callable[[], Client]) -> None:
        runner.gate.clear()
        many, single, other = client(), client(), client()
        await many.send(rows(*range(500)))
        await single.send({"x": [1, 1]})
        await until(lambda: replica._batcher.waiting == RUNS_WAITING)
        for leaving in (many, single):
            getattr(leaving.writer if leave == "close" else leaving.writer.transport, leave)()
        await until(lambda: replica._batcher.waiting == 0)
        assert replica._server.bodies == 0
        runner.gate.set()
        await other.send({"x": [7, 7]})
        assert (await other.answer())[0] == 200
        assert runner.runs == 2  # the one that was under way, and the other's

    play(tmp_path, scene)


def test_its_first_error_ends_it(tmp_path: Path) -> None:
    async def scene(runner: Counting, replica: Replica, client: Callable[[], Client]) -> None:
        many, other = client(), client()
        await many.send(rows(1, -13, *range(100)))
        status, told = await many.answer()
        assert (status, told["code"]) == (500, "MODEL_FAILED")
        await until(lambda: replica._batcher.waiting == 0)
        await other.send({"x": [7, 7]})
        assert (await other.answer())[0] == 200
        assert runner.runs <= 2 + RUNS_WAITING
        assert replica._batcher._rows == 0

    play(tmp_path, scene)


def test_more_rows_than_may_wait_are_refused(tmp_path: Path) -> None:
    async def scene(runner: Counting, replica: Replica, client: Callable[[], Client]) -> None:
        at_most, more = client(), client()
        await more.send(rows(*range(MOST_RUNS + 1)))
        status, told = await more.answer()
        assert (status, told["code"], told["status"]) == (413, "TOO_MANY_ROWS", 413)
        assert "at most 1024 of them, not 1025" in told["detail"]
        assert "`skyriver predict sums FILE`" in told["next_action"]
        assert runner.runs == 0
        await at_most.send(rows(*range(MOST_RUNS)))
        assert (await at_most.answer())[0] == 200

    play(tmp_path, scene)
