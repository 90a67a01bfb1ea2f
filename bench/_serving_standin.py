"""Servers that stand where replicas would and only wait: `_serving_standin.py SECONDS SOCKET...`

Each answers one request after the other, each after SECONDS of which it uses no core. SIGUSR1 makes the first one five
times slower. SIGTERM ends them; then it prints when each was asked, in seconds of the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import uvloop

from skyriver.serve.http import HttpServer, Request
from skyriver.serve.listening import listen_unix

SLOWER = 5


class Standin:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked: list[float] = []
        self._free = 0.0

    def handle(self, request: Request) -> None:
        if request.method == b"GET":
            request.answer(200, b'{"ready":true}')
            return
        now = time.monotonic()
        self.asked.append(round(now, 4))
        self._free = max(self._free, now) + self.seconds
        asyncio.get_running_loop().call_later(self._free - now, request.answer, 200, b"{}")

    def slow_down(self) -> None:
        self.seconds *= SLOWER


async def _serve(seconds: float, paths: list[str]) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    standins = [Standin(seconds) for _ in paths]
    servers = [HttpServer(standin.handle) for standin in standins]
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, standins[0].slow_down)
    for server, path in zip(servers, paths, strict=True):
        await server.start(listen_unix(Path(path)))
    await stop.wait()
    for server in servers:
        await server.stop(0.5)
    print(json.dumps([standin.asked for standin in standins]))


if __name__ == "__main__":
    uvloop.run(_serve(float(sys.argv[1]), sys.argv[2:]))
