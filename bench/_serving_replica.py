"""One replica of the product on a port, without a cloud: `_serving_replica.py MODEL.onnx NAME PORT`."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from pathlib import Path

import uvloop

from skyriver.serve.listening import listen_tcp
from skyriver.serve.replica import ReplicaSettings, serve_replica
from skyriver.serve.runner import Runner


async def _serve(runner: Runner, settings: ReplicaSettings, listening: socket.socket) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve_replica(runner, settings, listening, stop=stop)


def main() -> None:
    path, name, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    runner = Runner(path.read_bytes())
    runner.warm_up()
    gc.collect()
    gc.freeze()
    uvloop.run(_serve(runner, ReplicaSettings(name, 1), listen_tcp("127.0.0.1", port)))


if __name__ == "__main__":
    main()
