"""`skyriver serve FILE`: one replica of one model file, without a cloud around it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from skyriver.core.errors import Conflict, InvalidInput
from skyriver.core.names import check_name
from skyriver.release.model_file import take_model
from skyriver.serve.example import curl_line
from skyriver.serve.listening import listen_tcp
from skyriver.serve.replica import ReplicaSettings, serve_replica
from skyriver.serve.runner import Runner
from skyriver.wiring.replica import load

VERSION = 1
INTERRUPTED = 130

Told = Callable[[Mapping[str, Any]], None]


def serve(file: Path, *, host: str, port: int, name: str, device: str, told: Told) -> None:
    """Answers until SIGINT or SIGTERM, then ends what runs; a second signal ends it at once. `told` is given what there
    is to know, once it answers. Raises SkyriverError where the file or the address is of no use."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    model = check_name(name or _name_of(file), "a model")
    listening = _listen(host, port)
    try:
        data, _ = take_model(file)
        cores = len(os.sched_getaffinity(0))
        settings = ReplicaSettings(model, VERSION, alone=True)
        runner, settings = load(data, settings, {"device": device, "cores": cores})
        size = len(data)
        del data
        gc.collect()
        gc.freeze()
        address = listening.getsockname()
        url = f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
        document = {
            "url": url,
            "model": model,
            "version": VERSION,
            "file": str(file),
            "bytes": size,
            "device": device,
            **runner.signature.to_json(),
            **(settings.calibration.to_json() if settings.calibration else {}),
            "curl": curl_line(url, model, runner.signature),
            "pid": os.getpid(),
        }
        cut = uvloop.run(_run(runner, settings, listening, lambda: told(document)))
    finally:
        listening.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends already
    if cut:  # a run that has no end would hold the exit up
        os._exit(0)


async def _run(runner: Runner, settings: ReplicaSettings, listening: socket.socket, answers: Callable[[], None]) -> int:
    stop = asyncio.Event()

    def end() -> None:
        if stop.is_set():  # asked for a second time
            os._exit(INTERRUPTED)
        stop.set()

    first = True

    def report(document: Mapping[str, object]) -> None:
        nonlocal first
        if document["ready"] and first:
            first = False
            answers()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    return await serve_replica(runner, settings, listening, stop=stop, report=report, report_s=3600.0)


def _name_of(file: Path) -> str:
    name = re.sub(r"[^a-z0-9_-]+", "-", file.stem.lower()).strip("-_")[:63]
    return name if name[:1].isalpha() else f"model-{name}".strip("-")[:63]


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listen_tcp(host, port)
    except Conflict as error:
        raise Conflict(
            error.message,
            code=error.code,
            next_action=f"Choose another port: `--port {port + 1}`, or `--port 0` for any that is free.",
        ) from error
    except OverflowError as error:
        raise InvalidInput(
            f"{port} is no port.", code="BAD_PORT", next_action="Choose one from 1 to 65535, or 0 for any that is free."
        ) from error
